//! A pod's own words: phase, conditions, containers.

use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodCondition, PodStatus};

use super::disruption::{by_pod_reason, by_reason, disruption, node_silent};
use super::{EVENTS_HINT, Evidence, Explanation, Judgement, container, events, quote, scheduling};
use crate::pod::{self, names::JOB_CONTAINER};

/// What the hook waits for in a pod.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The container that runs the steps.
    pub container: &'a str,
    /// Containers that must not end before the first step.
    pub services: &'a [String],
    /// The container's program is the step itself, and its end no failure of the pod.
    pub may_end: bool,
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
    if subject.may_end && has_started(pod, subject.container) {
        return Judgement::Running;
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
    if let Some(explanation) = node_silent(pod, status) {
        worst = worse(worst, Judgement::Waiting(Some(explanation)));
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

/// Why a pod whose container was told to end is going, while its object is still there.
#[must_use]
pub fn ending(pod: &Pod) -> Explanation {
    let status = pod.status.as_ref();
    status
        .and_then(|status| disruption(status).or_else(|| by_reason(pod, status)))
        .unwrap_or_else(|| match deadline(pod) {
            Some(explanation) => explanation,
            None => deleted(Some(pod)),
        })
}

/// The kubelet sends the signal for a passed deadline before it says so in the status.
fn deadline(pod: &Pod) -> Option<Explanation> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    (pod.metadata.deletion_timestamp.is_none()).then(|| {
        Explanation::new(
            "Deadline exceeded",
            format!("its node ended it, probably for its `activeDeadlineSeconds` of {seconds} s"),
            "raise or remove `activeDeadlineSeconds` in the hook template",
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
        if condition.status != good {
            let reason = condition.reason.as_deref();
            lines.push(format!(
                "condition {}={}{}{}",
                condition.type_,
                condition.status,
                reason.map_or_else(String::new, |reason| format!(": {reason}")),
                said(condition.message.as_deref())
            ));
        }
    }
    for (state, _) in statuses(&status) {
        lines.push(container::fact(pod, state));
    }
    match evidence {
        Evidence::Events(found) => {
            const LAST: usize = 8;
            let skipped = found.len().saturating_sub(LAST);
            lines.extend(found.iter().skip(skipped).map(event));
        }
        Evidence::Withheld => lines.push(format!("events: not known, {EVENTS_HINT}")),
        Evidence::Unknown => lines.push("events: not known, nobody answered".to_owned()),
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

/// Names of the containers whose log may tell why the pod is not ready.
#[must_use]
pub fn unwell(pod: &Pod, subject: Subject<'_>) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    statuses(status)
        .filter(|(state, init)| {
            let failed = container::exit_code(state).is_some_and(|code| code != 0 || !init);
            (*init || subject.counts(&state.name))
                && container::started(state)
                && (failed || !(*init || state.ready))
        })
        .map(|(state, _)| state.name.clone())
        .collect()
}

/// How a program stands that runs as a container of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It has not ended.
    None,
    /// It exited, and what there is to say about that beside the code.
    Exited(i32, Option<Explanation>),
    /// It was ended from outside, so its exit code says nothing: a program that obeys SIGTERM
    /// exits with 0.
    Dead(Explanation),
}

/// How the program in a container ended. Success is what Kubernetes recorded as such, and nothing
/// else.
#[must_use]
pub fn end(pod: &Pod, container: &str) -> End {
    if pod.metadata.deletion_timestamp.is_some() {
        return End::Dead(deleted(Some(pod)));
    }
    let Some(status) = &pod.status else {
        return End::None;
    };
    if let Some(explanation) = disruption(status).or_else(|| by_reason(pod, status)) {
        return End::Dead(explanation);
    }
    let found = status
        .container_statuses
        .iter()
        .flatten()
        .find(|status| status.name == container);
    let Some((found, code)) = found.and_then(|found| Some((found, container::exit_code(found)?)))
    else {
        return End::None;
    };
    let Judgement::Dead(explanation) = container::judge(pod, found, false, true) else {
        return End::None;
    };
    match container::end_reason(found) {
        "ContainerStatusUnknown" => End::Dead(explanation),
        "OOMKilled" | "StartError" | "ContainerCannotRun" => End::Exited(code, Some(explanation)),
        _ => End::Exited(code, None),
    }
}

/// Whether a container runs, or ran.
#[must_use]
pub fn has_started(pod: &Pod, container: &str) -> bool {
    pod.status
        .iter()
        .flat_map(statuses)
        .filter(|(status, _)| status.name == container)
        .any(|(status, _)| container::started(status))
}

/// Whether the containers of these names are ready.
#[must_use]
pub fn all_ready(pod: &Pod, names: &[String]) -> bool {
    pod.status
        .as_ref()
        .is_some_and(|status| names.iter().all(|name| ready(status, name)))
}

/// Every container's status; `true` for those whose work the job's container needs to start.
fn statuses(status: &PodStatus) -> impl Iterator<Item = (&ContainerStatus, bool)> {
    let init = status.init_container_statuses.iter().flatten();
    let main = || status.container_statuses.iter().flatten();
    let ran = main().any(|state| {
        let could_not =
            ["StartError", "ContainerCannotRun"].contains(&container::end_reason(state));
        state.name == JOB_CONTAINER && container::started(state) && !could_not
    });
    init.map(|state| (state, true))
        .chain(main().map(move |state| (state, !ran && pod::fills(&state.name))))
}

fn all_started(status: &PodStatus, subject: Subject<'_>) -> bool {
    ready(status, subject.container) && subject.services.iter().all(|name| ready(status, name))
}

fn ready(status: &PodStatus, name: &str) -> bool {
    status
        .container_statuses
        .iter()
        .flatten()
        .any(|state| state.name == name && state.ready)
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

/// `: message`, or nothing.
pub(super) fn said(message: Option<&str>) -> String {
    message
        .map(str::trim)
        .filter(|message| !message.is_empty())
        .map_or_else(String::new, |message| format!(": {}", quote(message)))
}

pub(super) fn hint(evidence: &Evidence) -> String {
    match evidence {
        Evidence::Withheld => format!(" ({EVENTS_HINT})"),
        Evidence::Unknown | Evidence::Events(_) => String::new(),
    }
}
