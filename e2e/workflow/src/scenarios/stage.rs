//! Where a scenario runs its jobs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::harness::cluster::Cluster;
use crate::harness::runner::{Options, Outcome, Runner};
use crate::job::Job;

/// What is done beside a job may take so long.
const ACTS: Duration = Duration::from_secs(100);

/// What a scenario acts on.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// For whatever is random.
    pub seed: u64,
    /// The log of the job that ran last.
    log: Mutex<String>,
}

impl Stage {
    /// A stage on `cluster`.
    #[must_use]
    pub fn new(cluster: Cluster, seed: u64) -> Self {
        Self {
            cluster,
            seed,
            log: Mutex::default(),
        }
    }

    /// The log of the last job.
    #[must_use]
    pub fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The text of a job of `e2e/jobs/`.
    pub fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.cluster.paths.script("jobs").join(file);
        std::fs::read_to_string(&path)
            .with_context(|| format!("failed to read `{}`", path.display()))
    }

    pub(super) async fn run_file(&self, file: &str) -> anyhow::Result<()> {
        self.run_file_beside(file, async |_: &Runner| Ok(()))
            .await?;
        Ok(())
    }

    /// Runs a job of `e2e/jobs/` with the hook template that it asks for, and
    /// `acts` beside it.
    pub(super) async fn run_file_beside(
        &self,
        file: &str,
        acts: impl AsyncFnOnce(&Runner) -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        let text = self.read(file)?;
        let options = Options {
            template: self.cluster.template_of(&Job::parse(&text)?)?,
            ..Options::default()
        };
        self.run_beside(&text, &options, acts).await
    }

    /// Runs a job in a runner pod of its own, from creation to removal. A
    /// failure that the driver reports is one of the scenario.
    pub async fn run_job(&self, job: &str, options: &Options) -> anyhow::Result<Outcome> {
        self.run_beside(job, options, async |_: &Runner| Ok(()))
            .await
    }

    /// The same, with `acts` beside the running job. The job's log is kept
    /// whatever goes wrong.
    pub async fn run_beside(
        &self,
        job: &str,
        options: &Options,
        acts: impl AsyncFnOnce(&Runner) -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        let runner = Runner::start(&self.cluster, options).await?;
        runner.submit(job)?;
        let finished = async {
            tokio::time::timeout(ACTS, acts(&runner))
                .await
                .unwrap_or_else(|_| bail!("the job did not come so far within {ACTS:?}"))?;
            runner.finish(&mut |_| ()).await
        };
        let outcome = finished.await;
        self.keep(runner.log());
        let removed = runner.remove().await;
        let outcome = outcome?;
        judge(&outcome)?;
        removed?;
        Ok(outcome)
    }

    /// Keeps the log of a job, for the case of a failure.
    pub fn keep(&self, log: String) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log;
    }
}

/// Fails with what the driver found wrong.
pub fn judge(outcome: &Outcome) -> anyhow::Result<()> {
    if outcome.report.failures.is_empty() {
        return Ok(());
    }
    bail!("{}", outcome.report.failures.join("\n"))
}
