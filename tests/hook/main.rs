//! The hook as the runner calls it: the real binary, and an API server of our own beside it.

#![allow(clippy::unwrap_used)]

mod actions;
mod caches;
mod cluster;
mod connections;
mod copies;
mod doctor;
mod failures;
mod fake_api;
mod fake_changes;
mod fake_cluster;
mod fake_exec;
mod jobs;
mod manual;
mod metrics;
mod rbac;
mod render;
mod requests;
mod retained;
mod runner;
mod snapshots;
#[cfg(feature = "opentelemetry")]
mod spans;
mod verbs;
