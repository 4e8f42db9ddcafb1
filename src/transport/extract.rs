//! The receiver's end of an archive: below its roots only, by handle, within limits.
//!
//! On the runner's side the sender is the job: an archive may say anything. It gets regular files
//! and directories, no link is made or followed, and no byte is written beyond what was agreed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

use rustix::fs::{Timespec, Timestamps};
use thiserror::Error;

use super::changes::{Limits, NO_LIMITS, TORN};
use super::entry::{Entry, Kind, Reason, printable};
use super::manifest::Change;
use crate::spool::directory::{Directory, FileError};

/// Names of files that do not come which are remembered.
const NAMED: usize = 20;
/// What the owner of a directory needs to write to it.
const OWNERS: u32 = 0o700;
/// Bytes before a piece of content: a hole, and the length.
const PIECE_HEADER: usize = 12;
/// Largest piece that a sender makes is 64 KiB; a link's target is a path.
const PIECE_LIMIT: usize = 1024 * 1024;

/// Why an archive is not taken.
#[derive(Debug, Error)]
pub enum ExtractError {
    /// It is none, or wants what is not its to want.
    #[error("take files over: what came is not acceptable: {0}")]
    Refused(String),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The manifest could not be written.
    #[error("write the manifest of files that were copied: {0}")]
    Manifest(io::Error),
}

/// Files that the sender did not send.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Left {
    /// The first of them.
    pub named: Vec<(String, Reason)>,
    /// How many there are.
    pub count: u64,
}

/// Takes an archive in.
#[derive(Debug)]
pub struct Extractor {
    roots: BTreeMap<Vec<u8>, Directory>,
    limits: Limits,
    manifest: Option<Change>,
    /// Roots whose files are in the manifest.
    kept: Vec<Vec<u8>>,
    buffer: Vec<u8>,
    file: Option<Writing>,
    open: Vec<(Vec<u8>, Rc<Directory>)>,
    emptied: Vec<Vec<u8>>,
    /// Directories that their owner may not write to once what is in them has come.
    sealed: Vec<(Vec<u8>, Directory, u32)>,
    entries: u64,
    bytes: u64,
    left: Left,
    ended: bool,
}

#[derive(Debug)]
struct Writing {
    entry: Entry,
    parent: Rc<Directory>,
    /// None for a link, whose target is collected.
    file: Option<File>,
    at: u64,
    target: Vec<u8>,
}

impl Extractor {
    /// Takes files in below directories, each with its name. `manifest` gets the entries of the
    /// roots in `kept`.
    #[must_use]
    pub fn new(
        roots: Vec<(String, Directory)>,
        limits: Limits,
        manifest: Option<Change>,
        kept: &[&str],
    ) -> Self {
        Self {
            roots: roots
                .into_iter()
                .map(|(name, directory)| (name.into_bytes(), directory))
                .collect(),
            limits,
            manifest,
            kept: kept.iter().map(|name| name.as_bytes().to_vec()).collect(),
            buffer: Vec::new(),
            file: None,
            open: Vec::new(),
            emptied: Vec::new(),
            sealed: Vec::new(),
            entries: 0,
            bytes: 0,
            left: Left::default(),
            ended: false,
        }
    }

    /// Whether the archive has come whole.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Files that stay behind, and the manifest, if there is one.
    #[must_use]
    pub fn finish(self) -> (Left, Option<Change>) {
        (self.left, self.manifest)
    }

    /// Takes in a piece of the archive, however it is cut.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ExtractError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut at = 0;
        while !self.ended
            && let Some(used) = self.take(&buffer[at..])?
        {
            at += used;
        }
        if self.ended && at < buffer.len() {
            return Err(refused("bytes after its end"));
        }
        buffer.drain(..at);
        self.buffer = buffer;
        Ok(())
    }

    /// Takes one thing from the front of `bytes`; `None` when it has not come whole.
    fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>, ExtractError> {
        let Some(writing) = &mut self.file else {
            let Some((entry, used)) = Entry::decode(bytes).map_err(refused)? else {
                return Ok(None);
            };
            self.begin(entry)?;
            return Ok(Some(used));
        };
        let Some((header, rest)) = bytes.split_at_checked(PIECE_HEADER) else {
            return Ok(None);
        };
        let mut hole = [0; 8];
        hole.copy_from_slice(&header[..8]);
        let hole = u64::from_le_bytes(hole);
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if length > PIECE_LIMIT {
            return Err(refused("a piece that is too large"));
        }
        let Some(piece) = rest.get(..length) else {
            return Ok(None);
        };
        if length == 0 {
            self.end(hole == TORN)?;
        } else {
            writing.write(hole, piece)?;
        }
        Ok(Some(PIECE_HEADER + length))
    }

    fn begin(&mut self, entry: Entry) -> Result<(), ExtractError> {
        if entry.kind == Kind::End {
            self.ended = true;
            self.remove_emptied()?;
            return self.seal(b"");
        }
        self.seal(&entry.path)?;
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(refused("more files than agreed"));
        }
        let (above, name) =
            split(&entry.path).ok_or_else(|| refused("a path without a directory"))?;
        let root = entry.path.split(|byte| *byte == b'/').next();
        if !root.is_some_and(|root| self.roots.contains_key(root)) {
            let path = printable(&entry.path);
            return Err(refused(format!(
                "`{path}` is in none of the agreed directories"
            )));
        }
        if self.limits != NO_LIMITS && entry.kind == Kind::Link {
            let path = printable(&entry.path);
            return Err(refused(format!("`{path}` is a link")));
        }
        let (above, name) = (above.to_vec(), OsStr::from_bytes(name).to_owned());
        match entry.kind {
            Kind::Gone | Kind::Left => {
                if entry.kind == Kind::Left {
                    self.left.count += 1;
                    if self.left.named.len() < NAMED {
                        self.left
                            .named
                            .push((printable(&entry.path), entry.reason()));
                    }
                }
                self.take_away(&above, &name, &entry)?;
                self.note(&entry)
            }
            Kind::Directory => {
                self.close(&entry.path);
                let parent = self.parent(&above)?;
                let made = match parent.remove(&name) {
                    Err(error) if error.kind() != io::ErrorKind::IsADirectory => {
                        return Err(error.into());
                    }
                    _ => parent.make(&name, entry.mode | OWNERS)?,
                };
                if entry.mode & OWNERS != OWNERS {
                    self.sealed.push((entry.path.clone(), made, entry.mode));
                }
                self.note(&entry)
            }
            Kind::File | Kind::Link => {
                self.bytes = self.bytes.saturating_add(entry.size);
                if entry.size > self.limits.file || self.bytes > self.limits.total {
                    return Err(refused("more bytes than agreed"));
                }
                self.close(&entry.path);
                let parent = Rc::clone(self.parent(&above)?);
                let file = if entry.kind == Kind::File {
                    Some(create(&parent, &name)?)
                } else {
                    clear(&parent, &name)?;
                    None
                };
                self.file = Some(Writing {
                    entry,
                    parent,
                    file,
                    at: 0,
                    target: Vec::new(),
                });
                Ok(())
            }
            Kind::End => Ok(()),
        }
    }

    /// Gives directories their modes which are not on the way to what comes next: all of what is in
    /// one comes right after it.
    fn seal(&mut self, next: &[u8]) -> Result<(), ExtractError> {
        while let Some((_, directory, mode)) =
            self.sealed.pop_if(|(path, ..)| !is_within(next, path))
        {
            directory.set_mode(mode)?;
        }
        Ok(())
    }

    fn end(&mut self, torn: bool) -> Result<(), ExtractError> {
        let Some(writing) = self.file.take() else {
            return Ok(());
        };
        let entry = writing.finish(torn)?;
        self.note(&entry)
    }

    fn note(&mut self, entry: &Entry) -> Result<(), ExtractError> {
        let root = entry
            .path
            .split(|byte| *byte == b'/')
            .next()
            .unwrap_or_default();
        if self.kept.iter().any(|kept| kept == root)
            && let Some(manifest) = &mut self.manifest
        {
            manifest.apply(entry).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => refused(error.to_string()),
                _ => ExtractError::Manifest(error),
            })?;
        }
        Ok(())
    }

    /// The directory of that path, made where it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<&Rc<Directory>, ExtractError> {
        let common = self
            .open
            .iter()
            .take_while(|(known, _)| is_within(path, known))
            .count();
        self.open.truncate(common);
        let mut depth = self.open.last().map_or(0, |(known, _)| known.len());
        while depth < path.len() {
            let rest = &path[depth..];
            let begin = depth + usize::from(rest[0] == b'/');
            let end = path[begin..]
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(path.len(), |at| begin + at);
            let name = &path[begin..end];
            let next = match self.open.last() {
                None => self.roots[name].again()?,
                Some((_, above)) => above.ensure(OsStr::from_bytes(name), 0o755)?,
            };
            self.open.push((path[..end].to_vec(), Rc::new(next)));
            depth = end;
        }
        match self.open.last() {
            Some((_, directory)) => Ok(directory),
            None => Err(refused("a path without a directory")),
        }
    }

    /// Forgets the handle of a directory in whose place something else comes.
    fn close(&mut self, path: &[u8]) {
        self.open.retain(|(known, _)| !is_within(known, path));
    }

    fn take_away(&mut self, above: &[u8], name: &OsStr, entry: &Entry) -> Result<(), ExtractError> {
        // Where its directory is gone, or is one no more, it is gone too.
        let mut directory = match self.roots.get(first(above)) {
            Some(root) => root.again()?,
            None => return Ok(()),
        };
        for part in above.split(|byte| *byte == b'/').skip(1) {
            match directory.descend(OsStr::from_bytes(part)) {
                Ok(next) => directory = next,
                Err(_) => return Ok(()),
            }
        }
        match directory.remove(name) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.close(&entry.path);
                self.emptied.push(entry.path.clone());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Directories that are gone on the other side, the inner ones first. What else is in them
    /// stays.
    fn remove_emptied(&mut self) -> Result<(), ExtractError> {
        self.open.clear();
        while let Some(path) = self.emptied.pop() {
            if let Some((above, name)) = split(&path)
                && let Ok(directory) = self.parent(above)
            {
                directory.remove_empty(OsStr::from_bytes(name))?;
            }
        }
        Ok(())
    }
}

impl Writing {
    fn write(&mut self, hole: u64, piece: &[u8]) -> Result<(), ExtractError> {
        let end = hole
            .checked_add(self.at)
            .and_then(|begin| begin.checked_add(piece.len() as u64));
        if end.is_none_or(|end| end > self.entry.size) {
            return Err(refused("a file that is larger than it says"));
        }
        let Some(file) = &mut self.file else {
            self.target.extend_from_slice(piece);
            self.at += piece.len() as u64;
            return Ok(());
        };
        let written = if hole > 0 {
            self.at += hole;
            rustix::fs::seek(&*file, rustix::fs::SeekFrom::Start(self.at))
                .map_err(io::Error::from)
                .and_then(|_| file.write_all(piece))
        } else {
            file.write_all(piece)
        };
        self.at += piece.len() as u64;
        let name = name(&self.entry);
        Ok(written.map_err(|error| self.parent.failure("write", name, error))?)
    }

    /// Gives a whole file its length and its times; takes away one that changed while it was sent.
    fn finish(self, torn: bool) -> Result<Entry, ExtractError> {
        let name = name(&self.entry).to_owned();
        if torn {
            self.parent.remove(&name)?;
            return Ok(Entry::bare(Kind::Gone, self.entry.path));
        }
        match &self.file {
            None => self
                .parent
                .symlink(&name, OsStr::from_bytes(&self.target))?,
            Some(file) => {
                let time = Timespec {
                    tv_sec: self.entry.seconds,
                    tv_nsec: self.entry.nanos.into(),
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                let ends_in_a_hole = self.at < self.entry.size;
                let length = if ends_in_a_hole {
                    file.set_len(self.entry.size)
                } else {
                    Ok(())
                };
                length
                    .and_then(|()| {
                        let mode = rustix::fs::Mode::from_raw_mode(self.entry.mode);
                        rustix::fs::fchmod(file, mode)?;
                        Ok(rustix::fs::futimens(file, &times)?)
                    })
                    .map_err(|error| self.parent.failure("finish", &name, error))?;
            }
        }
        Ok(self.entry)
    }
}

/// Creates a file in place of whatever bears the name. Most are new, so that is tried first.
fn create(parent: &Directory, name: &OsStr) -> Result<File, FileError> {
    match parent.create_new(name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            clear(parent, name)?;
            parent.create_new(name)
        }
        done => done,
    }
}

/// Makes room for a file.
fn clear(parent: &Directory, name: &OsStr) -> Result<(), FileError> {
    match parent.remove(name) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => parent.remove_tree(name),
        done => done,
    }
}

fn refused(reason: impl Into<String>) -> ExtractError {
    ExtractError::Refused(reason.into())
}

fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    Some((&path[..at], &path[at + 1..]))
}

fn first(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').next().unwrap_or_default()
}

fn name(entry: &Entry) -> &OsStr {
    OsStr::from_bytes(split(&entry.path).map_or(&entry.path, |(_, name)| name))
}

/// Whether `path` is `directory` or below it.
fn is_within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}
