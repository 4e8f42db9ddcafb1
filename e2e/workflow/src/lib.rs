//! Proves arc-hook on a real cluster.
//!
//! Two programs share this library:
//!
//! ```text
//! scenarios (host, plays ARC)          runner-worker (runner pod, plays GitHub's runner)
//!   runner pod from hook-templates/ ──>  job.yaml ──> prepare_job, steps, cleanup_job ──> the hook
//!   checks, deletion, leftovers     <──  report.json, job.log
//! ```
//!
//! `runner-worker` does what actions/runner 2.336 does around a container
//! hook: the same directories, environment, JSON, signals and file commands.
//! Where the runner would throw, the driver reports a failure.

pub mod action;
pub mod attacks;
pub mod bench;
pub mod directive;
pub mod expression;
pub mod faults;
pub mod harness;
pub mod job;
pub mod proxy;
pub mod report;
pub mod runner;
pub mod scenarios;
