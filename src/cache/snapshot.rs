//! Generations that are `VolumeSnapshot`s (`via: snapshot`): for storage whose volumes are restored
//! from snapshots and not cloned, and belong to no node, as EBS and Ceph.
//!
//! The protocol is that of claims; only what is sealed differs. The job's claim is frozen, because
//! its pod is gone; a snapshot is taken of it, which no runner pod owns; when it is ready the
//! pointer moves to it, and the claim goes.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::line::{Generation, Kind};
use super::pattern::Key;
use super::record::SnapshotWish;
use super::{
    LINE_ANNOTATION, LINE_LABEL, NUMBER_ANNOTATION, ROLE_LABEL, Role, SEALED_ANNOTATION, clone,
};
use crate::cluster::{Cluster, ClusterError, GROUP, VolumeSnapshot};

/// How long a snapshot may take to be ready. Less than [`super::promote::UNFINISHED`].
const READY: Duration = Duration::from_mins(6);
/// How often it is looked at, at first and at last.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(2);

/// Name of the snapshot of a claim. The claim's own is never given twice, nor is this one.
#[must_use]
pub fn name(claim: &str) -> String {
    format!("snapshot-{}", claim.strip_prefix("cache-").unwrap_or(claim))
}

/// What a snapshot is sealed as.
#[derive(Debug, Clone, Copy)]
pub struct Seal<'s> {
    /// The line that is to name it.
    pub line: &'s Key,
    /// Its number there, for people.
    pub number: u64,
    /// The time, in RFC 3339.
    pub now: &'s str,
}

/// The snapshot as it is sent.
fn manifest(claim: &str, wish: &SnapshotWish, seal: Seal<'_>) -> Value {
    let mut spec = json!({"source": {"persistentVolumeClaimName": claim}});
    if let Some(class) = &wish.class {
        spec["volumeSnapshotClassName"] = json!(class);
    }
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshot",
        "metadata": {
            "name": name(claim),
            "labels": {
                ROLE_LABEL: Role::Generation.as_str(),
                LINE_LABEL: seal.line.hash(),
            },
            "annotations": {
                LINE_ANNOTATION: seal.line.to_string(),
                NUMBER_ANNOTATION: seal.number.to_string(),
                SEALED_ANNOTATION: seal.now,
            },
        },
        "spec": spec,
    })
}

/// Takes a snapshot of a claim that nothing writes to any more, and waits until it is ready;
/// otherwise tells why it is not. A snapshot of this very claim that is there already is taken up.
pub async fn take(
    cluster: &Cluster,
    claim: &PersistentVolumeClaim,
    wish: &SnapshotWish,
    seal: Seal<'_>,
) -> Result<Result<VolumeSnapshot, String>, ClusterError> {
    let source = claim.metadata.name.as_deref().unwrap_or_default();
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let name = name(source);
    let made: VolumeSnapshot = cluster.create(&manifest(source, wish, seal), uid).await?;
    let begin = Instant::now();
    let mut pause = FIRST_LOOK;
    let mut found = Some(made);
    loop {
        let Some(snapshot) = found else {
            return Ok(Err("its snapshot was deleted".to_owned()));
        };
        let status = snapshot.status.clone().unwrap_or_default();
        if status.ready_to_use {
            return Ok(Ok(snapshot));
        }
        if begin.elapsed() > READY {
            let why = status.error.map_or_else(
                || {
                    "see that a VolumeSnapshotClass of its driver is the default, or name one by \
                    `snapshot-class`"
                        .to_owned()
                },
                |error| error.message,
            );
            return Ok(Err(format!(
                "its snapshot is not ready after {} s: {why}",
                READY.as_secs()
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
        found = cluster.get::<VolumeSnapshot>(&name).await?;
    }
}

/// Whether claims can be restored from a snapshot that must have this uid.
pub fn usable(snapshot: Option<&VolumeSnapshot>, uid: &str) -> Result<(), String> {
    let Some(snapshot) = snapshot else {
        return Err("its snapshot does not exist".to_owned());
    };
    let is_ready = snapshot.status.as_ref().is_some_and(|one| one.ready_to_use);
    if snapshot.metadata.uid.as_deref() != Some(uid) {
        Err("its snapshot was replaced by another of that name".to_owned())
    } else if snapshot.metadata.deletion_timestamp.is_some() {
        Err("its snapshot is being deleted".to_owned())
    } else if is_ready {
        Ok(())
    } else {
        Err("its snapshot is not ready".to_owned())
    }
}

/// The spec of a claim that is restored from a generation; how it is mounted is as in `like`, the
/// spec of a claim, where that says so.
#[must_use]
pub fn restored(generation: &Generation, like: &Value) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "dataSource": {
            "apiGroup": GROUP,
            "kind": "VolumeSnapshot",
            "name": generation.claim,
        },
        "resources": {"requests": {"storage": generation.size}},
    });
    for key in ["accessModes", "volumeMode"] {
        if let Some(value) = like.get(key) {
            spec[key] = value.clone();
        }
    }
    if let Some(class) = &generation.class {
        spec["storageClassName"] = json!(class);
    }
    spec
}

/// The spec of a claim with a generation's content, or why there can be none.
pub async fn parent_spec(
    cluster: &Cluster,
    generation: &Generation,
    like: &Value,
) -> Result<Result<Value, String>, ClusterError> {
    let uid = &generation.uid;
    Ok(match generation.kind {
        Kind::Claim => {
            let found = cluster
                .get::<PersistentVolumeClaim>(&generation.claim)
                .await?;
            clone::usable(found.as_ref(), Some(uid)).map(|()| clone::of(&found.unwrap_or_default()))
        }
        Kind::Snapshot => {
            let found = cluster.get::<VolumeSnapshot>(&generation.claim).await?;
            usable(found.as_ref(), uid).map(|()| restored(generation, like))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::line::tests::generation;
    use crate::pod::names;

    #[test]
    fn a_snapshot_is_sealed_from_the_beginning_and_owned_by_nobody() {
        let wish = SnapshotWish {
            class: Some("ebs".to_owned()),
        };
        let line = "octo/demo/main".parse().unwrap();
        let seal = Seal {
            line: &line,
            number: 8,
            now: "2026-01-03T12:00:00Z",
        };
        insta::assert_yaml_snapshot!(manifest("cache-conan-home-1", &wish, seal));
        let wish = SnapshotWish { class: None };
        let spec = &manifest("mine", &wish, seal)["spec"];
        assert!(spec.get("volumeSnapshotClassName").is_none(), "{spec}");
    }

    #[test]
    fn what_is_restored_has_the_generations_size_and_class() {
        let one = Generation {
            kind: Kind::Snapshot,
            claim: "snapshot-1".to_owned(),
            ..generation(1, "2026-01-01T00:00:00Z")
        };
        let like = json!({"accessModes": ["ReadWriteMany"], "storageClassName": "other",
                          "resources": {"requests": {"storage": "1Gi"}}});
        insta::assert_yaml_snapshot!(restored(&one, &like));
        assert_eq!(
            restored(&one, &json!({}))["accessModes"][0],
            "ReadWriteOnce"
        );
    }

    #[test]
    fn only_a_ready_snapshot_with_the_known_uid_can_be_a_parent() {
        let snapshot = |change: &dyn Fn(&mut VolumeSnapshot)| {
            let mut one = VolumeSnapshot::default();
            one.metadata.uid = Some("u".to_owned());
            one.status = Some(SnapshotStatus {
                ready_to_use: true,
                error: None,
            });
            change(&mut one);
            one
        };
        assert_eq!(usable(Some(&snapshot(&|_| ())), "u"), Ok(()));
        assert!(usable(None, "u").is_err());
        assert!(usable(Some(&snapshot(&|_| ())), "v").is_err());
        assert!(usable(Some(&snapshot(&|one| one.status = None)), "u").is_err());
        let going: VolumeSnapshot = serde_json::from_value(json!({
            "metadata": {"uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"readyToUse": true}}))
        .unwrap();
        assert_eq!(
            usable(Some(&going), "u").unwrap_err(),
            "its snapshot is being deleted"
        );
    }

    #[test]
    fn a_snapshot_never_has_the_name_of_a_claim_of_ours() {
        let claim = clone::name("conan-home", "0123", 0);
        assert_ne!(name(&claim), claim);
        assert!(names::is_dns_label(&name(&claim)));
    }

    use crate::cluster::SnapshotStatus;
}
