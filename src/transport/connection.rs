//! The pod's end of a step's connection: frames over standard input and output.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FlockOperation, OFlags};

use super::frame::{self, Decoder, Frame, Kind, PIECE};
use crate::spool::client::Pulse;
use crate::spool::directory::Directory;
use crate::spool::signals::{Raise, Signals};

/// How often the hook is told that the relay is alive.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// Frames that wait for the one before to be dealt with.
const QUEUE: usize = 8;

/// Standard input and output, and what other threads must know of them.
#[derive(Debug)]
pub(super) struct Connection {
    out: Mutex<OwnedFd>,
    started: Instant,
    /// How long the hook may say nothing.
    patience: Duration,
    /// When the hook was last heard, in milliseconds since the start.
    heard: AtomicU64,
    lost: AtomicBool,
    /// Bytes of the log that have reached the hook.
    pub(super) arrived: Arc<AtomicU64>,
    cancel: Raise,
    signals: Mutex<Option<Signals>>,
    /// The step's lock, until it is held.
    lock: Mutex<Option<File>>,
}

impl Connection {
    /// Begins to read; what is for the relay itself comes out of the queue.
    pub(super) fn open(patience: Duration) -> io::Result<(Arc<Self>, Receiver<Frame>)> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        let flags = rustix::fs::fcntl_getfl(&out)?;
        rustix::fs::fcntl_setfl(&out, flags | OFlags::NONBLOCK)?;
        let (signals, cancel) = Signals::raised_by_hand()?;
        let connection = Arc::new(Self {
            out: Mutex::new(out),
            started: Instant::now(),
            patience,
            heard: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            arrived: Arc::new(AtomicU64::new(0)),
            cancel,
            signals: Mutex::new(Some(signals)),
            lock: Mutex::new(None),
        });
        let (frames, incoming) = sync_channel(QUEUE);
        let reader = Arc::clone(&connection);
        std::thread::spawn(move || reader.listen(&frames));
        Ok((connection, incoming))
    }

    /// Tells the hook from now on that the relay is alive.
    pub(super) fn begin_to_beat(self: &Arc<Self>, spool: Directory) {
        let connection = Arc::clone(self);
        std::thread::spawn(move || connection.beat(&spool));
    }

    /// Whether the hook wants the step to end.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_raised()
    }

    /// What tells a step that the hook wants its end; once.
    pub(super) fn signals(&self) -> Option<Signals> {
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        signals.take()
    }

    /// Takes the step's lock as soon as the relay before this one lets it go.
    pub(super) fn hold_when_free(&self, lock: File) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The connection broke, or the hook has said nothing for too long.
    pub(super) fn is_lost(&self) -> bool {
        let silence = self
            .now()
            .saturating_sub(self.heard.load(Ordering::Acquire));
        self.lost.load(Ordering::Acquire) || u128::from(silence) > self.patience.as_millis()
    }

    /// Reads frames until the hook goes.
    fn listen(&self, frames: &SyncSender<Frame>) {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; PIECE];
        let mut stdin = io::stdin().lock();
        'connection: while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            self.heard.store(self.now(), Ordering::Release);
            decoder.push(&buffer[..count]);
            loop {
                match decoder.take() {
                    Ok(None) => break,
                    Err(_) => break 'connection,
                    Ok(Some(frame)) => match frame.kind {
                        Kind::Ping => {}
                        Kind::Cancel => self.cancel.interrupt(),
                        Kind::Got => {
                            let arrived = frame.number().unwrap_or(0);
                            self.arrived.fetch_max(arrived, Ordering::AcqRel);
                        }
                        _ if frames.send(frame).is_err() => break 'connection,
                        _ => {}
                    },
                }
            }
        }
        self.lost.store(true, Ordering::Release);
        self.cancel.wake();
    }

    /// Sends a frame, waiting for room as long as there is a hook.
    pub(super) fn send(&self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let header = frame::header(kind, bytes.len());
        let mut parts = [IoSlice::new(&header), IoSlice::new(bytes)];
        // Together: what is written alone is carried to the hook alone.
        let mut left = &mut parts[..];
        while !left.is_empty() {
            match rustix::io::writev(&*out, left) {
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if self.is_lost() {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    let mut waits = [PollFd::new(&*out, PollFlags::OUT)];
                    let timeout = Timespec::try_from(BEAT).ok();
                    let _ = rustix::event::poll(&mut waits, timeout.as_ref());
                }
                Err(errno) => {
                    self.lost.store(true, Ordering::Release);
                    return Err(errno.into());
                }
            }
        }
        Ok(())
    }

    /// The same with a value.
    pub(super) fn json(&self, kind: Kind, value: &impl serde::Serialize) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(value).context("encode an answer")?;
        Ok(self.send(kind, &bytes)?)
    }

    /// Tells the hook now and then that the relay is alive, and how long the supervisor has been
    /// silent; takes the step's lock when it becomes free.
    fn beat(&self, spool: &Directory) {
        let mut pulse = Pulse::new();
        while !self.is_lost() {
            let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            lock.take_if(|lock| {
                rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            });
            drop(lock);
            let silence = pulse.quiet_for(spool).as_secs();
            if self.send(Kind::Beat, &silence.to_le_bytes()).is_err() {
                return;
            }
            std::thread::sleep(BEAT);
        }
    }
}

/// A step's log on its way to the hook.
pub(super) struct Log<'c>(pub(super) &'c Connection);

impl Write for Log<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(PIECE) {
            self.0.send(Kind::Log, piece)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.0.is_lost() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// An archive on its way to the hook.
pub(super) struct Archive<'c>(pub(super) &'c Connection);

impl Write for Archive<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.0.send(Kind::Archive, piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
