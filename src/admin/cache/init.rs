//! `arc-hook cache init`: the first generation of a line.

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::fill::{Filling, How};
use super::list::on;
use super::scene::Scene;
use super::store::{self, Next};
use super::{Chosen, Via, now, person, tell, warn};
use crate::cache::line::ANYWHERE;
use crate::cache::{Base, Line, Role, clone};
use crate::cluster::Cluster;
use crate::spool::Nonce;

const EXAMPLES: &str = "\
Examples:
  arc-hook cache init octo/demo/main --from gcc12-toolchain-main
  arc-hook cache init gcc12 --size 200Gi --image ghcr.io/octo/gcc12-filler --path /CONAN_HOME";

/// Makes the first generation of a line: imported from a claim, or empty; and filled, or not
///
/// A claim is imported as a clone, or a snapshot, so it stays what it is. With `--image` a Job writes
/// into the new volume before it is sealed. Nothing may write to the claim while it is cloned.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Init {
    #[command(flatten)]
    pub chosen: Chosen,

    /// A claim to begin with a clone of
    #[arg(long, value_name = "CLAIM", required_unless_present = "size")]
    from: Option<String>,

    /// Size of an empty volume to begin with, as 200Gi
    #[arg(long, value_name = "QUANTITY", conflicts_with = "from")]
    size: Option<String>,

    /// Storage class of the empty volume; otherwise the cluster's default
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    class: Option<String>,

    /// How many superseded generations the line keeps
    #[arg(long, value_name = "NUMBER")]
    keep: Option<u32>,

    /// Image of a Job that fills the volume
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Where the Job has the volume
    #[arg(
        long,
        value_name = "PATH",
        requires = "image",
        default_value = "/cache"
    )]
    path: String,

    /// A variable of the Job; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", requires = "image", value_parser = variable)]
    env: Vec<(String, String)>,

    #[command(flatten)]
    via: Via,

    #[command(flatten)]
    how: How,

    /// What the Job runs; otherwise what its image does
    #[arg(last = true, value_name = "COMMAND", requires = "image")]
    command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write NAME=VALUE".to_owned())
}

impl Init {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let key = &self.chosen.line;
        let node = self.chosen.node.as_deref();
        let snapshot = self.via.snapshot();
        let place = snapshot.as_ref().map_or(node, |_| Some(ANYWHERE));
        let scene = Scene::read(cluster).await?;
        if let Some(line) = scene.lines.iter().find(|line| line.key == *key) {
            is_free(line, place)?;
        }
        let nonce = Nonce::random()?;
        let begin = self.begin(cluster, &scene).await?;
        if let (Some(_), Some(from)) = (&snapshot, begin.claim) {
            // Its volume may be of those that cannot be cloned.
            return self
                .seal(cluster, &from, begin.base, begin.depth - 1, ANYWHERE)
                .await;
        }
        let name = store::fresh_name(key, &nonce);
        // Until it is sealed, `gc` takes it when this process does not come to that.
        let manifest = store::manifest(&name, Role::Clone, &begin.spec, node, &begin.told);
        store::create(cluster, &manifest, &nonce).await?;
        tell(&format!("Claim `{name}` begins with {}", begin.told));
        let ran_on = match &self.image {
            None => None,
            Some(image) => {
                let filling = Filling {
                    claim: &name,
                    path: &self.path,
                    source: None,
                    image,
                    command: &self.command,
                    environment: &self.env,
                    node,
                    how: &self.how,
                };
                Some(filling.run(cluster, &nonce).await?)
            }
        };
        let claim = store::bound(cluster, &name).await?;
        let node = match (place, ran_on) {
            (Some(ANYWHERE), _) => ANYWHERE.to_owned(),
            (_, Some(node)) => node,
            (_, None) => store::node_of(cluster, &claim, node).await?,
        };
        self.seal(cluster, &claim, begin.base, begin.depth, &node)
            .await?;
        if snapshot.is_some() {
            let uid = claim.metadata.uid.as_deref();
            cluster
                .delete::<PersistentVolumeClaim>(&name, uid, None)
                .await?;
        }
        Ok(())
    }

    /// Makes the claim, or a snapshot of it, the first generation.
    async fn seal(
        &self,
        cluster: &Cluster,
        claim: &PersistentVolumeClaim,
        base: Option<Base>,
        depth: u32,
        node: &str,
    ) -> anyhow::Result<()> {
        let key = &self.chosen.line;
        let next = Next {
            claim,
            node,
            base,
            depth,
            lineage: person("init"),
            time: now(),
            snapshot: self.via.snapshot(),
        };
        let made = store::promote(cluster, key, next, |line| is_free(line, Some(node))).await?;
        if let Some(keep) = self.keep {
            store::change(cluster, key, |line| {
                line.keep = keep;
                Ok(())
            })
            .await?;
        }
        if let Some(words) = self.of_root() {
            warn(&words);
        }
        let words = format!(
            "{key}: generation {} on {} is {} `{}`\n",
            made.number,
            on(node),
            made.kind.noun(),
            made.claim
        );
        self.chosen.told(&words, &store::listed(key, node, &made))
    }

    async fn begin(&self, cluster: &Cluster, scene: &Scene) -> anyhow::Result<Begin> {
        let Some(from) = &self.from else {
            let size = self.size.as_deref().unwrap_or_default();
            return Ok(Begin {
                spec: store::empty(size, self.class.as_deref()),
                base: None,
                depth: 0,
                told: "nothing".to_owned(),
                claim: None,
            });
        };
        let claim = cluster.get::<PersistentVolumeClaim>(from).await?;
        clone::usable(claim.as_ref(), None)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("import claim `{from}`"))?;
        let claim = claim.with_context(|| format!("import claim `{from}`: it is gone"))?;
        let pods = scene.mounted_by(from);
        if !pods.is_empty() {
            bail!(
                "import claim `{from}`: pod `{}` mounts it, and may write to it now; delete the pod \
                 first",
                pods.join("`, `")
            );
        }
        if self.via.snapshot().is_some() && self.image.is_some() {
            bail!(
                "import claim `{from}`: a Job would write to it, because a snapshot of it is to be the \
                 generation; leave `--image` out, or `--from`"
            );
        }
        let place = scene
            .generations()
            .find(|place| place.generation.claim == *from);
        let base = place.map(|place| Base {
            line: place.key.clone(),
            number: place.generation.number,
            uid: place.generation.uid.clone(),
        });
        Ok(Begin {
            spec: clone::of(&claim),
            base,
            depth: 1 + place.map_or(0, |place| place.generation.depth),
            told: format!("a clone of claim `{from}`"),
            claim: Some(claim),
        })
    }

    /// What a job that is not root would meet.
    fn of_root(&self) -> Option<String> {
        const REMEDY: &str = "jobs of another user cannot write to their clones, or wait for \
                              `fsGroup` to rewrite each: delete the line, and fill it by an \
                              `--image` with the jobs' `--user`";
        match (&self.image, &self.from) {
            (None, None) => Some(format!(
                "the volume is as its driver made it, which is root's as a rule: {REMEDY}"
            )),
            (Some(_), _) if self.how.user.0 == 0 => {
                Some(format!("root has written to the volume: {REMEDY}"))
            }
            (None, Some(from)) => Some(format!(
                "who owns the files of claim `{from}` was not looked at; if root does, {REMEDY}"
            )),
            (Some(_), _) => None,
        }
    }
}

/// What the new claim holds at first.
struct Begin {
    spec: serde_json::Value,
    base: Option<Base>,
    depth: u32,
    told: String,
    /// What is imported.
    claim: Option<PersistentVolumeClaim>,
}

/// A line that has a current generation needs no first one.
fn is_free(line: &Line, node: Option<&str>) -> anyhow::Result<()> {
    let taken = line
        .nodes
        .iter()
        .filter(|(name, _)| node.is_none_or(|node| node == *name))
        .find_map(|(name, entry)| Some((name, entry.current()?)));
    match taken {
        None => Ok(()),
        Some((name, current)) => bail!(
            "begin the line `{}`: generation {} is current on {}; use `arc-hook cache \
             promote`, or another `--node`",
            line.key,
            current.number,
            on(name)
        ),
    }
}
