//! The runner: what happens around a container hook inside the runner pod.

mod call;
pub mod command;
pub mod context;
mod digest;
pub mod environment;
pub mod file_commands;
pub mod guid;
mod hash_files;
pub mod job_log;
mod job_message;
pub mod layout;
pub mod lines;
pub mod log;
pub mod matchers;
pub mod orphans;
pub mod plain;
pub mod process;
pub mod request;
pub mod response;
pub mod signals;
pub mod step;
mod steps;
pub mod unit;
pub mod which;
pub mod worker;
