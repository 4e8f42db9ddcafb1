//! Room for a job whose pod fits its node no more: jobs that are kept there make way.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::output;
use crate::cluster::{Cluster, ClusterError};
use crate::retain::{Ledger, gc};

/// How long a pod may wait before anything is given up for it, and between two kept jobs.
const LOOK: Duration = Duration::from_secs(3);

/// Waits for `act` and, beside it, has kept jobs of the node make way for the pod: the expired first, then
/// the oldest, one at a time. Asks nobody while the pod starts as fast as it should.
pub async fn beside<T>(
    cluster: &Cluster,
    pod: &str,
    node: Option<&str>,
    act: impl Future<Output = T>,
) -> T {
    // Seldom needed, and large beside what it waits with.
    let room = Box::pin(make(cluster, pod, node));
    tokio::select! {
        biased;
        done = act => done,
        never = room => match never {},
    }
}

async fn make(cluster: &Cluster, pod: &str, node: Option<&str>) -> Infallible {
    if let Some(node) = node {
        while let Ok(true) = look(cluster, pod, node).await {}
    }
    // Rights that are missing here are told of where a job is to be kept.
    std::future::pending().await
}

/// Looks once; `false` when there is nothing more to do.
async fn look(cluster: &Cluster, name: &str, node: &str) -> Result<bool, ClusterError> {
    tokio::time::sleep(LOOK).await;
    let Some(pod) = cluster.get::<Pod>(name).await? else {
        return Ok(true);
    };
    if pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some())
    {
        return Ok(false);
    }
    if !lacks_room(&pod) {
        return Ok(true);
    }
    let now = Timestamp::now();
    let gone = Ledger::change(cluster, |ledger| ledger.relieve(node, now)).await?;
    for entry in gone.into_iter().flatten() {
        output::line(&format!(
            "Kept job {} ({} {}) makes way: its node has no room for this job",
            entry.id, entry.repository, entry.run
        ));
        gc::delete(cluster, &entry).await?;
    }
    Ok(true)
}

/// Whether the scheduler says that a node lacks processors, memory or storage for the pod.
fn lacks_room(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        let message = condition.message.as_deref().unwrap_or_default();
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && (message.contains("Insufficient ") || message.contains("enough free storage"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_node_lacks_is_a_reason_to_make_room() {
        let pod = |message: &str| -> Pod {
            serde_json::from_value(json!({"status": {"conditions": [{"type": "PodScheduled",
                "status": "False", "reason": "Unschedulable", "message": message}]}}))
            .unwrap()
        };
        assert!(lacks_room(&pod(
            "0/1 nodes are available: 1 Insufficient memory."
        )));
        assert!(lacks_room(&pod(
            "0/1 nodes: 1 node(s) did not have enough free storage."
        )));
        assert!(!lacks_room(&pod(
            "0/1 nodes are available: 1 node(s) had untolerated taint"
        )));
    }
}
