//! A container hook for GitHub's self-hosted runners on Kubernetes.
//!
//! ```text
//! runner ── bash -e index.sh ── exec ──> arc-hook   one process per command, in the runner pod
//!                                          │  prepare_job: create the job pod     Kubernetes API
//!                                          │  steps: spool on the work volume     no API
//!                                          ▼
//!                        arc-hook supervise   PID 1 of the job container ──> step processes
//! ```
//!
//! Specs are pure values: [`protocol`] and [`config`] in, [`pod`] out. Effects live at the edge:
//! [`cluster`] alone talks to the API server, [`spool`] alone knows how a step crosses the work
//! volume, [`cache`] chooses the parents of clones and promotes good ones, and [`hook`] puts them
//! together, one file per command. [`admin`] holds the verbs for people.

pub mod admin;
pub mod cache;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod explain;
pub mod fault;
pub mod github;
pub mod hook;
pub mod pod;
pub mod protocol;
pub mod record;
pub mod retain;
pub mod spool;
pub mod transport;
pub mod worker_log;
