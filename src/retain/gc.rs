//! Kept jobs that go: whose time is up, whose pod has ended, whose node has no room, and what crashes
//! left of others.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::ledger::{Entry, Ledger};
use super::{LABEL, Mode, SINCE_ANNOTATION, twin};
use crate::cluster::{Cluster, ClusterError, Known};

/// How old an object without an entry, or an entry without an object, must be. Longer than a job takes
/// from its entry in the ledger to the change of its last object.
const GRACE: Duration = Duration::from_mins(5);
/// Seconds between SIGTERM and SIGKILL: nothing that matters runs in there any more.
const POD_GRACE: u32 = 2;

/// A kept job that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// Its id.
    pub id: String,
    /// Its repository, where that is known.
    pub repository: Option<String>,
    /// Why it went.
    pub why: String,
}

/// Deletes what is left of a kept job, which has left the ledger. What still is its runner's goes with
/// that: the admission policy lets no other touch it.
pub async fn delete(cluster: &Cluster, entry: &Entry) -> Result<(), ClusterError> {
    let uid = Some(entry.pod_uid.as_str());
    remove::<Pod>(cluster, &entry.pod, uid, Some(POD_GRACE)).await?;
    if entry.mode == Mode::Volumes {
        let name = twin::name(&entry.id);
        remove::<Pod>(cluster, &name, None, Some(POD_GRACE)).await?;
        remove::<ConfigMap>(cluster, &name, None, None).await?;
    }
    for claim in &entry.claims {
        let uid = Some(claim.uid.as_str());
        remove::<PersistentVolumeClaim>(cluster, &claim.name, uid, None).await?;
    }
    Ok(())
}

async fn remove<K: Known>(
    cluster: &Cluster,
    name: &str,
    uid: Option<&str>,
    grace: Option<u32>,
) -> Result<(), ClusterError> {
    match cluster.delete::<K>(name, uid, grace).await {
        Err(error) if !error.is_protected() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What is there of kept jobs.
#[derive(Debug, Default)]
pub struct Scene {
    /// Pods with [`LABEL`].
    pub pods: Vec<Pod>,
    /// Claims with it.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Names of nodes that say that they run short of something.
    pub short: BTreeSet<String>,
}

impl Scene {
    /// Reads it.
    pub async fn read(cluster: &Cluster, ledger: &Ledger) -> Result<Self, ClusterError> {
        let mut scene = Self {
            pods: cluster.list::<Pod>(Some(LABEL)).await?,
            claims: cluster.list::<PersistentVolumeClaim>(Some(LABEL)).await?,
            short: BTreeSet::new(),
        };
        let nodes: BTreeSet<&String> = ledger
            .entries
            .values()
            .filter_map(|one| one.node.as_ref())
            .collect();
        for name in nodes {
            match cluster.node(name).await {
                Ok(Some(node)) if is_short(&node) => drop(scene.short.insert(name.clone())),
                Ok(_) => {}
                // A Role of the namespace cannot grant it; a person, or a ClusterRole, may have it.
                Err(error) if error.is_forbidden() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(scene)
    }

    /// Takes out of the ledger what is to go at the time `now`, and says why. Pure.
    pub fn settle(&self, ledger: &mut Ledger, now: Timestamp) -> Vec<(Entry, String)> {
        let mut gone: Vec<(Entry, String)> = Vec::new();
        let mut leave = |entries: Vec<Entry>, why: &str| {
            gone.extend(entries.into_iter().map(|entry| (entry, why.to_owned())));
        };
        leave(ledger.expire(now), "its time is up");
        for node in &self.short {
            leave(ledger.relieve(node, now), "its node runs short");
        }
        let dead: Vec<(String, &str)> = ledger
            .entries
            .values()
            .filter_map(|entry| Some((entry.id.clone(), self.why_dead(entry, now)?)))
            .collect();
        for (id, why) in dead {
            leave(ledger.entries.remove(&id).into_iter().collect(), why);
        }
        gone
    }

    /// Why nobody can enter it any more.
    fn why_dead(&self, entry: &Entry, now: Timestamp) -> Option<&'static str> {
        let is_young = now.as_second() - entry.since.as_second() < seconds(GRACE);
        match entry.mode {
            Mode::Pod => {
                let is_it = |pod: &&Pod| pod.metadata.uid.as_deref() == Some(&entry.pod_uid);
                match self.pods.iter().find(is_it) {
                    Some(pod) if has_ended(pod) => Some("its pod has ended"),
                    Some(_) => None,
                    None => (!is_young).then_some("its pod is gone"),
                }
            }
            Mode::Volumes => {
                let is_there = entry.claims.iter().all(|claim| {
                    self.claims
                        .iter()
                        .any(|found| found.metadata.uid.as_deref() == Some(&claim.uid))
                });
                (!is_there && !is_young).then_some("a claim of it is gone")
            }
        }
    }

    /// Objects that no entry names, by id.
    #[must_use]
    pub fn orphans(&self, ledger: &Ledger, now: Timestamp) -> BTreeSet<String> {
        let known = |id: &String| ledger.entries.contains_key(id) || ledger.unread.contains_key(id);
        let metadata = self.pods.iter().map(|pod| &pod.metadata);
        metadata
            .chain(self.claims.iter().map(|claim| &claim.metadata))
            .filter(|meta| meta.deletion_timestamp.is_none())
            .filter(|meta| {
                let annotations = meta.annotations.as_ref();
                let since = annotations.and_then(|all| all.get(SINCE_ANNOTATION));
                let since = since.and_then(|since| since.parse::<Timestamp>().ok());
                since.is_some_and(|since| now.as_second() - since.as_second() > seconds(GRACE))
            })
            .filter_map(|meta| meta.labels.as_ref()?.get(LABEL).cloned())
            .filter(|id| !known(id))
            .collect()
    }
}

/// Removes what is to go; with `dry` only tells.
pub async fn run(cluster: &Cluster, dry: bool) -> Result<Vec<Gone>, ClusterError> {
    let ledger = Ledger::read(cluster).await?;
    let scene = Scene::read(cluster, &ledger).await?;
    let now = Timestamp::now();
    let orphans = scene.orphans(&ledger, now);
    let leaving = if dry {
        scene.settle(&mut ledger.clone(), now)
    } else {
        let settled = Ledger::change(cluster, |ledger| scene.settle(ledger, now)).await?;
        settled.unwrap_or_default()
    };
    let mut gone = Vec::new();
    for (entry, why) in leaving {
        if !dry {
            delete(cluster, &entry).await?;
        }
        gone.push(Gone {
            id: entry.id,
            repository: Some(entry.repository),
            why,
        });
    }
    for id in orphans {
        if !dry {
            delete_labelled::<Pod>(cluster, &id).await?;
            delete_labelled::<PersistentVolumeClaim>(cluster, &id).await?;
            cluster
                .delete::<ConfigMap>(&twin::name(&id), None, None)
                .await?;
        }
        gone.push(Gone {
            id,
            repository: None,
            why: "no entry names it".to_owned(),
        });
    }
    Ok(gone)
}

async fn delete_labelled<K: Known>(cluster: &Cluster, id: &str) -> Result<(), ClusterError> {
    for object in cluster.labelled::<K>(LABEL, id).await? {
        cluster.delete_as_read(&object).await?;
    }
    Ok(())
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Whether a pod has run its time, or was evicted.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_short(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        let names = ["MemoryPressure", "DiskPressure", "PIDPressure"];
        names.contains(&condition.type_.as_str()) && condition.status == "True"
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ledger::tests::{at, entry};
    use super::*;

    fn ledger(entries: Vec<Entry>) -> Ledger {
        Ledger {
            entries: entries
                .into_iter()
                .map(|one| (one.id.clone(), one))
                .collect(),
            ..Ledger::default()
        }
    }

    fn pod(id: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("runner-{id}-workflow"), "uid": format!("uid-{id}"),
                         "labels": {LABEL: id}, "annotations": {SINCE_ANNOTATION: at(0).to_string()}},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn settled(scene: &Scene, ledger: &mut Ledger, now: i64) -> Vec<(String, String)> {
        let gone = scene.settle(ledger, at(now));
        gone.into_iter()
            .map(|(entry, why)| (entry.id, why))
            .collect()
    }

    #[test]
    fn a_kept_job_goes_when_its_time_is_up_or_its_pod_has_ended() {
        let scene = Scene {
            pods: vec![pod("a", "Running"), pod("b", "Failed"), pod("c", "Running")],
            ..Scene::default()
        };
        let mut ledger = ledger(vec![
            entry("a", "o/r", 0, 10),
            entry("b", "o/r", 0, 100),
            entry("c", "o/r", 0, 100),
        ]);
        let gone = settled(&scene, &mut ledger, 20);
        let gone: Vec<_> = gone
            .iter()
            .map(|(id, why)| (id.as_str(), why.as_str()))
            .collect();
        assert_eq!(gone, [("a", "its time is up"), ("b", "its pod has ended")]);
        assert_eq!(ledger.entries.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn an_entry_that_is_being_kept_has_no_pod_yet() {
        let scene = Scene::default();
        let mut ledger = ledger(vec![entry("a", "o/r", 0, 10_000)]);
        assert_eq!(settled(&scene, &mut ledger, 60), []);
        assert_eq!(settled(&scene, &mut ledger, 600)[0].1, "its pod is gone");
    }

    #[test]
    fn a_node_that_runs_short_is_relieved_of_the_oldest() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "node-1"}, "status":
            {"conditions": [{"type": "Ready", "status": "True"},
                            {"type": "DiskPressure", "status": "True"}]}}))
        .unwrap();
        assert!(is_short(&node));
        let scene = Scene {
            pods: vec![pod("a", "Running"), pod("b", "Running")],
            short: BTreeSet::from(["node-1".to_owned()]),
            ..Scene::default()
        };
        let mut ledger = ledger(vec![entry("a", "o/r", 0, 100), entry("b", "o/r", 1, 100)]);
        assert_eq!(settled(&scene, &mut ledger, 20)[0].0, "a");
        assert_eq!(ledger.entries.len(), 1);
    }

    #[test]
    fn what_no_entry_names_goes_once_it_is_old() {
        let scene = Scene {
            pods: vec![pod("a", "Running"), pod("b", "Running")],
            ..Scene::default()
        };
        let ledger = ledger(vec![entry("a", "o/r", 0, 100)]);
        assert!(scene.orphans(&ledger, at(60)).is_empty());
        assert_eq!(
            scene.orphans(&ledger, at(600)),
            BTreeSet::from(["b".to_owned()])
        );
        let mut foreign = Ledger::default();
        for id in ["a", "b"] {
            foreign
                .unread
                .insert(id.to_owned(), Value::Null.to_string());
        }
        assert!(scene.orphans(&foreign, at(600)).is_empty());
    }
}
