//! The stream in a file: each frame with its length and a checksum over its number and its bytes.
//!
//! ```text
//! file  = magic 8 | frame*        frame = length 4 | crc32c 4 | postcard
//! ```
//! All integers are little-endian. The number in the checksum keeps frames from being left out or
//! moved; a file without an end frame is not whole.

use super::{Frame, VERSION};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"BGLdump1";
const FRAME_MAX: u32 = 1 << 28;

/// Why a file of frames cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a backup of this program", path.display())]
    Foreign { path: PathBuf },
    #[error("{} is damaged in frame {frame}: take another backup", path.display())]
    Damaged { path: PathBuf, frame: u64 },
    #[error("{} ends before its end: the backup was not finished; take another one", path.display())]
    Unfinished { path: PathBuf },
    #[error("{} has dump format {found}, and this release reads {VERSION}: use the release that wrote it", path.display())]
    Version { path: PathBuf, found: u16 },
}

/// Writes a file of frames, readable by its owner only.
#[derive(Debug)]
pub struct DumpWriter {
    path: PathBuf,
    file: BufWriter<File>,
    frames: u64,
}

impl DumpWriter {
    /// Makes the file, or empties one that was begun.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let made = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
        let mut file = BufWriter::new(made.map_err(io_error("create", path))?);
        file.write_all(&MAGIC).map_err(io_error("write", path))?;
        Ok(Self { path: path.to_path_buf(), file, frames: 0 })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn put(&mut self, frame: &Frame) -> Result<(), FileError> {
        let body = postcard::to_allocvec(frame).unwrap_or_default();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let sum = checksum(self.frames, &body);
        self.frames += 1;
        let head = [length.to_le_bytes(), sum.to_le_bytes()].concat();
        let written = self.file.write_all(&head).and_then(|()| self.file.write_all(&body));
        written.map_err(io_error("write", &self.path))
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn finish(mut self) -> Result<(), FileError> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        written.map_err(io_error("sync", &self.path))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_path_buf();
    move |source| FileError::Io { action, path, source }
}

fn checksum(number: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), body)
}

/// Reads a file of frames.
#[derive(Debug)]
pub struct DumpReader {
    path: PathBuf,
    file: BufReader<File>,
    frames: u64,
    is_over: bool,
}

impl DumpReader {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let mut file = BufReader::new(file);
        let mut magic = [0; 8];
        let is_ours = file.read_exact(&mut magic).is_ok() && magic == MAGIC;
        if !is_ours {
            return Err(FileError::Foreign { path: path.to_path_buf() });
        }
        Ok(Self { path: path.to_path_buf(), file, frames: 0, is_over: false })
    }

    /// Reads every frame of a file, and says nothing if all are whole.
    ///
    /// # Errors
    /// One is damaged, or the end is missing.
    pub fn verify(path: &Path) -> Result<(), FileError> {
        let mut reader = Self::open(path)?;
        while reader.next_frame()?.is_some() {}
        Ok(())
    }

    /// The next frame; `None` behind the last one.
    ///
    /// # Errors
    /// It is damaged, or the file ends before its end.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FileError> {
        if self.is_over {
            return Ok(None);
        }
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FileError::Unfinished { path: self.path.clone() },
            _ => io_error("read", &self.path)(error),
        };
        let mut head = [0; 8];
        self.file.read_exact(&mut head).map_err(cut)?;
        let [a, b, c, d, sum @ ..] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        let damaged = || FileError::Damaged { path: self.path.clone(), frame: self.frames };
        if length > FRAME_MAX {
            return Err(damaged());
        }
        let mut body = Vec::new();
        let limit = u64::from(length);
        let read = Read::by_ref(&mut self.file).take(limit).read_to_end(&mut body);
        if read.map_err(cut)? as u64 != limit {
            return Err(FileError::Unfinished { path: self.path.clone() });
        }
        if checksum(self.frames, &body) != u32::from_le_bytes(sum) {
            return Err(damaged());
        }
        let frame = self.decode(&body).ok_or_else(damaged)??;
        self.frames += 1;
        self.is_over = matches!(frame, Frame::End(_));
        Ok(Some(frame))
    }

    fn decode(&self, body: &[u8]) -> Option<Result<Frame, FileError>> {
        // A head says its version first, so that frames nobody here knows are not even read.
        if self.frames == 0
            && let Some((0, rest)) = body.split_first().map(|(kind, rest)| (*kind, rest))
            && let Ok((found, _)) = postcard::take_from_bytes::<u16>(rest)
            && found != VERSION
        {
            return Some(Err(FileError::Version { path: self.path.clone(), found }));
        }
        postcard::from_bytes(body).ok().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::{Head, Totals};
    use crate::model::Millis;

    fn frames() -> [Frame; 2] {
        let head = Head {
            version: VERSION,
            release: String::from("0"),
            taken_at: Millis(1),
            backend: String::from("embedded"),
            shards: 8,
            is_whole: true,
        };
        [Frame::Head(head), Frame::End(Totals::default())]
    }

    fn written(name: &str) -> (PathBuf, Vec<u8>) {
        let name = format!("bugler-dump-{name}-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        let mut writer = DumpWriter::create(&path).unwrap();
        frames().iter().for_each(|frame| writer.put(frame).unwrap());
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn what_was_written_is_read() {
        let (path, _) = written("whole");
        let mut reader = DumpReader::open(&path).unwrap();
        for frame in frames() {
            assert_eq!(reader.next_frame().unwrap(), Some(frame));
        }
        assert_eq!(reader.next_frame().unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_found() {
        let (path, bytes) = written("flipped");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            assert!(DumpReader::verify(&path).is_err(), "byte {at}");
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(DumpReader::verify(&path).is_err(), "cut at {at}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_later_format_is_named() {
        let path = std::env::temp_dir().join(format!("bugler-dump-{}", uuid::Uuid::new_v4()));
        let mut writer = DumpWriter::create(&path).unwrap();
        let [head, _] = frames();
        let Frame::Head(head) = head else { unreachable!("the first is a head") };
        writer.put(&Frame::Head(Head { version: VERSION + 1, ..head })).unwrap();
        writer.finish().unwrap();
        let found = DumpReader::verify(&path);
        assert!(matches!(found, Err(FileError::Version { found, .. }) if found == VERSION + 1));
        std::fs::remove_file(path).unwrap();
    }
}
