//! The look at a sealed clone before it becomes a parent: a pod of its own.
//!
//! It gets nothing of the job but image and user: no credentials, no account, no work volume, the
//! clone read-only. `hook-templates/verify-network.yaml` takes the network from it by its label.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::record::Verify;
use crate::pod::{RunnerPod, names};

/// Label of the pods that verify, by which a network policy selects them.
pub const VERIFY_LABEL: &str = "arc-hook/verify";

/// How long it may take, in seconds. Less than [`super::promote::UNFINISHED`].
pub const LIMIT: u32 = 300;

const CONTAINER: &str = "verify";
const VOLUME: &str = "cache";

/// The pod that verifies a claim as the job's user. `nonce` makes its name.
#[must_use]
pub fn pod(
    verify: &Verify,
    claim: &str,
    user: Option<(u32, u32)>,
    runner: &RunnerPod,
    nonce: &str,
) -> Value {
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if let Some((uid, gid)) = user {
        security["runAsUser"] = json!(uid);
        security["runAsGroup"] = json!(gid);
        security["runAsNonRoot"] = json!(uid != 0);
    }
    // Where the template says nothing: the job's home is not there.
    let mut env = vec![json!({"name": "HOME", "value": "/tmp"})];
    env.extend(
        verify
            .environment
            .iter()
            .filter(|(name, _)| name != "HOME")
            .map(|(name, value)| json!({"name": name, "value": value})),
    );
    let pull: Vec<_> = runner
        .pull_secrets
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": names::step_pod(&runner.name, &names::derived(nonce, claim)),
            "labels": {
                VERIFY_LABEL: "true",
                names::RUNNER_POD_LABEL: names::label(&runner.name),
            },
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": runner.name, "uid": runner.uid},
            ],
        },
        "spec": {
            "activeDeadlineSeconds": LIMIT,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "imagePullSecrets": pull,
            "containers": [{
                "name": CONTAINER,
                "image": verify.image,
                "command": verify.command,
                "env": env,
                "securityContext": security,
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [{"name": VOLUME, "mountPath": verify.path, "readOnly": true}],
            }],
            "volumes": [{"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}}],
        },
    })
}

/// Whether the pod is through, and if it failed, why.
#[must_use]
pub fn verdict(pod: &Pod) -> Option<Result<(), String>> {
    let status = pod.status.as_ref()?;
    match status.phase.as_deref() {
        Some("Succeeded") => Some(Ok(())),
        Some("Failed") => {
            let terminated = status
                .container_statuses
                .iter()
                .flatten()
                .find_map(|container| container.state.as_ref()?.terminated.as_ref());
            Some(Err(match (terminated, &status.reason) {
                (Some(end), _) => format!("it exits with {}", end.exit_code),
                (None, Some(reason)) => reason.clone(),
                (None, None) => "its pod failed".to_owned(),
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_that_verifies_has_nothing_of_the_job_but_image_and_user() {
        let verify = Verify {
            command: ["conan", "cache", "check-integrity", "*"]
                .map(str::to_owned)
                .into(),
            image: "gcc-conan:12".to_owned(),
            path: "/CONAN_HOME".to_owned(),
            environment: vec![("CONAN_HOME".to_owned(), "/CONAN_HOME".to_owned())],
        };
        let runner = RunnerPod {
            name: "runner-1".to_owned(),
            uid: "uid-of-runner".to_owned(),
            pull_secrets: vec!["registry".to_owned()],
            ..RunnerPod::default()
        };
        let pod = pod(
            &verify,
            "cache-conan-home-1",
            Some((1001, 1001)),
            &runner,
            "0123",
        );
        insta::assert_yaml_snapshot!(pod);
    }

    #[test]
    fn a_pod_that_verifies_is_judged_by_its_end() {
        let judge = |status: Value| {
            let pod: Pod = serde_json::from_value(json!({"status": status})).unwrap();
            verdict(&pod)
        };
        assert_eq!(judge(json!({"phase": "Running"})), None);
        assert_eq!(judge(json!({"phase": "Succeeded"})), Some(Ok(())));
        let ended = json!({"phase": "Failed", "containerStatuses": [
            {"name": "verify", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 3}}}]});
        assert_eq!(judge(ended), Some(Err("it exits with 3".to_owned())));
        let late = json!({"phase": "Failed", "reason": "DeadlineExceeded"});
        assert_eq!(judge(late), Some(Err("DeadlineExceeded".to_owned())));
    }
}
