//! `bugler rule new`: a rule that builds and passes its own tests at once, with a copy of the SDK inside.

use crate::cli::rule::write;
use crate::cli::{CliError, Exit};
use clap::{Args, ValueEnum};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The SDK as this release has it.
const SDK: [(&str, &str); 12] = [
    ("wit/bugler-rules.wit", include_str!("../../../../rules-sdk/wit/bugler-rules.wit")),
    ("src/lib.rs", include_str!("../../../../rules-sdk/src/lib.rs")),
    ("src/answer.rs", include_str!("../../../../rules-sdk/src/answer.rs")),
    ("src/bindings.rs", include_str!("../../../../rules-sdk/src/bindings.rs")),
    ("src/bump.rs", include_str!("../../../../rules-sdk/src/bump.rs")),
    ("src/cx.rs", include_str!("../../../../rules-sdk/src/cx.rs")),
    ("src/guest.rs", include_str!("../../../../rules-sdk/src/guest.rs")),
    ("src/item.rs", include_str!("../../../../rules-sdk/src/item.rs")),
    ("src/json.rs", include_str!("../../../../rules-sdk/src/json.rs")),
    ("src/testing.rs", include_str!("../../../../rules-sdk/src/testing.rs")),
    ("macros/src/lib.rs", include_str!("../../../../rules-sdk/macros/src/lib.rs")),
    ("macros/Cargo.toml", include_str!("../../../../rules-sdk/templates/macros.toml")),
];
const SDK_CARGO: &str = include_str!("../../../../rules-sdk/templates/sdk.toml");
const RUST_CARGO: &str = include_str!("../../../../rules-sdk/templates/rust/package.toml");
const RUST_README: &str = include_str!("../../../../rules-sdk/templates/rust/README.md");

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HookName {
    Authorize,
    Route,
    Transform,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct New {
    /// Name of the rule and, without `--path`, of its folder: a-z, 0-9 and `-`.
    name: String,
    #[arg(long, value_enum, default_value_t = HookName::Route)]
    hook: HookName,
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
        files.push(file("Cargo.toml", RUST_CARGO));
        files.push(file("src/lib.rs", self.hook.rust()));
        files.push(file("README.md", RUST_README));
        files.push((String::from(".bugler/sdk/Cargo.toml"), SDK_CARGO.to_owned()));
        let sdk = |(path, text): (&str, &str)| {
            (Path::new(".bugler/sdk").join(path).display().to_string(), text.to_owned())
        };
        files.extend(SDK.map(sdk));
        files.push(file(&format!("tests/{}.toml", self.hook.word()), self.hook.tests()));
        files.push(file(".gitignore", "/target\n"));
        files
    }

    fn filled(&self, text: &str) -> String {
        text.replace("{{name}}", &self.name).replace("{{hook}}", self.hook.word())
    }

    fn manifest(&self) -> String {
        let head = "[rule]\nname = \"{{name}}\"\nversion = \"0.1.0\"\nhooks = [\"{{hook}}\"]\n\
                    order = 600\ndescription = \"\"\nowner = \"\"\n";
        head.to_owned()
    }
}
