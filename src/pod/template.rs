//! The platform engineer's pod template.

use serde_json::Value;

use super::error::TemplateError;

/// A place in the template's file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// A template for the pods of jobs and container actions
/// (`ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    root: Value,
}

impl Template {
    /// Reads the text of a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let root =
            serde_saphyr::from_str(text).map_err(|error| TemplateError::Yaml(error.to_string()))?;
        Ok(Self { root })
    }

    /// No template.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Where in the file a field of the built pod comes from, for the API server's words on it:
    /// `path` as in `spec.containers[1].imagePullPolicies`.
    #[must_use]
    pub fn locate(&self, pod: &Value, path: &str) -> Option<Location> {
        let _ = (pod, path, &self.root);
        None
    }
}
