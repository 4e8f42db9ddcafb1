//! `arc-hook cache rollback`: clones are taken from an earlier generation again.

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::list::on;
use super::scene::Scene;
use super::{Chosen, now, store};
use crate::cache::Generations;
use crate::cluster::Cluster;

const EXAMPLES: &str = "\
Examples:
  arc-hook cache rollback octo/demo/main
  arc-hook cache rollback octo/demo/main --to 6";

/// Takes clones from an earlier generation again
///
/// The one before the current one that is not tainted, unless `--to` names another. Jobs that
/// run have their clones already, and those that would promote find that they are late.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Rollback {
    #[command(flatten)]
    pub chosen: Chosen,

    /// The generation
    #[arg(long, value_name = "NUMBER")]
    to: Option<u64>,
}

impl Rollback {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let key = &self.chosen.line;
        let seen = Scene::read(cluster).await?;
        let found = seen.chosen(&self.chosen)?;
        let node = found.node;
        let before = found.entry.current;
        let number = match self.to {
            Some(number) => number,
            None => earlier(found.entry).with_context(|| {
                format!(
                    "roll `{key}` back on node `{node}`: no earlier generation is kept that is not \
                     tainted; `arc-hook cache promote` makes a new one"
                )
            })?,
        };
        let one = found.generation(Some(number))?;
        if !seen.holds(one) {
            bail!(
                "roll `{key}` back to generation {number}: its {} `{}` is gone; name another by \
                 `--to`",
                one.kind.noun(),
                one.claim
            );
        }
        if let Some(taint) = &one.tainted {
            bail!(
                "roll `{key}` back to generation {number}: it is tainted ({}); name another by \
                 `--to`",
                taint.reason
            );
        }
        let time = now().to_string();
        store::change(cluster, key, |line| {
            let entry = line.nodes.entry(node.to_owned()).or_default();
            if entry.current != before && entry.current != Some(number) {
                bail!("roll `{key}` back: a job has promoted meanwhile; look, and try again");
            }
            if !entry.point_to(number, &time) {
                bail!("roll `{key}` back: generation {number} was removed meanwhile; try again");
            }
            Ok(())
        })
        .await?;
        let value =
            json!({"line": key.to_string(), "node": node, "current": number, "before": before});
        let before = before.map_or_else(|| "none".to_owned(), |before| before.to_string());
        let words = format!(
            "{key}: generation {number} is current on {}; it was {before}\n",
            on(node)
        );
        self.chosen.told(&words, &value)
    }
}

/// The latest before the current one that may be cloned.
fn earlier(entry: &Generations) -> Option<u64> {
    let below = entry.current.unwrap_or(u64::MAX);
    entry
        .generations
        .iter()
        .filter(|one| one.number < below && one.tainted.is_none())
        .map(|one| one.number)
        .max()
}

#[cfg(test)]
mod tests {
    use super::super::scene::tests::scene;
    use super::*;

    #[test]
    fn a_tainted_generation_is_passed_over() {
        let scene = scene();
        let mut entry = scene.lines[1].nodes["node-1"].clone();
        assert_eq!(earlier(&entry), Some(1));
        entry.generations[1].tainted = None;
        assert_eq!(earlier(&entry), Some(2));
        entry.current = Some(1);
        assert_eq!(earlier(&entry), None);
    }
}
