//! `arc-hook cache promote`: a person's claim becomes the next generation.

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::list::on;
use super::scene::Scene;
use super::store::{self, Next};
use super::{Chosen, Via, now, person};
use crate::cache::line::ANYWHERE;
use crate::cache::{Base, LINE_LABEL, ROLE_LABEL, Role, clone};
use crate::cluster::Cluster;

const EXAMPLES: &str = "\
Examples:
  arc-hook cache promote octo/demo/main --claim conan-home-alice";

/// Makes a claim the next generation of a line
///
/// The line takes the claim over: it is never written to again, and `gc` deletes it when it is
/// old. So no pod may mount it. With `--via snapshot` the line gets a snapshot of it, and the claim
/// stays yours.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Promote {
    #[command(flatten)]
    pub chosen: Chosen,

    /// The claim
    #[arg(long, value_name = "PVC")]
    claim: String,

    #[command(flatten)]
    via: Via,
}

impl Promote {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let name = &self.claim;
        let key = &self.chosen.line;
        let scene = Scene::read(cluster).await?;
        let claim = scene.claim(name);
        clone::usable(claim, None)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("promote claim `{name}`"))?;
        let claim = claim.with_context(|| format!("promote claim `{name}`: it is gone"))?;
        may_be_taken(&scene, name, claim)?;
        let parent = scene.parent(claim);
        let snapshot = self.via.snapshot();
        let node = match parent {
            _ if snapshot.is_some() => ANYWHERE.to_owned(),
            Some(parent) => parent.node.to_owned(),
            None => store::node_of(cluster, claim, self.chosen.node.as_deref()).await?,
        };
        let is_clone = claim
            .spec
            .as_ref()
            .is_some_and(|spec| spec.data_source.is_some());
        let next = Next {
            claim,
            node: &node,
            base: parent.map(|parent| Base {
                line: parent.key.clone(),
                number: parent.generation.number,
                uid: parent.generation.uid.clone(),
            }),
            depth: parent.map_or(0, |parent| parent.generation.depth) + u32::from(is_clone),
            lineage: person("promote"),
            time: now(),
            snapshot,
        };
        let made = store::promote(cluster, key, next, |_| Ok(())).await?;
        let (noun, held) = (made.kind.noun(), &made.claim);
        let words = format!(
            "{key}: {noun} `{held}` is generation {} on {}\n",
            made.number,
            on(&node)
        );
        self.chosen.told(&words, &store::listed(key, &node, &made))
    }
}

/// Nobody else may have a claim that is to be sealed.
fn may_be_taken(scene: &Scene, name: &str, claim: &PersistentVolumeClaim) -> anyhow::Result<()> {
    let pods = scene.mounted_by(name);
    if !pods.is_empty() {
        bail!(
            "promote claim `{name}`: pod `{}` mounts it; delete the pod first",
            pods.join("`, `")
        );
    }
    let meta = &claim.metadata;
    if let Some(owner) = meta.owner_references.iter().flatten().next() {
        bail!(
            "promote claim `{name}`: it belongs to {} `{}`; promote a claim of your own",
            owner.kind,
            owner.name
        );
    }
    let label = |key: &str| meta.labels.as_ref()?.get(key).map(String::as_str);
    let listed = scene
        .generations()
        .find(|place| meta.uid.as_deref() == Some(&place.generation.uid));
    if let Some(place) = listed {
        bail!(
            "promote claim `{name}`: it is generation {} of `{}`; clone it, or `arc-hook cache \
             rollback` to it",
            place.generation.number,
            place.key
        );
    }
    if label(ROLE_LABEL) == Some(Role::Generation.as_str()) {
        bail!(
            "promote claim `{name}`: it was sealed for the line with the hash {}, and never listed; \
             promote a clone of it",
            label(LINE_LABEL).unwrap_or("unknown")
        );
    }
    Ok(())
}
