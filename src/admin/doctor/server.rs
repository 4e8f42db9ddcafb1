//! The API server: its clock, and what this version of Kubernetes has.

use super::Check;
use super::facts::{Fact, Facts};
use crate::pod::externals;

/// From here on times in logs mislead.
const SKEW: i64 = 5;
/// From here on tokens and deadlines are wrong.
const GREAT_SKEW: i64 = 60;

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    let mut checks = version(facts);
    if !matches!(facts.version, Fact::Hidden(_)) {
        checks.push(clock(facts));
    }
    checks
}

fn clock(facts: &Facts) -> Check {
    const NAME: &str = "server/clock";
    const REMEDY: &str = "synchronise the clocks of this machine and of the control plane by NTP";
    match &facts.ahead {
        Fact::Hidden(why) => Check::unknown(NAME, format!("no time from the API server: {why}")),
        Fact::Absent => Check::unknown(NAME, "the API server's answers bear no date"),
        Fact::Known(ahead) => {
            let found = format!(
                "the API server's clock is {} s {} ours",
                ahead.abs(),
                if *ahead < 0 { "behind" } else { "ahead of" }
            );
            match ahead.abs() {
                GREAT_SKEW.. => Check::fail(NAME, found, REMEDY),
                SKEW.. => Check::warn(NAME, found, REMEDY),
                _ => Check::pass(NAME, found),
            }
        }
    }
}

fn version(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "server/version";
    let (major, minor) = match &facts.version {
        Fact::Known(version) => *version,
        Fact::Absent => return vec![Check::unknown(NAME, "the API server tells no version")],
        Fact::Hidden(why) => {
            return vec![Check::fail(
                NAME,
                format!("the API server does not answer: {why}"),
                "see that it runs, that the kubeconfig names it, and that network policies let \
                 the runner's pod reach it",
            )];
        }
    };
    let at_least = |wanted: u32| major > 1 || minor >= wanted;
    let told = format!("Kubernetes {major}.{minor}");
    let available = |is: bool, what: &str, since: &str, otherwise: &str| {
        if is {
            format!("available, {told} has {what} by default")
        } else {
            format!("not available, {told} is older than {since}: {otherwise}")
        }
    };
    let mut checks = Vec::new();
    if at_least(30) {
        checks.push(Check::pass(NAME, told.clone()));
    } else {
        checks.push(Check::warn(
            NAME,
            format!("{told} has no ValidatingAdmissionPolicy"),
            "move to Kubernetes 1.30 or later: before it nothing confines what the runner's \
             account creates",
        ));
    }
    let node = facts.node.known().and_then(|node| node.status.as_ref());
    let node = node.and_then(|status| status.node_info.as_ref());
    checks.push(Check::pass(
        "server/image-volumes",
        match node {
            Some(node) if externals::can_mount(node) => format!(
                "available, the runner's node has {}: node and the like are mounted out of the \
                 runner's image where its account may `get` its node, or with \
                 `ARC_HOOK_EXTERNALS=image`",
                node.container_runtime_version
            ),
            Some(node) => format!(
                "not available: the runner's node has Kubernetes {} and {}, images as volumes take \
                 1.35 and containerd 2.1; node and the like are copied beside the starting job",
                node.kubelet_version.trim_start_matches('v'),
                node.container_runtime_version
            ),
            None => available(
                at_least(35),
                "images as volumes",
                "1.35",
                "node and the like are copied beside the starting job",
            ),
        },
    ));
    checks.push(Check::pass(
        "server/in-place-resize",
        available(
            at_least(33),
            "resize of running pods",
            "1.33",
            "a job that is kept holds its CPU request",
        ),
    ));
    checks
}
