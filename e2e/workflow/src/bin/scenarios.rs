//! Runs scenarios, or one job, on the test cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use arc_hook_e2e::harness::audit::Request;
use arc_hook_e2e::harness::cluster::{Cluster, Turn};
use arc_hook_e2e::harness::console::{conclude, say};
use arc_hook_e2e::harness::paths::Paths;
use arc_hook_e2e::harness::runner::{Options, Runner};
use arc_hook_e2e::job::Job;
use arc_hook_e2e::scenarios::lanes::{Ended, Run};
use arc_hook_e2e::scenarios::{self, Scenario};
use clap::{Parser, Subcommand};
use k8s_openapi::api::core::v1::ConfigMap;

/// So many lines of a failed scenario's log are shown.
const TAIL: usize = 60;

/// Proves arc-hook on the test cluster.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names all scenarios.
    List,
    /// Runs scenarios, several at a time.
    Run {
        /// Only those with this text in their names.
        #[arg(long, default_value = "")]
        filter: String,
        /// For whatever is random. Without it every run is like the last.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// So many at a time at most.
        #[arg(long, default_value_t = 4)]
        lanes: usize,
        /// Also those that take very long.
        #[arg(long)]
        full: bool,
    },
    /// Runs one job in a runner pod and shows its log as it grows.
    Job {
        /// The job.
        file: PathBuf,
        /// Where the report goes.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// A hook template in place of the one that the job asks for; what its jobs promote stays.
        #[arg(long, value_name = "FILE", conflicts_with = "keep")]
        template: Option<PathBuf>,
        /// Leave the runner pod and what belongs to it.
        #[arg(long)]
        keep: bool,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    conclude(Box::pin(act(Arguments::parse().command))).await
}

async fn act(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::List => {
            list();
            Ok(true)
        }
        Command::Run {
            filter,
            seed,
            lanes,
            full,
        } => run(&filter, seed, lanes, full).await,
        Command::Job {
            file,
            report,
            template,
            keep,
        } => job(&file, report.as_deref(), template.as_deref(), keep).await,
    }
}

fn list() {
    for scenario in scenarios::all() {
        say(&format!("{}\n", scenario.name));
    }
}

async fn run(filter: &str, seed: u64, lanes: usize, full: bool) -> anyhow::Result<bool> {
    let long = if full { scenarios::long() } else { Vec::new() };
    let chosen: Vec<Scenario> = scenarios::all()
        .into_iter()
        .chain(long)
        .filter(|scenario| scenario.name.contains(filter))
        .collect();
    anyhow::ensure!(!chosen.is_empty(), "no scenario is called so: {filter}");
    say(&format!("{} scenarios, seed {seed}\n", chosen.len()));
    let paths = Paths::new();
    let _turn = Turn::take(&paths)?;
    let count = chosen.len();
    let mut failed = Vec::new();
    let mut tell = |ended: Ended| {
        let (name, seconds) = (ended.name, ended.seconds);
        let Err(error) = ended.result else {
            return say(&format!("ok    {name} ({seconds:.1} s)\n"));
        };
        let cause = indented(&format!("{error:#}"), "      cause: ");
        say(&format!("FAIL  {name} ({seconds:.1} s)\n{cause}"));
        say(&indented(&tail(&ended.log), "      | "));
        failed.push(format!("FAIL  {name}\n{cause}"));
    };
    let mut run = Run {
        paths,
        seed,
        tell: &mut tell,
    };
    run.all(chosen, lanes).await?;
    // Again at the end, where one looks first.
    say(&failed.concat());
    let bad = failed.len();
    say(&format!("{} passed, {bad} failed\n", count - bad));
    Ok(bad == 0)
}

fn read(file: &std::path::Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))
}

/// The hook template in the manifest of its `ConfigMap`.
fn template_in(manifest: &str) -> anyhow::Result<String> {
    let map: ConfigMap = serde_saphyr::from_str(manifest)?;
    let content = map.data.unwrap_or_default().into_values().next();
    content.context("the ConfigMap holds no hook template")
}

async fn job(
    file: &std::path::Path,
    report: Option<&std::path::Path>,
    template: Option<&std::path::Path>,
    keep: bool,
) -> anyhow::Result<bool> {
    let text = read(file)?;
    let paths = Paths::new();
    let _turn = Turn::take(&paths)?;
    let cluster = Cluster::connect(paths).await?;
    let options = Options {
        template: match template {
            Some(file) => Some(template_in(&read(file)?)?),
            None => cluster.template_of(&Job::parse(&text)?)?,
        },
        ..Options::default()
    };
    let runner = Runner::start(&cluster, &options).await?;
    runner.submit(&text)?;
    let outcome = runner.finish(&mut |more| say(more)).await;
    if keep {
        say(&format!("kept: pod {}\n", runner.name));
    } else if template.is_some() {
        runner.discard().await?;
    } else {
        runner.remove().await?;
    }
    let outcome = outcome?;
    if let Some(path) = report {
        let mut value = serde_json::to_value(&outcome.report)?;
        value["requests"] = match &outcome.requests {
            Some(requests) => counted(requests),
            None => serde_json::Value::Null,
        };
        let text = serde_json::to_string_pretty(&value)?;
        std::fs::write(path, text)
            .with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    for failure in &outcome.report.failures {
        eprintln!("FAILED: {failure}");
    }
    Ok(outcome.report.failures.is_empty())
}

/// Requests by verb and kind of object.
fn counted(requests: &[Request]) -> serde_json::Value {
    let mut counts = std::collections::BTreeMap::new();
    for request in requests {
        let path = request.uri.split('?').next().unwrap_or_default();
        // /api/v1/namespaces/NAMESPACE/KIND/NAME/SUBRESOURCE
        let parts: Vec<&str> = path.split('/').collect();
        let kind = match parts[..] {
            ["", "api", _, "namespaces", _, kind] | ["", "api", _, "namespaces", _, kind, _] => {
                kind.to_owned()
            }
            ["", "api", _, "namespaces", _, kind, _, sub] => format!("{kind}/{sub}"),
            _ => path.to_owned(),
        };
        *counts
            .entry(format!("{} {kind}", request.verb))
            .or_insert(0_u32) += 1;
    }
    serde_json::json!(counts)
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

fn indented(text: &str, prefix: &str) -> String {
    text.lines()
        .map(|line| prefix.to_owned() + line + "\n")
        .collect()
}
