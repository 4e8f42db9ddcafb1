//! What a job leaves in the cluster, found by its label.
//!
//! `cleanup_job` removes it; `prepare_job` removes what a job left whose `cleanup_job` never ran,
//! because the runner was killed or shut down.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Secret};

use super::output;
use crate::cluster::{Cluster, ClusterError};
use crate::pod::names;

/// Seconds between SIGTERM and SIGKILL. The kubelet gives two at least; what runs is of no use to
/// anyone any more.
const GRACE: u32 = 2;
/// How long a new job waits for an old pod's processes. They may still write to the work volume.
const GONE: Duration = Duration::from_secs(30);

/// Pods and secrets of a runner's jobs.
#[derive(Debug, Default)]
pub struct Leftovers {
    pods: Vec<Pod>,
    secrets: Vec<Secret>,
}

impl Leftovers {
    /// Finds them.
    pub async fn find(cluster: &Cluster, pod_name: &str) -> Result<Self, ClusterError> {
        let label = names::label(pod_name);
        let (pods, secrets) = tokio::try_join!(
            cluster.labelled::<Pod>(names::RUNNER_POD_LABEL, &label),
            cluster.labelled::<Secret>(names::RUNNER_POD_LABEL, &label),
        )?;
        let pods = pods
            .into_iter()
            // Whoever labels the runner itself so must not have it deleted from within.
            .filter(|pod| pod.metadata.name.as_deref() != Some(pod_name))
            .collect();
        Ok(Self { pods, secrets })
    }

    /// How many pods and secrets these are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.pods.len(), self.secrets.len())
    }

    /// Whether the pod of that name runs and is not about to go. A node may tell of a start later than a
    /// short job is over, so it counts as running until it has ended.
    #[must_use]
    pub fn has_running(&self, name: &str) -> bool {
        self.pods.iter().any(|pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            pod.metadata.name.as_deref() == Some(name)
                && pod.metadata.deletion_timestamp.is_none()
                && !matches!(phase, Some("Failed" | "Succeeded"))
        })
    }

    /// The pods.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Names of the secrets.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let names = self.secrets.iter();
        names.filter_map(|one| one.metadata.name.clone()).collect()
    }

    /// Leaves out the pod of that name: it stays.
    pub fn spare(&mut self, name: &str) {
        self.pods
            .retain(|pod| pod.metadata.name.as_deref() != Some(name));
    }

    /// Deletes them all, and goes on where one cannot be deleted. The first failure is returned.
    pub async fn delete(&self, cluster: &Cluster) -> Result<(), ClusterError> {
        self.delete_within(cluster, Some(GRACE)).await
    }

    /// The same, with another grace for the pods; `None` for each pod's own.
    pub async fn delete_within(
        &self,
        cluster: &Cluster,
        grace: Option<u32>,
    ) -> Result<(), ClusterError> {
        let mut outcome = Ok(());
        for pod in &self.pods {
            if pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let meta = &pod.metadata;
            let name = meta.name.as_deref().unwrap_or_default();
            let deleted = cluster
                .delete::<Pod>(name, meta.uid.as_deref(), grace)
                .await;
            outcome = outcome.and(deleted.map(drop));
        }
        for secret in &self.secrets {
            let meta = &secret.metadata;
            let name = meta.name.as_deref().unwrap_or_default();
            let deleted = cluster
                .delete::<Secret>(name, meta.uid.as_deref(), None)
                .await;
            outcome = outcome.and(deleted.map(drop));
        }
        outcome
    }

    /// Makes room for a new job: deletes them all and waits until the pods' processes are gone.
    pub async fn replace(&self, cluster: &Cluster) -> Result<(), ClusterError> {
        self.delete(cluster).await?;
        for pod in &self.pods {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let uid = pod.metadata.uid.as_deref();
            output::line(&format!(
                "An earlier job of this runner left pod `{name}`; waiting for its end"
            ));
            if !cluster.gone(name, uid, GONE).await? {
                output::warning(&format!(
                    "pod `{name}` of an earlier job does not end; its node may be lost, so only its \
                     object is deleted"
                ));
                cluster.delete::<Pod>(name, uid, Some(0)).await?;
            }
        }
        Ok(())
    }
}
