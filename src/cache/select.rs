//! Which generation a job's clone is taken from.

use std::collections::BTreeMap;
use std::fmt;

use super::line::{Generation, Kind, Line, LineError};
use super::pattern::{Facts, Key};
use super::policy::Policy;

/// A line that may hold the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its key.
    pub key: Key,
    /// The job asked for it.
    pub asked: bool,
}

/// A line that was passed over, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The line, or the pattern that came to none.
    pub name: String,
    /// Why, as a fragment.
    pub why: String,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.why)
    }
}

/// The lines to look into, in order: what the job asks for, then the policy's parents. `asked` is
/// the value of the job's variable ([`super::policy::variable`]).
#[must_use]
pub fn candidates(
    policy: &Policy,
    facts: &Facts,
    asked: Option<&str>,
) -> (Vec<Candidate>, Vec<Passed>) {
    let mut found: Vec<Candidate> = Vec::new();
    let mut passed = Vec::new();
    let asked = asked.filter(|text| !text.trim().is_empty());
    match asked.map(|text| policy.asked(text)) {
        Some(Ok(key)) => found.push(Candidate { key, asked: true }),
        Some(Err(why)) => passed.push(Passed {
            name: format!("`{}`", asked.unwrap_or_default()),
            why,
        }),
        None => {}
    }
    for pattern in &policy.parents {
        let Some(key) = pattern.fill(facts) else {
            passed.push(Passed {
                name: pattern.to_string(),
                why: "empty for this job".to_owned(),
            });
            continue;
        };
        if !found.iter().any(|candidate| candidate.key == key) {
            found.push(Candidate { key, asked: false });
        }
    }
    (found, passed)
}

/// The generations that may be the parent, best first, and why others are none. `lines` holds what
/// was found under a candidate's name.
#[must_use]
pub fn rank(
    policy: &Policy,
    candidates: &[Candidate],
    lines: &BTreeMap<Key, Result<Line, LineError>>,
    node: Option<&str>,
) -> (Vec<(Key, Generation)>, Vec<Passed>) {
    let mut ranked = Vec::new();
    let mut passed = Vec::new();
    for Candidate { key, .. } in candidates {
        match judge(policy, key, lines.get(key), node) {
            Ok(generation) => ranked.push((key.clone(), generation.clone())),
            Err(why) => passed.push(Passed {
                name: key.to_string(),
                why,
            }),
        }
    }
    (ranked, passed)
}

fn judge<'l>(
    policy: &Policy,
    key: &Key,
    line: Option<&'l Result<Line, LineError>>,
    node: Option<&str>,
) -> Result<&'l Generation, String> {
    let line = match line {
        None => return Err("no such line".to_owned()),
        Some(Err(error)) => return Err(error.to_string()),
        Some(Ok(line)) => line,
    };
    if line.key != *key {
        return Err(format!("its object holds the line {}", line.key));
    }
    let place = policy
        .place(node)
        .ok_or("the node of the runner is not known")?;
    let generation = line.current(place).ok_or_else(|| match policy.via {
        Kind::Claim => format!("no generation on node `{place}`"),
        Kind::Snapshot => "no generation that is a snapshot".to_owned(),
    })?;
    if let Some(taint) = &generation.tainted {
        return Err(format!(
            "generation {} is tainted: {}",
            generation.number, taint.reason
        ));
    }
    if policy.trusted_parents_only && !generation.lineage.trusted {
        return Err(format!(
            "generation {} was written by an untrusted job",
            generation.number
        ));
    }
    Ok(generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::line::tests::generation;
    use crate::cache::line::{Lineage, Taint};

    fn facts() -> Facts {
        Facts {
            repository: "octo/demo".to_owned(),
            git_ref: "refs/pull/7/merge".to_owned(),
            base_ref: "dev".to_owned(),
            ..Facts::default()
        }
    }

    fn policy(more: &str) -> Policy {
        let parents = r#"parents: ["{repository}/{base_ref}", "{workflow}/x", "{repository}/main", toolchain]"#;
        Policy::parse(&format!("{parents}\n{more}")).unwrap()
    }

    fn line(key: &str, node: &str, trusted: bool) -> (Key, Result<Line, LineError>) {
        let key: Key = key.parse().unwrap();
        let mut line = Line::new(key.clone());
        line.nodes
            .entry(node.to_owned())
            .or_default()
            .promote(Generation {
                lineage: Lineage {
                    trusted,
                    ..Lineage::default()
                },
                ..generation(3, "2026-01-01T00:00:00Z")
            });
        (key, Ok(line))
    }

    fn ranked(
        policy: &Policy,
        asked: Option<&str>,
        lines: impl IntoIterator<Item = (Key, Result<Line, LineError>)>,
        node: Option<&str>,
    ) -> (Vec<String>, Vec<String>) {
        let (candidates, mut passed) = candidates(policy, &facts(), asked);
        let lines = lines.into_iter().collect();
        let (found, more) = rank(policy, &candidates, &lines, node);
        passed.extend(more);
        (
            found.iter().map(|(key, _)| key.to_string()).collect(),
            passed.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn the_first_parent_that_exists_comes_first() {
        let lines = [
            line("octo/demo/main", "n1", true),
            line("toolchain", "n1", true),
        ];
        let (found, passed) = ranked(&policy(""), None, lines, Some("n1"));
        assert_eq!(found, ["octo/demo/main", "toolchain"]);
        assert_eq!(
            passed,
            [
                "{workflow}/x: empty for this job",
                "octo/demo/dev: no such line"
            ]
        );
    }

    #[test]
    fn a_parent_on_another_node_is_none() {
        let lines = [line("octo/demo/main", "n2", true)];
        let (found, passed) = ranked(&policy(""), None, lines.clone(), Some("n1"));
        assert!(found.is_empty());
        assert!(passed.contains(&"octo/demo/main: no generation on node `n1`".to_owned()));
        let (found, passed) = ranked(&policy(""), None, lines, None);
        assert!(found.is_empty());
        assert!(passed.iter().any(|why| why.contains("node of the runner")));
    }

    #[test]
    fn a_snapshot_is_a_parent_on_every_node_and_a_claim_is_none_of_it() {
        let both = [
            line("octo/demo/main", "n1", true),
            line("toolchain", "_", true),
        ];
        let policy = policy("via: snapshot");
        for node in [Some("n1"), Some("n9"), None] {
            let (found, passed) = ranked(&policy, None, both.clone(), node);
            assert_eq!(found, ["toolchain"]);
            let why = "octo/demo/main: no generation that is a snapshot".to_owned();
            assert!(passed.contains(&why), "{passed:?}");
        }
    }

    #[test]
    fn a_job_gets_the_line_that_it_asks_for_where_it_is_allowed() {
        let lines = [
            line("octo/demo/main", "n1", true),
            line("gcc13/x", "n1", true),
        ];
        let policy = policy("allow: [gcc*/*]");
        let (found, _) = ranked(&policy, Some("gcc13/x"), lines.clone(), Some("n1"));
        assert_eq!(found, ["gcc13/x", "octo/demo/main"]);
        let (found, passed) = ranked(&policy, Some("octo/secret"), lines, Some("n1"));
        assert_eq!(found, ["octo/demo/main"]);
        assert!(passed[0].contains("`octo/secret`: the hook template does not allow it"));
    }

    #[test]
    fn tainted_generations_and_on_request_untrusted_ones_are_passed_over() {
        let (key, mut tainted) = line("octo/demo/main", "n1", true);
        let node = tainted.as_mut().unwrap().nodes.get_mut("n1").unwrap();
        node.generations[0].tainted = Some(Taint {
            time: "2026-01-02T00:00:00Z".to_owned(),
            reason: "miscompiled".to_owned(),
        });
        let lines = [(key, tainted), line("toolchain", "n1", false)];
        let (found, passed) = ranked(&policy(""), None, lines.clone(), Some("n1"));
        assert_eq!(found, ["toolchain"]);
        assert!(
            passed.contains(&"octo/demo/main: generation 3 is tainted: miscompiled".to_owned())
        );
        let careful = policy("trusted-parents-only: true");
        let (found, passed) = ranked(&careful, None, lines, Some("n1"));
        assert!(found.is_empty());
        let why = "toolchain: generation 3 was written by an untrusted job".to_owned();
        assert!(passed.contains(&why));
    }

    #[test]
    fn an_object_of_another_line_or_of_another_format_is_none() {
        let (_, other) = line("octo/other/main", "n1", true);
        let key: Key = "octo/demo/main".parse().unwrap();
        let broken = LineError::Format {
            name: "x".to_owned(),
            format: "2".to_owned(),
        };
        let lines = [(key, other), ("toolchain".parse().unwrap(), Err(broken))];
        let (found, passed) = ranked(&policy(""), None, lines, Some("n1"));
        assert!(found.is_empty());
        assert!(
            passed
                .iter()
                .any(|why| why.contains("holds the line octo/other/main"))
        );
        assert!(passed.iter().any(|why| why.contains("its format is `2`")));
    }
}
