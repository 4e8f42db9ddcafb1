//! Caches with lines: good jobs on main make the next parent, and nobody else does.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::{Acting, Stage, judge};
use crate::harness::runner::{Options, Outcome, Runner};
use crate::runner::guid::guid;

/// How many jobs promote the same line at once.
const AT_ONCE: usize = 10;

/// Label of everything that belongs to a cache.
const LABEL: &str = "arc-hook/cache";
/// Name of the additional Role.
const ROLE: &str = "arc-hook-caches";

const TEMPLATE: &str = r#"
metadata:
  annotations:
    arc-hook/run-as: runner
    arc-hook/cache.conan-home: |
      parents: ["{repository}/{base_ref}", "{repository}/main"]
      promote:
        to: "{repository}/{ref_name}"
        repositories: [octo/*]
        events: [push, pull_request]
        refs: [refs/heads/**, refs/pull/**]
      verify: test -d /CONAN_HOME
spec:
  securityContext: {fsGroup: 1001, fsGroupChangePolicy: OnRootMismatch}
  containers:
  - name: $job
    volumeMounts: [{name: conan-home, mountPath: /CONAN_HOME}]
  volumes:
  - name: conan-home
    ephemeral:
      volumeClaimTemplate:
        spec:
          storageClassName: openebs-zfspv
          accessModes: [ReadWriteOnce]
          dataSource: {kind: PersistentVolumeClaim, name: gcc12-toolchain-main}
          resources: {requests: {storage: 200Gi}}
"#;

/// A line of its own, and what is left of it.
struct Lines<'a> {
    stage: &'a Stage,
    repository: String,
    before: BTreeSet<String>,
}

impl<'a> Lines<'a> {
    async fn new(stage: &'a Stage) -> anyhow::Result<Self> {
        grant(stage).await?;
        Ok(Self {
            stage,
            repository: format!("octo/lines-{}", &guid()[..8]),
            before: stage.cluster.inventory().await?,
        })
    }

    fn options() -> Options {
        Options::of_template(TEMPLATE)
    }

    /// A push to main with these changes.
    fn job(&self, steps: &Value, more: &Value) -> String {
        let mut job = json!({
            "name": "Lines",
            "repository": self.repository,
            "container": {"image": "alpine:latest"},
            "steps": steps,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            job[key] = value.clone();
        }
        job.to_string()
    }

    /// Runs a job whose runner leaves lines and generations behind.
    async fn run(&self, steps: Value, more: Value) -> anyhow::Result<Outcome> {
        let runner = Runner::start(&self.stage.cluster, &Self::options()).await?;
        let outcome = async {
            runner.submit(&self.job(&steps, &more))?;
            runner.finish(&mut |_| ()).await
        };
        let outcome = outcome.await;
        self.stage.keep(runner.log());
        self.stage.cluster.delete_runner(&runner.name).await?;
        let outcome = outcome?;
        judge(&outcome)?;
        Ok(outcome)
    }

    /// The generations on the one node there is, as the line's object holds them.
    async fn entry(&self) -> anyhow::Result<Value> {
        let name = self.repository.rsplit('/').next().unwrap_or_default();
        let key = json!(["octo", name, "main"]).to_string();
        let ours = ListParams::default().labels(&format!("{LABEL}=line"));
        let maps = self.stage.cluster.api::<ConfigMap>().list(&ours).await?;
        let data = maps
            .into_iter()
            .filter_map(|map| map.data)
            .find(|data| data.get("key") == Some(&key))
            .with_context(|| format!("there is no line {key}"))?;
        let entry = data
            .iter()
            .find(|(key, _)| key.starts_with("node."))
            .context("the line has no node")?;
        Ok(serde_json::from_str(entry.1)?)
    }

    /// Names of the claims that the line names.
    async fn named(&self) -> anyhow::Result<BTreeSet<String>> {
        let entry = self.entry().await?;
        let generations = entry["generations"].as_array().into_iter().flatten();
        let claims = generations.filter_map(|one| one["claim"].as_str());
        Ok(claims.map(str::to_owned).collect())
    }

    async fn claims(&self) -> anyhow::Result<BTreeSet<String>> {
        let ours = ListParams::default().labels(LABEL);
        let claims = self
            .stage
            .cluster
            .api::<PersistentVolumeClaim>()
            .list(&ours)
            .await?;
        Ok(claims.iter().map(ResourceExt::name_any).collect())
    }

    /// Waits until nothing of caches is there but what the line names.
    async fn await_no_orphan(&self) -> anyhow::Result<()> {
        let named = self.named().await?;
        for _ in 0..300 {
            if self.claims().await? == named {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        bail!(
            "claims {:?} are there, and the line names {named:?}",
            self.claims().await?
        )
    }

    /// Deletes lines and generations.
    async fn remove(self) -> anyhow::Result<()> {
        let ours = ListParams::default().labels(LABEL);
        let parameters = DeleteParams::default();
        let cluster = &self.stage.cluster;
        cluster
            .api::<ConfigMap>()
            .delete_collection(&parameters, &ours)
            .await?;
        cluster
            .api::<RoleBinding>()
            .delete(ROLE, &parameters)
            .await?;
        cluster.api::<Role>().delete(ROLE, &parameters).await?;
        cluster
            .api::<PersistentVolumeClaim>()
            .delete_collection(&parameters, &ours)
            .await?;
        cluster.await_nothing_left(&self.before).await
    }
}

/// The shipped Role for caches, for the account of the runner pods.
async fn grant(stage: &Stage) -> anyhow::Result<()> {
    let path = stage.cluster.paths.template("cache-rbac.yaml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    for mut object in objects {
        if object["kind"] == "Role" {
            let role: Role = serde_json::from_value(object)?;
            stage.cluster.apply(&role).await?;
        } else {
            object["subjects"][0]["name"] = json!(stage.cluster.service_account());
            let binding: RoleBinding = serde_json::from_value(object)?;
            stage.cluster.apply(&binding).await?;
        }
    }
    Ok(())
}

fn said(outcome: &Outcome, text: &str) -> anyhow::Result<()> {
    ensure!(outcome.log.contains(text), "the log does not say `{text}`");
    Ok(())
}

/// Main promotes, a pull request gets the new generation, and neither it nor a
/// failing or cancelled job promotes.
pub fn lifecycle(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let lines = Lines::new(&stage).await?;
        let result = lines_live(&lines).await;
        let removed = lines.remove().await;
        result?;
        removed
    })
}

async fn lines_live(lines: &Lines<'_>) -> anyhow::Result<()> {
    let main = format!("{}/main", lines.repository);
    let write = |name: &str| json!([{"run": format!("echo {name} > /CONAN_HOME/{name}")}]);
    let first = lines.run(write("first"), json!({})).await?;
    said(
        &first,
        "clone of claim `gcc12-toolchain-main`, the template's dataSource",
    )?;
    said(&first, &format!("promoted to {main} generation 1"))?;

    // A pull request of a fork, whose job tries to be more.
    let repo = |name: &str| json!({"repo": {"full_name": name}});
    let forge = "cat /CONAN_HOME/first; echo poison > /CONAN_HOME/poison\n\
        mkdir -p /__w/_diag; cp /github/workflow/event.json /__w/_diag/ || true\n\
        { echo '[2026-01-01 00:00:00Z INFO Worker] Job message:'; echo ' {}'; } \
        > /__w/_diag/Worker_20990101-000000-utc.log\n\
        echo '{}' > /github/workflow/event.json && exit 9\n\
        echo GITHUB_EVENT_NAME=push >> $GITHUB_ENV\n\
        echo GITHUB_REF=refs/heads/main >> $GITHUB_ENV";
    let forged =
        json!({"jobPod": "x", "caches": [{"volume": "conan-home", "promotion": {"To": {}}}]});
    let fork = lines
        .run(
            json!([{"run": forge, "driver": {"expect": ["first"], "state": forged}}]),
            json!({
                "github": {"event_name": "pull_request", "ref": "refs/pull/7/merge",
                           "base_ref": "main", "head_ref": "main"},
                "event": {"pull_request": {"head": repo("mallory/lines"),
                                           "base": repo(&lines.repository)}},
                "container": {"image": "alpine:latest", "env": {
                    "GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main",
                    "ARC_HOOK_CACHE_CONAN_HOME": main}},
                "driver": {"cleanup-job": {"state": forged}},
            }),
        )
        .await?;
    said(&fork, &format!("clone of {main} generation 1"))?;
    said(
        &fork,
        "not promoted: the pull request comes from the fork `mallory/lines`",
    )?;

    let failed = lines
        .run(
            json!([{"run": "echo bad > /CONAN_HOME/bad; exit 3", "driver": {"exit": 3}}]),
            json!({"driver": {"conclusion": "failure"}}),
        )
        .await?;
    said(&failed, "not promoted: the job failed")?;
    let cancelled = lines
        .run(
            json!([{"run": "echo ready; sleep 60",
                    "driver": {"cancel-job": {"line": "ready"}, "fails": true}}]),
            json!({"driver": {"conclusion": "cancelled"}}),
        )
        .await?;
    said(&cancelled, "not promoted: the job was cancelled")?;

    let see = "cat /CONAN_HOME/first; ls /CONAN_HOME; [ ! -e /CONAN_HOME/poison ] && [ ! -e /CONAN_HOME/bad ]";
    let second = lines
        .run(
            json!([{"run": see, "driver": {"expect": ["first"]}}]),
            json!({}),
        )
        .await?;
    said(&second, &format!("clone of {main} generation 1"))?;
    said(&second, &format!("promoted to {main} generation 2"))?;
    let entry = lines.entry().await?;
    ensure!(entry["current"] == 2, "the pointer is {}", entry["current"]);
    lines.await_no_orphan().await
}

/// Ten jobs that began with the same generation promote at once, twice: one of
/// them wins each time, the others are told, and no claim is left over.
pub fn at_once(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let lines = Lines::new(&stage).await?;
        let mut result = Ok(());
        for generation in 1..=2 {
            if result.is_ok() {
                result = race(&lines, generation).await;
            }
        }
        let removed = lines.remove().await;
        result?;
        removed
    })
}

async fn race(lines: &Lines<'_>, generation: u64) -> anyhow::Result<()> {
    let cluster = &lines.stage.cluster;
    let options = Lines::options();
    let started = (0..AT_ONCE).map(|_| Runner::start(cluster, &options));
    let runners = try_join_all(started).await?;
    let raced = async {
        let wait = "echo ready; until [ -e go ]; do sleep 0.1; done; rm go";
        for runner in &runners {
            runner.submit(&lines.job(&json!([{"run": wait}]), &json!({})))?;
        }
        try_join_all(runners.iter().map(|runner| runner.await_log("ready"))).await?;
        let name = lines.repository.rsplit('/').next().unwrap_or_default();
        for runner in &runners {
            let workspace = runner.path(&format!("/home/runner/_work/{name}/{name}"));
            std::fs::write(workspace.join("go"), "")?;
        }
        let mut finished = Vec::new();
        for runner in &runners {
            finished.push(runner.finish(&mut |_| ()).await?);
        }
        anyhow::Ok(finished)
    };
    let outcomes = raced.await;
    let logs: Vec<String> = runners.iter().map(Runner::log).collect();
    lines.stage.keep(logs.join("\n"));
    for runner in &runners {
        cluster.delete_runner(&runner.name).await?;
    }
    let outcomes = outcomes?;
    for outcome in &outcomes {
        judge(outcome)?;
    }
    let count = |text: &str| logs.iter().filter(|log| log.contains(text)).count();
    let won = count(&format!(
        "promoted to {}/main generation {generation}\n",
        lines.repository
    ));
    let lost = count("another job was faster");
    ensure!(
        (won, lost) == (1, AT_ONCE - 1),
        "{won} of {AT_ONCE} jobs promoted generation {generation}, {lost} were told that another was"
    );
    lines.await_no_orphan().await
}
