//! The hook template: whether it can be used, and by whom its jobs run.

use super::Check;
use super::facts::{Fact, Facts};
use crate::pod::{RunAs, Template};

const RUN_AS: &str = "metadata:\n  annotations:\n    arc-hook/run-as: runner";

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "template/file";
    let place = &facts.template_place;
    let template = match &facts.template {
        Fact::Known(Ok(template)) => template,
        Fact::Known(Err(why)) => {
            return vec![Check::fail(
                NAME,
                format!("{place} cannot be used: {why}"),
                "correct that place; `arc-hook render` shows what a template comes to",
            )];
        }
        Fact::Absent => {
            let mut checks = vec![
                Check::fail(
                    NAME,
                    format!("{place} does not exist"),
                    "apply a ConfigMap with a hook template; hook-templates/minimal.yaml is one",
                )
                .change(
                    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  \
                     name: github-arc-container-hooks\ndata:\n  content: |\n    metadata:\n      \
                     annotations:\n        arc-hook/run-as: runner",
                ),
            ];
            if place.is_empty() {
                checks.clear();
            }
            return checks;
        }
        Fact::Hidden(why) => {
            return vec![Check::unknown(
                NAME,
                format!("{place} cannot be read: {why}"),
            )];
        }
    };
    let mut checks = vec![Check::pass(NAME, format!("{place} can be read"))];
    for name in &template.settings().unknown {
        checks.push(Check::warn(
            "template/annotations",
            format!("annotation `{name}` is unknown to this version"),
            "correct its name, or take it out",
        ));
    }
    checks.push(user(facts, template));
    checks.extend(group(facts, template));
    checks.extend(verdict(facts));
    checks
}

/// Runner, job and actions must be able to change each other's files.
fn user(facts: &Facts, template: &Template) -> Check {
    const NAME: &str = "template/user";
    let Some(runner) = facts.identity() else {
        return Check::unknown(NAME, "who the runner runs as is not known");
    };
    let uid = runner.uid;
    let set = match template.settings().run_as {
        Some(RunAs::Runner) => None,
        Some(RunAs::Fixed { uid, .. }) => Some(u64::from(uid)),
        Some(RunAs::Image) => {
            return Check::warn(
                NAME,
                format!(
                    "jobs run as the users of their images and the runner as {uid}: neither may \
                     change the other's files where they differ"
                ),
                "let jobs and actions run as the runner's user",
            )
            .change(RUN_AS);
        }
        None => match of_job(template, "runAsUser") {
            Some(uid) => Some(uid),
            None => {
                return Check::warn(
                    NAME,
                    format!(
                        "the template does not say who jobs run as: it is the users of their \
                         images, and the runner is {uid}"
                    ),
                    "let jobs and actions run as the runner's user",
                )
                .change(RUN_AS);
            }
        },
    };
    match set {
        Some(set) if set != u64::from(uid) => Check::fail(
            NAME,
            format!(
                "jobs run as user {set} and the runner as {uid}: the runner cannot remove what \
                 they leave, and they cannot change what it checks out"
            ),
            "let jobs and actions run as the runner's user, whoever that is",
        )
        .change(RUN_AS),
        _ => Check::pass(
            NAME,
            format!("runner, jobs and container actions run as user {uid}"),
        ),
    }
}

/// A number of the security context of `$job`, else of the pod's.
fn of_job(template: &Template, key: &str) -> Option<u64> {
    let job = template
        .containers("containers")
        .find(|(name, _)| *name == "$job")
        .and_then(|(_, job)| job.get("securityContext"));
    let pod = template.spec().and_then(|spec| spec.get("securityContext"));
    [job, pod]
        .into_iter()
        .flatten()
        .find_map(|context| context.get(key)?.as_u64())
}

/// A clone inherits its parent's group; another `fsGroup` has every file of it rewritten.
fn group(facts: &Facts, template: &Template) -> Option<Check> {
    const NAME: &str = "template/fs-group";
    let runner = facts.identity()?;
    let context = template.spec()?.get("securityContext")?;
    let group = context.get("fsGroup")?.as_u64()?;
    let policy = context
        .get("fsGroupChangePolicy")
        .and_then(|one| one.as_str());
    let change = format!(
        "spec:\n  securityContext:\n    fsGroup: {}\n    fsGroupChangePolicy: OnRootMismatch",
        runner.gid
    );
    if group != u64::from(runner.gid) {
        return Some(
            Check::warn(
                NAME,
                format!(
                    "volumes are given to group {group} and the runner's is {}: each clone is \
                     walked and rewritten before a job starts",
                    runner.gid
                ),
                "give volumes to the group that their parents belong to",
            )
            .change(change),
        );
    }
    Some(if policy == Some("OnRootMismatch") {
        Check::pass(
            NAME,
            format!("volumes belong to the runner's group {group}"),
        )
    } else {
        Check::warn(
            NAME,
            "the kubelet walks all files of every volume before each job",
            "let it look at the root only",
        )
        .change(change)
    })
}

fn verdict(facts: &Facts) -> Option<Check> {
    const NAME: &str = "template/dry-run";
    Some(match &facts.dry_run {
        Fact::Known(Ok(())) => Check::pass(NAME, "the API server accepts the pod of a job"),
        Fact::Known(Err(why)) => Check::fail(
            NAME,
            format!("no job can start: {why}"),
            "correct what is named; `arc-hook render --server` asks again",
        ),
        Fact::Absent => return None,
        Fact::Hidden(why) => Check::unknown(NAME, format!("the pod of a job was not tried: {why}")),
    })
}
