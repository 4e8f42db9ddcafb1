//! One container's state.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{
    Container, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
};

use super::pod::said;
use super::{Explanation, Judgement, LONG_GRACE, SHORT_GRACE, image, quote};

/// Judges one container. `counts` is false for a template's own containers beside the job: they
/// may end when they like, but an image of theirs that cannot be pulled keeps the pod from
/// being ready for ever.
pub(super) fn judge(pod: &Pod, status: &ContainerStatus, init: bool, counts: bool) -> Judgement {
    let Some(state) = &status.state else {
        return Judgement::Waiting(None);
    };
    if let Some(end) = &state.terminated {
        if !counts || (init && end.exit_code == 0) {
            return Judgement::Running;
        }
        return Judgement::Dead(ended(pod, status, end, init));
    }
    if let Some(why) = &state.waiting {
        return waiting(pod, status, why);
    }
    if state.running.is_some() && (status.ready || init || !counts) {
        return Judgement::Running;
    }
    Judgement::Waiting(None)
}

/// Whether the container runs or ran.
pub(super) fn started(status: &ContainerStatus) -> bool {
    status
        .state
        .as_ref()
        .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

/// The exit code, once there is one.
pub(super) fn exit_code(status: &ContainerStatus) -> Option<i32> {
    let end = status.state.as_ref()?.terminated.as_ref()?;
    Some(end.exit_code)
}

/// The reason that the kubelet gives for a container's end.
pub(super) fn end_reason(status: &ContainerStatus) -> &str {
    let end = status
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    end.and_then(|end| end.reason.as_deref())
        .unwrap_or_default()
}

fn kind(pod: &Pod, name: &str) -> &'static str {
    let spec = pod.spec.as_ref();
    let mut init = spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    if init.any(|found| found.name == name) {
        "init container"
    } else {
        "container"
    }
}

fn spec<'p>(pod: &'p Pod, name: &str) -> Option<&'p Container> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    init.chain(&spec.containers)
        .find(|found| found.name == name)
}

/// The name by which the container's settings are found in a hook template.
fn in_template(name: &str) -> String {
    format!("`${name}`")
}

fn waiting(pod: &Pod, status: &ContainerStatus, why: &ContainerStateWaiting) -> Judgement {
    let name = &status.name;
    let message = why.message.as_deref().unwrap_or_default();
    let image = spec(pod, name)
        .and_then(|spec| spec.image.as_deref())
        .unwrap_or(&status.image);
    let which = format!("{} `{name}`", kind(pod, name));
    match why.reason.as_deref().unwrap_or_default() {
        // The ordinary way of things.
        "" | "PodInitializing" | "ContainerCreating" => {
            if message.is_empty() {
                Judgement::Waiting(None)
            } else {
                Judgement::Waiting(Some(Explanation::new(
                    "Container is being created",
                    format!("{which} is being created: {}", quote(message)),
                    "wait, or look at the kubelet's log",
                )))
            }
        }
        "InvalidImageName" => Judgement::Dead(Explanation::new(
            "Invalid image name",
            format!("`{image}` of {which} is not the name of an image"),
            "correct `image:` in the workflow",
        )),
        "ErrImageNeverPull" => Judgement::Dead(Explanation::new(
            "Image not on the node",
            format!(
                "image `{image}` of {which} is not on the node and `imagePullPolicy: Never` forbids to pull it"
            ),
            format!(
                "change `imagePullPolicy` of {} in the hook template, or load the image on the nodes",
                in_template(name)
            ),
        )),
        "ErrImagePull"
        | "ImagePullBackOff"
        | "RegistryUnavailable"
        | "ImageInspectError"
        | "SignatureValidationFailed" => image::judge(&which, image, message),
        "CreateContainerConfigError" => config_error(&which, name, message),
        "CreateContainerError" | "RunContainerError" => create_error(&which, name, message),
        "CrashLoopBackOff" => Judgement::Failing(
            Explanation::new(
                "Container keeps crashing",
                format!("{which} keeps crashing{}", said(Some(message))),
                format!(
                    "look at its log; it is {} in the hook template",
                    in_template(name)
                ),
            ),
            SHORT_GRACE,
        ),
        reason => Judgement::Failing(
            Explanation::new(
                "Container cannot start",
                format!("{which} cannot start ({reason}){}", said(Some(message))),
                "look at the pod's events and the kubelet's log",
            ),
            LONG_GRACE,
        ),
    }
}

fn config_error(which: &str, name: &str, message: &str) -> Judgement {
    let quoted = quote(message);
    if message.contains("runAsNonRoot") {
        return Judgement::Dead(Explanation::new(
            "Image runs as root",
            format!("{which} must not run as root: {quoted}"),
            "set `arc-hook/run-as` in the hook template to `runner` or to a numeric user",
        ));
    }
    if message.contains("subPath") {
        return Judgement::Failing(
            Explanation::new(
                "Volume cannot be mounted",
                format!("a directory of a volume cannot be mounted into {which}: {quoted}"),
                "see that the work volume's file system is healthy and supports sub-paths",
            ),
            SHORT_GRACE,
        );
    }
    let remedy = if message.contains("not found") || message.contains("couldn't find key") {
        format!(
            "create the named object in the namespace, or correct {} in the hook template",
            in_template(name)
        )
    } else {
        format!("correct {} in the hook template", in_template(name))
    };
    Judgement::Failing(
        Explanation::new(
            "Container configuration",
            format!("{which} cannot be configured: {quoted}"),
            remedy,
        ),
        SHORT_GRACE,
    )
}

fn create_error(which: &str, name: &str, message: &str) -> Judgement {
    let quoted = quote(message);
    if message.contains("no command specified") {
        return Judgement::Dead(Explanation::new(
            "Image has no command",
            format!("the image of {which} has neither an entry point nor a command"),
            format!(
                "give {} a `command` in the hook template, or use another image",
                in_template(name)
            ),
        ));
    }
    // containerd before 2.1 takes the volume for a directory without a name.
    if message.contains("failed to mkdir \"\"") {
        return Judgement::Dead(Explanation::new(
            "Images cannot be mounted",
            format!("{which} mounts an image as a volume, which its node cannot: {quoted}"),
            "set `ARC_HOOK_EXTERNALS=copy` in the runner's environment, or move the nodes to \
             containerd 2.1 or later",
        ));
    }
    Judgement::Failing(
        Explanation::new(
            "Container cannot be created",
            format!("the container runtime cannot create {which}: {quoted}"),
            "look at the container runtime's log on that node",
        ),
        // A runtime under load answers late; one that refuses does so for ever.
        if message.contains("deadline exceeded") {
            LONG_GRACE
        } else {
            SHORT_GRACE
        },
    )
}

/// Why a container that should run does not run any more.
fn ended(
    pod: &Pod,
    status: &ContainerStatus,
    end: &ContainerStateTerminated,
    init: bool,
) -> Explanation {
    let name = &status.name;
    let which = format!("{} `{name}`", kind(pod, name));
    let said = said(end.message.as_deref());
    match end.reason.as_deref().unwrap_or_default() {
        "OOMKilled" => Explanation::new(
            "Out of memory",
            format!(
                "{which} was killed for using more memory than it may ({})",
                memory_limit(pod, name).map_or_else(
                    || "it has no limit of its own: the node was short of memory".to_owned(),
                    |limit| format!("limit {limit}")
                )
            ),
            format!(
                "raise `resources.limits.memory` of {} in the hook template or `--memory` in \
                 `options:`, or let the step use less, for example fewer parallel compilers",
                in_template(name)
            ),
        ),
        "ContainerStatusUnknown" => Explanation::new(
            "Node lost track",
            format!("the node lost track of {which}{said}"),
            "look at the node (a restart, a lost container runtime), then run the job again",
        ),
        reason @ ("StartError" | "ContainerCannotRun") => {
            let remedy = if end
                .message
                .as_deref()
                .is_some_and(|m| m.contains("exec format error"))
            {
                "use an image of the node's architecture, and a runner image of the same"
            } else if init || name != "job" {
                "correct its command; the image may lack the program"
            } else {
                "see that the work volume is not mounted `noexec` and that the runner image fits \
                 the node's architecture"
            };
            Explanation::new(
                "Container cannot start",
                format!("{which} cannot start ({reason}){said}"),
                remedy,
            )
        }
        _ if let Some(seconds) = unhealthy_after(pod, name, end) => Explanation::new(
            "Service unhealthy",
            format!(
                "{which} never became healthy: its check failed for {seconds} s, then Kubernetes \
                 ended it"
            ),
            "look at its log and at `--health-cmd`, which runs in its container; where it needs \
             longer, raise `--health-retries` or `--health-start-period`",
        ),
        reason => {
            let signal = end.signal.filter(|signal| *signal > 0);
            let how = match signal {
                Some(signal) => format!("was ended by signal {signal}"),
                None => format!("exited with code {}", end.exit_code),
            };
            let noted = match reason {
                "" | "Error" | "Completed" => String::new(),
                reason => format!(" ({reason})"),
            };
            let remedy = match (end.exit_code, name.as_str()) {
                (137, _) => {
                    "look for what killed it: the node's memory, or a limit on a parent control group"
                        .to_owned()
                }
                (_, name) if crate::pod::fills(name) => {
                    "see what it says of the node's disk, and that the runner's image is whole"
                        .to_owned()
                }
                (_, "job") => "the job container must stay up for the whole job; look at what it \
                               said last"
                    .to_owned(),
                _ => "a service must stay up for the whole job; look at its log, its `env:` and its \
                      `options:`"
                    .to_owned(),
            };
            Explanation::new(
                "Container ended",
                format!("{which} {how}{noted}{said}"),
                remedy,
            )
        }
    }
}

/// How long a container ran whose startup probe never succeeded. The pod does not say so, but such
/// a container ends when the probe's failures are used up, and hardly ever just then otherwise.
fn unhealthy_after(pod: &Pod, name: &str, end: &ContainerStateTerminated) -> Option<i64> {
    let probe = spec(pod, name)?.startup_probe.as_ref()?;
    let [failures, period, timeout, grace] = [
        probe.failure_threshold.unwrap_or(3),
        probe.period_seconds.unwrap_or(10),
        probe.timeout_seconds.unwrap_or(1),
        30,
    ]
    .map(i64::from);
    let started = end.started_at.as_ref()?.0;
    let ran = end
        .finished_at
        .as_ref()?
        .0
        .duration_since(started)
        .as_secs();
    // The first check is at once; times are whole seconds.
    let first = (failures - 1) * period - 1;
    let last = failures * period.max(timeout) + grace;
    (first..=last).contains(&ran).then_some(ran)
}

fn memory_limit(pod: &Pod, name: &str) -> Option<String> {
    let limits = spec(pod, name)?.resources.as_ref()?.limits.as_ref()?;
    limits.get("memory").map(|limit| limit.0.clone())
}

/// One line about a container.
pub(super) fn fact(pod: &Pod, status: &ContainerStatus) -> String {
    let mut line = format!("{} {}: ", kind(pod, &status.name), status.name);
    let state = status.state.clone().unwrap_or_default();
    if let Some(end) = state.terminated {
        let _ = write!(
            line,
            "ended with code {}, {}{}",
            end.exit_code,
            end.reason.as_deref().unwrap_or("no reason given"),
            said(end.message.as_deref())
        );
    } else if state.running.is_some() {
        line.push_str(if status.ready {
            "running"
        } else {
            "running, not ready"
        });
    } else {
        let why = state.waiting.unwrap_or_default();
        let _ = write!(
            line,
            "waiting, {}{}",
            why.reason.as_deref().unwrap_or("no reason given"),
            said(why.message.as_deref())
        );
    }
    line
}
