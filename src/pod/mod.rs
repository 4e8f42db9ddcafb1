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

mod error;
mod plan;
mod runner;
mod template;

pub mod names;

pub use error::{SpecError, TemplateError};
pub use plan::{Identity, Inputs, JobFacts, Plan, Service, User, container_step, job};
pub use runner::{RunnerPod, WorkClaim};
pub use template::{Location, Template};
