//! The languages a message can be in, and the words that are there before anybody sets others.

use crate::model::MessageText;

/// Languages an organization can have words for: those the product knows.
const KNOWN: [&str; 22] = [
    "ar", "bg", "cs", "de", "en", "es", "fr", "hu", "id", "it", "ja", "ko", "mk", "nl", "pl", "pt",
    "ro", "ru", "sv", "tr", "uk", "zh",
];

/// What is spoken where nothing better is known.
pub(super) const FALLBACK: Language = Language("en");

/// A known language, without region or script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Language(&'static str);

impl Language {
    /// The language called `text`, without regard to case.
    pub(super) fn named(text: &str) -> Option<Self> {
        KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(text)).map(Self)
    }

    /// The language of a tag such as `de-CH` or `pt_BR`.
    pub(super) fn of_tag(tag: &str) -> Option<Self> {
        Self::named(tag.split(['-', '_']).next().unwrap_or_default())
    }

    pub(super) fn as_str(self) -> &'static str {
        self.0
    }
}

/// The seven texts of a message; empty ones fall back to the default's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) title: String,
    pub(super) pre_header: String,
    pub(super) subject: String,
    pub(super) greeting: String,
    pub(super) text: String,
    pub(super) button_text: String,
    pub(super) footer_text: String,
}

impl Slots {
    /// The words for `language`, where there are any.
    pub(super) fn built_in(language: Language) -> Option<Self> {
        let [title, pre_header, greeting, text, button_text, footer_text] = match language.0 {
            "en" => [
                "Your password was changed",
                "Somebody set a new password for your account",
                "Hello {{.DisplayName}},",
                "your account has a new password. If you did not ask for that, set another one now \
                 and tell whoever looks after your account.",
                "Sign in",
                "You get this message because your organization informs you of password changes.",
            ],
            "de" => [
                "Dein Passwort wurde geändert",
                "Für dein Konto wurde ein neues Passwort gesetzt",
                "Hallo {{.DisplayName}},",
                "dein Konto hat ein neues Passwort. Wenn das nicht in deinem Sinn war, setze gleich \
                 ein anderes und sag denen Bescheid, die dein Konto verwalten.",
                "Anmelden",
                "Du bekommst diese Nachricht, weil deine Organisation über Passwortänderungen \
                 informiert.",
            ],
            _ => return None,
        };
        Some(Self {
            title: title.to_owned(),
            pre_header: pre_header.to_owned(),
            subject: title.to_owned(),
            greeting: greeting.to_owned(),
            text: text.to_owned(),
            button_text: button_text.to_owned(),
            footer_text: footer_text.to_owned(),
        })
    }

    /// The words for `language`, or the fallback's.
    pub(super) fn default_for(language: Option<Language>) -> Self {
        let built_in = language.and_then(Self::built_in);
        built_in.or_else(|| Self::built_in(FALLBACK)).unwrap_or_default()
    }

    /// These words, and those of `default` where there are none.
    pub(super) fn over(self, default: Self) -> Self {
        let or = |own: String, default: String| if own.is_empty() { default } else { own };
        Self {
            title: or(self.title, default.title),
            pre_header: or(self.pre_header, default.pre_header),
            subject: or(self.subject, default.subject),
            greeting: or(self.greeting, default.greeting),
            text: or(self.text, default.text),
            button_text: or(self.button_text, default.button_text),
            footer_text: or(self.footer_text, default.footer_text),
        }
    }

    pub(super) fn are_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<MessageText> for Slots {
    fn from(text: MessageText) -> Self {
        Self {
            title: text.title,
            pre_header: text.pre_header,
            subject: text.subject,
            greeting: text.greeting,
            text: text.text,
            button_text: text.button_text,
            footer_text: text.footer_text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_lead_to_their_language() {
        let of = |tag| Language::of_tag(tag).map(Language::as_str);
        assert_eq!(of("de-CH"), Some("de"));
        assert_eq!(of("PT_br"), Some("pt"));
        assert_eq!(of("en"), Some("en"));
        for tag in ["", "-de", "tlh", "d", "und", "de ", "дe"] {
            assert_eq!(of(tag), None, "{tag}");
        }
        assert_eq!(Language::named("de-CH"), None);
    }

    #[test]
    fn every_default_fills_every_slot_and_greets_by_name() {
        for language in KNOWN.into_iter().filter_map(Language::named) {
            let words = Slots::default_for(Some(language));
            assert!(words.greeting.contains("{{.DisplayName}}"));
            assert_eq!(Slots::default().over(words.clone()), words);
            let Slots { title, pre_header, subject, greeting, text, button_text, footer_text } =
                words;
            for slot in [title, pre_header, subject, greeting, text, button_text, footer_text] {
                assert!(!slot.is_empty());
            }
        }
        assert_eq!(Slots::default_for(None), Slots::default_for(Some(FALLBACK)));
    }
}
