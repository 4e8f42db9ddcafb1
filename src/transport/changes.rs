//! The sender's end of an archive: entries in order, each with what it holds.
//!
//! Not tar: an archive says also what is gone and what stays behind, keeps times to the
//! nanosecond, leaves holes out, and knows neither devices nor hard links.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::entry::{Entries, Entry, Kind, Reason, order};
use super::manifest::{Change, Changed};
use super::walk::{self, Found, Walk};

/// Bytes of a piece of content, and of its header: a hole before it, and its length.
const PIECE: usize = 64 * 1024;
/// From this size on a file is looked through for holes.
const SPARSE: u64 = 1024 * 1024;
/// The end of content that is whole, and of content that changed while it was read.
pub(super) const WHOLE: u64 = 0;
pub(super) const TORN: u64 = u64::MAX;

/// What may come back to the runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of all files of the workspace.
    pub total: u64,
    /// Entries of one archive.
    pub entries: u64,
}

/// What the runner needs of a workspace is source and metadata. A file as large as this one GitHub
/// itself refuses in a repository.
pub const LIMITS: Limits = Limits {
    file: 100 * 1024 * 1024,
    total: 2 * 1024 * 1024 * 1024,
    entries: 1_000_000,
};

/// For what the runner sends: it is trusted.
pub const NO_LIMITS: Limits = Limits {
    file: u64::MAX,
    total: u64::MAX,
    entries: u64::MAX,
};

/// Writes an archive.
#[derive(Debug)]
pub struct Sender<W> {
    out: W,
    buffer: Vec<u8>,
    manifest: Option<Change>,
}

impl<W: Write> Sender<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
            manifest: None,
        }
    }

    /// Notes what is sent from now on in a manifest.
    pub fn note_in(&mut self, manifest: Change) {
        self.manifest = Some(manifest);
    }

    fn note(&mut self, entry: &Entry) -> io::Result<()> {
        match &mut self.manifest {
            Some(manifest) => manifest.apply(entry),
            None => Ok(()),
        }
    }

    /// Sends what differs between a manifest and the files of a walk. Of the manifest only what is
    /// below `within` counts, if that is given.
    ///
    /// A file that the walk leaves out although it is there, because git ignores it, stays as it
    /// is on the other side. `roots` tells where to look.
    pub fn differences<R: io::Read>(
        &mut self,
        manifest: &mut Entries<R>,
        within: Option<&str>,
        walk: Walk,
        roots: &[(String, PathBuf)],
        limits: Limits,
    ) -> io::Result<()> {
        let mut old = Known::of(manifest, within)?;
        let mut total = 0_u64;
        let mut walk = walk;
        while let Some(found) = walk.step()? {
            while let Some(known) = old.entry() {
                if order(&known.path, &found.entry.path) != Ordering::Less {
                    break;
                }
                self.missing(known, roots, limits)?;
                old.advance()?;
            }
            let known = old.entry().filter(|known| known.path == found.entry.path);
            let is_known = known.is_some();
            self.one(known, &found, limits, &mut total)?;
            if is_known {
                old.advance()?;
            }
        }
        while let Some(known) = old.entry() {
            self.missing(known, roots, limits)?;
            old.advance()?;
        }
        Ok(())
    }

    fn one(
        &mut self,
        known: Option<&Entry>,
        found: &Found<'_>,
        limits: Limits,
        total: &mut u64,
    ) -> io::Result<()> {
        let from_job = limits != NO_LIMITS;
        let entry = found.entry;
        match entry.kind {
            // The runner gets no links of the job's making. One that it has itself stays.
            Kind::Link if from_job => match known {
                Some(known) if known.kind != Kind::Link => {
                    self.entry(&Entry::bare(Kind::Gone, entry.path.clone()))
                }
                _ => Ok(()),
            },
            Kind::File => {
                let sum = total.saturating_add(entry.size);
                if known == Some(entry) {
                    *total = sum;
                    return Ok(());
                }
                if entry.size > limits.file {
                    return self.leave(known, entry.clone(), Reason::TooLarge);
                }
                if sum > limits.total {
                    return self.leave(known, entry.clone(), Reason::TooMuch);
                }
                *total = sum;
                self.content_of(known, entry.clone(), &found.path(), limits)
            }
            _ if known == Some(entry) => Ok(()),
            Kind::Link => {
                let target = match std::fs::read_link(found.path()) {
                    Ok(target) => target,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(error),
                };
                self.begin(entry)?;
                self.piece(0, target.as_os_str().as_bytes())?;
                self.end(WHOLE)?;
                self.note(entry)
            }
            _ => self.entry(entry),
        }
    }

    /// Sends the file at `path` as `entry`, which it is by the time it is opened. Nothing when it
    /// is not there.
    pub fn file(&mut self, entry: Entry, path: &Path, limits: Limits) -> io::Result<()> {
        self.content_of(None, entry, path, limits)
    }

    /// The same for one that the other side may have.
    fn content_of(
        &mut self,
        known: Option<&Entry>,
        entry: Entry,
        path: &Path,
        limits: Limits,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty())
            .and_then(|handle| Ok((rustix::fs::fstat(&handle)?, handle)));
        let (stat, handle) = match opened {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) if known.is_some() => {
                return self.entry(&Entry::bare(Kind::Gone, entry.path));
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(()),
            Err(Errno::ACCESS | Errno::PERM) => {
                return self.leave(known, entry, Reason::Unreadable);
            }
            Err(errno) => return Err(errno.into()),
        };
        let entry = match Entry::of(&stat, entry.path) {
            Some(entry) if entry.kind == Kind::File => entry,
            _ => return Ok(()),
        };
        if entry.size > limits.file {
            return self.leave(known, entry, Reason::TooLarge);
        }
        self.begin(&entry)?;
        let mut file = File::from(handle);
        let whole = self.content(&mut file, entry.size)?;
        let unchanged = rustix::fs::fstat(&file).is_ok_and(|now| {
            now.st_mtime == stat.st_mtime && now.st_mtime_nsec == stat.st_mtime_nsec
        });
        if whole && unchanged {
            self.end(WHOLE)?;
            return self.note(&entry);
        }
        self.end(TORN)?;
        self.note(&Entry::bare(Kind::Gone, entry.path))
    }

    /// Sends at most `size` bytes; `false` when there are fewer.
    fn content(&mut self, file: &mut File, size: u64) -> io::Result<bool> {
        let mut buffer = vec![0; PIECE.min(usize::try_from(size).unwrap_or(PIECE))];
        let mut at = 0;
        while at < size {
            let mut hole = 0;
            if size >= SPARSE {
                match rustix::fs::seek(&*file, SeekFrom::Data(at)) {
                    Ok(data) => hole = data.min(size) - at,
                    Err(Errno::NXIO) => return Ok(true),
                    // Not every file system knows holes.
                    Err(_) => {}
                }
            }
            at += hole;
            if at >= size {
                return Ok(true);
            }
            let want = buffer
                .len()
                .min(usize::try_from(size - at).unwrap_or(PIECE));
            let count = match file.read(&mut buffer[..want]) {
                Ok(0) => return Ok(false),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.piece(hole, &buffer[..count])?;
            at += count as u64;
        }
        Ok(true)
    }

    /// An entry of the manifest that the walk did not find.
    fn missing(
        &mut self,
        known: &Entry,
        roots: &[(String, PathBuf)],
        limits: Limits,
    ) -> io::Result<()> {
        let there = roots
            .iter()
            .find(|(name, _)| is_below(&known.path, name))
            .is_some_and(|(_, root)| is_there(root, known));
        // What the job did not send, the runner cannot miss.
        if there || (known.kind == Kind::Left && limits == NO_LIMITS) {
            return Ok(());
        }
        self.entry(&Entry::bare(Kind::Gone, known.path.clone()))
    }

    /// Says of a file that it does not come, once for each state of it.
    fn leave(&mut self, known: Option<&Entry>, entry: Entry, reason: Reason) -> io::Result<()> {
        let left = entry.left(reason);
        if known == Some(&left) {
            return Ok(());
        }
        self.entry(&left)
    }

    /// An entry without content.
    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.begin(entry)?;
        self.note(entry)
    }

    fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        self.buffer.clear();
        entry.encode(&mut self.buffer);
        self.out.write_all(&self.buffer)
    }

    fn piece(&mut self, hole: u64, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(&hole.to_le_bytes())?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(bytes)
    }

    fn end(&mut self, status: u64) -> io::Result<()> {
        self.piece(status, &[])
    }

    /// Ends the archive, and returns the manifest, if there is one.
    pub fn finish(mut self) -> io::Result<Option<Changed>> {
        self.begin(&Entry::bare(Kind::End, Vec::new()))?;
        self.out.flush()?;
        self.manifest.map(Change::finish).transpose()
    }
}

/// The entries of a manifest that count, one by one.
struct Known<'m, R> {
    manifest: &'m mut Entries<R>,
    within: Option<&'m str>,
    entry: Entry,
    ended: bool,
}

impl<'m, R: io::Read> Known<'m, R> {
    fn of(manifest: &'m mut Entries<R>, within: Option<&'m str>) -> io::Result<Self> {
        let mut known = Self {
            manifest,
            within,
            entry: Entry::bare(Kind::End, Vec::new()),
            ended: false,
        };
        known.advance()?;
        Ok(known)
    }

    fn entry(&self) -> Option<&Entry> {
        (!self.ended).then_some(&self.entry)
    }

    fn advance(&mut self) -> io::Result<()> {
        while !self.ended {
            self.ended = !self.manifest.read_into(&mut self.entry)?;
            if self
                .within
                .is_none_or(|root| is_below(&self.entry.path, root))
            {
                break;
            }
        }
        Ok(())
    }
}

fn is_below(path: &[u8], root: &str) -> bool {
    path.strip_prefix(root.as_bytes())
        .is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Whether an entry of the manifest is still what it was, and where it was: not behind a link that
/// has taken the place of a directory.
fn is_there(root: &Path, known: &Entry) -> bool {
    let mut path = root.to_owned();
    let mut parts = known.path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(part) = parts.next() {
        path.push(std::ffi::OsStr::from_bytes(part));
        let expected = match parts.peek() {
            Some(_) => Kind::Directory,
            None => known.kind,
        };
        match walk::stat(&path) {
            Ok(stat) if Entry::of(&stat, Vec::new()).is_some_and(|now| now.kind == expected) => {}
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => return false,
            // What cannot be examined may well be there.
            Err(_) => return true,
        }
    }
    true
}
