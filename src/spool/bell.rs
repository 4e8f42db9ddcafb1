//! Tells the hook at once that a step's directory has something new.
//!
//! A FIFO works wherever both sides share a kernel, on any file system that knows one. Where it
//! rings in vain, or is not there, the hook looks now and then. It is not inotify because closing
//! an inotify handle takes 10 to 20 ms: the kernel waits for all readers of its marks
//! (linux v6.18, `fs/notify/mark.c`, `fsnotify_wait_marks_destroyed`). That was more than all the
//! rest of a short step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::BELL;
use super::directory::Directory;

/// The hook's end.
#[derive(Debug)]
pub struct Bell {
    fifo: Option<OwnedFd>,
    heard: bool,
}

impl Bell {
    /// Hangs a bell into a step's directory, for all to ring if the step's user is another.
    #[must_use]
    pub fn hang(directory: &Directory, foreign_user: bool) -> Self {
        let mode = if foreign_user { 0o622 } else { 0o600 };
        Self {
            fifo: directory.make_fifo(BELL, mode).ok(),
            heard: false,
        }
    }

    /// Takes over the bell that hangs in a step's directory.
    #[must_use]
    pub fn take_over(directory: &Directory) -> Self {
        Self {
            fifo: directory.take_fifo(BELL).ok(),
            heard: false,
        }
    }

    /// What to poll.
    #[must_use]
    pub fn handle(&self) -> Option<BorrowedFd<'_>> {
        self.fifo.as_ref().map(AsFd::as_fd)
    }

    /// Whether it has ever rung.
    #[must_use]
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// Takes the rings away, so that the next poll waits again.
    pub fn hush(&mut self) {
        let Some(fifo) = &self.fifo else { return };
        // Not until it is empty: a job that never stops ringing would be listened to for ever.
        let mut rings = [0; 4096];
        self.heard |= matches!(rustix::io::read(fifo, &mut rings), Ok(count) if count > 0);
    }
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Ringer {
    fifo: Option<OwnedFd>,
}

impl Ringer {
    /// Takes hold of the bell in a step's directory, if a hook listens to one.
    #[must_use]
    pub fn of(directory: &Directory) -> Self {
        Self {
            fifo: directory.fifo(BELL).ok(),
        }
    }

    /// Rings.
    pub fn ring(&self) {
        if let Some(fifo) = &self.fifo {
            // A full FIFO has rung often enough, and a hook that is gone need not hear.
            let _ = rustix::io::write(fifo, b"!");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec};

    fn rings(bell: &Bell) -> bool {
        let handle = bell.handle().unwrap();
        let mut waits = [PollFd::from_borrowed_fd(handle, PollFlags::IN)];
        rustix::event::poll(&mut waits, Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn a_ring_is_heard_once() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let mut bell = Bell::hang(&directory, false);
        let ringer = Ringer::of(&directory);
        assert!(!rings(&bell) && !bell.heard());
        ringer.ring();
        assert!(rings(&bell));
        bell.hush();
        assert!(!rings(&bell) && bell.heard());
        drop(ringer);
        assert!(
            !rings(&bell),
            "a ringer that is gone does not wake the hook"
        );
    }

    #[test]
    fn ringing_never_blocks() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        let bell = Bell::hang(&directory, true);
        let ringer = Ringer::of(&directory);
        for _ in 0..100_000 {
            ringer.ring();
        }
        drop(bell);
        ringer.ring();
        Ringer::of(&directory).ring();
    }

    #[test]
    fn what_stands_in_the_bell_s_place_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        std::fs::write(root.path().join(BELL), "mine").unwrap();
        assert!(Bell::hang(&directory, false).handle().is_none());
        Ringer::of(&directory).ring();
        assert_eq!(std::fs::read(root.path().join(BELL)).unwrap(), b"mine");
        std::fs::remove_file(root.path().join(BELL)).unwrap();
        std::os::unix::fs::symlink("elsewhere", root.path().join(BELL)).unwrap();
        assert!(Bell::hang(&directory, false).handle().is_none());
        Ringer::of(&directory).ring();
    }
}
