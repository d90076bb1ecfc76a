//! What a call asks for, read from protobuf or JSON and checked, the same for every transport.

use super::fault::{Code, Fault};
use super::json::Members;
use super::proto::{LanguageRequest, PasswordRequest, PolicyRequest, TextRequest};
use super::rpc::Rpc;
use super::wire::{self, LENGTH, VARINT};
use crate::api::failure::FailureClass;
use crate::api::fields::text_problem;
use crate::api::language::{Language, Slots};
use crate::model::{Secret, UserId};
use prost::Message;

/// Longest text of a language in a request.
const LANGUAGE_MAX: usize = 200;

/// A checked request.
#[derive(Debug)]
pub(super) enum Command {
    Healthz,
    GetMyOrg,
    GetPolicy,
    GetDefaultPolicy,
    AddPolicy {
        password_change: bool,
    },
    UpdatePolicy {
        password_change: bool,
    },
    ResetPolicy,
    GetText {
        language: Option<Language>,
    },
    GetDefaultText {
        language: Option<Language>,
    },
    SetText {
        language: Language,
        slots: Box<Slots>,
    },
    ResetText {
        language: Language,
    },
    /// `no_change_required` has no meaning here: nobody is made to change a password.
    SetPassword {
        user: Option<UserId>,
        password: Secret,
    },
    AddDefaultPolicy {
        password_change: bool,
    },
    UpdateDefaultPolicy {
        password_change: bool,
    },
}

/// The bytes of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form<'a> {
    Protobuf(&'a [u8]),
    Json(&'a [u8]),
}

/// Reads the request of `rpc`; `parameter` is what its path names, if it has that form.
pub(super) fn read(rpc: Rpc, form: Form<'_>, parameter: Option<String>) -> Result<Command, Fault> {
    let policy = || fields::<PolicyRequest>(form, None).map(|request| request.password_change);
    let language = |parameter| checked(fields::<LanguageRequest>(form, parameter)?.language);
    Ok(match rpc {
        Rpc::Healthz => empty(form, Command::Healthz)?,
        Rpc::GetMyOrg => empty(form, Command::GetMyOrg)?,
        Rpc::GetPolicy => empty(form, Command::GetPolicy)?,
        Rpc::GetDefaultPolicy | Rpc::AdminGetPolicy => empty(form, Command::GetDefaultPolicy)?,
        Rpc::ResetPolicy => empty(form, Command::ResetPolicy)?,
        Rpc::AddPolicy => Command::AddPolicy { password_change: policy()? },
        Rpc::UpdatePolicy => Command::UpdatePolicy { password_change: policy()? },
        Rpc::AdminAddPolicy => Command::AddDefaultPolicy { password_change: policy()? },
        Rpc::AdminUpdatePolicy => Command::UpdateDefaultPolicy { password_change: policy()? },
        Rpc::GetText => Command::GetText { language: Language::of_tag(&language(parameter)?) },
        Rpc::GetDefaultText => {
            Command::GetDefaultText { language: Language::of_tag(&language(parameter)?) }
        }
        Rpc::ResetText => Command::ResetText { language: known(&language(parameter)?)? },
        Rpc::SetText => set_text(fields(form, parameter)?)?,
        Rpc::SetPassword => set_password(fields(form, parameter)?)?,
    })
}

/// A message that can be asked for in both forms.
trait Request: Message + Default {
    const KNOWN: &'static [(u32, u8)];

    fn of_members(members: &Members) -> Result<Self, Fault>;

    /// Sets the field that REST has in the path.
    fn name(&mut self, _parameter: String) {}
}

fn fields<R: Request>(form: Form<'_>, parameter: Option<String>) -> Result<R, Fault> {
    let mut request = match form {
        Form::Protobuf(bytes) => wire::decode(bytes, R::KNOWN).ok_or_else(no_message)?,
        Form::Json(body) => R::of_members(&Members::parse(body)?)?,
    };
    if let Some(parameter) = parameter {
        request.name(parameter);
    }
    Ok(request)
}

fn empty(form: Form<'_>, command: Command) -> Result<Command, Fault> {
    if let Form::Protobuf(bytes) = form {
        wire::decode::<super::proto::EmptyRequest>(bytes, &[]).ok_or_else(no_message)?;
    }
    Ok(command)
}

fn no_message() -> Fault {
    Fault::invalid("the message is not one of this call")
}

impl Request for PolicyRequest {
    const KNOWN: &'static [(u32, u8)] = &[(1, VARINT)];

    fn of_members(members: &Members) -> Result<Self, Fault> {
        Ok(Self { password_change: members.boolean("password_change")? })
    }
}

impl Request for LanguageRequest {
    const KNOWN: &'static [(u32, u8)] = &[(1, LENGTH)];

    fn of_members(members: &Members) -> Result<Self, Fault> {
        Ok(Self { language: members.text("language")? })
    }

    fn name(&mut self, parameter: String) {
        self.language = parameter;
    }
}

impl Request for TextRequest {
    const KNOWN: &'static [(u32, u8)] = &[
        (1, LENGTH),
        (2, LENGTH),
        (3, LENGTH),
        (4, LENGTH),
        (5, LENGTH),
        (6, LENGTH),
        (7, LENGTH),
        (8, LENGTH),
    ];

    fn of_members(members: &Members) -> Result<Self, Fault> {
        Ok(Self {
            language: members.text("language")?,
            title: members.text("title")?,
            pre_header: members.text("pre_header")?,
            subject: members.text("subject")?,
            greeting: members.text("greeting")?,
            text: members.text("text")?,
            button_text: members.text("button_text")?,
            footer_text: members.text("footer_text")?,
        })
    }

    fn name(&mut self, parameter: String) {
        self.language = parameter;
    }
}

impl Request for PasswordRequest {
    const KNOWN: &'static [(u32, u8)] = &[(1, LENGTH), (2, LENGTH), (3, VARINT)];

    fn of_members(members: &Members) -> Result<Self, Fault> {
        Ok(Self {
            user_id: members.text("user_id")?,
            password: members.text("password")?,
            no_change_required: members.boolean("no_change_required")?,
        })
    }

    fn name(&mut self, parameter: String) {
        self.user_id = parameter;
    }
}

fn checked(language: String) -> Result<String, Fault> {
    if (1..=LANGUAGE_MAX).contains(&language.chars().count()) {
        return Ok(language);
    }
    Err(Fault::invalid(format!("language must have 1 to {LANGUAGE_MAX} characters")))
}

/// The language words can be set for.
fn known(language: &str) -> Result<Language, Fault> {
    Language::named(language).ok_or_else(|| {
        let text = "Language is not supported";
        Fault::named(FailureClass::Invalid, Code::InvalidArgument, "LANG-lg4DP", text)
    })
}

fn set_text(request: TextRequest) -> Result<Command, Fault> {
    let language = known(&checked(request.language)?)?;
    let slots = Slots {
        title: line("title", request.title, 2_000)?,
        pre_header: line("preHeader", request.pre_header, 2_000)?,
        subject: line("subject", request.subject, 2_000)?,
        greeting: text("greeting", request.greeting, 4_000)?,
        text: text("text", request.text, 40_000)?,
        button_text: line("buttonText", request.button_text, 4_000)?,
        footer_text: text("footerText", request.footer_text, 8_000)?,
    };
    Ok(Command::SetText { language, slots: Box::new(slots) })
}

fn text(name: &str, text: String, max: usize) -> Result<String, Fault> {
    match text_problem(&text, max) {
        None => Ok(text),
        Some(problem) => Err(Fault::invalid(format!("{name} {problem}"))),
    }
}

/// A text without line breaks: it becomes a header of a mail or a heading.
fn line(name: &str, line: String, max: usize) -> Result<String, Fault> {
    if line.chars().any(char::is_control) {
        return Err(Fault::invalid(format!("{name} has a control character")));
    }
    text(name, line, max)
}

fn set_password(request: PasswordRequest) -> Result<Command, Fault> {
    if request.user_id.is_empty() {
        let text = "User ID missing";
        let class = FailureClass::Invalid;
        return Err(Fault::named(class, Code::InvalidArgument, "COMMAND-3M0fs", text));
    }
    if request.password.is_empty() {
        let text = "Password is empty";
        let class = FailureClass::Invalid;
        return Err(Fault::named(class, Code::InvalidArgument, "COMMAND-3M0fs", text));
    }
    // An id in another form is one of nobody.
    let is_plain = request.user_id.bytes().all(|b| b.is_ascii_digit())
        && (request.user_id == "0" || !request.user_id.starts_with('0'));
    let user = request.user_id.parse().ok().filter(|_| is_plain);
    Ok(Command::SetPassword { user, password: Secret::new(request.password) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_set_for_known_languages_and_read_for_any() {
        let ask = |rpc, language: &str| read(rpc, Form::Json(b""), Some(language.to_owned()));
        for language in ["en", "DE", "zh"] {
            assert!(ask(Rpc::SetText, language).is_ok(), "{language}");
            assert!(ask(Rpc::ResetText, language).is_ok(), "{language}");
        }
        for language in ["tlh", "de-CH", "e n", "../en"] {
            for rpc in [Rpc::SetText, Rpc::ResetText] {
                assert_eq!(ask(rpc, language).expect_err(language).id, "LANG-lg4DP");
            }
            assert!(ask(Rpc::GetText, language).is_ok(), "{language}");
        }
        for rpc in [Rpc::SetText, Rpc::ResetText, Rpc::GetText, Rpc::GetDefaultText] {
            assert!(ask(rpc, "").is_err());
            assert!(ask(rpc, &"x".repeat(201)).is_err());
        }
    }

    #[test]
    fn a_path_names_what_the_body_would() {
        let form = Form::Json(br#"{"userId":"9","password":"x","noChangeRequired":true}"#);
        let read = read(Rpc::SetPassword, form, Some(String::from("7")));
        let Ok(Command::SetPassword { user, password }) = read else {
            panic!("{read:?}");
        };
        assert_eq!((user, password.reveal()), (Some(UserId(7)), "x"));
        for id in ["07", "+7", "7 ", "seven", "99999999999999999999", "0x7"] {
            let read = super::read(Rpc::SetPassword, form, Some(id.to_owned()));
            assert!(matches!(read, Ok(Command::SetPassword { user: None, .. })), "{id}");
        }
    }

    #[test]
    fn lengths_count_characters_and_headings_have_no_line_breaks() {
        let set = |name: &str, value: &str| {
            let body = serde_json::json!({ name: value }).to_string();
            read(Rpc::SetText, Form::Json(body.as_bytes()), Some(String::from("en")))
        };
        for (name, max) in [
            ("title", 2_000),
            ("preHeader", 2_000),
            ("subject", 2_000),
            ("greeting", 4_000),
            ("text", 40_000),
            ("buttonText", 4_000),
            ("footerText", 8_000),
        ] {
            assert!(set(name, &"é".repeat(max)).is_ok(), "{name}");
            let fault = set(name, &"é".repeat(max + 1)).expect_err(name);
            assert!(fault.message().contains(name), "{fault:?}");
            assert!(set(name, "a\0b").is_err(), "{name}");
        }
        assert!(set("text", "a\r\nb").is_ok());
        assert!(set("subject", "a\r\nBcc: b").is_err());
    }

    #[test]
    fn a_password_is_not_in_what_is_printed() {
        let form = Form::Json(br#"{"password":"hunter2hunter2"}"#);
        let command = read(Rpc::SetPassword, form, Some(String::from("7"))).expect("a command");
        assert!(!format!("{command:?}").contains("hunter2"));
        let request = PasswordRequest { password: String::from("hunter2"), ..Default::default() };
        assert!(!format!("{request:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_call_panic(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            for rpc in Rpc::ALL {
                for form in [Form::Protobuf(&bytes), Form::Json(&bytes)] {
                    if let Err(fault) = read(rpc, form, None) {
                        prop_assert_eq!(fault.code, Code::InvalidArgument);
                    }
                }
            }
        }
    }
}
