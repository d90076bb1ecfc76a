//! `bugler token`: a bearer token signed with the keys of a data directory.

use crate::auth::{Grant, KeyRing, Origin, Scope, TokenMinter};
use crate::cli::{CliError, Exit, Settings};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::model::{OrganizationId, UserId};
use clap::Args;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(flatten)]
    settings: Settings,
    /// The organization the token speaks for.
    #[arg(long)]
    org: i32,
    /// Limit it to what this user's role allows.
    #[arg(long)]
    user: Option<i64>,
    /// Seconds it is valid; default `auth.token_ttl`.
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
}

impl Token {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let config = self.settings.load()?;
        let ttl = self.ttl.map_or(config.auth.token_ttl, Duration::from_secs);
        let token = mint(&config, OrganizationId(self.org), self.user.map(UserId), ttl)?;
        writeln!(out, "{token}")?;
        Ok(Exit::Done)
    }
}

/// A token for an organization or one of its users.
pub(super) fn mint(
    config: &Config,
    organization: OrganizationId,
    user: Option<UserId>,
    lifetime: Duration,
) -> Result<String, CliError> {
    std::fs::create_dir_all(&config.store.dir)?;
    let keys = KeyRing::load_or_create(&config.keys_path()).map_err(|e| CliError::failed(&e))?;
    let auth = &config.auth;
    let minter =
        TokenMinter::new(Arc::new(keys), &auth.issuer, &auth.audience, Arc::new(SystemClock))
            .map_err(|e| CliError::failed(&e))?;
    let grant = Grant {
        organization,
        scope: user.map_or(Scope::Organization, Scope::User),
        subject: format!("organization:{organization}"),
        lifetime,
        limited_to: None,
        origin: Origin::default(),
    };
    minter.mint(&grant).map_err(|e| CliError::failed(&e))
}
