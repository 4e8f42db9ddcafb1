//! The hook as the runner calls it: the real binary, and an API server of our own beside it.

#![allow(clippy::unwrap_used)]

mod cluster;
mod fake_api;
