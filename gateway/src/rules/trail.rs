//! JSON lines in files of bounded size, number and age: one thread appends, anybody reads from any place on.

use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// Bytes that one page may look through.
const SCANNED_MAX: u64 = 8 << 20;
const ENDING: &str = ".jsonl";

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) file_bytes: u64,
    pub(super) files: usize,
    pub(super) age: Duration,
}

/// The end that is written.
#[derive(Debug)]
pub(super) struct Trail {
    dir: PathBuf,
    keep: Keep,
    open: Option<(File, u64)>,
}

/// A place between two lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: u64,
    offset: u64,
}

/// Some lines, oldest first.
#[derive(Debug, Default, PartialEq)]
pub struct Page {
    pub lines: Vec<Value>,
    /// Where to read on.
    pub next: Place,
    /// There was no more when this was read.
    pub is_end: bool,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.file, self.offset)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (file, offset) = text.split_once('-').ok_or(())?;
        let number = |text: &str| {
            let is_plain = text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| is_plain).ok_or(())
        };
        Ok(Self { file: number(file)?, offset: number(offset)? })
    }
}

impl Trail {
    pub(super) fn new(dir: PathBuf, keep: Keep) -> Self {
        Self { dir, keep, open: None }
    }

    /// Appends whole lines, each with its line end. What came before is not touched: a line that a
    /// crash cut short stays the last of its file.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(_, bytes)| *bytes >= self.keep.file_bytes) {
            fs::create_dir_all(&self.dir)?;
            self.trim(SystemTime::now(), self.keep.files.saturating_sub(1))?;
            self.open = Some((create(&self.dir)?, 0));
        }
        let Some((file, bytes)) = &mut self.open else { return Ok(()) };
        file.write_all(lines)?;
        *bytes += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Removes what is too old or too much, also if nothing is written any more.
    pub(super) fn forget(&mut self, now: SystemTime) -> io::Result<()> {
        self.trim(now, self.keep.files)
    }

    fn trim(&mut self, now: SystemTime, most: usize) -> io::Result<()> {
        let found = files(&self.dir)?;
        let excess = found.len().saturating_sub(most);
        for (at, (number, written)) in found.into_iter().enumerate() {
            let age = now.duration_since(written).unwrap_or_default();
            if at < excess || age > self.keep.age {
                fs::remove_file(path(&self.dir, number))?;
                // Without its name a file that is still open would grow unseen.
                self.open = None;
            }
        }
        Ok(())
    }
}

/// The lines under `dir` after a place that hold all of `needles` and are `wanted`, at most `limit` of
/// them; files last written before `since` are passed over.
pub(super) fn read(
    dir: &Path,
    (after, since): (Place, SystemTime),
    needles: &[String],
    (limit, wanted): (usize, &dyn Fn(&Value) -> bool),
) -> io::Result<Page> {
    let mut page = Page { lines: Vec::new(), next: after, is_end: false };
    let mut left = SCANNED_MAX;
    for (number, written) in files(dir)? {
        if number < after.file || written < since {
            continue;
        }
        let start = if number == after.file { after.offset } else { 0 };
        page.next = Place { file: number, offset: start };
        let mut file = match File::open(path(dir, number)) {
            Ok(file) => file,
            // Just removed: what follows is still there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(start))?;
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            if page.lines.len() >= limit || left == 0 {
                return Ok(page);
            }
            line.clear();
            lines.read_until(b'\n', &mut line)?;
            // The last line may still be being written.
            if line.pop() != Some(b'\n') {
                break;
            }
            let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX) + 1;
            page.next.offset += bytes;
            left = left.saturating_sub(bytes);
            page.lines.extend(parse(&line, needles).filter(|value| wanted(value)));
        }
    }
    page.is_end = true;
    Ok(page)
}

/// The next file. Two processes may share a directory.
fn create(dir: &Path) -> io::Result<File> {
    loop {
        let last = files(dir)?.last().map_or(0, |(number, _)| *number);
        match File::create_new(path(dir, last + 1)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created,
        }
    }
}

fn parse(line: &[u8], needles: &[String]) -> Option<Value> {
    let text = std::str::from_utf8(line).ok()?;
    let is_near = needles.iter().all(|needle| text.contains(needle.as_str()));
    is_near.then(|| serde_json::from_str(text).ok()).flatten()
}

/// Numbers of the files with when each was written last, oldest first.
fn files(dir: &Path) -> io::Result<Vec<(u64, SystemTime)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(ENDING)?.parse().ok());
        if let Some(number) = number {
            found.push((number, entry.metadata()?.modified()?));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}{ENDING}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { file_bytes: 40, files: 3, age: Duration::from_secs(3600) };

    fn numbers(page: &Page) -> Vec<u64> {
        page.lines.iter().filter_map(|line| line["n"].as_u64()).collect()
    }

    fn all(dir: &Path, after: Place, limit: usize) -> Page {
        read(dir, (after, SystemTime::UNIX_EPOCH), &[], (limit, &|_| true)).unwrap()
    }

    #[test]
    fn lines_are_read_oldest_first_and_a_reader_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut trail = Trail::new(dir.path().to_owned(), KEEP);
        assert_eq!(all(dir.path(), Place::default(), 5), Page { is_end: true, ..Page::default() });
        for n in 0..6 {
            trail.append(format!("{{\"n\":{n},\"rule\":\"a\"}}\n").as_bytes()).unwrap();
        }
        let first = all(dir.path(), Place::default(), 4);
        assert_eq!((numbers(&first), first.is_end), (vec![0, 1, 2, 3], false));
        let next: Place = first.next.to_string().parse().unwrap();
        let rest = all(dir.path(), next, 4);
        assert_eq!((numbers(&rest), rest.is_end), (vec![4, 5], true));
        trail.append(b"{\"n\":9}\n{\"n\":").unwrap();
        let more = all(dir.path(), rest.next, 4);
        assert_eq!((numbers(&more), more.is_end), (vec![9], true), "half a line is none");
    }

    #[test]
    fn only_what_is_wanted_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let mut trail = Trail::new(dir.path().to_owned(), KEEP);
        trail
            .append(b"{\"n\":1,\"rule\":\"a\"}\n{\"n\":2,\"rule\":\"b\"}\n\xff\nno json\n")
            .unwrap();
        trail.append(b"{\"n\":3,\"rule\":\"b\"}\n").unwrap();
        let needles = [String::from("\"rule\":\"b\"")];
        let wanted = |line: &Value| line["n"] != 2;
        let start = (Place::default(), SystemTime::UNIX_EPOCH);
        let page = read(dir.path(), start, &needles, (9, &wanted)).unwrap();
        assert_eq!(numbers(&page), [3]);
    }

    #[test]
    fn files_are_bounded_in_number_and_age() {
        let dir = tempfile::tempdir().unwrap();
        let mut trail = Trail::new(dir.path().to_owned(), KEEP);
        for n in 0..40 {
            trail
                .append(format!("{{\"n\":{n},\"more\":\"{}\"}}\n", "x".repeat(40)).as_bytes())
                .unwrap();
        }
        assert_eq!(numbers(&all(dir.path(), Place::default(), 50)), [37, 38, 39]);
        let again = Trail::new(dir.path().to_owned(), KEEP).append(b"{\"n\":40}\n");
        assert!(again.is_ok(), "a new process begins a new file");
        assert_eq!(numbers(&all(dir.path(), Place::default(), 50)), [38, 39, 40]);
        trail.forget(SystemTime::now() + Duration::from_secs(7200)).unwrap();
        assert_eq!(numbers(&all(dir.path(), Place::default(), 50)), [0; 0]);
        trail.append(b"{\"n\":41}\n").unwrap();
        assert_eq!(numbers(&all(dir.path(), Place::default(), 50)), [41]);
    }

    #[test]
    fn a_place_is_two_numbers() {
        for bad in ["", "1", "1-", "-1", "1-2-3", "a-1", "1-+2", "1-1234567890123456789"] {
            assert_eq!(bad.parse::<Place>(), Err(()), "{bad}");
        }
    }
}
