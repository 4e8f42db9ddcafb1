//! A kept job that shared no volume with its runner.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::scrubbed::search;
use super::{Acting, Keeping, Stage, await_that, keeping_as, way_in};
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
