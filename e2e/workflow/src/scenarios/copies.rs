//! A job pod that shares no volume with its runner, and what must be the same with and without.

use std::sync::Arc;

use anyhow::Context as _;

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

/// `volumes:` of a job, where runner and job share a volume and where they do not.
pub fn user_volumes(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        for role in [Role::Shipped, Role::NoVolume] {
            let options = Options {
                role,
                ..Options::default()
            };
            for file in ["user-volumes.yaml", "user-volume-refused.yaml"] {
                let ended = stage.run_job(&stage.read(file)?, &options).await;
                ended.with_context(|| format!("{file}, {role:?}"))?;
            }
        }
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

/// Container actions without an entry point, and one without a job container.
pub fn plain_actions(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        without_a_volume(stage.clone(), "plain-actions.yaml").await?;
        let options = Options {
            role: Role::NoVolume,
            variables: vec![(
                "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER".to_owned(),
                "false".to_owned(),
            )],
            ..Options::default()
        };
        stage
            .run_job(&stage.read("no-container.yaml")?, &options)
            .await?;
        Ok(())
    })
}

/// Names, links, modes, holes and sizes.
pub fn files_of_every_kind(stage: Arc<Stage>) -> Acting {
    without_a_volume(stage, "files-cross.yaml")
}
