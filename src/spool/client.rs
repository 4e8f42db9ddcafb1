//! The hook's side of a step: hand it over, follow its log, collect its end.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use thiserror::Error;

use super::bell::Bell;
use super::directory::{Directory, FileError};
use super::log::LogReader;
use super::signals::Signals;
use super::{
    CANCEL, CLAIMED, EXIT, Exit, HEARTBEAT, LOCK, Nonce, ORPHANED, PROTOCOL, READY, RECORD_LIMIT,
    REQUEST, Ready, STEPS, StepRequest, UNFINISHED,
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
    /// The runner ended it before it began.
    #[error("the step was cancelled before it began")]
    Cancelled,
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

    /// There is a sign of life again.
    fn revived(&mut self) {}
}

/// The one field that every version of [`Ready`] has.
#[derive(serde::Deserialize)]
struct Version {
    protocol: u32,
}

/// Reads the supervisor's first record. `None` while there is none.
pub fn ready(spool: &Directory, nonce: &Nonce) -> Result<Option<Ready>, StepError> {
    match spool.read(READY, RECORD_LIMIT)? {
        Some(bytes) => check_ready(&bytes, nonce).map(Some),
        None => Ok(None),
    }
}

/// Judges the supervisor's first record.
pub fn check_ready(bytes: &[u8], nonce: &Nonce) -> Result<Ready, StepError> {
    let malformed = |reason: String| StepError::Record {
        record: READY,
        reason,
    };
    let version: Version =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if version.protocol != PROTOCOL {
        return Err(StepError::Version {
            found: version.protocol,
        });
    }
    let ready: Ready =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if ready.nonce != *nonce {
        return Err(malformed("it belongs to another pod".to_owned()));
    }
    Ok(ready)
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
    lock: File,
    /// Where the log goes on from, and how much of it has arrived, if it is only passed on.
    relayed: Option<(u64, Arc<AtomicU64>)>,
}

impl RunningStep {
    /// Hands a step over. Nothing has started when this fails.
    pub fn submit(
        spool: Directory,
        request: &StepRequest,
        foreign_user: bool,
    ) -> Result<Self, StepError> {
        let id = Nonce::random().map_err(StepError::Name)?;
        Self::submit_as(id, spool, request, foreign_user)
    }

    /// The same for a step that has a name already. A step of a name that was there before is not
    /// started again; this fails then.
    pub fn submit_as(
        id: Nonce,
        spool: Directory,
        request: &StepRequest,
        foreign_user: bool,
    ) -> Result<Self, StepError> {
        let steps = spool.descend(STEPS)?;
        let unfinished = format!("{UNFINISHED}{id}.{}", std::process::id());
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
            lock,
            relayed: None,
        })
    }

    /// Takes over a step that another process has handed over.
    pub fn take_over(id: Nonce, spool: Directory) -> Result<Self, StepError> {
        let steps = spool.descend(STEPS)?;
        let directory = steps.descend(id.as_str())?;
        let lock = directory.file(LOCK)?.ok_or_else(|| StepError::Record {
            record: LOCK,
            reason: "it is missing".to_owned(),
        })?;
        let step = Self {
            bell: Bell::take_over(&directory),
            steps,
            directory,
            id,
            spool,
            lock,
            relayed: None,
        };
        Ok(step)
    }

    /// Passes the log on from `offset`; what has `arrived` is removed.
    pub fn relay_from(&mut self, offset: u64, arrived: Arc<AtomicU64>) {
        self.relayed = Some((offset, arrived));
    }

    /// Tells the supervisor that someone waits for the step. `false` while another does.
    #[must_use]
    pub fn hold(&self) -> bool {
        rustix::fs::flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// A handle by which another thread can do [`Self::hold`].
    pub fn lock(&self) -> io::Result<File> {
        self.lock.try_clone()
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
        let mut log = match &self.relayed {
            None => LogReader::new(&self.directory),
            Some((offset, arrived)) => {
                LogReader::relayed(&self.directory, *offset, Arc::clone(arrived))
            }
        };
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
                sink.write_all(&buffer[..count]).map_err(StepError::Sink)?;
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

    /// As [`Self::collect`], but leaves the claim: what was handed over once, by whatever relay,
    /// is not started a second time.
    pub fn collect_relayed(&self) {
        for name in self.directory.names().unwrap_or_default() {
            if name != CLAIMED {
                let _ = self.directory.remove(&name);
            }
        }
    }

    /// Tells the supervisor that the hook of another step is dead.
    pub fn orphan(spool: &Directory, id: &Nonce) -> Result<(), FileError> {
        let found = spool.descend(STEPS)?.descend(id.as_str());
        match found.and_then(|step| step.replace(ORPHANED, 0o644)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a step of that name was handed over.
    #[must_use]
    pub fn is_known(spool: &Directory, id: &Nonce) -> bool {
        spool
            .descend(STEPS)
            .is_ok_and(|steps| steps.has(id.as_str()))
    }

    /// Has the supervisor end the step.
    pub fn cancel(&self) -> Result<(), FileError> {
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
pub(crate) struct Pulse {
    beat: Vec<u8>,
    changed: Instant,
    looked: Instant,
    examined: Instant,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            beat: Vec::new(),
            changed: now,
            looked: now,
            examined: now,
        }
    }

    /// How long there has been no beat.
    pub(crate) fn quiet_for(&mut self, spool: &Directory) -> Duration {
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
        now - self.changed
    }

    /// The length of a silence that calls for a look at the pod now.
    fn silence(&mut self, spool: &Directory) -> Option<Duration> {
        let silence = self.quiet_for(spool);
        let now = Instant::now();
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
