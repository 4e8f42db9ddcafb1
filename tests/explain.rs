//! What the hook says about pods that do not start, and about refusals of the API server.
//!
//! Objects have the shape in which Kubernetes 1.36 reports them. A snapshot holds what the user
//! reads: the verdict, the cause with its remedy, and the facts.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::time::Duration;

use arc_hook::explain::{
    Attempt, Evidence, Judgement, Subject, deleted, facts, judge, refusal, timed_out,
};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::core::Status;
use serde_json::{Value, json};

fn subject(services: &[String]) -> Subject<'_> {
    Subject {
        container: "job",
        services,
        may_end: false,
    }
}

/// A job pod of one job container and one service, in the given state.
fn pod(status: Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "runner-1-workflow", "namespace": "ci", "uid": "1"},
        "spec": {
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}
                ]}]
            }}},
            "containers": [
                {"name": "job", "image": "ghcr.io/octo/gcc:12",
                 "resources": {"limits": {"memory": "512Mi"}}},
                {"name": "redis", "image": "redis"}
            ],
            "nodeName": "node-1"
        }
    });
    pod["status"] = status;
    serde_json::from_value(pod).unwrap()
}

/// The service has a health check that may fail for 34 s.
fn with_health_check(mut pod: Pod) -> Pod {
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 34});
    if let Some(spec) = pod.spec.as_mut() {
        spec.containers[1].startup_probe = serde_json::from_value(probe).unwrap();
    }
    pod
}

fn scheduled() -> Value {
    json!({"type": "PodScheduled", "status": "True"})
}

/// The job container waits; the service runs.
fn waiting(reason: &str, message: &str) -> Pod {
    pod(json!({
        "phase": "Pending",
        "conditions": [scheduled()],
        "containerStatuses": [
            {"name": "job", "image": "ghcr.io/octo/gcc:12", "imageID": "", "ready": false,
             "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}},
            {"name": "redis", "image": "redis", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {"startedAt": "2026-11-21T06:00:00Z"}}}
        ]
    }))
}

fn ended(container: &str, end: &Value) -> Pod {
    let state = |name: &str| {
        if name == container {
            json!({"terminated": end})
        } else {
            json!({"running": {"startedAt": "2026-11-21T06:00:00Z"}})
        }
    };
    pod(json!({
        "phase": "Running",
        "conditions": [scheduled()],
        "containerStatuses": [
            {"name": "job", "image": "gcc", "imageID": "", "ready": container != "job",
             "restartCount": 0, "state": state("job")},
            {"name": "redis", "image": "redis", "imageID": "", "ready": container != "redis",
             "restartCount": 0, "state": state("redis")}
        ]
    }))
}

/// The container that fills the pod's own volume, and the job's that needs it, end so.
fn filled_by(filler: &Value, job: &Value) -> Pod {
    let status = |name: &str, state: &Value| {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
               "state": state})
    };
    pod(json!({
        "phase": "Running",
        "conditions": [scheduled()],
        "containerStatuses": [status("arc-hook-externals", filler), status("job", job)]
    }))
}

fn unschedulable(message: &str) -> Pod {
    pod(json!({
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                        "message": message}]
    }))
}

fn one_event(kind: &str, name: &str, reason: &str, message: &str) -> Evidence {
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "e"}, "involvedObject": {"kind": kind, "name": name},
        "type": "Warning", "reason": reason, "message": message
    }))
    .unwrap();
    Evidence::Events(vec![event])
}

fn told(pod: &Pod, evidence: &Evidence) -> String {
    let services = ["redis".to_owned()];
    let mut text = match judge(pod, subject(&services), evidence) {
        Judgement::Running => "running\n".to_owned(),
        Judgement::Waiting(None) => "waiting\n".to_owned(),
        Judgement::Waiting(Some(why)) => format!("waiting\n{}\n{why}\n", why.title),
        Judgement::Failing(why, grace) => {
            format!("fails in {} s\n{}\n{why}\n", grace.as_secs(), why.title)
        }
        Judgement::Dead(why) => format!("dead\n{}\n{why}\n", why.title),
    };
    for fact in facts(pod, evidence) {
        let _ = writeln!(text, "  {fact}");
    }
    text
}

macro_rules! pods {
    ($($name:ident: $pod:expr $(, $evidence:expr)?;)*) => {
        $(
            #[test]
            fn $name() {
                let evidence = [$($evidence)?].into_iter().next().unwrap_or(Evidence::Withheld);
                insta::assert_snapshot!(told(&$pod, &evidence));
            }
        )*
    };
}

pods! {
    an_image_that_does_not_exist: waiting("ErrImagePull",
        "rpc error: code = NotFound desc = failed to pull and unpack image \"ghcr.io/octo/gcc:12\": \
         failed to resolve reference \"ghcr.io/octo/gcc:12\": ghcr.io/octo/gcc:12: not found");
    an_image_whose_next_pull_is_awaited: waiting("ImagePullBackOff",
        "Back-off pulling image \"ghcr.io/octo/gcc:12\": ErrImagePull: rpc error: code = NotFound \
         desc = failed to resolve reference \"ghcr.io/octo/gcc:12\": ghcr.io/octo/gcc:12: not found");
    an_image_on_docker_hub_that_is_missing_or_private: waiting("ErrImagePull",
        "failed to pull and unpack image \"docker.io/octo/gcc:12\": failed to resolve reference \
         \"docker.io/octo/gcc:12\": pull access denied, repository does not exist or may require \
         authorization: server message: insufficient_scope: authorization failed");
    an_image_that_needs_credentials: waiting("ErrImagePull",
        "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to \
         https://ghcr.io/token: 401 Unauthorized");
    a_registry_that_limits_pulls: waiting("ErrImagePull",
        "toomanyrequests: You have reached your unauthenticated pull rate limit.");
    a_registry_that_does_not_answer: waiting("ErrImagePull",
        "failed to do request: Head \"https://ghcr.io/v2/octo/gcc/manifests/12\": dial tcp \
         10.0.0.1:443: i/o timeout");
    a_registry_whose_name_is_unknown: waiting("ErrImagePull",
        "failed to do request: Head \"https://gchr.io/v2/octo/gcc/manifests/12\": dial tcp: lookup \
         gchr.io: no such host");
    an_invalid_image_name: waiting("InvalidImageName",
        "Failed to apply default image tag \"Octo/Gcc:12\": couldn't parse image name: repository \
         name must be lowercase");
    an_image_for_another_architecture: waiting("ErrImagePull",
        "no match for platform in manifest: not found");
    a_pull_that_fails_in_an_unknown_way: waiting("ImagePullBackOff",
        "Back-off pulling image \"ghcr.io/octo/gcc:12\"");
    a_secret_that_the_container_needs_and_that_is_missing: waiting("CreateContainerConfigError",
        "secret \"registry-token\" not found");
    an_image_that_runs_as_root_where_it_must_not: waiting("CreateContainerConfigError",
        "container has runAsNonRoot and image will run as root (pod: \"runner-1-workflow_ci(1)\", \
         container: job)");
    a_runtime_that_cannot_create_the_container: waiting("CreateContainerError",
        "failed to reserve container name \"job_runner-1-workflow_ci\": name is reserved");
    a_runtime_that_cannot_mount_an_image: waiting("CreateContainerError",
        "failed to generate container \"x\" spec: failed to mkdir \"\": mkdir : no such file");
    a_container_that_is_being_created: waiting("ContainerCreating", "");

    a_job_container_out_of_memory: ended("job",
        &json!({"exitCode": 137, "reason": "OOMKilled"}));
    a_service_that_exits: ended("redis", &json!({"exitCode": 1, "reason": "Error",
        "message": "*** FATAL CONFIG FILE ERROR ***\n##[error]bad directive\n::error::x"}));
    a_service_that_never_became_healthy: with_health_check(ended("redis", &json!({"exitCode": 0,
        "reason": "Completed", "startedAt": "2026-11-21T07:25:47Z",
        "finishedAt": "2026-11-21T07:26:21Z"})));
    a_service_with_a_health_check_that_exits_early: with_health_check(ended("redis",
        &json!({"exitCode": 1, "reason": "Error", "startedAt": "2026-11-21T07:25:47Z",
                "finishedAt": "2026-11-21T07:25:49Z"})));
    a_supervisor_that_cannot_start: ended("job", &json!({"exitCode": 128, "reason": "StartError",
        "message": "failed to create containerd task: runc create failed: unable to start container \
                    process: exec: \"/__hook/arc-hook\": permission denied"}));
    a_supervisor_of_another_architecture: ended("job", &json!({"exitCode": 128,
        "reason": "StartError", "message": "exec /__hook/arc-hook: exec format error"}));
    a_job_container_whose_node_lost_track_of_it: ended("job",
        &json!({"exitCode": 137, "reason": "ContainerStatusUnknown",
                "message": "The container could not be located when the pod was terminated"}));

    an_own_volume_that_could_not_be_filled: filled_by(
        &json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "Error: copy this \
                program to `/__work/hook/arc-hook`: No space left on device"}}),
        &json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \
                \"/__hook/arc-hook\": stat /__hook/arc-hook: no such file or directory"}}));
    programs_that_could_not_be_copied_beside_a_job: filled_by(
        &json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), &json!({"running": {}}));

    a_pod_that_fits_no_node_now: unschedulable(
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No \
         preemption victims found for incoming pod.");
    a_pod_that_is_larger_than_its_node: unschedulable(
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node \
         affinity/selector. no new claims to deallocate, preemption: 0/2 nodes are available: 2 \
         Preemption is not helpful for scheduling.");
    a_node_that_is_not_ready_yet: unschedulable(
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.");
    a_pod_whose_node_has_other_labels: unschedulable(
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: \
         0/3 nodes are available: 3 Preemption is not helpful for scheduling.");
    a_parent_on_another_node_than_the_work_volume: unschedulable(
        "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) \
         didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/2 \
         nodes are available: 2 Preemption is not helpful for scheduling.");
    a_pod_that_fits_one_node_which_is_full: unschedulable(
        "0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't match Pod's node \
         affinity/selector.");
    a_claim_that_does_not_exist: unschedulable(
        "0/1 nodes are available: persistentvolumeclaim \"cache\" not found. not found");
    a_claim_that_is_being_made: unschedulable(
        "0/1 nodes are available: waiting for ephemeral volume controller to create the \
         persistentvolumeclaim \"runner-1-workflow-conan-home\".");
    a_claim_that_is_not_bound_as_far_as_arcs_role_shows: unschedulable(
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found");
    a_clone_whose_parent_is_missing: unschedulable(
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        one_event("PersistentVolumeClaim", "runner-1-workflow-conan-home",
            "ProvisioningFailed", "failed to provision volume with StorageClass \"openebs-zfspv\": \
             error getting handle for DataSource Type PersistentVolumeClaim by Name \
             gcc12-toolchain-main: error getting PVC gcc12-toolchain-main (namespace \"ci\") from \
             api server: persistentvolumeclaims \"gcc12-toolchain-main\" not found");
    a_clone_of_another_size_than_its_parent: unschedulable(
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        one_event("PersistentVolumeClaim", "runner-1-workflow-conan-home",
            "ProvisioningFailed", "failed to provision volume with StorageClass \"openebs-zfspv\": \
             rpc error: code = Internal desc = clone: volume size is not matching");
    a_volume_whose_config_map_is_missing: waiting("ContainerCreating", ""),
        one_event("Pod", "runner-1-workflow", "FailedMount",
            "MountVolume.SetUp failed for volume \"settings\" : configmap \"settings\" not found");
    a_volume_that_another_pod_has_mounted: waiting("ContainerCreating", ""),
        one_event("Pod", "runner-1-workflow", "FailedMount",
            "MountVolume.SetUp failed for volume \"pvc-1\" : rpc error: verifyMount: device already \
             mounted at [/var/lib/kubelet/pods/1]");

    an_evicted_pod: pod(json!({"phase": "Failed", "reason": "Evicted",
        "message": "The node was low on resource: ephemeral-storage.",
        "conditions": [{"type": "DisruptionTarget", "status": "True",
                        "reason": "TerminationByKubelet",
                        "message": "The node was low on resource: ephemeral-storage."}]}));
    a_preempted_pod: pod(json!({"phase": "Running",
        "conditions": [{"type": "DisruptionTarget", "status": "True",
                        "reason": "PreemptionByScheduler",
                        "message": "default-scheduler: preempting to accommodate a higher priority \
                                    pod"}]}));
    a_drained_node: pod(json!({"phase": "Running",
        "conditions": [{"type": "DisruptionTarget", "status": "True",
                        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}]}));
    a_node_that_is_gone: pod(json!({"phase": "Failed",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                        "message": "PodGC: node no longer exists"}]}));
    a_node_that_has_not_been_heard_of_for_a_while: pod(json!({"phase": "Running",
        "conditions": [scheduled(), {"type": "Ready", "status": "False"},
                       {"type": "ContainersReady", "status": "True"}],
        "containerStatuses": [
            {"name": "job", "image": "gcc", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {}}},
            {"name": "redis", "image": "redis", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {}}}
        ]}));
    a_node_that_stopped_reporting: pod(json!({"phase": "Unknown"}));
    a_node_without_room: pod(json!({"phase": "Failed", "reason": "OutOfcpu",
        "message": "Pod was rejected: Node didn't have enough resource: cpu, requested: 4000, used: \
                    1000, capacity: 2000"}));
    a_deadline_that_passed: pod(json!({"phase": "Failed", "reason": "DeadlineExceeded",
        "message": "Pod was active on the node longer than the specified deadline"}));
    a_pod_whose_containers_run_and_are_ready: pod(json!({"phase": "Running",
        "conditions": [scheduled()],
        "containerStatuses": [
            {"name": "job", "image": "gcc", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {}}},
            {"name": "redis", "image": "redis", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {}}}
        ]}));
    a_service_that_is_not_ready_yet: pod(json!({"phase": "Running",
        "conditions": [scheduled()],
        "containerStatuses": [
            {"name": "job", "image": "gcc", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {}}},
            {"name": "redis", "image": "redis", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"running": {}}}
        ]}));
}

#[test]
fn a_pod_that_vanished_was_deleted_by_someone() {
    insta::assert_snapshot!(deleted(None));
}

#[test]
fn time_that_is_up_names_what_was_awaited() {
    let services = ["redis".to_owned()];
    let told = |pod: Option<&Pod>| {
        timed_out(
            pod,
            subject(&services),
            &Evidence::Withheld,
            Duration::from_mins(10),
        )
        .to_string()
    };
    let told = [
        told(Some(&unschedulable(
            "0/1 nodes are available: 1 Insufficient cpu.",
        ))),
        told(Some(&waiting("ContainerCreating", ""))),
        told(Some(&pod(json!({"phase": "Pending"})))),
        told(None),
    ]
    .join("\n\n");
    insta::assert_snapshot!(told);
}

fn refused(code: u16, reason: &str, message: &str) -> String {
    let attempt = Attempt {
        verb: "create",
        resource: "pods",
        namespace: "ci".to_owned(),
    };
    let explanation = refusal(&attempt, &Status::failure(message, reason).with_code(code));
    format!("{}\n{explanation}", explanation.title)
}

macro_rules! refusals {
    ($($name:ident: $code:expr, $reason:expr, $message:expr;)*) => {
        $(
            #[test]
            fn $name() {
                insta::assert_snapshot!(refused($code, $reason, $message));
            }
        )*
    };
}

refusals! {
    a_right_that_the_role_lacks: 403, "Forbidden",
        "pods is forbidden: User \"system:serviceaccount:ci:runner-gha-rs-kube-mode\" cannot create \
         resource \"pods\" in API group \"\" in the namespace \"ci\"";
    a_quota_that_is_used_up: 403, "Forbidden",
        "pods \"runner-1-workflow\" is forbidden: exceeded quota: jobs, requested: pods=1, used: \
         pods=10, limited: pods=10";
    a_quota_that_needs_limits: 403, "Forbidden",
        "pods \"runner-1-workflow\" is forbidden: failed quota: jobs: must specify limits.cpu for: \
         job,redis";
    a_limit_range: 403, "Forbidden",
        "pods \"runner-1-workflow\" is forbidden: maximum memory usage per Container is 1Gi, but \
         limit is 2Gi";
    a_pod_security_level: 403, "Forbidden",
        "pods \"runner-1-workflow\" is forbidden: violates PodSecurity \"restricted:latest\": \
         allowPrivilegeEscalation != false (container \"job\" must set \
         securityContext.allowPrivilegeEscalation=false)";
    an_admission_webhook_that_denies: 400, "",
        "admission webhook \"validate.kyverno.svc-fail\" denied the request: \n\nresource Pod/ci/x \
         was blocked due to the following policies\n\ndisallow-latest-tag:\n  use a tag";
    an_admission_webhook_that_is_down: 500, "InternalError",
        "Internal error occurred: failed calling webhook \"pods.policy.example.com\": failed to \
         call webhook: Post \"https://policy.policy.svc:443/pods?timeout=10s\": dial tcp \
         10.96.0.20:443: connect: connection refused";
    an_admission_policy_that_denies: 422, "Invalid",
        "pods \"runner-1-workflow\" is forbidden: ValidatingAdmissionPolicy 'job-pods' with binding \
         'job-pods' denied request: host paths are not allowed";
    our_own_admission_policy_that_denies: 403, "Forbidden",
        "pods \"runner-1-workflow\" is forbidden: ValidatingAdmissionPolicy 'arc-hook-pods' with \
         binding 'arc-hook-pods' denied request: the pod must not use another service account";
    a_service_account_that_is_missing: 403, "Forbidden",
        "pods \"runner-1-workflow\" is forbidden: error looking up service account ci/builder: \
         serviceaccount \"builder\" not found";
    a_namespace_that_is_missing: 404, "NotFound", "namespaces \"ci\" not found";
    a_namespace_that_goes_away: 403, "Forbidden",
        "pods \"x\" is forbidden: unable to create new content in namespace ci because it is being \
         terminated";
    an_unknown_field: 400, "BadRequest",
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \
         \"spec.containers[0].imagePullPolice\"";
    an_invalid_field: 422, "Invalid",
        "Pod \"runner-1-workflow\" is invalid: spec.containers[1].name: Invalid value: \"Redis\": a \
         lowercase RFC 1123 label must consist of lower case alphanumeric characters";
    credentials_that_are_unknown: 401, "Unauthorized", "Unauthorized";
    an_answer_that_nobody_foresaw: 418, "Teapot", "short and stout";
}
