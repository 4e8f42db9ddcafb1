//! Failed jobs that are kept for someone to look at, bounded in time and number.
//!
//! ```text
//! annotations, container.env ──> Policy ─┐
//! step ends, the runner's log ───────────┼─> judge ──> Ledger (ConfigMap) ──> keep ──> pod, claims
//! failed step ──> Kept (allow-list) ─────┘                │                    ▲
//!                                                         │          scrub, inside the pod
//!                    gc, `arc-hook retained delete` <─────┘
//! ```
//!
//! [`policy`], [`environment`], [`judge`], [`twin`], [`copy`] and the ledger's own rules are pure. The ledger says
//! who is kept: a job enters it first, by a swap of its `resourceVersion`, and whoever it crowds out
//! leaves it in the same swap. Then its objects are changed. So the bound holds at any moment, and what
//! a crash leaves is either the runner pod's, or an entry without objects, or objects without an entry,
//! which [`gc`] removes.
//!
//! # What is marked how
//!
//! | object | label | owner | named by |
//! |---|---|---|---|
//! | the job's pod | [`LABEL`], and no `runner-pod` | none | the ledger |
//! | work claim, clones of caches | [`LABEL`] | none | the ledger |
//! | the copy of a workspace whose claim cannot be kept | the same, once it is whole | the runner's pod before | the ledger |
//! | the manifest of an equal pod (`retain-mode: volumes`) | [`LABEL`] | none | its name |

mod checkouts;
pub mod copy;
pub mod enter;
pub mod environment;
pub mod gc;
pub mod inside;
pub mod judge;
pub mod keep;
pub mod ledger;
pub mod policy;
pub mod record;
pub mod scrub;
pub mod tokens;
pub mod twin;

pub use ledger::{Entry, Ledger};
pub use policy::{Mode, Policy, When};
pub use record::{Failure, Kept, RetainRecord};

/// Label of everything that belongs to a kept job; its value is the job's id.
pub const LABEL: &str = "arc-hook/retained";
/// Annotation of a kept pod: when it goes (RFC 3339).
pub const EXPIRES_ANNOTATION: &str = "arc-hook/expires";
/// Annotation of a kept object: since when it is kept (RFC 3339).
pub const SINCE_ANNOTATION: &str = "arc-hook/retained-at";
/// Annotation of a kept pod: the run's page.
pub const RUN_ANNOTATION: &str = "arc-hook/run";
/// Annotation of a kept pod: the step that failed, as the runner names it.
pub const STEP_ANNOTATION: &str = "arc-hook/failed-step";
/// Annotation of a kept pod: that step's exit code.
pub const EXIT_ANNOTATION: &str = "arc-hook/exit-code";
/// Name of the ledger.
pub const LEDGER: &str = "arc-hook-retained";
/// In the spool of a kept job: what `enter` needs.
pub const KEPT: &str = "kept.json";
/// Largest such record: it holds a script and the end of a log at most.
pub const KEPT_LIMIT: u64 = 1024 * 1024;
