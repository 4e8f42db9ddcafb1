//! The variables that the runner makes up: for the hook process with the
//! runner's own paths, for steps translated.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::layout::Layout;
use crate::job::{Job, Variables};

/// What of the `github` context becomes a variable. The token does not.
const ALLOWED: [&str; 42] = [
    "ACTION",
    "ACTION_PATH",
    "ACTION_REF",
    "ACTION_REPOSITORY",
    "ACTOR",
    "ACTOR_ID",
    "API_URL",
    "ARTIFACTS",
    "ARTIFACTS_LIST",
    "BASE_REF",
    "ENV",
    "EVENT_NAME",
    "EVENT_PATH",
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
    "JOB_WORKFLOW_REF",
    "JOB_WORKFLOW_SHA",
    "TOKEN_PERMISSIONS",
];

/// `GITHUB_*` of the job, with the runner's own paths.
#[must_use]
pub fn github(job: &Job, layout: &Layout) -> Variables {
    let repository = job.repository.as_str();
    let workflow_ref = format!("{repository}/.github/workflows/test.yml@refs/heads/main");
    let workspace = layout.workspace.to_string_lossy();
    let mut variables: Variables = [
        ("ACTOR", "octocat"),
        ("ACTOR_ID", "583231"),
        ("API_URL", "https://api.github.com"),
        ("BASE_REF", ""),
        ("EVENT_NAME", "push"),
        ("GRAPHQL_URL", "https://api.github.com/graphql"),
        ("HEAD_REF", ""),
        ("JOB", "build"),
        ("REF", "refs/heads/main"),
        ("REF_NAME", "main"),
        ("REF_PROTECTED", "false"),
        ("REF_TYPE", "branch"),
        ("REPOSITORY", repository),
        ("REPOSITORY_ID", "1296269"),
        ("REPOSITORY_OWNER", job.owner()),
        ("REPOSITORY_OWNER_ID", "583231"),
        ("RETENTION_DAYS", "90"),
        ("RUN_ATTEMPT", "1"),
        ("RUN_ID", "1658821493"),
        ("RUN_NUMBER", "42"),
        ("SERVER_URL", "https://github.com"),
        ("SHA", "ffac537e6cbbf934b08745a378932722df287a53"),
        ("TRIGGERING_ACTOR", "octocat"),
        ("WORKFLOW", "test"),
        ("WORKFLOW_REF", &workflow_ref),
        ("WORKFLOW_SHA", "ffac537e6cbbf934b08745a378932722df287a53"),
        ("WORKSPACE", &workspace),
    ]
    .into_iter()
    .map(|(name, value)| (format!("GITHUB_{name}"), value.to_owned()))
    .collect();
    for (name, value) in &job.github {
        let name = name.to_ascii_uppercase();
        if ALLOWED.contains(&name.as_str()) {
            variables.insert(format!("GITHUB_{name}"), value.clone());
        }
    }
    variables
}

/// `RUNNER_*` of the job, with the runner's own paths.
#[must_use]
pub fn runner(layout: &Layout) -> Variables {
    let name = std::env::var("ACTIONS_RUNNER_POD_NAME").unwrap_or_else(|_| "runner".to_owned());
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    [
        ("RUNNER_OS", "Linux".to_owned()),
        ("RUNNER_ARCH", "X64".to_owned()),
        ("RUNNER_NAME", name),
        ("RUNNER_ENVIRONMENT", "self-hosted".to_owned()),
        ("RUNNER_TOOL_CACHE", path(&layout.tools)),
        ("RUNNER_TEMP", path(&layout.temp)),
        ("RUNNER_WORKSPACE", path(&layout.runner_workspace)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The whole environment of a hook process: the worker's own, overlaid.
#[must_use]
pub fn hook_process(
    github: &Variables,
    layout: &Layout,
    tracking_id: &str,
    prepended: &[String],
) -> BTreeMap<OsString, OsString> {
    let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in github.iter().chain(&runner(layout)) {
        environment.insert(name.into(), value.into());
    }
    if !prepended.is_empty() {
        let mut path = OsString::from(prepended.join(":"));
        if let Some(own) = environment.get(&OsString::from("PATH")) {
            path.push(":");
            path.push(own);
        }
        environment.insert("PATH".into(), path);
    }
    environment.insert("RUNNER_TRACKING_ID".into(), tracking_id.into());
    environment.insert("GITHUB_ACTIONS".into(), "true".into());
    environment
        .entry("CI".into())
        .or_insert_with(|| "true".into());
    environment
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_hook_sees_the_context_and_never_the_job_s_own_variables() {
        let job = Job::parse(
            "{name: x, env: {SECRET: s}, github: {head_ref: topic, token: t}, repository: a/b}",
        )
        .unwrap();
        let layout = Layout::new(Path::new("/home/runner"), "b");
        let prepended = ["/one".to_owned(), "/two".to_owned()];
        let environment = hook_process(&github(&job, &layout), &layout, "github_1", &prepended);
        let value = |name: &str| {
            environment
                .get(&OsString::from(name))
                .and_then(|v| v.to_str())
        };
        assert_eq!(value("GITHUB_HEAD_REF"), Some("topic"));
        assert_eq!(value("GITHUB_WORKSPACE"), Some("/home/runner/_work/b/b"));
        assert_eq!(value("GITHUB_TOKEN"), None);
        assert_eq!(value("SECRET"), None);
        assert!(value("PATH").unwrap().starts_with("/one:/two:"));
    }
}
