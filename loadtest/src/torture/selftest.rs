//! The self-test: builds that break a promise on purpose must be caught, and the clean one must pass.

use std::fmt;
use std::io::Write;

use super::judge::SECOND_STATE;
use super::{Options, Report, Trouble, run};

/// How a build is sabotaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Answers before the journal has written anything.
    AckBeforeFsync,
    /// Forgets what became of deliveries.
    DropOutcome,
    /// Lets whoever lost a lease settle all the same.
    NoFence,
}

impl Sabotage {
    pub const ALL: [Self; 3] = [Self::AckBeforeFsync, Self::DropOutcome, Self::NoFence];

    /// The value of `BUGLER_SABOTAGE`.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::AckBeforeFsync => "early-answer",
            Self::DropOutcome => "dropped-outcome",
            Self::NoFence => "no-fencing",
        }
    }

    /// The word of the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AckBeforeFsync => "ack-before-fsync",
            Self::DropOutcome => "drop-outcome",
            Self::NoFence => "no-fence",
        }
    }

    /// The row whose fault brings it to light.
    #[must_use]
    pub fn row(self) -> &'static str {
        match self {
            Self::AckBeforeFsync => "F1",
            Self::DropOutcome => "F53",
            Self::NoFence => "F14",
        }
    }

    /// The invariants that its breach is of, and words that must stand with them: another breach
    /// says nothing of whether this one is seen.
    #[must_use]
    pub fn breaks(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::AckBeforeFsync => (&["I1 lost"], ""),
            Self::DropOutcome => (&["I7 not drained", "I8 books"], ""),
            Self::NoFence => (&["I8 books"], SECOND_STATE),
        }
    }

    /// What of its promise a report shows to be broken.
    #[must_use]
    pub fn caught_by(self, sabotaged: &Report) -> Option<String> {
        let (names, words) = self.breaks();
        let lines = sabotaged.rows.iter().flat_map(|row| &row.invariants);
        let mut broken = lines.filter(|line| {
            names.contains(&line.name) && !line.holds() && line.note.contains(words)
        });
        broken.next().map(|line| format!("{} ({} found)", line.name, line.found))
    }
}

impl fmt::Display for Sabotage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the self-test came to.
#[derive(Clone, Debug)]
pub struct SelfTest {
    /// Each sabotage with its report, and that of the clean build on the same row and seed.
    pub rounds: Vec<(Sabotage, Report, Report)>,
}

impl SelfTest {
    /// Whether every sabotage was caught and every clean run passed.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.rounds.is_empty()
            && self.rounds.iter().all(|(sabotage, sabotaged, clean)| {
                sabotage.caught_by(sabotaged).is_some() && clean.broken() == 0 && clean.passed() > 0
            })
    }
}

impl fmt::Display for SelfTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sabotage, sabotaged, clean) in &self.rounds {
            let caught = sabotage.caught_by(sabotaged);
            let is_clean = clean.broken() == 0 && clean.passed() > 0;
            writeln!(
                f,
                "self-test {:<18} row {:<4} seed {:<6} {}; the clean build {}",
                sabotage.as_str(),
                sabotage.row(),
                sabotaged.seed,
                caught.map_or_else(|| String::from("NOT CAUGHT"), |what| format!("caught: {what}")),
                if is_clean { "passed" } else { "DID NOT PASS" },
            )?;
        }
        Ok(())
    }
}

/// Plays each sabotage and the clean build with the same seed. The binary must be built with the
/// feature that reads `BUGLER_SABOTAGE`.
///
/// # Errors
/// As [`run`].
pub async fn self_test(
    options: &Options,
    sabotages: &[Sabotage],
    mut out: impl Write + Send,
) -> Result<SelfTest, Trouble> {
    let mut rounds = Vec::new();
    for sabotage in sabotages {
        let name = sabotage.as_str();
        let rows = vec![sabotage.row().to_owned()];
        let sabotaged = Options {
            rows: rows.clone(),
            dir: options.dir.join(name),
            env: vec![(String::from("BUGLER_SABOTAGE"), sabotage.variable().to_owned())],
            ..options.clone()
        };
        let clean = Options { rows, dir: options.dir.join("clean").join(name), ..options.clone() };
        let told = |source| Trouble::Io { what: "the report cannot be written", source };
        writeln!(out, "sabotaged by {name}:").map_err(told)?;
        let sabotaged = run(&sabotaged, &mut out).await?;
        writeln!(out, "clean:").map_err(told)?;
        let clean = run(&clean, &mut out).await?;
        rounds.push((*sabotage, sabotaged, clean));
    }
    Ok(SelfTest { rounds })
}
