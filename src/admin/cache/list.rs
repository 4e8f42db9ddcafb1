//! `arc-hook cache list`: what there is, as a tree.

use std::fmt::Write as _;

use clap::Args;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::scene::Scene;
use super::{Format, now, print, warn};
use crate::admin::access::Access;
use crate::cache::line::ANYWHERE;
use crate::cache::{Generation, Generations, Line, Lineage};
use crate::cluster::Cluster;

/// Columns of a terminal.
const WIDTH: usize = 80;

const EXAMPLES: &str = "\
Examples:
  arc-hook cache list
  arc-hook cache list --namespace ci --output json";

/// Lists lines, their generations, and the clones that are in use
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct List {
    #[command(flatten)]
    pub access: Access,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl List {
    pub async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let scene = Scene::read(cluster).await?;
        for unread in &scene.unread {
            warn(unread);
        }
        match self.output {
            Format::Text if scene.lines.is_empty() => print(&format!(
                "no lines in namespace `{}`; `arc-hook cache init` makes one\n",
                cluster.namespace()
            )),
            Format::Text => print(&tree(&scene, now())),
            Format::Json => print(&format!("{:#}\n", listed(&scene))),
        }
    }
}

/// The lines, each with its nodes and generations, in 80 columns.
fn tree(scene: &Scene, now: Timestamp) -> String {
    let mut text = String::new();
    for line in &scene.lines {
        let keeps = format!("keeps {}", line.keep);
        let room = WIDTH - keeps.len() - 1;
        let name = fit(&line.key.to_string(), room);
        let _ = writeln!(text, "{name:room$} {keeps}");
        for (node, entry) in &line.nodes {
            let _ = writeln!(
                text,
                "  {:<18} {:>4} {:>7} {:>5} {:>6} {:>6}  WRITTEN BY",
                fit(place(node), 18),
                "AGE",
                "SIZE",
                "DEPTH",
                "CLONES",
                "IN USE"
            );
            let mut generations: Vec<&Generation> = entry.generations.iter().collect();
            generations.sort_by_key(|one| std::cmp::Reverse(one.number));
            for (index, one) in generations.iter().enumerate() {
                let branch = if index + 1 == generations.len() {
                    "└"
                } else {
                    "├"
                };
                let row = row(scene, entry, one, now);
                let _ = writeln!(text, "  {branch} {row}");
            }
        }
    }
    text
}

fn row(scene: &Scene, entry: &Generations, one: &Generation, now: Timestamp) -> String {
    let clones = scene.clones(one);
    let used = clones
        .iter()
        .filter(|clone| !scene.mounted_by(clone).is_empty());
    let state = state(entry, one);
    let head = format!(
        "{:<16} {:>4} {:>7} {:>5} {:>6} {:>6}  ",
        fit(&format!("{} {state}", one.number), 16),
        age(&one.time, now),
        fit(&one.size, 7),
        one.depth,
        clones.len(),
        used.count(),
    );
    let room = WIDTH - 4 - head.chars().count();
    format!("{head}{}", written_by(&one.lineage, room))
        .trim_end()
        .to_owned()
}

/// Where the generations of an entry are, as a column says it.
fn place(node: &str) -> &str {
    if node == ANYWHERE { "any node" } else { node }
}

/// The same within a sentence.
pub fn on(node: &str) -> String {
    match node {
        ANYWHERE => "any node".to_owned(),
        node => format!("node `{node}`"),
    }
}

/// How a generation stands, in a word.
pub fn state(entry: &Generations, one: &Generation) -> &'static str {
    match (entry.current == Some(one.number), one.tainted.is_some()) {
        (true, true) => "current tainted",
        (true, false) => "current",
        (false, true) => "tainted",
        (false, false) => "",
    }
}

/// Who wrote a generation, in so many columns.
fn written_by(lineage: &Lineage, columns: usize) -> String {
    let sha = lineage.sha.get(..7).unwrap_or(&lineage.sha);
    let trust = if lineage.trusted { "" } else { "untrusted" };
    let mut words: String = [trust, &lineage.event, sha]
        .into_iter()
        .filter(|word| !word.is_empty())
        .fold(String::new(), |words, word| words + word + " ");
    let left = columns.saturating_sub(words.chars().count());
    words.push_str(&fit(&lineage.actor, left));
    fit(&words, columns)
}

/// A time that has passed, as `50m`.
pub fn age(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return "?".to_owned();
    };
    match now.as_second() - time.as_second() {
        seconds @ ..120 => format!("{}s", seconds.max(0)),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The text in so many columns, its middle left out where it is longer.
pub fn fit(text: &str, columns: usize) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= columns {
        return text.to_owned();
    }
    let front = columns.saturating_sub(1) / 2;
    let back = columns.saturating_sub(1) - front;
    let begin: String = characters[..front].iter().collect();
    let end: String = characters[characters.len() - back..].iter().collect();
    format!("{begin}…{end}")
}

fn listed(scene: &Scene) -> Value {
    let lines: Vec<Value> = scene
        .lines
        .iter()
        .map(|line| of_line(scene, line))
        .collect();
    json!({"lines": lines, "unread": scene.unread})
}

/// A line for scripts.
pub fn of_line(scene: &Scene, line: &Line) -> Value {
    let nodes: Vec<Value> = line
        .nodes
        .iter()
        .map(|(node, entry)| {
            let generations: Vec<Value> = entry
                .generations
                .iter()
                .map(|one| of_generation(scene, one))
                .collect();
            json!({"node": node, "current": entry.current, "generations": generations})
        })
        .collect();
    json!({"line": line.key.to_string(), "keep": line.keep, "nodes": nodes})
}

fn of_generation(scene: &Scene, one: &Generation) -> Value {
    let clones: Vec<Value> = scene
        .clones(one)
        .iter()
        .map(|clone| json!({"claim": clone, "pods": scene.mounted_by(clone)}))
        .collect();
    let mut value = json!(one);
    value["clones"] = json!(clones);
    if let Some(base) = &one.base {
        value["base"]["line"] = json!(base.line.to_string());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::scene::tests::{noon, scene};
    use super::*;

    #[test]
    fn the_tree_fits_a_terminal() {
        let text = tree(&scene(), noon());
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn scripts_get_everything() {
        let mut scene = scene();
        scene.lines.remove(0);
        insta::assert_snapshot!(format!("{:#}", listed(&scene)));
    }

    #[test]
    fn ages_are_read_at_a_glance() {
        let age = |time| age(time, noon());
        assert_eq!(age("2026-01-03T11:59:01Z"), "59s");
        assert_eq!(age("2026-01-03T11:10:00Z"), "50m");
        assert_eq!(age("2026-01-02T13:00:00Z"), "23h");
        assert_eq!(age("2025-12-31T12:00:00Z"), "3d");
        assert_eq!(age("2027-01-01T00:00:00Z"), "0s");
        assert_eq!(age("yesterday"), "?");
    }

    #[test]
    fn what_is_too_long_loses_its_middle() {
        assert_eq!(fit("octo/demo", 9), "octo/demo");
        assert_eq!(fit("octo/demo", 6), "oc…emo");
        assert_eq!(fit("äöüßäöü", 3), "ä…ü");
    }
}
