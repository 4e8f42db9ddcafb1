//! Measures arc-hook's budgets on the test cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use arc_hook_e2e::bench::{self, Group, table};
use arc_hook_e2e::harness::console::say;
use arc_hook_e2e::harness::paths::Paths;
use clap::Parser;

/// Measures arc-hook's budgets on the test cluster.
///
/// Exits with 1 when a row is beyond its limit.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure only these.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "jobs,steps,logs,idle,copies,flat,programs,clones,generations"
    )]
    only: Vec<Group>,
    /// How often each pair of floor and ours is measured.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Have the large parent of clones hold 5 GB, and the line 200 generations.
    #[arg(long)]
    full: bool,
    /// Where all samples go, as JSON; `bench.json` in the cluster's state directory by default.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<bool> {
    let Arguments {
        only, runs, full, ..
    } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let rows = runtime.block_on(bench::run(only, *runs, *full, &mut say))?;
    let json = arguments.json.clone();
    let path = json.unwrap_or_else(|| Paths::new().state.join("bench.json"));
    let text = serde_json::to_string_pretty(&table::json(&rows))?;
    std::fs::write(&path, text + "\n")
        .with_context(|| format!("failed to write `{}`", path.display()))?;
    Ok(!table::failed(&rows))
}
