//! Lines of caches of a scenario's own, and the jobs that clone and promote them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::{Stage, judge};
use crate::harness::grants;
use crate::harness::runner::{Options, Outcome, Runner};
use crate::runner::guid::guid;

/// Label of everything that belongs to a cache.
const ROLE_LABEL: &str = "arc-hook/cache";
/// Label of a line and its generations.
const LINE_LABEL: &str = "arc-hook/line";
/// Label of what a runner's job has.
const RUNNER_LABEL: &str = "runner-pod";
/// How long what no line names may stay.
const REMOVAL: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(100);

/// The shipped template with lines, whose jobs promote also from other branches and as pull
/// requests, with these changes.
pub fn template(stage: &Stage, changes: &[(&str, &str)]) -> anyhow::Result<String> {
    let map = stage.cluster.template_map("conan-lines.yaml")?;
    let content = map.data.unwrap_or_default().into_values().next();
    let mut text = content.context("the template's ConfigMap is empty")?;
    let own = [
        ("YOUR-ORGANISATION", "octo"),
        (
            "[push, schedule, workflow_dispatch]",
            "[push, pull_request]",
        ),
        ("[refs/heads/main]", "[refs/heads/**, refs/pull/**]"),
    ];
    for (from, to) in own.iter().chain(changes) {
        ensure!(text.contains(from), "the template has no `{from}`");
        text = text.replace(from, to);
    }
    Ok(text)
}

/// The lines of one repository, with the rights that its jobs need.
pub struct Lines<'a> {
    /// Where.
    pub stage: &'a Stage,
    /// The repository, which no other scenario has.
    pub repository: String,
    /// What runner pods differ in.
    pub options: Options,
    role: String,
    runners: RefCell<Vec<String>>,
}

impl<'a> Lines<'a> {
    /// Grants the rights, and begins with no line.
    pub async fn new(stage: &'a Stage, template: String) -> anyhow::Result<Self> {
        let name = format!("lines-{}", &guid()[..8]);
        let lines = Self {
            stage,
            repository: format!("octo/{name}"),
            options: Options::of_template(template),
            role: name,
            runners: RefCell::default(),
        };
        grants::caches(&stage.cluster, &lines.role).await?;
        Ok(lines)
    }

    /// The line that pushes to main promote to.
    #[must_use]
    pub fn main(&self) -> String {
        format!("{}/main", self.repository)
    }

    /// The Role that grants what caches need.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The repository without its owner.
    #[must_use]
    pub fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }

    /// A push to main with these changes.
    #[must_use]
    pub fn job(&self, steps: &Value, more: &Value) -> String {
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

    /// A runner pod, which goes with the lines if not before.
    pub async fn runner(&self) -> anyhow::Result<Runner> {
        let runner = Runner::start(&self.stage.cluster, &self.options).await?;
        self.runners.borrow_mut().push(runner.name.clone());
        Ok(runner)
    }

    /// Runs a job whose runner leaves lines and generations behind.
    pub async fn run(&self, steps: Value, more: Value) -> anyhow::Result<Outcome> {
        let runner = self.runner().await?;
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

    /// The objects of the repository's lines.
    async fn maps(&self) -> anyhow::Result<Vec<ConfigMap>> {
        let lines = ListParams::default().labels(&format!("{ROLE_LABEL}=line"));
        let mut maps = self
            .stage
            .cluster
            .api::<ConfigMap>()
            .list(&lines)
            .await?
            .items;
        maps.retain(|map| {
            let key = map.data.as_ref().and_then(|data| data.get("key"));
            let key: Option<Vec<String>> = key.and_then(|key| serde_json::from_str(key).ok());
            key.is_some_and(|key| key.get(1).is_some_and(|part| part == self.name()))
        });
        Ok(maps)
    }

    /// What the line of main has on a node, or on its only one, as its object holds it.
    pub async fn entry(&self, node: Option<&str>) -> anyhow::Result<Value> {
        let key = json!(["octo", self.name(), "main"]).to_string();
        let data = self
            .maps()
            .await?
            .into_iter()
            .filter_map(|map| map.data)
            .find(|data| data.get("key") == Some(&key))
            .with_context(|| format!("there is no line {key}"))?;
        let entry = data
            .iter()
            .find(|(key, _)| match (key.strip_prefix("node."), node) {
                (Some(found), Some(node)) => found == node,
                (found, None) => found.is_some(),
                (None, _) => false,
            })
            .context("the line has nothing on this node")?;
        Ok(serde_json::from_str(entry.1)?)
    }

    /// Names of the claims that lines name.
    pub async fn named(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut named = BTreeSet::new();
        for map in self.maps().await? {
            for (key, entry) in map.data.unwrap_or_default() {
                if key.starts_with("node.") {
                    let entry: Value = serde_json::from_str(&entry)?;
                    let generations = entry["generations"].as_array().into_iter().flatten();
                    let claims = generations.filter_map(|one| one["claim"].as_str());
                    named.extend(claims.map(str::to_owned));
                }
            }
        }
        Ok(named)
    }

    /// Claims of the lines and of the runners that there were.
    pub async fn claims(&self) -> anyhow::Result<BTreeSet<String>> {
        let caches = ListParams::default().labels(ROLE_LABEL);
        let claims = self.stage.cluster.api::<PersistentVolumeClaim>();
        let hashes = self.hashes().await?;
        let runners = self.runners.borrow().clone();
        let is_ours = |claim: &PersistentVolumeClaim| {
            let label = |key: &str| claim.labels().get(key);
            label(LINE_LABEL).is_some_and(|hash| hashes.contains(hash))
                || label(RUNNER_LABEL).is_some_and(|runner| runners.contains(runner))
        };
        let found = claims.list(&caches).await?;
        let ours = found.iter().filter(|claim| is_ours(claim));
        Ok(ours.map(ResourceExt::name_any).collect())
    }

    async fn hashes(&self) -> anyhow::Result<BTreeSet<String>> {
        let maps = self.maps().await?;
        let hashes = maps.iter().filter_map(|map| map.labels().get(LINE_LABEL));
        Ok(hashes.cloned().collect())
    }

    /// Waits until nothing of caches is there but what the lines name.
    pub async fn await_no_orphan(&self) -> anyhow::Result<()> {
        self.await_claims(self.named().await?).await
    }

    /// Waits until these claims are there and no others.
    pub async fn await_claims(&self, named: BTreeSet<String>) -> anyhow::Result<()> {
        let begin = std::time::Instant::now();
        loop {
            let claims = self.claims().await?;
            if claims == named {
                return Ok(());
            }
            if begin.elapsed() > REMOVAL {
                bail!("claims {claims:?} are there, and not {named:?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Deletes runners, lines and generations, and takes the rights back.
    pub async fn remove(self) -> anyhow::Result<()> {
        let cluster = &self.stage.cluster;
        let now = DeleteParams::default();
        let runners = self.runners.borrow().clone();
        for runner in runners {
            cluster.delete_runner(&runner).await?;
        }
        let claims = cluster.api::<PersistentVolumeClaim>();
        for hash in self.hashes().await? {
            let ours = ListParams::default().labels(&format!("{LINE_LABEL}={hash}"));
            claims.delete_collection(&now, &ours).await?;
        }
        let begin = std::time::Instant::now();
        loop {
            let left = self.claims().await?;
            if left.is_empty() {
                break;
            }
            ensure!(begin.elapsed() < REMOVAL, "claims {left:?} stay");
            tokio::time::sleep(GLANCE).await;
        }
        for map in self.maps().await? {
            let maps = cluster.api::<ConfigMap>();
            maps.delete(&map.name_any(), &now).await?;
        }
        grants::revoke(cluster, &self.role).await
    }
}

/// Runs what a scenario shows of lines, and removes them whatever came of it.
pub async fn with_lines(
    stage: &Stage,
    changes: &[(&str, &str)],
    act: impl AsyncFnOnce(&mut Lines<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut lines = Lines::new(stage, template(stage, changes)?).await?;
    let result = act(&mut lines).await;
    let removed = lines.remove().await;
    result?;
    removed
}

/// Fails unless the job's log has the text.
pub fn said(outcome: &Outcome, text: &str) -> anyhow::Result<()> {
    ensure!(outcome.log.contains(text), "the log does not say `{text}`");
    Ok(())
}
