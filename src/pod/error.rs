//! Why no pod could be built: each names what was wrong, and what to do.

use thiserror::Error;

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Not YAML.
    #[error("parse the hook template: {0}")]
    Yaml(String),
    /// YAML, but not a pod template.
    #[error("read the hook template: {what}; {remedy}")]
    Shape {
        /// What was found, with its place.
        what: String,
        /// What to write instead.
        remedy: &'static str,
    },
}

/// A request, template or configuration from which no pod can be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The job has services only.
    #[error(
        "Job Container is required.: this hook runs jobs in containers only; add `container:` to the job"
    )]
    NoJobContainer,
}
