//! A pod that is ended from outside: by its node, the scheduler, or a drain.

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::Explanation;
use super::pod::{condition, said};

/// Someone ends the pod, and Kubernetes says who (condition `DisruptionTarget`).
pub(super) fn disruption(status: &PodStatus) -> Option<Explanation> {
    let condition = condition(status, "DisruptionTarget").filter(|found| found.status == "True")?;
    let said = said(condition.message.as_deref());
    let again = "run the job again";
    let explanation = match condition.reason.as_deref().unwrap_or_default() {
        "PreemptionByScheduler" => Explanation::new(
            "Pod preempted",
            format!("a pod of higher priority took its place{said}"),
            "give job pods a `priorityClassName` in the hook template, or the cluster more room",
        ),
        "DeletionByTaintManager" => Explanation::new(
            "Node tainted",
            format!("the node was tainted so that pods must leave it{said}"),
            format!("look at what happened to the node, then {again}"),
        ),
        "EvictionByEvictionAPI" => Explanation::new(
            "Pod evicted",
            format!("the pod was evicted, as when a node is drained{said}"),
            format!(
                "{again}; keep autoscalers away from running jobs with the annotation \
                 `cluster-autoscaler.kubernetes.io/safe-to-evict: \"false\"` or a \
                 PodDisruptionBudget"
            ),
        ),
        "DeletionByPodGC" => Explanation::new(
            "Node gone",
            format!("the pod's node no longer exists{said}"),
            format!("look for why the node went (a spot instance, an autoscaler), then {again}"),
        ),
        // The pod's own reason tells eviction for resources from a shutdown of the node.
        "TerminationByKubelet" => by_pod_reason(status).unwrap_or_else(|| {
            Explanation::new(
                "Pod ended by its node",
                format!("the node ended the pod{said}"),
                format!("look at the node's memory, disk, and shutdowns, then {again}"),
            )
        }),
        other => Explanation::new(
            "Pod disrupted",
            format!("the pod is being ended ({other}){said}"),
            again,
        ),
    };
    Some(explanation)
}

pub(super) fn by_reason(pod: &Pod, status: &PodStatus) -> Option<Explanation> {
    if status.phase.as_deref() == Some("Unknown") {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        return Some(node_lost(node));
    }
    by_pod_reason(status)
}

/// The node has not been heard of for a while: then, and only then, Kubernetes takes a pod for not
/// ready whose containers it takes for ready, and gives no reason (kubernetes v1.36,
/// `pkg/controller/util/node/controller_utils.go`). The node may come back.
pub(super) fn node_silent(pod: &Pod, status: &PodStatus) -> Option<Explanation> {
    let is = |kind: &str, value: &str| {
        condition(status, kind)
            .is_some_and(|condition| condition.status == value && condition.reason.is_none())
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    (is("Ready", "False") && is("ContainersReady", "True")).then(|| node_lost(node))
}

fn node_lost(node: Option<&str>) -> Explanation {
    Explanation::new(
        "Node lost",
        format!(
            "node {} stopped reporting",
            node.map_or_else(|| "of the pod".to_owned(), |node| format!("`{node}`"))
        ),
        "look at that node, then run the job again",
    )
}

pub(super) fn by_pod_reason(status: &PodStatus) -> Option<Explanation> {
    let said = said(status.message.as_deref());
    let explanation = match status.reason.as_deref()? {
        "Evicted" => Explanation::new(
            "Pod evicted",
            format!("the node evicted the pod for lack of resources{said}"),
            "give the containers in the hook template `resources` with true requests (memory, \
             ephemeral-storage), or keep large files on a volume of their own",
        ),
        "Preempting" | "Preempted" => Explanation::new(
            "Pod preempted",
            format!("the node ended the pod for one that is critical{said}"),
            "give the nodes more room, or job pods a `priorityClassName`",
        ),
        "NodeLost" => node_lost(None),
        "NodeShutdown" | "Terminated" | "Shutdown" => Explanation::new(
            "Node shut down",
            format!("the node was shut down{said}"),
            "run the job again",
        ),
        "DeadlineExceeded" => Explanation::new(
            "Deadline exceeded",
            format!("the pod ran longer than its `activeDeadlineSeconds`{said}"),
            "raise or remove `activeDeadlineSeconds` in the hook template",
        ),
        "NodeAffinity" => Explanation::new(
            "Node does not fit",
            format!("the node refused the pod for its labels{said}"),
            "correct `nodeSelector` or `affinity` in the hook template",
        ),
        reason @ ("UnexpectedAdmissionError" | "TopologyAffinityError") => Explanation::new(
            "Node refused the pod",
            format!("the node refused the pod ({reason}){said}"),
            "look at the devices and the topology policy of that node, then run the job again",
        ),
        reason if reason.starts_with("OutOf") => Explanation::new(
            "Node is full",
            format!(
                "the node refused the pod for lack of {}{said}",
                &reason["OutOf".len()..]
            ),
            "ask for less in the hook template, run fewer runners per node, or use larger nodes",
        ),
        // `Completed` and the like say nothing that the containers do not say better.
        _ => return None,
    };
    Some(explanation)
}
