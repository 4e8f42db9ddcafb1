//! Changes of lines and claims.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cache::line::ANYWHERE;
use crate::cache::promote::seal;
use crate::cache::record::SnapshotWish;
use crate::cache::snapshot::{self, Seal};
use crate::cache::{
    Base, Generation, Generations, Key, Kind, Line, Lineage, PARENT_ANNOTATION, ROLE_LABEL, Role,
    clone,
};
use crate::cluster::{Cluster, pause_after};
use crate::pod::names;
use crate::spool::Nonce;

/// Has a claim provisioned at once and on this node (Kubernetes,
/// `pkg/controller/volume/persistentvolume/pv_controller.go`).
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// So often a line is read again because another changed it meanwhile.
const ATTEMPTS: u32 = 10;
/// How long a claim may take to be bound that no pod must mount first.
const BINDING: Duration = Duration::from_mins(2);

/// Reads a line, changes it, and stores it if nobody else has changed it meanwhile; else again.
/// A change must find what it has done already: an answer may have been lost on its way.
pub async fn change<T>(
    cluster: &Cluster,
    key: &Key,
    act: impl Fn(&mut Line) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    for _ in 0..ATTEMPTS {
        let mut line = match cluster.get::<ConfigMap>(&key.object_name()).await? {
            Some(map) => Line::read(&map)?,
            None => Line::new(key.clone()),
        };
        if line.key != *key {
            bail!(
                "change the line `{key}`: the ConfigMap of its name holds the line `{}`; rename one",
                line.key
            );
        }
        let before = line.clone();
        let done = act(&mut line)?;
        if line == before {
            return Ok(done);
        }
        let object = line.to_config_map();
        let stored = match line.version {
            None => cluster.create_new(&object).await?,
            Some(_) => cluster.replace(&object).await?,
        };
        if stored.is_some() {
            return Ok(done);
        }
    }
    bail!("change the line `{key}`: others change it all the time; try again")
}

/// A claim that is to be the next generation of a line.
#[derive(Debug)]
pub struct Next<'n> {
    /// The claim; nothing writes to it any more.
    pub claim: &'n PersistentVolumeClaim,
    /// The node that its volume is on.
    pub node: &'n str,
    /// What its content began as.
    pub base: Option<Base>,
    /// How many clones lie between it and a volume that is none.
    pub depth: u32,
    /// Who writes it.
    pub lineage: Lineage,
    /// When.
    pub time: Timestamp,
    /// Where a snapshot of the claim is to be the generation.
    pub snapshot: Option<SnapshotWish>,
}

impl Next<'_> {
    /// The entry that it belongs to.
    fn place(&self) -> &str {
        if self.snapshot.is_some() {
            ANYWHERE
        } else {
            self.node
        }
    }
}

/// Seals a claim, or a snapshot of it, and moves the pointer of the line to it. `may` looks at the
/// line as it is then, and can refuse.
pub async fn promote(
    cluster: &Cluster,
    key: &Key,
    next: Next<'_>,
    may: impl Fn(&Line) -> anyhow::Result<()>,
) -> anyhow::Result<Generation> {
    let place = next.place();
    // Should another be faster, the number in the claim's annotation, for people, is not its own.
    let number = match cluster.get::<ConfigMap>(&key.object_name()).await? {
        Some(map) => Line::read(&map)?
            .nodes
            .get(place)
            .map_or(1, Generations::next),
        None => 1,
    };
    let generation = freeze(cluster, key, &next, number).await?;
    change(cluster, key, |line| {
        let entry = line.nodes.entry(place.to_owned()).or_default();
        let mut all = entry.generations.iter();
        if let Some(there) = all.find(|one| one.uid == generation.uid) {
            return Ok(there.clone());
        }
        may(line)?;
        let entry = line.nodes.entry(place.to_owned()).or_default();
        let generation = Generation {
            number: entry.next(),
            ..generation.clone()
        };
        entry.promote(generation.clone());
        Ok(generation)
    })
    .await
}

/// Seals the claim, or takes a snapshot of it.
async fn freeze(
    cluster: &Cluster,
    key: &Key,
    next: &Next<'_>,
    number: u64,
) -> anyhow::Result<Generation> {
    let meta = &next.claim.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let uid = meta.uid.clone().unwrap_or_default();
    let now = next.time.to_string();
    let spec = next.claim.spec.as_ref();
    let mut generation = Generation {
        number,
        kind: Kind::Claim,
        size: clone::capacity(next.claim)
            .with_context(|| format!("seal claim `{name}`: it is not bound; wait for that"))?,
        class: spec.and_then(|spec| spec.storage_class_name.clone()),
        base: next.base.clone(),
        depth: next.depth,
        lineage: next.lineage.clone(),
        time: now.clone(),
        superseded: None,
        tainted: None,
        claim: name.clone(),
        uid: uid.clone(),
    };
    if let Some(wish) = &next.snapshot {
        let seal = Seal {
            line: key,
            number,
            now: &now,
        };
        let taken = snapshot::take(cluster, next.claim, wish, seal).await?;
        let taken = taken
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("take a snapshot of claim `{name}`"))?;
        generation.kind = Kind::Snapshot;
        generation.claim = taken.metadata.name.unwrap_or_default();
        generation.uid = taken.metadata.uid.unwrap_or_default();
    } else {
        cluster
            .patch::<PersistentVolumeClaim>(&name, &uid, seal(key, number, &now))
            .await?
            .with_context(|| format!("seal claim `{name}`: it is gone; name another"))?;
    }
    Ok(generation)
}

/// A new generation, for scripts.
pub fn listed(key: &Key, node: &str, made: &Generation) -> Value {
    json!({
        "line": key.to_string(), "node": node, "number": made.number,
        made.kind.noun(): made.claim,
    })
}

/// The manifest of a claim that is made for a person; `parent` tells where its content is from.
pub fn manifest(name: &str, role: Role, spec: &Value, node: Option<&str>, parent: &str) -> Value {
    let mut annotations = json!({PARENT_ANNOTATION: parent});
    if let Some(node) = node {
        annotations[SELECTED_NODE] = json!(node);
    }
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "labels": {ROLE_LABEL: role.as_str()},
            "annotations": annotations,
        },
        "spec": spec,
    })
}

/// The spec of an empty claim.
pub fn empty(size: &str, class: Option<&str>) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
    });
    if let Some(class) = class {
        spec["storageClassName"] = json!(class);
    }
    spec
}

/// A name for a claim that is to become a generation.
pub fn fresh_name(key: &Key, nonce: &Nonce) -> String {
    clone::name(&names::cleaned(&key.to_string(), 30), nonce.as_str(), 0)
}

/// Makes a claim.
pub async fn create(
    cluster: &Cluster,
    manifest: &Value,
    nonce: &Nonce,
) -> anyhow::Result<PersistentVolumeClaim> {
    Ok(cluster.create(manifest, nonce.as_str()).await?)
}

/// Waits until a claim is bound.
pub async fn bound(cluster: &Cluster, name: &str) -> anyhow::Result<PersistentVolumeClaim> {
    let begin = Instant::now();
    loop {
        let found = cluster.get::<PersistentVolumeClaim>(name).await?;
        match clone::usable(found.as_ref(), None) {
            Ok(()) => {
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            Err(why) if begin.elapsed() > BINDING => bail!(
                "wait for claim `{name}`: {why} after {} s; `kubectl describe pvc -n {} {name}` \
                 tells why; delete it then",
                BINDING.as_secs(),
                cluster.namespace()
            ),
            Err(_) => {}
        }
        tokio::time::sleep(pause_after(begin.elapsed())).await;
    }
}

/// The node of a bound claim: what was asked for, else what its volume says.
pub async fn node_of(
    cluster: &Cluster,
    claim: &PersistentVolumeClaim,
    asked: Option<&str>,
) -> anyhow::Result<String> {
    if let Some(asked) = asked {
        return Ok(asked.to_owned());
    }
    let volume = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.clone());
    if let Some(volume) = volume
        && let Some(node) = cluster.node_of_volume(&volume).await?
    {
        return Ok(node);
    }
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    bail!(
        "find the node of claim `{name}`: its volume is not tied to one, or may not be read; name \
         the node by `--node`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_of_a_persons_is_marked_and_tied_to_its_node() {
        insta::assert_yaml_snapshot!(manifest(
            "mine",
            Role::Personal,
            &empty("200Gi", Some("openebs-zfspv")),
            Some("node-1"),
            "octo/demo/main generation 3",
        ));
    }

    #[test]
    fn claims_of_a_line_have_names_that_kubernetes_takes() {
        let nonce: Nonce = "0123456789abcdef0123456789abcdef".parse().unwrap();
        for key in [
            "octo/demo/main",
            "x/".repeat(80).trim_end_matches('/'),
            "%2F",
        ] {
            let name = fresh_name(&key.parse().unwrap(), &nonce);
            assert!(names::is_dns_label(&name), "{name}");
        }
    }
}
