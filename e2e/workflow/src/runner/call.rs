//! One call of the hook: request, process, response.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::environment;
use super::guid::guid;
use super::log::{StepLog, Stream};
use super::plain;
use super::process::{self, Exit, Surroundings};
use super::request::Request;
use super::response::{self, Asked, Response};
use super::signals::Schedule;
use super::which::which;
use super::worker::Worker;
use crate::directive::Directives;
use crate::job::Variables;
use crate::report::Call;

/// A call of the hook.
pub(super) struct HookCall<'a, 'l> {
    pub(super) command: &'static str,
    pub(super) step: &'a str,
    pub(super) args: Value,
    pub(super) github: &'a Variables,
    pub(super) directives: &'a Directives,
    pub(super) timeout: Option<Duration>,
    pub(super) asked: Option<Asked>,
    pub(super) cut: &'a dyn Fn() -> bool,
    pub(super) log: &'a mut StepLog<'l>,
}

/// What the runner makes of a call.
pub(super) struct Called {
    pub(super) success: bool,
    pub(super) response: Response,
}

impl Worker<'_> {
    pub(super) fn call(&self, call: HookCall<'_, '_>) -> Called {
        let HookCall {
            command,
            step,
            asked,
            ..
        } = call;
        let response_file = self.layout.responses.join(format!("{}.json", guid()));
        let result = fs::create_dir_all(&self.layout.responses)
            .and_then(|()| fs::write(&response_file, ""))
            .context("failed to create the response file")
            .and_then(|()| self.execute(call, &response_file));
        let success = match result {
            Ok(success) => success,
            Err(error) => {
                self.fail(format!("step `{step}`: {command}: {error:#}"));
                false
            }
        };
        let mut called = Called {
            success,
            response: Response::default(),
        };
        if !success {
            return called;
        }
        match plain::read(&response_file)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(response::read(asked, bytes.as_deref())?))
        {
            Ok(response) => {
                let _ = fs::remove_file(&response_file);
                if let Some(state) = &response.state {
                    self.state.memory().hook_state = Some(state.clone());
                }
                called.response = response;
            }
            Err(error) => {
                self.fail(format!(
                    "step `{step}`: {command}: the runner would throw: {error}"
                ));
                called.success = false;
            }
        }
        called
    }

    fn execute(&self, call: HookCall<'_, '_>, response_file: &Path) -> anyhow::Result<bool> {
        let HookCall {
            command,
            step,
            args,
            github,
            directives,
            timeout,
            cut,
            log,
            ..
        } = call;
        if let Some(state) = &directives.state {
            self.state.memory().hook_state = Some(state.clone());
        }
        let state = self.state.memory().hook_state.clone();
        let mut input = serde_json::to_vec(&Request {
            command,
            response_file: &response_file.to_string_lossy(),
            args: &args,
            state: &state,
        })?;
        input.push(b'\n');

        let prepended = self.state.prepended();
        let mut program = self.shell(&prepended)?;
        program
            .current_dir(&self.layout.workspace)
            .env_clear()
            .envs(environment::hook_process(
                github,
                self.layout,
                &self.tracking_id,
                &prepended,
            ));
        let texts = directives.expect.iter().chain(&directives.forbid);
        let watched: Vec<usize> = texts.map(|text| log.watch(text)).collect();
        if let Some(digest) = &directives.digest {
            log.hash_between(digest);
        }
        log.note(&format!("##[group]Run '{}'", self.hook.display()));
        log.note("shell: /usr/bin/bash -e {0}");
        log.note("##[endgroup]");
        let schedule = Schedule::new(directives, timeout, Instant::now(), &mut |text| {
            log.watch(text)
        });
        let mut surroundings = Surroundings {
            schedule,
            cut,
            cancel_job: &|| self.state.cancel(),
        };
        let exit = process::run(&mut program, &input, log, &mut surroundings)
            .context("the hook could not be run")?;
        let cancelled = surroundings.schedule.is_cancelled();
        if cancelled {
            log.error("The operation was canceled.");
        } else if exit.code != 0 {
            log.error(&format!("Process completed with exit code {}.", exit.code));
            log.error(
                "Executing the custom container implementation failed. \
                 Please contact your self hosted runner administrator.",
            );
        }
        log.close();
        let entry = measured(command, step, &exit, log);
        self.judge(&entry, directives, log, &watched);
        self.report().calls.push(entry);
        Ok(exit.code == 0 && !cancelled)
    }

    fn judge(&self, entry: &Call, directives: &Directives, log: &StepLog<'_>, watched: &[usize]) {
        let mut failures = directives.judge_call(entry);
        for (index, text) in directives.expect.iter().enumerate() {
            if !log.seen(watched[index]) {
                failures.push(format!("the log does not show `{text}`"));
            }
        }
        for (text, number) in directives
            .forbid
            .iter()
            .zip(&watched[directives.expect.len()..])
        {
            if log.seen(*number) {
                failures.push(format!("the log shows `{text}`"));
            }
        }
        for failure in failures {
            self.fail(format!("step `{}`: {failure}", entry.step));
        }
    }

    /// The interpreter of the hook, found as the runner finds it.
    fn shell(&self, prepended: &[String]) -> anyhow::Result<Command> {
        if self
            .hook
            .extension()
            .is_some_and(|extension| extension == "js")
        {
            let mut node = Command::new(self.layout.externals.join("node20/bin/node"));
            node.arg(&self.hook);
            return Ok(node);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let shell = ["bash", "sh"]
            .into_iter()
            .find_map(|name| which(name, prepended, &path))
            .context("neither bash nor sh is found")?;
        let mut command = Command::new(shell);
        command.arg("-e").arg(&self.hook);
        Ok(command)
    }
}

fn measured(command: &str, step: &str, exit: &Exit, log: &StepLog<'_>) -> Call {
    Call {
        command: command.to_owned(),
        step: step.to_owned(),
        exit: exit.code,
        signal: exit.signal,
        wall_ms: milliseconds(exit.wall),
        user_ms: milliseconds(exit.usage.utime),
        system_ms: milliseconds(exit.usage.stime),
        max_rss_kb: exit.usage.maxrss / 1024,
        stdout_bytes: log.bytes(Stream::Stdout),
        stderr_bytes: log.bytes(Stream::Stderr),
        annotations: log.effects.annotations.clone(),
        digest: log.digest(),
        held_pipes: exit.held_pipes,
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
