//! How a step crosses to a pod that shares no volume with the runner.
//!
//! The spool lies in the pod, and the pod's supervisor is none the wiser: `arc-hook relay`, which
//! one exec per step starts in the job's container, plays the hook's part there ([`relay`]). Over
//! the exec's two streams go frames ([`frame`]): the files that changed and the request one way,
//! the log, the record of the end and what changed the other.
//!
//! ```text
//! hook ─ Begin ─────────────────────────> relay        one exec; again after a broken connection
//!      <──────────────────────── Hello ─              the step is known, or not yet
//!      ─ (Manifest) Archive Request ────>              only when it is not
//!      <───────────────────── Accepted ─              from here on it is never sent again
//!      <───────────── Log … Beat … Log ─   Got ──>     the log from the offset that arrived
//!      <───────────────────────── Exit ─
//!      ─ Fetch ─────────────────────────>              file commands, and the workspace's changes
//!      <────────────────────── Archive ─
//!      ─ Done ──────────────────────────>              the relay forgets the step
//! ```
//!
//! What crosses is told by a [`manifest`], of which both sides have a copy: a [`walk`] finds what
//! differs, [`changes`] sends it, [`extract`] takes it in.

pub mod changes;
mod connection;
pub mod entry;
pub mod extract;
pub mod frame;
pub mod manifest;
pub mod relay;
pub mod walk;

#[cfg(test)]
mod tests;
