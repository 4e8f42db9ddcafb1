//! `arc-hook cache rebase`: the current generation again, as a volume that hangs on no other.

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::json;

use super::fill::{Filling, How, SOURCE_PATH};
use super::list::on;
use super::scene::Scene;
use super::store::{self, Next};
use super::{Chosen, now, person, tell};
use crate::cache::record::SnapshotWish;
use crate::cache::{Base, Generation, Kind, Role, snapshot};
use crate::cluster::Cluster;
use crate::spool::Nonce;

const PATH: &str = "/cache";

const EXAMPLES: &str = "\
Examples:
  arc-hook cache rebase octo/demo/main --image debian:12";

/// Copies the current generation into a fresh volume, which becomes the next one
///
/// Clones of clones hold on to what all of their ancestors hold, and are made ever more slowly.
/// The copy is no clone, so what is older can go. A Job copies by `cp -a` of the image. Jobs clone
/// the old generation meanwhile; when one of them promotes, the copy is late and removed. A
/// generation that is a snapshot is restored for the Job, and a snapshot is taken of the copy.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Rebase {
    #[command(flatten)]
    pub chosen: Chosen,

    /// An image with `cp`
    #[arg(long, value_name = "IMAGE")]
    image: String,

    #[command(flatten)]
    how: How,
}

/// A claim that holds a generation.
struct Source {
    name: String,
    /// Set where it was restored to be read, and goes then.
    made: Option<PersistentVolumeClaim>,
}

impl Rebase {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let key = &self.chosen.line;
        let seen = Scene::read(cluster).await?;
        let found = seen.chosen(&self.chosen)?;
        let (node, one) = (found.node, found.generation(None)?);
        let told = format!("{key} generation {}", one.number);
        let snapshot = (one.kind == Kind::Snapshot).then(|| SnapshotWish {
            class: seen.snapshot_class(one),
        });
        // What is restored is bound where the Job runs.
        let place = (one.kind == Kind::Claim).then_some(node);
        let source = source(cluster, &self.chosen, one, &told).await?;
        let told = format!("a copy of {told}");
        let copied = self.copy(cluster, one, &source.name, place, &told).await;
        if let Some(made) = &source.made {
            remove(cluster, made).await?;
        }
        let claim = copied?;
        let via = snapshot.is_some();
        let next = Next {
            claim: &claim,
            node,
            // Its content is the old one's, which a taint must find.
            base: Some(Base {
                line: key.clone(),
                number: one.number,
                uid: one.uid.clone(),
            }),
            depth: 0,
            lineage: person("rebase"),
            time: now(),
            snapshot,
        };
        let promoted = store::promote(cluster, key, next, |line| {
            let current = line.current(node).map(|current| current.number);
            if current != Some(one.number) {
                bail!(
                    "replace {key} generation {}: another is current by now; rebase that one",
                    one.number
                );
            }
            Ok(())
        });
        let promoted = promoted.await;
        // A snapshot needs its claim no more. One that came late stays unnamed, and `gc` takes it.
        if via || promoted.is_err() {
            remove(cluster, &claim).await?;
        }
        let made = promoted?;
        let (number, noun, held) = (made.number, made.kind.noun(), &made.claim);
        let value = json!({
            "line": key.to_string(), "node": node, "number": number, noun: held,
            "from": one.number,
        });
        let place = on(node);
        let words = format!("{key}: generation {number} on {place} is {noun} `{held}`, {told}\n");
        self.chosen.told(&words, &value)
    }

    /// A fresh claim with what the generation's claim holds.
    async fn copy(
        &self,
        cluster: &Cluster,
        one: &Generation,
        source: &str,
        node: Option<&str>,
        told: &str,
    ) -> anyhow::Result<PersistentVolumeClaim> {
        let nonce = Nonce::random()?;
        let name = store::fresh_name(&self.chosen.line, &nonce);
        let spec = store::empty(&one.size, one.class.as_deref());
        let manifest = store::manifest(&name, Role::Clone, &spec, node, told);
        store::create(cluster, &manifest, &nonce).await?;
        tell(&format!("Claim `{name}` becomes {told}"));
        let script = format!("cp -a {SOURCE_PATH}/. {PATH}/");
        let filling = Filling {
            claim: &name,
            path: PATH,
            source: Some(source),
            image: &self.image,
            command: &["sh", "-ec", &script].map(str::to_owned),
            environment: &[],
            node,
            how: &self.how,
        };
        filling.run(cluster, &nonce).await?;
        store::bound(cluster, &name).await
    }
}

/// The claim that holds a generation, or one that is restored from its snapshot, which a Job cannot
/// mount.
async fn source(
    cluster: &Cluster,
    chosen: &Chosen,
    one: &Generation,
    told: &str,
) -> anyhow::Result<Source> {
    let spec = snapshot::parent_spec(cluster, one, &json!({})).await?;
    let spec = spec
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("copy {told}"))?;
    if one.kind == Kind::Claim {
        return Ok(Source {
            name: one.claim.clone(),
            made: None,
        });
    }
    let nonce = Nonce::random()?;
    let name = store::fresh_name(&chosen.line, &nonce);
    let manifest = store::manifest(&name, Role::Clone, &spec, None, told);
    let made = store::create(cluster, &manifest, &nonce).await?;
    tell(&format!("Claim `{name}` is restored from {told}"));
    Ok(Source {
        name,
        made: Some(made),
    })
}

async fn remove(cluster: &Cluster, claim: &PersistentVolumeClaim) -> anyhow::Result<()> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let uid = claim.metadata.uid.as_deref();
    cluster
        .delete::<PersistentVolumeClaim>(name, uid, None)
        .await?;
    Ok(())
}
