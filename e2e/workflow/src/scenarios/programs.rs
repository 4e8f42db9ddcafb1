//! Where a job's node and the like come from: the runner's image, where the node can mount one and that
//! is known, else copies. The first node's runtime cannot, the second's can.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use kube::ResourceExt as _;
use serde_json::json;

use super::{Acting, Stage};
use crate::harness::cluster::Role;
use crate::harness::extra::Extra;
use crate::harness::grants;
use crate::harness::runner::{Options, Runner};

const FIRST: &str = "node-1";
const SECOND: &str = "node-2";
/// Nothing that only one of the nodes has.
const TEMPLATE: &str = "metadata: {annotations: {arc-hook/run-as: runner}}";
const GLANCE: Duration = Duration::from_millis(50);

/// JavaScript actions run wherever their node comes from, and it is mounted where that is possible.
pub fn mounted(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let second = Extra::node(&stage.cluster.paths).await?;
        let name = format!("nodes-of-{}", stage.cluster.namespace());
        let shown = async {
            let on = |node: &str| Options {
                node: Some(node.to_owned()),
                ..Options::of_template(TEMPLATE)
            };
            come(&stage, &on(SECOND), false).await?;
            grants::nodes(&stage.cluster, &name).await?;
            come(&stage, &on(SECOND), true).await?;
            come(&stage, &on(FIRST), false).await?;
            // Where no volume is shared the pod may run on either, unless a template says otherwise.
            let own = |externals: &str| Options {
                role: Role::NoVolume,
                variables: vec![("ARC_HOOK_EXTERNALS".to_owned(), externals.to_owned())],
                ..Options::of_template(format!(
                    "{TEMPLATE}\nspec: {{nodeSelector: {{kubernetes.io/hostname: {SECOND}}}}}"
                ))
            };
            come(&stage, &own("auto"), false).await?;
            come(&stage, &own("image"), true).await?;
            refused(&stage).await
        };
        let shown = shown.await;
        let revoked = grants::revoke_nodes(&stage.cluster, &name).await;
        second.stop().await?;
        shown?;
        revoked
    })
}

/// A job runs a JavaScript action out of the runner's image, if `mounted`, or out of a copy.
async fn come(stage: &Stage, options: &Options, mounted: bool) -> anyhow::Result<()> {
    let job = json!({
        "name": "Where node comes from",
        "container": {"image": "gcc-conan:12"},
        "actions": {"octo/js@v1": {
            "action.yml": "runs: {using: node20, main: main.js}",
            "main.js": "console.log(`runs on ${process.version}`);",
        }},
        "steps": [
            {"name": "JavaScript", "uses": "octo/js@v1", "driver": {"expect": ["runs on v20"]}},
            {"run": "! touch /__e/mine 2>/dev/null && ls /__e",
             "driver": {"expect": ["node20", "node24"]}},
        ],
    });
    let looks = async |runner: &Runner| {
        let pod = loop {
            if let Some(pod) = runner.job_pods().await?.pop() {
                break pod;
            }
            tokio::time::sleep(GLANCE).await;
        };
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        let image = volumes
            .into_iter()
            .flatten()
            .any(|volume| volume.image.is_some());
        ensure!(
            image == mounted,
            "an image among the volumes of `{}`: {image} ({options:?})",
            pod.name_any()
        );
        Ok(())
    };
    stage.run_beside(&job.to_string(), options, looks).await?;
    Ok(())
}

/// Who insists on a mount where there can be none is told what to do.
async fn refused(stage: &Stage) -> anyhow::Result<()> {
    let job = json!({
        "name": "No node can",
        "container": {"image": "gcc-conan:12"},
        "steps": [],
        "driver": {
            "prepare-job": {"fails": true, "max-ms": 60_000,
                "expect": ["##[error]", "mounts an image as a volume, which its node cannot", "ARC_HOOK_EXTERNALS=copy"]},
            "conclusion": "failure",
        },
    });
    let options = Options {
        node: Some(FIRST.to_owned()),
        variables: vec![("ARC_HOOK_EXTERNALS".to_owned(), "image".to_owned())],
        ..Options::of_template(TEMPLATE)
    };
    stage.run_job(&job.to_string(), &options).await?;
    Ok(())
}
