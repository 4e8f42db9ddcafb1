//! `arc-hook retained logs`: what the failed step and the services said last.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;

use super::seat::{self, Seat};
use super::{connect, find, print, tell, terminal};
use crate::admin::access::Access;
use crate::cluster::LogSource;
use crate::pod::names::JOB_CONTAINER;
use crate::retain::{Ledger, Mode};

const EXAMPLES: &str = "\
Examples:
  arc-hook retained logs 3f9a1c2e
  arc-hook retained logs 3f9a1c2e --tail 500";

/// Prints the end of the failed step's log, where it was kept, and those of the services
///
/// The whole log is GitHub's. What is kept of it, with `arc-hook/retain-script`, has the values of the
/// job's variables crossed out.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Logs {
    /// The job, as `arc-hook retained list` names it
    job: String,

    /// Lines of each service
    #[arg(long, value_name = "LINES", default_value_t = 50)]
    tail: u32,

    #[command(flatten)]
    access: Access,
}

impl Logs {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let (api, cluster) = connect(&self.access)?;
        api.run(async {
            let ledger = Ledger::read(&cluster).await?;
            let entry = find(&ledger, &self.job, cluster.namespace())?;
            tell(&format!("the whole log: {}", entry.run_url));
            let mut code = 0;
            if entry.script {
                let seat = Box::pin(Seat::take(&cluster, entry)).await?;
                let command = seat::command(&["--log"], &[]);
                let ended = terminal::listen(&cluster, &seat.pod, &command).await;
                seat.leave(&cluster).await?;
                code = ended?;
            } else {
                tell("the step's own words were not kept (`arc-hook/retain-script`)");
            }
            let pod = match entry.mode {
                Mode::Pod => cluster.get::<Pod>(&entry.pod).await?,
                Mode::Volumes => None,
            };
            let containers = pod.and_then(|pod| pod.spec).map(|spec| spec.containers);
            for container in containers.into_iter().flatten() {
                if container.name == JOB_CONTAINER {
                    continue;
                }
                let source = LogSource {
                    pod: &entry.pod,
                    container: &container.name,
                };
                let log = cluster.log_tail(source, self.tail).await;
                let mut lines = String::new();
                for line in log.lines() {
                    let _ = writeln!(lines, "{} | {line}", container.name);
                }
                print(&lines)?;
            }
            Ok(ExitCode::from(code))
        })
    }
}
