//! What is noted of a step that fails, for whoever enters the job.

use std::io::Read as _;

use crate::config::Config;
use crate::protocol::Environment;
use crate::record::{JobRecord, Memory};
use crate::retain::record::Script;
use crate::retain::{Failure, Kept, RetainRecord, environment};
use crate::spool::signals::Signals;
use crate::worker_log::{self, JobState};

use super::super::step_files;

/// Largest script of a step that is kept.
const SCRIPT_LIMIT: u64 = 64 * 1024;
/// Longest name of a step that is kept.
const STEP_LIMIT: usize = 128;

/// A step whose failure would be noted. Empty where the job cannot be kept.
#[derive(Debug)]
pub struct Step(Option<Noted>);

#[derive(Debug)]
struct Noted {
    name: String,
    environment: Environment,
    kept: Kept,
    argv: Vec<String>,
    retain: RetainRecord,
}

impl Step {
    /// A script step.
    #[must_use]
    pub fn of(job: &JobRecord, request: &crate::spool::StepRequest) -> Self {
        let Some(retain) = &job.retain else {
            return Self(None);
        };
        Self(Some(Noted {
            name: name(&request.environment),
            kept: Kept {
                environment: environment::kept(&request.environment, &retain.policy.env),
                path: request.path.clone(),
                directory: request.directory.clone(),
                ..Kept::default()
            },
            environment: request.environment.clone(),
            argv: request.argv.clone(),
            retain: retain.clone(),
        }))
    }

    /// A container action: its pod is gone when the job is entered, so only what is true of the job's
    /// own container is kept of its environment.
    #[must_use]
    pub fn of_action(job: &JobRecord, variables: &Environment) -> Self {
        let Some(retain) = &job.retain else {
            return Self(None);
        };
        let mut kept = environment::kept(variables, &retain.policy.env);
        kept.retain(|name, value| name != "PATH" && name != "HOME" && !value.starts_with('/'));
        kept.extend(environment::kept(&job.environment, &retain.policy.env));
        Self(Some(Noted {
            name: name(variables),
            environment: Environment::new(),
            kept: Kept {
                environment: kept,
                directory: job.working_directory.clone(),
                ..Kept::default()
            },
            argv: Vec::new(),
            retain: retain.clone(),
        }))
    }

    /// Notes it if it failed, unless an earlier one had failed the job already: what runs after that is
    /// there to clean up.
    pub fn note(
        self,
        config: &Config,
        memory: &Memory,
        ended: &anyhow::Result<u8>,
        signals: &Signals,
    ) {
        let Some(mut noted) = self.0 else { return };
        let exit = *ended.as_ref().unwrap_or(&1);
        if exit == 0 {
            return;
        }
        let is_known = matches!(memory.failure(), Ok(Some(_)));
        let state = worker_log::job_state(&config.paths.diagnostics());
        if is_known && matches!(state, Some(JobState::Failed | JobState::Cancelled)) {
            return;
        }
        if noted.retain.policy.script && !noted.argv.is_empty() {
            let more = &noted.retain.policy.env;
            let log = memory.last_words();
            let log = String::from_utf8_lossy(&log);
            noted.kept.log = Some(environment::masked(&log, &noted.environment, more));
            noted.kept.script = script(config, &noted.argv);
        }
        memory.note_failure(&Failure {
            step: noted.name,
            exit,
            cancelled: signals.received().is_some(),
            kept: noted.kept,
        });
    }
}

fn name(variables: &Environment) -> String {
    let name = variables.get("GITHUB_ACTION").map_or("", String::as_str);
    name.chars().take(STEP_LIMIT).collect()
}

/// The step itself, from the runner's own files.
fn script(config: &Config, argv: &[String]) -> Option<Script> {
    let mut files = Vec::new();
    for name in step_files::scripts(argv) {
        let file = std::fs::File::open(config.paths.temp.join(&name)).ok()?;
        let mut text = String::new();
        file.take(SCRIPT_LIMIT + 1).read_to_string(&mut text).ok()?;
        if text.len() as u64 > SCRIPT_LIMIT {
            return None;
        }
        files.push((name, text));
    }
    Some(Script {
        argv: argv.to_vec(),
        files,
    })
}
