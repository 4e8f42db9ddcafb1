//! All files below some directories, in the order of manifests, one directory's names in memory.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::Stat;

use super::entry::{Entry, Kind, Reason};
use super::frame::Selection;

/// Largest file of patterns that is obeyed.
const PATTERNS_LIMIT: u64 = 1024 * 1024;

/// A file that was found.
#[derive(Debug)]
pub struct Found {
    /// As a manifest knows it.
    pub entry: Entry,
    /// Where it is.
    pub path: PathBuf,
}

/// An iterator over files.
#[derive(Debug)]
pub struct Walk {
    roots: Vec<(String, PathBuf)>,
    selection: Selection,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    path: PathBuf,
    archive: Vec<u8>,
    /// The names that are left, the next one last.
    names: Vec<OsString>,
    ignored: Vec<Gitignore>,
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
        }
    }

    fn enter(&self, path: PathBuf, archive: Vec<u8>) -> io::Result<Level> {
        let mut names = std::fs::read_dir(&path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        // The job has its whole history, and only who it belongs to matters to the runner.
        if self.selection == Selection::Tracked && path.file_name() == Some(".git".as_ref()) {
            names.retain(|name| name == "config");
        }
        names.sort_unstable_by(|one, other| other.as_bytes().cmp(one.as_bytes()));
        let mut ignored = Vec::new();
        if self.selection == Selection::Tracked {
            let candidates = [path.join(".gitignore"), path.join(".git/info/exclude")];
            for patterns in candidates {
                ignored.extend(read_patterns(&path, &patterns));
            }
        }
        Ok(Level {
            path,
            archive,
            names,
            ignored,
        })
    }

    fn is_ignored(&self, path: &Path, is_directory: bool) -> bool {
        self.levels
            .iter()
            .rev()
            .flat_map(|level| &level.ignored)
            .find_map(|patterns| match patterns.matched(path, is_directory) {
                ignore::Match::None => None,
                found => Some(found.is_ignore()),
            })
            .unwrap_or(false)
    }
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

impl Iterator for Walk {
    type Item = io::Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(level) = self.levels.last_mut() else {
                let (name, path) = self.roots.pop()?;
                match self.enter(path, name.into_bytes()) {
                    Ok(level) => self.levels.push(level),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            let archive = [&level.archive, b"/".as_slice(), name.as_bytes()].concat();
            // It may be gone since its directory was listed.
            let Some(mut entry) = stat(&path).ok().and_then(|stat| Entry::of(&stat, archive))
            else {
                continue;
            };
            let is_directory = entry.kind == Kind::Directory;
            if self.is_ignored(&path, is_directory) {
                continue;
            }
            if is_directory {
                match self.enter(path.clone(), entry.path.clone()) {
                    Ok(level) => self.levels.push(level),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(_) => entry = entry.left(Reason::Unreadable),
                }
            }
            return Some(Ok(Found { entry, path }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{order, printable};
    use super::*;
    use std::fs;

    fn found(root: &Path, selection: Selection) -> Vec<String> {
        let paths: Vec<Vec<u8>> = Walk::new(&[("w".to_owned(), root.to_owned())], selection)
            .map(|found| found.unwrap().entry.path)
            .collect();
        assert!(
            paths.is_sorted_by(|one, other| order(one, other).is_lt()),
            "{paths:?}"
        );
        paths.iter().map(|path| printable(path)).collect()
    }

    #[test]
    fn files_are_found_in_order_whatever_their_names() {
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
    fn a_pipe_in_place_of_patterns_holds_nothing_up() {
        let root = tempfile::tempdir().unwrap();
        let fifo = root.path().join(".gitignore");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(found(root.path(), Selection::Tracked), Vec::<String>::new());
    }
}
