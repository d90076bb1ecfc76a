//! Reads typed parameters out of a query string or form body, collecting every fault by name.
//!
//! Decoding is strict: bad percent-encoding, text that is not UTF-8 and a name sent twice are
//! refused, because two readers could each see another request.

use crate::api::failure::Failure;
use crate::api::fields::{Faults, text_problem};
use http::Uri;
use std::fmt;
use std::ops::RangeInclusive;

/// Parameters one request may have.
const PARAMETERS_MAX: usize = 64;
/// Characters of a caller's own name that an answer repeats.
const NAME_SHOWN_MAX: usize = 64;

/// Decoded parameters, each name once. `Debug` shows names only: values may be secrets.
#[derive(Clone, Default)]
pub(crate) struct Query {
    parameters: Vec<(String, String)>,
}

impl fmt::Debug for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parameters.iter().map(|(name, _)| name)).finish()
    }
}

impl Query {
    /// The parameters of `uri`.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub(crate) fn of_uri(uri: &Uri) -> Result<Self, Failure> {
        Self::parse(uri.query().unwrap_or_default().as_bytes())
    }

    /// The parameters of `text`, written as `application/x-www-form-urlencoded`: `name=value`
    /// joined with `&`, where `+` is a space.
    ///
    /// # Errors
    /// Bad percent-encoding, text that is not UTF-8, a repeated name, too many parameters.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Failure> {
        let mut query = Self::default();
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(halves.next().unwrap_or_default())
                .ok_or_else(|| Failure::field("query", "has a name that is not encoded UTF-8"))?;
            let shown = shown(&name);
            let value = decode(halves.next().unwrap_or_default())
                .ok_or_else(|| Failure::field(&shown, "is not percent-encoded UTF-8"))?;
            if query.get(&name).is_some() {
                return Err(Failure::field(&shown, "is there more than once"));
            }
            if query.parameters.len() == PARAMETERS_MAX {
                let problem = format!("has more than {PARAMETERS_MAX} parameters");
                return Err(Failure::field("query", problem));
            }
            query.parameters.push((name, value));
        }
        Ok(query)
    }

    /// The value of `name` as it was sent. An empty value is there.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Faults every parameter that is not in `known`, for operations with a closed list.
    pub(crate) fn only(&self, known: &[&str], faults: &mut Faults) {
        for (name, _) in self.parameters.iter().filter(|(name, _)| !known.contains(&name.as_str()))
        {
            faults.add(shown(name), "is not a known parameter");
        }
    }

    /// Text of at most `max` characters without control characters other than line breaks.
    pub(crate) fn text(&self, name: &str, max: usize, faults: &mut Faults) -> Option<&str> {
        let value = self.get(name)?;
        match text_problem(value, max) {
            None => Some(value),
            Some(problem) => {
                faults.add(name, problem);
                None
            }
        }
    }

    /// A whole decimal number within `range`: `i32`, `i64`, or any type that widens into `i64`.
    pub(crate) fn integer<T>(
        &self,
        name: &str,
        range: RangeInclusive<T>,
        faults: &mut Faults,
    ) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let value = self.get(name)?;
        let number = decimal(value).and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            faults.add(name, format!("must be an integer from {low} to {high}"));
        }
        number
    }

    /// As [`Query::integer`]; an absent parameter is a fault.
    pub(crate) fn required_integer<T>(
        &self,
        name: &str,
        range: RangeInclusive<T>,
        faults: &mut Faults,
    ) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        if self.get(name).is_none() {
            faults.add(name, "is required");
        }
        self.integer(name, range, faults)
    }

    /// `true` or `false`, in any case: some clients print theirs as `True`.
    pub(crate) fn boolean(&self, name: &str, faults: &mut Faults) -> Option<bool> {
        let value = self.get(name)?;
        let is = |word: &str| value.eq_ignore_ascii_case(word);
        match (is("true"), is("false")) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => {
                faults.add(name, "must be true or false");
                None
            }
        }
    }

    /// One of `choices`, in exactly their spelling; answers what it stands for.
    pub(crate) fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let value = self.get(name)?;
        let found = choices.iter().find(|(spelling, _)| *spelling == value).map(|(_, is)| *is);
        if found.is_none() {
            let known: Vec<_> = choices.iter().map(|(spelling, _)| *spelling).collect();
            faults.add(name, format!("must be one of {}", known.join(", ")));
        }
        found
    }
}

/// What is left of a name chosen by the caller when an answer repeats it.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_SHOWN_MAX).collect()
}

/// Decodes one name or value; `None` if it is not percent-encoded UTF-8.
pub(crate) fn decode(encoded: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|d| char::from(*d).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high << 4 | low).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Digits with at most a minus before them; `parse` alone would also take a plus.
fn decimal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_decimal { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::failure::FailureClass;
    use proptest::prelude::*;

    fn query(text: &str) -> Query {
        Query::parse(text.as_bytes()).expect("a good query")
    }

    #[test]
    fn decodes_names_and_values_and_keeps_the_empty_ones() {
        let query = query("a=1&b=x%20y+z&c&d=&%C3%A9=%2B%3D&&e=a=b");
        for (name, value) in
            [("a", "1"), ("b", "x y z"), ("c", ""), ("d", ""), ("é", "+="), ("e", "a=b")]
        {
            assert_eq!(query.get(name), Some(value), "{name}");
        }
        assert_eq!(query.get("f"), None);
        let uri = Uri::from_static("http://x/y?page=3#z");
        assert_eq!(Query::of_uri(&uri).unwrap().get("page"), Some("3"));
        assert_eq!(Query::of_uri(&Uri::from_static("/y")).unwrap().get("page"), None);
    }

    #[test]
    fn a_spelling_that_two_readers_could_differ_on_is_refused() {
        for bad in ["a=%", "a=%2", "a=%zz", "a=%ff", "a=%C3", "%80=1", "a=1&a=1", "a=1&%61=2"] {
            let failure = Query::parse(bad.as_bytes()).expect_err(bad);
            assert_eq!(failure.class, FailureClass::Invalid, "{bad}");
        }
        let many: Vec<_> = (0..=PARAMETERS_MAX).map(|i| format!("p{i}=1")).collect();
        Query::parse(many.join("&").as_bytes()).expect_err("too many");
        Query::parse(many[1..].join("&").as_bytes()).expect("as many as there may be");
    }

    #[test]
    fn numbers_are_decimal_and_in_range() {
        let query =
            query("a=0&b=-5&c=1000&d=1001&e=%2B5&f=&g=1.0&h=0x1&i=9223372036854775807&j= 1");
        let mut faults = Faults::default();
        assert_eq!(query.integer("a", 0..=i32::MAX, &mut faults), Some(0));
        assert_eq!(query.integer("b", i64::MIN..=0, &mut faults), Some(-5));
        assert_eq!(query.integer("c", 1..=1000_u32, &mut faults), Some(1000));
        assert_eq!(query.integer("i", 1..=i64::MAX, &mut faults), Some(i64::MAX));
        assert_eq!(query.integer("absent", 1..=5, &mut faults), None);
        faults.into_result().expect("all good");
        for name in ["d", "e", "f", "g", "h", "i", "j"] {
            let mut faults = Faults::default();
            assert_eq!(query.integer(name, 1..=1000_i32, &mut faults), None, "{name}");
            assert!(faults.concern(name), "{name}");
        }
        let mut faults = Faults::default();
        query.required_integer("absent", 1..=i64::MAX, &mut faults);
        assert!(faults.concern("absent"));
    }

    #[test]
    fn words_are_true_or_false_or_one_of_the_listed() {
        let query = query("a=true&b=False&c=1&d=&o=ASC&p=asc&t=%C3%A9%C3%A9%C3%A9&n=a%00b");
        let mut faults = Faults::default();
        assert_eq!(query.boolean("a", &mut faults), Some(true));
        assert_eq!(query.boolean("b", &mut faults), Some(false));
        assert_eq!(query.choice("o", &[("ASC", 1), ("DESC", 2)], &mut faults), Some(1));
        assert_eq!(query.text("t", 3, &mut faults), Some("ééé"));
        faults.into_result().expect("all good");
        let mut faults = Faults::default();
        query.boolean("c", &mut faults);
        query.boolean("d", &mut faults);
        query.choice("p", &[("ASC", 1)], &mut faults);
        query.text("t", 2, &mut faults);
        query.text("n", 9, &mut faults);
        query.only(&["a", "b", "c", "d", "p", "t", "n"], &mut faults);
        let failure = faults.into_result().expect_err("faults");
        let paths: Vec<_> = failure.fields.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["c", "d", "p", "t", "n", "o"]);
    }

    proptest! {
        #[test]
        fn reads_what_others_write(
            pairs in prop::collection::btree_map("[^\\x00]{0,8}", ".{0,16}", 0..8),
        ) {
            let text = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(&pairs)
                .finish();
            let read = query(&text);
            for (name, value) in &pairs {
                prop_assert_eq!(read.get(name), Some(value.as_str()));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            Query::parse(&bytes).ok();
        }
    }

    #[test]
    fn debug_never_shows_a_value() {
        let shown = format!("{:?}", query("client_secret=hunter2&page=1"));
        assert!(shown.contains("client_secret") && !shown.contains("hunter2"), "{shown}");
    }
}
