//! Lines of caches that benchmarks fill, clone and promote.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::Api;
use serde_json::{Value, json};

use super::Bench;
use super::floor::{self, Floor};
use super::hook::Hook;
use crate::harness::cluster::Cluster;
use crate::harness::runner::Options;
use crate::harness::{grants, verbs};

/// Role and binding, as long as they are needed.
const GRANT: &str = "bench-caches";
/// The cache in the hook template.
const VOLUME: &str = "cache";
const CLASS: &str = "openebs-zfspv";
/// How long the clones of a runner that is gone may stay.
const REMOVAL: Duration = Duration::from_mins(2);

/// A hook template with one cache, whose parent is the line's generation.
fn template(line: &str, promotes: bool) -> String {
    let promote = if promotes {
        format!(
            "\n      promote: {{to: {line}, repositories: ['**'], events: [push], refs: ['**']}}"
        )
    } else {
        String::new()
    };
    format!(
        "metadata:
  annotations:
    arc-hook/run-as: runner
    arc-hook/cache.{VOLUME}: |
      parents: [{line}]{promote}
spec:
  containers:
  - name: $job
    volumeMounts: [{{name: {VOLUME}, mountPath: /cache}}]
  volumes:
  - name: {VOLUME}
    ephemeral:
      volumeClaimTemplate:
        spec:
          storageClassName: {CLASS}
          accessModes: [ReadWriteOnce]
          resources: {{requests: {{storage: 64Mi}}}}
"
    )
}

/// Lines of these names, which no other line has, and the rights that their jobs need.
pub(super) struct Lines<'a> {
    cluster: Cluster,
    names: &'a [&'static str],
}

impl<'a> Lines<'a> {
    /// Grants the rights, and removes what an earlier run left of the lines.
    pub async fn new(cluster: &Cluster, names: &'a [&'static str]) -> anyhow::Result<Self> {
        let lines = Self {
            cluster: cluster.clone(),
            names,
        };
        lines.forget().await?;
        grants::caches(cluster, GRANT).await?;
        Ok(lines)
    }

    /// Removes the lines, and takes the rights back. Their runners are gone.
    pub async fn remove(self) -> anyhow::Result<()> {
        let forgotten = self.forget().await;
        grants::revoke(&self.cluster, GRANT).await?;
        forgotten
    }

    async fn forget(&self) -> anyhow::Result<()> {
        let listed = verbs::call(&self.cluster, &["cache", "list", "--output", "json"]).await?;
        for line in self.names {
            if !listed.contains(&format!("\"{line}\"")) {
                continue;
            }
            let begin = Instant::now();
            // It is refused as long as clones are there.
            while let Err(error) = verbs::call(&self.cluster, &["cache", "delete", line]).await {
                ensure!(begin.elapsed() < REMOVAL, "{line} stays: {error:#}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }

    /// Makes the first generation of a line, with so many megabytes that do not compress.
    pub async fn fill(&self, line: &str, megabytes: u32) -> anyhow::Result<()> {
        let write = format!("dd if=/dev/urandom of=/cache/f bs=1M count={megabytes} 2>/dev/null");
        let init = ["cache", "init", line, "--size", "8Gi", "--class", CLASS];
        let job = ["--image", "alpine:latest", "--", "sh", "-ec", &write];
        let made = verbs::call(&self.cluster, &[&init[..], &job[..]].concat()).await;
        made.map(drop)
    }

    /// A runner whose jobs clone a line's generation.
    pub async fn runner(&self, line: &str, promotes: bool) -> anyhow::Result<Hook> {
        let options = Options::of_template(template(line, promotes));
        Hook::with(&self.cluster, &options).await
    }

    /// What a line has on the cluster's only node.
    pub async fn entry(&self, line: &str) -> anyhow::Result<Value> {
        let shown = ["cache", "show", line, "--output", "json"];
        let mut shown: Value = serde_json::from_str(&verbs::call(&self.cluster, &shown).await?)?;
        Ok(shown["nodes"][0].take())
    }

    /// A pod like the one that the runner's job has, with a clone of the line's generation made
    /// by nobody but the cluster.
    pub async fn floor(&self, line: &str, hook: &mut Hook) -> anyhow::Result<Floor> {
        let entry = self.entry(line).await?;
        let parent = &entry["generations"][0];
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": parent["class"],
                "dataSource": {"kind": "PersistentVolumeClaim", "name": parent["claim"]},
                "resources": {"requests": {"storage": parent["size"]}},
            },
        }))?;
        hook.prepare_job(&[]).await?;
        let pods = self.cluster.api();
        let pod = pods.get(&hook.runner.job_pod()).await?;
        let nonce = hook.nonces()?.pop().context("the job has no directory")?;
        let floor = Floor::of(pods, pod, hook.work(), &nonce, &nonce)?;
        let floor = floor.cloning(self.cluster.api(), VOLUME, claim)?;
        self.end(hook).await?;
        Ok(floor)
    }

    /// `cleanup_job`, and waits until the job's pod is gone; how long the hook took.
    pub async fn end(&self, hook: &mut Hook) -> anyhow::Result<f64> {
        let call = hook.cleanup_job().await?;
        let pods: Api<_> = self.cluster.api();
        floor::gone(&pods, &hook.runner.job_pod()).await?;
        Ok(call.wall_ms)
    }
}

impl Bench<'_> {
    /// Runs what measures these lines, and removes them whatever came of it.
    pub(super) async fn with_lines(
        &mut self,
        names: &'static [&'static str],
        act: impl AsyncFnOnce(&mut Self, &Lines<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let lines = Lines::new(&self.cluster, names).await?;
        let measured = Box::pin(act(self, &lines)).await;
        let removed = lines.remove().await;
        measured.and(removed)
    }
}
