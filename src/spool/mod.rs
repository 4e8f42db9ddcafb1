//! How a step crosses the work volume, and runs exactly once.
//!
//! The hook (in the runner pod) and the supervisor (PID 1 of the job container) share one
//! directory. Neither calls the other: each writes records that the other reads, complete or not
//! at all, because every record appears by `rename`.
//!
//! ```text
//! _work/.arc-hook/<nonce>/          new per pod: an old container can outlive its pod object
//!   hook/arc-hook                   this binary, read-only at /__hook
//!   temp/ home/ workflow/ file_commands/ runner_workspace/ externals/     what the pod sees
//!   spool/                          at /__hook/spool
//!     ready.json                    the supervisor's first record
//!     heartbeat                     a counter: judged by its change, never by a clock
//!     entry.json                    the template's own command, to be run as a child
//!     steps/<id>/                   made under another name, renamed when complete
//!       request.json                what to run; unlinked once claimed, it holds secrets
//!       claimed                     created exclusively: a step starts at most once
//!       log.0 log.1 ...             stdout and stderr through one pipe, in order
//!       bell                        FIFO: a byte when there is something to read
//!       hook.lock                   held by the hook; free without `exit.json` read = hook dead
//!       cancel                      created by the hook
//!       orphaned                    created by a later hook: the step's own is dead
//!       exit.json                   how it ended; no step is green without it
//! ```
//!
//! The layout wears the job's clothes: the pod's side runs as the job's user, so a job can forge
//! its own records. It can thereby lie about itself only. The hook opens everything through
//! [`directory::Directory`], which follows no link and reads no more than it was told.

pub mod bell;
pub mod client;
pub mod directory;
pub mod log;
pub mod nonce;
pub mod records;
pub mod signals;
pub mod supervisor;
pub mod tree;

pub use nonce::Nonce;
pub use records::{Exit, Libc, OutOfMemory, Outcome, Ready, StepRequest};
pub use tree::JobTree;

/// Version of the records. Hook and supervisor are the same binary, but a runner image can be
/// rolled while a job runs.
pub const PROTOCOL: u32 = 1;

/// The supervisor's first record.
pub(crate) const READY: &str = "ready.json";
/// The supervisor's counter.
pub(crate) const HEARTBEAT: &str = "heartbeat";
/// The template's own command.
pub(crate) const ENTRY: &str = "entry.json";
/// Directory of all steps.
pub(crate) const STEPS: &str = "steps";
/// While it is there, a program waits for its files.
pub(crate) const GATE: &str = "gate";
/// What to run.
pub(crate) const REQUEST: &str = "request.json";
/// The supervisor's claim.
pub(crate) const CLAIMED: &str = "claimed";
/// The hook's sign of life.
pub(crate) const LOCK: &str = "hook.lock";
/// Rung by the supervisor.
pub(crate) const BELL: &str = "bell";
/// The hook's wish to end the step.
pub(crate) const CANCEL: &str = "cancel";
/// The word of another hook that the step's own is dead.
pub(crate) const ORPHANED: &str = "orphaned";
/// How the step ended.
pub(crate) const EXIT: &str = "exit.json";
/// Prefix of a step directory that is not yet complete.
pub(crate) const UNFINISHED: &str = ".";

/// Largest record that is read from the job's side; `ready.json` and `exit.json` are far smaller.
pub(crate) const RECORD_LIMIT: u64 = 64 * 1024;
/// Largest request: the kernel refuses argument lists and environments beyond 2 MiB anyway.
pub(crate) const REQUEST_LIMIT: u64 = 16 * 1024 * 1024;
