//! Power loss under the file system: an ext4 that is shut down without writing its own journal.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Need, Order, Row, Shape, Stage, Trouble};

/// How long a new log may take to appear under load.
const ROLL_MAX: Duration = Duration::from_secs(20);
const NEEDS: &[Need] = &[Need::Loops];

pub(super) const ROWS: &[Row] = &[
    Row::new("F18", "power loss under the file system", shape, |stage| Box::pin(lose(stage)))
        .needs(NEEDS),
    Row::new(
        "F26",
        "power loss just when a log got its name",
        |base| {
            let mut rolling = shape(base);
            rolling.rate *= 4.0;
            rolling
        },
        |stage| Box::pin(lose_at_new_name(stage)),
    )
    .needs(NEEDS),
];

fn shape(mut shape: Shape) -> Shape {
    shape.ext4_mib = Some(shape.times(512, 8_192));
    shape
        .order(Order::InFlight)
        .set("store.segment=1MiB")
        .set("store.min_free=1MiB")
        .set("store.min_free_percent=0")
}

async fn lose(stage: &mut Stage) -> Result<(), Trouble> {
    for _ in 0..stage.shape.times(4, 200) {
        stage.wait(300..1_500).await;
        stage.cut_power().await?;
        stage.restart().await?;
    }
    stage.wait(300..600).await;
    Ok(())
}

async fn lose_at_new_name(stage: &mut Stage) -> Result<(), Trouble> {
    let journal = stage.launch.store.join("journal");
    for _ in 0..stage.shape.times(4, 200) {
        let before = logs(&journal)?;
        let begun = Instant::now();
        let new = loop {
            if let Some(new) = logs(&journal)?.difference(&before).next() {
                break new.clone();
            }
            if begun.elapsed() > ROLL_MAX {
                return Err(Trouble::Setup(String::from("no new log appeared under load")));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        stage.cut_power().await?;
        let is_there = new.exists();
        stage.note(format_args!("the new log is {}", if is_there { "there" } else { "gone" }));
        stage.restart().await?;
    }
    stage.wait(300..600).await;
    Ok(())
}

fn logs(journal: &Path) -> Result<HashSet<PathBuf>, Trouble> {
    let told = "the journal";
    let mut found = HashSet::new();
    for entry in std::fs::read_dir(journal).map_err(Trouble::io(told))? {
        let path = entry.map_err(Trouble::io(told))?.path();
        if path.extension().is_some_and(|ending| ending == "log") {
            found.insert(path);
        }
    }
    Ok(found)
}
