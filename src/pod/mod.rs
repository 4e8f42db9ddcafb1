//! Pods as pure values: template, request and configuration in, manifests out.
//!
//! Nothing here reads a file, a clock or a random source: what differs from run to run (the nonce,
//! the runner's pod, the identity of the process) is an argument. Manifests are JSON values
//! rather than typed objects, because a key of the template that our types lack must reach the API
//! server, which alone can judge it.
//!
//! ```text
//! Template (YAML) ─┐
//! PrepareJob ──────┼─> base pod (typed) ─> merge by name ─> checks ─> Plan
//! Config, RunnerPod┘
//! ```

mod affinity;
mod arguments;
mod config_map;
mod error;
pub mod externals;
mod flags;
mod grant;
mod job;
mod manifest;
mod merge;
mod options;
mod plan;
mod ports;
pub(crate) mod quantity;
mod runner;
mod secrets;
mod services;
mod settings;
mod shared;
mod step;
mod template;
mod trace;
mod user;
mod volumes;
pub(crate) mod yaml;

pub mod names;

pub use config_map::{TemplateText, template_text};
pub use error::{SpecError, TemplateError};
pub use job::job;
pub use manifest::{
    FILES_CONTAINER, GATE_CONTAINER, NONCE_ANNOTATION, RUNNER_IMAGE, fills, metadata,
};
pub use plan::{Identity, Inputs, JobFacts, Plan, Service, User};
pub use runner::{RunnerPod, WorkClaim};
pub use settings::{RunAs, Settings};
pub use step::container_step;
pub use template::{Location, Template};
pub use volumes::{HOOK, OWN_GITHUB, OWN_WORK, WORK, WORK_ROOT};

#[cfg(test)]
mod tests;
