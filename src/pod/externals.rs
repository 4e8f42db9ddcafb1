//! The runner's programs, node and the like, at `/__e`: out of the runner's own image where the node can
//! mount an image as a volume, else copied beside the starting job.

use k8s_openapi::api::core::v1::{ImageVolumeSource, NodeSystemInfo, Volume, VolumeMount};

use super::plan::Inputs;
use super::runner::RunnerPod;
use crate::config::{Affinity, Config, Externals, WorkVolume};

/// Where the runner's programs are in a job's container (actions/runner,
/// `ContainerOperationProvider.cs`).
pub const MOUNT: &str = "/__e";

/// The volume that is the runner's image.
const VOLUME: &str = "arc-hook-runner-image";

/// The runner's image, as its pod or the configuration names it.
#[must_use]
pub fn runner_image(inputs: &Inputs<'_>) -> Option<String> {
    let of_pod = inputs.runner.and_then(|runner| runner.image.clone());
    inputs.config.runner_image.clone().or(of_pod)
}

/// The same, as it was when the runner's pod started: what is mounted are the programs that this very
/// runner has, whatever its tag means by now.
fn exact_image(inputs: &Inputs<'_>) -> Option<String> {
    let digest = inputs.runner.and_then(|runner| runner.image_digest.clone());
    inputs
        .config
        .runner_image
        .clone()
        .or(digest)
        .or_else(|| runner_image(inputs))
}

/// What to say of a pod to which programs are copied although they were to be mounted.
#[must_use]
pub fn not_mounted(inputs: &Inputs<'_>, mounted: Option<&Mounted>) -> Option<String> {
    let asked = inputs.config.externals == Externals::Image;
    (asked && mounted.is_none()).then(|| {
        "`ARC_HOOK_EXTERNALS` is `image`, and which image that is nobody says: this is no runner's pod, \
         and `ACTIONS_RUNNER_IMAGE` is not set; node and the like are copied"
            .to_owned()
    })
}

/// A mount of the runner's programs out of its image; `None` where they are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    image: String,
    pull_policy: Option<String>,
    sub_path: String,
}

impl Mounted {
    /// Decides. What is known is known of the runner's node, which a pod that is `copied` to, or may leave
    /// that node, has nothing to do with. Without the name of an image nothing can be mounted.
    #[must_use]
    pub fn new(inputs: &Inputs<'_>, copied: bool) -> Option<Self> {
        let stays = !copied && inputs.config.affinity == Affinity::Required;
        let wanted = match inputs.config.externals {
            Externals::Copy => false,
            Externals::Image => true,
            Externals::Auto => stays && inputs.runner.is_some_and(|runner| runner.mounts_images),
        };
        let externals = &inputs.config.paths.externals;
        Some(Self {
            image: exact_image(inputs).filter(|_| wanted)?,
            // There it is; another node may have an older one of that name.
            pull_policy: stays.then(|| "IfNotPresent".to_owned()),
            sub_path: externals.strip_prefix("/").ok()?.to_str()?.to_owned(),
        })
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> Volume {
        Volume {
            name: VOLUME.to_owned(),
            image: Some(ImageVolumeSource {
                reference: Some(self.image.clone()),
                pull_policy: self.pull_policy.clone(),
            }),
            ..Default::default()
        }
    }

    /// Its mount, which the runtime makes read-only.
    #[must_use]
    pub fn mount(&self) -> VolumeMount {
        VolumeMount {
            name: VOLUME.to_owned(),
            mount_path: MOUNT.to_owned(),
            sub_path: Some(self.sub_path.clone()),
            read_only: Some(true),
            ..Default::default()
        }
    }
}

/// Whether what the runner's node can do decides: a pod with a volume of its own may run on any.
#[must_use]
pub fn depend_on_node(config: &Config, runner: &RunnerPod) -> bool {
    config.externals == Externals::Auto
        && config.affinity == Affinity::Required
        && config.work_volume != WorkVolume::Copy
        && (runner.work_claim.is_some() || config.claim_name.is_some())
}

/// Whether a node can mount an image as a volume: its kubelet by default from 1.35 on (KEP-4639), its
/// runtime since containerd 2.1, or any CRI-O of that age.
#[must_use]
pub fn can_mount(node: &NodeSystemInfo) -> bool {
    let numbers = |version: &str| -> Vec<u32> {
        version
            .trim_start_matches('v')
            .split(['.', '-', '+'])
            .map_while(|part| part.parse().ok())
            .collect()
    };
    let kubelet = numbers(&node.kubelet_version);
    let runtime = match node.container_runtime_version.split_once("://") {
        Some(("containerd", version)) => numbers(version).as_slice() >= [2, 1].as_slice(),
        Some(("cri-o", _)) => true,
        _ => false,
    };
    runtime && kubelet.as_slice() >= [1, 35].as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_and_runtime_must_both_be_new_enough() {
        let node = |kubelet: &str, runtime: &str| {
            can_mount(&NodeSystemInfo {
                kubelet_version: kubelet.to_owned(),
                container_runtime_version: runtime.to_owned(),
                ..Default::default()
            })
        };
        assert!(node("v1.36.3", "containerd://2.4.2"));
        assert!(node("v1.35.0-gke.100", "containerd://v2.1.0-rc.1"));
        assert!(node("v1.36.3", "cri-o://1.36.0"));
        assert!(!node("v1.34.9", "containerd://2.4.2"));
        assert!(!node("v1.36.3", "containerd://2.0.7"));
        assert!(!node("v1.36.3", "containerd://1.6.20~ds1"));
        assert!(!node("v1.36.3", "docker://29.0.0"));
        assert!(!node("", ""));
    }
}
