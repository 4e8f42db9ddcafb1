//! A step's log on disk: segments of fixed size, removed as they are read.
//!
//! The writer waits when too many segments are unread, so a step that prints for hours takes no
//! more of the volume than one that prints for a minute.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::directory::{Directory, FileError};

/// Bytes in a full segment.
pub const SEGMENT: u64 = 8 * 1024 * 1024;
/// Unread segments at which the writer waits: 64 MiB of the volume.
pub const UNREAD: u64 = 8;
/// How often a waiting writer looks whether a segment was taken away. Copying one takes longer.
const LOOK: Duration = Duration::from_millis(2);

fn segment(number: u64) -> String {
    format!("log.{number}")
}

/// The pod's end of a log.
#[derive(Debug)]
pub struct LogWriter<'d> {
    directory: &'d Directory,
    mode: u32,
    current: Option<File>,
    written: u64,
}

impl<'d> LogWriter<'d> {
    /// A log in a step's directory, its segments made with `mode`.
    #[must_use]
    pub fn new(directory: &'d Directory, mode: u32) -> Self {
        Self {
            directory,
            mode,
            current: None,
            written: 0,
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes everything, waiting for the reader where it must. Returns `false` when `abandoned`
    /// says that nobody will read on.
    pub fn write(
        &mut self,
        mut bytes: &[u8],
        abandoned: &dyn Fn() -> bool,
    ) -> Result<bool, FileError> {
        while !bytes.is_empty() {
            let number = self.written / SEGMENT;
            let offset = self.written % SEGMENT;
            if offset == 0 {
                if let Some(oldest) = number.checked_sub(UNREAD) {
                    while self.directory.has(&segment(oldest)) {
                        if abandoned() {
                            return Ok(false);
                        }
                        std::thread::sleep(LOOK);
                    }
                }
                self.current = Some(self.directory.create(segment(number), self.mode)?);
            }
            let room = usize::try_from(SEGMENT - offset).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(file) = &mut self.current {
                file.write_all(now)
                    .map_err(|error| self.directory.failure("write", segment(number), error))?;
            }
            self.written += now.len() as u64;
            bytes = later;
        }
        Ok(true)
    }
}

/// The hook's end of a log.
#[derive(Debug)]
pub struct LogReader<'d> {
    directory: &'d Directory,
    current: Option<File>,
    read: u64,
    /// How much of it is safe with the one who wants it; all that was read when absent.
    arrived: Option<Arc<AtomicU64>>,
    /// Number of the oldest segment that may be there.
    oldest: u64,
}

impl<'d> LogReader<'d> {
    /// A log in a step's directory, from its beginning.
    #[must_use]
    pub fn new(directory: &'d Directory) -> Self {
        Self {
            directory,
            current: None,
            read: 0,
            arrived: None,
            oldest: 0,
        }
    }

    /// A log from `offset` on, which stays until `arrived` has passed it: who reads it passes it
    /// on over a connection that may break.
    #[must_use]
    pub fn relayed(directory: &'d Directory, offset: u64, arrived: Arc<AtomicU64>) -> Self {
        Self {
            read: offset,
            arrived: Some(arrived),
            oldest: (offset / SEGMENT).saturating_sub(UNREAD),
            ..Self::new(directory)
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.read
    }

    /// Reads what is there, up to the buffer's length. 0 means nothing yet, or nothing more.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, FileError> {
        let offset = self.read % SEGMENT;
        let name = segment(self.read / SEGMENT);
        self.discard()?;
        if self.current.is_none() {
            self.current = self.directory.file(&name)?;
            if let Some(file) = self.current.as_mut().filter(|_| offset > 0) {
                file.seek(io::SeekFrom::Start(offset))
                    .map_err(|error| self.directory.failure("read", &name, error))?;
            }
        }
        let Some(file) = &mut self.current else {
            return Ok(0);
        };
        let room = usize::try_from(SEGMENT - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = file
            .read(&mut buffer[..room])
            .map_err(|error| self.directory.failure("read", &name, error))?;
        if count == 0 {
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            if size < offset {
                return Err(self.directory.failure(
                    "read",
                    &name,
                    io::Error::other("it shrank while it was read"),
                ));
            }
        }
        self.read += count as u64;
        if count > 0 && self.read.is_multiple_of(SEGMENT) {
            self.current = None;
            self.discard()?;
        }
        Ok(count)
    }

    /// Removes the segments that nobody will want again.
    fn discard(&mut self) -> Result<(), FileError> {
        let arrived = self.arrived.as_ref();
        let safe = arrived.map_or(self.read, |arrived| arrived.load(Ordering::Acquire));
        while self.oldest < safe.min(self.read) / SEGMENT {
            self.directory.remove(segment(self.oldest))?;
            self.oldest += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterned(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect()
    }

    #[test]
    fn what_is_written_is_read_byte_for_byte_across_segments() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let bytes = patterned(usize::try_from(SEGMENT).unwrap() * 3 + 12345);
        let mut writer = LogWriter::new(&directory, 0o644);
        for chunk in bytes.chunks(100_003) {
            assert!(writer.write(chunk, &|| false).unwrap());
        }
        let mut reader = LogReader::new(&directory);
        let mut buffer = vec![0; 65_521];
        let mut read = Vec::new();
        loop {
            let count = reader.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            read.extend_from_slice(&buffer[..count]);
        }
        assert!(read == bytes);
        assert_eq!(
            directory.names().unwrap(),
            ["log.3"],
            "read segments are gone"
        );
    }

    #[test]
    fn a_writer_waits_at_eight_unread_segments_and_gives_up_when_nobody_reads() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let mut writer = LogWriter::new(&directory, 0o644);
        let segment = vec![b'x'; usize::try_from(SEGMENT).unwrap()];
        for _ in 0..UNREAD {
            assert!(writer.write(&segment, &|| true).unwrap());
        }
        assert!(!writer.write(b"more", &|| true).unwrap());
        assert_eq!(directory.names().unwrap().len() as u64, UNREAD);
    }

    #[test]
    fn a_log_that_shrinks_while_it_is_read_is_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        LogWriter::new(&directory, 0o644)
            .write(b"hello world", &|| false)
            .unwrap();
        let mut reader = LogReader::new(&directory);
        assert_eq!(reader.read(&mut [0; 64]).unwrap(), 11);
        std::fs::write(root.path().join("log.0"), "short").unwrap();
        assert!(reader.read(&mut [0; 64]).is_err());
    }

    #[test]
    fn what_has_not_arrived_can_be_read_again_from_where_it_broke_off() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let bytes = patterned(usize::try_from(SEGMENT).unwrap() * 2 + 1000);
        LogWriter::new(&directory, 0o644)
            .write(&bytes, &|| false)
            .unwrap();
        let arrived = Arc::new(AtomicU64::new(0));
        let mut buffer = vec![0; 1 << 20];
        let mut first = LogReader::relayed(&directory, 0, Arc::clone(&arrived));
        while first.read(&mut buffer).unwrap() > 0 {}
        assert_eq!(first.position(), bytes.len() as u64);
        assert_eq!(directory.names().unwrap().len(), 3, "nothing has arrived");

        let offset = SEGMENT + 77;
        arrived.store(offset, Ordering::Release);
        let mut second = LogReader::relayed(&directory, offset, arrived);
        let mut read = Vec::new();
        loop {
            let count = second.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            read.extend_from_slice(&buffer[..count]);
        }
        assert!(read == bytes[usize::try_from(offset).unwrap()..]);
        assert!(!directory.has("log.0") && directory.has("log.1"));
    }

    #[test]
    fn a_link_in_place_of_a_segment_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("log.0")).unwrap();
        assert!(LogReader::new(&directory).read(&mut [0; 64]).is_err());
    }
}
