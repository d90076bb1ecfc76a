//! Rules for a run, made with the product's own commands, and what a gateway says of them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Trouble;
use super::ask::{self, Asker};
use super::gateway::{self, Ended};
use super::stage::Stage;
use super::world::World;

/// The rule's files: what it does is what the hostile rule of the gateway's tests does.
const GUEST: [(&str, &str); 2] = [
    ("lib.rs", include_str!("guest/hostile.rs")),
    ("abuse.rs", include_str!("../../../rules-sdk/testdata/abuse.rs")),
];
const TARGET: &str = "wasm32-unknown-unknown";
/// The project of a run, beside its rows.
pub(super) const FOLDER: &str = "rules";
/// Variables that would lead a build or a command astray.
const FOREIGN: [&str; 6] =
    ["BUGLER_URL", "BUGLER_TOKEN", "BUGLER_ORG", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC"];

/// The rule of the run, compiled once: what it does is in the manifest that is put inside.
#[derive(Clone, Debug)]
pub(super) struct Workshop {
    binary: PathBuf,
    dir: PathBuf,
    core: PathBuf,
}

/// What a component is to be called, and to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Make<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) mode: &'a str,
}

impl Workshop {
    /// Builds the rule with `bugler rule new` and `bugler rule build`, unless a row before did.
    pub(super) async fn open(stage: &Stage) -> Result<Self, Trouble> {
        let dir = stage.dir.parent().unwrap_or(Path::new(".")).join(FOLDER);
        let binary = stage.launch.binary.clone();
        let core = dir.join("guest.core.wasm");
        let own = Self { binary, dir, core };
        if own.core.exists() {
            return Ok(own);
        }
        let guest = own.dir.join("guest");
        let path = guest.display().to_string();
        if !guest.exists() {
            own.bugler(&["rule", "new", "hostile", "--hook", "route", "--path", &path]).await?;
        }
        for (name, text) in GUEST {
            let path = guest.join("src").join(name);
            std::fs::write(path, text).map_err(Trouble::io("the rule of the run"))?;
        }
        own.bugler(&["rule", "build", &path]).await?;
        let built = built_module(&guest).await?;
        std::fs::copy(built, &own.core).map_err(Trouble::io("the rule that was built"))?;
        Ok(own)
    }

    /// What cargo built: a core module.
    pub(super) fn core(&self) -> Result<Vec<u8>, Trouble> {
        std::fs::read(&self.core).map_err(Trouble::io("the rule that was built"))
    }

    /// Makes a component, and answers where it is.
    pub(super) async fn make(&self, make: Make<'_>) -> Result<PathBuf, Trouble> {
        let Make { name, version, mode } = make;
        let path = self.dir.join(format!("{name}-{version}.wasm"));
        let manifest = self.dir.join(format!("{name}-{version}.toml"));
        let text = format!(
            "[rule]\nname = \"{name}\"\nversion = \"{version}\"\nhooks = [\"route\"]\n[config]\n\
             mode = \"{mode}\"\n"
        );
        std::fs::write(&manifest, text).map_err(Trouble::io("a manifest"))?;
        let words = [&self.core, &path, &manifest].map(|path| path.display().to_string());
        let [core, out, manifest] = &words;
        self.bugler(&["rule", "wrap", core, out, "--manifest", manifest]).await?;
        Ok(path)
    }

    /// Makes a component, and answers what it is made of.
    pub(super) async fn component(&self, make: Make<'_>) -> Result<Vec<u8>, Trouble> {
        let path = self.make(make).await?;
        std::fs::read(path).map_err(Trouble::io("a component"))
    }

    /// The core module in a component without a manifest.
    pub(super) async fn bare(&self) -> Result<Vec<u8>, Trouble> {
        let path = self.dir.join("bare.wasm");
        let words = [&self.core, &path].map(|path| path.display().to_string());
        let [core, out] = &words;
        self.bugler(&["rule", "wrap", core, out]).await?;
        std::fs::read(path).map_err(Trouble::io("a component"))
    }

    async fn bugler(&self, words: &[&str]) -> Result<(), Trouble> {
        let mut command = Command::new(&self.binary);
        command.args(words);
        for name in FOREIGN {
            command.env_remove(name);
        }
        let ended = gateway::run(command).await.map_err(Trouble::io("the binary cannot start"))?;
        if ended.code == Some(0) {
            return Ok(());
        }
        Err(Trouble::Setup(format!("bugler {}: {}", words.join(" "), ended.last_words())))
    }
}

/// Why rules cannot be built here, if so.
pub(super) async fn tools_are_missing() -> Option<String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg("--version");
    let why = |what: &str| Some(format!("no cargo with the target {TARGET}: {what}"));
    match gateway::run(command).await {
        Ok(ended) if ended.code == Some(0) => {}
        Ok(ended) => return why(&ended.last_words()),
        Err(error) => return why(&error.to_string()),
    }
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", TARGET]);
    match gateway::run(command).await {
        Ok(ended) if Path::new(ended.stdout.trim()).is_dir() => None,
        Ok(_) => why("rustup target add wasm32-unknown-unknown"),
        Err(error) => why(&error.to_string()),
    }
}

/// Where cargo left the module of a guest.
async fn built_module(guest: &Path) -> Result<PathBuf, Trouble> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    command.current_dir(guest);
    let ended = gateway::run(command).await.map_err(Trouble::io("cargo cannot be started"))?;
    let about: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
    let target = about["target_directory"].as_str().unwrap_or("target");
    let target = Path::new(target).join("rules-wasm").join(TARGET);
    Ok(target.join("release").join("hostile.wasm"))
}

/// A machine that is busy refuses for now: asked again so often, so long apart.
const TRIES: u32 = 25;
const BUSY: Duration = Duration::from_millis(200);
/// How the command tells that it was refused so.
const BUSY_WORDS: &str = "503 BGL-";

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Everybody,
    /// One organization's.
    Of(usize),
}

impl Whose {
    /// The organization that asks, and what goes behind the path.
    fn asks(self) -> (usize, &'static str) {
        match self {
            Self::Everybody => (0, "?global=true"),
            Self::Of(org) => (org, ""),
        }
    }
}

impl Stage {
    /// `bugler rule deploy` with the organization's token, as its author does it.
    pub(super) async fn deploy(
        &self,
        whose: Whose,
        component: &Path,
        to: &str,
    ) -> Result<Ended, Trouble> {
        let mut left = TRIES;
        loop {
            let command = self.deploying(whose, component, to);
            let ended = gateway::run(command).await;
            let ended = ended.map_err(Trouble::io("the binary cannot be started"))?;
            left -= 1;
            if left == 0 || !ended.stderr.contains(BUSY_WORDS) {
                return Ok(ended);
            }
            tokio::time::sleep(BUSY).await;
        }
    }

    fn deploying(&self, whose: Whose, component: &Path, to: &str) -> Command {
        let (org, _) = whose.asks();
        let mut command = Command::new(&self.launch.binary);
        command.env_clear().args(["rule", "deploy"]).arg(component).args(["--stage", to]);
        if whose == Whose::Everybody {
            command.arg("--global");
        }
        command.env("BUGLER_URL", self.gateway.url());
        command.env("BUGLER_TOKEN", self.clients.token(org));
        command.env("BUGLER_ORG", World::id(org).to_string());
        command
    }

    /// Makes a rule and puts it in force.
    pub(super) async fn put_in_force(
        &mut self,
        workshop: &Workshop,
        whose: Whose,
        make: Make<'_>,
    ) -> Result<(), Trouble> {
        let component = workshop.make(make).await?;
        let ended = self.deploy(whose, &component, "active").await?;
        let Make { name, version, mode } = make;
        if ended.code != Some(0) {
            let words = ended.last_words();
            return Err(Trouble::Broken(format!("{name} {version} was not deployed: {words}")));
        }
        self.note(format_args!("{name} {version} ({mode}) deployed"));
        Ok(())
    }

    /// Sends a component as it is; answers the status and what was said.
    pub(super) async fn upload(
        &self,
        org: usize,
        component: &[u8],
    ) -> Result<(u16, String), Trouble> {
        use base64::Engine as _;
        let component = base64::engine::general_purpose::STANDARD.encode(component);
        let body = json!({ "component": component, "stage": "shadow", "message": "torture" });
        self.rules(Whose::Of(org), "POST", "", Some(&body)).await
    }

    /// Changes a rule: `{"paused": true}`, `{"rollback": true}`, `{"stage": "active"}`.
    pub(super) async fn change_rule(
        &mut self,
        whose: Whose,
        name: &str,
        body: Value,
    ) -> Result<(), Trouble> {
        let (status, text) = self.rules(whose, "PATCH", &format!("/{name}"), Some(&body)).await?;
        self.note(format_args!("{name} {body}"));
        if status == 200 { Ok(()) } else { Err(Trouble::Broken(format!("{status} {text}"))) }
    }

    /// Sets a value of an organization's rule.
    pub(super) async fn set_rule(
        &self,
        org: usize,
        name: &str,
        body: Value,
    ) -> Result<(), Trouble> {
        let path = format!("/{name}/config");
        let (status, text) = self.rules(Whose::Of(org), "PATCH", &path, Some(&body)).await?;
        if status == 200 { Ok(()) } else { Err(Trouble::Broken(format!("{status} {text}"))) }
    }

    /// Which version of an organization's rule is in force: its digest and its name.
    pub(super) async fn in_force(
        &self,
        org: usize,
        name: &str,
    ) -> Result<(String, String), Trouble> {
        let active = self.told(org, &format!("/{name}")).await?["active"].take();
        let word = |member: &str| active[member].as_str().unwrap_or_default().to_owned();
        Ok((word("digest"), word("version")))
    }

    /// Decisions of a rule that were recorded as errors.
    pub(super) async fn recorded_errors(
        &self,
        org: usize,
        name: &str,
    ) -> Result<Vec<String>, Trouble> {
        let path = format!("/{name}/decisions?decision=error&limit=1000");
        let said = self.told(org, &path).await?;
        let codes = said["decisions"].as_array().into_iter().flatten();
        Ok(codes.filter_map(|one| one["code"].as_str().map(str::to_owned)).collect())
    }

    async fn told(&self, org: usize, rest: &str) -> Result<Value, Trouble> {
        let (status, text) = self.rules(Whose::Of(org), "GET", rest, None).await?;
        if status != 200 {
            return Err(Trouble::Broken(format!("GET rules{rest} answered {status} {text}")));
        }
        serde_json::from_str(&text).map_err(|error| Trouble::Broken(error.to_string()))
    }

    async fn rules(
        &self,
        whose: Whose,
        method: &str,
        rest: &str,
        body: Option<&Value>,
    ) -> Result<(u16, String), Trouble> {
        let (org, query) = whose.asks();
        let path = format!("/bugler/v1/organizations/{}/rules{rest}{query}", World::id(org));
        let body = body.map(Value::to_string).unwrap_or_default();
        let token = self.clients.token(org);
        let mut left = TRIES;
        loop {
            let asked = ask::send(self.gateway.api, (method, &path), token, &body).await;
            let (status, answer) = asked.map_err(|error| {
                Trouble::Broken(format!("{method} {path} was not answered: {error}"))
            })?;
            left -= 1;
            if left == 0 || status != 503 {
                return Ok((status, String::from_utf8_lossy(&answer).into_owned()));
            }
            tokio::time::sleep(BUSY).await;
        }
    }

    /// Timelines of what an organization sent and got accepted, those in `without` left out.
    pub(super) async fn timelines(
        &self,
        org: usize,
        without: &HashSet<Uuid>,
    ) -> Result<Vec<Value>, Trouble> {
        let unread = |error| Trouble::Broken(format!("a timeline cannot be read: {error}"));
        let mut asker = Asker::connect(self.gateway.api).await.map_err(unread)?;
        let mut found = Vec::new();
        for (of, id) in self.accepted()? {
            if of != org || without.contains(&id) {
                continue;
            }
            let path = format!("/bugler/v1/notifications/{id}");
            let (_, body) =
                asker.get(&path, Some(self.clients.token(org))).await.map_err(unread)?;
            let timeline = serde_json::from_slice(&body);
            found.push(timeline.map_err(|error| Trouble::Broken(error.to_string()))?);
        }
        Ok(found)
    }
}

/// What rules called `name…` decided in a timeline.
pub(super) fn decisions<'a>(
    timeline: &'a Value,
    name: &'a str,
) -> impl Iterator<Item = &'a Value> + 'a {
    let events = timeline["timeline"].as_array().into_iter().flatten();
    let ruled = events.filter(|event| event["type"] == "ruled");
    let all = ruled.flat_map(|event| event["decisions"].as_array().into_iter().flatten());
    all.filter(move |one| one["rule"] == name)
}

/// Whether everything a notification was to become was delivered.
pub(super) fn is_delivered(timeline: &Value) -> bool {
    let counts = &timeline["deliveries"];
    timeline["state"] == "done" && counts["total"] == counts["delivered"]
}
