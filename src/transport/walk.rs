//! All files below some directories, in the order of manifests, one directory's names in memory.
//!
//! A step pays for the walk whatever it changed, so it costs one system call a file and no
//! allocation: names lie in one buffer per directory and are looked at by its handle.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use super::entry::{Entry, Kind, Reason};
use super::frame::Selection;

/// Largest file of patterns that is obeyed.
const PATTERNS_LIMIT: u64 = 1024 * 1024;
/// So many directories are held open; deeper ones are reached by their paths.
const HANDLES: usize = 64;
/// Where the runner keeps actions: `owner/repository/version`, so many levels below the root.
const LINKED: (&[u8], usize) = (b"actions", 3);

/// A file that was found.
#[derive(Debug)]
pub struct Found<'w> {
    /// As a manifest knows it.
    pub entry: &'w Entry,
    walk: &'w Walk,
}

impl Found<'_> {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.walk.path()
    }
}

/// Goes through files.
#[derive(Debug)]
pub struct Walk {
    roots: Vec<(String, PathBuf)>,
    selection: Selection,
    levels: Vec<Level>,
    /// What was found last.
    entry: Entry,
    /// It is a directory whose files come next.
    entered: bool,
}

#[derive(Debug)]
struct Level {
    path: PathBuf,
    handle: Option<OwnedFd>,
    /// Bytes of the path in archives.
    archive: usize,
    names: Names,
    ignored: Vec<Gitignore>,
}

/// The names in one directory, in order.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    /// Begin and end of each, the next one last.
    left: Vec<(usize, usize)>,
    /// The one before.
    last: (usize, usize),
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(name);
        self.left.push((begin, self.bytes.len()));
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.left
            .sort_unstable_by(|one, other| bytes[other.0..other.1].cmp(&bytes[one.0..one.1]));
    }

    fn next(&mut self) -> bool {
        match self.left.pop() {
            Some(name) => {
                self.last = name;
                true
            }
            None => false,
        }
    }

    fn last(&self) -> &OsStr {
        OsStr::from_bytes(&self.bytes[self.last.0..self.last.1])
    }
}

impl Level {
    fn stat(&self, follow: bool) -> rustix::io::Result<Stat> {
        let flags = if follow {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        match &self.handle {
            Some(handle) => rustix::fs::statat(handle, self.names.last(), flags),
            None => rustix::fs::statat(rustix::fs::CWD, self.path.join(self.names.last()), flags),
        }
    }
}

impl Walk {
    /// Walks through directories, each with its name, which must be in order. One that is not there
    /// is empty.
    #[must_use]
    pub fn new(roots: &[(String, PathBuf)], selection: Selection) -> Self {
        let mut roots = roots.to_vec();
        roots.reverse();
        Self {
            roots,
            selection,
            levels: Vec::new(),
            entry: Entry::bare(Kind::End, Vec::new()),
            entered: false,
        }
    }

    /// The next file.
    ///
    /// # Errors
    /// A root cannot be listed, although it is there.
    pub fn step(&mut self) -> io::Result<Option<Found<'_>>> {
        loop {
            let Some(level) = self.levels.last_mut() else {
                let Some((name, path)) = self.roots.pop() else {
                    return Ok(None);
                };
                self.entry.path.clear();
                self.entry.path.extend_from_slice(name.as_bytes());
                match self.enter(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => continue,
                }
            };
            if !level.names.next() {
                self.levels.pop();
                continue;
            }
            self.entered = false;
            self.entry.path.truncate(level.archive);
            self.entry.path.push(b'/');
            let name = level.names.last().as_bytes();
            self.entry.path.extend_from_slice(name);
            // It may be gone since its directory was listed.
            let Ok(mut stat) = level.stat(false) else {
                continue;
            };
            let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            if is_link
                && self.may_be_linked()
                && let Some(Ok(followed)) = self.levels.last().map(|level| level.stat(true))
                && FileType::from_raw_mode(followed.st_mode) == FileType::Directory
            {
                stat = followed;
            }
            if !self.entry.fill(&stat) {
                continue;
            }
            let is_directory = self.entry.kind == Kind::Directory;
            if self.is_ignored(is_directory) {
                continue;
            }
            if is_directory {
                match self.enter(self.path()) {
                    Ok(()) => self.entered = true,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(_) => self.entry.leave(Reason::Unreadable),
                }
            }
            return Ok(Some(Found {
                entry: &self.entry,
                walk: self,
            }));
        }
    }

    /// Where the last entry is.
    fn path(&self) -> PathBuf {
        let Some(level) = self.levels.last() else {
            return PathBuf::new();
        };
        if self.entered {
            level.path.clone()
        } else {
            level.path.join(level.names.last())
        }
    }

    /// Whether a link here may be the runner's own way to a directory of a cache outside
    /// (`ACTIONS_RUNNER_SYMLINK_CACHED_ACTIONS`), of which a pod has nothing.
    fn may_be_linked(&self) -> bool {
        self.selection == Selection::All
            && self.levels.len() <= LINKED.1
            && self.entry.path.split(|byte| *byte == b'/').next() == Some(LINKED.0)
    }

    /// Lists a directory, whose path in archives is that of the last entry.
    fn enter(&mut self, path: PathBuf) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = self.levels.last().and_then(|level| {
            let handle = level.handle.as_ref()?;
            Some((handle.as_fd(), level.names.last()))
        });
        let follow = self.levels.is_empty() || self.may_be_linked();
        let flags = if follow {
            flags
        } else {
            flags | OFlags::NOFOLLOW
        };
        let handle = match above {
            Some((above, name)) => rustix::fs::openat(above, name, flags, Mode::empty()),
            None => rustix::fs::open(&path, flags, Mode::empty()),
        }?;
        // The job has its whole history, and only who it belongs to matters to the runner.
        let only = (self.selection == Selection::Tracked
            && path.file_name() == Some(".git".as_ref()))
        .then_some(b"config".as_slice());
        let names = list(handle.as_fd(), only)?;
        let mut ignored = Vec::new();
        if self.selection == Selection::Tracked {
            let candidates = [path.join(".gitignore"), path.join(".git/info/exclude")];
            for patterns in candidates {
                ignored.extend(read_patterns(&path, &patterns));
            }
        }
        self.levels.push(Level {
            archive: self.entry.path.len(),
            handle: (self.levels.len() < HANDLES).then_some(handle),
            path,
            names,
            ignored,
        });
        Ok(())
    }

    fn is_ignored(&self, is_directory: bool) -> bool {
        if self.levels.iter().all(|level| level.ignored.is_empty()) {
            return false;
        }
        let path = self.path();
        self.levels
            .iter()
            .rev()
            .flat_map(|level| &level.ignored)
            .find_map(|patterns| match patterns.matched(&path, is_directory) {
                ignore::Match::None => None,
                found => Some(found.is_ignore()),
            })
            .unwrap_or(false)
    }
}

fn list(directory: BorrowedFd<'_>, only: Option<&[u8]>) -> io::Result<Names> {
    let mut names = Names::default();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let is_itself = name == b"." || name == b"..";
        if !is_itself && only.is_none_or(|only| only == name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Patterns count from the directory of their file.
fn read_patterns(root: &Path, file: &Path) -> Option<Gitignore> {
    let stat = std::fs::symlink_metadata(file).ok()?;
    if !stat.is_file() || stat.len() > PATTERNS_LIMIT {
        return None;
    }
    let mut builder = GitignoreBuilder::new(root);
    builder.add(file);
    builder.build().ok()
}

/// What is at a path, without following a link.
pub fn stat(path: &Path) -> rustix::io::Result<Stat> {
    rustix::fs::lstat(path)
}

#[cfg(test)]
mod tests {
    use super::super::entry::{order, printable};
    use super::*;
    use std::fs;

    fn found(root: &Path, selection: Selection) -> Vec<String> {
        let mut walk = Walk::new(&[("w".to_owned(), root.to_owned())], selection);
        let mut paths = Vec::new();
        while let Some(found) = walk.step().unwrap() {
            let place = found.path();
            assert!(
                place.starts_with(root) && place.symlink_metadata().is_ok(),
                "{place:?}"
            );
            paths.push(found.entry.path.clone());
        }
        assert!(
            paths.is_sorted_by(|one, other| order(one, other).is_lt()),
            "{paths:?}"
        );
        paths.iter().map(|path| printable(path)).collect()
    }

    #[test]
    fn files_are_found_in_order_whatever_their_names() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt as _;
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        for name in [
            b"a.txt".to_vec(),
            b"line\nbreak".to_vec(),
            b"\xff\xfe".to_vec(),
        ] {
            fs::write(root.path().join(OsString::from_vec(name)), "").unwrap();
        }
        fs::write(root.path().join("a/b/c d"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
        let all = found(root.path(), Selection::All);
        assert_eq!(all.len(), 7, "{all:?}");
        assert_eq!(all[..3], ["w/a", "w/a/b", "w/a/b/c d"]);
    }

    #[test]
    fn what_git_ignores_stays_and_of_its_own_files_only_the_configuration_comes() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for directory in [
            ".git/objects/aa",
            ".git/info",
            "build/deep",
            "src/keep",
            "src/out",
        ] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        for file in [
            ".git/config",
            ".git/objects/aa/bb",
            "build/deep/x.o",
            "src/a.c",
            "src/a.o",
            "src/keep/b.o",
            "src/out/c",
            "local",
        ] {
            fs::write(path(file), "").unwrap();
        }
        fs::write(path(".gitignore"), "/build/\n*.o\n").unwrap();
        fs::write(path("src/.gitignore"), "out\n").unwrap();
        fs::write(path("src/keep/.gitignore"), "!*.o\n").unwrap();
        fs::write(path(".git/info/exclude"), "local\n").unwrap();
        assert_eq!(
            found(root.path(), Selection::Tracked),
            [
                "w/.git",
                "w/.git/config",
                "w/.gitignore",
                "w/src",
                "w/src/.gitignore",
                "w/src/a.c",
                "w/src/keep",
                "w/src/keep/.gitignore",
                "w/src/keep/b.o",
            ]
        );
    }

    #[test]
    fn a_version_of_an_action_that_is_a_link_is_what_it_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("cache/v1/dist")).unwrap();
        fs::write(path("cache/v1/dist/index.js"), "").unwrap();
        std::os::unix::fs::symlink(path("cache"), path("cache/v1/dist/outside")).unwrap();
        fs::create_dir_all(path("actions/octo/js")).unwrap();
        std::os::unix::fs::symlink(path("cache/v1"), path("actions/octo/js/v1")).unwrap();
        let found = |name: &str| {
            let mut walk = Walk::new(&[(name.to_owned(), path("actions"))], Selection::All);
            let mut found = Vec::new();
            while let Some(one) = walk.step().unwrap() {
                found.push((printable(&one.entry.path), one.entry.kind));
            }
            found
        };
        let own = |path: &str, kind| (path.to_owned(), kind);
        assert_eq!(
            found("actions")[2..],
            [
                own("actions/octo/js/v1", Kind::Directory),
                own("actions/octo/js/v1/dist", Kind::Directory),
                own("actions/octo/js/v1/dist/index.js", Kind::File),
                own("actions/octo/js/v1/dist/outside", Kind::Link),
            ]
        );
        assert_eq!(
            found("workspace")[2..],
            [own("workspace/octo/js/v1", Kind::Link)]
        );
    }

    #[test]
    fn directories_deeper_than_handles_are_held_are_found() {
        let root = tempfile::tempdir().unwrap();
        let deep = "d/".repeat(2 * HANDLES);
        fs::create_dir_all(root.path().join(&deep)).unwrap();
        fs::write(root.path().join(&deep).join("file"), "").unwrap();
        let all = found(root.path(), Selection::Tracked);
        assert_eq!(all.len(), 2 * HANDLES + 1);
        assert_eq!(*all.last().unwrap(), format!("w/{deep}file"));
    }

    #[test]
    fn a_pipe_in_place_of_patterns_holds_nothing_up() {
        let root = tempfile::tempdir().unwrap();
        let fifo = root.path().join(".gitignore");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(found(root.path(), Selection::Tracked), Vec::<String>::new());
    }
}
