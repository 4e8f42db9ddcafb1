//! Names of lines: patterns of the platform engineer's, filled in for a job.
//!
//! A name is a tuple. In a pattern `/` separates its parts, and each part is one placeholder or
//! plain text, so that no value can reach into another's place: `{owner}/{ref_name}` is
//! (`a-b`, `c`) for one job and (`a`, `b-c`) for another. `{repository}` is two parts, owner and
//! name. People read and write a tuple as a path in which a `/` within a part, and what could be
//! mistaken, is `%2F`: `octo/demo/feature%2Fx`.
//!
//! | placeholder | from |
//! |---|---|
//! | `repository` | `GITHUB_REPOSITORY` |
//! | `owner` | `GITHUB_REPOSITORY_OWNER` |
//! | `ref_name` | the branch's name; a tag's or a pull request's whole ref, so that a tag `main` is not the branch |
//! | `base_ref` | `GITHUB_BASE_REF`: the branch that a pull request is for |
//! | `workflow` | `GITHUB_WORKFLOW` |
//! | `job` | `GITHUB_JOB`, the key in the workflow |
//! | `image` | image of the job container, as the workflow names it |
//! | `arch` | `RUNNER_ARCH` |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pod::names;

/// What of a job can stand in a line's name. An empty text means unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `owner/name`.
    pub repository: String,
    /// Owner of the repository.
    pub owner: String,
    /// The whole ref, `refs/heads/main`.
    pub git_ref: String,
    /// Branch that a pull request is for.
    pub base_ref: String,
    /// Name of the workflow.
    pub workflow: String,
    /// Key of the job.
    pub job: String,
    /// Image of the job container.
    pub image: String,
    /// Architecture of the runner.
    pub arch: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Repository,
    Owner,
    RefName,
    BaseRef,
    Workflow,
    Job,
    Image,
    Arch,
}

const PLACEHOLDERS: [(&str, Placeholder); 8] = [
    ("repository", Placeholder::Repository),
    ("owner", Placeholder::Owner),
    ("ref_name", Placeholder::RefName),
    ("base_ref", Placeholder::BaseRef),
    ("workflow", Placeholder::Workflow),
    ("job", Placeholder::Job),
    ("image", Placeholder::Image),
    ("arch", Placeholder::Arch),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Placeholder),
}

/// A name with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

/// What is wrong with a pattern or a name, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct PatternError {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

impl Pattern {
    /// The line of a job; `None` when a placeholder of the pattern has no value for it.
    #[must_use]
    pub fn fill(&self, facts: &Facts) -> Option<Key> {
        let mut parts = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => parts.push(text.clone()),
                Part::Value(Placeholder::Repository) => {
                    let (owner, name) = facts.repository.split_once('/')?;
                    parts.extend([owner, name].map(str::to_owned));
                }
                Part::Value(placeholder) => parts.push(facts.value(*placeholder).to_owned()),
            }
        }
        parts
            .iter()
            .all(|part| !part.is_empty())
            .then_some(Key(parts))
    }
}

impl Facts {
    fn value(&self, placeholder: Placeholder) -> &str {
        match placeholder {
            Placeholder::Repository => &self.repository,
            Placeholder::Owner => &self.owner,
            Placeholder::RefName => self
                .git_ref
                .strip_prefix("refs/heads/")
                .unwrap_or(&self.git_ref),
            Placeholder::BaseRef => &self.base_ref,
            Placeholder::Workflow => &self.workflow,
            Placeholder::Job => &self.job,
            Placeholder::Image => &self.image,
            Placeholder::Arch => &self.arch,
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let parts = text.split('/').map(part).collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn part(text: &str) -> Result<Part, PatternError> {
    if !text.contains(['{', '}']) {
        return decode(text).map(Part::Text);
    }
    let name = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    let Some(name) = name.filter(|name| !name.contains(['{', '}'])) else {
        return Err(PatternError {
            what: format!("`{text}` mixes a placeholder with other text"),
            remedy: "separate them by `/`: `gcc12/{ref_name}`".to_owned(),
        });
    };
    PLACEHOLDERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, placeholder)| Part::Value(*placeholder))
        .ok_or_else(|| PatternError {
            what: format!("there is no placeholder `{{{name}}}`"),
            remedy: format!("use {}", PLACEHOLDERS.map(|(name, _)| name).join(", ")),
        })
}

/// The name of a line: a tuple of texts, none of them empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(Vec<String>);

/// Characters of a line's name in that of its `ConfigMap`.
const SLUG: usize = 40;

impl Key {
    /// Name of the line's `ConfigMap`: a piece of the key for people, and its hash.
    #[must_use]
    pub fn object_name(&self) -> String {
        let slug = names::cleaned(&self.to_string(), SLUG);
        let dash = if slug.is_empty() { "" } else { "-" };
        format!("arc-hook-cache-{slug}{dash}{}", self.hash())
    }

    /// Sixteen hexadecimal digits of the SHA-256 of the tuple as JSON.
    #[must_use]
    pub fn hash(&self) -> String {
        let tuple = serde_json::to_vec(&self.0).unwrap_or_default();
        Sha256::digest(tuple)
            .iter()
            .take(8)
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            for byte in part.bytes() {
                if byte.is_ascii_graphic() && !b"/%{}".contains(&byte) {
                    write!(f, "{}", byte as char)?;
                } else {
                    write!(f, "%{byte:02X}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Key {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        text.split('/')
            .map(decode)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// One part as people write it.
fn decode(text: &str) -> Result<String, PatternError> {
    let refuse = |what: String| PatternError {
        what,
        remedy: "write a line's name as `octo/demo/main`, a `/` within a part as `%2F` and a `%` \
                 as `%25`"
            .to_owned(),
    };
    if text.is_empty() {
        return Err(refuse("a part of the name is empty".to_owned()));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let code = tail
            .get(..2)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or_else(|| refuse(format!("`{text}` has a `%` without two digits")))?;
        bytes.push(code);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| refuse(format!("`{text}` is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn facts() -> Facts {
        Facts {
            repository: "octo/demo".to_owned(),
            owner: "octo".to_owned(),
            git_ref: "refs/heads/feature/x".to_owned(),
            base_ref: String::new(),
            workflow: "CI build".to_owned(),
            job: "build".to_owned(),
            image: "ghcr.io/octo/gcc:12".to_owned(),
            arch: "X64".to_owned(),
        }
    }

    fn filled(pattern: &str, facts: &Facts) -> Option<String> {
        let pattern: Pattern = pattern.parse().unwrap();
        pattern.fill(facts).map(|key| key.to_string())
    }

    #[test]
    fn each_placeholder_fills_a_part_of_its_own() {
        let fill = |pattern| filled(pattern, &facts()).unwrap();
        assert_eq!(fill("{repository}/{ref_name}"), "octo/demo/feature%2Fx");
        assert_eq!(fill("{owner}/{job}/{arch}"), "octo/build/X64");
        assert_eq!(fill("{workflow}"), "CI%20build");
        assert_eq!(fill("{image}"), "ghcr.io%2Focto%2Fgcc:12");
        assert_eq!(fill("gcc12-toolchain-main"), "gcc12-toolchain-main");
    }

    #[test]
    fn a_pattern_with_an_empty_value_means_no_line() {
        assert_eq!(filled("{repository}/{base_ref}", &facts()), None);
        for repository in ["", "octo", "/demo", "octo/"] {
            let facts = Facts {
                repository: repository.to_owned(),
                ..facts()
            };
            assert_eq!(filled("{repository}/main", &facts), None, "{repository}");
        }
    }

    #[test]
    fn a_tag_or_a_pull_request_is_never_the_branch_of_that_name() {
        let named = |git_ref: &str| {
            let facts = Facts {
                git_ref: git_ref.to_owned(),
                ..facts()
            };
            filled("{ref_name}", &facts).unwrap()
        };
        assert_eq!(named("refs/heads/main"), "main");
        assert_eq!(named("refs/tags/main"), "refs%2Ftags%2Fmain");
        assert_ne!(named("refs/pull/12/merge"), named("refs/heads/12/merge"));
    }

    #[test]
    fn a_ref_named_like_a_line_stays_in_its_place() {
        let facts = Facts {
            git_ref: "refs/heads/gcc12-toolchain-main".to_owned(),
            ..facts()
        };
        let own = filled("{repository}/{ref_name}", &facts);
        assert_ne!(own, filled("gcc12-toolchain-main", &facts));
        let facts = Facts {
            git_ref: "refs/heads/../../octo/demo/main".to_owned(),
            ..facts
        };
        let own = filled("{owner}/{ref_name}", &facts);
        assert_ne!(own, filled("octo/demo/main", &facts));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_a_remedy() {
        for (text, expected) in [
            ("gcc-{ref_name}", "separate them by `/`"),
            ("{owner}{ref_name}", "separate them by `/`"),
            ("{branch}/x", "use repository, owner, ref_name"),
            ("a//b", "part of the name is empty"),
            ("", "part of the name is empty"),
            ("50%", "without two digits"),
        ] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn object_names_are_readable_and_valid_and_differ() {
        let name = |text: &str| text.parse::<Key>().unwrap().object_name();
        let one = name("octo/demo/main");
        assert!(one.starts_with("arc-hook-cache-octo-demo-main-"), "{one}");
        let names: BTreeSet<String> = ["a-b/c", "a/b-c", "a/b/c", "a%2Fb/c", "%2D", "A-b/c"]
            .map(name)
            .into();
        assert_eq!(names.len(), 6);
        let long = name(&"x".repeat(300));
        assert!(names::is_dns_label(&long) || long.len() > 63, "{long}");
        assert!(long.len() <= 80, "{long}");
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(parts in prop::collection::vec(".{1,12}", 1..5)) {
            let key = Key(parts);
            prop_assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
        }

        #[test]
        fn different_jobs_have_different_lines(
            one in (".{1,10}", ".{1,10}"), other in (".{1,10}", ".{1,10}"),
        ) {
            let pattern: Pattern = "{workflow}/fixed/{job}".parse().unwrap();
            let key = |(workflow, job): &(String, String)| {
                pattern
                    .fill(&Facts { workflow: workflow.clone(), job: job.clone(), ..facts() })
                    .unwrap()
            };
            let same = one == other;
            prop_assert_eq!(key(&one) == key(&other), same);
            prop_assert_eq!(key(&one).to_string() == key(&other).to_string(), same);
            prop_assert_eq!(key(&one).object_name() == key(&other).object_name(), same);
        }

        #[test]
        fn every_line_has_a_name_that_kubernetes_takes(parts in prop::collection::vec(".{1,40}", 1..5)) {
            let name = Key(parts).object_name();
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            prop_assert!(name.len() <= 253 && name.chars().all(fits));
            prop_assert!(!name.ends_with('-'));
        }
    }
}
