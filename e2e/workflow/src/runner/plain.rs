//! Files that the runner reads and writes where a job may reach them. It
//! follows links there and would wait for ever at a FIFO; the driver says so
//! instead of waiting.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use thiserror::Error;

/// Why a file was not read or written.
#[derive(Debug, Error)]
pub enum PlainError {
    /// The runner has no remedy against it, and the job hangs.
    #[error("the runner would wait for ever at a FIFO")]
    Fifo,
    /// A device: the runner might read it without end.
    #[error("not a regular file")]
    Device,
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The bytes of a file; `None` when there is none, which a directory counts
/// as too (.NET's `File.Exists`).
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, PlainError> {
    let mut file = match open(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(PlainError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_dir() {
        return Ok(None);
    }
    if !file.metadata()?.is_file() {
        return Err(PlainError::Device);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Replaces the content of a file, or makes it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), PlainError> {
    let mut options = OpenOptions::new();
    let mut file = open(options.write(true).create(true).truncate(true), path)?;
    Ok(file.write_all(bytes)?)
}

fn open(options: &mut OpenOptions, path: &Path) -> Result<File, PlainError> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    match options.custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.file_type().is_fifo() => Err(PlainError::Fifo),
        Ok(file) => Ok(file),
        // Nobody reads at the other end.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            Err(PlainError::Fifo)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};

    #[test]
    fn nobody_waits_at_a_fifo() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("fifo");
        mkfifoat(CWD, &path, Mode::RWXU).unwrap();
        assert!(matches!(read(&path), Err(PlainError::Fifo)));
        assert!(matches!(write(&path, b"x"), Err(PlainError::Fifo)));
    }

    #[test]
    fn links_are_followed_as_the_runner_does() {
        let temp = tempfile::tempdir().unwrap();
        let (file, link) = (temp.path().join("file"), temp.path().join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&link).unwrap(), None);
        write(&link, b"longer").unwrap();
        write(&link, b"text").unwrap();
        assert_eq!(read(&file).unwrap().unwrap(), b"text");
        assert_eq!(read(temp.path()).unwrap(), None);
        assert!(matches!(
            read(Path::new("/dev/null")),
            Err(PlainError::Device)
        ));
    }
}
