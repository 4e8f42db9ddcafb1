//! The Lease by which jobs that end together do not all clean.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use crate::cluster::{Cluster, ClusterError};

/// Its name.
const LEASE: &str = "arc-hook-gc";
/// How long it is held, and how often one looks at most.
const LEASE_SECONDS: i32 = 60;

/// Takes it, unless another has it or has just had it.
pub async fn acquire(cluster: &Cluster, holder: &str) -> Result<Option<Lease>, ClusterError> {
    let now = Timestamp::now();
    let held = |metadata: ObjectMeta| Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    let Some(found) = cluster.get::<Lease>(LEASE).await? else {
        let metadata = ObjectMeta {
            name: Some(LEASE.to_owned()),
            ..ObjectMeta::default()
        };
        return cluster.create_new(&held(metadata)).await;
    };
    let renewed = found
        .spec
        .as_ref()
        .and_then(|spec| spec.renew_time.as_ref());
    let since = renewed.map_or(i64::MAX, |time| now.as_second() - time.0.as_second());
    if since < i64::from(LEASE_SECONDS) {
        return Ok(None);
    }
    cluster.replace(&held(found.metadata)).await
}

/// Best effort: it runs out by itself.
pub async fn release(cluster: &Cluster, mut lease: Lease) {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
    }
    let _ = cluster.replace(&lease).await;
}
