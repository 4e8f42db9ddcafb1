//! Harms the hook, its pods and its cluster in the middle of real jobs, and judges what becomes of
//! them.

use std::process::ExitCode;
use std::time::Duration;

use arc_hook_e2e::faults::plan::Fault;
use arc_hook_e2e::faults::{self, Settings};
use arc_hook_e2e::harness::cluster::{Cluster, Turn};
use arc_hook_e2e::harness::console::{conclude, say};
use arc_hook_e2e::harness::paths::Paths;
use clap::Parser;

/// Harms the hook, its pods and its cluster in the middle of real jobs.
///
/// Exits with 1 when a call neither came through nor named its cause.
#[derive(Debug, Parser)]
struct Arguments {
    /// Decides all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults of each kind that are planned; a few do not come about.
    #[arg(long, default_value_t = 3)]
    each: usize,
    /// Fewer of a kind than this are a failure.
    #[arg(long, default_value_t = 1)]
    least: usize,
    /// Only kinds with this text in their names.
    #[arg(long, default_value = "")]
    only: String,
    /// Jobs at once.
    #[arg(long, default_value_t = 3)]
    lanes: usize,
    /// Seconds after which no job begins any more.
    #[arg(long, default_value_t = u64::from(u32::MAX))]
    within: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    conclude(Box::pin(act(&Arguments::parse()))).await
}

async fn act(arguments: &Arguments) -> anyhow::Result<bool> {
    let kinds: Vec<Fault> = Fault::ALL
        .into_iter()
        .filter(|fault| fault.name().contains(&arguments.only))
        .collect();
    anyhow::ensure!(
        !kinds.is_empty(),
        "no fault is called so: {}",
        arguments.only
    );
    let settings = Settings {
        seed: arguments.seed,
        count: arguments.each,
        kinds,
        lanes: arguments.lanes,
        within: Duration::from_secs(arguments.within),
    };
    say(&format!(
        "seed {}, {} faults of each kind\n",
        settings.seed, settings.count
    ));
    let paths = Paths::new();
    let _turn = Turn::take(&paths)?;
    let cluster = Cluster::connect(paths).await?;
    let table = faults::run(&cluster, &settings, &mut say).await?;
    say(&table.to_string());
    let rare = table.rarer_than(arguments.least, &settings.kinds);
    if !rare.is_empty() {
        say(&format!(
            "fewer than {} of: {}\n",
            arguments.least,
            rare.join(", ")
        ));
    }
    let failed = table.violated() + rare.len();
    say(&format!("{} passed, {failed} failed\n", table.passed()));
    Ok(failed == 0)
}
