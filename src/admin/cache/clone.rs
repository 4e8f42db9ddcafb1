//! `arc-hook cache clone`: a person's own clone, for a dev container.

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::list::on;
use super::scene::Scene;
use super::{Chosen, store, warn};
use crate::cache::{Kind, Role, snapshot};
use crate::cluster::Cluster;
use crate::spool::Nonce;

const EXAMPLES: &str = "\
Examples:
  arc-hook cache clone octo/demo/main --name conan-home-alice
  kubectl apply -f hook-templates/dev-container.yaml";

/// Clones a generation for a person
///
/// The claim is nobody's but theirs: no job and no `gc` takes it, and it is deleted by `kubectl
/// delete pvc`. `hook-templates/dev-container.yaml` is a pod for it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Clone {
    #[command(flatten)]
    pub chosen: Chosen,

    /// Name of the new claim
    #[arg(long, value_name = "PVC")]
    name: String,

    /// Another generation than the current one
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
}

impl Clone {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let scene = Scene::read(cluster).await?;
        let found = scene.chosen(&self.chosen)?;
        let (node, one) = (found.node, found.generation(self.generation)?);
        let told = format!("{} generation {}", self.chosen.line, one.number);
        if let Some(taint) = &one.tainted {
            warn(&format!("{told} is tainted: {}", taint.reason));
        }
        let spec = snapshot::parent_spec(cluster, one, &json!({})).await?;
        let spec = spec
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("clone {told}"))?;
        // What is restored is bound where its pod runs, and may wait for it.
        let place = (one.kind == Kind::Claim).then_some(node);
        let manifest = store::manifest(&self.name, Role::Personal, &spec, place, &told);
        store::create(cluster, &manifest, &Nonce::random()?).await?;
        if place.is_some() {
            store::bound(cluster, &self.name).await?;
        }
        let value = json!({
            "line": self.chosen.line.to_string(), "node": node, "number": one.number,
            "claim": self.name,
        });
        let words = format!(
            "claim `{}` is a clone of {told}, on {}\n",
            self.name,
            on(node)
        );
        self.chosen.told(&words, &value)
    }
}
