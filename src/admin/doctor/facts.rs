//! What is known of the set-up, as it was found.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::admin::rights::Comparison;
use crate::cache::Line;
use crate::cluster::VolumeSnapshotClass;
use crate::pod::{Identity, Template};

/// Something that was looked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Fact<T> {
    /// It is there.
    Known(T),
    /// It is not there.
    #[default]
    Absent,
    /// It could not be looked at, and why.
    Hidden(String),
}

impl<T> Fact<T> {
    /// What is there.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(found) => Some(found),
            Self::Absent | Self::Hidden(_) => None,
        }
    }
}

/// The hook's own files, as they lie in the runner's container.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own {
    /// User and group of the process.
    pub identity: Identity,
    /// The text of the file that `ACTIONS_RUNNER_CONTAINER_HOOKS` names.
    pub shim: Fact<String>,
}

/// Everything that the checks judge.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Name of the runners' namespace.
    pub namespace_name: String,
    /// The server's major and minor version.
    pub version: Fact<(u32, u32)>,
    /// How far the server's clock is ahead of ours, in seconds.
    pub ahead: Fact<i64>,
    /// The namespace.
    pub namespace: Fact<Namespace>,
    /// Names of the admission policies that deny.
    pub policies: Fact<BTreeSet<String>>,
    /// What is granted beside what is needed.
    pub rights: Fact<Comparison>,
    /// The runner pod.
    pub runner: Fact<Pod>,
    /// When this runs in it.
    pub own: Option<Own>,
    /// The runner's node.
    pub node: Fact<Node>,
    /// Where the hook template comes from.
    pub template_place: String,
    /// The hook template; what is wrong with it, when it cannot be used.
    pub template: Fact<Result<Template, String>>,
    /// What the API server, or the hook itself, says against the pod of a job.
    pub dry_run: Fact<Result<(), String>>,
    /// The claim of the work volume.
    pub work_claim: Fact<PersistentVolumeClaim>,
    /// Claims that the template clones, by name.
    pub parents: BTreeMap<String, Fact<PersistentVolumeClaim>>,
    /// Volumes of these, by name.
    pub volumes: BTreeMap<String, Fact<PersistentVolume>>,
    /// Storage classes that are named anywhere, by name.
    pub classes: BTreeMap<String, Fact<StorageClass>>,
    /// Classes of snapshots, where a cache takes any; absent where the cluster knows none.
    pub snapshot_classes: Fact<Vec<VolumeSnapshotClass>>,
    /// Lines that can be read, where there are caches.
    pub lines: Fact<Vec<Line>>,
}

impl Facts {
    /// The container of the runner pod that the runner is in.
    pub fn container(&self) -> Option<&Container> {
        let containers = &self.runner.known()?.spec.as_ref()?.containers;
        containers
            .iter()
            .find(|container| container.name == "runner")
            .or(containers.first())
    }

    /// A variable of that container: its value, or empty when that comes from elsewhere.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let env = self.container()?.env.as_ref()?;
        let variable = env.iter().rev().find(|variable| variable.name == name)?;
        Some(variable.value.as_deref().unwrap_or_default())
    }

    /// The template, where it can be used.
    pub fn template(&self) -> Option<&Template> {
        self.template.known()?.as_ref().ok()
    }

    /// User and group of the runner: what its process says, else its pod.
    pub fn identity(&self) -> Option<Identity> {
        if let Some(own) = &self.own {
            return Some(own.identity);
        }
        let spec = self.runner.known()?.spec.as_ref()?;
        let of_container = self.container()?.security_context.as_ref();
        let of_pod = spec.security_context.as_ref();
        let uid = of_container
            .and_then(|context| context.run_as_user)
            .or(of_pod.and_then(|context| context.run_as_user))?;
        let gid = of_container
            .and_then(|context| context.run_as_group)
            .or(of_pod.and_then(|context| context.run_as_group))
            .unwrap_or(uid);
        Some(Identity {
            uid: u32::try_from(uid).ok()?,
            gid: u32::try_from(gid).ok()?,
        })
    }
}

/// A claim that the template makes for each job.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClaimOfTemplate {
    /// Name of the volume.
    pub volume: String,
    /// Its storage class.
    pub class: Option<String>,
    /// The size asked for.
    pub size: Option<String>,
    /// Kind and name of what it is filled from.
    pub source: Option<(String, String)>,
}

/// The generic ephemeral volumes of a template.
pub(super) fn claims(template: &Template) -> Vec<ClaimOfTemplate> {
    let volumes = template.spec().and_then(|spec| spec.get("volumes"));
    let volumes = volumes.and_then(|volumes| volumes.as_array());
    let mut claims = Vec::new();
    for volume in volumes.into_iter().flatten() {
        let claim = &volume["ephemeral"]["volumeClaimTemplate"]["spec"];
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let (Some(name), true) = (text(&volume["name"]), claim.is_object()) else {
            continue;
        };
        let source = [&claim["dataSource"], &claim["dataSourceRef"]]
            .into_iter()
            .find_map(|source| Some((text(&source["kind"])?, text(&source["name"])?)));
        let size = &claim["resources"]["requests"]["storage"];
        claims.push(ClaimOfTemplate {
            volume: name,
            class: text(&claim["storageClassName"]),
            size: text(size).or_else(|| size.as_i64().map(|size| size.to_string())),
            source,
        });
    }
    claims
}
