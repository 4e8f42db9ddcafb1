//! What stays in a kept job, and what must not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use super::{Acting, Keeping, Stage, await_that, keeping, way_in};
use crate::harness::private::PrivateRegistry;
use crate::harness::process;
use crate::runner::guid::guid;

/// Secrets are planted wherever a workflow has some. The failed job stays as its step left it, but for what
/// the log says was scrubbed; nowhere of it is a secret; and it goes when its time is up.
pub fn as_it_was(stage: Arc<Stage>) -> Acting {
    Box::pin(async move { keeping(&stage, &[("retain-ttl", "15s")], as_it_was_with).await })
}

/// A checksum of all files below a directory but those that are scrubbed. A cache that Conan has used has
/// a database of log-ins.
const SUMS: &str = "sums() { (cd $1 && find . -type f ! -path ./.git/config ! -path ./.git-credentials \
    ! -path ./.conan.db \
    | sort | xargs -r sha256sum | sha256sum | cut -c-64); }";

async fn as_it_was_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let planted = format!("PLANTED-{}", guid());
    let [registry, ..] = PrivateRegistry::ALL;
    let job = json!({
        "name": "Kept as it was",
        "env": {"JOB_SECRET": format!("{planted}-job")},
        "container": {"image": registry.image("alpine"), "credentials": registry.credentials(),
                      "env": {"CONTAINER_SECRET": format!("{planted}-container")}},
        "services": {"cache": {"image": "redis:latest",
                               "env": {"SERVICE_SECRET": format!("{planted}-service")}}},
        "steps": [
            {"name": "an action has one", "uses": "docker://alpine:latest",
             "env": {"ACTION_SECRET": format!("{planted}-action")},
             "with": {"entrypoint": "/bin/sh", "args": "-c \"echo made > by-action\""}},
            {"name": "works", "run": format!(
                "mkdir -p .git src $HOME/.cache /CONAN_HOME/p; echo main > src/main.c; echo x > $HOME/.cache/x\n\
                 printf '[core]\\n[http \"https://github.com/\"]\\n\\textraheader = {planted}-git\\n' > .git/config\n\
                 echo https://{planted}@github.com > $HOME/.git-credentials; echo lib > /CONAN_HOME/p/lib\n\
                 echo result > $RUNNER_TEMP/result.xml; echo NAME={planted}-env >> $GITHUB_ENV\n\
                 sleep 900 > /dev/null 2>&1 &")},
            {"name": "fails", "env": {"STEP_SECRET": format!("{planted}-step")}, "run": format!(
                "{SUMS}; echo sums $(sums .) $(sums $HOME) $(sums /CONAN_HOME); : {planted}-script; exit 3"),
             "driver": {"exit": 3}},
        ],
        "driver": {"conclusion": "failure"},
    });
    let (outcome, pod) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    for told in [
        "Scrubbed: processes 1,",
        "cleaned | /__w/demo/demo/.git/config",
        "removed | /github/home/.git-credentials",
    ] {
        ensure!(outcome.log.contains(told), "the log does not say `{told}`");
    }
    let cluster = &keeping.stage.cluster;
    let found = cluster
        .api::<Pod>()
        .get(&pod)
        .await
        .context("the job's pod went")?;
    ensure!(
        found.metadata.deletion_timestamp.is_none(),
        "the job's pod goes"
    );
    let text = serde_json::to_string(&found)?;
    ensure!(
        !text.contains(&planted),
        "the pod's object holds a planted secret"
    );
    search(
        found.metadata.uid.as_deref().unwrap_or_default(),
        &planted,
        &registry.password(),
    )?;
    for secret in cluster.api::<Secret>().list(&ListParams::default()).await? {
        let name = secret.name_any();
        let stays = keeping.before.contains(&format!("Secret/{name}"));
        ensure!(stays, "secret `{name}` is left");
    }
    let now = keeping
        .inside(
            &id,
            &format!(
                "{SUMS}; echo sums $(sums .) $(sums $HOME) $(sums /CONAN_HOME); cat by-action \
             $RUNNER_TEMP/result.xml; env; cat .git/config"
            ),
        )
        .await?;
    let sums = |text: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with("sums "));
        lines.find(|line| !line.contains('$')).map(str::to_owned)
    };
    ensure!(
        sums(&now).is_some() && sums(&now) == sums(&outcome.log),
        "files changed: {now}"
    );
    for there in [
        "made\n",
        "result\n",
        "GITHUB_REPOSITORY=octo/demo",
        "CONAN_HOME=/CONAN_HOME",
        "[core]",
    ] {
        ensure!(now.contains(there), "`{there}` is not there: {now}");
    }
    ensure!(!now.contains(&planted), "who enters sees a secret: {now}");
    let pods = cluster.api::<Pod>();
    await_that("the job's time is up", async || {
        keeping.told(0, &["gc"]).await?;
        Ok(pods.get_opt(&pod).await?.is_none())
    })
    .await?;
    ensure!(keeping.listed().await?.is_empty(), "it is still listed");
    Ok(())
}

/// Looks for secrets in every process of a pod, and in the files that they see.
pub(super) fn search(uid: &str, planted: &str, password: &str) -> anyhow::Result<()> {
    let processes = process::all(uid);
    ensure!(!processes.is_empty(), "the pod has no process");
    let mut supervisor = None;
    for pid in processes {
        for file in ["environ", "cmdline"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            ensure!(
                !text.contains(planted),
                "{file} of process {pid} holds a secret: {text}"
            );
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.starts_with(b"/__hook/arc-hook\0supervise") {
            supervisor = Some(pid);
        }
    }
    let root = process::root(supervisor.context("the supervisor does not run")?);
    for place in ["__w", "__hook/spool", "github", "CONAN_HOME", "tmp"] {
        for secret in [planted, password] {
            let found = holding(&root.join(place), secret.as_bytes());
            ensure!(found.is_empty(), "{found:?} hold a secret");
        }
    }
    Ok(())
}

/// Regular files below a directory that hold a text. No link is followed.
fn holding(directory: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            found.extend(holding(&entry.path(), text));
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text) {
                found.push(entry.path());
            }
        }
    }
    found
}
