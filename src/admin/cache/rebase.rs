//! `arc-hook cache rebase`: the current generation again, as a volume that hangs on no other.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::fill::{Filling, How, SOURCE_PATH};
use super::scene::Scene;
use super::store::{self, Next};
use super::{Chosen, now, person, tell};
use crate::cache::{Base, Kind, Role, clone};
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
/// the old generation meanwhile; when one of them promotes, the copy is late and removed.
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

impl Rebase {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let key = &self.chosen.line;
        let seen = Scene::read(cluster).await?;
        let found = seen.chosen(&self.chosen)?;
        let (node, one) = (found.node, found.generation(None)?);
        let told = format!("{key} generation {}", one.number);
        if one.kind == Kind::Snapshot {
            bail!(
                "copy {told}: it is a snapshot, which a Job cannot mount; fill a claim with a copy of \
                 `arc-hook cache clone`, and `arc-hook cache promote --via snapshot` it"
            );
        }
        clone::usable(seen.claim(&one.claim), Some(&one.uid))
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("copy {told}"))?;
        let nonce = Nonce::random()?;
        let name = store::fresh_name(key, &nonce);
        let spec = store::empty(&one.size, one.class.as_deref());
        let told = format!("a copy of {told}");
        let manifest = store::manifest(&name, Role::Clone, &spec, Some(node), &told);
        let fresh = store::create(cluster, &manifest, &nonce).await?;
        tell(&format!("Claim `{name}` becomes {told}"));
        let script = format!("cp -a {SOURCE_PATH}/. {PATH}/");
        let filling = Filling {
            claim: &name,
            path: PATH,
            source: Some(&one.claim),
            image: &self.image,
            command: &["sh", "-ec", &script].map(str::to_owned),
            environment: &[],
            node: Some(node),
            how: &self.how,
        };
        filling.run(cluster, &nonce).await?;
        let claim = store::bound(cluster, &name).await?;
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
            snapshot: None,
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
        let number = match promoted.await {
            Ok(generation) => generation.number,
            Err(error) => {
                let uid = fresh.metadata.uid.as_deref();
                cluster
                    .delete::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(&name, uid, None)
                    .await?;
                return Err(error);
            }
        };
        let value = json!({
            "line": key.to_string(), "node": node, "number": number, "claim": name,
            "from": one.number,
        });
        let words =
            format!("{key}: generation {number} on node `{node}` is claim `{name}`, {told}\n");
        self.chosen.told(&words, &value)
    }
}
