//! A job pod that shares no volume with its runner.

use std::sync::Arc;

use super::{Acting, Stage};
use crate::harness::cluster::Role;
use crate::harness::runner::Options;

/// Runs a job of `e2e/jobs/` in a runner pod as ARC makes it for `kubernetes-novolume`.
fn without_a_volume(stage: Arc<Stage>, file: &'static str) -> Acting {
    Box::pin(async move {
        let options = Options {
            role: Role::NoVolume,
            ..Options::default()
        };
        stage.run_job(&stage.read(file)?, &options).await?;
        Ok(())
    })
}

/// Files go both ways, and steps end as they end.
pub fn nothing_shared(stage: Arc<Stage>) -> Acting {
    without_a_volume(stage, "copied.yaml")
}

/// `hashFiles()`, local actions with their post steps, problem matchers.
pub fn what_the_runner_reads(stage: Arc<Stage>) -> Acting {
    without_a_volume(stage, "runner-reads.yaml")
}

/// Names, links, modes, holes and sizes.
pub fn files_of_every_kind(stage: Arc<Stage>) -> Acting {
    without_a_volume(stage, "files-cross.yaml")
}
