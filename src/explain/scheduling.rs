//! Why the scheduler finds no node.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::pod::{condition, hint};
use super::{Evidence, Explanation, Judgement, SHORT_GRACE, events, quote};

/// Judges a pod that has no node. `None` when it has one, or nothing was said yet.
pub(super) fn judge(pod: &Pod, evidence: &Evidence) -> Option<Judgement> {
    let status = pod.status.as_ref()?;
    let condition = condition(status, "PodScheduled").filter(|found| found.status == "False")?;
    if condition.reason.as_deref() == Some("SchedulingGated") {
        return Some(Judgement::Waiting(Some(Explanation::new(
            "Scheduling gated",
            "a scheduling gate holds the pod back",
            "see that the controller that owns the gate runs",
        ))));
    }
    let whole = condition.message.as_deref().unwrap_or_default();
    let message = reasons(whole);
    let quoted = quote(message);
    let pinned = pod.spec.as_ref().is_some_and(pinned);

    if message.contains("waiting for ephemeral volume controller") {
        return Some(Judgement::Waiting(None));
    }
    if let Some(claim) = missing_claim(message) {
        return Some(Judgement::Failing(
            Explanation::new(
                "Claim missing",
                format!("PersistentVolumeClaim `{claim}` does not exist"),
                "create it, or correct the volume in the hook template",
            ),
            SHORT_GRACE,
        ));
    }
    if message.contains("unbound immediate PersistentVolumeClaims")
        || message.contains("didn't find available persistent volumes")
    {
        // The claim's events say why; without them this is all there is.
        return Some(events::judge(evidence).unwrap_or_else(|| {
            Judgement::Waiting(Some(Explanation::new(
                "Claim not bound",
                format!("a volume of the pod is not bound yet{}: {quoted}", hint(evidence)),
                "look at the claims with `kubectl describe pvc`: the storage class, the parent of a \
                 clone and its size, the room in the pool",
            )))
        }));
    }
    // A pod that is tied to one node is not helped by a new one; and neither the labels nor the size
    // of the one it is tied to change by waiting.
    if pinned && hopeless(whole, message) {
        let explanation = if message.contains("Insufficient") {
            Explanation::new(
                "Larger than its node",
                format!("the pod asks for more than the runner's node has at all: {quoted}"),
                "ask for less in the hook template or in `options:`, or run the runners on larger \
                 nodes: the job must run beside its runner, whose work volume it shares",
            )
        } else {
            let (title, remedy) = remedy(message, pinned);
            Explanation::new(title, format!("no node takes the pod: {quoted}"), remedy)
        };
        return Some(Judgement::Failing(explanation, SHORT_GRACE));
    }
    let (title, remedy) = remedy(message, pinned);
    Some(Judgement::Waiting(Some(Explanation::new(
        title,
        format!("no node takes the pod: {quoted}"),
        remedy,
    ))))
}

/// The scheduler's reasons without what its last resorts add: preemption, and the release of
/// devices, say in other words that they could not help.
fn reasons(whole: &str) -> &str {
    let end = [
        " no new claims to deallocate",
        " preemption: ",
        ". not found",
    ]
    .iter()
    .filter_map(|mark| whole.find(mark))
    .min();
    end.map_or(whole, |end| &whole[..end])
}

/// Whether every node is too small, or not the one: not even an empty cluster would take the pod.
fn hopeless(whole: &str, message: &str) -> bool {
    let Some((total, reasons)) = message
        .strip_prefix("0/")
        .and_then(|rest| rest.split_once(" nodes are available: "))
    else {
        return false;
    };
    let known = reasons.trim_end_matches('.').split(", ").all(|reason| {
        reason.contains(" Insufficient ")
            || reason.ends_with(" node(s) didn't match Pod's node affinity/selector")
            || volume_elsewhere(reason)
    });
    known
        && whole.contains(&format!(
            " {total} Preemption is not helpful for scheduling"
        ))
}

/// A bound volume never moves. Older versions of Kubernetes call it a conflict.
fn volume_elsewhere(reason: &str) -> bool {
    reason.contains("node(s) didn't match PersistentVolume's node affinity")
        || reason.contains("node(s) had volume node affinity conflict")
}

fn remedy(message: &str, pinned: bool) -> (&'static str, String) {
    if message.contains("Insufficient") || message.contains("Too many pods") {
        let remedy = if pinned {
            "the job must run beside its runner, whose work volume it shares: ask for less in the \
             hook template, or keep room on the nodes by giving runners a request of the job's size"
        } else {
            "ask for less in the hook template, or give the cluster more room"
        };
        return ("Not enough room", remedy.to_owned());
    }
    // Before the affinity, which the other nodes are passed over for.
    if volume_elsewhere(message) {
        return (
            "Volume on another node",
            "a volume of the pod lives on another node than the runner: tie the runner pods to that \
             node with a `nodeSelector`"
                .to_owned(),
        );
    }
    if message.contains("node affinity/selector") {
        let remedy = if pinned {
            "the job must run beside its runner, whose work volume it shares: give the runner pods \
             the same `nodeSelector` and `affinity` as the hook template"
        } else {
            "correct `nodeSelector` or `affinity` in the hook template"
        };
        return ("No node fits", remedy.to_owned());
    }
    if message.contains("untolerated taint") {
        return (
            "Nodes are tainted",
            "add `tolerations` to the hook template, the same as the runner pods have".to_owned(),
        );
    }
    if message.contains("free ports") {
        return (
            "Port taken",
            "another pod of the node has that host port: leave the host part out of `ports:`"
                .to_owned(),
        );
    }
    if message.contains("enough free storage") {
        return (
            "Storage is full",
            "free space in the storage pool, ask for a smaller volume, or use a storage class with \
             `volumeBindingMode: Immediate`"
                .to_owned(),
        );
    }
    (
        "Pod cannot be scheduled",
        "change what the scheduler names, in the hook template or on the nodes".to_owned(),
    )
}

/// Whether the spec names one node.
fn pinned(spec: &PodSpec) -> bool {
    let terms = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    terms.is_some_and(|terms| {
        terms.node_selector_terms.iter().all(|term| {
            let labels = term.match_expressions.iter().flatten();
            let fields = term.match_fields.iter().flatten();
            labels.chain(fields).any(|need| {
                matches!(
                    need.key.as_str(),
                    "kubernetes.io/hostname" | "metadata.name"
                ) && need.operator == "In"
            })
        })
    })
}

fn missing_claim(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("persistentvolumeclaim \"")?;
    let (claim, rest) = rest.split_once('"')?;
    rest.starts_with(" not found").then_some(claim)
}
