//! Kept jobs that shared no volume with their runner, or one that goes with it.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::scrubbed::search;
use super::{Acting, Keeping, Stage, await_that, failing, keeping_as, way_in};
use crate::harness::cluster::Role;
use crate::runner::guid::guid;

/// All that there is of it is in its pod: that stays when the runner pod is gone, without a secret, is
/// entered, and its step runs again once its cause is mended.
pub fn nothing_shared(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let annotations = [("retain-script", "true")];
        keeping_as(Role::NoVolume, &stage, &annotations, nothing_shared_with).await
    })
}

async fn nothing_shared_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let planted = format!("PLANTED-{}", guid());
    let job = json!({
        "name": "Kept without a volume",
        "container": {"image": "alpine:latest", "env": {"TOKEN": format!("{planted}-container")}},
        "services": {"cache": {"image": "redis:latest",
                               "env": {"SERVICE_SECRET": format!("{planted}-service")}}},
        "steps": [
            {"name": "works", "env": {"STEP_SECRET": format!("{planted}-step")}, "run": format!(
                "mkdir -p .git; echo built > output; echo lib > /CONAN_HOME/lib\n\
                 printf '[http \"https://github.com/\"]\\n\\textraheader = {planted}-git\\n' > .git/config\n\
                 echo https://{planted}@github.com > $HOME/.git-credentials\n\
                 echo NAME={planted}-env >> $GITHUB_ENV; sleep 900 > /dev/null 2>&1 &")},
            {"id": "build", "run":
                "echo the token is $TOKEN\ntest -e mended || { echo broken; exit 3; }\n\
                 cat output /CONAN_HOME/lib", "driver": {"exit": 3}},
        ],
        "driver": {"conclusion": "failure"},
    });
    let (outcome, pod) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    for told in [
        "cleaned | /__w/demo/demo/.git/config",
        "removed | /github/home/.git-credentials",
    ] {
        ensure!(outcome.log.contains(told), "the log does not say `{told}`");
    }
    let found = keeping.stage.cluster.api::<Pod>().get(&pod).await;
    let found = found.context("the job's pod went with its runner")?;
    let text = serde_json::to_string(&found)?;
    ensure!(!text.contains(&planted), "the pod's object holds a secret");
    let uid = found.metadata.uid.as_deref().unwrap_or_default();
    search(uid, &planted, &planted)?;

    let seen = keeping
        .inside(&id, "pwd; cat output /CONAN_HOME/lib; id -u; env")
        .await?;
    ensure!(
        seen.starts_with("/__w/demo/demo\nbuilt\nlib\n1001\n")
            && seen.contains("GITHUB_REPOSITORY=octo/demo"),
        "{seen}"
    );
    ensure!(!seen.contains(&planted), "who enters sees a secret: {seen}");
    let logs = keeping.told(0, &["retained", "logs", &id]).await?;
    ensure!(
        logs.contains("the token is ***") && logs.contains("broken"),
        "{logs}"
    );
    let rerun = ["retained", "enter", &id, "--rerun"];
    keeping.told(3, &rerun).await?;
    keeping.inside(&id, "touch mended").await?;
    let again = keeping.told(0, &rerun).await?;
    ensure!(again.contains("built\nlib\n"), "{again}");
    keeping.told(0, &["retained", "delete", &id]).await?;
    let pods = keeping.stage.cluster.api::<Pod>();
    await_that("the kept pod is gone", async || {
        Ok(pods.get_opt(&pod).await?.is_none())
    })
    .await
}

/// In place of its pod a copy of its files stays, without a secret, on which an equal pod is made.
pub fn nothing_shared_but_volumes(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        keeping_as(
            Role::NoVolume,
            &stage,
            &COPIED,
            nothing_shared_but_volumes_with,
        )
        .await
    })
}

const COPIED: [(&str, &str); 3] = [
    ("retain-mode", "volumes"),
    ("retain-storage-class", "openebs-zfspv"),
    ("retain-copy-limit", "256Mi"),
];

async fn nothing_shared_but_volumes_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let planted = format!("PLANTED-{}", guid());
    let job = failing(
        "Copied",
        &format!(
            "mkdir -p .git deep/er; echo built > deep/er/output; ln -s deep/er/output link\n\
             echo lib > /CONAN_HOME/lib; head -c 20000000 /dev/urandom > large\n\
             sha256sum < large > sum; echo rc > $HOME/.profile; echo tool > /__w/_tool/tool; mkdir -p $HOME/mod/in; echo mod > $HOME/mod/in/file; chmod -R a-w $HOME/mod\n\
             printf '[http \"https://github.com/\"]\\n\\textraheader = {planted}\\n' > .git/config\n\
             echo https://{planted}@github.com > $HOME/.git-credentials"
        ),
    );
    let (outcome, pod) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    let claim = only_copy_is_kept(keeping, &id, &pod).await?;
    ensure!(
        claim
            .spec
            .and_then(|spec| spec.storage_class_name)
            .as_deref()
            == Some("openebs-zfspv"),
        "its claim is of another class"
    );
    let seen = keeping
        .inside(
            &id,
            "pwd; cat link /CONAN_HOME/lib $HOME/.profile /__w/_tool/tool $HOME/mod/in/file; readlink link; id -u\n\
             test \"$(sha256sum < large)\" = \"$(cat sum)\"; test -x /__e/node20/bin/node\n\
             echo more >> link",
        )
        .await?;
    ensure!(
        seen == "/__w/demo/demo\nbuilt\nlib\nrc\ntool\nmod\ndeep/er/output\n1001\n",
        "{seen}"
    );
    let held = format!("cat deep/er/output; ! grep -r {planted} /__w /github /__hook/spool");
    let seen = keeping.inside(&id, &held).await?;
    ensure!(seen == "built\nmore\n", "{seen}");
    all_goes(keeping, &id).await
}

/// Of a job whose work claim goes already when it fails a copy of its files stays.
pub fn going_claim(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let annotations = [COPIED[0], COPIED[2]];
        keeping_as(Role::Shipped, &stage, &annotations, going_claim_with).await
    })
}

async fn going_claim_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let job = failing(
        "Copied from a claim that goes",
        "echo built > output; echo above > ../above; echo lib > /CONAN_HOME/lib; echo rc > $HOME/.profile\n\
         echo ready; until test -e go; do sleep 0.1; done",
    );
    let claims = keeping.stage.cluster.api::<PersistentVolumeClaim>();
    let options = keeping.options();
    let run = keeping.run_while(&job, &options, async |runner| {
        runner.await_log("ready").await?;
        let work = format!("{}-work", runner.name);
        claims.delete(&work, &DeleteParams::default()).await?;
        let claim = claims.get(&work).await?;
        ensure!(
            claim.metadata.deletion_timestamp.is_some(),
            "the claim does not go"
        );
        std::fs::write(runner.path("/home/runner/_work/demo/demo/go"), "")?;
        Ok(())
    });
    let (outcome, pod) = run.await?;
    ensure!(
        outcome.log.contains("is being deleted already"),
        "the log does not say why it is copied"
    );
    let id = way_in(&outcome)?;
    only_copy_is_kept(keeping, &id, &pod).await?;
    let seen = keeping
        .inside(
            &id,
            "pwd; cat output ../above /CONAN_HOME/lib $HOME/.profile; id -u; test -e /__e/node20",
        )
        .await?;
    ensure!(
        seen == "/__w/demo/demo\nbuilt\nabove\nlib\nrc\n1001\n",
        "{seen}"
    );
    all_goes(keeping, &id).await
}

/// The job's pod and the one that copied are gone, and the copy belongs to nobody.
async fn only_copy_is_kept(
    keeping: &Keeping<'_>,
    id: &str,
    pod: &str,
) -> anyhow::Result<PersistentVolumeClaim> {
    let cluster = &keeping.stage.cluster;
    let pods = cluster.api::<Pod>();
    let copier = pod.replace("-workflow", &format!("-step-{id}"));
    for name in [pod, &copier] {
        await_that("the pods are gone", async || {
            Ok(pods.get_opt(name).await?.is_none())
        })
        .await?;
    }
    let claims = cluster.api::<PersistentVolumeClaim>();
    let claim = claims.get(&format!("arc-hook-retained-{id}")).await?;
    let labels = claim.metadata.labels.clone().unwrap_or_default();
    ensure!(
        claim.metadata.owner_references.is_none()
            && claim.metadata.deletion_timestamp.is_none()
            && labels.get("arc-hook/retained").map(String::as_str) == Some(id),
        "{:?}",
        claim.metadata
    );
    Ok(claim)
}

/// It is deleted, with its claims.
async fn all_goes(keeping: &Keeping<'_>, id: &str) -> anyhow::Result<()> {
    keeping.told(0, &["retained", "delete", id]).await?;
    let claims = keeping.stage.cluster.api::<PersistentVolumeClaim>();
    await_that("its claims are gone", async || {
        let kept = ListParams::default().labels(&format!("arc-hook/retained={id}"));
        Ok(claims.list(&kept).await?.items.is_empty())
    })
    .await
}
