//! The caches of a job at its end, in `cleanup_job`: a good job's clones become parents, all others
//! go.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::leftovers::Leftovers;
use super::output;
use crate::cache::promote::{self, Outcome};
use crate::cache::record::{CacheRecord, Promotion, Target, Verify};
use crate::cache::{gc, verify};
use crate::cluster::{Cluster, ClusterError, LogSource, pause_after};
use crate::config::Config;
use crate::fault;
use crate::pod::RunnerPod;
use crate::record::{JobRecord, Memory};
use crate::worker_log::{self, JobState};

/// How long a pod may take to go beyond its own grace: the volumes are taken down meanwhile.
const TAKE_DOWN: Duration = Duration::from_mins(1);
/// What Kubernetes gives a pod that asks for nothing.
const DEFAULT_GRACE: i64 = 30;
/// How long the old ones may be looked for at the end of a job.
const TIDY: Duration = Duration::from_secs(5);
/// How many earlier clones a generation may hang on before the log says what to do.
const DEEP: u32 = 64;
/// Lines of a failed verification that are shown.
const TAIL: u32 = 30;

/// The end of a job's caches.
pub struct Finish<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The hook's configuration.
    pub config: &'a Config,
    /// The job.
    pub job: &'a JobRecord,
    /// Why the job is not good, if it is not.
    bad: Option<&'static str>,
}

impl<'a> Finish<'a> {
    /// Judges the job.
    #[must_use]
    pub fn new(
        cluster: &'a Cluster,
        config: &'a Config,
        memory: &Memory,
        job: &'a JobRecord,
    ) -> Self {
        Self {
            cluster,
            config,
            job,
            bad: if job.caches.is_empty() {
                None
            } else {
                bad(config, memory, job)
            },
        }
    }

    /// Whether a cache of this job is to become a parent: then its pod ends with its own grace.
    #[must_use]
    pub fn promotes(&self) -> bool {
        let goes = |cache: &CacheRecord| matches!(cache.promotion, Promotion::To(_));
        self.bad.is_none() && self.job.caches.iter().any(goes)
    }

    /// Promotes what is to be promoted and deletes the rest. The pods are being deleted.
    pub async fn finish(&self, leftovers: &Leftovers) -> Result<(), ClusterError> {
        if self.job.caches.is_empty() {
            return Ok(());
        }
        let mut outcome = Ok(());
        let gone = if self.promotes() {
            fault::point("pod-deleted");
            self.pods_gone(leftovers).await?
        } else {
            Ok(())
        };
        fault::point("pod-gone");
        for cache in &self.job.caches {
            let finished = self.one(cache, gone.as_ref().err().copied()).await;
            if let Err(error) = finished {
                tell(cache, &format!("not promoted: {error}"));
                outcome = Err(error);
            }
        }
        let snapshots = self.job.caches.iter().any(CacheRecord::takes_snapshot);
        let tidy = gc::after_job(self.cluster, self.config, snapshots);
        if let Ok(Err(error)) = tokio::time::timeout(TIDY, tidy).await {
            output::debug(&format!("old generations stay for now: {error}"));
        }
        outcome
    }

    /// Says why nothing is promoted of a job that is kept with its caches.
    pub fn keep(&self) {
        for cache in &self.job.caches {
            let why = match (&cache.promotion, self.bad) {
                (Promotion::Off, _) => continue,
                (Promotion::No(why), _) => why,
                (Promotion::To(_), why) => why.unwrap_or("the job is kept"),
            };
            tell(
                cache,
                &format!("not promoted: {why}; it is kept with the job"),
            );
        }
    }

    async fn one(
        &self,
        cache: &CacheRecord,
        not_gone: Option<&'static str>,
    ) -> Result<(), ClusterError> {
        let target = match &cache.promotion {
            Promotion::To(target) => Some(target.as_ref()),
            Promotion::No(_) | Promotion::Off => None,
        };
        let why = match (&cache.promotion, self.bad.or(not_gone)) {
            (Promotion::Off, _) => None,
            (Promotion::No(why), _) => Some(why.clone()),
            (Promotion::To(_), Some(why)) => Some(why.to_owned()),
            (Promotion::To(target), None) => match self.promote(cache, target).await? {
                Outcome::Promoted(number) => {
                    let line = &target.line;
                    tell(cache, &format!("promoted to {line} generation {number}"));
                    if cache.depth >= DEEP && target.snapshot.is_none() {
                        let depth = cache.depth;
                        output::line(&format!(
                            "Cache {}: it hangs on {depth} earlier ones, which are kept for it; \
                             `arc-hook cache rebase {line}` makes a copy that stands alone",
                            cache.volume
                        ));
                    }
                    if target.snapshot.is_none() {
                        return Ok(());
                    }
                    None
                }
                Outcome::Refused(why) => Some(why),
                Outcome::Lost(current) => Some(lost(target, current)),
            },
        };
        if let Some(why) = why {
            tell(cache, &format!("not promoted: {why}"));
        }
        promote::discard(self.cluster, &cache.claim, &cache.uid, target).await
    }

    async fn promote(&self, cache: &CacheRecord, target: &Target) -> Result<Outcome, ClusterError> {
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let verify = async || match &target.verify {
            None => Ok(Ok(())),
            Some(verify) => self.verify(cache, verify).await,
        };
        promote::promote(self.cluster, cache, target, &now.to_string(), verify).await
    }

    /// Runs the template's command on the sealed clone.
    async fn verify(
        &self,
        cache: &CacheRecord,
        wanted: &Verify,
    ) -> Result<Result<(), String>, ClusterError> {
        let cluster = self.cluster;
        let Some(runner) = cluster.get::<Pod>(&self.config.pod_name).await? else {
            return Ok(Err("the runner pod is gone".to_owned()));
        };
        let runner = RunnerPod::from_pod(&runner, self.config);
        let nonce = self.job.nonce.as_str();
        let pod = verify::pod(wanted, &cache.claim, self.job.user, &runner, nonce);
        let name = pod["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        cluster.create::<Pod>(&pod, nonce).await?;
        let verdict = self.verdict(&name).await;
        if !matches!(verdict, Ok(Ok(()))) {
            let source = LogSource {
                pod: &name,
                container: "verify",
            };
            let tail = cluster.log_tail(source, TAIL).await;
            output::quoted("verify", &tail);
        }
        cluster.delete::<Pod>(&name, None, Some(1)).await?;
        let verdict = verdict?;
        Ok(verdict.map_err(|why| format!("`{}` on it: {why}", wanted.command.join(" "))))
    }

    async fn verdict(&self, name: &str) -> Result<Result<(), String>, ClusterError> {
        let begin = Instant::now();
        let limit = Duration::from_secs(verify::LIMIT.into());
        loop {
            let Some(pod) = self.cluster.get::<Pod>(name).await? else {
                return Ok(Err("its pod was deleted".to_owned()));
            };
            if let Some(verdict) = verify::verdict(&pod) {
                return Ok(verdict);
            }
            if begin.elapsed() >= limit {
                return Ok(Err(format!("it did not end within {} s", verify::LIMIT)));
            }
            tokio::time::sleep(pause_after(begin.elapsed())).await;
        }
    }

    /// Waits until no pod of the job writes any more: the kubelet removes a pod's object only when
    /// its volumes are taken down.
    async fn pods_gone(
        &self,
        leftovers: &Leftovers,
    ) -> Result<Result<(), &'static str>, ClusterError> {
        let is_job = |pod: &&Pod| pod.metadata.name.as_deref() == Some(&self.job.pod);
        if leftovers.pods().iter().find(is_job).is_none() {
            // Its containers may outlive an object that was deleted by force.
            return Ok(Err("its pod was deleted by someone else"));
        }
        for pod in leftovers.pods() {
            let spec = pod.spec.as_ref();
            let grace = spec
                .and_then(|spec| spec.termination_grace_period_seconds)
                .unwrap_or(DEFAULT_GRACE);
            let limit = Duration::from_secs(grace.try_into().unwrap_or_default()) + TAKE_DOWN;
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let uid = pod.metadata.uid.as_deref();
            if !self.cluster.gone(name, uid, limit).await? {
                return Ok(Err("its pod does not end"));
            }
        }
        Ok(Ok(()))
    }
}

fn tell(cache: &CacheRecord, what: &str) {
    output::line(&format!("Cache {}: {what}", cache.volume));
}

fn lost(target: &Target, current: Option<u64>) -> String {
    let said = |number: Option<u64>| {
        number.map_or_else(
            || "none".to_owned(),
            |number| format!("generation {number}"),
        )
    };
    format!(
        "{} had {} when this job began and now has {}: another job was faster",
        target.line,
        said(target.expected.as_ref().map(|expected| expected.number)),
        said(current)
    )
}

/// Why the job is not good. Its steps' ends are known here; a failure outside of them, and a
/// cancellation between two, only to the runner.
fn bad(config: &Config, memory: &Memory, job: &JobRecord) -> Option<&'static str> {
    if job.user.is_none() {
        return Some("the job was never ready");
    }
    match worker_log::job_state(&config.paths.diagnostics()) {
        Some(JobState::Failed) => return Some("the job failed"),
        Some(JobState::Cancelled) => return Some("the job was cancelled"),
        Some(JobState::Good) | None => {}
    }
    match memory.all_good() {
        Ok(true) => None,
        Ok(false) => Some("a step of the job failed"),
        Err(_) => Some("how its steps ended cannot be read"),
    }
}
