//! A directory that a hostile job can write, used by handle.
//!
//! Every name is one component and is opened without following links, so neither a planted link
//! nor a renamed parent leads elsewhere; only regular files are read, so no FIFO blocks; nothing
//! is read beyond a stated size.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use thiserror::Error;

/// What could not be done to a file, and why.
#[derive(Debug, Error)]
#[error("{verb} `{}`: {cause}", path.display())]
pub struct FileError {
    verb: &'static str,
    path: PathBuf,
    // No `source`: the text has it already, and a chain would say it twice.
    cause: io::Error,
}

impl FileError {
    /// The kind of the underlying error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }
}

/// A directory, open.
#[derive(Debug)]
pub struct Directory {
    handle: OwnedFd,
    path: PathBuf,
}

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);
const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Directory {
    /// Opens a directory by a path whose parents only the hook can write.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let handle =
            rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|errno| FileError {
                verb: "open the directory",
                path: path.to_owned(),
                cause: errno.into(),
            })?;
        Ok(Self {
            handle,
            path: path.to_owned(),
        })
    }

    /// Where it was when it was opened; for messages only.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about a file in this directory.
    pub(crate) fn failure(
        &self,
        verb: &'static str,
        name: impl AsRef<OsStr>,
        cause: impl Into<io::Error>,
    ) -> FileError {
        FileError {
            verb,
            path: self.path.join(name.as_ref()),
            cause: cause.into(),
        }
    }

    /// Refuses names that are more than one component.
    fn component<'n>(&self, name: &'n OsStr) -> Result<&'n OsStr, FileError> {
        let bytes = name.as_encoded_bytes();
        if bytes.is_empty() || bytes == b".." || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(self.failure("use", name, Errno::INVAL));
        }
        Ok(name)
    }

    /// Opens a directory in this one.
    pub fn descend(&self, name: impl AsRef<OsStr>) -> Result<Self, FileError> {
        let name = name.as_ref();
        let handle = rustix::fs::openat(
            &self.handle,
            self.component(name)?,
            DIRECTORY,
            Mode::empty(),
        )
        .map_err(|errno| self.failure("open the directory", name, errno))?;
        Ok(Self {
            handle,
            path: self.path.join(name),
        })
    }

    /// Makes a directory, or takes the one that is there, and gives it exactly `mode`.
    pub fn make(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Self, FileError> {
        let name = name.as_ref();
        match rustix::fs::mkdirat(&self.handle, self.component(name)?, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failure("make the directory", name, errno)),
        }
        let directory = self.descend(name)?;
        directory.set_mode(mode)?;
        Ok(directory)
    }

    /// Gives it a mode. One of another owner that is already there keeps its own: the tool cache of an
    /// image, for example.
    pub fn set_mode(&self, mode: u32) -> Result<(), FileError> {
        match rustix::fs::fchmod(&self.handle, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::PERM) => Ok(()),
            Err(errno) => Err(FileError {
                verb: "set the mode of",
                path: self.path.clone(),
                cause: errno.into(),
            }),
        }
    }

    /// Takes the directory that is there as it is, or makes it with `mode`.
    pub fn ensure(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Self, FileError> {
        let name = name.as_ref();
        match self.descend(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make(name, mode),
            found => found,
        }
    }

    /// Opens a regular file for reading. `None` when there is nothing of that name.
    pub fn file(&self, name: impl AsRef<OsStr>) -> Result<Option<File>, FileError> {
        let name = name.as_ref();
        let handle =
            match rustix::fs::openat(&self.handle, self.component(name)?, READ, Mode::empty()) {
                Ok(handle) => handle,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP) => {
                    return Err(self.failure(
                        "read",
                        name,
                        io::Error::other("it is a symbolic link"),
                    ));
                }
                Err(errno) => return Err(self.failure("read", name, errno)),
            };
        let stat =
            rustix::fs::fstat(&handle).map_err(|errno| self.failure("examine", name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.failure("read", name, io::Error::other("it is not a regular file")));
        }
        Ok(Some(handle.into()))
    }

    /// Reads a whole file of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        let Some(file) = self.file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.failure("read", name, error))?;
        if bytes.len() as u64 > limit {
            return Err(self.failure(
                "read",
                name,
                io::Error::other(format!("it is larger than {limit} bytes")),
            ));
        }
        Ok(Some(bytes))
    }

    /// Creates a file that must not exist, with exactly `mode`.
    pub fn create(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<File, FileError> {
        let name = name.as_ref();
        let mode = Mode::from_raw_mode(mode);
        let handle = rustix::fs::openat(&self.handle, self.component(name)?, CREATE, mode)
            .map_err(|errno| self.failure("create", name, errno))?;
        rustix::fs::fchmod(&handle, mode).map_err(|errno| self.failure("create", name, errno))?;
        Ok(handle.into())
    }

    /// Creates a file that must not exist, for its owner alone until it gets a mode.
    pub fn create_new(&self, name: impl AsRef<OsStr>) -> Result<File, FileError> {
        let name = name.as_ref();
        let mode = Mode::RUSR | Mode::WUSR;
        let handle = rustix::fs::openat(&self.handle, self.component(name)?, CREATE, mode)
            .map_err(|errno| self.failure("create", name, errno))?;
        Ok(handle.into())
    }

    /// Creates a file in place of whatever non-directory bears the name.
    pub fn replace(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<File, FileError> {
        let name = name.as_ref();
        self.remove(name)?;
        self.create(name, mode)
    }

    /// Makes a FIFO with exactly `mode`, open so that neither end ever blocks or finds the other
    /// missing.
    pub fn make_fifo(&self, name: &str, mode: u32) -> Result<OwnedFd, FileError> {
        let name = OsStr::new(name);
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::mknodat(&self.handle, self.component(name)?, FileType::Fifo, mode, 0)
            .map_err(|errno| self.failure("make the FIFO", name, errno))?;
        let fifo = self.open_fifo(name, OFlags::RDWR)?;
        rustix::fs::fchmod(&fifo, mode).map_err(|errno| self.failure("make", name, errno))?;
        Ok(fifo)
    }

    /// Opens a FIFO that somebody reads, for writing without ever waiting.
    pub fn fifo(&self, name: &str) -> Result<OwnedFd, FileError> {
        self.open_fifo(name.as_ref(), OFlags::WRONLY)
    }

    fn open_fifo(&self, name: &OsStr, access: OFlags) -> Result<OwnedFd, FileError> {
        let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.handle, self.component(name)?, flags, Mode::empty())
            .map_err(|errno| self.failure("open the FIFO", name, errno))?;
        let stat =
            rustix::fs::fstat(&handle).map_err(|errno| self.failure("examine", name, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
            return Err(self.failure("open", name, io::Error::other("it is not a FIFO")));
        }
        Ok(handle)
    }

    /// Writes a record: it appears whole, under its name, or not at all.
    pub fn record(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FileError> {
        let temporary = format!(".{name}.new");
        let written = self.replace(&temporary, mode)?.write_all(bytes);
        written
            .map_err(|error| self.failure("write", name, error))
            .and_then(|()| self.rename(&temporary, name))
            .inspect_err(|_| {
                // The record is lost either way; a full disk is no place to leave half of it.
                let _ = self.remove(&temporary);
            })
    }

    /// Renames within this directory.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        rustix::fs::renameat_with(
            &self.handle,
            self.component(from.as_ref())?,
            &self.handle,
            self.component(to.as_ref())?,
            RenameFlags::empty(),
        )
        .map_err(|errno| self.failure("rename to", to, errno))
    }

    /// Moves a directory of this one to another one.
    pub fn hand_over(&self, from: &str, other: &Self, to: &str) -> Result<(), FileError> {
        let from = self.component(from.as_ref())?;
        rustix::fs::renameat(
            &self.handle,
            from,
            &other.handle,
            other.component(to.as_ref())?,
        )
        .map_err(|errno| other.failure("rename to", to, errno))
    }

    /// Tells ext4 that what is in this directory does not belong together (`chattr +T`), so that it
    /// puts each directory that is made here into a part of the disk that it draws by its name.
    /// Other file systems know nothing of that.
    pub fn scatter(&self) -> io::Result<()> {
        let flags = rustix::fs::ioctl_getflags(&self.handle)?;
        Ok(rustix::fs::ioctl_setflags(
            &self.handle,
            flags | IFlags::TOPDIR,
        )?)
    }

    /// Gives a file of this directory the same name in another one, too.
    pub fn link(&self, name: &str, other: &Self) -> Result<(), FileError> {
        let component = self.component(name.as_ref())?;
        let no_follow = AtFlags::empty();
        rustix::fs::linkat(&self.handle, component, &other.handle, component, no_follow)
            .map_err(|errno| other.failure("link", name, errno))
    }

    /// Removes a file, a link, or whatever is not a directory. Fine when it is gone.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<(), FileError> {
        let name = name.as_ref();
        match rustix::fs::unlinkat(&self.handle, self.component(name)?, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failure("remove", name, errno)),
        }
    }

    /// Makes a symbolic link, which this hook never follows.
    pub fn symlink(&self, name: impl AsRef<OsStr>, target: &OsStr) -> Result<(), FileError> {
        let name = name.as_ref();
        rustix::fs::symlinkat(target, &self.handle, self.component(name)?)
            .map_err(|errno| self.failure("make the link", name, errno))
    }

    /// Removes a directory if nothing is in it. Fine when there is, or when it is gone.
    pub fn remove_empty(&self, name: impl AsRef<OsStr>) -> Result<(), FileError> {
        let name = name.as_ref();
        match rustix::fs::unlinkat(&self.handle, self.component(name)?, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(self.failure("remove", name, errno)),
        }
    }

    /// Another handle on the same directory.
    pub fn again(&self) -> Result<Self, FileError> {
        let handle = self.handle.try_clone();
        Ok(Self {
            handle: handle.map_err(|error| self.failure("open again", "", error))?,
            path: self.path.clone(),
        })
    }

    /// Opens a FIFO that is there, as [`Self::make_fifo`] leaves it.
    pub fn take_fifo(&self, name: &str) -> Result<OwnedFd, FileError> {
        self.open_fifo(name.as_ref(), OFlags::RDWR)
    }

    /// Whether something of that name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The names in it, without `.` and `..`. Names that are not UTF-8 are left out: no record has
    /// such a name.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        let entries = rustix::fs::Dir::read_from(&self.handle)
            .map_err(|errno| self.failure("list", "", errno))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|errno| self.failure("list", "", errno))?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes a directory in this one with everything below it, following no link.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<(), FileError> {
        let name = name.as_ref();
        let path = self.by_handle(self.component(name)?);
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failure("remove", name, error))
            }
            _ => Ok(()),
        }
    }

    /// A path that leads to this very directory, wherever it has been moved.
    #[must_use]
    pub fn by_handle(&self, name: impl AsRef<OsStr>) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        let name = name.as_ref();
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()));
        if !name.is_empty() {
            path.push(name);
        }
        path
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn scratch() -> (tempfile::TempDir, Directory) {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        (root, directory)
    }

    #[test]
    fn a_link_is_not_followed_when_a_file_is_read() {
        let (root, directory) = scratch();
        std::fs::write(root.path().join("secret"), "token").unwrap();
        symlink("secret", root.path().join("exit.json")).unwrap();
        let error = directory.read("exit.json", 100).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
    }

    #[test]
    fn a_fifo_neither_blocks_nor_is_read() {
        let (root, directory) = scratch();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path().join("exit.json"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let error = directory.read("exit.json", 100).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_directory_that_was_replaced_by_a_link_is_not_entered() {
        let (root, directory) = scratch();
        std::fs::create_dir(root.path().join("elsewhere")).unwrap();
        symlink("elsewhere", root.path().join("steps")).unwrap();
        assert!(directory.descend("steps").is_err());
        assert!(directory.make("steps", 0o777).is_err());
    }

    #[test]
    fn a_file_is_never_read_beyond_its_limit() {
        let (root, directory) = scratch();
        std::fs::write(root.path().join("exit.json"), vec![b'x'; 101]).unwrap();
        assert!(directory.read("exit.json", 100).is_err());
        assert_eq!(
            directory.read("exit.json", 101).unwrap().unwrap().len(),
            101
        );
    }

    #[test]
    fn names_of_more_than_one_component_are_refused() {
        let (_root, directory) = scratch();
        for name in ["../x", "a/b", "", "..", "a\0b"] {
            assert!(directory.file(name).is_err(), "{name:?}");
            assert!(directory.create(name, 0o600).is_err(), "{name:?}");
        }
    }

    #[test]
    fn creating_over_a_planted_link_does_not_write_through_it() {
        let (root, directory) = scratch();
        std::fs::write(root.path().join("victim"), "whole").unwrap();
        symlink("victim", root.path().join("script.sh")).unwrap();
        assert!(directory.create("script.sh", 0o644).is_err());
        directory
            .replace("script.sh", 0o644)
            .unwrap()
            .write_all(b"echo")
            .unwrap();
        assert_eq!(std::fs::read(root.path().join("victim")).unwrap(), b"whole");
        assert_eq!(
            std::fs::read(root.path().join("script.sh")).unwrap(),
            b"echo"
        );
    }

    #[test]
    fn a_moved_directory_is_still_the_one_that_was_opened() {
        let (root, directory) = scratch();
        let steps = directory.make("steps", 0o755).unwrap();
        std::fs::rename(root.path().join("steps"), root.path().join("moved")).unwrap();
        std::fs::create_dir(root.path().join("steps")).unwrap();
        steps.record("exit.json", b"{}", 0o644).unwrap();
        assert!(root.path().join("moved/exit.json").exists());
        assert!(!root.path().join("steps/exit.json").exists());
    }
}
