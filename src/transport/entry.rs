//! One file of a manifest or an archive: where it is and what tells whether it changed.

use std::cmp::Ordering;
use std::io::{self, Read};

use rustix::fs::{FileType, Stat};

/// Longest path, as the kernel's.
const PATH_LIMIT: usize = 4096;
/// Bytes before the path.
pub const HEADER: usize = 27;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A regular file; in an archive its content follows.
    File = b'f',
    /// A directory.
    Directory = b'd',
    /// A symbolic link; in an archive its target follows.
    Link = b'l',
    /// In archives only: it is not there any more.
    Gone = b'g',
    /// It is in the pod and does not come to the runner, for the reason in [`Entry::mode`].
    Left = b's',
    /// In archives only: there are no more entries.
    End = b'e',
}

/// Why a file does not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is larger than what one file may be.
    TooLarge,
    /// All files together are larger than what they may be.
    TooMuch,
    /// It may not be read.
    Unreadable,
}

/// A file as a manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its permissions, without set-id bits.
    pub mode: u32,
    /// Bytes of a regular file.
    pub size: u64,
    /// When a regular file was last written.
    pub seconds: i64,
    /// The same, below a second.
    pub nanos: u32,
    /// The name of its root and its path below that, with `/` between.
    pub path: Vec<u8>,
}

impl Entry {
    /// An entry that is nothing but a kind and a path.
    #[must_use]
    pub fn bare(kind: Kind, path: Vec<u8>) -> Self {
        Self {
            kind,
            mode: 0,
            size: 0,
            seconds: 0,
            nanos: 0,
            path,
        }
    }

    /// What `stat` says of a file; `None` for what is neither file, directory nor link.
    #[must_use]
    pub fn of(stat: &Stat, path: Vec<u8>) -> Option<Self> {
        let mut entry = Self::bare(Kind::End, path);
        entry.fill(stat).then_some(entry)
    }

    /// Becomes what `stat` says of a file at the same path; `false` for what is neither file,
    /// directory nor link.
    pub fn fill(&mut self, stat: &Stat) -> bool {
        self.kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            // A link is compared by the time it was made, since it has no content of its own.
            FileType::Symlink => Kind::Link,
            _ => return false,
        };
        let is_directory = self.kind == Kind::Directory;
        self.mode = match self.kind {
            Kind::Link => 0,
            _ => stat.st_mode & 0o777,
        };
        (self.size, self.seconds, self.nanos) = if is_directory {
            (0, 0, 0)
        } else {
            (
                u64::try_from(stat.st_size).unwrap_or(0),
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            )
        };
        true
    }

    /// Becomes a file that does not come.
    pub fn leave(&mut self, reason: Reason) {
        self.kind = Kind::Left;
        self.mode = reason as u32;
    }

    /// A file that does not come.
    #[must_use]
    pub fn left(mut self, reason: Reason) -> Self {
        self.leave(reason);
        self
    }

    /// Why a file does not come.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self.mode {
            0 => Reason::TooLarge,
            1 => Reason::TooMuch,
            _ => Reason::Unreadable,
        }
    }

    /// As it stands in manifests and archives.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.extend(u16::try_from(self.mode).unwrap_or(0).to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.seconds.to_le_bytes());
        out.extend(self.nanos.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        let length = u16::try_from(self.path.len()).unwrap_or(u16::MAX);
        out.extend(length.to_le_bytes());
        out.extend(&self.path);
    }

    /// Reads an entry from the front of `bytes`, with its length there; `None` when it has not come
    /// whole.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let mut entry = Self::bare(Kind::End, Vec::new());
        let read = entry.decode_into(bytes)?;
        Ok(read.map(|length| (entry, length)))
    }

    fn decode_into(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
            return Ok(None);
        };
        let kind = [
            Kind::File,
            Kind::Directory,
            Kind::Link,
            Kind::Gone,
            Kind::Left,
            Kind::End,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == header[0])
        .ok_or_else(|| format!("an entry of kind {}", header[0]))?;
        let length = usize::from(u16::from_le_bytes([header[25], header[26]]));
        if length > PATH_LIMIT {
            return Err(format!("a path of {length} bytes"));
        }
        let Some(path) = rest.get(..length) else {
            return Ok(None);
        };
        if kind != Kind::End && !is_plain(path) {
            return Err(format!("the path `{}`", printable(path)));
        }
        let nanos = u32::from_le_bytes([header[19], header[20], header[21], header[22]]);
        let mode = u16::from_le_bytes([header[1], header[2]]);
        self.kind = kind;
        self.mode = u32::from(mode) & 0o777;
        self.size = number(header, 3);
        self.seconds = number(header, 11).cast_signed();
        self.nanos = nanos.min(999_999_999);
        self.path.clear();
        self.path.extend_from_slice(path);
        Ok(Some(HEADER + length))
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Whether a path goes downwards only, by names that a file can have.
fn is_plain(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|part| {
        !part.is_empty() && part != b"." && part != b".." && part.len() < 256 && !part.contains(&0)
    })
}

/// The order of manifests and archives: a directory before what is in it, and names by their bytes.
#[must_use]
pub fn order(one: &[u8], other: &[u8]) -> Ordering {
    let common = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    match (one.get(common), other.get(common)) {
        // A name that ends is before one that goes on.
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (a, b) => a.cmp(&b),
    }
}

/// A path for a message: on one line, whatever its bytes are.
#[must_use]
pub fn printable(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

/// Reads entries one by one, so that a manifest takes no memory.
#[derive(Debug)]
pub struct Entries<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: Read> Entries<R> {
    /// Reads from the beginning of the first entry.
    pub fn new(from: R) -> Self {
        Self {
            from,
            buffer: Vec::new(),
        }
    }

    /// The next one.
    pub fn read(&mut self) -> io::Result<Option<Entry>> {
        let mut entry = Entry::bare(Kind::End, Vec::new());
        Ok(self.read_into(&mut entry)?.then_some(entry))
    }

    /// The same, in place of another one; `false` at the end.
    pub fn read_into(&mut self, entry: &mut Entry) -> io::Result<bool> {
        self.buffer.resize(HEADER, 0);
        match self.from.read(&mut self.buffer[..1])? {
            0 => return Ok(false),
            _ => self.from.read_exact(&mut self.buffer[1..])?,
        }
        let length = usize::from(u16::from_le_bytes([self.buffer[25], self.buffer[26]]));
        self.buffer.resize(HEADER + length, 0);
        self.from.read_exact(&mut self.buffer[HEADER..])?;
        match entry.decode_into(&self.buffer) {
            Ok(Some(_)) => Ok(true),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(reason) => Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(
            mode in 0_u32..0o1000, size: u64, seconds: i64, nanos in 0_u32..1_000_000_000,
            name in proptest::collection::vec(1_u8..=255, 1..100),
        ) {
            let path = [b"workspace/".to_vec(), name].concat();
            prop_assume!(is_plain(&path));
            let entry = Entry { kind: Kind::File, mode, size, seconds, nanos, path };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(Entries::new(bytes.as_slice()).read().unwrap(), Some(entry));
        }

        #[test]
        fn paths_are_in_the_order_of_their_names(
            one in proptest::collection::vec("[!-.0a]{1,3}", 1..4),
            other in proptest::collection::vec("[!-.0a]{1,3}", 1..4),
        ) {
            let paths = [&one, &other].map(|names| names.join("/"));
            prop_assert_eq!(order(paths[0].as_bytes(), paths[1].as_bytes()), one.cmp(&other));
        }

        #[test]
        fn no_bytes_make_an_entry_that_leads_outside(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some((entry, _))) = Entry::decode(&bytes) {
                prop_assert!(entry.kind == Kind::End || is_plain(&entry.path));
            }
        }
    }

    #[test]
    fn a_directory_stands_before_what_is_in_it_and_names_go_by_their_bytes() {
        let mut paths = ["a.txt", "a/b", "a", "a/b/c", "a-b", "b"];
        paths.sort_by(|one, other| order(one.as_bytes(), other.as_bytes()));
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a-b", "a.txt", "b"]);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_none() {
        for path in [
            "../x",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a/",
            "",
            ".",
            "a\0b",
        ] {
            let mut bytes = Vec::new();
            Entry::bare(Kind::File, path.as_bytes().to_vec()).encode(&mut bytes);
            assert!(Entry::decode(&bytes).is_err(), "{path:?}");
        }
    }
}
