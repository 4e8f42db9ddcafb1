//! Removes what no longer serves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use super::scene::{Doomed, Listed, Scene};
use super::{GRACE, lease};
use crate::cache::{Key, Kind};
use crate::cluster::{Cluster, ClusterError, Deletion, Known};
use crate::config::Config;
use crate::fault;

/// What a job waits for its pod longer than by default is added to the grace, and this.
const MARGIN: Duration = Duration::from_mins(5);

/// What a run has done.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What went, or would go.
    pub removed: Vec<Doomed>,
    /// Why lines cannot be read.
    pub unread: Vec<String>,
}

/// Removes what is to go, snapshots too where that is asked; `dry` only tells.
pub async fn run(
    cluster: &Cluster,
    grace: Duration,
    snapshots: bool,
    dry: bool,
) -> Result<Report, ClusterError> {
    let scene = Scene::read(cluster, snapshots).await?;
    let doomed = scene.doomed(Timestamp::now(), grace);
    let mut report = Report {
        removed: Vec::new(),
        unread: scene.unread.clone(),
    };
    if dry {
        report.removed = doomed;
        return Ok(report);
    }
    let stay = unlist(cluster, &scene, &doomed).await?;
    fault::point("unlisted");
    for one in doomed {
        if one
            .listed
            .as_ref()
            .is_some_and(|listed| stay.contains(&listed.line))
        {
            continue;
        }
        let went = match one.kind {
            Kind::Claim => delete(cluster, scene.claim(&one.claim)).await?,
            Kind::Snapshot => delete(cluster, scene.snapshot(&one.claim)).await?,
        };
        if went {
            report.removed.push(one);
        }
    }
    Ok(report)
}

/// Deletes what is there; what was only listed is gone already.
async fn delete<K: Known>(cluster: &Cluster, found: Option<&K>) -> Result<bool, ClusterError> {
    match found {
        Some(found) => Ok(cluster.delete_as_read(found).await? == Deletion::Begun),
        None => Ok(true),
    }
}

/// Takes generations out of their lines; returns the lines that someone else changed meanwhile.
async fn unlist(
    cluster: &Cluster,
    scene: &Scene,
    doomed: &[Doomed],
) -> Result<BTreeSet<Key>, ClusterError> {
    let mut by_line: BTreeMap<&Key, Vec<&Listed>> = BTreeMap::new();
    for listed in doomed.iter().filter_map(|one| one.listed.as_ref()) {
        by_line.entry(&listed.line).or_default().push(listed);
    }
    let mut stay = BTreeSet::new();
    for (key, gone) in by_line {
        let Some(mut line) = scene.lines.iter().find(|line| line.key == *key).cloned() else {
            continue;
        };
        for listed in gone {
            if let Some(entry) = line.nodes.get_mut(&listed.node) {
                entry.generations.retain(|one| one.number != listed.number);
            }
        }
        if cluster
            .replace::<ConfigMap>(&line.to_config_map())
            .await?
            .is_none()
        {
            stay.insert(key.clone());
        }
    }
    Ok(stay)
}

/// Cleans at the end of a job, unless another does or has just done so.
pub async fn after_job(
    cluster: &Cluster,
    config: &Config,
    snapshots: bool,
) -> Result<(), ClusterError> {
    let Some(lease) = lease::acquire(cluster, &config.pod_name).await? else {
        return Ok(());
    };
    let grace = GRACE.max(config.prepare_timeout + MARGIN);
    let report = run(cluster, grace, snapshots, false).await;
    lease::release(cluster, lease).await;
    let report = report?;
    if !report.removed.is_empty() {
        tracing::debug!(?report, "old generations removed");
    }
    Ok(())
}
