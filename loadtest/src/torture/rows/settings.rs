//! Configurations that cannot be used, at a restart and under a running gateway.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Order, Row, Stage, Trouble};
use crate::torture::ask;

/// `EX_CONFIG` of this program.
const EXIT_CONFIGURATION: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const ROWS: &[Row] = &[Row::new(
    "F78",
    "configurations that cannot be used, at a restart and by SIGHUP",
    |shape| shape.order(Order::InFlight),
    |stage| Box::pin(settings(stage)),
)];

/// What is wrong with a configuration, and the key that must be named.
struct Bad {
    what: &'static str,
    key: &'static str,
    spoil: fn(&str) -> String,
}

const BAD: [Bad; 6] = [
    Bad { what: "bad syntax", key: "bugler.toml", spoil: |good| format!("{good}\n[server\n") },
    Bad {
        what: "an unknown key",
        key: "limits.per_orgg",
        spoil: |good| good.replace("[limits]\n", "[limits]\nper_orgg = \"5/s\"\n"),
    },
    Bad {
        what: "a value out of its range",
        key: "dispatch.retry.push.attempts_max",
        spoil: |good| good.replace("attempts_max = 100", "attempts_max = 0"),
    },
    Bad {
        what: "a missing secret",
        key: "providers.apns.main.key_file",
        spoil: |good| good.replace("apns.p8", "gone.p8"),
    },
    Bad {
        what: "a key that is none",
        key: "providers.apns.main",
        spoil: |good| good.replace("apns.p8", "fcm.json"),
    },
    Bad {
        what: "weaker durability than is asked for",
        key: "store.fsync",
        spoil: |good| format!("{good}[store]\nfsync = \"never\"\nrequire_durability = \"D2\"\n"),
    },
];

async fn settings(stage: &mut Stage) -> Result<(), Trouble> {
    let path = stage.launch.config.clone();
    let good = std::fs::read_to_string(&path).map_err(Trouble::io("the configuration"))?;
    stage.wait(300..800).await;
    for bad in &BAD {
        write(&path, &(bad.spoil)(&good))?;
        refuses_to_take_over(stage, bad).await?;
    }
    write(&path, &good)?;
    takes_over(stage, &path, &good).await?;
    for bad in &BAD {
        write(&path, &(bad.spoil)(&good))?;
        refuses_to_start(stage, bad).await?;
    }
    write(&path, &good)?;
    stage.restart().await?;
    stage.wait(300..600).await;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Trouble> {
    std::fs::write(path, text).map_err(Trouble::io("the configuration"))
}

async fn healthz(stage: &Stage) -> String {
    let asked = ask::get(stage.gateway.admin, "/healthz", None).await;
    asked.map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default()
}

async fn reloads(stage: &Stage, result: &str) -> Result<f64, Trouble> {
    let metrics = stage.gateway.metrics().await?;
    Ok(metrics.sum("bugler_config_reloads_total", &format!("result=\"{result}\"")))
}

/// Asks for the configuration to be read again; false if nobody did.
async fn reload(stage: &mut Stage, result: &str) -> Result<bool, Trouble> {
    let before = reloads(stage, result).await?;
    stage.gateway.signal("HUP").await?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if reloads(stage, result).await? > before {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(false)
}

/// The one before stays in force, and the reason can be asked for.
async fn refuses_to_take_over(stage: &mut Stage, bad: &Bad) -> Result<(), Trouble> {
    stage.note(format_args!("SIGHUP with {}", bad.what));
    let is_refused = reload(stage, "refused").await?;
    stage.expect(is_refused, || format!("{} was not refused by a running gateway", bad.what));
    let told = healthz(stage).await;
    stage.expect(told.contains(bad.key), || {
        format!("/healthz does not name {} after {}: {told}", bad.key, bad.what)
    });
    let ready = ask::get(stage.gateway.admin, "/readyz", None).await;
    let is_ready = ready.is_ok_and(|(status, _)| status == 200);
    stage.expect(is_ready, || format!("not ready any more after {}", bad.what));
    let (before, _) = stage.progress();
    let begun = Instant::now();
    while stage.progress().0 == before && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (after, _) = stage.progress();
    stage.expect(after > before, || format!("nothing was accepted after {}", bad.what));
    Ok(())
}

/// A limit that can be changed holds from then on, and goes again.
async fn takes_over(stage: &mut Stage, path: &Path, good: &str) -> Result<(), Trouble> {
    write(path, &good.replace("[limits]\n", "[limits]\nper_org = \"1/s\"\n"))?;
    let (_, before) = stage.progress();
    let is_applied = reload(stage, "applied").await?;
    stage.note("SIGHUP with a limit of one a second");
    stage.expect(is_applied, || String::from("a new limit was not taken over"));
    stage.dwell().await;
    let (_, limited) = stage.progress();
    stage.expect(limited > before, || String::from("a new limit refused nobody"));
    let told = healthz(stage).await;
    stage.expect(told == "ok\n", || format!("/healthz still says {told}"));
    write(path, good)?;
    let is_applied = reload(stage, "applied").await?;
    stage.expect(is_applied, || String::from("the limit did not go again"));
    stage.remarks.push(format!("{} refused by a limit that came while it ran", limited - before));
    Ok(())
}

/// It ends at once with the key named, and the data are as they were.
async fn refuses_to_start(stage: &mut Stage, bad: &Bad) -> Result<(), Trouble> {
    if stage.gateway.is_alive() {
        stage.stop().await?;
    }
    stage.is_first_life = false;
    stage.note(format_args!("started with {}", bad.what));
    let before = files(&stage.launch.store).map_err(Trouble::io("the data directory"))?;
    match stage.launch.attempt().await? {
        Ok(mut gateway) => {
            gateway.kill();
            stage.crashes += 1;
            stage.breaches.push(format!("it started with {}", bad.what));
        }
        Err(ended) => {
            stage.expect(ended.code == Some(EXIT_CONFIGURATION), || {
                format!("with {} it ended with {:?}", bad.what, ended.code)
            });
            stage.expect(ended.stderr.contains(bad.key), || {
                format!("with {} it does not name {}: {}", bad.what, bad.key, ended.last_words())
            });
        }
    }
    let after = files(&stage.launch.store).map_err(Trouble::io("the data directory"))?;
    stage.expect(before == after, || format!("{} touched the data", bad.what));
    Ok(())
}

/// Every file with what is in it, as a checksum; the lock names whoever came last.
fn files(dir: &Path) -> std::io::Result<BTreeMap<String, u64>> {
    use std::hash::{DefaultHasher, Hasher};
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() != "LOCK" {
                let mut hasher = DefaultHasher::new();
                hasher.write(&std::fs::read(entry.path())?);
                found.insert(entry.path().display().to_string(), hasher.finish());
            }
        }
    }
    Ok(found)
}
