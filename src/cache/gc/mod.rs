//! What no longer serves: superseded generations beyond those that are kept, and what crashes left.
//!
//! Nothing is taken that a line's pointer names, that a pending clone is made from, or that is
//! younger than the grace, which is longer than a job takes from choosing a parent to having its
//! clone, and a promotion from its first step to its last. A generation leaves its line
//! first, by the same swap as a promotion, and is deleted then: a rollback can never meet one that
//! is going. Everything is deleted as it was read, by uid and `resourceVersion`, so clocks that
//! differ and two that clean at once do no harm.

mod lease;
mod scene;
mod sweep;

use std::time::Duration;

pub(crate) use scene::source;
pub use scene::{Doomed, Listed, Scene};
pub use sweep::{Report, after_job, run};

/// How old something must be. More than `prepare_job` waits by default.
pub const GRACE: Duration = Duration::from_mins(15);
