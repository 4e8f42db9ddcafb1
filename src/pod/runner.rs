//! What the hook needs to know about its own pod.

use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use crate::config::Config;

/// By what ARC tells of whose scale set a runner pod is (actions-runner-controller,
/// `constants.go`: `LabelKeyGitHubScaleSetName`).
const SCALE_SET_LABEL: &str = "actions.github.com/scale-set-name";

/// The runner's pod, as far as pods made for its jobs depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunnerPod {
    /// Its name.
    pub name: String,
    /// Its uid, for owner references.
    pub uid: String,
    /// The node it runs on.
    pub node: Option<String>,
    /// Image of the runner's container, for our own containers.
    pub image: Option<String>,
    /// The same by its digest, as its node found it: a tag may have come to mean another since.
    pub image_digest: Option<String>,
    /// Names of its pull secrets.
    pub pull_secrets: Vec<String>,
    /// The claim behind its work directory; absent when that is no claim a second pod could mount.
    pub work_claim: Option<WorkClaim>,
    /// The scale set, as ARC labels the pod.
    pub scale_set: Option<String>,
    /// Its node is known to be able to mount an image as a volume.
    pub mounts_images: bool,
}

/// The claim that holds the runner's work directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkClaim {
    /// Name of the `PersistentVolumeClaim`.
    pub claim: String,
    /// Where in the volume the work directory lies; empty for its root.
    pub sub_path: String,
}

impl RunnerPod {
    /// Reads the runner's pod. Its container is the one that mounts the work directory, else the
    /// one named `runner`, else the first.
    #[must_use]
    pub fn from_pod(pod: &Pod, config: &Config) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let mounted = spec
            .containers
            .iter()
            .find_map(|container| Some((container, work_mount(container, &config.paths.work)?)));
        let container = mounted
            .map(|(container, _)| container)
            .or_else(|| spec.containers.iter().find(|one| one.name == "runner"))
            .or(spec.containers.first());
        let name = pod
            .metadata
            .name
            .clone()
            .unwrap_or_else(|| config.pod_name.clone());
        let work_claim = mounted.and_then(|(_, mount)| {
            let volume = spec
                .volumes
                .iter()
                .flatten()
                .find(|volume| volume.name == mount.name)?;
            Some(WorkClaim {
                claim: claim_of(volume, &name)?,
                sub_path: sub_path(mount, &config.paths.work)?,
            })
        });
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: spec.node_name.clone(),
            image: container.and_then(|container| container.image.clone()),
            image_digest: container.and_then(|container| digest(pod, &container.name)),
            pull_secrets: spec
                .image_pull_secrets
                .iter()
                .flatten()
                .map(|secret| secret.name.clone())
                .filter(|name| !name.is_empty())
                .collect(),
            name,
            work_claim,
            scale_set: pod
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(SCALE_SET_LABEL).cloned()),
            mounts_images: false,
        }
    }
}

/// The image of a container by its digest. Docker says before it how it came by it
/// (cri-dockerd, `docker_image.go`: `docker-pullable://`), and an image that came from no registry has
/// none that could be pulled.
fn digest(pod: &Pod, container: &str) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status = statuses.iter().find(|status| status.name == container)?;
    let id = status.image_id.as_str();
    let id = id.strip_prefix("docker-pullable://").unwrap_or(id);
    let (name, _) = id.split_once("@sha256:")?;
    (!name.is_empty() && !name.contains("://")).then(|| id.to_owned())
}

/// The mount whose path holds the work directory, the deepest where several do.
fn work_mount<'a>(container: &'a Container, work: &Path) -> Option<&'a VolumeMount> {
    container
        .volume_mounts
        .iter()
        .flatten()
        .filter(|mount| work.starts_with(&mount.mount_path))
        .max_by_key(|mount| Path::new(&mount.mount_path).components().count())
}

/// The claim of a volume. A generic ephemeral volume's claim is named `<pod>-<volume>`
/// (Kubernetes, "Ephemeral Volumes": `PersistentVolumeClaim` naming).
fn claim_of(volume: &Volume, pod: &str) -> Option<String> {
    if let Some(ephemeral) = &volume.ephemeral {
        let template = ephemeral.volume_claim_template.as_ref();
        let modes = template.and_then(|template| template.spec.access_modes.as_deref());
        // Nobody but the runner's pod may mount it.
        if modes == Some(&["ReadWriteOncePod".to_owned()]) {
            return None;
        }
        return Some(format!("{pod}-{}", volume.name));
    }
    volume
        .persistent_volume_claim
        .as_ref()
        .filter(|source| source.read_only != Some(true))
        .map(|source| source.claim_name.clone())
}

/// Where the work directory lies in the mounted volume. A `subPathExpr` depends on the container's
/// environment and is not resolved.
fn sub_path(mount: &VolumeMount, work: &Path) -> Option<String> {
    if mount
        .sub_path_expr
        .as_deref()
        .is_some_and(|expr| !expr.is_empty())
        || mount.read_only == Some(true)
    {
        return None;
    }
    let below = work.strip_prefix(&mount.mount_path).ok()?;
    let mut parts = Vec::new();
    for part in Path::new(mount.sub_path.as_deref().unwrap_or(""))
        .components()
        .chain(below.components())
    {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(parts.join("/"))
}
