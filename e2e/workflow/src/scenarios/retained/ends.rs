//! What a kept job costs, and that it ends without us.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{Acting, Keeping, Stage, await_that, failing, keeping, way_in};

/// Its processors are given back in place, and the cluster itself ends its pod at the last, whoever else
/// does or does not look after it.
pub fn of_itself(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let annotations = [("retain-ttl", "10s"), ("retain-max-ttl", "20s")];
        keeping(&stage, &annotations, of_itself_with).await
    })
}

async fn of_itself_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let job = failing("Ends of itself", "echo broken");
    let mut template = keeping.template.clone();
    template["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "200m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}});
    let options = keeping.options_of(&template);
    let (outcome, name) = keeping.run_with(&job, &options).await?;
    let id = way_in(&outcome)?;
    let pods = keeping.stage.cluster.api::<Pod>();
    let found = pods.get(&name).await.context("the job's pod went")?;
    let kept = serde_json::to_value(&found)?;
    let seconds = kept["spec"]["activeDeadlineSeconds"].as_i64();
    // From the pod's start on.
    ensure!(
        seconds.is_some_and(|seconds| (20..80).contains(&seconds)),
        "the deadline is {seconds:?}"
    );
    let container = &kept["spec"]["containers"][0];
    ensure!(
        container["resources"]["requests"] == json!({"cpu": "10m", "memory": "32Mi"})
            && container["resources"]["limits"] == json!({"memory": "256Mi"}),
        "the container has {}",
        container["resources"]
    );
    for (annotation, value) in [
        ("exit-code", "3"),
        ("run", "https://github.com/octo/demo/actions/runs/"),
    ] {
        let said = &kept["metadata"]["annotations"][format!("arc-hook/{annotation}")];
        ensure!(
            said.as_str().is_some_and(|said| said.starts_with(value)),
            "the annotation `{annotation}` is {said}"
        );
    }
    // What the node has done of it; the container was not restarted.
    await_that("the node has taken the processors back", async || {
        let status = pods.get(&name).await?.status.unwrap_or_default();
        let status = serde_json::to_value(&status)?;
        let job = &status["containerStatuses"][0];
        ensure!(job["restartCount"] == 0, "the container was restarted");
        Ok(job["resources"]["requests"]["cpu"] == "10m" || job["state"]["terminated"].is_object())
    })
    .await?;

    await_that("the cluster ends the pod", async || {
        let status = pods.get(&name).await?.status.unwrap_or_default();
        Ok(status.reason.as_deref() == Some("DeadlineExceeded"))
    })
    .await?;
    let output = keeping
        .laptop(&["retained", "enter", &id])?
        .output()
        .await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && told.contains("has ended: its time was up"),
        "{told}"
    );
    let gone = keeping.told(0, &["gc"]).await?;
    ensure!(gone.contains(&id), "gc says {gone}");
    await_that("its pod is gone", async || {
        Ok(pods.get_opt(&name).await?.is_none())
    })
    .await
}
