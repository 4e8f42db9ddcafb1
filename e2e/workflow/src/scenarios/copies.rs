//! A job pod that shares no volume with its runner, and what must be the same with and without.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::limits::hexadecimal;
use super::lines::{said, with_lines};
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

/// Longer than a relay waits for a word of its hook.
const STOPPED_MS: u32 = 65_000;
/// Lines that a step prints while its hook is stopped, one every tenth of a second, and at once after that.
const SLOWLY: u32 = 700;
const AT_ONCE: u32 = 200_000;

/// The hook is stopped for more than a minute: its log is whole all the same, and its step ran once.
pub fn stopped(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let mut hash = Sha256::new();
        let mut bytes = 0;
        for line in (1..=SLOWLY).chain(1..=AT_ONCE) {
            let line = format!("{line}\n");
            hash.update(&line);
            bytes += line.len();
        }
        let sum = hexadecimal(hash.finalize().as_slice());
        let job = json!({
            "name": "A hook that is stopped for a minute",
            "container": {"image": "alpine:latest"},
            "steps": [
                {
                    "name": "goes on without it",
                    "id": "long",
                    "run": format!(
                        "echo x >> count; echo x=1 >> $GITHUB_OUTPUT; echo BEGIN; \
                         i=0; while [ $i -lt {SLOWLY} ]; do i=$((i+1)); echo $i; sleep 0.1; done; \
                         seq 1 {AT_ONCE}; echo END; exit 7"
                    ),
                    "continue-on-error": true,
                    "driver": {
                        "signals": [
                            {"send": "STOP", "when": {"line": "BEGIN", "after-ms": 1000}},
                            {"send": "CONT", "when": {"line": "BEGIN", "after-ms": 1000 + STOPPED_MS}},
                        ],
                        "exit": 7,
                        "outputs": {"x": "1"},
                        "digest": {"from": "BEGIN", "to": "END", "bytes": bytes, "sha256": sum},
                    },
                },
                {"name": "and ran once", "run": "test $(wc -l < count) = 1"},
            ],
        })
        .to_string();
        for role in [Role::NoVolume, Role::Shipped] {
            let options = Options {
                role,
                ..Options::default()
            };
            let ended = stage.run_job(&job, &options).await;
            ended.with_context(|| format!("{role:?}"))?;
        }
        Ok(())
    })
}

/// A cache is cloned, promoted and cloned again by jobs that share no work volume.
pub fn caches(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        with_lines(&stage, &[], async |lines| {
            let copy = ("ARC_HOOK_WORK".to_owned(), "copy".to_owned());
            lines.options.variables.push(copy);
            let main = lines.main();
            let own = "grep -q ' /CONAN_HOME ' /proc/mounts && test -d /github/home";
            let first = format!("{own} && echo built > /CONAN_HOME/built");
            let first = lines.run(json!([{"run": first}]), json!({})).await?;
            said(&first, "Work volume: none is shared")?;
            said(&first, &format!("promoted to {main} generation 1"))?;
            let failing = "rm /CONAN_HOME/built; exit 3";
            let failing = json!([{"run": failing, "driver": {"exit": 3}}]);
            let failed = json!({"driver": {"conclusion": "failure"}});
            let failed = lines.run(failing, failed).await?;
            said(&failed, "not promoted: the job failed")?;
            let second = json!([{"run": "grep built /CONAN_HOME/built"}]);
            let second = lines.run(second, json!({})).await?;
            said(&second, &format!("clone of {main} generation 1"))?;
            said(&second, &format!("promoted to {main} generation 2"))?;
            lines.await_no_orphan().await
        })
        .await
    })
}

/// Files of a workspace, and of each of its directories.
const MANY: u32 = 100_000;
const EACH: u32 = 1000;

/// So many files come to the runner after one step, go up with the next job, and go away.
pub fn many_files(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let made = format!(
            "for d in $(seq {}); do mkdir -p many/$d; (cd many/$d; seq {EACH} | xargs touch); done; \
             echo changed > many/7/7",
            MANY / EACH
        );
        let job = json!({
            "name": "Many files cross",
            "container": {"image": "alpine:latest"},
            "steps": [
                {"name": "come", "run": made, "driver": {"after": [
                    format!("test $(find $WORKSPACE/many -type f | wc -l) = {MANY}"),
                    "test $(cat $WORKSPACE/many/7/7) = changed".to_owned(),
                ]}},
                {"name": "change on the runner's side",
                 "run": "test $(cat many/9/9) = runner && test ! -e many/8 && test -e many/10/1000",
                 "driver": {"before": ["echo runner > $WORKSPACE/many/9/9; rm -r $WORKSPACE/many/8"]}},
                {"name": "go away", "run": "rm -r many",
                 "driver": {"after": ["test ! -e $WORKSPACE/many"]}},
            ],
        });
        let options = Options {
            role: Role::NoVolume,
            ..Options::default()
        };
        stage.run_job(&job.to_string(), &options).await?;
        Ok(())
    })
}
