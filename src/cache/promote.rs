//! A good job's clone becomes the next generation of a line.
//!
//! | step | what a crash after it leaves |
//! |---|---|
//! | the pod is gone, nothing writes any more | a claim that goes with the runner pod |
//! | the claim is sealed, or its snapshot taken: a generation without owner | a generation that no line names; `gc` takes it |
//! | the line's pointer is swapped | nothing |
//!
//! The pointer is swapped by the `resourceVersion` of the line's object, and only while it names
//! the generation that the job found there when it began: of all that began with it the first good
//! one wins, and the others' clones go. So the pointer names a complete generation at any moment.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::line::{Generation, Kind, Line};
use super::pattern::Key;
use super::record::{CacheRecord, Expected, Target};
use super::snapshot::{self, Seal};
use super::{
    LINE_ANNOTATION, LINE_LABEL, NUMBER_ANNOTATION, ROLE_LABEL, Role, SEALED_ANNOTATION, clone,
};
use crate::cluster::{Cluster, ClusterError, VolumeSnapshot};
use crate::fault;

/// How long after the sealing the pointer may still be swapped. `gc` takes unfinished promotions
/// for dead after [`super::gc::GRACE`], which is longer.
pub const UNFINISHED: Duration = Duration::from_mins(8);

/// What came of a promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is the current generation, with this number.
    Promoted(u64),
    /// Another was faster: the current generation is now this one, if any.
    Lost(Option<u64>),
    /// It cannot be, and why.
    Refused(String),
}

/// Seals the job's claim and moves the line's pointer to it. No pod may use the claim any more.
/// `verify` is called between the two, and may refuse. `now` is the time in RFC 3339.
pub async fn promote<V>(
    cluster: &Cluster,
    cache: &CacheRecord,
    target: &Target,
    now: &str,
    verify: V,
) -> Result<Outcome, ClusterError>
where
    V: AsyncFnOnce() -> Result<Result<(), String>, ClusterError>,
{
    let line = match read(cluster, target).await? {
        Ok(line) => line,
        Err(why) => return Ok(Outcome::Refused(why)),
    };
    // No need to seal what is beaten already.
    if let Some(lost) = beaten(&line, target, cache) {
        return Ok(lost);
    }
    let number = line
        .nodes
        .get(&target.node)
        .map_or(1, super::Generations::next);
    let begin = Instant::now();
    let sealed = match freeze(cluster, cache, target, number, now).await? {
        Ok(sealed) => sealed,
        Err(why) => return Ok(Outcome::Refused(why)),
    };
    fault::point("sealed");
    if let Err(why) = verify().await? {
        return Ok(Outcome::Refused(why));
    }
    fault::point("verified");
    let generation = |number| Generation {
        number,
        ..sealed.clone()
    };
    let mut line = line;
    loop {
        if begin.elapsed() > UNFINISHED {
            return Ok(Outcome::Refused("it took too long".to_owned()));
        }
        let entry = line.nodes.entry(target.node.clone()).or_default();
        let number = entry.next();
        entry.promote(generation(number));
        line.keep = target.keep;
        let object = line.to_config_map();
        let stored = match &line.version {
            None => cluster.create_new::<ConfigMap>(&object).await?,
            Some(_) => cluster.replace::<ConfigMap>(&object).await?,
        };
        if stored.is_some() {
            fault::point("swapped");
            return Ok(Outcome::Promoted(number));
        }
        // Another was faster, perhaps on another node, or our own answer was lost on its way.
        line = match read(cluster, target).await? {
            Ok(line) => line,
            Err(why) => return Ok(Outcome::Refused(why)),
        };
        if let Some(outcome) = beaten(&line, target, cache) {
            return Ok(outcome);
        }
    }
}

/// Seals the job's claim, or takes a snapshot of it: the generation that comes of it, or why none.
async fn freeze(
    cluster: &Cluster,
    cache: &CacheRecord,
    target: &Target,
    number: u64,
    now: &str,
) -> Result<Result<Generation, String>, ClusterError> {
    let patch = seal(&target.line, number, now);
    let (claim, taken) = match &target.snapshot {
        None => {
            let sealed = cluster
                .patch::<PersistentVolumeClaim>(&cache.claim, &cache.uid, patch)
                .await?;
            let Some(sealed) = sealed else {
                return Ok(Err("its claim is gone".to_owned()));
            };
            (sealed, None)
        }
        Some(wish) => {
            let found = cluster.get::<PersistentVolumeClaim>(&cache.claim).await?;
            if let Err(why) = clone::usable(found.as_ref(), Some(&cache.uid)) {
                return Ok(Err(why));
            }
            let claim = found.unwrap_or_default();
            let seal = Seal {
                line: &target.line,
                number,
                now,
            };
            match snapshot::take(cluster, &claim, wish, seal).await? {
                Ok(taken) => (claim, Some(taken)),
                Err(why) => return Ok(Err(why)),
            }
        }
    };
    let (kind, meta) = match &taken {
        None => (Kind::Claim, &claim.metadata),
        Some(taken) => (Kind::Snapshot, &taken.metadata),
    };
    Ok(Ok(Generation {
        number,
        kind,
        claim: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        size: clone::capacity(&claim).unwrap_or_default(),
        class: claim
            .spec
            .as_ref()
            .and_then(|spec| spec.storage_class_name.clone()),
        base: cache.base.clone(),
        depth: cache.depth,
        lineage: target.lineage.clone(),
        time: now.to_owned(),
        superseded: None,
        tainted: None,
    }))
}

/// The target's line as it is now; one that is not there yet is empty.
async fn read(cluster: &Cluster, target: &Target) -> Result<Result<Line, String>, ClusterError> {
    let found = cluster.get::<ConfigMap>(&target.line.object_name()).await?;
    let Some(found) = found else {
        return Ok(Ok(Line::new(target.line.clone())));
    };
    Ok(match Line::read(&found) {
        Ok(line) if line.key == target.line => Ok(line),
        Ok(line) => Err(format!("its object holds the line {}", line.key)),
        Err(error) => Err(error.to_string()),
    })
}

/// Whether the pointer no longer names what the job began with.
fn beaten(line: &Line, target: &Target, cache: &CacheRecord) -> Option<Outcome> {
    let current = line.current(&target.node);
    // A snapshot's uid is not known before; its name is given once.
    let is_ours = |current: &Generation| match target.snapshot {
        None => current.uid == cache.uid,
        Some(_) => current.claim == snapshot::name(&cache.claim),
    };
    match current {
        Some(current) if is_ours(current) => Some(Outcome::Promoted(current.number)),
        current if current.map(Expected::of) == target.expected => None,
        current => Some(Outcome::Lost(current.map(|current| current.number))),
    }
}

/// Makes the claim a generation, which no runner pod takes along.
pub(crate) fn seal(line: &Key, number: u64, now: &str) -> Value {
    json!({"metadata": {
        "ownerReferences": null,
        "labels": {
            ROLE_LABEL: Role::Generation.as_str(),
            LINE_LABEL: line.hash(),
            crate::pod::names::RUNNER_POD_LABEL: null,
        },
        "annotations": {
            LINE_ANNOTATION: line.to_string(),
            NUMBER_ANNOTATION: number.to_string(),
            SEALED_ANNOTATION: now,
        },
    }})
}

/// Deletes a claim that did not become a generation, or of which a snapshot did, and a snapshot that
/// did not. What a line names stays, whatever became of this process when it was last here.
pub async fn discard(
    cluster: &Cluster,
    claim: &str,
    uid: &str,
    target: Option<&Target>,
) -> Result<(), ClusterError> {
    discard_claim(cluster, claim, uid, target).await?;
    let Some(target) = target.filter(|target| target.snapshot.is_some()) else {
        return Ok(());
    };
    let name = snapshot::name(claim);
    match cluster.get::<VolumeSnapshot>(&name).await? {
        Some(found) if !is_named(cluster, target, found.metadata.uid.as_deref()).await? => {
            cluster.delete_as_read(&found).await.map(drop)
        }
        _ => Ok(()),
    }
}

async fn discard_claim(
    cluster: &Cluster,
    claim: &str,
    uid: &str,
    target: Option<&Target>,
) -> Result<(), ClusterError> {
    let Some(found) = cluster.get::<PersistentVolumeClaim>(claim).await? else {
        return Ok(());
    };
    if found.metadata.uid.as_deref() != Some(uid) || found.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let labels = found.metadata.labels.as_ref();
    let role = labels.and_then(|labels| labels.get(ROLE_LABEL));
    if role.map(String::as_str) != Some(Role::Clone.as_str()) {
        let Some(target) = target else { return Ok(()) };
        if is_named(cluster, target, Some(uid)).await? {
            return Ok(());
        }
    }
    fault::point("lost");
    cluster.delete_as_read(&found).await.map(drop)
}

/// Whether the target's line names an object with this uid; a line that cannot be read may.
async fn is_named(
    cluster: &Cluster,
    target: &Target,
    uid: Option<&str>,
) -> Result<bool, ClusterError> {
    let Ok(line) = read(cluster, target).await? else {
        return Ok(true);
    };
    let mut generations = line.nodes.values().flat_map(|node| &node.generations);
    Ok(generations.any(|generation| Some(generation.uid.as_str()) == uid))
}
