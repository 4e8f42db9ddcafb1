//! One running step: claimed once, its output pumped to the log, its end recorded.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{Pid, Signal};

use super::super::bell::Ringer;
use super::super::directory::{Directory, FileError};
use super::super::log::LogWriter;
use super::super::{
    CANCEL, CLAIMED, EXIT, Exit, LOCK, ORPHANED, OutOfMemory, Outcome, REQUEST, REQUEST_LIMIT,
    StepRequest,
};
use super::{exec, memory, processes};

/// From SIGTERM to SIGKILL after a cancel. The hook itself is killed 10 s after its first signal
/// and must deliver log and file commands before.
const GRACE: Duration = Duration::from_secs(4);
/// The same for a step whose hook is dead: nobody waits for its last words, the next step does.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// How often a step's hook is looked for.
const LOCK_LOOK: Duration = Duration::from_secs(1);
/// Size of the pipe and of the pump's buffer.
const PIPE: usize = 256 * 1024;
/// The hook is told of so much at once while a step prints faster than it is copied. To wake it
/// for each read of the pipe took a third to a half of the speed on a busy machine.
const PIECE: usize = 1024 * 1024;
/// The pump reads, writes and waits; it needs no more.
const STACK: usize = 128 * 1024;

/// A step from its claim to its record.
#[derive(Debug)]
pub struct Step {
    id: String,
    directory: Arc<Directory>,
    leader: Pid,
    started: Instant,
    outcome: Option<Outcome>,
    kill_at: Option<Instant>,
    orphaned: bool,
    /// How long it goes on without a hook, and since when it is.
    alone: Duration,
    alone_since: Option<Instant>,
    container_ended: bool,
    kills_before: u64,
    looked: Instant,
    pump: Arc<Pump>,
}

/// What the step's thread and the supervisor tell each other.
#[derive(Debug)]
struct Pump {
    bell: OwnedFd,
    ended: Mutex<Option<Exit>>,
    abandoned: AtomicBool,
    /// The log cannot be written: the step is to be ended.
    broken: AtomicBool,
    recorded: AtomicBool,
    failure: Mutex<Option<FileError>>,
}

impl Step {
    /// Claims the step of that name and starts it. `None` when it was claimed before, or could
    /// not be started: then its record says why.
    pub fn claim(steps: &Directory, id: &str) -> Result<Option<Self>, FileError> {
        // What is no directory of a hook is the job's own affair.
        let Ok(directory) = steps.descend(id) else {
            return Ok(None);
        };
        match directory.create(CLAIMED, 0o644) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(error),
        }
        let directory = Arc::new(directory);
        // The hook now knows that it will be told, and looks less often by itself.
        let ringer = Ringer::of(&directory);
        ringer.ring();
        match Self::start(&directory, id) {
            Ok(step) => Ok(Some(step)),
            Err(reason) => {
                record(
                    &directory,
                    &Exit {
                        outcome: Outcome::NotStarted(reason),
                        log_bytes: 0,
                        run_ms: 0,
                        container_ended: false,
                        out_of_memory: None,
                    },
                )?;
                ringer.ring();
                Ok(None)
            }
        }
    }

    fn start(directory: &Arc<Directory>, id: &str) -> Result<Self, String> {
        let bytes = directory
            .read(REQUEST, REQUEST_LIMIT)
            .map_err(|error| error.to_string())?
            .ok_or("the step's request is missing")?;
        directory
            .remove(REQUEST)
            .map_err(|error| error.to_string())?;
        let request: StepRequest = serde_json::from_slice(&bytes)
            .map_err(|error| format!("parse the step's request: {error}"))?;
        drop(bytes);
        let kills_before = memory::kills();
        let (leader, output, started) = spawn(&request, id).map_err(|e| explain_spawn(&e))?;
        let pump = Pump::start(output, Arc::clone(directory)).map_err(|error| {
            processes::signal_step(leader, id, Signal::KILL);
            format!("start the thread that reads the step's output: {error}")
        })?;
        Ok(Self {
            id: id.to_owned(),
            directory: Arc::clone(directory),
            leader,
            started,
            outcome: None,
            kill_at: None,
            orphaned: false,
            alone: Duration::from_secs(request.alone.into()),
            alone_since: None,
            container_ended: false,
            kills_before,
            looked: started,
            pump,
        })
    }

    /// The step's own process, which is also its session.
    pub fn leader(&self) -> Pid {
        self.leader
    }

    /// Whether its hook is dead and its processes are being ended.
    pub fn is_ending_orphan(&self) -> bool {
        self.orphaned && !self.is_recorded()
    }

    /// Whether the end stands on disk, or could not be written.
    pub fn is_recorded(&self) -> bool {
        self.pump.recorded.load(Ordering::Acquire)
    }

    /// Its own process was reaped.
    pub fn ended(&mut self, outcome: Outcome) {
        if self.outcome.is_none() {
            let run_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.outcome = Some(outcome);
            // Processes of a cancelled step may still be putting things in order.
            if self.kill_at.is_none() {
                self.deliver(run_ms);
            }
        }
    }

    /// Looks for a cancel, for a dead hook, and for deadlines that have passed.
    pub fn tend(&mut self) {
        if self.kill_at.is_none() && self.outcome.is_none() {
            if self.directory.has(CANCEL) {
                self.terminate(GRACE);
            } else if self.pump.broken.load(Ordering::Acquire) {
                self.terminate(ORPHAN_GRACE);
            } else if self.looked.elapsed() >= LOCK_LOOK {
                self.end_if_orphaned();
            }
        }
        let Some(kill_at) = self.kill_at else { return };
        let overdue = Instant::now() >= kill_at;
        let alive = if overdue {
            processes::signal_step(self.leader, &self.id, Signal::KILL)
        } else {
            processes::is_alive(self.leader, &self.id)
        };
        if self.outcome.is_some() && (overdue || !alive) && !self.is_recorded() {
            let run_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.deliver(run_ms);
        }
    }

    /// Ends the step if the hook that waits for it is gone: the lock is free, for longer than the
    /// step may go on alone, or another hook says so.
    pub fn end_if_orphaned(&mut self) {
        self.looked = Instant::now();
        if self.orphaned || self.outcome.is_some() {
            return;
        }
        let free = match self.directory.file(LOCK) {
            Ok(Some(lock)) => {
                rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok()
            }
            Ok(None) | Err(_) => true,
        };
        if !free {
            self.alone_since = None;
        }
        let dead = self.directory.has(ORPHANED)
            || free && self.alone_since.get_or_insert_with(Instant::now).elapsed() >= self.alone;
        if dead {
            self.orphaned = true;
            self.abandon();
            self.terminate(ORPHAN_GRACE);
        }
    }

    /// Nobody will read the rest of the log.
    pub fn abandon(&mut self) {
        self.pump.abandoned.store(true, Ordering::Release);
        self.pump.ring();
    }

    /// The kubelet ends the container: what the step does from now on is not its own doing.
    pub fn container_ends(&mut self) {
        self.container_ended = self.outcome.is_none();
    }

    /// Takes leave of a recorded step.
    pub fn finish(self) -> Result<(), FileError> {
        if let Some(failure) = lock(&self.pump.failure).take() {
            return Err(failure);
        }
        if self.orphaned {
            // Its hook will not collect it. What cannot be removed goes with the job's tree.
            // The claim stays: nobody shall start the step again.
            for name in self.directory.names()? {
                if name != CLAIMED {
                    let _ = self.directory.remove(&name);
                }
            }
        }
        Ok(())
    }

    fn terminate(&mut self, grace: Duration) {
        processes::signal_step(self.leader, &self.id, Signal::TERM);
        self.kill_at = Some(Instant::now() + grace);
    }

    fn deliver(&mut self, run_ms: u64) {
        if let Some(outcome) = self.outcome.clone() {
            *lock(&self.pump.ended) = Some(Exit {
                outcome,
                log_bytes: 0,
                run_ms,
                container_ended: self.container_ended,
                out_of_memory: (memory::kills() > self.kills_before).then(|| OutOfMemory {
                    limit: memory::limit(),
                }),
            });
            self.pump.ring();
        }
    }
}

fn spawn(request: &StepRequest, id: &str) -> io::Result<(Pid, OwnedFd, Instant)> {
    let (output, input) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A larger pipe only saves wake-ups; a user's pipes may be limited.
    let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE);
    // One pipe for both streams, or their order is lost.
    let mut command = exec::command(request, id)?;
    command.stdout(input.try_clone()?).stderr(input);
    let started = Instant::now();
    let child = command.spawn()?;
    let leader = Pid::from_raw(child.id().cast_signed())
        .ok_or_else(|| io::Error::other("the kernel gave no process number"))?;
    Ok((leader, output, started))
}

fn explain_spawn(error: &io::Error) -> String {
    if error.raw_os_error() == Some(rustix::io::Errno::TOOBIG.raw_os_error()) {
        return "start the step: its arguments and environment together exceed what the kernel \
                passes to a program (128 KiB for one value, about 2 MiB in all); pass large values \
                by file"
            .to_owned();
    }
    format!("start the step: {error}")
}

fn record(directory: &Directory, exit: &Exit) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(exit)
        .map_err(|error| directory.failure("encode", EXIT, io::Error::from(error)))?;
    directory.record(EXIT, &bytes, 0o644)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pump {
    fn start(output: OwnedFd, directory: Arc<Directory>) -> io::Result<Arc<Self>> {
        let flags = rustix::fs::fcntl_getfl(&output)?;
        rustix::fs::fcntl_setfl(&output, flags | OFlags::NONBLOCK)?;
        let pump = Arc::new(Self {
            bell: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ended: Mutex::new(None),
            abandoned: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            recorded: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let shared = Arc::clone(&pump);
        std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = shared.log(&output, &directory) {
                    *lock(&shared.failure) = Some(error);
                }
                shared.recorded.store(true, Ordering::Release);
                drop(directory);
                drain(&output);
            })?;
        Ok(pump)
    }

    fn ring(&self) {
        // A full counter has rung already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Copies output to the log until the step's own process has ended, then what the pipe held
    /// at that moment, and records the end. A log that cannot be written ends the step, not the
    /// job: the volume may be full only until the next step tidies up.
    fn log(&self, output: &OwnedFd, directory: &Directory) -> Result<(), FileError> {
        let ringer = Ringer::of(directory);
        let mut log = Copy {
            pump: self,
            output,
            ringer: &ringer,
            untold: 0,
            writer: LogWriter::new(directory, 0o644),
            buffer: vec![0; PIPE],
            lost: None,
        };
        let mut open = true;
        let mut exit = loop {
            if let Some(exit) = lock(&self.ended).take() {
                break exit;
            }
            let mut waits = vec![PollFd::new(&self.bell, PollFlags::IN)];
            if open {
                waits.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
            }
            let _ = rustix::event::poll(&mut waits, None);
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            open = open && log.copy(usize::MAX);
        };
        // A process left behind may write for ever; what it writes from now on is not the step's.
        let left = rustix::io::ioctl_fionread(output).unwrap_or(0);
        if open && left > 0 {
            log.copy(usize::try_from(left).unwrap_or(usize::MAX));
        }
        exit.log_bytes = log.writer.written();
        if let Some(reason) = log.lost {
            exit.outcome = Outcome::LogLost(reason);
        }
        let recorded = record(directory, &exit);
        ringer.ring();
        recorded
    }
}

/// The way of a step's output.
struct Copy<'p> {
    pump: &'p Pump,
    output: &'p OwnedFd,
    ringer: &'p Ringer,
    untold: usize,
    writer: LogWriter<'p>,
    buffer: Vec<u8>,
    lost: Option<String>,
}

impl Copy<'_> {
    /// Copies at most `limit` bytes of what the pipe holds. `false` at its end.
    fn copy(&mut self, mut limit: usize) -> bool {
        while limit > 0 {
            let size = self.buffer.len().min(limit);
            match rustix::io::read(self.output, &mut self.buffer[..size]) {
                Ok(0) => {
                    self.tell();
                    return false;
                }
                Ok(count) => {
                    limit -= count;
                    self.write(count);
                    // The bell must be heard also by a step that never stops printing.
                    if lock(&self.pump.ended).is_some() {
                        return true;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                // Nothing more for now.
                Err(_) => {
                    self.tell();
                    return true;
                }
            }
        }
        true
    }

    fn write(&mut self, count: usize) {
        let abandoned = || self.pump.abandoned.load(Ordering::Acquire);
        if self.lost.is_some() || abandoned() {
            return;
        }
        if let Err(error) = self.writer.write(&self.buffer[..count], &abandoned) {
            self.lost = Some(format!(
                "keep the step's log on the work volume: {error}; the step was ended"
            ));
            self.pump.broken.store(true, Ordering::Release);
        }
        self.untold += count;
        if self.untold >= PIECE {
            self.tell();
        }
    }

    fn tell(&mut self) {
        if self.untold > 0 {
            self.ringer.ring();
            self.untold = 0;
        }
    }
}

/// Reads on for processes that outlive their step: they must not die of a closed pipe.
fn drain(output: &OwnedFd) {
    let mut buffer = [0; 4096];
    loop {
        let mut waits = [PollFd::new(output, PollFlags::IN)];
        let _ = rustix::event::poll(&mut waits, None);
        match rustix::io::read(output, &mut buffer) {
            Ok(0) => return,
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
