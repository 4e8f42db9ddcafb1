//! What is remembered for a job that may be kept, and what is left in one that is.

use serde::{Deserialize, Serialize};

use super::policy::Policy;
use crate::protocol::Environment;

/// What `prepare_job` settles, kept with the hook's memory of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainRecord {
    /// What the job gets: the template's policy, less what it asked for.
    pub policy: Policy,
    /// The scale set, or what stands for it: the bound counts by it.
    pub scale_set: String,
    /// The node, if the runner's is known.
    pub node: Option<String>,
    /// The work claim, where job and runner share one.
    pub work_claim: Option<String>,
    /// The runner's image, for a pod that copies.
    #[serde(default)]
    pub image: Option<String>,
}

/// The step by whose end a job failed, as the hook saw it end.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step, as the runner names it (`GITHUB_ACTION`).
    pub step: String,
    /// Its exit code.
    pub exit: u8,
    /// A signal of the runner ended it.
    pub cancelled: bool,
    /// What is left in the job when it is kept.
    pub kept: Kept,
}

/// What a kept job still knows of its failed step: nothing that is not on the allow-list.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Variables.
    pub environment: Environment,
    /// Directories for the front of `PATH`.
    pub path: Vec<String>,
    /// Where the step ran.
    pub directory: Option<String>,
    /// The step itself; only with `arc-hook/retain-script`.
    pub script: Option<Script>,
    /// The end of its log, the values of other variables crossed out; only with that, too.
    pub log: Option<String>,
}

/// A step that can be run again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Names and texts of the files in the job's `_temp` that these name.
    pub files: Vec<(String, String)>,
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is kept may hold whatever a workflow wrote into a script.
        f.debug_struct("Failure")
            .field("step", &self.step)
            .field("exit", &self.exit)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}
