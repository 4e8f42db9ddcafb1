//! One step through the spool, whichever pod runs it: files in, request over, log out, files back.

use std::io;

use anyhow::Context as _;

use super::carry::Carried;
use super::hint::Tail;
use super::output;
use super::remote::Remote;
use super::step_files::StepFiles;
use super::step_log::{PathCommands, StepLog};
use crate::config::{self, Config};
use crate::protocol::Environment;
use crate::record::{ForcedUser, Memory};
use crate::spool::client::{Liveness, RunningStep, StepError};
use crate::spool::directory::Directory;
use crate::spool::signals::Signals;
use crate::spool::{Exit, JobTree, OutOfMemory, Outcome, StepRequest};

/// A step, ready to be handed over.
#[derive(Debug)]
pub struct StepRun<'a> {
    /// The hook's configuration.
    pub config: &'a Config,
    /// Where `PATH` entries are kept.
    pub memory: &'a Memory,
    /// How it gets to the pod that runs it.
    pub way: Way<'a>,
    /// What to run.
    pub request: StepRequest,
    /// The job's user, when it is not its image's.
    pub forced_user: Option<ForcedUser>,
    /// The end of its log is noted when it fails.
    pub last_words: bool,
}

/// How a step and its files cross.
#[derive(Debug)]
pub enum Way<'a> {
    /// Over the work volume.
    Shared {
        /// The tree that holds the step's files: the job's, also for a container action.
        files: &'a JobTree,
        /// The spool of the pod that runs it.
        spool: Directory,
    },
    /// Over a connection.
    Copied {
        /// The pod.
        remote: &'a Remote<'a>,
        /// The step runs one of the runner's own programs.
        externals: bool,
    },
}

impl StepRun<'_> {
    /// Runs the step and returns its exit code. File commands reach the runner however it ends.
    pub fn run(self, signals: &Signals, liveness: &mut dyn Liveness) -> anyhow::Result<u8> {
        let allowed = allows_unsecure_commands(self.config, &self.request.environment);
        let mut tail = Tail::new(stdout()?);
        let mut log = StepLog::new(&mut tail, allowed);
        let carried = match self.way {
            Way::Shared { files, spool } => {
                let crossing =
                    StepFiles::copy_in(self.config, self.memory, files, &self.request.argv)?;
                tracing::debug!(phase = "files copied in");
                let foreign_user = files.foreign_user();
                let ended = share(
                    spool,
                    &self.request,
                    foreign_user,
                    &mut log,
                    signals,
                    liveness,
                );
                tracing::debug!(phase = "step ended", ?ended, "step ended");
                let entries = crossing.copy_out();
                tracing::debug!(phase = "files copied out");
                Carried { ended, entries }
            }
            Way::Copied { remote, externals } => {
                remote.carry(&self.request, externals, &mut log, signals, liveness)?
            }
        };
        let Carried { mut ended, entries } = carried;
        if let Ok(exit) = &ended
            && exit.container_ended
            && signals.received().is_none()
        {
            ended = Err(StepError::Dead(liveness.why_ended()));
        }
        let commands = log.finish();
        let code = exit_code(ended, signals)?;
        if signals.received().is_none() {
            tail.tell(self.forced_user, code);
        }
        if self.last_words && code != 0 {
            self.memory.note_last_words(tail.last_words());
        }
        let commands = commands.context("hand the log to the runner")?;
        let mut entries = entries?;
        entries.extend(commands.entries.iter().cloned());
        self.memory.add_path(&entries)?;
        Ok(after_path_commands(code, &commands, allowed))
    }
}

/// Runs a step through a spool that both sides share.
fn share(
    spool: Directory,
    request: &StepRequest,
    foreign_user: bool,
    log: &mut dyn io::Write,
    signals: &Signals,
    liveness: &mut dyn Liveness,
) -> Result<Exit, StepError> {
    let mut step = RunningStep::submit(spool, request, foreign_user)?;
    let followed = step.follow(log, signals, liveness);
    match &followed {
        Ok(_) => step.collect(),
        // Nobody listens: the step must not go on unseen.
        Err(StepError::Sink(_)) => drop(step.cancel()),
        Err(_) => {}
    }
    followed
}

/// The step's own exit code; 128 + n for a step that a signal of the runner ended, because a
/// cancelled step is never green.
fn exit_code(ended: Result<Exit, StepError>, signals: &Signals) -> anyhow::Result<u8> {
    let exit = match (ended, signals.received()) {
        (Err(StepError::Cancelled), Some(signal)) => return Ok(128 + signal),
        (ended, _) => ended?,
    };
    if let Outcome::NotStarted(reason) | Outcome::LogLost(reason) = &exit.outcome {
        output::error(reason);
    }
    if let (Some(memory), false) = (exit.out_of_memory, exit.outcome == Outcome::Code(0)) {
        output::titled_error("Out of memory", &out_of_memory(memory));
    }
    Ok(match (exit.outcome.code(), signals.received()) {
        (0, Some(signal)) => 128 + signal,
        (code, _) => code,
    })
}

fn out_of_memory(memory: OutOfMemory) -> String {
    let bound = memory.limit.map_or_else(
        || "the node had no more".to_owned(),
        |limit| format!("limit {} MiB", limit / (1024 * 1024)),
    );
    format!(
        "a process of the step was killed for want of memory ({bound}); raise \
         `resources.limits.memory` of `$job` in the hook template or `--memory` in `options:`, or \
         let the step use less, for example fewer parallel compilers"
    )
}

pub(super) fn after_path_commands(code: u8, commands: &PathCommands, allowed: bool) -> u8 {
    if !commands.refused {
        return code;
    }
    // The runner itself fails such a step; it never sees the command, so its answer is given here.
    output::error(if allowed {
        "run the `add-path` command: its value is too long to be a path"
    } else {
        "run the `add-path` command: it is disabled; write the directory to the file that \
         `GITHUB_PATH` names, or set `ACTIONS_ALLOW_UNSECURE_COMMANDS` to true"
    });
    code.max(1)
}

/// Whether the runner would obey `add-path` commands of this step.
pub(super) fn allows_unsecure_commands(config: &Config, environment: &Environment) -> bool {
    config.allow_unsecure_commands
        || environment
            .get("ACTIONS_ALLOW_UNSECURE_COMMANDS")
            .is_some_and(|value| config::is_true(value))
}

/// Standard output without the line buffer of [`io::stdout`], which copies every byte.
pub(super) fn stdout() -> anyhow::Result<std::fs::File> {
    use std::os::fd::AsFd as _;
    let handle = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .context("open standard output")?;
    Ok(handle.into())
}
