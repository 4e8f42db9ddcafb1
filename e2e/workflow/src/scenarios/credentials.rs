//! Images that want a password.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::{Acting, Stage};
use crate::harness::private::PrivateRegistry;
use crate::harness::runner::{Options, Runner};
use crate::runner::guid::guid;

/// Keeps a job waiting while the cluster is looked at.
const HOLD: &str = "echo ready; until [ -e go ]; do sleep 0.05; done";
const TEMPLATE: &str = "metadata: {annotations: {arc-hook/run-as: runner}}\n";

fn options() -> Options {
    Options::of_template(TEMPLATE)
}

/// Job, service and action come from registries none of which takes the
/// password of another. A container action has no credentials of its own:
/// the runner sends none, and the pod has what the runner pod has.
pub fn each_its_own(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let [job, service, action] = PrivateRegistry::ALL;
        let name = format!("pull-{}", &guid()[..8]);
        let secrets = stage.cluster.api::<Secret>();
        let secret: Secret = serde_json::from_value(action.pull_secret(&name))?;
        secrets.create(&PostParams::default(), &secret).await?;
        let job = json!({
            "name": "Private images",
            "container": {"image": job.image("alpine"), "credentials": job.credentials()},
            "services": {"cache": {
                "image": service.image("redis"), "credentials": service.credentials(),
                "options": "--health-cmd 'redis-cli ping' --health-interval 1s",
            }},
            "steps": [
                {"name": "runs", "run": format!("printf 'PING\\r\\nQUIT\\r\\n' | nc redis 6379; {HOLD}"),
                 "driver": {"expect": ["+PONG"]}},
                {"name": "an action", "uses": format!("docker://{}", action.image("alpine")),
                 "with": {"entrypoint": "/bin/sh", "args": "-c id"}, "driver": {"expect": ["uid=1001"]}},
                {"name": "one without an entry point",
                 "uses": format!("docker://{}", action.image("scratch-step")),
                 "with": {"args": "--ids"}, "driver": {"expect": ["uid=1001"]}},
            ],
        });
        let looks = async |runner: &Runner| {
            runner.await_log("ready").await?;
            no_password(&stage, runner).await?;
            std::fs::write(runner.path("/home/runner/_work/demo/demo/go"), "")?;
            Ok(())
        };
        let options = Options {
            pull_secrets: vec![name.clone()],
            ..options()
        };
        let outcome = stage.run_beside(&job.to_string(), &options, looks).await;
        secrets.delete(&name, &DeleteParams::default()).await?;
        ensure!(
            !outcome?.log.contains("password-of-"),
            "the log shows a password"
        );
        Ok(())
    })
}

/// A password that is not taken is an explained failure.
pub fn wrong_password(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let [registry, other, _] = PrivateRegistry::ALL;
        let job = json!({
            "name": "A wrong password",
            "container": {
                "image": registry.image("alpine"),
                "credentials": {"username": registry.user(), "password": other.password()},
            },
            "driver": {
                "prepare-job": {
                    "fails": true, "max-ms": 60_000,
                    "expect": [registry.image("alpine"), "was refused by the registry", "or correct them"],
                },
                "conclusion": "failure",
            },
        });
        let looks = async |runner: &Runner| {
            while runner.job_pods().await?.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            no_password(&stage, runner).await
        };
        let outcome = stage
            .run_beside(&job.to_string(), &options(), looks)
            .await?;
        ensure!(
            !outcome.log.contains("password-of-"),
            "the log shows a password"
        );
        Ok(())
    })
}

async fn no_password(stage: &Stage, runner: &Runner) -> anyhow::Result<()> {
    let pods = serde_json::to_string(&runner.job_pods().await?)?;
    ensure!(!pods.contains("password-of-"), "a pod holds a password");
    let events = stage.cluster.api::<Event>();
    let events = serde_json::to_string(&events.list(&ListParams::default()).await?.items)?;
    ensure!(
        !events.contains("password-of-"),
        "an event holds a password"
    );
    Ok(())
}
