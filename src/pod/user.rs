//! Who the containers run as.
//!
//! The job container and every container action run under one user: what one writes into the
//! workspace, the home or the caches, the other must be able to change. Services keep the users of
//! their images, since databases insist on theirs.

use serde_json::{Map, Value, json};

use super::error::SpecError;
use super::manifest;
use super::names::JOB_CONTAINER;
use super::plan::{Identity, Inputs, User};
use super::settings::RunAs;

impl User {
    /// The user of a job's containers: the annotation `arc-hook/run-as`, else `runAsUser` of
    /// `$job`, else of the template's pod, else `--user` of the workflow where that is allowed, else
    /// the image's.
    #[must_use]
    pub fn resolve(
        inputs: &Inputs<'_>,
        option: Option<(u32, Option<u32>)>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let template = inputs.template;
        let settings = template.settings();
        let container = template
            .containers("containers")
            .find(|(name, _)| *name == "$job")
            .and_then(|(_, container)| container.get("securityContext"));
        let pod = template.spec().and_then(|spec| spec.get("securityContext"));
        let of_template = identity_of([container, pod]);
        if let Some(run_as) = settings.run_as {
            let user = match run_as {
                RunAs::Runner => Self::Runner(inputs.identity),
                RunAs::Image => Self::Image,
                RunAs::Fixed { uid, gid } => Self::Fixed { uid, gid },
            };
            let contradicts = of_template.is_some_and(|(uid, _)| Some(uid) != user.uid());
            if contradicts {
                warnings.push(
                    "template: the annotation `arc-hook/run-as` and `runAsUser` of `$job` differ; \
                     the annotation counts"
                        .to_owned(),
                );
            }
            if option.is_some() {
                warnings.push(
                    "`--user` is left aside: the annotation `arc-hook/run-as` says who jobs run as"
                        .to_owned(),
                );
            }
            return user;
        }
        if let Some((uid, gid)) = of_template {
            if option.is_some() {
                warnings
                    .push("`--user` is left aside: the template says who jobs run as".to_owned());
            }
            return Self::Fixed { uid, gid };
        }
        match option {
            Some((uid, gid)) => Self::Fixed { uid, gid },
            None => Self::Image,
        }
    }

    /// The user id, where it is known beforehand.
    #[must_use]
    pub fn uid(self) -> Option<u32> {
        match self {
            Self::Runner(identity) => Some(identity.uid),
            Self::Fixed { uid, .. } => Some(uid),
            Self::Image => None,
        }
    }

    /// The group id, where it is known beforehand.
    #[must_use]
    pub fn gid(self) -> Option<u32> {
        match self {
            Self::Runner(identity) => Some(identity.gid),
            Self::Fixed { gid, .. } => gid,
            Self::Image => None,
        }
    }

    /// The group that new volumes are given to. Without it a fresh volume is root's. None with the
    /// image's user, who may be root and need none: changing the group of a cloned cache walks
    /// all of it and takes up space for each file.
    #[must_use]
    pub fn fs_group(self) -> Option<u32> {
        self.gid()
    }
}

fn identity_of<const N: usize>(contexts: [Option<&Value>; N]) -> Option<(u32, Option<u32>)> {
    let number = |key: &str| {
        contexts
            .iter()
            .flatten()
            .find_map(|context| context.get(key)?.as_u64())
            .and_then(|id| u32::try_from(id).ok())
    };
    Some((number("runAsUser")?, number("runAsGroup")))
}

/// What the log says of a `--user` that does not count.
pub(super) fn not_allowed(told: &str) -> String {
    format!(
        "{told}: `--user` is left aside; the hook template may allow it with the annotation \
         `arc-hook/allow-user-option: \"true\"`"
    )
}

/// Sets the user of the container `job` as far as it is known, whatever the template says of it, and
/// the pod's group for volumes, unless the template has one.
pub(super) fn apply(pod: &mut Value, uid: Option<u32>, gid: Option<u32>, fs_group: Option<u32>) {
    if let Some(group) = fs_group {
        let context = object(&mut pod["spec"]["securityContext"]);
        if !context.contains_key("fsGroup") {
            context.insert("fsGroup".to_owned(), json!(group));
            context
                .entry("fsGroupChangePolicy")
                .or_insert_with(|| json!("OnRootMismatch"));
        }
    }
    let ids = [("runAsUser", uid), ("runAsGroup", gid)];
    if ids.iter().all(|(_, id)| id.is_none()) {
        return;
    }
    let Some(container) = job_container(pod) else {
        return;
    };
    let context = object(&mut container["securityContext"]);
    for (key, id) in ids {
        if let Some(id) = id {
            context.insert(key.to_owned(), json!(id));
        }
    }
}

/// Takes the template's user from the container `job`, for `arc-hook/run-as: image`.
pub(super) fn clear(pod: &mut Value) {
    let context = job_container(pod)
        .and_then(|container| container.get_mut("securityContext"))
        .and_then(Value::as_object_mut);
    if let Some(context) = context {
        context.remove("runAsUser");
        context.remove("runAsGroup");
    }
}

/// What a Kubernetes namespace with `pod-security.kubernetes.io/enforce: restricted` demands, where
/// the template has not said more (Kubernetes, "Pod Security Standards").
pub(super) fn restrict(pod: &mut Value) {
    let context = object(&mut pod["spec"]["securityContext"]);
    context.entry("runAsNonRoot").or_insert_with(|| json!(true));
    context
        .entry("seccompProfile")
        .or_insert_with(|| json!({"type": "RuntimeDefault"}));
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let context = object(&mut container["securityContext"]);
            context
                .entry("allowPrivilegeEscalation")
                .or_insert_with(|| json!(false));
            let capabilities = object(context.entry("capabilities").or_insert_with(|| json!({})));
            capabilities.entry("drop").or_insert_with(|| json!(["ALL"]));
        }
    }
}

/// Refuses a pod in which a container of the template shares a volume with `job` and runs as
/// another user. Init containers are over when the job begins, and giving a volume to the job is
/// what they are for, so only those that stay count.
pub(super) fn check(pod: &Value) -> Result<(), SpecError> {
    let pod_user = pod["spec"]["securityContext"]["runAsUser"].as_i64();
    let user = |container: &Value| {
        container["securityContext"]["runAsUser"]
            .as_i64()
            .or(pod_user)
    };
    let containers = || pod["spec"]["containers"].as_array().into_iter().flatten();
    let sidecars = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|container| container["restartPolicy"] == "Always");
    let Some(job) = containers().find(|container| container["name"] == JOB_CONTAINER) else {
        return Ok(());
    };
    let Some(uid) = user(job) else {
        return Ok(());
    };
    let writable = |container: &Value| -> Vec<String> {
        container["volumeMounts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|mount| mount["readOnly"] != true)
            .filter_map(|mount| mount["name"].as_str().map(str::to_owned))
            .collect()
    };
    let of_job = writable(job);
    for other in containers().chain(sidecars) {
        if other["name"] == JOB_CONTAINER || other["name"].as_str().is_some_and(manifest::fills) {
            continue;
        }
        let Some(other_uid) = user(other).filter(|other| *other != uid) else {
            continue;
        };
        let shared = writable(other)
            .into_iter()
            .find(|volume| of_job.contains(volume));
        if let Some(volume) = shared {
            return Err(SpecError::Users {
                other: other["name"].as_str().unwrap_or_default().to_owned(),
                other_uid,
                uid,
                volume,
            });
        }
    }
    Ok(())
}

impl Identity {
    /// As `1001:1001`.
    #[must_use]
    pub fn as_text(self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }
}

fn job_container(pod: &mut Value) -> Option<&mut Value> {
    pod["spec"]["containers"]
        .as_array_mut()?
        .iter_mut()
        .find(|container| container["name"] == JOB_CONTAINER)
}

/// The value as a map, made one if it is none.
pub(super) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made a map"),
    }
}
