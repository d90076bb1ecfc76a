//! `bugler client`: the OAuth clients of a gateway that does not run.

use crate::app::create_client;
use crate::auth::Permission;
use crate::cli::{CliError, Exit, Settings};
use crate::model::OrganizationId;
use clap::{Args, Subcommand};
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum ClientCommand {
    /// Make a client and print its id and secret as JSON; the secret is not shown again.
    ///
    /// For the first client of a server, or a lost one: the gateway must not be running. On a
    /// running one, `POST /bugler/v1/organizations/{org}/clients` does the same.
    Create(Create),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    settings: Settings,
    /// The organization the client speaks for.
    #[arg(long)]
    org: i32,
    /// What people know it by.
    #[arg(long, default_value = "backend")]
    name: String,
    /// Limit its tokens to this permission, as `user.view`; can be given more than once.
    #[arg(long = "permission", value_name = "NAME")]
    permissions: Vec<String>,
}

impl ClientCommand {
    pub(super) fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let Self::Create(create) = self;
        create.run(out)
    }
}

impl Create {
    fn run(self, out: &mut impl Write) -> Result<Exit, CliError> {
        let config = self.settings.load()?;
        let permissions = self.permissions()?;
        let org = OrganizationId(self.org);
        let made = super::runtime()?.block_on(create_client(config, org, self.name, permissions));
        let made = made.map_err(|error| CliError::failed(&error))?;
        let shown = serde_json::json!({
            "id": made.id,
            "secret": made.secret.reveal(),
            "orgId": self.org,
        });
        writeln!(out, "{shown}")?;
        Ok(Exit::Done)
    }

    /// The canonical names; `None` without any.
    fn permissions(&self) -> Result<Option<Vec<String>>, CliError> {
        let canonical = |name: &String| {
            let known = Permission::named(name).map(|known| known.as_str().to_owned());
            known.ok_or_else(|| {
                let names = Permission::ALL.map(Permission::as_str).join(", ");
                CliError::new(Exit::Configuration, format!("{name}: known permissions are {names}"))
            })
        };
        let names: Vec<_> = self.permissions.iter().map(canonical).collect::<Result<_, _>>()?;
        Ok(Some(names).filter(|names| !names.is_empty()))
    }
}
