//! The caches of a job: their clones before its pod, in `prepare_job`.

mod choose;
mod tell;

use std::time::{Duration, Instant};

use choose::{Choice, Source};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::output;
use super::surroundings::Surroundings;
use crate::cache::{CacheRecord, Facts, Kind, Policy, Verdict, clone, snapshot};
use crate::cluster::{Change, Cluster, ClusterError, VolumeSnapshot};
use crate::fault;
use crate::pod::{self, Plan, names};
use crate::spool::Nonce;
use crate::worker_log;

/// How long a clone is awaited before its pod is created. The scheduler refuses a pod whose claim
/// is not bound and looks again only after a pause that grows, so the pod comes after the claim;
/// but a claim that takes longer than this has a reason, which waiting for the pod brings out.
const BOUND: Duration = Duration::from_secs(20);
/// How often a claim is looked at where the Role does not let us watch.
const LOOK: Duration = Duration::from_millis(100);
/// When a parent that vanished under its clone is first thought of, and how often.
const PARENT_LOOK: Duration = Duration::from_secs(2);
/// How often a parent may vanish.
const ATTEMPTS: u32 = 3;

/// Makes the claims of a job's caches.
pub struct Caches<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// What pods are built from.
    pub around: &'a Surroundings<'a>,
    /// The job's nonce.
    pub nonce: &'a Nonce,
    /// Notes a claim before it is made.
    pub made: &'a dyn Fn(&str),
}

impl std::fmt::Debug for Caches<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches").finish_non_exhaustive()
    }
}

/// How a clone came out.
enum Cloned {
    /// It is bound.
    Bound(Duration),
    /// Nothing yet; the pod's own wait tells why.
    Pending,
    /// What it is cloned from has gone meanwhile.
    Orphaned,
}

impl Caches<'_> {
    /// Makes the claims and puts them into the pod; tells of each in one line. A Role that does not
    /// allow it is one warning, and the job runs on the template's own volumes.
    pub async fn prepare(&self, plan: &mut Plan) -> Result<Vec<CacheRecord>, ClusterError> {
        let policies = &self.around.template.settings().caches;
        if policies.is_empty() {
            return Ok(Vec::new());
        }
        let job = &self.around.config.github;
        let verdict = Verdict::of(
            job,
            (job.event == "pull_request")
                .then(|| worker_log::pull_request(&self.around.config.paths.diagnostics()))
                .flatten()
                .as_ref(),
        );
        let facts = self.facts(plan);
        let one = |(volume, policy): (&String, &Policy)| {
            let volume = volume.clone();
            let policy = policy.clone();
            let (plan, facts, verdict) = (&*plan, &facts, &verdict);
            async move {
                let one = One {
                    all: self,
                    volume: &volume,
                    policy: &policy,
                    facts,
                    verdict,
                    plan,
                };
                one.prepare().await
            }
        };
        let outcomes = join_all(policies.iter().map(one)).await;
        let mut records = Vec::new();
        let mut refused = None;
        for outcome in outcomes {
            match outcome {
                Ok(record) => {
                    clone::mount(&mut plan.pod, &record.volume, &record.claim);
                    records.push(record);
                }
                Err(error) if error.is_forbidden() => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = refused {
            tell::refused(&error, policies.values());
        }
        Ok(records)
    }

    fn facts(&self, plan: &Plan) -> Facts {
        let job = &self.around.config.github;
        Facts {
            repository: job.repository.clone(),
            owner: job.owner.clone(),
            git_ref: job.git_ref.clone(),
            base_ref: job.base_ref.clone(),
            workflow: job.workflow.clone(),
            job: job.job.clone(),
            image: plan.image.clone(),
            arch: job.arch.clone(),
        }
    }

    fn node(&self) -> Option<&str> {
        self.around.runner.as_ref()?.node.as_deref()
    }
}

/// One cache on its way.
struct One<'a> {
    all: &'a Caches<'a>,
    volume: &'a str,
    policy: &'a Policy,
    facts: &'a Facts,
    verdict: &'a Verdict,
    plan: &'a Plan,
}

impl One<'_> {
    async fn prepare(&self) -> Result<CacheRecord, ClusterError> {
        let mut attempt = 0;
        loop {
            let (choice, promotion) = self.choose(attempt).await?;
            let (claim, cloned) = self.clone(&choice).await?;
            if let (Cloned::Orphaned, true) = (&cloned, attempt + 1 < ATTEMPTS) {
                output::line(&format!(
                    "Cache {}: {} is gone; choosing anew",
                    self.volume, choice.claim.parent
                ));
                let name = &choice.claim.name;
                let uid = claim.metadata.uid.as_deref();
                let cluster = self.all.cluster;
                cluster
                    .delete::<PersistentVolumeClaim>(name, uid, None)
                    .await?;
                attempt += 1;
                continue;
            }
            self.tell(&choice, &cloned);
            return Ok(CacheRecord {
                volume: self.volume.to_owned(),
                claim: choice.claim.name,
                uid: claim.metadata.uid.clone().unwrap_or_default(),
                base: choice.base,
                depth: choice.depth,
                shared: self.policy.shared.unwrap_or_else(|| is_shared(&claim)),
                promotion,
            });
        }
    }

    /// Creates the claim, and waits until it is bound.
    async fn clone(
        &self,
        choice: &Choice,
    ) -> Result<(PersistentVolumeClaim, Cloned), ClusterError> {
        let Caches {
            cluster,
            around,
            nonce,
            made,
            ..
        } = self.all;
        let node = self.all.node();
        let metadata = pod::metadata(&around.inputs(nonce));
        let begin = Instant::now();
        made(&choice.claim.name);
        let mut claim = cluster
            .create::<PersistentVolumeClaim>(&choice.claim.manifest(metadata, node), nonce.as_str())
            .await?;
        fault::point("claim-created");
        if node.is_none() {
            // Its class may wait for the pod.
            return Ok((claim, Cloned::Pending));
        }
        let mut may_watch = true;
        let mut parent_seen = begin;
        while begin.elapsed() < BOUND.min(around.config.prepare_timeout) {
            let phase = claim
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            if phase == Some("Bound") {
                return Ok((claim, Cloned::Bound(begin.elapsed())));
            }
            if parent_seen.elapsed() >= PARENT_LOOK {
                parent_seen = Instant::now();
                if self.is_orphaned(choice).await? {
                    return Ok((claim, Cloned::Orphaned));
                }
            }
            match next(cluster, &claim, &mut may_watch).await? {
                Some(found) => claim = found,
                None => return Ok((claim, Cloned::Pending)),
            }
        }
        Ok((claim, Cloned::Pending))
    }

    async fn is_orphaned(&self, choice: &Choice) -> Result<bool, ClusterError> {
        let Some(Source { kind, name, uid }) = &choice.source else {
            return Ok(false);
        };
        let cluster = self.all.cluster;
        let usable = match kind {
            Kind::Claim => {
                let found = cluster.get::<PersistentVolumeClaim>(name).await?;
                clone::usable(found.as_ref(), Some(uid))
            }
            Kind::Snapshot => {
                let found = cluster.get::<VolumeSnapshot>(name).await?;
                snapshot::usable(found.as_ref(), uid)
            }
        };
        Ok(usable.is_err())
    }
}

/// Gives a container action the job's clones where two pods can mount one; elsewhere it runs
/// without, and the log says so.
pub fn lend(plan: &mut Plan, caches: &[CacheRecord]) {
    for cache in caches {
        if cache.shared {
            clone::mount(&mut plan.pod, &cache.volume, &cache.claim);
            continue;
        }
        let path = clone::mount_path(&plan.pod, names::JOB_CONTAINER, &cache.volume);
        clone::unmount(&mut plan.pod, &cache.volume);
        if let Some(path) = path {
            tell::not_lent(cache, &path);
        }
    }
}

/// The claim after its next change, or after a moment.
async fn next(
    cluster: &Cluster,
    claim: &PersistentVolumeClaim,
    may_watch: &mut bool,
) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let version = claim.metadata.resource_version.as_deref();
    if let (true, Some(version)) = (*may_watch, version) {
        let change = cluster.changed::<PersistentVolumeClaim>(name, version);
        match tokio::time::timeout(PARENT_LOOK, change).await {
            Ok(Ok(Change::Changed(found))) => return Ok(Some(*found)),
            Ok(Ok(Change::Gone)) => return Ok(None),
            Err(_) | Ok(Ok(Change::None)) => {}
            Ok(Err(_)) => *may_watch = false,
        }
    } else {
        tokio::time::sleep(LOOK).await;
    }
    cluster.get(name).await
}

/// Drivers that let pods of several nodes mount a volume let two of one node.
fn is_shared(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_ref());
    modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteMany"))
}
