//! The command line: nothing for the runner, verbs for pods and people.

use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::admin::cache::Cache;
use crate::admin::completions::Completions;
use crate::admin::doctor::Doctor;
use crate::admin::gc::Gc;
use crate::admin::man::Manual;
use crate::admin::rbac::Rbac;
use crate::admin::render::Render;
use crate::admin::retained::Retained;
use crate::hook;
use crate::retain::enter::EnterArgs;
use crate::retain::inside::KeepArgs;
use crate::retain::scrub::ScrubArgs;
use crate::spool::supervisor::{self, ExecArgs, SuperviseArgs};
use crate::transport::relay::RelayArgs;

/// A container hook for GitHub's self-hosted runners on Kubernetes
///
/// Without a verb it reads one request of the runner from standard input.
#[derive(Debug, Parser)]
#[command(version, about, long_about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Doctor(Box<Doctor>),
    Render(Box<Render>),
    Rbac(Box<Rbac>),
    Completions(Completions),
    Man(Manual),
    Gc(Box<Gc>),
    Cache(Box<Cache>),
    Retained(Box<Retained>),
    /// Runs as PID 1 of a job's container and starts its steps
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    /// Becomes a step's program
    #[command(hide = true)]
    Exec(ExecArgs),
    /// Plays the hook's part in a job's container, at the other end of an exec
    #[command(hide = true)]
    Relay(RelayArgs),
    /// Prepares what a job needs beside its pod
    #[command(hide = true, subcommand)]
    Init(hook::init::Init),
    /// Ends the processes of a job that is kept, and removes its secrets
    #[command(hide = true)]
    Scrub(ScrubArgs),
    /// Has a job scrubbed from within its pod
    #[command(hide = true)]
    Keep(KeepArgs),
    /// Opens a shell in a kept job
    #[command(hide = true)]
    Enter(EnterArgs),
    /// Empties directories of a job whose files only its own user can remove
    #[command(hide = true)]
    Sweep(hook::sweep::SweepArgs),
}

/// Runs the process: the error, if any, is printed once, here.
#[must_use]
pub fn main() -> ExitCode {
    match parse().verb {
        None => match hook::run() {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                hook::output::failure(&error);
                ExitCode::FAILURE
            }
        },
        Some(Verb::Render(render)) => plainly(render.run()),
        Some(Verb::Doctor(doctor)) => coded(doctor.run()),
        Some(Verb::Rbac(rbac)) => coded(rbac.run()),
        Some(Verb::Completions(completions)) => plainly(completions.run(documented())),
        Some(Verb::Man(manual)) => plainly(manual.run(documented())),
        Some(Verb::Gc(gc)) => plainly(gc.run()),
        Some(Verb::Cache(cache)) => plainly(cache.run()),
        Some(Verb::Retained(retained)) => coded(retained.run()),
        Some(Verb::Supervise(args)) => plainly(supervisor::supervise(&args)),
        Some(Verb::Exec(args)) => ExitCode::from(supervisor::exec(&args)),
        Some(Verb::Relay(args)) => plainly(args.run()),
        Some(Verb::Init(init)) => plainly(init.run()),
        Some(Verb::Scrub(args)) => plainly(args.run()),
        Some(Verb::Keep(args)) => plainly(args.run()),
        Some(Verb::Enter(args)) => coded(args.run()),
        Some(Verb::Sweep(args)) => {
            args.run();
            ExitCode::SUCCESS
        }
    }
}

/// Reads the command line. Under the name `kubectl-arc_hook` it is a plug-in of kubectl, `kubectl
/// arc-hook`, where nobody brings a request of the runner.
fn parse() -> Cli {
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called).file_name().unwrap_or_default();
    if !called.as_encoded_bytes().starts_with(b"kubectl-") {
        return Cli::parse();
    }
    let command = Cli::command()
        .bin_name("kubectl arc-hook")
        .subcommand_required(true)
        .arg_required_else_help(true);
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

/// The command line as people are told of it.
fn documented() -> Command {
    let whole = Cli::command();
    let verbs: Vec<Command> = whole
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .cloned()
        .collect();
    let about = whole.get_about().cloned().unwrap_or_default();
    let long_about = whole.get_long_about().cloned().unwrap_or_default();
    Command::new("arc-hook")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .long_about(long_about)
        .disable_help_subcommand(true)
        .subcommands(verbs)
}

fn plainly(result: anyhow::Result<()>) -> ExitCode {
    result.map_or_else(|error| told(&error, 1), |()| ExitCode::SUCCESS)
}

/// For verbs that judge: what could not be found out is the worst.
fn coded(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| told(&error, 2))
}

fn told(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("arc-hook: {error:#}");
    ExitCode::from(code)
}
