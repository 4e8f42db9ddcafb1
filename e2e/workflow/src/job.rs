//! The description of a job: a workflow file's `jobs.<id>`, cut to one job,
//! with the actions it uses given inline and the test's directives beside
//! each step.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use crate::directive::{Directives, JobDirectives};

/// Environment variables and other maps of text.
pub type Variables = BTreeMap<String, String>;

/// One job.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Job {
    /// The job's display name.
    pub name: String,
    /// `owner/name` of the repository that the job pretends to run in.
    #[serde(default = "default_repository")]
    pub repository: String,
    /// Entries of the `github` context that differ from the defaults, for
    /// example `event_name` or `head_ref`.
    #[serde(default)]
    pub github: Variables,
    /// The body of event.json.
    #[serde(default)]
    pub event: Value,
    /// The job's `env:`.
    #[serde(default)]
    pub env: Variables,
    /// Values that the log must not show, as the server would send them.
    #[serde(default)]
    pub secrets: Variables,
    /// The job container; none at all is possible, as in a workflow.
    #[serde(default)]
    pub container: Option<Container>,
    /// The service containers, in the order of the file.
    #[serde(default)]
    pub services: IndexMap<String, Container>,
    /// What the runner would have downloaded to `_work/_actions`:
    /// `owner/repo@ref` or `owner/repo/path@ref` to file path to content.
    #[serde(default)]
    pub actions: IndexMap<String, IndexMap<String, String>>,
    /// The steps.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What the test does to the job.
    #[serde(default)]
    pub driver: JobDirectives,
}

/// A job container or service container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Container {
    /// The image; `docker://` in front is dropped.
    pub image: String,
    /// Registry credentials.
    #[serde(default)]
    pub credentials: Option<Credentials>,
    /// The container's environment.
    #[serde(default)]
    pub env: Variables,
    /// Port mappings, as text.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Volumes, as text.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// `docker create` options, as text.
    #[serde(default)]
    pub options: Option<String>,
    /// Of a service: its entry point (server flag `actions_service_container_command`).
    #[serde(default)]
    pub entrypoint: Option<String>,
    /// Of a service: its arguments, as text; the same flag.
    #[serde(default)]
    pub command: Option<String>,
}

/// Credentials of a registry.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
}

/// One step. Exactly one of `run`, `uses`, `wait` and `wait-all` is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Step {
    /// Name in the `steps` context.
    #[serde(default)]
    pub id: Option<String>,
    /// Display name.
    #[serde(default)]
    pub name: Option<String>,
    /// Condition; `success()` when absent.
    #[serde(default, rename = "if")]
    pub condition: Option<String>,
    /// Script.
    #[serde(default)]
    pub run: Option<String>,
    /// `sh` when absent, as in a job container; `bash`, `python`, or a
    /// command line with `{0}`.
    #[serde(default)]
    pub shell: Option<String>,
    /// Action: `owner/repo@ref`, `./path`, `docker://image`.
    #[serde(default)]
    pub uses: Option<String>,
    /// Inputs of the action.
    #[serde(default)]
    pub with: Variables,
    /// The step's environment.
    #[serde(default)]
    pub env: Variables,
    /// Directory for `run`, relative to the workspace or absolute.
    #[serde(default)]
    pub working_directory: Option<String>,
    /// A failure of the step is not one of the job.
    #[serde(default)]
    pub continue_on_error: bool,
    /// Cut the step after so many milliseconds, as `timeout-minutes` would.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Run beside the steps that follow.
    #[serde(default)]
    pub background: bool,
    /// Wait for the background steps with these ids.
    #[serde(default)]
    pub wait: Vec<String>,
    /// Wait for all background steps.
    #[serde(default)]
    pub wait_all: bool,
    /// What the test does around and to this step.
    #[serde(default)]
    pub driver: Directives,
}

fn default_repository() -> String {
    "octo/demo".to_owned()
}

impl Job {
    /// Reads and checks a job file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        Self::parse(&text).with_context(|| format!("failed to parse `{}`", path.display()))
    }

    /// Parses and checks the text of a job file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let job: Self = serde_saphyr::from_str(text)?;
        anyhow::ensure!(
            job.repository
                .split('/')
                .filter(|part| !part.is_empty())
                .count()
                == 2,
            "`repository` is not `owner/name`: {}",
            job.repository
        );
        for (index, step) in job.steps.iter().enumerate() {
            let kinds = [
                step.run.is_some(),
                step.uses.is_some(),
                !step.wait.is_empty(),
                step.wait_all,
            ];
            anyhow::ensure!(
                kinds.into_iter().filter(|set| *set).count() == 1,
                "step {} needs exactly one of `run`, `uses`, `wait`, `wait-all`",
                index + 1
            );
        }
        Ok(job)
    }

    /// The repository's name without its owner: the name of the directories.
    #[must_use]
    pub fn repository_name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or_default()
    }

    /// The repository's owner.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.repository.split('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_like_job_is_read() {
        let job = Job::parse(
            "
name: build
env: {LEVEL: 3, ON: true, EMPTY: ''}
container: {image: 'alpine:latest', ports: [6379, '8080:80']}
services:
  zebra: {image: redis}
  ant: {image: postgres}
steps:
- {id: one, run: 'echo hi', shell: bash}
- {uses: 'docker://alpine', with: {args: 'a b'}, if: always()}
- {wait-all: true}
",
        )
        .unwrap();
        assert_eq!(job.env["LEVEL"], "3");
        assert_eq!(job.env["ON"], "true");
        assert_eq!(job.services.keys().collect::<Vec<_>>(), ["zebra", "ant"]);
        assert_eq!(job.container.unwrap().ports, ["6379", "8080:80"]);
        assert_eq!(job.steps[1].condition.as_deref(), Some("always()"));
        assert_eq!(job.repository, "octo/demo");
    }

    #[test]
    fn a_step_of_two_kinds_is_refused() {
        let error = Job::parse("name: x\nsteps: [{run: a, uses: b}]").unwrap_err();
        assert!(error.to_string().contains("exactly one of"), "{error}");
    }
}
