//! Which jobs are kept, and as what.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use serde_json::json;

use super::{Acting, Keeping, Stage, await_that, failing, keeping, way_in};

/// A cancelled job is kept where the template says so, and not otherwise.
pub fn cancelled(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        for (wanted, annotations) in [(1, vec![("retain-cancelled", "true")]), (0, Vec::new())] {
            keeping(&stage, &annotations, async |keeping: &Keeping<'_>| {
                cancelled_with(keeping, wanted).await
            })
            .await?;
        }
        Ok(())
    })
}

async fn cancelled_with(keeping: &Keeping<'_>, wanted: usize) -> anyhow::Result<()> {
    let job = json!({
        "name": "Cancelled",
        "container": {"image": "alpine:latest"},
        "steps": [{"run": "echo ready; sleep 60",
                   "driver": {"cancel-job": {"line": "ready"}, "fails": true}}],
        "driver": {"conclusion": "cancelled"},
    });
    keeping.run(&job).await?;
    let listed = keeping.listed().await?;
    ensure!(
        listed.len() == wanted,
        "{} jobs are kept: {listed:?}",
        listed.len()
    );
    ensure!(
        listed
            .iter()
            .all(|one| one["reason"] == "the job was cancelled"),
        "{listed:?}"
    );
    Ok(())
}

/// Of a job whose volumes alone are kept nothing runs until someone enters.
pub fn volumes(stage: Arc<Stage>) -> Acting {
    Box::pin(async move { keeping(&stage, &[("retain-mode", "volumes")], volumes_with).await })
}

async fn volumes_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let job = failing("Volumes", "echo built > output; echo lib > /CONAN_HOME/lib");
    let (outcome, pod) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    let pods = keeping.stage.cluster.api::<Pod>();
    await_that("the job's pod is gone", async || {
        Ok(pods.get_opt(&pod).await?.is_none())
    })
    .await?;
    let seen = keeping
        .inside(
            &id,
            "pwd; cat output /CONAN_HOME/lib; echo more >> output; id -u",
        )
        .await?;
    ensure!(seen == "/__w/demo/demo\nbuilt\nlib\n1001\n", "{seen}");
    let twin = format!("arc-hook-retained-{id}");
    await_that("the equal pod is gone", async || {
        Ok(pods.get_opt(&twin).await?.is_none())
    })
    .await?;
    let seen = keeping.inside(&id, "cat output").await?;
    ensure!(seen == "built\nmore\n", "{seen}");
    let claims = keeping.stage.cluster.api::<PersistentVolumeClaim>();
    keeping.told(0, &["retained", "delete", &id]).await?;
    await_that("its claims are gone", async || {
        let kept = ListParams::default().labels("arc-hook/retained");
        Ok(claims.list(&kept).await?.items.is_empty())
    })
    .await
}
