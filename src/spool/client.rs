//! The hook's side of a step: hand it over, follow its log, collect its end.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use thiserror::Error;

use super::bell::Bell;
use super::directory::{Directory, FileError};
use super::log::LogReader;
use super::signals::Signals;
use super::{
    CANCEL, EXIT, Exit, HEARTBEAT, LOCK, Nonce, PROTOCOL, READY, RECORD_LIMIT, REQUEST, Ready,
    STEPS, StepRequest, UNFINISHED,
};

/// Longest silence of the heartbeat before the pod is looked at: five missed beats.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a silent supervisor's pod is looked at.
const EXAMINE: Duration = Duration::from_secs(2);
/// From the first signal to giving up on a step's own end. The runner kills after 10 s, and file
/// commands must still be delivered.
const CANCEL_DEADLINE: Duration = Duration::from_secs(6);
/// How long a log may lag behind the record of its length on a network file system.
const LOG_LAG: Duration = Duration::from_secs(10);
/// Waiting time once the bell has been heard, and before.
const SLOW_LOOK: Duration = Duration::from_millis(250);
const QUICK_LOOK: Duration = Duration::from_millis(20);
const BUFFER: usize = 256 * 1024;

/// Why a step has no exit.
#[derive(Debug, Error)]
pub enum StepError {
    /// A record could not be written, or what stands in its place is no record.
    #[error(transparent)]
    File(#[from] FileError),
    /// No name could be made for the step.
    #[error("make a name for the step: {0}")]
    Name(getrandom::Error),
    /// The runner no longer takes the log.
    #[error("hand the log to the runner: {0}")]
    Sink(io::Error),
    /// A record does not say what it must.
    #[error("read `{record}` of the step: {reason}; a process of the job may have changed it")]
    Record {
        /// The file.
        record: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The supervisor is gone, and why.
    #[error(transparent)]
    Dead(anyhow::Error),
    /// The step did not end within the time that a cancel has.
    #[error("cancel the step: its processes did not end within {} s", CANCEL_DEADLINE.as_secs())]
    Stuck,
    /// The supervisor was built for another protocol.
    #[error(
        "talk to the job's supervisor: it speaks version {found} of the protocol, this hook \
         version {PROTOCOL}; the runner image changed while the job ran, run the job again"
    )]
    Version {
        /// What it speaks.
        found: u32,
    },
}

/// Finds out why a supervisor is silent.
pub trait Liveness {
    /// Looks at the pod after `silence` without a heartbeat. `Some` is the cause of its death,
    /// with the remedy; `None` means that waiting makes sense.
    fn examine(&mut self, silence: Duration) -> Option<anyhow::Error>;

    /// Why the kubelet ended the container, as far as it can be known, with the remedy.
    fn why_ended(&mut self) -> anyhow::Error;
}

/// The one field that every version of [`Ready`] has.
#[derive(serde::Deserialize)]
struct Version {
    protocol: u32,
}

/// Reads the supervisor's first record. `None` while there is none.
pub fn ready(spool: &Directory, nonce: &Nonce) -> Result<Option<Ready>, StepError> {
    let Some(bytes) = spool.read(READY, RECORD_LIMIT)? else {
        return Ok(None);
    };
    let malformed = |reason: String| StepError::Record {
        record: READY,
        reason,
    };
    let version: Version =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    if version.protocol != PROTOCOL {
        return Err(StepError::Version {
            found: version.protocol,
        });
    }
    let ready: Ready =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    if ready.nonce != *nonce {
        return Err(malformed("it belongs to another pod".to_owned()));
    }
    Ok(Some(ready))
}

/// A step that was handed over.
#[derive(Debug)]
pub struct RunningStep {
    steps: Directory,
    directory: Directory,
    id: Nonce,
    spool: Directory,
    bell: Bell,
    /// Held for as long as this process lives; its release tells the supervisor.
    _lock: File,
}

impl RunningStep {
    /// Hands a step over. Nothing has started when this fails.
    pub fn submit(
        spool: Directory,
        request: &StepRequest,
        foreign_user: bool,
    ) -> Result<Self, StepError> {
        let id = Nonce::random().map_err(StepError::Name)?;
        let steps = spool.descend(STEPS)?;
        let unfinished = format!("{UNFINISHED}{id}");
        let directory = steps.make(&unfinished, if foreign_user { 0o777 } else { 0o755 })?;
        let lock = directory.create(LOCK, 0o644)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| directory.failure("lock", LOCK, errno))?;
        let bell = Bell::hang(&directory, foreign_user);
        let bytes = serde_json::to_vec(request).map_err(|error| StepError::Record {
            record: REQUEST,
            reason: error.to_string(),
        })?;
        let mode = if foreign_user { 0o644 } else { 0o600 };
        let handed_over = directory
            .record(REQUEST, &bytes, mode)
            .and_then(|()| steps.rename(&unfinished, id.as_str()));
        if let Err(error) = handed_over {
            // It holds secrets, and half a step is of no use.
            let _ = steps.remove_tree(&unfinished);
            return Err(error.into());
        }
        Ok(Self {
            steps,
            directory,
            id,
            spool,
            bell,
            _lock: lock,
        })
    }

    /// Copies the log to `sink` as it comes, until the step's end is recorded and its log is
    /// whole. A signal of the runner cancels the step, whose log and end are still awaited.
    pub fn follow(
        &mut self,
        sink: &mut dyn Write,
        signals: &Signals,
        liveness: &mut dyn Liveness,
    ) -> Result<Exit, StepError> {
        let mut pulse = Pulse::new();
        let mut log = LogReader::new(&self.directory);
        let mut buffer = vec![0; BUFFER];
        let mut exit: Option<(Exit, Instant)> = None;
        let mut give_up: Option<Instant> = None;
        loop {
            if exit.is_none() {
                exit = self.exit()?.map(|exit| (exit, Instant::now()));
            }
            let mut copied = false;
            loop {
                let count = log.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                copied = true;
                if let Err(error) = sink.write_all(&buffer[..count]) {
                    // Nobody listens: the step must not go on unseen.
                    let _ = self.cancel();
                    return Err(StepError::Sink(error));
                }
                if give_up.is_some_and(|at| Instant::now() >= at) {
                    return Err(StepError::Stuck);
                }
                if give_up.is_none() && signals.received().is_some() {
                    break;
                }
            }
            sink.flush().map_err(StepError::Sink)?;
            if let Some((exit, since)) = &exit {
                if log.position() >= exit.log_bytes {
                    return Ok(exit.clone());
                }
                if !copied && since.elapsed() >= LOG_LAG {
                    return Err(StepError::Record {
                        record: "log",
                        reason: format!(
                            "it ends after {} of {} bytes",
                            log.position(),
                            exit.log_bytes
                        ),
                    });
                }
            }
            if give_up.is_none() && signals.received().is_some() {
                self.cancel()?;
                give_up = Some(Instant::now() + CANCEL_DEADLINE);
            }
            if give_up.is_some_and(|at| Instant::now() >= at) {
                return Err(StepError::Stuck);
            }
            if exit.is_none()
                && let Some(silence) = pulse.silence(&self.spool)
                && let Some(cause) = liveness.examine(silence)
            {
                // Its last record may have come between the look at the spool and at the pod.
                exit = self.exit()?.map(|exit| (exit, Instant::now()));
                if exit.is_none() {
                    return Err(StepError::Dead(cause));
                }
            }
            if !copied {
                wait(&mut self.bell, signals);
            }
        }
    }

    /// Removes what is left of a step whose end was collected. What cannot be removed goes with
    /// the job's tree, and says nothing about the step.
    pub fn collect(self) {
        let done = format!("{UNFINISHED}{}.done", self.id);
        let _ = self
            .steps
            .rename(self.id.as_str(), &done)
            .and_then(|()| self.steps.remove_tree(&done));
    }

    fn cancel(&self) -> Result<(), FileError> {
        match self.directory.create(CANCEL, 0o644) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn exit(&self) -> Result<Option<Exit>, StepError> {
        let Some(bytes) = self.directory.read(EXIT, RECORD_LIMIT)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| StepError::Record {
                record: EXIT,
                reason: error.to_string(),
            })
    }
}

/// The heartbeat, judged by its change on this process's monotonic clock.
struct Pulse {
    beat: Vec<u8>,
    changed: Instant,
    looked: Instant,
    examined: Instant,
}

impl Pulse {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            beat: Vec::new(),
            changed: now,
            looked: now,
            examined: now,
        }
    }

    /// The length of a silence that calls for a look at the pod now.
    fn silence(&mut self, spool: &Directory) -> Option<Duration> {
        let now = Instant::now();
        if now - self.looked >= Duration::from_secs(1) {
            self.looked = now;
            // An unreadable heartbeat is a silent one.
            if let Ok(Some(beat)) = spool.read(HEARTBEAT, 64)
                && beat != self.beat
            {
                self.beat = beat;
                self.changed = now;
            }
        }
        let silence = now - self.changed;
        if silence < SILENCE || now - self.examined < EXAMINE {
            return None;
        }
        self.examined = now;
        Some(silence)
    }
}

/// Waits until the step's directory may have something new, or a signal came.
fn wait(bell: &mut Bell, signals: &Signals) {
    let mut waits = vec![PollFd::new(signals, PollFlags::IN)];
    waits.extend(
        bell.handle()
            .map(|handle| PollFd::from_borrowed_fd(handle, PollFlags::IN)),
    );
    let timeout = if bell.heard() { SLOW_LOOK } else { QUICK_LOOK };
    let timeout = Timespec::try_from(timeout).ok();
    let _ = rustix::event::poll(&mut waits, timeout.as_ref());
    signals.hush();
    bell.hush();
}
