//! `bugler rule new`: a rule that builds and passes its own tests at once, with a copy of the SDK inside.

use crate::cli::rule::write;
use crate::cli::{CliError, Exit};
use clap::{Args, ValueEnum};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The SDK as this release has it.
const SDK: [(&str, &str); 14] = [
    ("wit/bugler-rules.wit", include_str!("../../../../rules-sdk/wit/bugler-rules.wit")),
    ("src/lib.rs", include_str!("../../../../rules-sdk/src/lib.rs")),
    ("src/answer.rs", include_str!("../../../../rules-sdk/src/answer.rs")),
    ("src/bindings.rs", include_str!("../../../../rules-sdk/src/bindings.rs")),
    ("src/bump.rs", include_str!("../../../../rules-sdk/src/bump.rs")),
    ("src/cx.rs", include_str!("../../../../rules-sdk/src/cx.rs")),
    ("src/guest.rs", include_str!("../../../../rules-sdk/src/guest.rs")),
    ("src/item.rs", include_str!("../../../../rules-sdk/src/item.rs")),
    ("src/json.rs", include_str!("../../../../rules-sdk/src/json.rs")),
    ("src/memo.rs", include_str!("../../../../rules-sdk/src/memo.rs")),
    ("src/packed.rs", include_str!("../../../../rules-sdk/src/packed.rs")),
    ("src/testing.rs", include_str!("../../../../rules-sdk/src/testing.rs")),
    ("macros/src/lib.rs", include_str!("../../../../rules-sdk/macros/src/lib.rs")),
    ("macros/Cargo.toml", include_str!("../../../../rules-sdk/templates/macros.toml")),
];
const SDK_CARGO: &str = include_str!("../../../../rules-sdk/templates/sdk.toml");
const RUST_CARGO: &str = include_str!("../../../../rules-sdk/templates/rust/package.toml");
const RUST_README: &str = include_str!("../../../../rules-sdk/templates/rust/README.md");

const PYTHON_REQUIREMENTS: &str =
    include_str!("../../../../rules-sdk/templates/python/requirements.txt");
const PYTHON_README: &str = include_str!("../../../../rules-sdk/templates/python/README.md");
const PYTHON_MANIFEST: &str = include_str!("../../../../rules-sdk/templates/python/rule.toml");
const JAVASCRIPT_BUILD: &str = include_str!("../../../../rules-sdk/templates/javascript/build.mjs");
const JAVASCRIPT_PACKAGE: &str =
    include_str!("../../../../rules-sdk/templates/javascript/package.json");
const JAVASCRIPT_README: &str =
    include_str!("../../../../rules-sdk/templates/javascript/README.md");
const JAVASCRIPT_MANIFEST: &str =
    include_str!("../../../../rules-sdk/templates/javascript/rule.toml");

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HookName {
    Authorize,
    Route,
    Transform,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Python,
    #[value(alias = "js")]
    Javascript,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Name of the rule and, without `--path`, of its folder: a-z, 0-9 and `-`.
    name: String,
    #[arg(long, value_enum, default_value_t = HookName::Route)]
    hook: HookName,
    /// What the rule is written in. Python and JavaScript bring an interpreter of 12 to 18 MB, and take
    /// ten to fifty times the processor time.
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// The folder to make.
    #[arg(long)]
    path: Option<PathBuf>,
}

impl HookName {
    fn word(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Route => "route",
            Self::Transform => "transform",
        }
    }

    fn tests(self) -> &'static str {
        match self {
            Self::Authorize => include_str!("../../../../rules-sdk/templates/authorize.toml"),
            Self::Route => include_str!("../../../../rules-sdk/templates/route.toml"),
            Self::Transform => include_str!("../../../../rules-sdk/templates/transform.toml"),
        }
    }

    fn rust(self) -> &'static str {
        match self {
            Self::Authorize => include_str!("../../../../rules-sdk/templates/rust/authorize.rs"),
            Self::Route => include_str!("../../../../rules-sdk/templates/rust/route.rs"),
            Self::Transform => include_str!("../../../../rules-sdk/templates/rust/transform.rs"),
        }
    }

    fn python(self) -> &'static str {
        match self {
            Self::Authorize => include_str!("../../../../rules-sdk/templates/python/authorize.py"),
            Self::Route => include_str!("../../../../rules-sdk/templates/python/route.py"),
            Self::Transform => include_str!("../../../../rules-sdk/templates/python/transform.py"),
        }
    }

    fn javascript(self) -> &'static str {
        match self {
            Self::Authorize => {
                include_str!("../../../../rules-sdk/templates/javascript/authorize.js")
            }
            Self::Route => include_str!("../../../../rules-sdk/templates/javascript/route.js"),
            Self::Transform => {
                include_str!("../../../../rules-sdk/templates/javascript/transform.js")
            }
        }
    }
}

impl New {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let starts = self.name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if !starts || self.name.len() > 40 || !self.name.bytes().all(is_letter) {
            let text = "a rule's name is 1 to 40 of a-z, 0-9 and -, and begins with a letter";
            return Err(CliError::new(Exit::Failed, text));
        }
        let dir = self.path.clone().unwrap_or_else(|| PathBuf::from(&self.name));
        if dir.exists() {
            let text = format!("{} is there already; name another folder", dir.display());
            return Err(CliError::new(Exit::Conflict, text));
        }
        let files = self.files();
        for (name, text) in &files {
            write(&dir.join(name), text.as_bytes())?;
        }
        let shown: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        let shown: Vec<_> =
            shown.into_iter().filter(|name| !name.starts_with(".bugler/")).collect();
        writeln!(out, "created {}/  {}", dir.display(), shown.join("  "))?;
        writeln!(out, "next: bugler rule test {}", dir.display())?;
        Ok(Exit::Done)
    }

    /// Paths in the new folder and their texts.
    fn files(&self) -> Vec<(String, String)> {
        let file = |path: &str, text: &str| (path.to_owned(), self.filled(text));
        let mut files = vec![file("rule.toml", &self.manifest())];
        let (own, ignored): (&[_], _) = match self.lang {
            Language::Rust => (
                &[
                    ("Cargo.toml", RUST_CARGO),
                    ("src/lib.rs", self.hook.rust()),
                    ("README.md", RUST_README),
                    (".bugler/sdk/Cargo.toml", SDK_CARGO),
                ],
                "/target\n",
            ),
            Language::Python => (
                &[
                    ("rule.py", self.hook.python()),
                    ("requirements.txt", PYTHON_REQUIREMENTS),
                    ("README.md", PYTHON_README),
                ],
                "/target\n/.venv\n__pycache__\n",
            ),
            Language::Javascript => (
                &[
                    ("rule.js", self.hook.javascript()),
                    ("build.mjs", JAVASCRIPT_BUILD),
                    ("package.json", JAVASCRIPT_PACKAGE),
                    ("README.md", JAVASCRIPT_README),
                ],
                "/target\n/node_modules\n",
            ),
        };
        files.extend(own.iter().map(|(path, text)| file(path, text)));
        // Other languages need the interface only.
        let needed = if self.lang == Language::Rust { SDK.as_slice() } else { &SDK[..1] };
        let sdk = |(path, text): &(&str, &str)| {
            (Path::new(".bugler/sdk").join(path).display().to_string(), (*text).to_owned())
        };
        files.extend(needed.iter().map(sdk));
        files.push(file(&format!("tests/{}.toml", self.hook.word()), self.hook.tests()));
        files.push(file(".gitignore", ignored));
        files
    }

    fn filled(&self, text: &str) -> String {
        text.replace("{{name}}", &self.name).replace("{{hook}}", self.hook.word())
    }

    fn manifest(&self) -> String {
        let head = "[rule]\nname = \"{{name}}\"\nversion = \"0.1.0\"\nhooks = [\"{{hook}}\"]\n\
                    order = 600\ndescription = \"\"\nowner = \"\"\n";
        let rest = match self.lang {
            Language::Rust => "",
            Language::Python => PYTHON_MANIFEST,
            Language::Javascript => JAVASCRIPT_MANIFEST,
        };
        [head, rest].concat()
    }
}
