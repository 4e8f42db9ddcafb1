//! What a job remembers from step to step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::Context as _;
use serde_json::Value;

use super::hash_files::hash_files;
use super::matchers::Matchers;
use crate::expression::Lookup;
use crate::job::Variables;
use crate::report::{Conclusion, StepReport};

/// The job's memory; steps in the background share it.
#[derive(Debug, Default)]
pub struct JobState {
    memory: Mutex<Memory>,
    masks: RwLock<Vec<String>>,
    cancelled: AtomicBool,
    /// Problem matchers that steps registered.
    pub matchers: Matchers,
}

/// The part that is read and written under one lock.
#[derive(Debug, Default)]
pub struct Memory {
    /// The job's `env:` with what steps added through `GITHUB_ENV`.
    pub env: Variables,
    /// `GITHUB_PATH` entries, oldest first.
    pub prepend_path: Vec<String>,
    /// Steps that ended, by id.
    pub steps: BTreeMap<String, StepReport>,
    /// The hook's state: the last writer wins.
    pub hook_state: Option<Value>,
    /// A step failed whose failure counts.
    pub failed: bool,
    /// Which node the job container runs.
    pub is_alpine: bool,
    /// `job.container` and `job.services`, as dotted names.
    pub job: Variables,
    /// `GITHUB_*` of the last action step: `cleanup_job` still sees them.
    pub last_github: Variables,
}

impl JobState {
    /// The memory.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic elsewhere does not make what was remembered wrong.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hides `value` in everything logged from now on, line by line.
    pub fn add_mask(&self, value: &str) {
        let mut masks = self.masks.write().unwrap_or_else(PoisonError::into_inner);
        masks.extend(
            value
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(str::to_owned),
        );
    }

    /// Whether anything is hidden.
    pub fn has_masks(&self) -> bool {
        !self
            .masks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// The line as the log may show it, `None` when it may be shown as it is.
    pub fn masked(&self, line: &str) -> Option<String> {
        let masks = self.masks.read().unwrap_or_else(PoisonError::into_inner);
        masks.iter().any(|mask| line.contains(mask)).then(|| {
            masks
                .iter()
                .fold(line.to_owned(), |line, mask| line.replace(mask, "***"))
        })
    }

    /// Puts `entry` in front of every later step's PATH.
    pub fn add_path(&self, entry: &str) {
        let mut memory = self.memory();
        memory.prepend_path.retain(|known| known != entry);
        memory.prepend_path.push(entry.to_owned());
    }

    /// `GITHUB_PATH` entries, most recent first.
    pub fn prepended(&self) -> Vec<String> {
        self.memory().prepend_path.iter().rev().cloned().collect()
    }

    /// Cancels the job.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// How the job stands.
    pub fn conclusion(&self) -> Conclusion {
        if self.is_cancelled() {
            Conclusion::Cancelled
        } else if self.memory().failed {
            Conclusion::Failure
        } else {
            Conclusion::Success
        }
    }
}

/// What the expressions of one step can see.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The job's memory.
    pub state: &'a JobState,
    /// `GITHUB_*` variables.
    pub github: &'a Variables,
    /// The step's environment so far.
    pub env: &'a Variables,
    /// The action's inputs.
    pub inputs: &'a Variables,
    /// The job's secrets.
    pub secrets: &'a Variables,
}

impl Lookup for Scope<'_> {
    fn value(&self, path: &[String]) -> Option<String> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names[..] {
            ["steps", id, "outputs", name] => self
                .state
                .memory()
                .steps
                .get(id)?
                .outputs
                .get(name)
                .cloned(),
            ["steps", id, "outcome"] => self.ended(id, |step| step.outcome),
            ["steps", id, "conclusion"] => self.ended(id, |step| step.conclusion),
            ["env", name] => self.env.get(name).cloned(),
            ["inputs", name] => self.inputs.get(name).cloned(),
            ["secrets", name] => self.secrets.get(name).cloned(),
            ["github", name] => {
                let variable = format!("GITHUB_{}", name.to_ascii_uppercase());
                self.github.get(&variable).cloned()
            }
            ["job", "status"] => Some(self.state.conclusion().as_str().to_owned()),
            ["job", ..] => self.state.memory().job.get(&names[1..].join(".")).cloned(),
            _ => None,
        }
    }

    fn status(&self, function: &str) -> Option<bool> {
        match function {
            "always" => Some(true),
            "success" => Some(self.state.conclusion() == Conclusion::Success),
            "failure" => Some(self.state.conclusion() == Conclusion::Failure),
            "cancelled" => Some(self.state.is_cancelled()),
            _ => None,
        }
    }

    fn hash_files(&self, patterns: &[String]) -> anyhow::Result<String> {
        let workspace = self.github.get("GITHUB_WORKSPACE");
        let workspace = workspace.context("there is no workspace")?;
        hash_files(Path::new(workspace), patterns)
    }
}

impl Scope<'_> {
    fn ended(&self, id: &str, field: fn(&StepReport) -> Conclusion) -> Option<String> {
        let memory = self.state.memory();
        memory
            .steps
            .get(id)
            .map(|step| field(step).as_str().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_hide_each_line_of_a_value() {
        let state = JobState::default();
        assert_eq!(state.masked("plain"), None);
        state.add_mask("one\n\ntwo");
        assert_eq!(state.masked("x one y two").unwrap(), "x *** y ***");
    }

    #[test]
    fn a_path_entry_moves_to_the_front_when_added_again() {
        let state = JobState::default();
        for entry in ["/a", "/b", "/a"] {
            state.add_path(entry);
        }
        assert_eq!(state.prepended(), ["/a", "/b"]);
    }
}
