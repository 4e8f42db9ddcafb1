//! Caches: which parent a job's clone is taken from, and how a good clone becomes the next parent.
//!
//! ```text
//! annotation ──> Policy ─┐
//! GITHUB_*, request ─────┼─> select ──> parent ──> clone (a claim) ──> job ──> promote ──> Line
//! Line (ConfigMap) ──────┘                                                                  │
//!                                             gc <── what no line names, and what is too old ┘
//! ```
//!
//! [`pattern`], [`policy`], [`mod@line`], [`select`] and [`trust`] are pure. A claim is written to by one
//! pod only, the job's, and never again once a line names it: generations are sealed.
//!
//! # What is marked how
//!
//! | object | `arc-hook/cache` (label) | owner | named by |
//! |---|---|---|---|
//! | a job's claim | `clone` | the runner pod | the hook's memory of the job |
//! | a sealed claim, or a snapshot of one | `generation` | none | a line; for moments none yet, then `gc` takes it |
//! | a person's claim | `personal` | none | its owner; `gc` leaves it alone |
//! | a line | `line` | none | its name, which follows from its key |

pub mod clone;
pub mod gc;
pub mod glob;
pub mod line;
pub mod pattern;
pub mod policy;
pub mod promote;
pub mod record;
pub mod select;
pub mod snapshot;
pub mod trust;
pub mod verify;

pub use glob::Glob;
pub use line::{Base, Generation, Generations, Kind, Line, LineError, Lineage, Taint};
pub use pattern::{Facts, Key, Pattern};
pub use policy::Policy;
pub use record::CacheRecord;
pub use trust::Verdict;

/// Label of everything that belongs to a cache; its value is a [`Role`].
pub const ROLE_LABEL: &str = "arc-hook/cache";
/// Label of a generation and of a line: [`Key::hash`] of the line.
pub const LINE_LABEL: &str = "arc-hook/line";
/// Annotation of a generation and of a line: the line's key as people write it.
pub const LINE_ANNOTATION: &str = "arc-hook/line";
/// Annotation of a generation: its number in the line.
pub const NUMBER_ANNOTATION: &str = "arc-hook/generation";
/// Annotation of a generation: when it was sealed (RFC 3339), by the clock of the hook.
pub const SEALED_ANNOTATION: &str = "arc-hook/sealed";
/// Annotation of a job's clone: where it comes from, for people.
pub const PARENT_ANNOTATION: &str = "arc-hook/parent";

/// Values of [`ROLE_LABEL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The claim of a running job.
    Clone,
    /// A sealed claim, from which clones are taken.
    Generation,
    /// A claim that a person made for themselves.
    Personal,
    /// The `ConfigMap` of a line.
    Line,
}

impl Role {
    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Generation => "generation",
            Self::Personal => "personal",
            Self::Line => "line",
        }
    }
}
