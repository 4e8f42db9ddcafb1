//! A pod equal to a kept one, on its volumes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Entry, LABEL};
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

/// The manifest of the equal pod: the job's container alone, on the same volumes. Services are left out,
/// since their environments are gone, and so are the Secrets named `gone`.
#[must_use]
pub fn manifest(pod: &Pod, id: &str, gone: &[String]) -> Value {
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
    retain(&mut spec["containers"], |container| {
        let name = container["name"].as_str().unwrap_or_default();
        name == JOB_CONTAINER || crate::pod::fills(name)
    });
    // The image is on the node.
    let is_gone = |secret: &Value| gone.iter().any(|name| secret["name"] == name.as_str());
    retain(&mut spec["imagePullSecrets"], |secret| !is_gone(secret));
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
    retain(&mut spec["volumes"], |volume| {
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

fn retain(list: &mut Value, keep: impl Fn(&Value) -> bool) {
    if let Some(list) = list.as_array_mut() {
        list.retain(keep);
    }
}

/// The `ConfigMap` that holds the manifest.
#[must_use]
pub fn config_map(pod: &Pod, entry: &Entry, gone: &[String]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name(&entry.id), "labels": {LABEL: entry.id},
                     "annotations": {super::SINCE_ANNOTATION: entry.since.to_string()}},
        "data": BTreeMap::from([("pod", manifest(pod, &entry.id, gone).to_string())]),
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
        let twin = manifest(&pod(), "0a1b2c3d", &["r-secret-0a1b2c3d".to_owned()]);
        assert!(!twin.to_string().contains("secret"), "{twin}");
        insta::assert_yaml_snapshot!(twin);
    }

    #[test]
    fn claims_that_go_with_the_pod_are_known_by_name() {
        assert_eq!(ephemeral_claims(&pod()), ["r-workflow-conan-home"]);
    }
}
