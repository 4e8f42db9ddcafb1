//! A pod's own words: phase, conditions, containers.

use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodCondition, PodStatus};

use super::{EVENTS_HINT, Evidence, Explanation, Judgement, container, events, quote, scheduling};

/// What the hook waits for in a pod.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The container that runs the steps.
    pub container: &'a str,
    /// Containers that must not end before the first step.
    pub services: &'a [String],
}

impl Subject<'_> {
    fn counts(&self, name: &str) -> bool {
        name == self.container || self.services.iter().any(|service| service == name)
    }
}

/// Judges a pod that the hook waits for.
#[must_use]
pub fn judge(pod: &Pod, subject: Subject<'_>, evidence: &Evidence) -> Judgement {
    if pod.metadata.deletion_timestamp.is_some() {
        return Judgement::Dead(deleted(Some(pod)));
    }
    let Some(status) = &pod.status else {
        return Judgement::Waiting(None);
    };
    if let Some(explanation) = disruption(status).or_else(|| by_reason(pod, status)) {
        return Judgement::Dead(explanation);
    }
    let mut worst = Judgement::Running;
    for (state, init) in statuses(status) {
        let counts = init || subject.counts(&state.name);
        worst = worse(worst, container::judge(pod, state, init, counts));
    }
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
        && !matches!(worst, Judgement::Dead(_))
    {
        return Judgement::Dead(Explanation::new(
            "Pod ended",
            format!(
                "the pod is over (phase {}){}",
                status.phase.as_deref().unwrap_or_default(),
                said(status.message.as_deref())
            ),
            "run the job again; if it persists, look at the node's kubelet log",
        ));
    }
    if matches!(worst, Judgement::Running) && !all_started(status, subject) {
        worst = Judgement::Waiting(None);
    }
    // Only while containers do not exist can the scheduler or the volumes be what it waits for.
    if matches!(worst, Judgement::Waiting(_)) {
        if let Some(judgement) = scheduling::judge(pod, evidence) {
            return judgement;
        }
        if let Some(judgement) = events::judge(evidence) {
            return worse(worst, judgement);
        }
    }
    worst
}

/// The pod is gone, or on its way. `pod` is how it was last seen.
#[must_use]
pub fn deleted(pod: Option<&Pod>) -> Explanation {
    pod.and_then(|pod| pod.status.as_ref())
        .and_then(|status| disruption(status).or_else(|| by_pod_reason(status)))
        .unwrap_or_else(|| {
            Explanation::new(
                "Pod deleted",
                "the pod was deleted by someone else",
                "look in the API server's audit log, or among people and controllers that delete \
                 pods in this namespace, for who did it; then run the job again",
            )
        })
}

/// What to say when the time is up and nothing worse is known.
#[must_use]
pub fn timed_out(
    pod: Option<&Pod>,
    subject: Subject<'_>,
    evidence: &Evidence,
    after: Duration,
) -> Explanation {
    let waited = after.as_secs();
    let known = pod.map(|pod| judge(pod, subject, evidence));
    if let Some(
        Judgement::Waiting(Some(found)) | Judgement::Failing(found, _) | Judgement::Dead(found),
    ) = known
    {
        return Explanation::new(
            found.title,
            format!("not ready after {waited} s: {}", found.cause),
            found.remedy,
        );
    }
    let status = pod.and_then(|pod| pod.status.as_ref());
    let (what, remedy) = match status {
        Some(status) if matches!(known, Some(Judgement::Running)) => {
            let _ = status;
            (
                "its containers run, but the supervisor in container `job` did not report \
                 through the work volume"
                    .to_owned(),
                "see that both pods mount the same claim on a file system that shows one pod's \
                 writes to the other, and that the node's architecture is the runner's"
                    .to_owned(),
            )
        }
        Some(status) if scheduled(status) => {
            let names: Vec<_> = statuses(status)
                .filter(|(state, init)| {
                    (*init || subject.counts(&state.name)) && !container::started(state)
                })
                .map(|(state, _)| format!("`{}`", state.name))
                .collect();
            (
                format!(
                    "the kubelet is still preparing {}: an image, a volume, or the network{}",
                    if names.is_empty() {
                        "the pod".to_owned()
                    } else {
                        names.join(", ")
                    },
                    hint(evidence)
                ),
                "look at the pod's events (`kubectl describe pod`) and the kubelet's log while a job \
                 starts"
                    .to_owned(),
            )
        }
        Some(_) => (
            format!("the scheduler has not looked at it{}", hint(evidence)),
            "see that a scheduler runs and that `schedulerName` in the hook template names it"
                .to_owned(),
        ),
        None => (
            "its state could not be read".to_owned(),
            "look at the API server's health".to_owned(),
        ),
    };
    Explanation::new(
        "Pod not ready in time",
        format!("not ready after {waited} s: {what}"),
        format!("{remedy}; `ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS` sets the limit"),
    )
}

/// The facts behind an explanation, one per line.
#[must_use]
pub fn facts(pod: &Pod, evidence: &Evidence) -> Vec<String> {
    let mut lines = Vec::new();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or("none yet");
    let status = pod.status.clone().unwrap_or_default();
    let mut head = format!(
        "pod {name}: phase {}, node {node}",
        status.phase.as_deref().unwrap_or("unknown")
    );
    if let Some(reason) = &status.reason {
        let _ = write!(head, ", {reason}");
    }
    head.push_str(&said(status.message.as_deref()));
    lines.push(head);
    for condition in status.conditions.iter().flatten() {
        let good = if condition.type_ == "DisruptionTarget" {
            "False"
        } else {
            "True"
        };
        if condition.status != good && (condition.reason.is_some() || condition.message.is_some()) {
            lines.push(format!(
                "condition {}={}: {}{}",
                condition.type_,
                condition.status,
                condition.reason.as_deref().unwrap_or_default(),
                said(condition.message.as_deref())
            ));
        }
    }
    for (state, init) in statuses(&status) {
        lines.push(container::fact(state, init));
    }
    match &evidence.events {
        Some(found) => {
            const LAST: usize = 8;
            let skipped = found.len().saturating_sub(LAST);
            lines.extend(found.iter().skip(skipped).map(event));
        }
        None => lines.push(format!("events: not known, {EVENTS_HINT}")),
    }
    lines
}

fn event(event: &Event) -> String {
    let times = event.count.filter(|count| *count > 1);
    format!(
        "event {} {}{}{}",
        event.involved_object.kind.as_deref().unwrap_or_default(),
        event.reason.as_deref().unwrap_or_default(),
        times.map_or_else(String::new, |times| format!(" (x{times})")),
        said(event.message.as_deref())
    )
}

/// Every container's status; `true` for init containers.
fn statuses(status: &PodStatus) -> impl Iterator<Item = (&ContainerStatus, bool)> {
    let init = status.init_container_statuses.iter().flatten();
    let main = status.container_statuses.iter().flatten();
    init.map(|state| (state, true))
        .chain(main.map(|state| (state, false)))
}

fn all_started(status: &PodStatus, subject: Subject<'_>) -> bool {
    let ready = |name: &str| {
        status
            .container_statuses
            .iter()
            .flatten()
            .any(|state| state.name == name && state.ready)
    };
    ready(subject.container) && subject.services.iter().all(|name| ready(name))
}

fn scheduled(status: &PodStatus) -> bool {
    condition(status, "PodScheduled").is_some_and(|condition| condition.status == "True")
}

pub(super) fn condition<'s>(status: &'s PodStatus, kind: &str) -> Option<&'s PodCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

fn worse(a: Judgement, b: Judgement) -> Judgement {
    fn rank(judgement: &Judgement) -> u8 {
        match judgement {
            Judgement::Running => 0,
            Judgement::Waiting(None) => 1,
            Judgement::Waiting(Some(_)) => 2,
            Judgement::Failing(..) => 3,
            Judgement::Dead(_) => 4,
        }
    }
    if rank(&b) > rank(&a) { b } else { a }
}

/// Someone ends the pod, and Kubernetes says who (condition `DisruptionTarget`).
fn disruption(status: &PodStatus) -> Option<Explanation> {
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

fn by_reason(pod: &Pod, status: &PodStatus) -> Option<Explanation> {
    if status.phase.as_deref() == Some("Unknown") {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        return Some(node_lost(node));
    }
    by_pod_reason(status)
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

fn by_pod_reason(status: &PodStatus) -> Option<Explanation> {
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

/// `: message`, or nothing.
pub(super) fn said(message: Option<&str>) -> String {
    message
        .map(str::trim)
        .filter(|message| !message.is_empty())
        .map_or_else(String::new, |message| format!(": {}", quote(message)))
}

pub(super) fn hint(evidence: &Evidence) -> String {
    if evidence.events.is_none() {
        format!(" ({EVENTS_HINT})")
    } else {
        String::new()
    }
}
