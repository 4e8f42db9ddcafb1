//! `arc-hook cache taint`: a generation must not be cloned any more.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::scene::{self, Scene};
use super::{Chosen, now, store};
use crate::cache::{Generation, Key, Taint as Mark};
use crate::cluster::Cluster;

const EXAMPLES: &str = "\
Examples:
  arc-hook cache taint octo/demo/main 7 --reason stolen-token";

/// Marks a generation bad, and lists everything that came of it
///
/// Jobs clone it no more. What was cloned from it before is listed and not changed: generations of
/// any line, which may be tainted in turn, and claims.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Taint {
    #[command(flatten)]
    pub chosen: Chosen,

    /// The generation
    generation: u64,

    /// Why, for those who meet it
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Taint {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let key = &self.chosen.line;
        let seen = Scene::read(cluster).await?;
        let found = seen.chosen(&self.chosen)?;
        let (node, one) = (found.node, found.generation(Some(self.generation))?);
        let mark = Mark {
            time: now().to_string(),
            reason: self.reason.clone(),
        };
        let is_current = store::change(cluster, key, |line| {
            scene::on(line, Some(node))?.generation(Some(self.generation))?;
            let entry = line.nodes.entry(node.to_owned()).or_default();
            for one in &mut entry.generations {
                if one.number == self.generation {
                    one.tainted = Some(mark.clone());
                }
            }
            Ok(entry.current == Some(self.generation))
        })
        .await?;
        self.chosen.told(
            &told(&seen, key, node, one, is_current),
            &listed(&seen, key, node, one, is_current),
        )
    }
}

fn told(seen: &Scene, key: &Key, node: &str, one: &Generation, is_current: bool) -> String {
    let mut text = format!(
        "{key}: generation {} on node `{node}` is tainted\n",
        one.number
    );
    if is_current {
        let _ = writeln!(
            text,
            "It is current: jobs pass over this line until `arc-hook cache rollback {key}`"
        );
    }
    let descendants = seen.descendants(&one.uid);
    let claims = claims(seen, one);
    if descendants.is_empty() && claims.is_empty() {
        let _ = writeln!(text, "Nothing came of it");
        return text;
    }
    let _ = writeln!(text, "What came of it:");
    for place in descendants {
        let _ = writeln!(
            text,
            "  generation {} of {} on {}",
            place.generation.number, place.key, place.node
        );
    }
    for (claim, pods) in claims {
        let used = match pods {
            [] => String::new(),
            pods => format!(" in pod {}", pods.join(", ")),
        };
        let _ = writeln!(text, "  claim {claim}{used}");
    }
    text
}

/// Claims that are no generations and hold what was in it, and the pods that mount them.
fn claims<'s>(seen: &'s Scene, one: &Generation) -> Vec<(&'s str, &'s [String])> {
    let descendants = seen.descendants(&one.uid);
    let mut family = vec![one];
    family.extend(descendants.iter().map(|place| place.generation));
    let mut found = Vec::new();
    for member in &family {
        for clone in seen.clones(member) {
            if family.iter().all(|one| one.claim != clone) {
                found.push((clone, seen.mounted_by(clone)));
            }
        }
    }
    found
}

fn listed(seen: &Scene, key: &Key, node: &str, one: &Generation, is_current: bool) -> Value {
    let generations: Vec<Value> = seen
        .descendants(&one.uid)
        .iter()
        .map(|place| {
            json!({"line": place.key.to_string(), "node": place.node,
                   "number": place.generation.number, "claim": place.generation.claim})
        })
        .collect();
    let claims: Vec<Value> = claims(seen, one)
        .iter()
        .map(|(claim, pods)| json!({"claim": claim, "pods": pods}))
        .collect();
    json!({
        "line": key.to_string(), "node": node, "number": one.number, "current": is_current,
        "descendants": {"generations": generations, "claims": claims},
    })
}

#[cfg(test)]
mod tests {
    use super::super::scene::tests::scene;
    use super::*;

    #[test]
    fn everything_that_came_of_a_generation_is_listed() {
        let scene = scene();
        let line = &scene.lines[1];
        let one = |number| line.nodes["node-1"].get(number).unwrap();
        insta::assert_snapshot!(told(&scene, &line.key, "node-1", one(1), false), @r"
        octo/demo/main: generation 1 on node `node-1` is tainted
        What came of it:
          generation 2 of octo/demo/main on node-1
          generation 4 of octo/an-extraordinarily-long-name-of-a-repository/refs%2Ftags%2Fa-long-tag-of-it on node-2
          generation 7 of octo/an-extraordinarily-long-name-of-a-repository/refs%2Ftags%2Fa-long-tag-of-it on worker-in-a-rack-far-away.example.org
          generation 3 of octo/demo/main on node-1
          claim job-1 in pod runner-workflow
          claim job-2
        ");
        let mut childless = scene.clone();
        childless.claims.clear();
        insta::assert_snapshot!(told(&childless, &line.key, "node-1", one(3), true), @r"
        octo/demo/main: generation 3 on node `node-1` is tainted
        It is current: jobs pass over this line until `arc-hook cache rollback octo/demo/main`
        Nothing came of it
        ");
    }

    #[test]
    fn scripts_get_the_same() {
        let scene = scene();
        let line = &scene.lines[1];
        let one = line.nodes["node-1"].get(3).unwrap();
        let listed = listed(&scene, &line.key, "node-1", one, true);
        assert_eq!(listed["descendants"]["generations"], json!([]));
        assert_eq!(
            listed["descendants"]["claims"][0],
            json!({"claim": "job-1", "pods": ["runner-workflow"]})
        );
    }
}
