//! A kept job makes way for one that finds no room on its node.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Acting, Keeping, Stage, await_that, failing, keeping, way_in};
use crate::runner::guid::guid;

/// The cluster's only node.
const NODE: &str = "node-1";

/// The scarce thing is one of the scenario's own, of which the node has one: nobody else's pods wait for it.
pub fn makes_way(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let thing = format!("example.com/seats-{}", &guid()[..8]);
        keeping(&stage, &[], async |keeping: &Keeping<'_>| {
            let made = makes_way_with(keeping, &thing).await;
            let taken = offer(keeping, &thing, &Value::Null).await;
            made?;
            taken
        })
        .await
    })
}

async fn makes_way_with(keeping: &Keeping<'_>, thing: &str) -> anyhow::Result<()> {
    let job = failing("Takes the only seat", "echo seated");
    let mut template = keeping.template.clone();
    template["spec"]["containers"][0]["resources"] = json!({"limits": {thing: "1"}});
    let options = keeping.options_of(&template);
    offer(keeping, thing, &json!("1")).await?;
    let (outcome, pod) = keeping.run_with(&job, &options).await?;
    let first = way_in(&outcome)?;
    let pods = keeping.stage.cluster.api::<Pod>();
    pods.get(&pod).await.context("the first job is not kept")?;

    let (outcome, _) = keeping.run_with(&job, &options).await?;
    let told = format!("Kept job {first} (octo/demo ");
    ensure!(
        outcome.log.contains(&told) && outcome.log.contains("its node has no room for this job"),
        "the log does not say `{told}`"
    );
    let second = way_in(&outcome)?;
    let listed = keeping.listed().await?;
    ensure!(
        listed.len() == 1 && listed[0]["id"] == second.as_str(),
        "kept are {listed:?}"
    );
    await_that("the first job's pod is gone", async || {
        Ok(pods.get_opt(&pod).await?.is_none())
    })
    .await
}

/// Says how many the node has.
async fn offer(keeping: &Keeping<'_>, thing: &str, count: &Value) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(keeping.stage.cluster.client.clone());
    let status = json!({"status": {"capacity": {thing: count}, "allocatable": {thing: count}}});
    nodes
        .patch_status(NODE, &PatchParams::default(), &Patch::Merge(status))
        .await
        .with_context(|| format!("failed to change what `{NODE}` has"))?;
    Ok(())
}
