//! What the benchmarks start inside pods.
//!
//! A program of its own because it must be small: the peak memory of what it
//! starts is never seen below its own.

use std::process::ExitCode;

use arc_hook_e2e::bench::agent;
use clap::{Parser, Subcommand};

/// Starts and measures programs inside a pod.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Takes orders from standard input, one JSON object a line.
    Serve,
    /// Writes so many bytes of log lines.
    Flood {
        /// How many.
        bytes: u64,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve => agent::serve(),
        Command::Flood { bytes } => agent::flood(bytes),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
