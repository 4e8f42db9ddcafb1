//! `VolumeSnapshot`s, as external-snapshotter defines them (`snapshot.storage.k8s.io/v1`): as much
//! as is asked of one here.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::ListParams;
use kube::{Api, Resource};
use serde::{Deserialize, Serialize};

use super::{Cluster, ClusterError, Known};

/// API group of snapshots.
pub const GROUP: &str = "snapshot.storage.k8s.io";
const CLASSES: &str = "volumesnapshotclasses";
/// Annotation of the class that snapshots get which name none (external-snapshotter,
/// `pkg/utils/util.go`).
const DEFAULT: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// A frozen state of a claim's volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// Name, labels and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: SnapshotSpec,
    /// How far it is.
    #[serde(default)]
    pub status: Option<SnapshotStatus>,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotSpec {
    /// Its `VolumeSnapshotClass`; the snapshot controller fills in the default where none was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_class_name: Option<String>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotStatus {
    /// Volumes can be made of it.
    pub ready_to_use: bool,
    /// Why it is not, so far; it is tried again.
    pub error: Option<SnapshotError>,
}

/// What went wrong last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotError {
    /// In the driver's words.
    pub message: String,
}

impl Resource for VolumeSnapshot {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "VolumeSnapshot".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        Self::RESOURCE.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// How a driver takes snapshots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeSnapshotClass {
    /// Name, annotations and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The CSI driver.
    #[serde(default)]
    pub driver: String,
}

impl VolumeSnapshotClass {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether snapshots of its driver's volumes are of it unless they say otherwise.
    #[must_use]
    pub fn is_default(&self) -> bool {
        let annotations = self.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get(DEFAULT))
            .map(String::as_str)
            == Some("true")
    }
}

impl Resource for VolumeSnapshotClass {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "VolumeSnapshotClass".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        CLASSES.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Known for VolumeSnapshot {
    const RESOURCE: &'static str = "volumesnapshots";
}

impl Cluster {
    /// Every snapshot of the namespace; `None` where the cluster knows no snapshots, or the Role
    /// does not let us see them.
    pub async fn snapshots(&self) -> Result<Option<Vec<VolumeSnapshot>>, ClusterError> {
        match self.list::<VolumeSnapshot>(None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_forbidden() || error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every class of snapshots; `None` where the cluster knows no snapshots.
    pub async fn snapshot_classes(&self) -> Result<Option<Vec<VolumeSnapshotClass>>, ClusterError> {
        let api: Api<VolumeSnapshotClass> = Api::all(self.client.clone());
        let parameters = ListParams::default();
        let act = self.act("list", CLASSES, "the cluster");
        match self.attempt(act, || api.list(&parameters)).await {
            Ok(found) => Ok(Some(found.items)),
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
