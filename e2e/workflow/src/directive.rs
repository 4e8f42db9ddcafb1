//! What a test does to a job beyond what a workflow can say: signals, forged
//! state, commands on the runner's side, and what it expects to see.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use crate::report::{Call, StepReport};

/// Directives of one step, or of `prepare_job` and `cleanup_job`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Directives {
    /// Shell commands on the runner's side before the hook is called.
    #[serde(default)]
    pub before: Vec<String>,
    /// The same after the step's file commands were read.
    #[serde(default)]
    pub after: Vec<String>,
    /// A file on the runner's side that must exist before the step starts.
    #[serde(default)]
    pub wait_for: Option<PathBuf>,
    /// Replaces the saved state, for this call and those after it.
    #[serde(default)]
    pub state: Option<Value>,
    /// Signals to the hook process, in this order.
    #[serde(default)]
    pub signals: Vec<SignalDirective>,
    /// Cancels this step the way the runner does.
    #[serde(default)]
    pub cancel: Option<When>,
    /// Cancels the job while this step runs.
    #[serde(default)]
    pub cancel_job: Option<When>,
    /// Exit code of the hook process; 0 when absent.
    #[serde(default)]
    pub exit: Option<i32>,
    /// Any exit code but 0 will do.
    #[serde(default)]
    pub fails: bool,
    /// Any exit code at all will do.
    #[serde(default)]
    pub any_exit: bool,
    /// The step must be skipped.
    #[serde(default)]
    pub skipped: bool,
    /// Text that must stand in the step's log, each within one line.
    #[serde(default)]
    pub expect: Vec<String>,
    /// Text that must not stand in the step's log.
    #[serde(default)]
    pub forbid: Vec<String>,
    /// Annotations that the step must have made, as the report has them.
    #[serde(default)]
    pub annotations: Vec<String>,
    /// Outputs that the step must have set.
    #[serde(default)]
    pub outputs: IndexMap<String, Option<String>>,
    /// The job's environment after the step; null: must not be set.
    #[serde(default)]
    pub env: IndexMap<String, Option<String>>,
    /// Longest time that the call may take.
    #[serde(default)]
    pub max_ms: Option<f64>,
    /// Shortest time that it may take.
    #[serde(default)]
    pub min_ms: Option<f64>,
    /// Largest resident set of the hook process.
    #[serde(default)]
    pub max_rss_kb: Option<u64>,
    /// A part of the log to be hashed.
    #[serde(default)]
    pub digest: Option<DigestDirective>,
}

/// Directives of the job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct JobDirectives {
    /// The hook template of the runner pod, for whoever makes that: its text,
    /// or the name of a file of `hook-templates/`. The scale set's when absent.
    #[serde(default)]
    pub template: Option<String>,
    /// Of `prepare_job`.
    #[serde(default)]
    pub prepare_job: Directives,
    /// Of `cleanup_job`.
    #[serde(default)]
    pub cleanup_job: Directives,
    /// The runner is shut down: `cleanup_job` is never called.
    #[serde(default)]
    pub skip_cleanup: bool,
    /// The job may end in any way.
    #[serde(default)]
    pub any_conclusion: bool,
    /// How the job must end; success when absent.
    #[serde(default)]
    pub conclusion: Option<crate::report::Conclusion>,
}

/// A signal and the moment at which it is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SignalDirective {
    /// Which.
    pub send: SignalName,
    /// When.
    #[serde(default)]
    pub when: When,
}

/// The signals that a runner or a test sends.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum SignalName {
    /// SIGINT.
    Int,
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Cont,
}

/// A moment in the life of a hook process: when a line with this text was
/// read, or at the start, and then so many milliseconds later.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct When {
    /// Text of a line.
    #[serde(default)]
    pub line: Option<String>,
    /// A file on the runner's side.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Milliseconds after it.
    #[serde(default)]
    pub after_ms: u64,
}

/// The bytes between two lines of a stream, without these lines.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DigestDirective {
    /// The line before the first byte.
    pub from: String,
    /// The line after the last byte.
    pub to: String,
    /// Expected hash.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Expected number of bytes.
    #[serde(default)]
    pub bytes: Option<u64>,
}

impl Directives {
    /// What differs between the call and what was expected of it. The
    /// texts of the log are judged where the log is read.
    #[must_use]
    pub fn judge_call(&self, call: &Call) -> Vec<String> {
        let mut failures = Vec::new();
        let expected = self.exit.unwrap_or(0);
        if self.fails {
            if call.exit == 0 {
                failures.push("exit 0, a failure was expected".to_owned());
            }
        } else if !self.any_exit && call.exit != expected {
            failures.push(format!("exit {}, expected {expected}", call.exit));
        }
        if let Some(limit) = self.max_ms
            && call.wall_ms > limit
        {
            failures.push(format!(
                "took {:.0} ms, at most {limit} were expected",
                call.wall_ms
            ));
        }
        if let Some(limit) = self.min_ms
            && call.wall_ms < limit
        {
            failures.push(format!(
                "took {:.0} ms, at least {limit} were expected",
                call.wall_ms
            ));
        }
        if let Some(limit) = self.max_rss_kb
            && call.max_rss_kb > limit
        {
            failures.push(format!(
                "used {} kB, at most {limit} were expected",
                call.max_rss_kb
            ));
        }
        if let Some(expected) = &self.digest {
            match &call.digest {
                None => failures.push(format!(
                    "the log has no lines `{}` and `{}`",
                    expected.from, expected.to
                )),
                Some(found) => {
                    if expected.bytes.is_some_and(|bytes| bytes != found.bytes) {
                        failures.push(format!(
                            "{} bytes of log, expected {}",
                            found.bytes,
                            expected.bytes.unwrap_or_default()
                        ));
                    }
                    if let Some(hash) = &expected.sha256
                        && *hash != found.sha256
                    {
                        failures.push(format!("log hash {}, expected {hash}", found.sha256));
                    }
                }
            }
        }
        if call.held_pipes {
            failures.push(
                "a process the hook left behind held its output for 5 s after its exit".to_owned(),
            );
        }
        failures
    }

    /// What differs between the step's results and what was expected.
    #[must_use]
    pub fn judge_step(
        &self,
        step: &StepReport,
        env: &std::collections::BTreeMap<String, String>,
    ) -> Vec<String> {
        let outputs = self
            .outputs
            .iter()
            .map(|(name, wanted)| ("output", name, wanted, step.outputs.get(name)));
        let variables = self
            .env
            .iter()
            .map(|(name, wanted)| ("variable", name, wanted, env.get(name)));
        let missing = self
            .annotations
            .iter()
            .filter(|wanted| !step.annotations.contains(wanted))
            .map(|wanted| format!("no annotation `{wanted}`: {:?}", step.annotations));
        outputs
            .chain(variables)
            .filter(|(_, _, wanted, found)| wanted.as_ref() != *found)
            .map(|(kind, name, wanted, found)| {
                format!("{kind} `{name}` is {found:?}, expected {wanted:?}")
            })
            .chain(missing)
            .collect()
    }
}
