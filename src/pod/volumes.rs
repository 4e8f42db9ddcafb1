//! What the containers see of the runner's work volume.
//!
//! No container mounts the volume's root or the runner's `_temp`, and no source lies in a directory
//! that a job can write: the kubelet follows links inside a volume when it evaluates a `subPath`,
//! so a job could otherwise have its next pod mount what it likes of the volume.
//! The paths in the containers are those that the runner translates to (actions/runner,
//! `ContainerInfo.cs`, `ContainerOperationProvider.cs`, `ContainerActionHandler.cs`).

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource, Volume, VolumeMount,
};

use serde_json::Value;

use super::error::SpecError;
use super::externals::{self, Mounted};
use super::names::JOB_CONTAINER;
use super::plan::Inputs;
use crate::config::WorkVolume;
use crate::protocol::Mount;

/// Where the supervisor lies in a pod.
pub const HOOK: &str = "/__hook";

/// Where the spool lies in a pod.
pub const SPOOL: &str = "/__hook/spool";

/// Volume of the runner's work directory, named as the official hooks 0.7 do.
pub const WORK: &str = "work";

/// In a pod's own volume: what it sees as `/__w` and as `/github`.
pub const OWN_WORK: &str = "w";
/// See [`OWN_WORK`].
pub const OWN_GITHUB: &str = "github";

/// Volume behind `/__w` itself, which holds mount points only.
pub const WORK_ROOT: &str = "arc-hook-w";

/// Sources on the work volume, as paths relative to the volume's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The claim; absent when the pod has a volume of its own, and files are copied.
    pub claim: Option<String>,
    /// Where the work directory lies in the volume; empty for its root.
    prefix: String,
    /// The workspace below the work directory, `<repo>/<repo>`.
    workspace: Vec<String>,
    /// Whether the tool cache lies outside the work directory.
    tools_outside: bool,
    /// The runner's programs, unless they are copied.
    externals: Option<Mounted>,
}

impl Sources {
    /// Finds the work volume.
    pub fn new(inputs: &Inputs<'_>) -> Result<Self, SpecError> {
        let config = inputs.config;
        let found = inputs.runner.and_then(|runner| runner.work_claim.as_ref());
        let claim = match (config.work_volume, &config.claim_name, found, inputs.runner) {
            (WorkVolume::Copy, ..) | (WorkVolume::Auto, None, None, Some(_)) => None,
            (_, Some(claim), ..) => Some(claim.clone()),
            (_, None, Some(found), _) => Some(found.claim.clone()),
            // Outside a pod nothing can be looked up: the name is the one that ARC gives.
            (_, None, None, None) => Some(format!("{}-work", config.pod_name)),
            (WorkVolume::Shared, None, None, Some(_)) => {
                return Err(SpecError::NoWorkClaim {
                    work: config.paths.work.display().to_string(),
                    remedy: "mount a claim there, as containerMode `kubernetes` of ARC does with \
                             `kubernetesModeWorkVolumeClaim`, or set `ARC_HOOK_WORK` to `auto`",
                });
            }
        };
        let outside = || SpecError::Workspace {
            workspace: config.paths.workspace.display().to_string(),
            work: config.paths.work.display().to_string(),
        };
        let workspace = config
            .paths
            .workspace_below_work()
            .and_then(parts)
            .filter(|parts| !parts.is_empty())
            .ok_or_else(outside)?;
        Ok(Self {
            externals: Mounted::new(inputs, claim.is_none()),
            claim,
            prefix: found
                .map(|found| found.sub_path.clone())
                .unwrap_or_default(),
            workspace,
            tools_outside: !config.paths.tools.starts_with(&config.paths.work),
        })
    }

    /// Whether the pod has a volume of its own.
    #[must_use]
    pub fn copied(&self) -> bool {
        self.claim.is_none()
    }

    /// Whether the runner's programs are copied.
    #[must_use]
    pub fn copies_externals(&self) -> bool {
        self.externals.is_none()
    }

    /// What the log is to say of that.
    #[must_use]
    pub fn warning(&self, inputs: &Inputs<'_>) -> Option<String> {
        externals::not_mounted(inputs, self.externals.as_ref())
    }

    /// The workspace below the work directory.
    #[must_use]
    pub fn workspace(&self) -> String {
        self.workspace.join("/")
    }

    /// A path below the work directory as a path of the volume.
    fn below_work(&self, path: &str) -> String {
        if self.copied() {
            format!("{OWN_WORK}/{path}")
        } else if self.prefix.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.prefix)
        }
    }

    fn of_nonce(&self, nonce: &str, name: &str) -> String {
        if self.copied() {
            return name.to_owned();
        }
        self.below_work(&format!(".arc-hook/{nonce}/{name}"))
    }

    /// This program, which a job can run but not replace.
    #[must_use]
    pub fn program(&self, nonce: &str) -> VolumeMount {
        read_only(HOOK, self.of_nonce(nonce, "hook"))
    }

    /// The supervisor and its spool.
    #[must_use]
    pub fn supervisor(&self, nonce: &str) -> Vec<VolumeMount> {
        vec![
            self.program(nonce),
            mount(SPOOL, self.of_nonce(nonce, "spool")),
        ]
    }

    /// Mounts of the job container, outer ones first.
    #[must_use]
    pub fn job(&self, nonce: &str) -> Vec<VolumeMount> {
        let workspace = self.workspace.join("/");
        let own = |path: &str, name: &str| mount(path, self.of_nonce(nonce, name));
        let mut mounts = self.supervisor(nonce);
        if self.copied() {
            // Nothing of the runner's is in this volume, so the job may have its directories whole.
            mounts.push(mount("/__w", OWN_WORK.to_owned()));
            if self.tools_outside {
                mounts.push(mount("/__t", self.below_work("_tool")));
            }
            mounts.push(self.externals(nonce));
            mounts.push(mount("/github", OWN_GITHUB.to_owned()));
            return mounts;
        }
        mounts.push(VolumeMount {
            name: WORK_ROOT.to_owned(),
            mount_path: "/__w".to_owned(),
            ..Default::default()
        });
        if let [repository, _, ..] = self.workspace.as_slice() {
            mounts.push(own(&format!("/__w/{repository}"), "runner_workspace"));
        }
        mounts.push(mount(
            &format!("/__w/{workspace}"),
            self.below_work(&workspace),
        ));
        mounts.push(mount("/__w/_actions", self.below_work("_actions")));
        mounts.push(mount("/__w/_tool", self.below_work("_tool")));
        if self.tools_outside {
            mounts.push(mount("/__t", self.below_work("_tool")));
        }
        mounts.push(own("/__w/_temp", "temp"));
        mounts.push(own("/__w/_temp/_runner_file_commands", "file_commands"));
        mounts.push(self.externals(nonce));
        mounts.extend(self.github(nonce));
        mounts
    }

    fn externals(&self, nonce: &str) -> VolumeMount {
        match &self.externals {
            Some(mounted) => mounted.mount(),
            None => read_only(externals::MOUNT, self.of_nonce(nonce, "externals")),
        }
    }

    /// Mounts of a container action besides the supervisor's. `nonce` is the job's, or the pod's
    /// own where there is no job.
    #[must_use]
    pub fn action(&self, nonce: &str) -> Vec<VolumeMount> {
        if self.copied() {
            return vec![mount("/github", OWN_GITHUB.to_owned())];
        }
        let workspace = self.below_work(&self.workspace.join("/"));
        let mut mounts = self.github(nonce);
        mounts.push(mount("/github/workspace", workspace));
        mounts
    }

    fn github(&self, nonce: &str) -> Vec<VolumeMount> {
        let own = |path: &str, name: &str| mount(path, self.of_nonce(nonce, name));
        vec![
            own("/github/home", "home"),
            read_only("/github/workflow", self.of_nonce(nonce, "workflow")),
            own("/github/file_commands", "file_commands"),
            own("/github/runner_temp", "temp"),
        ]
    }

    /// The volumes that the mounts of a job's container refer to.
    #[must_use]
    pub fn of_job(&self) -> Vec<Volume> {
        let mut volumes = self.volumes();
        if !self.copied() {
            volumes.push(empty_dir(WORK_ROOT));
        }
        volumes.extend(self.externals.iter().map(Mounted::volume));
        volumes
    }

    /// The volumes that the mounts of a container action refer to.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        let Some(claim) = &self.claim else {
            return vec![empty_dir(WORK)];
        };
        vec![Volume {
            name: WORK.to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                ..Default::default()
            }),
            ..Default::default()
        }]
    }
}

fn mount(path: &str, source: String) -> VolumeMount {
    VolumeMount {
        name: WORK.to_owned(),
        mount_path: path.to_owned(),
        sub_path: Some(source),
        ..Default::default()
    }
}

fn read_only(path: &str, source: String) -> VolumeMount {
    VolumeMount {
        read_only: Some(true),
        ..mount(path, source)
    }
}

/// A volume that lives as long as the pod.
#[must_use]
pub fn empty_dir(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Default::default()
    }
}

/// Where the container `job` of a merged pod mounts a volume of the template that keeps what jobs
/// write: a cache, which may have come from someone else's hands.
#[must_use]
pub fn kept(pod: &Value) -> Vec<String> {
    const KINDS: [&str; 5] = [
        "persistentVolumeClaim",
        "ephemeral",
        "hostPath",
        "nfs",
        "csi",
    ];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes: Vec<Value> = list(&pod["spec"]["volumes"])
        .into_iter()
        .filter(|volume| volume["name"] != WORK)
        .filter(|volume| KINDS.iter().any(|kind| volume[kind].is_object()))
        .map(|volume| volume["name"].clone())
        .collect();
    list(&pod["spec"]["containers"])
        .iter()
        .filter(|container| container["name"] == JOB_CONTAINER)
        .flat_map(|container| list(&container["volumeMounts"]))
        .filter(|mount| mount["readOnly"] != true && volumes.contains(&mount["name"]))
        .filter_map(|mount| mount["mountPath"].as_str().map(str::to_owned))
        .collect()
}

/// `volumes:` of the workflow, for one container of the job's pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserVolumes {
    /// Mounts of the container.
    pub mounts: Vec<VolumeMount>,
    /// Named and nameless volumes, which live as long as the pod.
    pub volumes: Vec<Volume>,
    /// Directories below the work directory that must exist, without a link on the way.
    pub directories: Vec<PathBuf>,
}

impl UserVolumes {
    /// Translates `volumes:`. A source below the workspace is mounted from the work volume; a name
    /// becomes a volume that the containers of the pod share by that name; anything else would be
    /// the runner's or the node's, and is refused.
    ///
    /// Only the job container gets a part of the workspace, since it alone starts before anything
    /// can plant a link there.
    pub fn of(
        sources: &Sources,
        inputs: &Inputs<'_>,
        container: &str,
        requested: &[Mount],
        taken: &[VolumeMount],
    ) -> Result<Self, SpecError> {
        let mut result = Self::default();
        for (index, mount) in requested.iter().enumerate() {
            let refuse = |reason| SpecError::Volume {
                container: format!("container `{container}`"),
                volume: mount.user_provided_value.clone().unwrap_or_else(|| {
                    let source = mount.source_volume_path.as_deref().unwrap_or_default();
                    format!("{source}:{}", mount.target_volume_path)
                }),
                reason,
            };
            let target = mount.target_volume_path.as_str();
            check_target(target, taken, &result.mounts).map_err(refuse)?;
            let source = mount
                .source_volume_path
                .as_deref()
                .filter(|text| !text.is_empty());
            let read_only = mount.read_only.then_some(true);
            let made = match source {
                Some(source) if source.starts_with('/') => {
                    if Path::new(source).file_name() == Some("docker.sock".as_ref()) {
                        return Err(refuse(
                            "there is no Docker daemon for jobs on Kubernetes; remove the volume",
                        ));
                    }
                    let below = below_workspace(Path::new(source), inputs).ok_or_else(|| {
                        refuse(
                            "Volume mounts outside of the work folder are not supported: use a \
                             directory of the workspace, or a named volume",
                        )
                    })?;
                    if container != JOB_CONTAINER {
                        return Err(refuse(
                            "a service gets no part of the workspace, where the job could plant \
                             links for it to follow; use a named volume, which the job can fill",
                        ));
                    }
                    result.directories.push(below.iter().collect());
                    self::mount(target, sources.below_work(&below.join("/")))
                }
                named => {
                    let name = match named {
                        Some(name) => format!("user-{}", super::names::derived(name, "volume")),
                        None => format!(
                            "user-{}",
                            super::names::derived(container, &format!("anonymous-{index}"))
                        ),
                    };
                    if !result.volumes.iter().any(|volume| volume.name == name) {
                        result.volumes.push(empty_dir(&name));
                    }
                    VolumeMount {
                        name,
                        mount_path: target.to_owned(),
                        ..Default::default()
                    }
                }
            };
            result.mounts.push(VolumeMount { read_only, ..made });
        }
        Ok(result)
    }
}

/// Refuses a mount point that is none, or where something is mounted already.
pub(super) fn check_target(
    target: &str,
    taken: &[VolumeMount],
    requested: &[VolumeMount],
) -> Result<(), &'static str> {
    let path = Path::new(target);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || target.contains(':') || path == Path::new("/") {
        return Err("the path in the container must be absolute, without `..` and `:`");
    }
    // A mount point below a read-only mount cannot be made.
    for place in [HOOK, "/__e", "/github/workflow"] {
        if path.starts_with(place) {
            return Err("the runner's own files are mounted there; choose another path");
        }
    }
    let same = |mount: &VolumeMount| Path::new(&mount.mount_path) == path;
    if taken.iter().any(same) {
        return Err("the runner's own files are mounted there; choose another path");
    }
    if requested.iter().any(same) {
        return Err("another volume is mounted there; choose another path");
    }
    Ok(())
}

/// The parts of a directory of the workspace, counted from the work directory.
fn below_workspace(source: &Path, inputs: &Inputs<'_>) -> Option<Vec<String>> {
    let paths = &inputs.config.paths;
    if !source.starts_with(&paths.workspace) {
        return None;
    }
    parts(source.strip_prefix(&paths.work).ok()?)
}

/// The parts of a relative path, if it goes downwards only.
fn parts(path: &Path) -> Option<Vec<String>> {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| match part {
            Component::Normal(part) => part.to_str().map(str::to_owned),
            _ => None,
        })
        .collect()
}
