//! Which job this is: the runner's own word for it.
//!
//! The runner sets these variables in the hook's process for every command, from its own context;
//! a workflow's `env:` never gets there (actions/runner 2.336.0, `GitHubContext.cs`,
//! `ContainerHookManager.cs`).

use serde::{Deserialize, Serialize};

/// The job, its run, and what started it. An absent variable is an empty text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Github {
    /// `GITHUB_REPOSITORY`: `owner/name`.
    pub repository: String,
    /// `GITHUB_REPOSITORY_OWNER`.
    pub owner: String,
    /// `GITHUB_REF`: `refs/heads/main`, `refs/pull/12/merge`.
    pub git_ref: String,
    /// `GITHUB_BASE_REF`: the branch that a pull request is for.
    pub base_ref: String,
    /// `GITHUB_SHA`.
    pub sha: String,
    /// `GITHUB_EVENT_NAME`.
    pub event: String,
    /// `GITHUB_WORKFLOW`.
    pub workflow: String,
    /// `GITHUB_JOB`: the job's key.
    pub job: String,
    /// `GITHUB_RUN_ID`.
    pub run: String,
    /// `GITHUB_RUN_ATTEMPT`.
    pub attempt: String,
    /// `GITHUB_ACTOR`.
    pub actor: String,
    /// `RUNNER_ARCH`: `X64`, `ARM64`.
    pub arch: String,
    /// `GITHUB_SERVER_URL`: `https://github.com`.
    #[serde(default)]
    pub server: String,
}

impl Github {
    /// Reads the variables through `get`.
    #[must_use]
    pub fn read(get: &impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| get(name).unwrap_or_default();
        Self {
            repository: text("GITHUB_REPOSITORY"),
            owner: text("GITHUB_REPOSITORY_OWNER"),
            git_ref: text("GITHUB_REF"),
            base_ref: text("GITHUB_BASE_REF"),
            sha: text("GITHUB_SHA"),
            event: text("GITHUB_EVENT_NAME"),
            workflow: text("GITHUB_WORKFLOW"),
            job: text("GITHUB_JOB"),
            run: text("GITHUB_RUN_ID"),
            attempt: text("GITHUB_RUN_ATTEMPT"),
            actor: text("GITHUB_ACTOR"),
            arch: text("RUNNER_ARCH"),
            server: text("GITHUB_SERVER_URL"),
        }
    }
}
