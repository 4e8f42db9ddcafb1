//! The runner pod: what ARC and its values made of it.

use std::path::Path;

use super::Check;
use super::facts::{Fact, Facts};
use crate::config;

const HOOKS: &str = "ACTIONS_RUNNER_CONTAINER_HOOKS";
const TEMPLATE: &str = "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE";
const SHIM: &str = "/home/runner/arc-hook/index.sh";

/// Variables of this program, and the values that each takes; empty for any.
pub(super) const KNOWN: [(&str, &[&str]); 7] = [
    ("ARC_HOOK_AFFINITY", &["required", "preferred", "none"]),
    ("ARC_HOOK_LOG", &[]),
    ("ARC_HOOK_EXTERNALS", &["auto", "image", "copy"]),
    ("ARC_HOOK_METRICS_FILE", &[]),
    ("ARC_HOOK_STATE", &[]),
    ("ARC_HOOK_WORK", &["auto", "shared", "copy"]),
    ("ARC_HOOK_WORKSPACE_SYNC", &["tracked", "all", "none"]),
];

/// Where the chart's `values.yaml` has the variables of the runner's container.
fn variable(name: &str, value: &str) -> String {
    format!(
        "template:\n  spec:\n    containers:\n    - name: runner\n      env:\n      - name: {name}\n        \
         value: {value}"
    )
}

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    match &facts.runner {
        Fact::Known(_) => {}
        Fact::Absent => {
            return vec![Check::unknown(
                "runner/pod",
                format!(
                    "there is no runner pod in namespace `{}` to look at: name one with \
                     `--runner-pod`, or let the scale set make one (`minRunners: 1`)",
                    facts.namespace_name
                ),
            )];
        }
        Fact::Hidden(why) => {
            return vec![Check::unknown(
                "runner/pod",
                format!("the runner pod cannot be read: {why}"),
            )];
        }
    }
    let mut checks = vec![hooks(facts), template(facts), required(facts), name(facts)];
    checks.extend(account(facts));
    checks.extend(docker(facts));
    checks.extend(state(facts));
    checks.extend(settings(facts));
    checks.push(user(facts));
    checks
}

fn hooks(facts: &Facts) -> Check {
    const NAME: &str = "runner/hooks";
    let to_shim = || variable(HOOKS, SHIM);
    let Some(path) = facts.variable(HOOKS).filter(|path| !path.is_empty()) else {
        return Check::fail(
            NAME,
            format!("`{HOOKS}` is not set: the runner calls no hook"),
            "set it in the scale set's values, together with `containerMode.type: kubernetes`",
        )
        .change(to_shim());
    };
    if path.starts_with("/home/runner/k8s") {
        return Check::fail(
            NAME,
            format!("`{HOOKS}` is `{path}`: the official hooks run, not this one"),
            "name the shim; ARC's chart sets the official ones unless the values say otherwise",
        )
        .change(to_shim());
    }
    // actions/runner, `ContainerHookManager.cs`: any other extension is refused.
    let extension = Path::new(path).extension().and_then(|one| one.to_str());
    if !matches!(extension, Some("js" | "sh" | "ps1")) {
        return Check::fail(
            NAME,
            format!(
                "`{HOOKS}` is `{path}`: the runner takes only paths that end in .js, .sh or .ps1"
            ),
            "name the shim beside the binary, which does nothing but call it",
        )
        .change(to_shim());
    }
    match facts.own.as_ref().map(|own| &own.shim) {
        Some(Fact::Absent) => Check::fail(
            NAME,
            format!("`{HOOKS}` is `{path}`, and there is no such file in this image"),
            "use an image made by runner-image/Dockerfile",
        )
        .change(
            "template:\n  spec:\n    containers:\n    - name: runner\n      \
             image: REGISTRY/arc-hook-runner:TAG",
        ),
        Some(Fact::Hidden(why)) => Check::fail(
            NAME,
            format!("`{HOOKS}` is `{path}`, which the runner's user cannot read: {why}"),
            format!("chmod 0755 {path}, in the Dockerfile of the runner image"),
        ),
        Some(Fact::Known(text)) if !text.contains("arc-hook") => Check::warn(
            NAME,
            format!("`{HOOKS}` is `{path}`, which does not mention arc-hook"),
            "see that it ends in `exec /home/runner/arc-hook/arc-hook`, so that the runner's \
             signals arrive",
        ),
        _ => Check::pass(NAME, format!("the runner calls `{path}`")),
    }
}

fn template(facts: &Facts) -> Check {
    const NAME: &str = "runner/template";
    let Some(path) = facts.variable(TEMPLATE).filter(|path| !path.is_empty()) else {
        return Check::warn(
            NAME,
            format!("`{TEMPLATE}` is not set: jobs run as their images' users, without limits"),
            "mount a hook template (hook-templates/minimal.yaml is one) and name it",
        )
        .change(variable(TEMPLATE, "/home/runner/pod-template/content"));
    };
    let mounts = facts
        .container()
        .and_then(|container| container.volume_mounts.as_ref());
    let mounted = mounts
        .into_iter()
        .flatten()
        .any(|mount| Path::new(path).starts_with(&mount.mount_path));
    if mounted {
        Check::pass(NAME, format!("the hook template is mounted at `{path}`"))
    } else {
        Check::warn(
            NAME,
            format!("`{TEMPLATE}` is `{path}`, and nothing is mounted there"),
            "mount the ConfigMap with the hook template, unless the image has that file",
        )
        .change(
            "template:\n  spec:\n    containers:\n    - name: runner\n      volumeMounts:\n      \
             - name: container-hooks-volume\n        mountPath: /home/runner/pod-template\n        \
             readOnly: true\n    volumes:\n    - name: container-hooks-volume\n      \
             configMap: {name: github-arc-container-hooks}",
        )
    }
}

fn required(facts: &Facts) -> Check {
    const VARIABLE: &str = "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER";
    const NAME: &str = "runner/require-container";
    if facts.variable(VARIABLE).is_some_and(config::is_true) {
        return Check::pass(NAME, "jobs without `container:` are refused");
    }
    Check::warn(
        NAME,
        format!(
            "`{VARIABLE}` is not `true`: jobs without `container:` run in the runner pod itself, \
             beside its service account's token"
        ),
        "set it",
    )
    .change(variable(VARIABLE, "\"true\""))
}

fn name(facts: &Facts) -> Check {
    const VARIABLE: &str = "ACTIONS_RUNNER_POD_NAME";
    const NAME: &str = "runner/pod-name";
    let own = facts
        .runner
        .known()
        .and_then(|pod| pod.metadata.name.as_deref());
    let env = facts
        .container()
        .and_then(|container| container.env.as_ref());
    let found = env.into_iter().flatten().find(|one| one.name == VARIABLE);
    let by_field = found.is_some_and(|one| {
        let field = one
            .value_from
            .as_ref()
            .and_then(|from| from.field_ref.as_ref());
        field.is_some_and(|field| field.field_path == "metadata.name")
    });
    if by_field || found.is_some_and(|one| one.value.is_some() && one.value.as_deref() == own) {
        return Check::pass(NAME, "the hook knows its own pod");
    }
    Check::fail(
        NAME,
        format!("`{VARIABLE}` does not name the pod itself: what is made for jobs has no owner"),
        "set it from the pod's own name, as ARC's chart does in Kubernetes mode",
    )
    .change(
        "template:\n  spec:\n    containers:\n    - name: runner\n      env:\n      \
         - name: ACTIONS_RUNNER_POD_NAME\n        valueFrom: {fieldRef: {fieldPath: metadata.name}}",
    )
}

fn account(facts: &Facts) -> Option<Check> {
    const NAME: &str = "runner/service-account";
    let spec = facts.runner.known()?.spec.as_ref()?;
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    if spec.automount_service_account_token == Some(false) {
        return Some(
            Check::fail(
                NAME,
                format!("service account `{account}` is not mounted: the hook cannot ask anything"),
                "let the pod mount it",
            )
            .change("template:\n  spec:\n    automountServiceAccountToken: true"),
        );
    }
    // autoscalingrunnerset.yaml of the chart, when `containerMode` is not `kubernetes`.
    if account.ends_with("-no-permission") {
        return Some(
            Check::fail(
                NAME,
                format!("service account `{account}` has no rights: ARC is not in Kubernetes mode"),
                "set the mode, or name an account with a Role (`arc-hook rbac`)",
            )
            .change("containerMode:\n  type: kubernetes"),
        );
    }
    Some(Check::pass(
        NAME,
        format!("it acts as service account `{account}`"),
    ))
}

fn docker(facts: &Facts) -> Option<Check> {
    let spec = facts.runner.known()?.spec.as_ref()?;
    let mut all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let dind = all.any(|container| container.name == "dind");
    let host = facts.variable("DOCKER_HOST").is_some();
    (dind || host).then(|| {
        Check::warn(
            "runner/docker",
            "the runner has a Docker daemon beside it, which is privileged and which no job uses \
             while hooks are set",
            "choose Kubernetes mode, or take the daemon out",
        )
        .change("containerMode:\n  type: kubernetes")
    })
}

/// What the hook remembers, and where it can write.
fn state(facts: &Facts) -> Option<Check> {
    const NAME: &str = "runner/state";
    let state = facts.variable("ARC_HOOK_STATE").unwrap_or_default();
    if !state.is_empty() && Path::new(state).starts_with(super::work::directory(facts)) {
        return Some(
            Check::fail(
                NAME,
                format!("`ARC_HOOK_STATE` is `{state}`, which jobs can write"),
                "name a directory outside of the work volume, or leave the variable away",
            )
            .change(variable("ARC_HOOK_STATE", "/home/runner/.arc-hook")),
        );
    }
    let container = facts.container()?;
    let context = container.security_context.as_ref()?;
    let place = if state.is_empty() {
        "/home/runner/.arc-hook"
    } else {
        state
    };
    let mounted = container.volume_mounts.iter().flatten().any(|mount| {
        mount.read_only != Some(true) && Path::new(place).starts_with(&mount.mount_path)
    });
    (context.read_only_root_filesystem == Some(true) && !mounted).then(|| {
        Check::fail(
            NAME,
            format!("the runner's root file system is read-only, and `{place}` lies on it"),
            "give the hook a place to remember the job in",
        )
        .change(
            "template:\n  spec:\n    containers:\n    - name: runner\n      env:\n      \
             - name: ARC_HOOK_STATE\n        value: /arc-hook-state\n      volumeMounts:\n      \
             - name: arc-hook-state\n        mountPath: /arc-hook-state\n    volumes:\n    \
             - name: arc-hook-state\n      emptyDir: {}",
        )
    })
}

/// Variables whose values the hook would refuse, or never look at.
fn settings(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "runner/settings";
    let env = facts
        .container()
        .and_then(|container| container.env.as_ref());
    let mut checks = Vec::new();
    for found in env.into_iter().flatten() {
        let value = found.value.as_deref().unwrap_or_default();
        if let Some((_, values)) = KNOWN.iter().find(|(name, _)| *name == found.name) {
            if !value.is_empty() && !values.is_empty() && !values.contains(&value) {
                checks.push(
                    Check::fail(
                        NAME,
                        format!("`{}` is `{value}`, which means nothing", found.name),
                        format!("use {}", values.join(", ")),
                    )
                    .change(variable(&found.name, values[0])),
                );
            }
        } else if found.name.starts_with("ARC_HOOK_") {
            checks.push(Check::warn(
                NAME,
                format!("`{}` is no variable of this version", found.name),
                "correct its name, or take it out",
            ));
        }
        if found.name == "ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS"
            && !value.parse::<u64>().is_ok_and(|seconds| seconds > 0)
        {
            checks.push(
                Check::warn(
                    NAME,
                    format!("`{}` is `{value}`, so that 600 s are used", found.name),
                    "write a positive number of seconds",
                )
                .change(variable(&found.name, "\"600\"")),
            );
        }
    }
    checks
}

fn user(facts: &Facts) -> Check {
    const NAME: &str = "runner/user";
    const CHANGE: &str = "template:\n  spec:\n    securityContext:\n      runAsUser: 1001\n      \
        runAsGroup: 1001\n      fsGroup: 1001\n      fsGroupChangePolicy: OnRootMismatch";
    match facts.identity() {
        None => Check::warn(
            NAME,
            "the values do not say who the runner runs as, nor give it the work volume",
            "say so: the runner's image has the user 1001",
        )
        .change(CHANGE),
        Some(identity) if identity.uid == 0 => Check::warn(
            NAME,
            "the runner runs as root, and so do jobs with `arc-hook/run-as: runner`",
            "let it run as the user of its image",
        )
        .change(CHANGE),
        Some(identity) => Check::pass(
            NAME,
            format!("the runner runs as {}:{}", identity.uid, identity.gid),
        ),
    }
}
