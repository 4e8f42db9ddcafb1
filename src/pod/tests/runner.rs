use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::World;
use crate::pod::{RunnerPod, WorkClaim};

fn pod(mounts: &serde_json::Value, volumes: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "runner-1", "uid": "u"},
        "spec": {
            "nodeName": "node-1",
            "imagePullSecrets": [{"name": "company"}, {}],
            "containers": [
                {"name": "proxy", "image": "envoy"},
                {"name": "runner", "image": "ghcr.io/arc-hook/runner:1", "volumeMounts": mounts},
            ],
            "volumes": volumes,
        },
    }))
    .expect("a pod")
}

fn read(mounts: &serde_json::Value, volumes: &serde_json::Value) -> RunnerPod {
    RunnerPod::from_pod(&pod(mounts, volumes), &World::new("").config)
}

fn claim(name: &str, sub_path: &str) -> WorkClaim {
    WorkClaim {
        claim: name.to_owned(),
        sub_path: sub_path.to_owned(),
    }
}

#[test]
fn arcs_work_volume_is_found_by_what_is_mounted() {
    let runner = read(
        &json!([{"name": "work", "mountPath": "/home/runner/_work"}]),
        &json!([{"name": "work", "ephemeral": {}}]),
    );
    assert_eq!(runner.work_claim, Some(claim("runner-1-work", "")));
    assert_eq!(runner.image.as_deref(), Some("ghcr.io/arc-hook/runner:1"));
    assert_eq!(runner.node.as_deref(), Some("node-1"));
    assert_eq!(runner.pull_secrets, ["company"]);
}

#[test]
fn a_work_directory_deep_in_a_shared_claim_is_found_where_it_lies() {
    let runner = read(
        &json!([
            {"name": "home", "mountPath": "/home/runner", "subPath": "runners/7"},
            {"name": "templates", "mountPath": "/home/runner/pod-template"},
        ]),
        &json!([{"name": "home", "persistentVolumeClaim": {"claimName": "shared"}}]),
    );
    assert_eq!(runner.work_claim, Some(claim("shared", "runners/7/_work")));
}

#[test]
fn what_a_second_pod_cannot_mount_is_no_work_claim() {
    let work = json!([{"name": "work", "mountPath": "/home/runner/_work"}]);
    for volumes in [
        json!([{"name": "work", "emptyDir": {}}]),
        json!([{"name": "work", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}}]),
        json!([]),
    ] {
        assert_eq!(read(&work, &volumes).work_claim, None);
    }
    let expression =
        json!([{"name": "work", "mountPath": "/home/runner/_work", "subPathExpr": "$(POD)"}]);
    assert_eq!(
        read(&expression, &json!([{"name": "work", "ephemeral": {}}])).work_claim,
        None
    );
}

#[test]
fn the_image_is_known_by_its_digest_where_a_registry_has_it() {
    let digest = |id: &str| {
        let mut pod = pod(
            &json!([{"name": "work", "mountPath": "/home/runner/_work"}]),
            &json!([]),
        );
        let status = json!({"containerStatuses": [
            {"name": "proxy", "image": "", "imageID": "envoy@sha256:22", "ready": true, "restartCount": 0},
            {"name": "runner", "image": "", "imageID": id, "ready": true, "restartCount": 0},
        ]});
        pod.status = serde_json::from_value(status).unwrap();
        RunnerPod::from_pod(&pod, &World::new("").config).image_digest
    };
    let exact = "ghcr.io/arc-hook/runner@sha256:11";
    assert_eq!(digest(exact).as_deref(), Some(exact));
    assert_eq!(
        digest(&format!("docker-pullable://{exact}")).as_deref(),
        Some(exact)
    );
    for id in ["", "sha256:11", "docker://sha256:11", "@sha256:11"] {
        assert_eq!(digest(id), None, "{id}");
    }
    assert_eq!(read(&json!([]), &json!([])).image_digest, None);
}
