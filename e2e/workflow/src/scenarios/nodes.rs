//! What two nodes show that one cannot.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::lines::{Lines, said, with_lines};
use super::verbs::call;
use super::{Acting, Stage};
use crate::harness::extra::Extra;
use crate::harness::runner::Options;

const PARENT: &str = "parent-on-node-2";
const FIRST: &str = "node-1";
const SECOND: &str = "node-2";

/// Parents on the second node while runner and work volume are on the first: a generation there is
/// passed over, with the reason in the log; and the clone of a claim there, which can never be mounted
/// beside the work volume, is told of long before the pod's time to start is over.
pub fn parents_elsewhere(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let second = Extra::node(&stage.cluster.paths).await?;
        let passed_over = with_lines(&stage, &[], async |lines| {
            lines.options.node = Some(FIRST.to_owned());
            passed_over(lines).await
        });
        let passed_over = passed_over.await;
        let told = told(&stage).await;
        second.stop().await?;
        passed_over?;
        told
    })
}

async fn passed_over(lines: &Lines<'_>) -> anyhow::Result<()> {
    let main = lines.main();
    let fill = [
        "--image",
        "alpine:latest",
        "--",
        "touch",
        "/cache/of-node-2",
    ];
    let init = [
        "cache",
        "init",
        &main,
        "--size",
        "64Mi",
        "--class",
        "openebs-zfspv",
    ];
    let init = [&init[..], &["--node", SECOND], &fill[..]].concat();
    call(lines.stage, &init).await?;
    let see = json!([{"run": "test ! -e /CONAN_HOME/of-node-2"}]);
    let outcome = lines.run(see, json!({})).await?;
    said(
        &outcome,
        &format!("{main}: no generation on node `{FIRST}`"),
    )?;
    said(&outcome, "clone of claim `gcc12-toolchain-main`")?;
    // Each node has generations of its own.
    said(&outcome, &format!("promoted to {main} generation 1"))?;
    for node in [FIRST, SECOND] {
        let entry = lines.entry(Some(node)).await?;
        ensure!(entry["current"] == 1, "{node}: {entry}");
    }
    Ok(())
}

async fn told(stage: &Stage) -> anyhow::Result<()> {
    let claims = stage.cluster.api::<PersistentVolumeClaim>();
    let parent: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {
            "name": PARENT,
            "annotations": {"volume.kubernetes.io/selected-node": SECOND},
        },
        "spec": {
            "storageClassName": "openebs-zfspv",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "64Mi"}},
        },
    }))?;
    claims
        .create(&PostParams::default(), &parent)
        .await
        .context("failed to create the parent")?;
    let explained = explained(stage).await;
    claims.delete(PARENT, &DeleteParams::default()).await?;
    explained
}

async fn explained(stage: &Stage) -> anyhow::Result<()> {
    let template = format!(
        "
metadata: {{annotations: {{arc-hook/run-as: runner}}}}
spec:
  containers:
  - name: $job
    volumeMounts: [{{name: cache, mountPath: /cache}}]
  volumes:
  - name: cache
    ephemeral:
      volumeClaimTemplate:
        spec:
          storageClassName: openebs-zfspv
          accessModes: [ReadWriteOnce]
          dataSource: {{kind: PersistentVolumeClaim, name: {PARENT}}}
          resources: {{requests: {{storage: 64Mi}}}}
"
    );
    let job = json!({
        "name": "The parent is on another node",
        "container": {"image": "alpine:latest"},
        "steps": [],
        "driver": {"prepare-job": {"fails": true, "max-ms": 90_000}, "conclusion": "failure"},
    });
    let options = Options {
        node: Some(FIRST.to_owned()),
        ..Options::of_template(template)
    };
    let outcome = stage.run_job(&job.to_string(), &options).await?;
    said(&outcome, "lives on another node")?;
    said(&outcome, "nodeSelector")
}
