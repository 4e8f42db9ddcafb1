//! What the driver hands back: one entry per hook call and per step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The outcome of a job.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// The job's name.
    pub job: String,
    /// How it ended for GitHub.
    pub conclusion: Conclusion,
    /// From the first call to the last.
    pub wall_ms: f64,
    /// Every call of the hook, in order of their ends.
    pub calls: Vec<Call>,
    /// Every step, in order of their ends.
    pub steps: Vec<StepReport>,
    /// Whatever was not as the job's directives expect, or would have thrown
    /// in the runner. The test passed when this is empty.
    pub failures: Vec<String>,
}

/// How a step or a job ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Conclusion {
    /// Well.
    #[default]
    Success,
    /// Badly.
    Failure,
    /// By cancellation.
    Cancelled,
    /// Not run.
    Skipped,
}

impl Conclusion {
    /// As expressions see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// One call of the hook.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Call {
    /// `prepare_job`, `run_script_step`, `run_container_step`, `cleanup_job`.
    pub command: String,
    /// The step's display name.
    pub step: String,
    /// Exit code as the runner sees it: 128 + n for signal n.
    pub exit: i32,
    /// The signal that ended the process.
    pub signal: Option<i32>,
    /// From start to the end of both streams.
    pub wall_ms: f64,
    /// CPU time in user mode.
    pub user_ms: f64,
    /// CPU time in the kernel.
    pub system_ms: f64,
    /// Peak resident set of the hook process. The kernel counts the moment
    /// between fork and exec, so it is never below the driver's own size.
    pub max_rss_kb: u64,
    /// Bytes on its standard output.
    pub stdout_bytes: u64,
    /// Bytes on its standard error.
    pub stderr_bytes: u64,
    /// Errors, warnings and notices, in that form: `error: text`, or `error title=A title: text`.
    #[serde(default)]
    pub annotations: Vec<String>,
    /// The part of the log that the directives wanted to be hashed.
    pub digest: Option<Digested>,
    /// A process left behind kept the pipes open until the runner gave up.
    pub held_pipes: bool,
}

/// A part of a log.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Digested {
    /// Bytes.
    pub bytes: u64,
    /// Hash over all of them, hexadecimal.
    pub sha256: String,
}

/// One step.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StepReport {
    /// Display name.
    pub name: String,
    /// Name in the `steps` context.
    pub id: String,
    /// Before `continue-on-error`.
    pub outcome: Conclusion,
    /// After it.
    pub conclusion: Conclusion,
    /// What the step set.
    pub outputs: BTreeMap<String, String>,
    /// The step's summary, as uploaded.
    pub summary: String,
    /// Those of its calls, and the runner's own.
    pub annotations: Vec<String>,
}
