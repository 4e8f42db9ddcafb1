//! What a workflow's options and a hook template come to in the pods that the
//! API server has.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::{Acting, Stage, judge};
use crate::harness::runner::{Options, Runner};

/// Where a job of these looks for the word to go on.
const WORKSPACE: &str = "/home/runner/_work/demo/demo";
/// The namespace that enforces the level `restricted`.
const RESTRICTED: &str = "arc-runners-restricted";

/// Resources arrive as requests and as limits.
pub fn options(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let looks = async |runner: &Runner| {
            runner.await_log("ready").await?;
            let pod = pod(runner, &runner.job_pod()).await?;
            for (name, cpu, memory) in [("job", "250m", "128Mi"), ("redis", "500m", "256Mi")] {
                let amounts = json!({"cpu": cpu, "memory": memory});
                let found = &container(&pod, name)?["resources"];
                ensure!(
                    found["requests"] == amounts && found["limits"] == amounts,
                    "container `{name}` has {found}, expected {amounts}"
                );
            }
            std::fs::write(runner.path(WORKSPACE).join("go"), "")?;
            Ok(())
        };
        stage.run_file_beside("options.yaml", looks).await?;
        Ok(())
    })
}

/// Each part of a template is where it belongs.
pub fn template(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let looks = async |runner: &Runner| {
            runner.await_log("in the job").await?;
            let job = pod(runner, &runner.job_pod()).await?;
            of_template(&job)?;
            for name in ["job", "redis", "sidecar"] {
                let has = container(&job, name)?["env"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|variable| variable["name"] == "EVERY_SERVICE");
                ensure!(
                    has == (name == "redis"),
                    "`$default` and container `{name}` do not go together"
                );
            }
            std::fs::write(runner.path(WORKSPACE).join("go"), "")?;
            runner.await_log("in the action").await?;
            let pods = runner.job_pods().await?;
            let action = pods
                .iter()
                .find(|pod| pod.name_any() != runner.job_pod())
                .context("the action has no pod")?;
            of_template(&serde_json::to_value(action)?)?;
            std::fs::write(runner.path(WORKSPACE).join("gone"), "")?;
            Ok(())
        };
        stage.run_file_beside("template.yaml", looks).await?;
        Ok(())
    })
}

/// What the pods of job and action have in common.
fn of_template(pod: &Value) -> anyhow::Result<()> {
    let metadata = &pod["metadata"];
    ensure!(
        metadata["labels"]["team"] == "build"
            && metadata["annotations"]["example.com/note"] == "hello",
        "the template's metadata are not in {metadata}"
    );
    let spec = &pod["spec"];
    ensure!(
        spec["terminationGracePeriodSeconds"] == 5,
        "the template's grace period is not in {spec}"
    );
    container(pod, "sidecar")?;
    Ok(())
}

/// A template that cannot work is refused before anything is made.
pub fn users_of_a_volume(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let nothing = async |_: &Runner| Ok(());
        let outcome = stage
            .run_file_beside("template-users.yaml", nothing)
            .await?;
        let requests = outcome.requests.context("there is no audit log")?;
        ensure!(!requests.is_empty(), "the audit log has no request");
        for request in requests {
            ensure!(
                request.verb != "create" || !request.uri.contains("/namespaces/"),
                "something was made: {request:?}"
            );
        }
        Ok(())
    })
}

/// A whole job, its runner pod included, where the API server admits nothing
/// that is not restricted.
pub fn restricted(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let cluster = stage
            .cluster
            .beside(RESTRICTED, labels, "restricted.yaml")
            .await?;
        let plain: Pod = serde_json::from_value(json!({
            "metadata": {"name": "plain"},
            "spec": {"containers": [{"name": "plain", "image": "alpine:latest"}]},
        }))?;
        let attempt = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let refused = cluster.api::<Pod>().create(&attempt, &plain).await;
        let refusal = refused.err().context("a plain pod is admitted")?;
        ensure!(
            refusal.to_string().contains("violates PodSecurity"),
            "a plain pod is refused for another reason: {refusal}"
        );
        let job = stage.read("restricted.yaml")?;
        let runner = Runner::start(&cluster, &Options::default()).await?;
        runner.submit(&job)?;
        let outcome = runner.finish(&mut |_| ()).await;
        stage.keep(runner.log());
        let removed = runner.remove().await;
        judge(&outcome?)?;
        removed
    })
}

async fn pod(runner: &Runner, name: &str) -> anyhow::Result<Value> {
    let pods = runner.job_pods().await?;
    let pod = pods.iter().find(|pod| pod.name_any() == name);
    Ok(serde_json::to_value(
        pod.with_context(|| format!("there is no pod `{name}`"))?,
    )?)
}

fn container<'a>(pod: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|container| container["name"] == name)
        .with_context(|| format!("the pod has no container `{name}`"))
}
