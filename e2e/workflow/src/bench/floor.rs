//! Floors: the hook's own pods, started by nobody but the cluster.
//!
//! A floor pod has the containers, images, mounts and command of the pod that the
//! hook made, and directories prepared beforehand: what is left is what scheduler,
//! kubelet and runtime need. It is created over a connection that is open
//! already, and seen to be ready without polling the API server: by the file
//! that the supervisor writes, looked for every millisecond, and by a watch.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::agent::milliseconds;

/// The directory of the floors' trees, beside the hook's `.arc-hook`, which each
/// `prepare_job` empties.
const ROOT: &str = ".bench";
const GLANCE: Duration = Duration::from_millis(1);
/// A claim is asked for so often: it is a second on its way.
const CLAIM_GLANCE: Duration = Duration::from_millis(10);
/// How long a pod may take to come or to go.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is needed to start a floor pod again and again.
pub struct Floor {
    pods: Api<Pod>,
    pod: Pod,
    work: PathBuf,
    nonce: String,
    count: u32,
    clone: Option<Cloning>,
}

/// A claim that each floor pod gets for itself.
struct Cloning {
    claims: Api<PersistentVolumeClaim>,
    /// All but its name.
    claim: PersistentVolumeClaim,
    /// What the pattern mounts in its place.
    pattern: String,
}

/// One floor pod, from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// From nothing to ready, in milliseconds.
    pub start: f64,
    /// From its deletion until it is gone, in milliseconds.
    pub end: f64,
}

/// What the API server must tell of a floor pod besides the file.
pub type Status = fn(&Pod) -> bool;

impl Floor {
    /// Takes the hook's pod as pattern, whose tree is called `nonce`. The floors' trees are
    /// copied from the tree called `source`: the same one, or another when it is gone.
    pub fn of(
        pods: Api<Pod>,
        pod: Pod,
        work: PathBuf,
        nonce: &str,
        source: &str,
    ) -> anyhow::Result<Self> {
        let floor = Self {
            pods,
            pod,
            work,
            nonce: nonce.to_owned(),
            count: 0,
            clone: None,
        };
        let (from, to) = (floor.tree(".arc-hook", source), floor.tree(ROOT, nonce));
        std::fs::create_dir_all(floor.work.join(ROOT))?;
        run("cp", &["-a".as_ref(), &from, &to])?;
        // What a supervisor wrote, and what is copied beside it.
        for emptied in ["spool", "externals"] {
            let script = "find \"$1\" -mindepth 1 ! -path \"$1/steps\" -delete";
            let path = to.join(emptied);
            run(
                "sh",
                &["-ec".as_ref(), script.as_ref(), "sh".as_ref(), &path],
            )?;
        }
        Ok(floor)
    }

    /// Has each pod mount a claim of its own as that volume, which is made just before, as part of
    /// its start.
    pub fn cloning(
        self,
        claims: Api<PersistentVolumeClaim>,
        volume: &str,
        claim: PersistentVolumeClaim,
    ) -> anyhow::Result<Self> {
        let spec = self.pod.spec.iter();
        let mut volumes = spec.flat_map(|spec| &spec.volumes).flatten();
        let pattern = volumes
            .find(|one| one.name == volume)
            .and_then(|one| Some(one.persistent_volume_claim.as_ref()?.claim_name.clone()))
            .with_context(|| format!("the pod has no claim as volume `{volume}`"))?;
        Ok(Self {
            clone: Some(Cloning {
                claims,
                claim,
                pattern,
            }),
            ..self
        })
    }

    fn tree(&self, root: &str, nonce: &str) -> PathBuf {
        self.work.join(root).join(nonce)
    }

    /// Starts one and ends it.
    pub async fn measure(&mut self, status: Option<Status>) -> anyhow::Result<Life> {
        self.count += 1;
        let name = format!("{}-{}", self.pod.name_any(), self.count);
        let nonce = format!("{:08x}{}", self.count, &self.nonce[8..]);
        let tree = self.tree(ROOT, &nonce);
        run("cp", &["-a".as_ref(), &self.tree(ROOT, &self.nonce), &tree])?;
        let mut pod = bare(&self.pod, &name, &self.nonce, &nonce)?;
        if let Some(clone) = &self.clone {
            let text = serde_json::to_string(&pod)?.replace(&clone.pattern, &name);
            pod = serde_json::from_str(&text)?;
        }
        let file = tree.join("spool/ready.json");
        let taken = tokio::time::timeout(PATIENCE, self.start(&pod, &file, status))
            .await
            .with_context(|| format!("the floor `{name}` did not come to its end"))
            .and_then(|taken| taken);
        let deleted = Instant::now();
        delete(&self.pods, &name).await?;
        let end = milliseconds(deleted.elapsed());
        if let Some(clone) = &self.clone {
            clone.claims.delete(&name, &DeleteParams::default()).await?;
        }
        std::fs::remove_dir_all(&tree)
            .with_context(|| format!("failed to remove `{}`", tree.display()))?;
        Ok(Life { start: taken?, end })
    }

    async fn start(&self, pod: &Pod, file: &Path, status: Option<Status>) -> anyhow::Result<f64> {
        let selector = format!("metadata.name={}", pod.name_any());
        let watch = WatchParams::default().fields(&selector);
        let mut events = pin!(self.pods.watch(&watch, "0").await?);
        let mut told = status.is_none();
        let mut there = false;
        let start = Instant::now();
        if let Some(clone) = &self.clone {
            clone.make(pod).await?;
        }
        self.pods.create(&PostParams::default(), pod).await?;
        loop {
            there = there || file.exists();
            if there && told {
                return Ok(milliseconds(start.elapsed()));
            }
            tokio::select! {
                () = tokio::time::sleep(GLANCE), if !there => {}
                event = events.try_next() => match event? {
                    Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                        told = told || status.is_some_and(|status| status(&pod));
                    }
                    Some(_) => {}
                    None => bail!("the watch ended"),
                }
            }
        }
    }
}

impl Cloning {
    /// Makes the claim of a pod, and waits until it is bound: a pod that comes before is put off by
    /// the scheduler, for longer.
    async fn make(&self, pod: &Pod) -> anyhow::Result<()> {
        let name = pod.name_any();
        let mut claim = self.claim.clone();
        claim.metadata.name = Some(name.clone());
        // Goes with the runner pod also when this run is cut off.
        claim.metadata.owner_references = pod.metadata.owner_references.clone();
        self.claims.create(&PostParams::default(), &claim).await?;
        loop {
            let status = self.claims.get(&name).await?.status;
            if status.and_then(|status| status.phase).as_deref() == Some("Bound") {
                return Ok(());
            }
            tokio::time::sleep(CLAIM_GLANCE).await;
        }
    }
}

/// Deletes a pod and waits until it is gone.
async fn delete(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    pods.delete(name, &DeleteParams::default().grace_period(1))
        .await?;
    gone(pods, name).await
}

/// Waits until there is no such pod: the node is busy with its end until then.
pub async fn gone(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    while pods.get_opt(name).await?.is_some() {
        if start.elapsed() > PATIENCE {
            bail!("pod `{name}` did not go");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Every container of the pod is ready.
#[must_use]
pub fn all_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .filter_map(|status| status.conditions.as_ref());
    conditions
        .flatten()
        .any(|condition| condition.type_ == "ContainersReady" && condition.status == "True")
}

/// The hook's pod under another name and nonce, without what made it the hook's.
fn bare(pod: &Pod, name: &str, old: &str, new: &str) -> anyhow::Result<Pod> {
    let mut spec = serde_json::to_value(&pod.spec)?;
    if let Some(spec) = spec.as_object_mut() {
        // The scheduler's decision; the affinity that leads to it stays.
        spec.remove("nodeName");
    }
    let text = spec
        .to_string()
        .replace(&format!(".arc-hook/{old}"), &format!("{ROOT}/{old}"))
        .replace(old, new);
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": name,
            // Goes with the runner pod also when this run is cut off.
            "ownerReferences": pod.metadata.owner_references,
        },
        "spec": serde_json::from_str::<Value>(&text)?,
    }))?)
}

fn run(program: &str, arguments: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("failed to start `{program}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program}` {arguments:?} failed: {said}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "r-workflow", "uid": "1", "resourceVersion": "7",
                "labels": {"runner-pod": "r"}, "annotations": {"nonce": "abc"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "r", "uid": "2"}],
            },
            "spec": {
                "nodeName": "node-1",
                "containers": [{
                    "name": "job", "command": ["/__hook/arc-hook", "supervise", "--nonce", "abc"],
                    "volumeMounts": [
                        {"name": "work", "mountPath": "/__hook", "subPath": ".arc-hook/abc/hook"},
                        {"name": "work", "mountPath": "/__w/r/r", "subPath": "r/r"},
                    ],
                }],
            },
            "status": {
                "conditions": [{"type": "ContainersReady", "status": "True"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_floor_pod_has_the_shape_of_the_hook_s_and_nothing_that_is_the_hook_s() {
        let floor = serde_json::to_value(bare(&pod(), "r-workflow-1", "abc", "xyz").unwrap());
        assert_eq!(
            floor.unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": "r-workflow-1",
                    "ownerReferences":
                        [{"apiVersion": "v1", "kind": "Pod", "name": "r", "uid": "2"}],
                },
                "spec": {"containers": [{
                    "name": "job", "command": ["/__hook/arc-hook", "supervise", "--nonce", "xyz"],
                    "volumeMounts": [
                        {"name": "work", "mountPath": "/__hook", "subPath": ".bench/xyz/hook"},
                        {"name": "work", "mountPath": "/__w/r/r", "subPath": "r/r"},
                    ],
                }]},
            })
        );
    }

    #[test]
    fn the_status_tells_of_readiness() {
        assert!(all_ready(&pod()));
        assert!(!all_ready(&Pod::default()));
    }
}
