//! What a preparation has made so far, and how it goes when the job cannot be prepared.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};

use super::output;
use crate::cluster::{self, Cluster, ClusterError};
use crate::config::Config;
use crate::pod::names;
use crate::record::Memory;
use crate::spool::{JobTree, Nonce};

/// How long the removal may take: the runner kills 10 s after its first signal, and `cleanup_job`
/// follows anyway.
const REMOVAL: Duration = Duration::from_secs(5);

/// What there is to remove. Each part is noted before it is made: a signal may come between the
/// request and the answer.
#[derive(Debug, Default)]
pub struct Made {
    /// Name of the pod.
    pub pod: Option<String>,
    /// Names of secrets.
    pub secrets: Vec<String>,
    /// Names of claims, which are random: whatever bears one is ours.
    pub claims: Vec<String>,
    /// Directories on the work volume, and what is remembered of the job.
    pub directories: bool,
    copy: Option<Child>,
}

impl Made {
    /// Starts the copy of node and its like beside the starting pod. It outlives this process.
    pub fn copy_externals(&mut self, config: &Config, tree: &JobTree) -> anyhow::Result<()> {
        use std::os::unix::process::CommandExt as _;
        let program = std::env::current_exe().context("find this program itself")?;
        let child = Command::new(program)
            .args(["init", "externals", "--from"])
            .arg(&config.paths.externals)
            .arg("--to")
            .arg(tree.externals())
            .arg("--state")
            .arg(&config.paths.state)
            .arg("--job-pod")
            .arg(names::job_pod(&config.pod_name))
            // Above all without `RUNNER_TRACKING_ID`, by which the runner finds what to kill.
            .env_clear()
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the copy of the runner's `externals`")?;
        self.copy = Some(child);
        Ok(())
    }

    /// Removes it all. What cannot be removed now `cleanup_job` finds by its label.
    pub async fn remove(
        mut self,
        cluster: &Cluster,
        config: &Config,
        memory: &Memory,
        nonce: &Nonce,
    ) {
        if let Some(copy) = &mut self.copy {
            let _ = copy.kill();
            let _ = copy.wait();
        }
        let cluster = cluster.patient(REMOVAL);
        let removed = tokio::time::timeout(REMOVAL, self.objects(&cluster, nonce)).await;
        if !matches!(removed, Ok(Ok(()))) {
            output::debug("what was prepared could not be removed; `cleanup_job` will");
        }
        if self.directories {
            let _ = JobTree::remove_all(&config.paths);
            let _ = memory.remove();
        }
    }

    async fn objects(&self, cluster: &Cluster, nonce: &Nonce) -> Result<(), ClusterError> {
        if let Some(pod) = &self.pod {
            // Its creation may have been cut off, and the name be that of another.
            let found = cluster.get::<Pod>(pod).await?;
            let ours = found.filter(|pod| cluster::has_nonce(pod, nonce.as_str()));
            if let Some(uid) = ours.and_then(|pod| pod.metadata.uid) {
                cluster.delete::<Pod>(pod, Some(&uid), Some(1)).await?;
            }
        }
        for secret in &self.secrets {
            cluster.delete::<Secret>(secret, None, None).await?;
        }
        for claim in &self.claims {
            cluster
                .delete::<PersistentVolumeClaim>(claim, None, None)
                .await?;
        }
        Ok(())
    }
}
