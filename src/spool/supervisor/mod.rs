//! PID 1 of a job's container: starts steps, reaps, and leaves a record of each end.
//!
//! It knows nothing of Kubernetes and of the runner. It starts with the environment of image and
//! template only; what a job's environment holds arrives in requests and is gone with them.

mod container;
mod exec;
mod memory;
mod processes;
mod step;

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use super::directory::Directory;
use super::signals::Signals;
use super::{ENTRY, GATE, HEARTBEAT, Nonce, READY, REQUEST_LIMIT, STEPS, StepRequest, UNFINISHED};
use step::Step;

pub use exec::{ExecArgs, exec};
pub use processes::end_beneath;

/// How often the counter moves. The hook looks at the pod after several missed beats.
const BEAT: Duration = Duration::from_secs(1);
/// How often the spool is looked at beneath inotify, which network file systems do not have.
const LOOK: Duration = Duration::from_millis(100);
/// How long processes have to end after the kubelet's SIGTERM; it kills after the pod's own grace.
const LAST_GRACE: Duration = Duration::from_secs(8);

/// What the supervisor is told when it starts.
#[derive(Debug, Clone, clap::Args)]
pub struct SuperviseArgs {
    /// Directory of the spool
    pub spool: PathBuf,
    /// Name of the job's directory on the work volume
    #[arg(long)]
    pub nonce: Nonce,
    /// Path whose writability the hook wants to know; may be repeated
    #[arg(long = "check", value_name = "PATH")]
    pub check: Vec<PathBuf>,
    /// Ends once the file `gate`, which it makes in the spool, is removed
    #[arg(long, hide = true)]
    pub gate: bool,
}

/// Runs until the kubelet says otherwise.
///
/// # Errors
/// A record could not be written: the pod's termination message then names the cause, and no
/// step is believed to have ended well.
pub fn supervise(args: &SuperviseArgs) -> anyhow::Result<()> {
    let bells = Bells {
        end: Signals::catch_these(&[SIGTERM, SIGINT]).context("catch SIGTERM")?,
        child: Signals::catch_these(&[SIGCHLD]).context("catch SIGCHLD")?,
    };
    // A job container can share its process namespace with a sidecar; then another is PID 1.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("become the reaper of orphaned processes")?;
    let mut supervisor = Supervisor::start(args)?;
    supervisor.run(&bells)
}

struct Supervisor {
    spool: Directory,
    steps: Directory,
    heartbeat: std::fs::File,
    running: HashMap<Pid, Step>,
    /// Steps that were claimed and are still listed. A hook that removes a step it has collected
    /// removes the claim before the directory.
    claimed: HashSet<String>,
    entry: Option<Pid>,
    gate: bool,
}

impl Supervisor {
    fn start(args: &SuperviseArgs) -> anyhow::Result<Self> {
        let spool = Directory::open(&args.spool)?;
        let steps = spool.descend(STEPS)?;
        let heartbeat = spool.replace(HEARTBEAT, 0o644)?;
        if args.gate {
            spool.replace(GATE, 0o644)?;
        }
        let mut supervisor = Self {
            spool,
            steps,
            heartbeat,
            running: HashMap::new(),
            claimed: HashSet::new(),
            entry: None,
            gate: args.gate,
        };
        supervisor.start_entry()?;
        let ready = container::look(args.nonce.clone(), &args.check);
        let bytes = serde_json::to_vec(&ready).context("encode the first record")?;
        supervisor.spool.record(READY, &bytes, 0o644)?;
        Ok(supervisor)
    }

    /// Runs the template's own command as a child: in its place as PID 1 it would end the job
    /// when it ends, and would have to reap.
    fn start_entry(&mut self) -> anyhow::Result<()> {
        let Some(bytes) = self.spool.read(ENTRY, REQUEST_LIMIT)? else {
            return Ok(());
        };
        // A relay may still be writing it.
        let Ok(request) = serde_json::from_slice::<StepRequest>(&bytes) else {
            return Ok(());
        };
        self.spool.remove(ENTRY)?;
        match exec::command(&request, "entry").and_then(|mut command| command.spawn()) {
            Ok(child) => self.entry = Pid::from_raw(child.id().cast_signed()),
            Err(error) => eprintln!("arc-hook: start the template's command: {error}"),
        }
        Ok(())
    }

    fn run(&mut self, bells: &Bells) -> anyhow::Result<()> {
        let watch = watch(&self.steps);
        let started = Instant::now();
        let mut beats = 0_u64;
        loop {
            let due = u64::try_from(started.elapsed().as_millis() / BEAT.as_millis())?;
            if due >= beats {
                beats = due + 1;
                self.heartbeat
                    .write_at(format!("{beats:020}").as_bytes(), 0)
                    .context("write the heartbeat: is the work volume full?")?;
            }
            self.reap();
            let is_open = self.gate && !self.spool.has(GATE);
            if bells.end.received().is_some() || is_open {
                return self.end();
            }
            for step in self.running.values_mut() {
                step.tend();
            }
            self.forget_finished()?;
            if self.spool.has(ENTRY) {
                self.start_entry()?;
            }
            self.accept()?;
            bells.wait(watch.as_ref());
        }
    }

    /// Claims every complete request that is new.
    fn accept(&mut self) -> anyhow::Result<()> {
        let names = self.steps.names()?;
        self.claimed.retain(|name| names.contains(name));
        for name in names {
            if name.starts_with(UNFINISHED) || self.claimed.contains(&name) {
                continue;
            }
            // A hook that was killed leaves its step running; the next step must not meet it.
            for step in self.running.values_mut() {
                step.end_if_orphaned();
            }
            if self.running.values().any(Step::is_ending_orphan) {
                return Ok(());
            }
            if let Some(step) = Step::claim(&self.steps, &name)? {
                self.running.insert(step.leader(), step);
            }
            self.claimed.insert(name);
        }
        Ok(())
    }

    fn reap(&mut self) {
        // Every child that this process has was started here or has been orphaned to it, so
        // waiting for any of them takes nobody's status away.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(step) = self.running.get_mut(&pid) {
                step.ended(outcome(status));
            } else if self.entry == Some(pid) {
                self.entry = None;
                eprintln!(
                    "arc-hook: the template's command ended: {:?}; the job goes on",
                    outcome(status)
                );
            }
        }
    }

    fn forget_finished(&mut self) -> anyhow::Result<()> {
        let finished: Vec<Pid> = self
            .running
            .iter()
            .filter(|(_, step)| step.is_recorded())
            .map(|(pid, _)| *pid)
            .collect();
        for pid in finished {
            if let Some(step) = self.running.remove(&pid) {
                step.finish()?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        for step in self.running.values_mut() {
            step.container_ends();
        }
        processes::signal_all(rustix::process::Signal::TERM);
        let deadline = Instant::now() + LAST_GRACE;
        loop {
            self.reap();
            let left = processes::others();
            if left.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                processes::signal_all(rustix::process::Signal::KILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for step in self.running.values_mut() {
            step.abandon();
        }
        self.forget_finished()
    }
}

fn outcome(status: WaitStatus) -> super::Outcome {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => super::Outcome::Code(code),
        (None, Some(signal)) => super::Outcome::Signal(signal),
        (None, None) => super::Outcome::Code(1),
    }
}

fn watch(directory: &Directory) -> Option<std::os::fd::OwnedFd> {
    let watch =
        inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    let events = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CREATE;
    inotify::add_watch(&watch, directory.by_handle(""), events).ok()?;
    Some(watch)
}

/// What wakes the supervisor. Two, because one remembers its last signal only, and a child that
/// ends must not make the end of the pod forgotten.
struct Bells {
    end: Signals,
    child: Signals,
}

impl Bells {
    fn wait(&self, watch: Option<&std::os::fd::OwnedFd>) {
        let mut waits = vec![
            PollFd::new(&self.end, PollFlags::IN),
            PollFd::new(&self.child, PollFlags::IN),
        ];
        if let Some(watch) = watch {
            waits.push(PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN));
        }
        let timeout = Timespec::try_from(LOOK).ok();
        let _ = rustix::event::poll(&mut waits, timeout.as_ref());
        self.end.hush();
        self.child.hush();
        if let Some(watch) = watch {
            let mut events = [0; 4096];
            while matches!(rustix::io::read(watch, &mut events), Ok(count) if count > 0) {}
        }
    }
}
