//! The one place that has a team's provider tokens, for all apps of this process and the next one.

use super::auth::{ProviderToken, TokenHolder};
use crate::clock::Clock;
use crate::model::{Millis, Secret};
use crate::providers::ProviderError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Shared by all apps, so that those of one team and key send the same token.
#[derive(Clone, Debug, Default)]
pub struct TokenShelf(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Where tokens outlive the process; nowhere if absent.
    dir: Option<PathBuf>,
    holders: Mutex<HashMap<[u8; 32], Arc<TokenHolder>>>,
}

impl TokenShelf {
    /// A shelf whose tokens are found again by the next process: Apple counts new tokens across
    /// restarts, too. The files are readable for their owner only and worthless after an hour.
    #[must_use]
    pub fn kept_in(dir: PathBuf) -> Self {
        Self(Arc::new(Shared { dir: Some(dir), holders: Mutex::default() }))
    }

    /// The holder for this key, made on first demand.
    pub(super) fn holder(
        &self,
        team_id: &str,
        key_id: &str,
        key_pem: &Secret,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<TokenHolder>, ProviderError> {
        let print = fingerprint(&[team_id, key_id, key_pem.reveal()]);
        let mut holders = self.0.holders.lock();
        if let Some(found) = holders.get(&print) {
            return Ok(Arc::clone(found));
        }
        let keep = self.0.dir.as_deref().map(|dir| Keep::new(dir, &print));
        let (team, key) = (team_id.to_owned(), key_id.to_owned());
        let made = Arc::new(TokenHolder::new((team, key, key_pem), keep, Arc::clone(clock))?);
        holders.insert(print, Arc::clone(&made));
        Ok(made)
    }
}

fn fingerprint(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The file that keeps one key's token.
#[derive(Debug)]
pub(super) struct Keep {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    signed_at: u64,
    token: String,
}

impl Keep {
    fn new(dir: &Path, print: &[u8; 32]) -> Self {
        let name: String = print.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { path: dir.join(format!("apns-{name}.json")) }
    }

    /// The token that an earlier process made with this key.
    pub(super) fn load(&self) -> Option<ProviderToken> {
        let text = std::fs::read(&self.path).ok()?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        let dated = Millis(kept.signed_at);
        ProviderToken::of(&kept.token, dated, dated)
    }

    /// Replaces what is kept. A token that cannot be kept still serves this process.
    pub(super) fn store(&self, token: &ProviderToken) {
        if let Err(error) = self.write(token) {
            tracing::warn!(%error, "the APNs provider token cannot be kept for the next start");
        }
    }

    fn write(&self, token: &ProviderToken) -> std::io::Result<()> {
        let Some(text) = token.text() else { return Ok(()) };
        let kept = Kept { signed_at: token.dated().0, token: text.to_owned() };
        let dir = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let next = self.path.with_extension("next");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&next)?;
        file.write_all(&serde_json::to_vec(&kept)?)?;
        std::fs::rename(&next, &self.path)
    }
}
