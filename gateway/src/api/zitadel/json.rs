//! Protobuf as JSON, as grpc-gateway reads and writes it with the product's options.
//!
//! In: both spellings of a name, `null` is the default, unknown members are dropped. Out: lower
//! camel case, members with default values are left out, 64-bit integers are strings.

use super::answer::Answer;
use super::fault::Fault;
use super::proto::{MessageCustomText, NotificationPolicy, ObjectDetails, Org, Timestamp};
use crate::api::json;
use serde_json::{Map, Value};

/// The members of a request.
#[derive(Debug, Default)]
pub(super) struct Members(Map<String, Value>);

impl Members {
    /// Reads a body; nothing at all is a message without members.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        match json::parse(body).map_err(|fault| Fault::invalid(fault.to_string()))? {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(Fault::invalid("the body must be a JSON object")),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<bool, Fault> {
        match self.get(name)? {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(wrong_type("bool", name)),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<String, Fault> {
        match self.get(name)? {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(wrong_type("string", name)),
        }
    }

    /// The member with the field's name, in either spelling, if it is there and not null.
    fn get(&self, name: &str) -> Result<Option<&Value>, Fault> {
        let camel = camel_case(name);
        let (plain, camel_cased) = (self.0.get(name), self.0.get(&camel));
        if camel != name && plain.is_some() && camel_cased.is_some() {
            return Err(Fault::invalid(format!("{camel} is there twice")));
        }
        Ok(camel_cased.or(plain).filter(|value| !value.is_null()))
    }
}

fn wrong_type(wanted: &str, name: &str) -> Fault {
    Fault::invalid(format!("invalid value for {wanted} field {}", camel_case(name)))
}

/// `password_change` as `passwordChange`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

/// An answer as JSON.
pub(super) fn print(answer: &Answer) -> Value {
    let mut body = Object::default();
    match answer {
        Answer::Empty => {}
        Answer::Details(details) => body.put("details", print_details(details)),
        Answer::Policy(policy) => body.put("policy", print_policy(policy)),
        Answer::Text(text) => body.put("customText", print_text(text)),
        Answer::Org(org) => body.put("org", print_org(org)),
    }
    body.into_value()
}

/// An object without members of default value.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.put(name, text.into());
        }
    }

    fn boolean(&mut self, name: &str, value: bool) {
        if value {
            self.put(name, value.into());
        }
    }

    fn details(&mut self, details: Option<&ObjectDetails>) {
        if let Some(details) = details {
            self.put("details", print_details(details));
        }
    }

    fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

fn print_details(details: &ObjectDetails) -> Value {
    let mut object = Object::default();
    if details.sequence > 0 {
        object.put("sequence", details.sequence.to_string().into());
    }
    for (name, at) in [("creationDate", details.creation_date), ("changeDate", details.change_date)]
    {
        if let Some(at) = at {
            object.put(name, print_time(at).into());
        }
    }
    object.text("resourceOwner", &details.resource_owner);
    object.into_value()
}

fn print_policy(policy: &NotificationPolicy) -> Value {
    let mut object = Object::default();
    object.details(policy.details.as_ref());
    object.boolean("isDefault", policy.is_default);
    object.boolean("passwordChange", policy.password_change);
    object.into_value()
}

fn print_text(text: &MessageCustomText) -> Value {
    let mut object = Object::default();
    object.details(text.details.as_ref());
    object.text("title", &text.title);
    object.text("preHeader", &text.pre_header);
    object.text("subject", &text.subject);
    object.text("greeting", &text.greeting);
    object.text("text", &text.text);
    object.text("buttonText", &text.button_text);
    object.text("footerText", &text.footer_text);
    object.boolean("isDefault", text.is_default);
    object.into_value()
}

fn print_org(org: &Org) -> Value {
    let mut object = Object::default();
    object.text("id", &org.id);
    object.details(org.details.as_ref());
    if org.state == super::proto::ORG_STATE_ACTIVE {
        object.put("state", "ORG_STATE_ACTIVE".into());
    }
    object.text("name", &org.name);
    object.text("primaryDomain", &org.primary_domain);
    object.into_value()
}

/// RFC 3339 in UTC with 0, 3, 6 or 9 fraction digits.
fn print_time(at: Timestamp) -> String {
    let digits = match at.nanos {
        0 => 0,
        nanos if nanos % 1_000_000 == 0 => 3,
        nanos if nanos % 1_000 == 0 => 6,
        _ => 9,
    };
    jiff::Timestamp::new(at.seconds, at.nanos)
        .map_or_else(|_| String::from("9999-12-31T23:59:59Z"), |time| format!("{time:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_null_and_unknown_members_are_read_as_protobuf_json() {
        let read = |body: &str| Members::parse(body.as_bytes())?.boolean("password_change");
        for (body, value) in [
            ("", false),
            (" \r\n", false),
            ("{}", false),
            (r#"{"passwordChange":true}"#, true),
            (r#"{"password_change":true}"#, true),
            (r#"{"passwordChange":null}"#, false),
            (r#"{"passwordChange":false}"#, false),
            (r#"{"passwordchange":true,"PasswordChange":7,"x":{"y":[1]}}"#, false),
        ] {
            assert_eq!(read(body), Ok(value), "{body}");
        }
        for body in [
            "null",
            "[]",
            "true",
            "{",
            r#"{"passwordChange":true}x"#,
            r#"{"passwordChange":"true"}"#,
            r#"{"passwordChange":1}"#,
            r#"{"passwordChange":[true]}"#,
            r#"{"passwordChange":{}}"#,
            r#"{"passwordChange":true,"passwordChange":true}"#,
            r#"{"passwordChange":true,"password_change":true}"#,
            r#"{"x":{"y":1,"y":2}}"#,
        ] {
            assert_eq!(read(body).expect_err(body).code.number(), 3, "{body}");
        }
    }

    #[test]
    fn what_has_its_default_value_is_left_out() {
        let details = ObjectDetails {
            sequence: 2,
            creation_date: Some(Timestamp { seconds: 1_742_554_252, nanos: 804_000_000 }),
            change_date: None,
            resource_owner: String::from("69629023906488334"),
        };
        assert_eq!(
            print(&Answer::Details(details.clone())),
            json!({"details": {"sequence": "2", "creationDate": "2025-03-21T10:50:52.804Z",
                "resourceOwner": "69629023906488334"}})
        );
        let mut policy = NotificationPolicy { details: Some(details), ..Default::default() };
        let printed = print(&Answer::Policy(policy.clone()));
        assert_eq!(printed["policy"].as_object().map(Map::len), Some(1));
        policy.is_default = true;
        policy.password_change = true;
        let printed = print(&Answer::Policy(policy));
        assert_eq!(printed["policy"]["isDefault"], true);
        assert_eq!(printed["policy"]["passwordChange"], true);
        assert_eq!(print(&Answer::Empty), json!({}));
        assert_eq!(print(&Answer::Details(ObjectDetails::default())), json!({"details": {}}));
    }

    #[test]
    fn times_have_as_many_fraction_digits_as_they_need() {
        let print = |nanos| print_time(Timestamp { seconds: 0, nanos });
        assert_eq!(print(0), "1970-01-01T00:00:00Z");
        assert_eq!(print(120_000_000), "1970-01-01T00:00:00.120Z");
        assert_eq!(print(1_000), "1970-01-01T00:00:00.000001Z");
        assert_eq!(print(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(print_time(Timestamp { seconds: i64::MAX, nanos: 0 }), "9999-12-31T23:59:59Z");
    }
}
