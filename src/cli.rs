//! The command line: nothing for the runner, verbs for pods and people.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::admin::doctor::Doctor;
use crate::admin::rbac::Rbac;
use crate::admin::render::Render;
use crate::hook;
use crate::spool::supervisor::{self, ExecArgs, SuperviseArgs};

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
    /// Runs as PID 1 of a job's container and starts its steps
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    /// Becomes a step's program
    #[command(hide = true)]
    Exec(ExecArgs),
    /// Prepares what a job needs beside its pod
    #[command(hide = true, subcommand)]
    Init(hook::init::Init),
    /// Empties directories of a job whose files only its own user can remove
    #[command(hide = true)]
    Sweep(hook::sweep::SweepArgs),
}

/// Runs the process: the error, if any, is printed once, here.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().verb {
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
        Some(Verb::Supervise(args)) => plainly(supervisor::supervise(&args)),
        Some(Verb::Exec(args)) => ExitCode::from(supervisor::exec(&args)),
        Some(Verb::Init(init)) => plainly(init.run()),
        Some(Verb::Sweep(args)) => {
            args.run();
            ExitCode::SUCCESS
        }
    }
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
