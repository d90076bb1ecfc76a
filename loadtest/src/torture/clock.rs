//! A wall clock for another process alone, which a run sets forward and back.

use std::path::{Path, PathBuf};

use super::Trouble;
use super::gateway::tool;

/// What stands between the process and its C library.
const SOURCE: &str = include_str!("clock.c");

/// The clock of the processes that were started with its variables.
#[derive(Debug)]
pub(super) struct Clock {
    offset: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// Builds it in `dir` with the machine's C compiler; it is right at first.
    pub(super) async fn build(dir: &Path) -> Result<Self, Trouble> {
        std::fs::create_dir_all(dir).map_err(Trouble::io("the clock's directory"))?;
        let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
        std::fs::write(&source, SOURCE).map_err(Trouble::io("the clock's source"))?;
        let (from, to) = (source.to_string_lossy(), library.to_string_lossy());
        tool(&["cc", "-shared", "-fPIC", "-O1", "-o", &to, &from]).await?;
        let clock = Self { offset: dir.join("clock-offset"), library };
        clock.set(0)?;
        Ok(clock)
    }

    /// For the environment of a process.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.display().to_string();
        vec![
            (String::from("LD_PRELOAD"), path(&self.library)),
            (String::from("BUGLER_CLOCK_FILE"), path(&self.offset)),
        ]
    }

    /// Lets it differ from the machine's by so much. Written in place, as one short write of always the
    /// same length: readers keep the file open.
    pub(super) fn set(&self, offset_ms: i64) -> Result<(), Trouble> {
        use std::io::Write;
        let text = format!("{offset_ms:+020}\n");
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&self.offset);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(Trouble::io("the clock's offset"))
    }
}
