//! What goes wrong around a job: the API server away, the hook killed, the
//! runner pod deleted.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::{Acting, Stage, judge};
use crate::harness::absence::Absence;
use crate::harness::runner::{Options, Runner};

/// How long the API server stays away.
const OUTAGE: Duration = Duration::from_mins(1);

/// The API server is away for a minute while steps run, begin and end.
pub fn api_outage(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let wait = |file: &str| format!("until [ -e {file} ]; do sleep 0.1; done");
        let job = json!({
            "name": "The API server is away",
            "container": {"image": "alpine:latest"},
            "steps": [
                {"name": "it goes", "run": format!("echo ready; {}; echo still here", wait("gone")),
                 "driver": {"expect": ["still here"], "forbid": ["##[warning]", "##[error]"]}},
                {"name": "a step begins and ends without it", "id": "blind",
                 "run": "echo x=1 >> $GITHUB_OUTPUT",
                 "driver": {"max-ms": 20_000, "outputs": {"x": "1"}}},
                {"name": "a failing one too", "run": "exit 4", "continue-on-error": true,
                 "driver": {"exit": 4, "max-ms": 20_000}},
                {"name": "it comes back", "run": format!("{}; echo and on", wait("back")),
                 "driver": {"expect": ["and on"], "forbid": ["##[warning]", "##[error]"]}},
            ],
        });
        let takes_it_away = async |runner: &Runner| {
            runner.await_log("ready").await?;
            let workspace = runner.path("/home/runner/_work/demo/demo");
            let script = stage.cluster.paths.script("cluster/apiserver");
            let outage = Absence::begin(script).await?;
            fs::write(workspace.join("gone"), "")?;
            tokio::time::sleep(OUTAGE).await;
            outage.end().await?;
            fs::write(workspace.join("back"), "")?;
            Ok(())
        };
        stage
            .run_beside(&job.to_string(), &Options::default(), takes_it_away)
            .await?;
        Ok(())
    })
}

/// The hook dies at several moments of `prepare_job`, and the runner's pod
/// after it.
pub fn killed_in_prepare(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        for after_ms in [20, 100, 300, 700, 1500] {
            let job = json!({
                "name": "Killed in prepare_job",
                "container": {"image": "alpine:latest"},
                "services": {"cache": {"image": "redis:latest", "env": {"A": "b"}}},
                "driver": {
                    "prepare-job": {
                        "signals": [{"send": "KILL", "when": {"after-ms": after_ms}}],
                        "any-exit": true,
                    },
                    "skip-cleanup": true,
                    "any-conclusion": true,
                },
            });
            stage
                .run_job(&job.to_string(), &Options::default())
                .await
                .with_context(|| format!("killed after {after_ms} ms"))?;
        }
        Ok(())
    })
}

/// The owner reference alone must do, where nobody deletes by label.
pub fn runner_gone(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let job = json!({
            "name": "The runner pod goes in the middle of a step",
            "container": {"image": "alpine:latest"},
            "services": {"cache": {"image": "redis:latest", "env": {"A": "b"}}},
            "steps": [{"run": "echo ready; sleep 600"}],
        });
        let runner = Runner::start(&stage.cluster, &Options::default()).await?;
        runner.submit(&job.to_string())?;
        runner.await_log("ready").await?;
        let pods = runner.job_pods().await?;
        ensure!(
            !pods.is_empty(),
            "no pod has the label runner-pod={}",
            runner.name
        );
        for pod in pods {
            let owners = pod.metadata.owner_references.unwrap_or_default();
            let owner = owners.first().context("the job pod has no owner")?;
            ensure!(
                owner.name == runner.name && owner.block_owner_deletion != Some(true),
                "the job pod's owner is {owner:?}"
            );
        }
        runner.vanish().await
    })
}

/// A pod that an earlier runner of the same name left is replaced.
pub fn leftover_pod(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let job = json!({
            "name": "A leftover pod",
            "container": {"image": "alpine:latest"},
            "steps": [{"run": "cat /etc/os-release", "driver": {"expect": ["ID=alpine"]}}],
        });
        let runner = Runner::start(&stage.cluster, &Options::default()).await?;
        let leftover: Pod = serde_json::from_value(json!({
            "metadata": {"name": runner.job_pod(), "labels": {"runner-pod": runner.name}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "job", "image": "redis:latest", "command": ["sleep", "600"]}],
            },
        }))?;
        stage
            .cluster
            .api::<Pod>()
            .create(&PostParams::default(), &leftover)
            .await?;
        runner.submit(&job.to_string())?;
        let outcome = runner.finish(&mut |_| ()).await;
        stage.keep(runner.log());
        runner.remove().await?;
        judge(&outcome?)
    })
}

/// The job pod is deleted under a running step.
pub fn pod_deleted(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let job = json!({
            "name": "The job pod is deleted",
            "container": {"image": "alpine:latest"},
            "steps": [
                {"name": "cut off", "run": "echo ready; sleep 600",
                 "driver": {"fails": true, "max-ms": 90_000, "expect": ["deleted"]}},
                {"name": "after it", "if": "always()", "run": "echo never",
                 "driver": {"fails": true, "max-ms": 60_000, "forbid": ["never"]}},
            ],
            "driver": {"conclusion": "failure"},
        });
        let deletes_it = async |runner: &Runner| {
            runner.await_log("ready").await?;
            let now = DeleteParams::default().grace_period(1);
            let pods = stage.cluster.api::<Pod>();
            pods.delete(&runner.job_pod(), &now)
                .await
                .context("failed to delete the job pod")?;
            Ok(())
        };
        stage
            .run_beside(&job.to_string(), &Options::default(), deletes_it)
            .await?;
        Ok(())
    })
}
