//! The runner's four commands, one file each.

pub mod api;
pub mod await_pod;
pub mod caches;
pub mod carry;
pub mod cleanup_job;
mod crossing;
mod exchange;
pub mod hint;
pub mod init;
pub mod leftovers;
pub mod link;
pub mod liveness;
mod made;
pub mod metrics;
pub mod output;
mod parcel;
mod passwd;
pub mod prepare_job;
pub mod promotion;
pub mod remote;
pub mod retention;
mod room;
pub mod run_container_step;
pub mod run_script_step;
#[cfg(feature = "opentelemetry")]
pub mod spans;
pub mod step;
pub mod step_files;
pub mod step_log;
mod surrounded;
pub mod surroundings;
pub mod sweep;
pub mod trace;
pub mod transfer;
pub mod unwrapped;

use std::io::Read as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::metrics::{Call, Outcome};
use self::trace::Phases;
use crate::config::Config;
use crate::protocol::{Command, Request, RequestError};
use crate::spool::signals::Signals;

/// Most that a request may say: a step's whole environment is in it.
const REQUEST_LIMIT: u64 = 64 * 1024 * 1024;

/// Does what the runner asks for on standard input, and returns the exit code.
///
/// # Errors
/// What went wrong on the hook's own side; a step's own failure is an exit code.
pub fn run() -> anyhow::Result<u8> {
    // First of all: a signal must never find the default disposition, which would end the hook
    // and leave its step running.
    let signals = Signals::catch().context("catch SIGINT and SIGTERM")?;
    let mut input = Vec::new();
    std::io::stdin()
        .take(REQUEST_LIMIT)
        .read_to_end(&mut input)
        .map_err(RequestError::Read)?;
    let request = Request::parse(&String::from_utf8_lossy(&input))?;
    drop(input);
    let config = Config::from_process()?;
    let phases = (config.log.is_some() || config.metrics.is_some() || config.spans.is_some())
        .then(|| trace::start(config.log.as_deref()));
    for warning in &config.warnings {
        output::warning(warning);
    }
    let command = request.command.name();
    let begin = Instant::now();
    let ended = obey(&config, request, &signals);
    if let Some(phases) = phases {
        report(&config, command, begin.elapsed(), &ended, &signals, &phases);
    }
    ended
}

fn obey(config: &Config, request: Request, signals: &Signals) -> anyhow::Result<u8> {
    match request.command {
        Command::PrepareJob(job) => {
            let response = request.response_file.as_deref();
            prepare_job::run(config, &job, response, signals)
        }
        Command::RunScriptStep(step) => run_script_step::run(config, step, signals),
        Command::RunContainerStep(action) => run_container_step::run(config, &action, signals),
        Command::CleanupJob => Ok(cleanup_job::run(config)),
    }
}

/// What the command took, for whoever asked.
fn report(
    config: &Config,
    command: &'static str,
    took: Duration,
    ended: &anyhow::Result<u8>,
    signals: &Signals,
    phases: &Phases,
) {
    if config.log.is_some() {
        phases.show(command, took);
    }
    let outcome = match ended {
        _ if signals.received().is_some() => Outcome::Cancelled,
        Ok(0) => Outcome::Success,
        Ok(_) => Outcome::Failure,
        Err(_) => Outcome::Error,
    };
    let phases = &phases.ended();
    let call = Call {
        command,
        outcome,
        took,
        phases,
    };
    let counted = config
        .metrics
        .as_deref()
        .map(|path| metrics::add(path, &call));
    #[cfg(feature = "opentelemetry")]
    let sent = config
        .spans
        .as_deref()
        .map(|endpoint| spans::send(endpoint, &config.pod_name, &config.github, &call));
    #[cfg(not(feature = "opentelemetry"))]
    let sent = None;
    for failed in [counted, sent]
        .into_iter()
        .flatten()
        .filter_map(Result::err)
    {
        // It must not fail a step.
        output::warning(&format!("{failed:#}"));
    }
}
