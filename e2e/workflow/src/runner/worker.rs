//! Runs one job from the first call of the hook to the last.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::call::{Called, HookCall, milliseconds};
use super::context::JobState;
use super::environment;
use super::guid::guid;
use super::job_log::JobLog;
use super::job_message;
use super::layout::Layout;
use super::log::StepLog;
use super::matchers::Matchers;
use super::orphans;
use super::request::{HookContainer, PrepareJob};
use super::response::Asked;
use super::step::Preparer;
use super::unit::Unit;
use crate::directive::Directives;
use crate::job::{Job, Variables};
use crate::report::{Conclusion, Report};

/// Where the runner finds the hook.
const HOOK_VARIABLE: &str = "ACTIONS_RUNNER_CONTAINER_HOOKS";
/// `true` in Kubernetes mode: jobs without a container are refused.
const CONTAINER_VARIABLE: &str = "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER";
/// How long a step waits for what its `wait-for` names.
const WAIT_FOR: Duration = Duration::from_mins(1);

/// One job in one runner.
#[derive(Debug)]
pub struct Worker<'a> {
    pub(super) job: &'a Job,
    pub(super) layout: &'a Layout,
    pub(super) log: &'a JobLog,
    pub(super) hook: PathBuf,
    pub(super) tracking_id: String,
    pub(super) state: JobState,
    report: Mutex<Report>,
    diagnostics: Mutex<fs::File>,
}

impl<'a> Worker<'a> {
    /// Makes the directories and finds the hook.
    pub fn new(job: &'a Job, layout: &'a Layout, log: &'a JobLog) -> anyhow::Result<Self> {
        layout.create(job)?;
        let hook = PathBuf::from(
            std::env::var_os(HOOK_VARIABLE)
                .with_context(|| format!("{HOOK_VARIABLE} is not set"))?,
        );
        let extension = hook.extension().and_then(|extension| extension.to_str());
        anyhow::ensure!(
            hook.is_file() && matches!(extension, Some("sh" | "js")),
            "{HOOK_VARIABLE} does not name a file that ends in `.sh` or `.js`: {}",
            hook.display()
        );
        let mut state = JobState::default();
        state.matchers = Matchers::new(layout, &job.repository);
        for secret in job.secrets.values() {
            state.add_mask(secret);
        }
        state.memory().env.clone_from(&job.env);
        let diagnostics = layout.diagnostics.join("Worker_20260101-000000-utc.log");
        Ok(Self {
            job,
            layout,
            log,
            hook,
            tracking_id: format!("github_{}", guid()),
            state,
            report: Mutex::new(Report {
                job: job.name.clone(),
                ..Report::default()
            }),
            diagnostics: Mutex::new(
                fs::File::create(&diagnostics)
                    .and_then(|mut file| {
                        file.write_all(job_message::head(job, layout).as_bytes())?;
                        Ok(file)
                    })
                    .with_context(|| format!("failed to write `{}`", diagnostics.display()))?,
            ),
        })
    }

    /// Runs the job.
    pub fn run(self) -> Report {
        let start = Instant::now();
        if self.job.container.is_none() && requires_container() {
            // "Set up job" fails, and with it the job: no step runs, and no hook.
            self.log.line(
                "##[error]Jobs without a job container are forbidden on this runner, please add a \
                 'container:' to your job or contact your self-hosted runner administrator.",
            );
            self.state.memory().failed = true;
        } else {
            self.run_hooks();
        }
        for pid in orphans::find(&self.tracking_id) {
            self.fail(format!(
                "the hook left process {pid} behind, which the runner would kill"
            ));
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if let Err(error) = self.layout.wipe_temp() {
            self.fail(format!("_temp cannot be emptied: {error}"));
        }
        let conclusion = self.state.conclusion();
        let expected = self.job.driver.conclusion.unwrap_or_default();
        if conclusion != expected && !self.job.driver.any_conclusion {
            self.fail(format!(
                "the job ended in {}, expected {}",
                conclusion.as_str(),
                expected.as_str()
            ));
        }
        let mut report = self
            .report
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        report.conclusion = conclusion;
        report.wall_ms = milliseconds(start.elapsed());
        report
    }

    fn run_hooks(&self) {
        let has_containers = self.job.container.is_some() || !self.job.services.is_empty();
        match self.units() {
            Ok(units) => {
                if has_containers {
                    self.prepare_job();
                }
                self.run_units(&units);
            }
            Err(error) => self.fail(format!("{error:#}")),
        }
        if has_containers && !self.job.driver.skip_cleanup {
            self.cleanup_job();
        }
    }

    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, failure: String) {
        self.log.line(&format!("!!! {failure}"));
        self.report().failures.push(failure);
    }

    pub(super) fn preparer(&self) -> Preparer<'_> {
        Preparer {
            job: self.job,
            layout: self.layout,
            state: &self.state,
        }
    }

    fn units(&self) -> anyhow::Result<Vec<Unit<'a>>> {
        let steps = self.job.steps.iter().enumerate();
        steps
            .map(|(index, step)| Unit::main(step, index, self.layout))
            .collect()
    }

    fn prepare_job(&self) {
        let args = PrepareJob {
            container: self
                .job
                .container
                .as_ref()
                .map(|container| HookContainer::job(container, self.layout)),
            services: self
                .job
                .services
                .values()
                .map(HookContainer::service)
                .collect(),
        };
        let asked = Asked {
            container: args.container.is_some(),
            services: args.services.len(),
        };
        let github = environment::github(self.job, self.layout);
        let directives = &self.job.driver.prepare_job;
        let args = serde_json::to_value(args).unwrap_or_default();
        let title = "Initialize containers";
        let called = self.job_call("prepare_job", title, args, &github, directives, Some(asked));
        if !called.success {
            self.state.memory().failed = true;
            return;
        }
        let mut memory = self.state.memory();
        memory.is_alpine = called.response.is_alpine;
        for (field, value) in called.response.container {
            memory.job.insert(format!("container.{field}"), value);
        }
        for (name, service) in self.job.services.keys().zip(called.response.services) {
            for (field, value) in service.fields {
                memory.job.insert(format!("services.{name}.{field}"), value);
            }
            for (port, host) in service.ports {
                memory
                    .job
                    .insert(format!("services.{name}.ports.{port}"), host);
            }
        }
    }

    fn cleanup_job(&self) {
        let last = self.state.memory().last_github.clone();
        let github = if last.is_empty() {
            environment::github(self.job, self.layout)
        } else {
            last
        };
        let args = Value::Object(serde_json::Map::new());
        let directives = &self.job.driver.cleanup_job;
        let called = self.job_call(
            "cleanup_job",
            "Stop containers",
            args,
            &github,
            directives,
            None,
        );
        if !called.success {
            self.state.memory().failed = true;
        }
    }

    fn job_call(
        &self,
        command: &'static str,
        title: &str,
        args: Value,
        github: &Variables,
        directives: &Directives,
        asked: Option<Asked>,
    ) -> Called {
        let mut log = StepLog::new(self.log, &self.state, "", false);
        log.note(&format!("=== {title}"));
        self.before(directives, title);
        let cancellable = command == "prepare_job";
        let called = self.call(HookCall {
            command,
            step: title,
            args,
            github,
            directives,
            timeout: None,
            asked,
            cut: &|| cancellable && self.state.is_cancelled(),
            log: &mut log,
        });
        self.after(directives, title);
        self.note_state();
        called
    }

    pub(super) fn before(&self, directives: &Directives, step: &str) {
        self.commands(&directives.before, step);
        if let Some(path) = &directives.wait_for {
            let deadline = Instant::now() + WAIT_FOR;
            while !path.exists() {
                if Instant::now() > deadline {
                    self.fail(format!(
                        "step `{step}`: `{}` did not appear",
                        path.display()
                    ));
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    pub(super) fn after(&self, directives: &Directives, step: &str) {
        self.commands(&directives.after, step);
    }

    fn commands(&self, commands: &[String], step: &str) {
        let variables: BTreeMap<&str, &Path> = [
            ("WORK", self.layout.work.as_path()),
            ("WORKSPACE", &self.layout.workspace),
            ("TEMP", &self.layout.temp),
            ("RUNNER_ROOT", &self.layout.root),
        ]
        .into();
        for command in commands {
            let output = Command::new("sh")
                .args(["-ec", command])
                .envs(&variables)
                .output();
            match output {
                Ok(output) if output.status.success() => {
                    self.log.write(&output.stdout);
                }
                Ok(output) => self.fail(format!(
                    "step `{step}`: on the runner `{command}` failed: {}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                )),
                Err(error) => self.fail(format!("step `{step}`: `{command}`: {error}")),
            }
        }
    }

    /// The line of the Worker's diagnostic log that tells how the job stands.
    pub(super) fn note_state(&self) {
        let state = match self.state.conclusion() {
            Conclusion::Failure => "Failed",
            Conclusion::Cancelled => "Canceled",
            Conclusion::Success | Conclusion::Skipped => "",
        };
        let mut file = self
            .diagnostics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(
            file,
            "[2026-01-01 00:00:00Z INFO StepsRunner] Current state: job state = '{state}'"
        );
    }
}

/// As the runner's `StringUtil.ConvertToBoolean` reads it.
fn requires_container() -> bool {
    std::env::var(CONTAINER_VARIABLE).is_ok_and(|value| {
        ["1", "true", "$true"]
            .iter()
            .any(|yes| value.eq_ignore_ascii_case(yes))
    })
}
