//! The caches of a job: their clones before its pod, in `prepare_job`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::output;
use super::surroundings::Surroundings;
use crate::admin::rights::{self, Feature};
use crate::cache::clone::{self, Claim};
use crate::cache::policy::variable;
use crate::cache::record::{Expected, Promotion, Target, Verify, permission};
use crate::cache::select::{self, Passed};
use crate::cache::{Base, CacheRecord, Facts, Key, Line, LineError, Lineage, Policy, Verdict};
use crate::cluster::{Change, Cluster, ClusterError};
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

/// What a volume is made from, and what is told of it.
struct Choice {
    claim: Claim,
    /// Name and uid of the claim that is cloned.
    source: Option<(String, Option<String>)>,
    base: Option<Base>,
    depth: u32,
    /// "clone of …", as the log says it.
    told: String,
    passed: Vec<Passed>,
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
            output::warning(&format!(
                "{error}. The job runs on the template's own volumes. All rights that caches need: \
                 {}; `arc-hook rbac` prints them for this hook template",
                rights()
            ));
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

    /// Reads what there is to choose from, and chooses.
    async fn choose(&self, attempt: u32) -> Result<(Choice, Promotion), ClusterError> {
        let cluster = self.all.cluster;
        let node = self.all.node();
        let asked = self.plan.environment.get(&variable(self.volume));
        let (candidates, mut passed) =
            select::candidates(self.policy, self.facts, asked.map(String::as_str));
        let target = self.target();
        let mut keys: Vec<&Key> = candidates.iter().map(|one| &one.key).collect();
        keys.extend(target.iter().filter_map(|target| target.as_ref().ok()));
        keys.sort_unstable();
        keys.dedup();
        let found = join_all(keys.iter().map(|key| read_line(cluster, key))).await;
        let mut lines = BTreeMap::new();
        for (key, line) in keys.iter().zip(found) {
            if let Some(line) = line? {
                lines.insert((*key).clone(), line);
            }
        }
        let (ranked, more) = select::rank(self.policy, &candidates, &lines, node);
        passed.extend(more);
        let promotion = self.promotion(target, &lines, node);
        let name = clone::name(self.volume, self.all.nonce.as_str(), attempt);
        for (key, generation) in ranked {
            let parent = cluster
                .get::<PersistentVolumeClaim>(&generation.claim)
                .await?;
            if let Err(why) = clone::usable(parent.as_ref(), Some(&generation.uid)) {
                let why = format!("generation {}: {why}", generation.number);
                passed.push(Passed {
                    name: key.to_string(),
                    why,
                });
                continue;
            }
            let parent = parent.unwrap_or_default();
            let number = generation.number;
            let choice = Choice {
                claim: Claim {
                    name,
                    spec: clone::of(&parent),
                    parent: format!("{key} generation {number}"),
                },
                source: Some((generation.claim.clone(), Some(generation.uid.clone()))),
                depth: generation.depth + 1,
                told: format!(
                    "clone of {key} generation {number} ({}commit {})",
                    age(&generation.time),
                    short(&generation.lineage.sha)
                ),
                base: Some(Base {
                    line: key,
                    number,
                    uid: generation.uid,
                }),
                passed,
            };
            return Ok((choice, promotion));
        }
        let choice = self.fall_back(name, passed).await?;
        Ok((choice, promotion))
    }

    /// No line has a parent: the template's own data source, or nothing.
    async fn fall_back(
        &self,
        name: String,
        mut passed: Vec<Passed>,
    ) -> Result<Choice, ClusterError> {
        let template = template_spec(self.all.around, self.volume);
        let source = &template["dataSource"];
        let mut choice = Choice {
            claim: Claim {
                name,
                spec: template.clone(),
                parent: "empty".to_owned(),
            },
            source: None,
            base: None,
            depth: 0,
            told: "empty".to_owned(),
            passed: Vec::new(),
        };
        let kind = source["kind"].as_str().unwrap_or_default();
        let parent = source["name"].as_str().unwrap_or_default();
        if kind == "PersistentVolumeClaim" {
            let found = self
                .all
                .cluster
                .get::<PersistentVolumeClaim>(parent)
                .await?;
            match clone::usable(found.as_ref(), None) {
                Ok(()) => {
                    let found = found.unwrap_or_default();
                    choice.claim.spec = clone::of(&found);
                    choice.claim.parent = format!("claim {parent}");
                    choice.told = format!("clone of claim `{parent}`, the template's dataSource");
                    choice.source = Some((parent.to_owned(), found.metadata.uid));
                    choice.depth = 1;
                }
                Err(why) => {
                    passed.push(Passed {
                        name: format!("claim `{parent}`, the template's dataSource"),
                        why,
                    });
                    if let Some(spec) = choice.claim.spec.as_object_mut() {
                        spec.remove("dataSource");
                        spec.remove("dataSourceRef");
                    }
                }
            }
        } else if !kind.is_empty() {
            choice.claim.parent = format!("{kind} {parent}");
            choice.told = format!("made from {kind} `{parent}`, the template's dataSource");
            choice.depth = 1;
        }
        choice.passed = passed;
        Ok(choice)
    }

    /// The line that this job's clone would be promoted to, or why to none; `None` when the
    /// template promotes nothing.
    fn target(&self) -> Option<Result<Key, String>> {
        let promote = self.policy.promote.as_ref()?;
        let job = &self.all.around.config.github;
        Some(permission(promote, job, self.verdict).and_then(|()| {
            promote
                .to
                .fill(self.facts)
                .ok_or_else(|| format!("`{}` is empty for this job", promote.to))
        }))
    }

    /// What is settled now about the end of the job.
    fn promotion(
        &self,
        target: Option<Result<Key, String>>,
        lines: &BTreeMap<Key, Result<Line, LineError>>,
        node: Option<&str>,
    ) -> Promotion {
        let Some(target) = target else {
            return Promotion::Off;
        };
        let settled = target.and_then(|key| {
            let node = node.ok_or("the node of the runner is not known")?;
            let expected = match lines.get(&key) {
                None => None,
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(line)) if line.key != key => {
                    return Err(format!("its object holds the line {}", line.key));
                }
                Some(Ok(line)) => line.current(node).map(Expected::of),
            };
            let job = &self.all.around.config.github;
            Ok(Target {
                node: node.to_owned(),
                expected,
                keep: self.policy.keep(),
                verify: self.verify()?,
                lineage: Lineage::of(job, self.verdict),
                line: key,
            })
        });
        match settled {
            Ok(target) => Promotion::To(Box::new(target)),
            Err(why) => Promotion::No(why),
        }
    }

    fn verify(&self) -> Result<Option<Verify>, String> {
        if self.policy.verify.is_empty() {
            return Ok(None);
        }
        let path = clone::mount_path(&self.plan.pod, names::JOB_CONTAINER, self.volume)
            .ok_or("nothing can verify it, because `$job` does not mount the volume")?;
        Ok(Some(Verify {
            command: self.policy.verify.clone(),
            image: self.plan.image.clone(),
            path,
            environment: clone::plain_environment(&self.plan.pod, names::JOB_CONTAINER),
        }))
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
        let Some((name, uid)) = &choice.source else {
            return Ok(false);
        };
        let found = self.all.cluster.get::<PersistentVolumeClaim>(name).await?;
        Ok(clone::usable(found.as_ref(), uid.as_deref()).is_err())
    }

    fn tell(&self, choice: &Choice, cloned: &Cloned) {
        let time = match cloned {
            Cloned::Bound(time) => format!(", in {:.1} s", time.as_secs_f64()),
            Cloned::Pending | Cloned::Orphaned => ", not bound yet".to_owned(),
        };
        let mut line = format!("Cache {}: {}{time}", self.volume, choice.told);
        for passed in &choice.passed {
            line.push_str("; ");
            line.push_str(&passed.to_string());
        }
        output::line(&line);
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
            output::line(&format!(
                "Cache {} is not at `{path}` in this action: one pod alone can mount it. Where its \
                 storage class lets pods of a node share a volume (for zfs-localpv `shared: \"yes\"`, \
                 set before the first parent is made), set `shared: true` in the annotation \
                 `arc-hook/cache.{}`",
                cache.volume, cache.volume
            ));
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

/// The rights that caches need, in a sentence.
fn rights() -> String {
    let rules = rights::rules(&[Feature::Caches]);
    let told = |rule: &rights::Rule| format!("{} on `{}`", rule.verbs.join(", "), rule.resource);
    rules.iter().map(told).collect::<Vec<_>>().join("; ")
}

async fn read_line(
    cluster: &Cluster,
    key: &Key,
) -> Result<Option<Result<Line, LineError>>, ClusterError> {
    let found = cluster.get::<ConfigMap>(&key.object_name()).await?;
    Ok(found.map(|map| Line::read(&map)))
}

/// The spec of the claim that the template would have made for a volume.
fn template_spec(around: &Surroundings<'_>, volume: &str) -> Value {
    let volumes = around.template.spec().and_then(|spec| spec.get("volumes"));
    volumes
        .and_then(Value::as_array)
        .and_then(|volumes| volumes.iter().find(|found| found["name"] == volume))
        .map(|found| found["ephemeral"]["volumeClaimTemplate"]["spec"].clone())
        .unwrap_or_default()
}

/// Drivers that let pods of several nodes mount a volume let two of one node.
fn is_shared(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.access_modes.as_ref());
    modes.is_some_and(|modes| modes.iter().any(|mode| mode == "ReadWriteMany"))
}

fn short(sha: &str) -> &str {
    sha.get(..7)
        .filter(|_| !sha.is_empty())
        .unwrap_or("unknown")
}

/// "3 h old, ", or nothing for a time that cannot be read.
fn age(time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return String::new();
    };
    let seconds = Timestamp::now().as_second() - time.as_second();
    let (number, unit) = match seconds {
        ..120 => (seconds.max(0), "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{number} {unit} old, ")
}
