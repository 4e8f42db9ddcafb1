//! The runner's wish to end: SIGINT, 7.5 s, SIGTERM, 2.5 s, SIGKILL (actions/runner 2.336.0,
//! `src/Runner.Sdk/ProcessInvoker.cs`); a shutdown may send SIGINT twice.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// SIGINT and SIGTERM, made into something to poll.
#[derive(Debug)]
pub struct Signals {
    received: Arc<AtomicUsize>,
    wake: UnixStream,
}

impl Signals {
    /// Catches both signals from now on.
    pub fn catch() -> io::Result<Self> {
        Self::catch_these(&[SIGINT, SIGTERM])
    }

    /// Catches the given signals from now on.
    pub fn catch_these(signals: &[i32]) -> io::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let (wake, ring) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        for &signal in signals {
            let value = usize::try_from(signal).unwrap_or(0);
            signal_hook::flag::register_usize(signal, Arc::clone(&received), value)?;
            signal_hook::low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        Ok(Self { received, wake })
    }

    /// One that no process sends, with the means to raise it.
    pub fn raised_by_hand() -> io::Result<(Self, Raise)> {
        let received = Arc::new(AtomicUsize::new(0));
        let (wake, ring) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        let raise = Raise {
            received: Arc::clone(&received),
            ring,
        };
        Ok((Self { received, wake }, raise))
    }

    /// The last signal that came, if any did.
    #[must_use]
    pub fn received(&self) -> Option<u8> {
        match self.received.load(Ordering::SeqCst) {
            0 => None,
            signal => u8::try_from(signal).ok(),
        }
    }

    /// Takes the bell's bytes away, so that the next poll waits again.
    pub fn hush(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.wake).read(&mut bytes), Ok(count) if count > 0) {}
    }
}

/// Raises a signal that no process sends.
#[derive(Debug)]
pub struct Raise {
    received: Arc<AtomicUsize>,
    ring: UnixStream,
}

impl Raise {
    /// Raises SIGINT.
    pub fn interrupt(&self) {
        let signal = usize::try_from(SIGINT).unwrap_or(0);
        self.received.store(signal, Ordering::SeqCst);
        self.wake();
    }

    /// Whether it was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.received.load(Ordering::SeqCst) != 0
    }

    /// Wakes who waits, without a signal.
    pub fn wake(&self) {
        // A full socket has been heard.
        let _ = (&self.ring).write(b"!");
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::consts::{SIGUSR1, SIGUSR2};

    /// One that caught both would remember the second only: the supervisor once forgot a SIGTERM
    /// when a child ended right after it.
    #[test]
    fn a_signal_is_not_forgotten_because_of_one_that_another_catches() {
        let first = Signals::catch_these(&[SIGUSR1]).unwrap();
        let second = Signals::catch_these(&[SIGUSR2]).unwrap();
        assert_eq!(first.received(), None);
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        signal_hook::low_level::raise(SIGUSR2).unwrap();
        assert_eq!(first.received(), u8::try_from(SIGUSR1).ok());
        assert_eq!(second.received(), u8::try_from(SIGUSR2).ok());
    }
}
