//! The records of the spool, as they stand on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Nonce;
use crate::protocol::Environment;

/// What the supervisor found when it started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// [`super::PROTOCOL`] of the supervisor.
    pub protocol: u32,
    /// Version of the supervisor's binary.
    pub version: String,
    /// The nonce that it was started with.
    pub nonce: Nonce,
    /// Effective user of the container.
    pub uid: u32,
    /// Effective group of the container.
    pub gid: u32,
    /// Name in the image's `/etc/passwd`, if that user has an entry.
    pub user_name: Option<String>,
    /// `ID` of `/etc/os-release`.
    pub os_id: Option<String>,
    /// The C library of the image.
    pub libc: Libc,
    /// Of each path that the hook asked for: whether the user can write there.
    pub writable: BTreeMap<String, bool>,
}

impl Ready {
    /// Whether JavaScript actions need the musl build of node.
    ///
    /// The official hooks look for `alpine` in `/etc/*release*`; what matters is the library.
    #[must_use]
    pub fn is_alpine(&self) -> bool {
        self.libc == Libc::Musl
    }
}

/// The C library that programs of an image expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Libc {
    /// A musl loader and no glibc loader.
    Musl,
    /// A glibc loader.
    Glibc,
    /// Neither: static programs only.
    None,
}

/// What to run.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRequest {
    /// Program and arguments; the program is looked up in the step's own `PATH`.
    pub argv: Vec<String>,
    /// Overlays the environment of image and template.
    pub environment: Environment,
    /// Directories for the front of `PATH`.
    pub path: Vec<String>,
    /// Directory to run in.
    pub directory: Option<String>,
    /// Seconds that the step goes on without a hook: a relay's connection may break, and another
    /// takes its place.
    #[serde(default)]
    pub alone: u32,
}

impl std::fmt::Debug for StepRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments and environment hold secrets.
        f.debug_struct("StepRequest")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The end itself.
    pub outcome: Outcome,
    /// Bytes of the log, over all segments.
    pub log_bytes: u64,
    /// Milliseconds between start and end of the step's own process.
    pub run_ms: u64,
    /// The kubelet had told the container to end before the step did: its end, whatever it is, is
    /// not its own. A program that obeys SIGTERM exits with 0.
    #[serde(default)]
    pub container_ended: bool,
    /// The kernel killed a process of the container for want of memory while the step ran.
    #[serde(default)]
    pub out_of_memory: Option<OutOfMemory>,
}

/// Memory that was not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// Bytes that the container may use; absent when only the node's memory bounds it.
    pub limit: Option<u64>,
}

/// The end of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It never began, and why.
    NotStarted(String),
    /// It ran, but its log could not be kept, and why. Its processes were ended.
    LogLost(String),
}

impl Outcome {
    /// The exit code as a shell would report it.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code & 0xff).unwrap_or(1),
            Self::Signal(signal) => u8::try_from((128 + signal) & 0xff).unwrap_or(1),
            Self::NotStarted(_) => 126,
            Self::LogLost(_) => 1,
        }
    }
}
