//! `arc-hook cache show`: everything about one line.

use std::fmt::Write as _;

use clap::Args;
use k8s_openapi::jiff::Timestamp;

use super::scene::{self, Scene};
use super::{Chosen, list, now};
use crate::cache::{Generation, Line};
use crate::cluster::Cluster;

const EXAMPLES: &str = "\
Examples:
  arc-hook cache show octo/demo/main
  arc-hook cache show octo/demo/main --node node-1 --output json";

/// Shows one line: claims, who wrote them, and what was cloned from them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    #[command(flatten)]
    pub chosen: Chosen,
}

impl Show {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let scene = Scene::read(cluster).await?;
        let mut line = scene.line(&self.chosen.line)?.clone();
        if let Some(node) = &self.chosen.node {
            scene::on(&line, Some(node))?;
            line.nodes.retain(|name, _| name == node);
        }
        self.chosen.told(
            &described(&scene, &line, now()),
            &list::of_line(&scene, &line),
        )
    }
}

fn described(scene: &Scene, line: &Line, now: Timestamp) -> String {
    let mut text = format!("{}\nConfigMap {}\n", line.key, line.key.object_name());
    let _ = writeln!(text, "keeps {} superseded generations", line.keep);
    for (node, entry) in &line.nodes {
        let mut generations: Vec<&Generation> = entry.generations.iter().collect();
        generations.sort_by_key(|one| std::cmp::Reverse(one.number));
        for one in generations {
            let state = list::state(entry, one);
            let head = format!("\ngeneration {} on {} {state}", one.number, list::on(node));
            let _ = writeln!(text, "{}", head.trim_end());
            for (name, value) in facts(scene, one, now) {
                let _ = writeln!(text, "  {name:<10} {value}");
            }
        }
    }
    text
}

fn facts(scene: &Scene, one: &Generation, now: Timestamp) -> Vec<(&'static str, String)> {
    let lineage = &one.lineage;
    let gone = if scene.holds(one) { "" } else { " (gone)" };
    let ago = |time: &str| format!("{time} ({} ago)", list::age(time, now));
    let class = one.class.as_deref().unwrap_or("no class");
    let mut facts = vec![
        (one.kind.noun(), format!("{}{gone}", one.claim)),
        ("size", format!("{}, {class}", one.size)),
        ("written", ago(&one.time)),
    ];
    if let Some(time) = &one.superseded {
        facts.push(("superseded", ago(time)));
    }
    if let Some(taint) = &one.tainted {
        facts.push(("tainted", format!("{}: {}", ago(&taint.time), taint.reason)));
    }
    let base = one.base.as_ref().map_or_else(
        || "nothing, or a claim that is in no line".to_owned(),
        |base| format!("{} generation {}", base.line, base.number),
    );
    facts.push(("from", format!("{base}; depth {}", one.depth)));
    let trust = if lineage.trusted {
        "trusted"
    } else {
        "untrusted"
    };
    let words = [
        &lineage.event,
        &lineage.repository,
        &lineage.git_ref,
        &lineage.actor,
    ];
    let words: Vec<&str> = words
        .into_iter()
        .map(String::as_str)
        .filter(|word| !word.is_empty())
        .collect();
    facts.push(("by", format!("{} ({trust})", words.join(" "))));
    if !lineage.run.is_empty() {
        facts.push((
            "run",
            format!(
                "{} attempt {}, {} / {}",
                lineage.run, lineage.attempt, lineage.workflow, lineage.job
            ),
        ));
    }
    if !lineage.sha.is_empty() {
        facts.push(("commit", lineage.sha.clone()));
    }
    for clone in scene.clones(one) {
        let pods = scene.mounted_by(clone).join(", ");
        let used = match pods.as_str() {
            "" => String::new(),
            pods => format!(" in {pods}"),
        };
        facts.push(("clone", format!("{clone}{used}")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::super::scene::tests::{noon, scene};
    use super::*;

    #[test]
    fn a_line_is_described_with_all_that_hangs_on_it() {
        let mut scene = scene();
        scene.claims.remove(4);
        let line = scene.lines[1].clone();
        insta::assert_snapshot!(described(&scene, &line, noon()));
    }
}
