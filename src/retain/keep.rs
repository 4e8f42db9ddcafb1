//! Takes a job out of its runner's hands, so that neither ARC nor the garbage collector ends it.
//!
//! | step | what a crash after it leaves |
//! |---|---|
//! | the job enters the ledger, others leave it | an entry whose objects go with the runner |
//! | its claims lose their owner | claims that the ledger names |
//! | its pod loses owner and `runner-pod` label (or a manifest is left, and the pod deleted) | a kept job |
//! | those that left the ledger are deleted | objects that no entry names; `gc` takes them |

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::ledger::{Claim, Entry, Ledger};
use super::{
    EXIT_ANNOTATION, EXPIRES_ANNOTATION, LABEL, Mode, RUN_ANNOTATION, SINCE_ANNOTATION,
    STEP_ANNOTATION, gc, twin,
};
use crate::cache::ROLE_LABEL;
use crate::cluster::{Cluster, ClusterError};
use crate::pod::names::{JOB_CONTAINER, RUNNER_POD_LABEL};

/// Seconds between SIGTERM and SIGKILL of a pod that is not needed any more.
const GRACE: u32 = 2;
/// What a kept container asks of the node's processors, in thousandths.
const REQUEST: &str = "10m";
/// The same where a limit must equal it: a shell must still be usable.
const GUARANTEED: &str = "100m";

/// A job that is to be kept.
#[derive(Debug)]
pub struct Keeping<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Its pod, as it is.
    pub pod: &'a Pod,
    /// What the ledger will say, but for its claims.
    pub entry: Entry,
    /// Name of the runner's pod.
    pub runner: &'a str,
    /// Its work claim, where it shares one with the runner, or the copy of it.
    pub work_claim: Option<&'a str>,
    /// It is the copy.
    pub copied: bool,
    /// Clones of its caches.
    pub caches: Vec<Claim>,
    /// Most that are kept.
    pub max: usize,
    /// Names of the job's Secrets, which are deleted.
    pub secrets: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// It is kept, as this entry says, and what else is to be said.
    Kept(Box<Entry>, Vec<String>),
    /// It is not, and why.
    Not(String),
}

impl Keeping<'_> {
    /// Does it. Nothing of the job is lost that would not be lost without.
    pub async fn keep(mut self) -> Result<Outcome, ClusterError> {
        let cluster = self.cluster;
        self.entry.claims = match self.claims().await? {
            Ok(claims) => claims,
            Err(why) => return Ok(Outcome::Not(why)),
        };
        let (max, now) = (self.max, self.entry.since);
        let entered =
            Ledger::change(cluster, |ledger| ledger.admit(self.entry.clone(), max, now)).await?;
        let Some(crowded_out) = entered else {
            return Ok(Outcome::Not("too many jobs end at once".to_owned()));
        };
        let told = match self.take().await {
            Ok(Ok(told)) => told,
            failed => {
                self.leave(crowded_out).await?;
                return failed.map(|why| Outcome::Not(why.err().unwrap_or_default()));
            }
        };
        for entry in &crowded_out {
            gc::delete(cluster, entry).await?;
        }
        // Another that failed meanwhile may have crowded it out before there was anything to delete.
        if !Ledger::read(cluster)
            .await?
            .entries
            .contains_key(&self.entry.id)
        {
            gc::delete(cluster, &self.entry).await?;
            let why = "more jobs failed at once than are kept, and others were later";
            return Ok(Outcome::Not(why.to_owned()));
        }
        Ok(Outcome::Kept(Box::new(self.entry), told))
    }

    /// Takes back what its entry did, unless another has crowded it out meanwhile: then its place is taken,
    /// and whom it crowded out goes.
    async fn leave(&self, crowded_out: Vec<Entry>) -> Result<(), ClusterError> {
        let now = self.entry.since;
        let back = Ledger::change(self.cluster, |ledger| {
            let had_place = ledger.entries.remove(&self.entry.id).is_some();
            let (back, gone): (Vec<Entry>, Vec<Entry>) = crowded_out
                .iter()
                .cloned()
                .partition(|entry| had_place && !entry.is_expired(now));
            ledger
                .entries
                .extend(back.into_iter().map(|entry| (entry.id.clone(), entry)));
            gone
        });
        for entry in back.await?.iter().flatten() {
            gc::delete(self.cluster, entry).await?;
        }
        Ok(())
    }

    /// The claims to be kept, or why they cannot be.
    async fn claims(&self) -> Result<Result<Vec<Claim>, String>, ClusterError> {
        let mut claims = self.caches.clone();
        let named = self.work_claim.map(str::to_owned);
        let of_the_pod = match self.entry.mode {
            Mode::Pod => Vec::new(),
            Mode::Volumes => twin::ephemeral_claims(self.pod),
        };
        for name in named.into_iter().chain(of_the_pod) {
            let Some(found) = self.cluster.get::<PersistentVolumeClaim>(&name).await? else {
                return Ok(Err(format!("its claim `{name}` is gone")));
            };
            let is_work = Some(name.as_str()) == self.work_claim;
            if let Some(why) = lost(&found, is_work.then_some(self.runner)) {
                return Ok(Err(why));
            }
            let uid = found.metadata.uid.unwrap_or_default();
            claims.push(Claim { name, uid });
        }
        Ok(Ok(claims))
    }

    /// Changes the objects; what is to be said of it.
    async fn take(&self) -> Result<Result<Vec<String>, String>, ClusterError> {
        let cluster = self.cluster;
        for claim in &self.entry.claims {
            let patch = json!({"metadata": self.marks(&Map::from_iter([
                (ROLE_LABEL.to_owned(), Value::Null)]))});
            let patched = cluster
                .patch::<PersistentVolumeClaim>(&claim.name, &claim.uid, patch)
                .await?;
            match patched {
                Some(kept) if kept.metadata.deletion_timestamp.is_none() => {}
                _ => return Ok(Err(format!("its claim `{}` is gone", claim.name))),
            }
        }
        let (name, uid) = (&self.entry.pod, &self.entry.pod_uid);
        if self.entry.mode == Mode::Volumes {
            let copied = self.work_claim.filter(|_| self.copied);
            let map = twin::config_map(self.pod, &self.entry, &self.secrets, copied);
            cluster.create::<ConfigMap>(&map, &self.entry.id).await?;
            cluster.delete::<Pod>(name, Some(uid), Some(GRACE)).await?;
            return Ok(Ok(Vec::new()));
        }
        let mut told = Vec::new();
        // While it still is the runner's own: the admission policy lets it change no other pod.
        if let Some(resize) = self.pod.spec.as_ref().and_then(given_back)
            && let Err(error) = cluster.resize(name, resize).await
        {
            told.push(format!("its processors are not given back: {error}"));
        }
        let patch = pod_patch(self.pod, &self.entry, self.marks(&Map::new()));
        match cluster.patch::<Pod>(name, uid, patch).await? {
            Some(kept) if kept.metadata.deletion_timestamp.is_none() => {}
            _ => return Ok(Err(format!("its pod `{name}` is gone"))),
        }
        Ok(Ok(told))
    }

    fn marks(&self, labels: &Map<String, Value>) -> Value {
        marks(&self.entry, labels)
    }
}

/// Metadata of a kept object; `labels` besides.
fn marks(entry: &Entry, labels: &Map<String, Value>) -> Value {
    let mut labels = labels.clone();
    labels.insert(LABEL.to_owned(), json!(entry.id));
    labels.insert(RUNNER_POD_LABEL.to_owned(), Value::Null);
    json!({
        "ownerReferences": null, "labels": labels,
        "annotations": {SINCE_ANNOTATION: entry.since.to_string()},
    })
}

/// Why a claim cannot be kept: it goes already, or, as the work claim of that runner, is another's.
fn lost(claim: &PersistentVolumeClaim, runner: Option<&str>) -> Option<String> {
    let metadata = &claim.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    if metadata.deletion_timestamp.is_some() {
        return Some(format!(
            "its claim `{name}` is being deleted already, which nothing can stop"
        ));
    }
    let owners = metadata.owner_references.iter().flatten();
    let mut owners = owners.filter(|owner| owner.kind == "Pod");
    let is_own = runner.is_none_or(|runner| owners.any(|one| one.name == runner));
    (!is_own).then(|| {
        format!(
            "the work volume's claim `{name}` is not the runner pod's own, so the next job needs it"
        )
    })
}

/// The work claim of a job: why it cannot be kept, if so, and its storage class.
///
/// # Errors
/// It cannot be read, or changing it takes a right that is missing.
pub async fn work_claim(
    cluster: &Cluster,
    name: &str,
    runner: &str,
    entry: &Entry,
) -> Result<(Option<String>, Option<String>), ClusterError> {
    let Some(found) = cluster.get::<PersistentVolumeClaim>(name).await? else {
        return Ok((Some(format!("its claim `{name}` is gone")), None));
    };
    let class = found
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.clone());
    if let Some(why) = lost(&found, Some(runner)) {
        return Ok((Some(why), class));
    }
    let uid = found.metadata.uid.unwrap_or_default();
    let patch = json!({"metadata": marks(entry, &Map::new())});
    let tried = cluster.would_patch::<PersistentVolumeClaim>(name, &uid, patch);
    match tried.await {
        Ok(Some(_)) => Ok((None, class)),
        Ok(None) => Ok((Some(format!("its claim `{name}` is gone")), class)),
        Err(error) if error.is_denied() => Ok((Some(error.to_string()), class)),
        Err(error) => Err(error),
    }
}

/// What makes a pod a kept one. The deadline can be set once, and then only shrink.
#[must_use]
fn pod_patch(pod: &Pod, entry: &Entry, mut metadata: Value) -> Value {
    let annotations = &mut metadata["annotations"];
    annotations[EXPIRES_ANNOTATION] = json!(entry.expires.to_string());
    annotations[RUN_ANNOTATION] = json!(entry.run_url);
    if let Some(step) = &entry.step {
        annotations[STEP_ANNOTATION] = json!(step);
    }
    if let Some(exit) = entry.exit {
        annotations[EXIT_ANNOTATION] = json!(exit.to_string());
    }
    let mut patch = json!({"metadata": metadata});
    if let Some(seconds) = deadline(pod, entry.latest) {
        patch["spec"] = json!({"activeDeadlineSeconds": seconds});
    }
    patch
}

/// `activeDeadlineSeconds` by which the cluster itself ends the pod at `latest`; `None` where the
/// template has set an earlier one.
#[must_use]
pub fn deadline(pod: &Pod, latest: Timestamp) -> Option<i64> {
    let started = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let started = started.map_or_else(Timestamp::now, |time| time.0);
    let seconds = (latest.as_second() - started.as_second()).max(1);
    let set = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.active_deadline_seconds);
    set.is_none_or(|set| set > seconds).then_some(seconds)
}

/// The time after which the job's pod ends anyway.
#[must_use]
pub fn latest(pod: &Pod, since: Timestamp, max_ttl: std::time::Duration) -> Timestamp {
    let latest = later(since, max_ttl);
    let set = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.active_deadline_seconds);
    let started = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    match (set, started) {
        (Some(set), Some(started)) => latest.min(
            started
                .0
                .checked_add(SignedDuration::from_secs(set))
                .unwrap_or(latest),
        ),
        _ => latest,
    }
}

/// A time after another.
#[must_use]
pub fn later(since: Timestamp, time: std::time::Duration) -> Timestamp {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    since
        .checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// The patch that takes the pod's processors down to next to nothing, for the subresource `resize`.
/// `None` when it asks for none. A pod whose limits equal its requests must keep that (Kubernetes, "Resize
/// CPU and Memory Resources": the class cannot change).
#[must_use]
fn given_back(spec: &PodSpec) -> Option<Value> {
    let resources =
        |container: &k8s_openapi::api::core::v1::Container, of_limits: bool, name: &str| {
            let resources = container.resources.as_ref()?;
            let amounts = if of_limits {
                &resources.limits
            } else {
                &resources.requests
            };
            amounts.as_ref()?.get(name).map(|amount| amount.0.clone())
        };
    let guaranteed = spec.containers.iter().all(|container| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = resources(container, true, name);
            limit.is_some() && limit == resources(container, false, name)
        })
    });
    let containers: Vec<Value> = spec
        .containers
        .iter()
        .filter(|container| {
            let request = resources(container, false, "cpu");
            request.is_some_and(|request| request != REQUEST && request != GUARANTEED)
        })
        .map(|container| {
            let resources = if guaranteed {
                json!({"requests": {"cpu": GUARANTEED}, "limits": {"cpu": GUARANTEED}})
            } else {
                json!({"requests": {"cpu": REQUEST}})
            };
            json!({"name": container.name, "resources": resources})
        })
        .collect();
    (!containers.is_empty()).then(|| json!({"spec": {"containers": containers}}))
}

/// Containers beside the job's whose environment comes from Secrets, and which still run.
#[must_use]
pub fn with_secrets(pod: &Pod) -> Vec<String> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let ended: Vec<&str> = statuses
        .filter(|status| {
            let state = status.state.as_ref();
            state.is_some_and(|state| state.terminated.is_some())
        })
        .map(|status| status.name.as_str())
        .collect();
    pod.spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .filter(|container| container.name != JOB_CONTAINER)
        .filter(|container| {
            container.env.iter().flatten().any(|variable| {
                let from = variable.value_from.as_ref();
                from.is_some_and(|from| from.secret_key_ref.is_some())
            })
        })
        .map(|container| container.name.clone())
        .filter(|name| !ended.contains(&name.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ledger::tests::{at, entry};
    use super::*;

    fn pod(containers: &Value, deadline: Option<i64>) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "r-workflow"},
            "spec": {"containers": containers, "activeDeadlineSeconds": deadline},
            "status": {"startTime": at(0).to_string()},
        }))
        .unwrap()
    }

    #[test]
    fn the_cluster_itself_ends_a_kept_pod_at_the_last() {
        let plain = pod(&json!([]), None);
        let latest_of = |pod: &Pod| latest(pod, at(100), Duration::from_secs(1000));
        assert_eq!(latest_of(&plain), at(1100));
        assert_eq!(deadline(&plain, at(1100)), Some(1100));
        let short = pod(&json!([]), Some(600));
        assert_eq!(latest_of(&short), at(600));
        assert_eq!(deadline(&short, at(600)), None);
        let long = pod(&json!([]), Some(9999));
        assert_eq!(deadline(&long, latest_of(&long)), Some(1100));
    }

    #[test]
    fn processors_are_given_back_within_the_pods_class() {
        let resources = |resources: Value| json!([{"name": "job", "resources": resources}]);
        let back = |containers| given_back(&pod(&containers, None).spec.unwrap());
        assert_eq!(back(resources(json!({}))), None);
        let request = back(resources(
            json!({"requests": {"cpu": "2", "memory": "4Gi"}}),
        ))
        .unwrap();
        assert_eq!(
            request["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "10m"}})
        );
        let both = json!({"cpu": "2", "memory": "4Gi"});
        let both = back(resources(json!({"requests": both, "limits": both}))).unwrap();
        assert_eq!(
            both["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "100m"}})
        );
    }

    #[test]
    fn a_kept_pod_says_when_why_and_where_from() {
        let patch = pod_patch(
            &pod(&json!([]), None),
            &entry("0a1b2c3d", "o/r", 0, 60),
            json!({}),
        );
        insta::assert_yaml_snapshot!(patch);
    }

    #[test]
    fn services_that_hold_a_secret_are_known_until_they_ended() {
        let secret =
            json!([{"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
        let mut pod = pod(
            &json!([{"name": "job", "env": secret}, {"name": "db", "env": secret}, {"name": "plain"}]),
            None,
        );
        assert_eq!(with_secrets(&pod), ["db"]);
        let ended = json!([{"name": "db", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 143}}}]);
        pod.status.as_mut().unwrap().container_statuses = serde_json::from_value(ended).unwrap();
        assert!(with_secrets(&pod).is_empty());
    }
}
