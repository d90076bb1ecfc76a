//! A whole gateway in a process of its own, and what it is given to deliver.

use crate::Failed;
use bugler_gateway::app::{App, Start};
use bugler_gateway::config::{Config, ConfigSources};
use bugler_gateway::intake::Intake;
use bugler_gateway::model::{Audience, Content, Notification, OrganizationId, Source};
use bugler_gateway::telemetry::metrics;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A gateway in a process of its own; dropping it ends it.
#[derive(Debug)]
pub struct Gateway(Child);

impl Gateway {
    /// Starts this program with `gateway=<config>`, which is to call [`Gateway::run`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(config: &Path) -> Result<Self, Failed> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.arg(format!("gateway={}", config.display())).spawn()?;
        Ok(Self(child))
    }

    /// Serves until it is killed.
    ///
    /// # Errors
    /// When the configuration or what it names cannot be used.
    pub async fn run(config: PathBuf) -> Result<(), Failed> {
        let sources = ConfigSources { file: Some(config), ..ConfigSources::default() };
        let config = tokio::task::spawn_blocking(|| Config::load(sources)).await??;
        let app = App::start(config, Start::default(), metrics::install()?).await?;
        app.run().await;
        Ok(())
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// # Errors
    /// When it has ended.
    pub fn is_there(&mut self) -> Result<(), Failed> {
        match self.0.try_wait()? {
            Some(status) => Err(format!("the gateway ended: {status}").into()),
            None => Ok(()),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // A process that already ended needs no killing.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A notification that is due now.
#[must_use]
pub fn notification(
    intake: &Intake,
    org: OrganizationId,
    (event, audience): (&str, Audience),
    body: &str,
) -> Notification {
    let content = Content { title: "Parcel".into(), body: body.into(), ..Content::default() };
    let blank = Notification::due(intake.mint(), org, Source::Native, event, intake.now());
    Notification { audience, content, ..blank }
}
