//! `arc-hook retained enter`: a shell in a kept job.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::seat::{self, Seat};
use super::{connect, find, terminal};
use crate::admin::access::Access;
use crate::retain::Ledger;

const EXAMPLES: &str = "\
Examples:
  arc-hook retained enter 3f9a1c2e
  arc-hook retained enter 3f9a1c2e --rerun
  arc-hook retained enter 3f9a1c2e --namespace ci -- make -k";

/// Opens a shell where the failed step ran, with its environment as far as that was kept
///
/// With a terminal, its size and its keys reach the shell. The exit code is that of the shell, or of what
/// is run in its place.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Enter {
    /// The job, as `arc-hook retained list` names it
    job: String,

    /// Runs the failed step again, where its script was kept
    #[arg(long, conflicts_with = "program")]
    rerun: bool,

    #[command(flatten)]
    access: Access,

    /// A program to run in place of a shell
    #[arg(last = true)]
    program: Vec<String>,
}

impl Enter {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let (api, cluster) = connect(&self.access)?;
        api.run(async {
            let ledger = Ledger::read(&cluster).await?;
            let entry = find(&ledger, &self.job, cluster.namespace())?;
            if self.rerun && !entry.script {
                bail!(
                    "run the failed step of job `{}` again: its script was not kept; the template's \
                     annotation `arc-hook/retain-script: \"true\"` keeps it",
                    entry.id
                );
            }
            let flags: &[&str] = if self.rerun { &["--rerun"] } else { &[] };
            let seat = Box::pin(Seat::take(&cluster, entry)).await?;
            let command = seat::command(flags, &self.program);
            let ended = terminal::talk(&cluster, &seat.pod, &command).await;
            seat.leave(&cluster).await?;
            Ok(ExitCode::from(ended?))
        })
    }
}
