//! `VolumeSnapshot`s, as external-snapshotter defines them (`snapshot.storage.k8s.io/v1`): as much
//! as is asked of one here.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};

use super::{Cluster, ClusterError, Known};

/// API group of snapshots.
pub const GROUP: &str = "snapshot.storage.k8s.io";

/// A frozen state of a claim's volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeSnapshot {
    /// Name, labels and so on.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// How far it is.
    #[serde(default)]
    pub status: Option<SnapshotStatus>,
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
}
