//! What the pods of jobs and of container actions have in common.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, EnvVar, ExecAction, Lifecycle, LifecycleHandler, LocalObjectReference, Pod, PodSpec,
    SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use super::affinity;
use super::arguments;
use super::error::{SpecError, TemplateError};
use super::externals;
use super::merge::{self, Merged, Target};
use super::names::{self, JOB_CONTAINER};
use super::plan::{Identity, Inputs, User};
use super::settings::RunAs;
use super::user;
use super::volumes::{self, HOOK, SPOOL, Sources, WORK};

/// The init container that writes the user's entry for `/etc/passwd`.
pub const PASSWD_CONTAINER: &str = "arc-hook-passwd";

/// The container that fills a pod's own volume, where that copies no programs or comes before all.
pub const INIT_CONTAINER: &str = "arc-hook-init";

/// The container that fills a pod's own volume, and copies the runner's programs beside the job.
pub const EXTERNALS_CONTAINER: &str = "arc-hook-externals";

/// The init container into which a container action's files come before its program starts.
pub const GATE_CONTAINER: &str = "arc-hook-gate";

/// The container from which they are taken back once it has ended.
pub const FILES_CONTAINER: &str = "arc-hook-files";

/// Where these see that volume.
const OWN_MOUNT: &str = "/__work";

/// The image when neither the runner's pod nor a setting names it, as with the official hooks.
pub const RUNNER_IMAGE: &str = "ghcr.io/actions/actions-runner:latest";

/// Where that container writes.
const PASSWD_DIR: &str = "/__passwd";

/// Annotation by which `kubectl` knows which container is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Annotation by which a pod is known as made for this nonce.
pub const NONCE_ANNOTATION: &str = "arc-hook/nonce";

/// Label and owner of everything that is created. Without a known runner pod there is no owner,
/// and the label alone tells what belongs to it.
#[must_use]
pub fn metadata(inputs: &Inputs<'_>) -> ObjectMeta {
    let owner = inputs
        .runner
        .filter(|runner| !runner.uid.is_empty())
        .map(|runner| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: runner.name.clone(),
            uid: runner.uid.clone(),
            // Blocking needs a right on the runner pod's finalizers that ARC's Role does not give.
            block_owner_deletion: None,
            controller: None,
        });
    ObjectMeta {
        labels: Some(BTreeMap::from([(
            names::RUNNER_POD_LABEL.to_owned(),
            names::label(&inputs.config.pod_name),
        )])),
        owner_references: owner.map(|owner| vec![owner]),
        ..Default::default()
    }
}

/// A pod of ours around its containers, before the template is laid over it.
#[must_use]
pub fn pod(inputs: &Inputs<'_>, sources: &Sources, name: &str, spec: PodSpec) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([(
                NONCE_ANNOTATION.to_owned(),
                inputs.nonce.to_owned(),
            )])),
            ..metadata(inputs)
        },
        spec: Some(PodSpec {
            affinity: affinity::of(inputs, sources),
            // A job has no business with the API server, unless the template gives it an account of
            // its own, and needs no list of the namespace's services in its environment.
            automount_service_account_token: (!has_account(inputs)).then_some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Never".to_owned()),
            ..spec
        }),
        status: None,
    }
}

/// Whether the template names a service account: then it is to be used.
fn has_account(inputs: &Inputs<'_>) -> bool {
    inputs.template.spec().is_some_and(|spec| {
        spec.get("serviceAccountName")
            .is_some_and(|name| name.as_str().is_some_and(|name| !name.is_empty()))
    })
}

/// Pull secrets: the runner pod's, then those of the request.
#[must_use]
pub fn pull_secrets(
    inputs: &Inputs<'_>,
    of_images: impl IntoIterator<Item = String>,
) -> Option<Vec<LocalObjectReference>> {
    let inherited = inputs
        .runner
        .map(|runner| runner.pull_secrets.clone())
        .unwrap_or_default();
    let all = super::secrets::distinct(inherited.into_iter().chain(of_images));
    (!all.is_empty()).then(|| {
        all.into_iter()
            .map(|name| LocalObjectReference { name })
            .collect()
    })
}

/// A container with its environment, to which is added what Docker mode sets in every one
/// (actions/runner, `DockerCommandManager.cs`): `CI` unless the container has its own.
#[must_use]
pub fn container(name: &str, mut env: Vec<EnvVar>) -> Container {
    env.retain(|variable| variable.name != "GITHUB_ACTIONS");
    let has_ci = env.iter().any(|variable| variable.name == "CI");
    for added in ["GITHUB_ACTIONS", "CI"] {
        if added == "CI" && has_ci {
            continue;
        }
        env.push(EnvVar {
            name: added.to_owned(),
            value: Some("true".to_owned()),
            value_from: None,
        });
    }
    Container {
        name: name.to_owned(),
        env: Some(env),
        // Where a container could not write why it ended, its last lines tell.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Default::default()
    }
}

/// The container `job` under the supervisor. Its environment is in the spool, not here.
#[must_use]
pub fn supervised(nonce: &str) -> Container {
    Container {
        command: Some(vec![
            format!("{HOOK}/arc-hook"),
            "supervise".to_owned(),
            SPOOL.to_owned(),
            "--nonce".to_owned(),
            nonce.to_owned(),
        ]),
        ..container(JOB_CONTAINER, Vec::new())
    }
}

/// Has the supervisor tell whether the job's user can write to the volumes that the template gives
/// it: whoever fills a cache as root learns of it here, not from a build that fails half way.
pub fn check_volumes(pod: &mut Value) {
    let checks = volumes::kept(pod)
        .into_iter()
        .flat_map(|path| ["--check".to_owned(), path])
        .collect();
    let command = pod["spec"]["containers"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|container| container["name"] == JOB_CONTAINER)
        .and_then(|job| job["command"].as_array_mut());
    if let Some(command) = command {
        command.extend(arguments::literal(checks).into_iter().map(Value::from));
    }
}

/// Fills a pod's own volume: a container of the runner's image makes its directories and puts this
/// program there, and with `externals`, unless these are mounted, copies them too; no job shall wait
/// for them that does not need them.
///
/// It is the pod's first container, and the kubelet starts the next one when the first one's
/// `postStart` has ended (kubernetes v1.36, `kuberuntime_container.go`, `startContainer`), which is
/// when the volume is filled. An init container would take a start more, and up to a second until
/// the kubelet notices its end. It takes one all the same where init containers need the program;
/// so this comes after all that adds some.
pub fn fill(
    inputs: &Inputs<'_>,
    sources: &Sources,
    user: User,
    directories: &[PathBuf],
    externals: bool,
    pod: &mut Pod,
) {
    let Some(spec) = pod.spec.as_mut().filter(|_| sources.copied()) else {
        return;
    };
    let externals = externals && sources.copies_externals();
    let text = |path: &Path| path.display().to_string();
    let command = |verb: &[&str]| -> Vec<String> {
        let words = [text(inputs.program), "init".to_owned()].into_iter();
        words
            .chain(verb.iter().map(|&word| word.to_owned()))
            .chain(["--to".to_owned(), OWN_MOUNT.to_owned()])
            .collect()
    };
    let container = |name: &str, command: Vec<String>| Container {
        command: Some(command),
        volume_mounts: Some(vec![VolumeMount {
            name: WORK.to_owned(),
            mount_path: OWN_MOUNT.to_owned(),
            ..Default::default()
        }]),
        ..of_runner_image(inputs, name, inputs.identity)
    };
    let from = text(&inputs.config.paths.externals);
    let programs = ["--externals", &from].map(str::to_owned);
    let mut volume = command(&["volume"]);
    if user.uid() != Some(inputs.identity.uid) {
        volume.push("--open".to_owned());
    }
    let directories = std::iter::once(sources.workspace())
        .chain(directories.iter().map(|path| text(path)))
        .collect();
    if let Some(init) = &mut spec.init_containers {
        init.insert(0, container(INIT_CONTAINER, [volume, directories].concat()));
        if externals {
            let command = [command(&["programs"]), programs.to_vec()].concat();
            spec.containers
                .push(container(EXTERNALS_CONTAINER, command));
        }
        return;
    }
    volume.push("--awaited".to_owned());
    if externals {
        volume.extend(programs);
    }
    let name = if externals {
        EXTERNALS_CONTAINER
    } else {
        INIT_CONTAINER
    };
    let first = Container {
        lifecycle: Some(Lifecycle {
            post_start: Some(LifecycleHandler {
                exec: Some(ExecAction {
                    command: Some(command(&["await"])),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..container(name, [volume, directories].concat())
    };
    spec.containers.insert(0, first);
    // Whoever names no container means the job's, as where it is the first.
    pod.metadata
        .annotations
        .get_or_insert_default()
        .insert(DEFAULT_CONTAINER.to_owned(), JOB_CONTAINER.to_owned());
}

/// Whether a container of that name fills a pod's own volume: without its work no other starts.
#[must_use]
pub fn fills(name: &str) -> bool {
    [INIT_CONTAINER, EXTERNALS_CONTAINER].contains(&name)
}

/// A container of the runner's image.
fn of_runner_image(inputs: &Inputs<'_>, name: &str, user: Identity) -> Container {
    let image = externals::runner_image(inputs);
    Container {
        image: Some(image.unwrap_or_else(|| RUNNER_IMAGE.to_owned())),
        security_context: Some(SecurityContext {
            run_as_user: Some(user.uid.into()),
            run_as_group: Some(user.gid.into()),
            ..Default::default()
        }),
        name: name.to_owned(),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Default::default()
    }
}

/// Puts two containers with supervisors around a program that runs as its image says, and so can
/// have none of its own: into the first its files come before it starts, from the second, which
/// stays until the pod is deleted, they are taken back. A pod that shares a volume needs none.
pub fn surround(inputs: &Inputs<'_>, sources: &Sources, user: User, pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut().filter(|_| sources.copied()) else {
        return;
    };
    let nonce = inputs.nonce;
    let mounts = [sources.supervisor(nonce), sources.action(nonce)].concat();
    let user = Identity {
        uid: user.uid().unwrap_or(inputs.identity.uid),
        gid: user.gid().unwrap_or(inputs.identity.gid),
    };
    let container = |name: &str, flag: Option<&str>| {
        let mut command = supervised(inputs.nonce).command.unwrap_or_default();
        command.extend(flag.map(str::to_owned));
        Container {
            command: Some(command),
            volume_mounts: Some(mounts.clone()),
            ..of_runner_image(inputs, name, user)
        }
    };
    spec.init_containers
        .get_or_insert_default()
        .push(container(GATE_CONTAINER, Some("--gate")));
    spec.containers.push(container(FILES_CONTAINER, None));
}

/// Gives a user that the image does not know an entry in `/etc/passwd`: git, ssh, `whoami` and
/// Python's `getpass` look there (`arc-hook/passwd`). An init container of the image itself copies
/// the image's files and adds what is missing. `nonce` is that of the directories with our program.
pub fn passwd(inputs: &Inputs<'_>, sources: &Sources, nonce: &str, user: User, pod: &mut Pod) {
    const VOLUME: &str = "arc-hook-passwd";
    let (Some(uid), Some(spec)) = (user.uid(), pod.spec.as_mut()) else {
        return;
    };
    if !inputs.template.settings().passwd {
        return;
    }
    let Some(job) = spec
        .containers
        .iter_mut()
        .find(|container| container.name == JOB_CONTAINER)
    else {
        return;
    };
    let user = match user.gid() {
        Some(gid) => format!("{uid}:{gid}"),
        None => uid.to_string(),
    };
    let init = Container {
        image: job.image.clone(),
        command: Some(
            [
                &format!("{HOOK}/arc-hook"),
                "init",
                "passwd",
                "--user",
                &user,
                "--to",
                PASSWD_DIR,
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        security_context: Some(SecurityContext {
            run_as_user: Some(uid.into()),
            ..Default::default()
        }),
        volume_mounts: Some(vec![
            sources.program(nonce),
            VolumeMount {
                name: VOLUME.to_owned(),
                mount_path: PASSWD_DIR.to_owned(),
                ..Default::default()
            },
        ]),
        name: PASSWD_CONTAINER.to_owned(),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Default::default()
    };
    for file in ["passwd", "group"] {
        job.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: VOLUME.to_owned(),
            mount_path: format!("/etc/{file}"),
            sub_path: Some(file.to_owned()),
            read_only: Some(true),
            ..Default::default()
        });
    }
    spec.init_containers.get_or_insert_default().push(init);
    spec.volumes
        .get_or_insert_default()
        .push(volumes::empty_dir(VOLUME));
}

/// Lays the template over the pod.
pub fn merge(inputs: &Inputs<'_>, pod: &Pod, targets: &[Target]) -> Result<Merged, SpecError> {
    let pod = serde_json::to_value(pod).map_err(|error| TemplateError::Shape {
        at: None,
        what: format!("the pod cannot be written as JSON: {error}"),
        remedy: "report this as a defect of arc-hook",
    })?;
    let mut merged = merge::merge(pod, inputs.template, targets);
    for name in &inputs.template.settings().unknown {
        merged.warnings.push(format!(
            "template: annotation `{name}` is unknown to this version and has no effect"
        ));
    }
    Ok(merged)
}

/// The last touches and checks, after the template.
pub fn finish(
    inputs: &Inputs<'_>,
    pod: &mut Value,
    uid: Option<u32>,
    gid: Option<u32>,
    fs_group: Option<u32>,
) -> Result<(), SpecError> {
    if inputs.template.settings().run_as == Some(RunAs::Image) {
        user::clear(pod);
    }
    user::apply(pod, uid, gid, fs_group);
    if inputs.template.settings().restricted {
        user::restrict(pod);
    }
    user::check(pod)
}
