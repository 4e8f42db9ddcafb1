//! A pod equal to a kept one, on its volumes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Entry, LABEL, copy};
use crate::pod::WORK;
use crate::pod::names::JOB_CONTAINER;

/// Names of the claims that Kubernetes made for a pod's generic ephemeral volumes, which go with it
/// (Kubernetes, "Ephemeral Volumes": `PersistentVolumeClaim` naming).
#[must_use]
pub fn ephemeral_claims(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .filter(|volume| volume.ephemeral.is_some())
        .map(|volume| format!("{name}-{}", volume.name))
        .collect()
}

/// Name of the equal pod, and of the `ConfigMap` with its manifest.
#[must_use]
pub fn name(id: &str) -> String {
    format!("arc-hook-retained-{id}")
}

/// The manifest of the equal pod: the job's container alone, on the same volumes, or with the claim `copied`
/// in place of the work volume. Services are left out, since their environments are gone, and so are the
/// Secrets named `gone`.
#[must_use]
pub fn manifest(pod: &Pod, id: &str, gone: &[String], copied: Option<&str>) -> Value {
    let own = pod.metadata.name.clone().unwrap_or_default();
    let mut spec = serde_json::to_value(pod.spec.clone().unwrap_or_default()).unwrap_or_default();
    // What the API server filled in when the pod was made and placed.
    for key in [
        "nodeName",
        "serviceAccount",
        "priority",
        "preemptionPolicy",
        "activeDeadlineSeconds",
    ] {
        if let Some(spec) = spec.as_object_mut() {
            spec.remove(key);
        }
    }
    // A copy has been filled.
    let fills = |name: &Value| crate::pod::fills(name.as_str().unwrap_or_default());
    retain(&mut spec, "containers", |container| {
        let name = &container["name"];
        name == JOB_CONTAINER || (copied.is_none() && fills(name))
    });
    retain(&mut spec, "initContainers", |container| {
        copied.is_none() || !fills(&container["name"])
    });
    // The image is on the node.
    if spec["imagePullSecrets"].is_array() {
        spec["imagePullSecrets"] = json!(secrets_left(&spec, gone));
    }
    if let Some(claim) = copied {
        copy::lay_over(&mut spec);
        for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
            if volume["name"] == WORK {
                *volume = json!({"name": WORK, "persistentVolumeClaim": {"claimName": claim}});
            }
        }
    }
    let mut used: Vec<String> = Vec::new();
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array().into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            used.extend(mounts.filter_map(|mount| mount["name"].as_str().map(str::to_owned)));
        }
    }
    for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
        if volume["ephemeral"].is_object() {
            let name = volume["name"].as_str().unwrap_or_default().to_owned();
            *volume = json!({"name": name,
                "persistentVolumeClaim": {"claimName": format!("{own}-{name}")}});
        }
    }
    retain(&mut spec, "volumes", |volume| {
        used.iter().any(|name| volume["name"] == name.as_str())
    });
    for container in spec["containers"].as_array_mut().into_iter().flatten() {
        if container["imagePullPolicy"] == "Always" {
            container["imagePullPolicy"] = json!("IfNotPresent");
        }
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name(id), "labels": {LABEL: id}},
        "spec": spec,
    })
}

/// The pull secrets of a pod, without those named `gone`.
pub(super) fn secrets_left(spec: &Value, gone: &[String]) -> Vec<Value> {
    let is_gone = |secret: &&Value| gone.iter().any(|name| secret["name"] == name.as_str());
    let secrets = spec["imagePullSecrets"].as_array().into_iter().flatten();
    secrets.filter(|secret| !is_gone(secret)).cloned().collect()
}

fn retain(spec: &mut Value, list: &str, keep: impl Fn(&Value) -> bool) {
    if let Some(list) = spec.get_mut(list).and_then(Value::as_array_mut) {
        list.retain(keep);
    }
}

/// The `ConfigMap` that holds the manifest.
#[must_use]
pub fn config_map(pod: &Pod, entry: &Entry, gone: &[String], copied: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name(&entry.id), "labels": {LABEL: entry.id},
                     "annotations": {super::SINCE_ANNOTATION: entry.since.to_string()}},
        "data": BTreeMap::from([("pod", manifest(pod, &entry.id, gone, copied).to_string())]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "r-workflow", "labels": {"runner-pod": "r"}},
            "spec": {
                "nodeName": "node-1", "priority": 0, "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "imagePullSecrets": [{"name": "of-the-runner"}, {"name": "r-secret-0a1b2c3d"}],
                "containers": [
                    {"name": "job", "image": "gcc:12", "imagePullPolicy": "Always",
                     "command": ["/__hook/arc-hook", "supervise", "/__hook/spool"],
                     "env": [{"name": "CONAN_HOME", "value": "/CONAN_HOME"}],
                     "volumeMounts": [
                        {"name": "work", "mountPath": "/__w/r/r", "subPath": "r/r"},
                        {"name": "conan-home", "mountPath": "/CONAN_HOME"}]},
                    {"name": "redis", "image": "redis", "env": [{"name": "PASSWORD", "valueFrom":
                        {"secretKeyRef": {"name": "r-secret-ffffffff", "key": "redis.PASSWORD"}}}],
                     "volumeMounts": [{"name": "scratch", "mountPath": "/data"}]}],
                "volumes": [
                    {"name": "work", "persistentVolumeClaim": {"claimName": "r-work"}},
                    {"name": "conan-home", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                    {"name": "scratch", "emptyDir": {}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_equal_pod_has_the_jobs_container_and_volumes_and_no_secret() {
        let twin = manifest(&pod(), "0a1b2c3d", &["r-secret-0a1b2c3d".to_owned()], None);
        assert!(!twin.to_string().contains("secret"), "{twin}");
        insta::assert_yaml_snapshot!(twin);
    }

    #[test]
    fn in_place_of_a_volume_that_cannot_be_kept_it_has_the_copy_and_nothing_that_fills_it() {
        let mut pod = pod();
        let spec = pod.spec.as_mut().unwrap();
        let filler = json!({"name": "arc-hook-externals", "volumeMounts": [
            {"name": "work", "mountPath": "/__work"}]});
        spec.containers
            .insert(0, serde_json::from_value(filler.clone()).unwrap());
        spec.init_containers = Some(vec![serde_json::from_value(filler).unwrap()]);
        spec.init_containers.as_mut().unwrap()[0].name = "arc-hook-init".to_owned();
        spec.volumes.as_mut().unwrap()[0] =
            serde_json::from_value(json!({"name": "work", "emptyDir": {}})).unwrap();
        let twin = manifest(&pod, "0a1b2c3d", &[], Some("arc-hook-retained-0a1b2c3d"));
        let names = |list: &str| -> Vec<String> {
            let containers = twin["spec"][list].as_array().into_iter().flatten();
            containers
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(
            (names("containers"), names("initContainers")),
            (vec!["job".to_owned()], vec![])
        );
        assert_eq!(
            twin["spec"]["volumes"][0],
            json!({"name": "work", "persistentVolumeClaim": {"claimName": "arc-hook-retained-0a1b2c3d"}})
        );
    }

    #[test]
    fn claims_that_go_with_the_pod_are_known_by_name() {
        assert_eq!(ephemeral_claims(&pod()), ["r-workflow-conan-home"]);
    }
}
