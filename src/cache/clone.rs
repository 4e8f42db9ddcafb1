//! The claim of a job's clone, and its place in the pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{PARENT_ANNOTATION, ROLE_LABEL, Role};
use crate::pod::names;

/// Has a claim provisioned at once, also where its class waits for a first consumer (Kubernetes,
/// `pkg/controller/volume/persistentvolume/pv_controller.go`): the clone is under way before the
/// pod is, and the scheduler never has to try twice.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// What a claim is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// Its name: no other claim ever has it, since it stays when the clone becomes a generation.
    pub name: String,
    /// Its spec.
    pub spec: Value,
    /// Where its content comes from, for people.
    pub parent: String,
}

/// Name of the claim for a volume of the job with this nonce; `attempt` counts from 0.
#[must_use]
pub fn name(volume: &str, nonce: &str, attempt: u32) -> String {
    const READABLE: usize = 40;
    let readable = names::cleaned(volume, READABLE);
    let one = names::derived(nonce, &format!("cache {volume} {attempt}"));
    let other = names::derived(nonce, &format!("{attempt} {volume} cache"));
    format!("cache-{readable}-{one}{other}")
}

/// The spec of a clone: everything that a driver compares is its parent's (zfs-localpv refuses
/// another size, the provisioner another mode of volume).
#[must_use]
pub fn of(parent: &PersistentVolumeClaim) -> Value {
    let spec = parent.spec.clone().unwrap_or_default();
    let mut clone = json!({
        "accessModes": spec.access_modes.unwrap_or_default(),
        "dataSource": {
            "kind": "PersistentVolumeClaim",
            "name": parent.metadata.name,
        },
        "resources": {"requests": {"storage": capacity(parent)}},
    });
    if let Some(class) = spec.storage_class_name {
        clone["storageClassName"] = json!(class);
    }
    if let Some(mode) = spec.volume_mode {
        clone["volumeMode"] = json!(mode);
    }
    clone
}

/// The size of a bound claim: what it got, which may be more than it asked for.
#[must_use]
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<String> {
    let status = claim.status.as_ref()?;
    let capacity = status.capacity.as_ref()?.get("storage")?;
    Some(capacity.0.clone())
}

/// Whether clones can be taken from a claim; `uid` is the one it must have.
pub fn usable(claim: Option<&PersistentVolumeClaim>, uid: Option<&str>) -> Result<(), String> {
    let Some(claim) = claim else {
        return Err("its claim does not exist".to_owned());
    };
    let status = claim.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if uid.is_some() && claim.metadata.uid.as_deref() != uid {
        Err("its claim was replaced by another of that name".to_owned())
    } else if claim.metadata.deletion_timestamp.is_some() {
        Err("its claim is being deleted".to_owned())
    } else if phase != Some("Bound") || capacity(claim).is_none() {
        Err(format!("its claim is {}", phase.unwrap_or("not bound")))
    } else {
        Ok(())
    }
}

impl Claim {
    /// The claim as it is sent; `metadata` holds label and owner of what belongs to the runner.
    #[must_use]
    pub fn manifest(&self, metadata: ObjectMeta, node: Option<&str>) -> Value {
        let mut labels = metadata.labels.unwrap_or_default();
        labels.insert(ROLE_LABEL.to_owned(), Role::Clone.as_str().to_owned());
        let mut annotations = BTreeMap::from([(PARENT_ANNOTATION.to_owned(), self.parent.clone())]);
        if let Some(node) = node {
            annotations.insert(SELECTED_NODE.to_owned(), node.to_owned());
        }
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..metadata
        };
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": metadata, "spec": self.spec,
        })
    }
}

/// Puts the claim in the place of the template's own volume.
pub fn mount(pod: &mut Value, volume: &str, claim: &str) {
    for found in volumes(pod) {
        if found["name"] == volume {
            *found = json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}});
        }
    }
}

/// Takes a volume and its mounts out of the pod.
pub fn unmount(pod: &mut Value, volume: &str) {
    volumes(pod).retain(|found| found["name"] != volume);
    for list in ["containers", "initContainers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container.get_mut("volumeMounts");
            if let Some(mounts) = mounts.and_then(Value::as_array_mut) {
                mounts.retain(|mount| mount["name"] != volume);
            }
        }
    }
}

/// The claims among a pod's volumes.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let claims = volumes.into_iter().flatten();
    claims.filter_map(|one| Some(one.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

/// Where the container mounts the volume.
#[must_use]
pub fn mount_path(pod: &Value, container: &str, volume: &str) -> Option<String> {
    let containers = pod["spec"]["containers"].as_array()?;
    let found = containers.iter().find(|found| found["name"] == container)?;
    let mounts = found["volumeMounts"].as_array()?;
    let mount = mounts.iter().find(|mount| mount["name"] == volume)?;
    mount["mountPath"].as_str().map(str::to_owned)
}

/// Variables of a container that stand in the pod with their values.
#[must_use]
pub fn plain_environment(pod: &Value, container: &str) -> Vec<(String, String)> {
    let containers = pod["spec"]["containers"].as_array();
    let found = containers.and_then(|all| all.iter().find(|found| found["name"] == container));
    found
        .and_then(|found| found["env"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|variable| {
            let name = variable["name"].as_str()?;
            Some((name.to_owned(), variable["value"].as_str()?.to_owned()))
        })
        .collect()
}

fn volumes(pod: &mut Value) -> &mut Vec<Value> {
    let volumes = &mut pod["spec"]["volumes"];
    if !volumes.is_array() {
        *volumes = json!([]);
    }
    match volumes {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(change: impl FnOnce(&mut Value)) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": "cache-conan-home-7", "uid": "u7"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "openebs-zfspv",
                     "volumeMode": "Filesystem", "resources": {"requests": {"storage": "199Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "200Gi"}},
        });
        change(&mut claim);
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_clone_has_everything_of_its_parent() {
        let claim = Claim {
            name: name("conan-home", "0123", 0),
            spec: of(&parent(|_| ())),
            parent: "octo/demo/main generation 7".to_owned(),
        };
        let metadata = ObjectMeta {
            labels: Some(BTreeMap::from([("runner-pod".to_owned(), "r".to_owned())])),
            ..ObjectMeta::default()
        };
        insta::assert_yaml_snapshot!(claim.manifest(metadata, Some("node-1")));
    }

    #[test]
    fn names_differ_by_volume_job_and_attempt_and_are_valid() {
        let long = "v".repeat(63);
        let all = [
            name("a", "n", 0),
            name("a", "n", 1),
            name("a", "m", 0),
            name("b", "n", 0),
            name(&long, "n", 0),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.iter().all(|name| names::is_dns_label(name)), "{all:?}");
    }

    #[test]
    fn only_a_bound_claim_with_the_known_uid_can_be_a_parent() {
        assert_eq!(usable(Some(&parent(|_| ())), Some("u7")), Ok(()));
        assert_eq!(usable(Some(&parent(|_| ())), None), Ok(()));
        assert!(usable(None, None).is_err());
        assert!(usable(Some(&parent(|_| ())), Some("u8")).is_err());
        let pending = parent(|claim| claim["status"] = json!({"phase": "Pending"}));
        assert_eq!(
            usable(Some(&pending), None).unwrap_err(),
            "its claim is Pending"
        );
        let going = parent(|claim| {
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        assert!(usable(Some(&going), None).is_err());
    }

    #[test]
    fn the_claim_takes_the_place_of_the_templates_volume() {
        let mut pod = json!({"spec": {
            "volumes": [{"name": "work"}, {"name": "cache", "ephemeral": {}}],
            "containers": [{"name": "job", "volumeMounts": [
                {"name": "cache", "mountPath": "/C"}, {"name": "work", "mountPath": "/w"}]}],
            "initContainers": [{"name": "init", "volumeMounts": [{"name": "cache", "mountPath": "/C"}]}],
        }});
        mount(&mut pod, "cache", "claim-1");
        assert_eq!(
            pod["spec"]["volumes"][1]["persistentVolumeClaim"]["claimName"],
            "claim-1"
        );
        assert!(pod["spec"]["volumes"][1].get("ephemeral").is_none());
        assert_eq!(mount_path(&pod, "job", "cache").as_deref(), Some("/C"));
        unmount(&mut pod, "cache");
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "work"}]));
        assert_eq!(mount_path(&pod, "job", "cache"), None);
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"], json!([]));
    }
}
