//! A line of a cache: the generations that clones are taken from, one after the other.
//!
//! # How it is laid out
//!
//! A line is a `ConfigMap`, named [`Key::object_name`], labelled `arc-hook/cache: line` and
//! `arc-hook/line: <hash>`, with the annotation `arc-hook/line: octo/demo/main` for people:
//!
//! ```yaml
//! data:
//!   format: "1"                             # another one is refused
//!   key: '["octo","demo","main"]'           # compared in full: a name has a hash's length only
//!   keep: "3"                               # superseded generations that `gc` leaves
//!   node.NODE: '{"last": 8, "current": 8, "generations": [{"number": 7, …}, {"number": 8, …}]}'
//! ```
//!
//! One entry per node, because a clone never leaves its parent's node; generations that are snapshots
//! (`via: snapshot`) can be restored on any, and have the entry `_`. `current` is the pointer;
//! `last` is the highest number ever given, so that none is given twice, also after a rollback.
//! A generation is a claim of its own, or a snapshot: `claim` and `uid` name it, and an object of that
//! name with another uid is not it. Whoever changes an entry replaces the whole object by
//! its `resourceVersion`, and reads again when another was faster.

use std::collections::BTreeMap;

use clap::ValueEnum;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::pattern::Key;
use super::{LINE_ANNOTATION, LINE_LABEL, ROLE_LABEL, Role};

const FORMAT: &str = "1";
const NODE: &str = "node.";
/// The entry of generations that are tied to no node. None can be called so.
pub const ANYWHERE: &str = "_";
/// What [`Line::keep`] is unless the policy says otherwise.
pub const DEFAULT_KEEP: u32 = 3;

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineError {
    /// Written by another version.
    #[error(
        "read the ConfigMap `{name}`: its format is `{format}`; use a version of arc-hook that \
         knows it"
    )]
    Format {
        /// The object.
        name: String,
        /// What it says.
        format: String,
    },
    /// Damaged.
    #[error("read the ConfigMap `{name}`: `{key}`: {cause}; repair or delete it")]
    Malformed {
        /// The object.
        name: String,
        /// The key of its data.
        key: String,
        /// What is wrong.
        cause: String,
    },
}

/// The line of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its key.
    pub key: Key,
    /// How many superseded generations stay, for a rollback.
    pub keep: u32,
    /// Generations by the node that holds them.
    pub nodes: BTreeMap<String, Generations>,
    /// `resourceVersion` of what was read; `None` for a line that is not there yet.
    pub version: Option<String>,
}

/// The generations on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// The highest number given so far.
    pub last: u64,
    /// Number of the generation that clones are taken from.
    pub current: Option<u64>,
    /// The current one and those that stay, by number.
    pub generations: Vec<Generation>,
}

/// What kind of object a generation is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A claim, of which others are clones.
    #[default]
    #[value(name = "clone")]
    Claim,
    /// A `VolumeSnapshot`, from which claims are restored.
    Snapshot,
}

impl Kind {
    /// What people call it.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Snapshot => "snapshot",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    fn is_claim(&self) -> bool {
        *self == Self::Claim
    }
}

/// One sealed claim, or the snapshot of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Counts from 1 on each node.
    pub number: u64,
    /// What kind of object it is.
    #[serde(default, skip_serializing_if = "Kind::is_claim")]
    pub kind: Kind,
    /// Name of the claim, or snapshot.
    pub claim: String,
    /// Uid of the same.
    pub uid: String,
    /// Its capacity, which a clone must ask for, as `200Gi`.
    pub size: String,
    /// Its storage class.
    pub class: Option<String>,
    /// What it was cloned from; absent when it began empty or from a claim outside of all lines.
    pub base: Option<Base>,
    /// How many clones lie between it and a volume that is none.
    pub depth: u32,
    /// Who wrote it.
    pub lineage: Lineage,
    /// When it was sealed, in RFC 3339.
    pub time: String,
    /// Since when another is current, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<String>,
    /// It must not be cloned any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tainted: Option<Taint>,
}

/// A generation that another was cloned from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its line.
    pub line: Key,
    /// Its number there.
    pub number: u64,
    /// Uid of its claim.
    pub uid: String,
}

/// Who wrote a generation: a job, or a person with a verb.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lineage {
    /// Whether the job's code was the repository's own. A person's word counts as that.
    pub trusted: bool,
    /// `owner/name`.
    pub repository: String,
    /// `refs/heads/main`.
    pub git_ref: String,
    /// Commit.
    pub sha: String,
    /// Number of the workflow run, as in its address.
    pub run: String,
    /// Attempt of that run.
    pub attempt: String,
    /// Who started it.
    pub actor: String,
    /// What started it: `push`, or the verb that a person used.
    pub event: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Key of the job.
    pub job: String,
}

/// Why a generation must not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Since when, in RFC 3339.
    pub time: String,
    /// In words of the one who said so.
    pub reason: String,
}

impl Line {
    /// A line that is not there yet.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self {
            key,
            keep: DEFAULT_KEEP,
            nodes: BTreeMap::new(),
            version: None,
        }
    }

    /// Reads the object of a line.
    pub fn read(map: &ConfigMap) -> Result<Self, LineError> {
        let name = map.metadata.name.clone().unwrap_or_default();
        let empty = BTreeMap::new();
        let data = map.data.as_ref().unwrap_or(&empty);
        let format = data.get("format").map_or("", String::as_str);
        if format != FORMAT {
            return Err(LineError::Format {
                name,
                format: format.to_owned(),
            });
        }
        let malformed = |key: &str, cause: String| LineError::Malformed {
            name: name.clone(),
            key: key.to_owned(),
            cause,
        };
        let key = data.get("key").map_or("", String::as_str);
        let key = serde_json::from_str(key).map_err(|error| malformed("key", error.to_string()))?;
        let keep = match data.get("keep") {
            None => DEFAULT_KEEP,
            Some(text) => text
                .parse()
                .map_err(|_| malformed("keep", format!("`{text}` is no number")))?,
        };
        let mut nodes = BTreeMap::new();
        for (entry, text) in data {
            let Some(node) = entry.strip_prefix(NODE) else {
                continue;
            };
            let generations =
                serde_json::from_str(text).map_err(|error| malformed(entry, error.to_string()))?;
            nodes.insert(node.to_owned(), generations);
        }
        Ok(Self {
            key,
            keep,
            nodes,
            version: map.metadata.resource_version.clone(),
        })
    }

    /// The object, to be created, or to replace the one of [`Self::version`].
    #[must_use]
    pub fn to_config_map(&self) -> ConfigMap {
        let mut data = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("key".to_owned(), json(&self.key)),
            ("keep".to_owned(), self.keep.to_string()),
        ]);
        for (node, generations) in &self.nodes {
            data.insert(format!("{NODE}{node}"), json(generations));
        }
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.key.object_name()),
                labels: Some(BTreeMap::from([
                    (ROLE_LABEL.to_owned(), Role::Line.as_str().to_owned()),
                    (LINE_LABEL.to_owned(), self.key.hash()),
                ])),
                annotations: Some(BTreeMap::from([(
                    LINE_ANNOTATION.to_owned(),
                    self.key.to_string(),
                )])),
                resource_version: self.version.clone(),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        }
    }

    /// The generation that a clone on this node is taken from.
    #[must_use]
    pub fn current(&self, node: &str) -> Option<&Generation> {
        self.nodes.get(node)?.current()
    }
}

impl Generations {
    /// The one that the pointer names.
    #[must_use]
    pub fn current(&self) -> Option<&Generation> {
        self.current.and_then(|number| self.get(number))
    }

    /// The one of that number, if it is still kept.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&Generation> {
        self.generations.iter().find(|one| one.number == number)
    }

    /// The number that the next generation gets.
    #[must_use]
    pub fn next(&self) -> u64 {
        let highest = self.generations.iter().map(|one| one.number).max();
        self.last.max(highest.unwrap_or_default()) + 1
    }

    /// Adds a generation and moves the pointer to it; the one before is superseded from now on.
    pub fn promote(&mut self, generation: Generation) {
        let time = generation.time.clone();
        self.last = generation.number;
        self.generations.push(generation);
        self.point_to(self.last, &time);
    }

    /// Moves the pointer to a generation that is kept; `false` when it is not.
    pub fn point_to(&mut self, number: u64, time: &str) -> bool {
        if self.get(number).is_none() {
            return false;
        }
        self.current = Some(number);
        for one in &mut self.generations {
            if one.number == number {
                one.superseded = None;
            } else {
                one.superseded.get_or_insert_with(|| time.to_owned());
            }
        }
        true
    }
}

/// Plain data, which always can be written.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A generation that a push to main wrote, each from the one before.
    pub(crate) fn generation(number: u64, time: &str) -> Generation {
        Generation {
            number,
            kind: Kind::Claim,
            claim: format!("cache-conan-home-{number}"),
            uid: format!("uid-{number}"),
            size: "200Gi".to_owned(),
            class: Some("openebs-zfspv".to_owned()),
            base: (number > 1).then(|| Base {
                line: "octo/demo/main".parse().unwrap(),
                number: number - 1,
                uid: format!("uid-{}", number - 1),
            }),
            depth: u32::try_from(number).unwrap() - 1,
            lineage: Lineage {
                trusted: true,
                repository: "octo/demo".to_owned(),
                git_ref: "refs/heads/main".to_owned(),
                sha: "ffac537e6cbbf934b08745a378932722df287a53".to_owned(),
                run: "1658821493".to_owned(),
                attempt: "1".to_owned(),
                actor: "octocat".to_owned(),
                event: "push".to_owned(),
                workflow: "CI".to_owned(),
                job: "build".to_owned(),
            },
            time: time.to_owned(),
            superseded: None,
            tainted: None,
        }
    }

    fn line() -> Line {
        let mut line = Line::new("octo/demo/main".parse().unwrap());
        let node = line.nodes.entry("node-1".to_owned()).or_default();
        node.promote(generation(1, "2026-01-01T00:00:00Z"));
        node.promote(generation(2, "2026-01-02T00:00:00Z"));
        line
    }

    #[test]
    fn a_line_is_a_config_map() {
        insta::assert_yaml_snapshot!(line().to_config_map());
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let mut line = line();
        line.keep = 7;
        line.version = Some("4711".to_owned());
        assert_eq!(Line::read(&line.to_config_map()), Ok(line));
    }

    #[test]
    fn a_snapshot_is_marked_and_a_claim_is_as_ever() {
        let mut line = line();
        let of_claims = line.to_config_map().data.unwrap()["node.node-1"].clone();
        assert!(!of_claims.contains("kind"), "{of_claims}");
        let entry = line.nodes.entry(ANYWHERE.to_owned()).or_default();
        entry.promote(Generation {
            kind: Kind::Snapshot,
            ..generation(1, "2026-01-01T00:00:00Z")
        });
        let map = line.to_config_map();
        let of_snapshots = &map.data.as_ref().unwrap()["node._"];
        assert!(
            of_snapshots.contains(r#""kind":"snapshot""#),
            "{of_snapshots}"
        );
        assert_eq!(Line::read(&map), Ok(line));
    }

    #[test]
    fn another_format_and_damage_are_refused_by_name() {
        let change = |key: &str, value: &str| {
            let mut map = line().to_config_map();
            let data = map.data.get_or_insert_default();
            data.insert(key.to_owned(), value.to_owned());
            Line::read(&map).unwrap_err().to_string()
        };
        assert!(change("format", "2").contains("its format is `2`"));
        assert!(change("key", "{}").contains("`key`"));
        assert!(change("keep", "many").contains("`many` is no number"));
        assert!(change("node.node-1", "[1]").contains("`node.node-1`"));
        let foreign = Line::read(&ConfigMap::default()).unwrap_err();
        assert!(foreign.to_string().contains("its format is ``"));
    }

    #[test]
    fn a_promotion_supersedes_the_one_before() {
        let line = line();
        let node = &line.nodes["node-1"];
        assert_eq!(line.current("node-1").unwrap().number, 2);
        let first = node.get(1).unwrap();
        assert_eq!(first.superseded.as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!(node.get(2).unwrap().superseded, None);
        assert_eq!(line.current("node-2"), None);
    }

    #[test]
    fn no_number_is_given_twice_after_a_rollback() {
        let mut line = line();
        let node = line.nodes.get_mut("node-1").unwrap();
        assert!(node.point_to(1, "2026-01-03T00:00:00Z"));
        assert_eq!(node.current().unwrap().number, 1);
        assert_eq!(node.get(1).unwrap().superseded, None);
        node.generations.retain(|one| one.number == 1);
        assert_eq!(node.next(), 3);
        assert!(!node.point_to(2, "2026-01-04T00:00:00Z"));
        assert_eq!(node.current().unwrap().number, 1);
    }
}
