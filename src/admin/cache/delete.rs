//! `arc-hook cache delete`: a line, or one of its generations.

use anyhow::bail;
use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::scene::{self, Scene};
use super::{Chosen, store};
use crate::cache::{Generation, Kind};
use crate::cluster::{Cluster, VolumeSnapshot};

const EXAMPLES: &str = "\
Examples:
  arc-hook cache delete octo/demo/old-branch
  arc-hook cache delete octo/demo/main --generation 6";

/// Deletes a line with all of its generations, or one generation
///
/// Refuses while clones of them exist outside of what is deleted, and while a pod mounts one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Delete {
    #[command(flatten)]
    pub chosen: Chosen,

    /// Only this generation, which must not be current
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
}

impl Delete {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let key = &self.chosen.line;
        let seen = Scene::read(cluster).await?;
        if let Some(number) = self.generation {
            let found = seen.chosen(&self.chosen)?;
            let one = found.generation(Some(number))?;
            is_unused(&seen, &[one])?;
            store::change(cluster, key, |line| {
                let entry = line.nodes.entry(found.node.to_owned()).or_default();
                if entry.current == Some(number) {
                    bail!(
                        "delete generation {number} of `{key}`: it is current; `arc-hook cache \
                         rollback` first"
                    );
                }
                entry.generations.retain(|one| one.number != number);
                Ok(())
            })
            .await?;
            remove(cluster, one).await?;
            let value = json!({"line": key.to_string(), "deleted": [listed(found.node, one)]});
            let words = format!("{key}: generation {number} is deleted\n");
            return self.chosen.told(&words, &value);
        }
        let line = seen.line(key)?;
        let mut nodes = line.nodes.clone();
        if let Some(node) = &self.chosen.node {
            scene::on(line, Some(node))?;
            nodes.retain(|name, _| name == node);
        }
        let all: Vec<&Generation> = nodes
            .values()
            .flat_map(|entry| &entry.generations)
            .collect();
        is_unused(&seen, &all)?;
        if nodes.len() == line.nodes.len() {
            // As it was read: what a job has promoted since keeps the line.
            let map = cluster.get::<ConfigMap>(&key.object_name()).await?;
            let is_same = |map: &ConfigMap| map.metadata.resource_version == line.version;
            match map.filter(is_same) {
                Some(map) => cluster.delete_as_read(&map).await?,
                None => bail!("delete the line `{key}`: it was changed meanwhile; try again"),
            };
        } else {
            store::change(cluster, key, |line| {
                line.nodes.retain(|name, _| !nodes.contains_key(name));
                Ok(())
            })
            .await?;
        }
        for one in &all {
            remove(cluster, one).await?;
        }
        let count = all.len();
        let word = if count == 1 {
            "generation"
        } else {
            "generations"
        };
        let deleted: Vec<Value> = nodes
            .iter()
            .flat_map(|(node, entry)| entry.generations.iter().map(|one| listed(node, one)))
            .collect();
        self.chosen.told(
            &format!("{key}: deleted, with {count} {word}\n"),
            &json!({"line": key.to_string(), "deleted": deleted}),
        )
    }
}

fn listed(node: &str, one: &Generation) -> Value {
    json!({"node": node, "number": one.number, "claim": one.claim})
}

/// Deletes what held a generation that no line names any more.
async fn remove(cluster: &Cluster, one: &Generation) -> anyhow::Result<()> {
    let (name, uid) = (&one.claim, Some(one.uid.as_str()));
    match one.kind {
        Kind::Claim => {
            cluster
                .delete::<PersistentVolumeClaim>(name, uid, None)
                .await?
        }
        Kind::Snapshot => cluster.delete::<VolumeSnapshot>(name, uid, None).await?,
    };
    Ok(())
}

/// Nothing outside of what is deleted hangs on it.
fn is_unused(seen: &Scene, all: &[&Generation]) -> anyhow::Result<()> {
    let is_deleted = |claim: &str| all.iter().any(|one| one.claim == claim);
    let mut users = Vec::new();
    for one in all {
        for clone in seen.clones(one) {
            if !is_deleted(clone) {
                users.push(format!(
                    "claim `{clone}` is a clone of generation {}",
                    one.number
                ));
            }
        }
        let mounting = match one.kind {
            Kind::Claim => seen.mounted_by(&one.claim),
            Kind::Snapshot => &[],
        };
        for pod in mounting {
            users.push(format!("pod `{pod}` mounts generation {}", one.number));
        }
    }
    if users.is_empty() {
        return Ok(());
    }
    bail!(
        "delete what is in use: {}; delete these first, or wait for their jobs",
        users.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::scene::tests::scene;
    use super::*;

    #[test]
    fn a_line_is_not_in_use_by_its_own_generations() {
        let mut scene = scene();
        let all: Vec<Generation> = scene.lines[1].nodes["node-1"].generations.clone();
        let all: Vec<&Generation> = all.iter().collect();
        let error = is_unused(&scene, &all).unwrap_err().to_string();
        assert_eq!(
            error,
            "delete what is in use: claim `job-1` is a clone of generation 3, claim `job-2` is a \
             clone of generation 3; delete these first, or wait for their jobs"
        );
        let error = is_unused(&scene, &all[..1]).unwrap_err().to_string();
        assert!(error.contains("claim `cache-2` is a clone"), "{error}");
        scene
            .claims
            .retain(|claim| !claim.metadata.name.as_ref().unwrap().starts_with("job"));
        is_unused(&scene, &all).unwrap();
    }
}
