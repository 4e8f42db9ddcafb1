//! A cache whose generations are `VolumeSnapshot`s.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::lines::{Lines, said, with_lines};
use super::verbs::call;
use super::{Acting, Stage};
use crate::harness::extra::Extra;

const VIA: (&str, &str) = (
    "keep: 3",
    "keep: 1\n      via: snapshot\n      snapshot-class: openebs-zfspv",
);

/// Good jobs leave snapshots, each restored from the one before, and no claim; a rollback goes back,
/// and `gc` takes what is superseded.
pub fn of_a_cache(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let extra = Extra::snapshots(&stage.cluster.paths).await?;
        let lived = with_lines(&stage, &[VIA], async |lines| live(lines).await).await;
        extra.stop().await?;
        lived
    })
}

fn snapshots(stage: &Stage) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshot");
    let resource = ApiResource::from_gvk(&kind);
    Api::namespaced_with(
        stage.cluster.client.clone(),
        stage.cluster.namespace(),
        &resource,
    )
}

/// The right that `arc-hook rbac` names for `via: snapshot`, beside the shipped ones.
async fn grant(lines: &Lines<'_>) -> anyhow::Result<()> {
    let missing = json!({"apiGroups": ["snapshot.storage.k8s.io"],
        "resources": ["volumesnapshots"], "verbs": ["get", "list", "create", "delete"]});
    let api = lines.stage.cluster.api::<Role>();
    let mut role = api.get(lines.role()).await?;
    let granted = role.rules.get_or_insert_default();
    granted.push(serde_json::from_value(missing)?);
    api.replace(lines.role(), &PostParams::default(), &role)
        .await?;
    Ok(())
}

async fn live(lines: &Lines<'_>) -> anyhow::Result<()> {
    grant(lines).await?;
    let stage = lines.stage;
    let main = lines.main();
    let job = |number: u32| {
        let before = number - 1;
        json!([{"run": format!("[ {before} = 0 ] || cat /CONAN_HOME/{before}; echo {number} > /CONAN_HOME/{number}")}])
    };
    for number in 1..=3 {
        let outcome = lines.run(job(number), json!({})).await?;
        if number > 1 {
            said(
                &outcome,
                &format!("clone of {main} generation {}", number - 1),
            )?;
        }
        said(&outcome, &format!("promoted to {main} generation {number}"))?;
        // Nothing of the job stays but the snapshot.
        let claims = lines.claims().await?;
        ensure!(claims.is_empty(), "claims {claims:?} are left");
    }
    let entry = lines.entry(Some("_")).await?;
    let held = entry["generations"][2]["claim"]
        .as_str()
        .context("no generation")?;
    let third = snapshots(stage).get(held).await?;
    ensure!(third.data["status"]["readyToUse"] == true && third.owner_references().is_empty());

    call(stage, &["cache", "taint", &main, "3", "--reason", "a test"]).await?;
    call(stage, &["cache", "rollback", &main]).await?;
    let back = json!([{"run": "test -e /CONAN_HOME/2 && test ! -e /CONAN_HOME/3"}]);
    let never = json!({"github": {"event_name": "workflow_run"}});
    let outcome = lines.run(back.clone(), never.clone()).await?;
    said(&outcome, &format!("clone of {main} generation 2"))?;
    // A copy that hangs on no other, which jobs do not tell from it.
    call(
        stage,
        &["cache", "rebase", &main, "--image", "alpine:latest"],
    )
    .await?;
    let outcome = lines.run(back, never).await?;
    said(&outcome, &format!("clone of {main} generation 4"))?;
    let entry = lines.entry(Some("_")).await?;
    ensure!(entry["generations"][3]["depth"] == 0, "{entry}");
    let collected = call(stage, &["gc", "--grace", "0s", "--output", "json"]).await?;
    ensure!(collected.contains(r#""kind": "snapshot""#), "{collected}");
    // The last job's clone goes with its pod.
    lines.await_claims(BTreeSet::new()).await?;
    call(stage, &["cache", "delete", &main]).await?;
    let all = snapshots(stage);
    for _ in 0..300 {
        if all
            .list(&kube::api::ListParams::default())
            .await?
            .items
            .is_empty()
        {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("snapshots stay")
}
