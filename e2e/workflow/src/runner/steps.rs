//! The steps of a job, in the foreground and beside it.

use std::collections::VecDeque;
use std::fs;
use std::sync::PoisonError;
use std::thread::{Scope as Threads, ScopedJoinHandle};
use std::time::Duration;

use anyhow::Context;

use super::call::HookCall;
use super::environment;
use super::file_commands::FileCommands;
use super::log::StepLog;
use super::plain;
use super::unit::{Stage, Unit};
use super::worker::Worker;
use crate::directive::Directives;
use crate::expression::condition;
use crate::job::Variables;
use crate::report::{Conclusion, StepReport};

impl<'a> Worker<'a> {
    pub(super) fn run_units(&self, units: &[Unit<'a>]) {
        let mut posts: Vec<Unit<'a>> = Vec::new();
        for pre in units.iter().filter_map(|unit| unit.part(Stage::Pre)) {
            if self.run_unit(&pre) {
                posts.extend(pre.part(Stage::Post));
            }
        }
        std::thread::scope(|threads| {
            let mut background = VecDeque::new();
            for unit in units {
                if unit.step.wait_all {
                    wait_for(&mut background, |_| true);
                } else if !unit.step.wait.is_empty() {
                    wait_for(&mut background, |id| {
                        unit.step.wait.iter().any(|name| name == id)
                    });
                } else if unit.step.background {
                    background.push_back(self.start_background(threads, unit));
                } else if self.run_unit(unit) {
                    // A pre part has registered the post part already.
                    if unit.part(Stage::Pre).is_none() {
                        posts.extend(unit.part(Stage::Post));
                    }
                }
            }
            wait_for(&mut background, |_| true);
        });
        for post in posts.iter().rev() {
            self.run_unit(post);
        }
    }

    fn start_background<'scope>(
        &'scope self,
        threads: &'scope Threads<'scope, '_>,
        unit: &Unit<'a>,
    ) -> (String, ScopedJoinHandle<'scope, ()>)
    where
        'a: 'scope,
    {
        let id = unit.id.clone();
        let unit = unit.clone();
        let handle = threads.spawn(move || {
            self.run_unit(&unit);
        });
        (id, handle)
    }

    /// Runs a step; false when it was skipped.
    fn run_unit(&self, unit: &Unit<'_>) -> bool {
        let quiet = Directives::default();
        let directives = match unit.stage {
            Stage::Main => &unit.step.driver,
            _ => &quiet,
        };
        let mut report = StepReport {
            name: unit.name.clone(),
            id: unit.id.clone(),
            ..StepReport::default()
        };
        let result = self.try_unit(unit, directives, &mut report);
        let ran = match result {
            Ok(ran) => ran,
            Err(error) => {
                self.log.line(&format!("##[error]{error:#}"));
                report.annotations.push(format!("error: {error:#}"));
                report.outcome = Conclusion::Failure;
                if !directives.fails {
                    self.fail(format!("step `{}`: {error:#}", unit.name));
                }
                true
            }
        };
        if directives.skipped == ran {
            let found = if ran { "run" } else { "skipped" };
            self.fail(format!("step `{}` was {found}", unit.name));
        }
        report.conclusion = match report.outcome {
            Conclusion::Failure if unit.step.continue_on_error => Conclusion::Success,
            outcome => outcome,
        };
        if report.conclusion == Conclusion::Failure {
            self.state.memory().failed = true;
        }
        self.log
            .line(&format!("=== {}: {}", unit.name, report.outcome.as_str()));
        if unit.stage == Stage::Main {
            let steps = &mut self.state.memory().steps;
            steps.insert(unit.id.clone(), report.clone());
        }
        let failures = directives.judge_step(&report, &self.state.memory().env);
        for failure in failures {
            self.fail(format!("step `{}`: {failure}", unit.name));
        }
        self.report().steps.push(report);
        self.note_state();
        ran
    }

    fn try_unit(
        &self,
        unit: &Unit<'_>,
        directives: &Directives,
        report: &mut StepReport,
    ) -> anyhow::Result<bool> {
        let preparer = self.preparer();
        let mut github = environment::github(self.job, self.layout);
        unit.describe(&mut github);
        let env = preparer.step_env(unit.step, &github)?;
        let none = Variables::new();
        let met = || condition(unit.condition(), &preparer.scope(&github, &env, &none));
        if !met()? {
            report.outcome = Conclusion::Skipped;
            return Ok(false);
        }
        // Written at each action step, so absent at `prepare_job`.
        let event = self.layout.workflow.join("event.json");
        fs::create_dir_all(&self.layout.workflow)?;
        plain::write(&event, self.job.event.to_string().as_bytes())
            .with_context(|| format!("failed to write `{}`", event.display()))?;
        let files = FileCommands::create(&self.layout.file_commands)
            .context("failed to create the step's file commands")?;
        let mut github = github.clone();
        github.insert(
            "GITHUB_EVENT_PATH".to_owned(),
            event.to_string_lossy().into_owned(),
        );
        github.extend(
            files
                .variables()
                .map(|(name, path)| (name.to_owned(), path)),
        );
        self.state.memory().last_github.clone_from(&github);

        let prefix = if unit.step.background {
            format!("[{}] ", unit.id)
        } else {
            String::new()
        };
        let mut log = StepLog::new(self.log, &self.state, &prefix, insecure_commands(&env));
        log.note(&format!("=== {}", unit.name));
        if unit.stage == Stage::Main {
            for line in unit.details() {
                log.note(&line);
            }
        }
        self.before(directives, &unit.name);
        let request = preparer.prepare(unit, env.clone(), &github)?;
        let cut = || self.state.is_cancelled() && !met().unwrap_or(false);
        let called = self.call(HookCall {
            command: request.command,
            step: &unit.name,
            args: request.args,
            github: &github,
            directives,
            timeout: unit.step.timeout_ms.map(Duration::from_millis),
            asked: None,
            cut: &cut,
            log: &mut log,
        });
        let mut failed = !called.success || log.effects.failed;
        failed |= !self.apply(unit, &files, &mut log, report);
        self.after(directives, &unit.name);
        files.remove();
        report.annotations.append(&mut log.effects.annotations);
        report.outcome = if failed {
            Conclusion::Failure
        } else {
            Conclusion::Success
        };
        Ok(true)
    }

    /// Applies what the step left in its files and said in commands.
    fn apply(
        &self,
        unit: &Unit<'_>,
        files: &FileCommands,
        log: &mut StepLog<'_>,
        report: &mut StepReport,
    ) -> bool {
        let effects = files.read();
        for entry in &effects.path {
            self.state.add_path(entry);
        }
        let mut valid = effects.errors.is_empty();
        for (name, value) in effects.env {
            if name.eq_ignore_ascii_case("NODE_OPTIONS") {
                log.error("Can't store NODE_OPTIONS output parameter using '$GITHUB_ENV' command.");
                valid = false;
            } else {
                self.state.memory().env.insert(name, value);
            }
        }
        let said = std::mem::take(&mut log.effects.outputs);
        report.outputs = said.into_iter().chain(effects.outputs).collect();
        let said = std::mem::take(&mut log.effects.state);
        unit.saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(said.into_iter().chain(effects.state));
        report.summary = effects.summary;
        for wait in &effects.waits {
            self.fail(format!("step `{}`: {wait}", unit.name));
        }
        for error in &effects.errors {
            log.error(error);
        }
        valid
    }
}

fn wait_for(
    background: &mut VecDeque<(String, ScopedJoinHandle<'_, ()>)>,
    wanted: impl Fn(&str) -> bool,
) {
    for _ in 0..background.len() {
        let Some((id, handle)) = background.pop_front() else {
            return;
        };
        if wanted(&id) {
            // A panic of that thread ends the scope with a panic anyway.
            let _ = handle.join();
        } else {
            background.push_back((id, handle));
        }
    }
}

fn insecure_commands(env: &Variables) -> bool {
    const NAME: &str = "ACTIONS_ALLOW_UNSECURE_COMMANDS";
    let own = std::env::var(NAME).ok();
    [env.get(NAME), own.as_ref()]
        .into_iter()
        .flatten()
        .any(|value| value.trim().eq_ignore_ascii_case("true"))
}
