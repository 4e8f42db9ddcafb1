//! Which variables of a job someone who enters it gets to see: an allow-list of exact names.
//!
//! The runner fills the names below from its own context and a workflow cannot override them
//! (actions/runner 2.336.0, `GitHubContext.cs`, `RunnerContext.cs`); whatever else a step has may be
//! a secret. The image's and the template's own variables stand in the pod anyway.

use std::collections::BTreeMap;

use crate::protocol::Environment;

const GITHUB: [&str; 40] = [
    "ACTION",
    "ACTION_PATH",
    "ACTION_REF",
    "ACTION_REPOSITORY",
    "ACTOR",
    "ACTOR_ID",
    "API_URL",
    "BASE_REF",
    "ENV",
    "EVENT_NAME",
    "GRAPHQL_URL",
    "HEAD_REF",
    "JOB",
    "OUTPUT",
    "PATH",
    "REF",
    "REF_NAME",
    "REF_PROTECTED",
    "REF_TYPE",
    "REPOSITORY",
    "REPOSITORY_ID",
    "REPOSITORY_OWNER",
    "REPOSITORY_OWNER_ID",
    "RETENTION_DAYS",
    "RUN_ATTEMPT",
    "RUN_ID",
    "RUN_NUMBER",
    "SERVER_URL",
    "SHA",
    "STATE",
    "STEP_SUMMARY",
    "TRIGGERING_ACTOR",
    "WORKFLOW",
    "WORKFLOW_REF",
    "WORKFLOW_SHA",
    "WORKSPACE",
    "EVENT_PATH",
    "ACTIONS",
    "ARTIFACTS",
    "ARTIFACTS_LIST",
];
const RUNNER: [&str; 8] = [
    "OS",
    "ARCH",
    "NAME",
    "ENVIRONMENT",
    "TOOL_CACHE",
    "TEMP",
    "WORKSPACE",
    "DEBUG",
];
const PLAIN: [&str; 3] = ["CI", "PATH", "HOME"];

/// Whether a variable of that name is kept. `more` are the names of `arc-hook/retain-env`.
#[must_use]
pub fn is_kept(name: &str, more: &[String]) -> bool {
    let listed = |prefix: &str, names: &[&str]| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| names.contains(&rest))
    };
    PLAIN.contains(&name)
        || listed("GITHUB_", &GITHUB)
        || listed("RUNNER_", &RUNNER)
        || more.iter().any(|kept| kept == name)
}

/// What is kept of an environment.
#[must_use]
pub fn kept(environment: &Environment, more: &[String]) -> BTreeMap<String, String> {
    environment
        .iter()
        .filter(|(name, _)| is_kept(name, more))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A text in which the values of all other variables are crossed out, as the runner does in its log.
/// Values of a letter or two say nothing, and would cross out everything.
#[must_use]
pub fn masked(text: &str, environment: &Environment, more: &[String]) -> String {
    const SHORTEST: usize = 4;
    let mut secrets: Vec<&str> = environment
        .iter()
        .filter(|(name, _)| !is_kept(name, more))
        .flat_map(|(_, value)| std::iter::once(value.as_str()).chain(value.lines()))
        .map(str::trim)
        .filter(|value| value.len() >= SHORTEST)
        .collect();
    // The longest first: one may hold another.
    secrets.sort_by_key(|value| std::cmp::Reverse(value.len()));
    secrets.dedup();
    secrets
        .into_iter()
        .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_and_what_a_workflow_sets_are_not_kept() {
        for name in [
            "GITHUB_TOKEN",
            "ACTIONS_RUNTIME_TOKEN",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
            "MY_SECRET",
            "INPUT_TOKEN",
            "RUNNER_TOKEN",
            "GITHUB_PAT",
            "STATE_x",
            "",
            "github_sha",
        ] {
            assert!(!is_kept(name, &[]), "{name}");
        }
        for name in [
            "GITHUB_SHA",
            "GITHUB_OUTPUT",
            "RUNNER_OS",
            "CI",
            "HOME",
            "PATH",
        ] {
            assert!(is_kept(name, &[]), "{name}");
        }
        assert!(is_kept("CC", &["CC".to_owned()]));
    }

    #[test]
    fn values_of_other_variables_are_crossed_out_the_longer_ones_first() {
        let environment = Environment::from(
            [
                ("A", "s3cret"),
                ("B", "s3cret-longer"),
                ("C", "line one\nline two"),
                ("D", "no"),
                ("GITHUB_SHA", "0123456"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let text = "s3cret-longer s3cret line two no 0123456";
        assert_eq!(masked(text, &environment, &[]), "*** *** *** no 0123456");
    }

    proptest! {
        #[test]
        fn no_value_that_is_not_kept_stays_in_a_text(
            value in "[a-z0-9]{4,20}", before in ".{0,20}", after in ".{0,20}"
        ) {
            let environment = Environment::from([("DEPLOY_KEY".to_owned(), value.clone())]);
            let text = masked(&format!("{before}{value}{after}"), &environment, &[]);
            prop_assert!(!text.contains(&value));
        }
    }
}
