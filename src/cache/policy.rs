//! What the platform engineer wants of a cache: the annotation `arc-hook/cache.<volume>`.

use serde_json::{Map, Value};

use super::glob::Glob;
use super::line::{ANYWHERE, DEFAULT_KEEP, Kind};
use super::pattern::{Key, Pattern};
use super::record::SnapshotWish;
use crate::pod::Location;
use crate::pod::yaml;

/// A cache as one template wants it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Lines whose generation may be the parent, the first that has one.
    pub parents: Vec<Pattern>,
    /// Who promotes, and where to; nobody when absent.
    pub promote: Option<Promote>,
    /// How many superseded generations stay; [`DEFAULT_KEEP`] when absent.
    pub keep: Option<u32>,
    /// Lines that a job may ask for by `container.env`.
    pub allow: Vec<Glob>,
    /// What generations are.
    pub via: Kind,
    /// `VolumeSnapshotClass` of snapshots; the driver's default when absent.
    pub snapshot_class: Option<String>,
    /// What must succeed on the frozen clone before it becomes a parent; empty for nothing.
    pub verify: Vec<String>,
    /// Only what trusted jobs wrote may be a parent.
    pub trusted_parents_only: bool,
    /// Whether two pods of a node can mount one volume; known from its access modes when absent.
    pub shared: Option<bool>,
}

/// Who promotes, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct Promote {
    /// The line that gets the generation.
    pub to: Pattern,
    /// Repositories, as `octo/*`.
    pub repositories: Vec<Glob>,
    /// Events, as `push`.
    pub events: Vec<String>,
    /// Whole refs, as `refs/heads/main`.
    pub refs: Vec<Glob>,
}

/// What is wrong with a policy, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct PolicyError {
    /// Where in the annotation's value, counted from 1.
    pub at: Option<Location>,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

const KEYS: &str =
    "use parents, promote, keep, allow, via, snapshot-class, verify, trusted-parents-only, shared";
const PROMOTE_KEYS: &str = "`promote` has to, repositories, events, refs";

/// Name of the variable by which a job asks for a line of this volume. Names of volumes are DNS
/// labels, so no two volumes share one.
#[must_use]
pub fn variable(volume: &str) -> String {
    format!("ARC_HOOK_CACHE_{}", volume.to_uppercase().replace('-', "_"))
}

impl Policy {
    /// Reads the annotation's value.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let (value, places) = yaml::read(text).map_err(|what| PolicyError {
            at: None,
            what,
            remedy: "write a mapping in YAML".to_owned(),
        })?;
        let reader = Reader { places: &places };
        let root = reader.map("", &value, KEYS)?;
        let mut policy = Self::default();
        for (key, value) in root {
            let at = format!("/{}", yaml::escape(key));
            match key.as_str() {
                "parents" => {
                    policy.parents = reader.list(&at, value, str::parse::<Pattern>)?;
                }
                "promote" => policy.promote = Some(reader.promote(&at, value)?),
                "keep" => {
                    let keep = value.as_u64().and_then(|keep| u32::try_from(keep).ok());
                    policy.keep = Some(keep.ok_or_else(|| {
                        reader.refuse(&at, "`keep` is no number", "use a number as 3, or 0")
                    })?);
                }
                "allow" => policy.allow = reader.globs(&at, value)?,
                "via" => policy.via = reader.via(&at, value)?,
                "snapshot-class" => {
                    policy.snapshot_class = Some(reader.class(&at, value)?);
                }
                "verify" => policy.verify = reader.command(&at, value)?,
                "trusted-parents-only" => {
                    policy.trusted_parents_only = reader.switch(&at, value)?;
                }
                "shared" => policy.shared = Some(reader.switch(&at, value)?),
                _ => return Err(reader.unknown(&at, key, KEYS)),
            }
        }
        if policy.snapshot_class.is_some() && policy.via == Kind::Claim {
            let remedy = "add `via: snapshot`, or take it away";
            return Err(reader.refuse("/snapshot-class", "no snapshots are taken", remedy));
        }
        Ok(policy)
    }

    /// How many superseded generations stay.
    #[must_use]
    pub fn keep(&self) -> u32 {
        self.keep.unwrap_or(DEFAULT_KEEP)
    }

    /// The entry of lines that this cache goes by, for a runner on `node`.
    #[must_use]
    pub fn place<'n>(&self, node: Option<&'n str>) -> Option<&'n str> {
        match self.via {
            Kind::Claim => node,
            Kind::Snapshot => Some(ANYWHERE),
        }
    }

    /// What is to be taken of a good clone, where generations are snapshots.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotWish> {
        (self.via == Kind::Snapshot).then(|| SnapshotWish {
            class: self.snapshot_class.clone(),
        })
    }

    /// The line that a job may ask for by `text`, the value of its variable.
    pub fn asked(&self, text: &str) -> Result<Key, String> {
        let key: Key = text.trim().parse().map_err(|error| format!("{error}"))?;
        let name = key.to_string();
        if self.allow.iter().any(|glob| glob.matches(&name)) {
            return Ok(key);
        }
        Err("the hook template does not allow it; add it to `allow` of the cache".to_owned())
    }
}

/// Reads values, and knows their places.
struct Reader<'a> {
    places: &'a std::collections::BTreeMap<String, Location>,
}

impl Reader<'_> {
    fn refuse(
        &self,
        pointer: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> PolicyError {
        PolicyError {
            at: self.places.get(pointer).copied(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    fn unknown(&self, pointer: &str, key: &str, remedy: &str) -> PolicyError {
        self.refuse(pointer, format!("unknown key `{key}`"), remedy)
    }

    fn map<'v>(
        &self,
        pointer: &str,
        value: &'v Value,
        remedy: &str,
    ) -> Result<&'v Map<String, Value>, PolicyError> {
        value
            .as_object()
            .ok_or_else(|| self.refuse(pointer, "this is no mapping", remedy))
    }

    fn list<T, E: std::fmt::Display>(
        &self,
        pointer: &str,
        value: &Value,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, PolicyError> {
        let elements = value.as_array().ok_or_else(|| {
            self.refuse(
                pointer,
                "this is no list",
                "write a list of texts, as [a, b]",
            )
        })?;
        let element = |(index, element): (usize, &Value)| {
            let at = format!("{pointer}/{index}");
            let text = element
                .as_str()
                .ok_or_else(|| self.refuse(&at, "this is no text", "put it in quotes"))?;
            read(text).map_err(|error| {
                let message = error.to_string();
                let (what, remedy) = message.split_once("; ").unwrap_or((&message, ""));
                self.refuse(&at, what, remedy)
            })
        };
        elements.iter().enumerate().map(element).collect()
    }

    fn globs(&self, pointer: &str, value: &Value) -> Result<Vec<Glob>, PolicyError> {
        self.list(pointer, value, |text| Ok::<_, String>(Glob::new(text)))
    }

    fn switch(&self, pointer: &str, value: &Value) -> Result<bool, PolicyError> {
        value
            .as_bool()
            .ok_or_else(|| self.refuse(pointer, "this is no truth value", "use true or false"))
    }

    fn command(&self, pointer: &str, value: &Value) -> Result<Vec<String>, PolicyError> {
        let words = match value {
            Value::String(line) => shell_words::split(line).map_err(|_| {
                self.refuse(
                    pointer,
                    "a quote is never closed",
                    "close it, or write a list",
                )
            })?,
            _ => self.list(pointer, value, |text| Ok::<_, String>(text.to_owned()))?,
        };
        if words.is_empty() {
            let remedy = "write a command as `conan cache check-integrity \"*\"`";
            return Err(self.refuse(pointer, "this is no command", remedy));
        }
        Ok(words)
    }

    fn via(&self, pointer: &str, value: &Value) -> Result<Kind, PolicyError> {
        match value.as_str() {
            Some("clone") => Ok(Kind::Claim),
            Some("snapshot") => Ok(Kind::Snapshot),
            _ => Err(self.refuse(
                pointer,
                format!("`via` is {value}"),
                "use `clone` or `snapshot`",
            )),
        }
    }

    fn class(&self, pointer: &str, value: &Value) -> Result<String, PolicyError> {
        let name = value.as_str().filter(|name| !name.is_empty());
        name.map(str::to_owned).ok_or_else(|| {
            let remedy = "name a VolumeSnapshotClass";
            self.refuse(pointer, "`snapshot-class` is no name", remedy)
        })
    }

    fn promote(&self, pointer: &str, value: &Value) -> Result<Promote, PolicyError> {
        let map = self.map(pointer, value, PROMOTE_KEYS)?;
        let (mut to, mut repositories, mut events, mut refs) = (None, None, None, None);
        for (key, value) in map {
            let at = format!("{pointer}/{}", yaml::escape(key));
            match key.as_str() {
                "to" => {
                    let text = value.as_str().ok_or_else(|| {
                        self.refuse(&at, "`to` is no text", "use `{repository}/{ref_name}`")
                    })?;
                    to = Some(
                        text.parse::<Pattern>()
                            .map_err(|error| self.refuse(&at, error.what, error.remedy))?,
                    );
                }
                "repositories" => repositories = Some(self.globs(&at, value)?),
                "events" => {
                    let event = |text: &str| Ok::<_, String>(text.to_owned());
                    events = Some(self.list(&at, value, event)?);
                }
                "refs" => refs = Some(self.globs(&at, value)?),
                _ => return Err(self.unknown(&at, key, PROMOTE_KEYS)),
            }
        }
        // Nothing is promoted by what somebody forgot to write.
        let missing = |key: &str, example: &str| {
            let what = format!("`promote` lacks `{key}`");
            self.refuse(pointer, what, format!("add it, as `{key}: {example}`"))
        };
        Ok(Promote {
            to: to.ok_or_else(|| missing("to", "\"{repository}/{ref_name}\""))?,
            repositories: repositories.ok_or_else(|| missing("repositories", "[octo/*]"))?,
            events: events.ok_or_else(|| missing("events", "[push, schedule]"))?,
            refs: refs.ok_or_else(|| missing("refs", "[refs/heads/main]"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
parents: ["{repository}/{base_ref}", "{repository}/main", gcc12-toolchain-main]
promote: {to: "{repository}/{ref_name}", repositories: [octo/*], events: [push], refs: [refs/heads/main]}
keep: 5
allow: [gcc*/**]
via: clone
verify: conan cache check-integrity "*"
trusted-parents-only: true
shared: false
"#;

    #[test]
    fn every_key_is_read() {
        let policy = Policy::parse(WHOLE).unwrap();
        let parents: Vec<_> = policy.parents.iter().map(ToString::to_string).collect();
        let expected = [
            "{repository}/{base_ref}",
            "{repository}/main",
            "gcc12-toolchain-main",
        ];
        assert_eq!(parents, expected);
        let promote = policy.promote.as_ref().unwrap();
        assert_eq!(promote.to.to_string(), "{repository}/{ref_name}");
        assert!(promote.repositories[0].matches("octo/demo"));
        assert_eq!(promote.events, ["push"]);
        assert!(promote.refs[0].matches("refs/heads/main"));
        assert_eq!(policy.keep(), 5);
        assert_eq!(policy.verify, ["conan", "cache", "check-integrity", "*"]);
        assert!(policy.trusted_parents_only);
        assert_eq!(policy.shared, Some(false));
    }

    #[test]
    fn what_is_left_away_is_off() {
        let policy = Policy::parse("{}").unwrap();
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.keep(), DEFAULT_KEEP);
        assert!(policy.asked("octo/demo/main").is_err());
    }

    #[test]
    fn snapshots_are_of_no_node() {
        let clones = Policy::parse("via: clone").unwrap();
        assert_eq!(clones.place(Some("node-1")), Some("node-1"));
        assert_eq!(clones.snapshot(), None);
        let snapshots = Policy::parse("via: snapshot\nsnapshot-class: ebs").unwrap();
        assert_eq!(snapshots.place(Some("node-1")), Some("_"));
        assert_eq!(snapshots.place(None), Some("_"));
        let class = snapshots.snapshot().unwrap().class;
        assert_eq!(class.as_deref(), Some("ebs"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_a_remedy() {
        for (text, line, column, expected) in [
            ("parent: [a]", 1, 1, "unknown key `parent`; use parents"),
            ("keep: 1\nparents: a", 2, 1, "this is no list"),
            ("parents:\n- ok\n- 'x-{job}'", 3, 3, "mixes a placeholder"),
            ("parents: [1]", 1, 11, "put it in quotes"),
            ("keep: many", 1, 1, "`keep` is no number"),
            (
                "promote: {to: a, repositories: [a], events: [push]}",
                1,
                1,
                "lacks `refs`",
            ),
            ("promote: {form: a}", 1, 11, "unknown key `form`"),
            ("verify: \"a 'b\"", 1, 1, "quote is never closed"),
            ("verify: []", 1, 1, "no command"),
            ("via: rsync", 1, 1, "use `clone` or `snapshot`"),
            ("via: snapshot\nsnapshot-class: 1", 2, 1, "is no name"),
            ("snapshot-class: ebs", 1, 1, "add `via: snapshot`"),
            ("shared: yes", 1, 1, "use true or false"),
            ("- parents", 1, 1, "no mapping"),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert_eq!(error.at, Some(Location { line, column }), "{text}");
        }
        let error = Policy::parse("parents: [a\nkeep").unwrap_err();
        assert!(error.to_string().contains("line"), "{error}");
    }

    #[test]
    fn a_job_may_ask_for_allowed_lines_only() {
        let policy = Policy::parse("allow: [gcc*/*]").unwrap();
        let asked = policy.asked(" gcc12/feature%2Fx ").unwrap();
        assert_eq!(asked, "gcc12/feature%2Fx".parse().unwrap());
        for refused in ["gcc12/a/b", "octo/demo", "", "gcc12/", "gcc12/../x/y"] {
            assert!(policy.asked(refused).is_err(), "{refused}");
        }
        assert_eq!(variable("conan-home"), "ARC_HOOK_CACHE_CONAN_HOME");
    }
}
