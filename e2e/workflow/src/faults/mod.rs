//! Faults of every kind in calls of every kind, on the real cluster.
//!
//! A seed makes a [`plan`]: jobs, each of which meets a fault in every call. Runner and harness wait
//! for each other before each call, so that a fault befalls the call that it is meant for
//! ([`conduct`]). Then each call either did what it was to do (its step's own exit code, its log
//! byte for byte, run once, as a counter file tells) or failed and named its cause ([`judge`]).

pub mod conduct;
pub mod job;
pub mod judge;
pub mod plan;
pub mod table;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::future::ready;
use futures_util::{StreamExt, stream};

use self::conduct::Fate;
use self::judge::Verdict;
use self::plan::{Fault, JobPlan};
use self::table::Table;
use crate::harness::cluster::Cluster;
use crate::harness::runner::Runner;
use crate::proxy::NODE;
use crate::proxy::raw::Proxy;

/// Where the API server listens.
const API_SERVER: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6443);
/// How long a job may take.
const JOB: Duration = Duration::from_mins(6);
/// How long what belongs to a runner pod may take to go after it.
const REMOVAL: Duration = Duration::from_mins(3);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides all that is random.
    pub seed: u64,
    /// Faults of each kind.
    pub count: usize,
    /// Which kinds.
    pub kinds: Vec<Fault>,
    /// Jobs at once.
    pub lanes: usize,
    /// No job begins later than this.
    pub within: Duration,
}

/// One job and what became of it.
struct Ran {
    plan: JobPlan,
    verdicts: Vec<Verdict>,
    log: String,
    took: Duration,
}

/// Runs all jobs of a plan; `say` gets a line for each as it ends.
pub async fn run(
    cluster: &Cluster,
    settings: &Settings,
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<Table> {
    let plans = plan::plan(settings.seed, settings.count, &settings.kinds);
    let all = plans.len();
    let (alone, beside): (Vec<_>, Vec<_>) = plans.into_iter().partition(JobPlan::is_alone);
    let mut table = Table::default();
    let begin = Instant::now();
    for (plans, lanes) in [(beside, settings.lanes.max(1)), (alone, 1)] {
        let jobs = stream::iter(plans)
            .take_while(|_| ready(begin.elapsed() < settings.within))
            .map(|plan| one(cluster, plan));
        let mut jobs = std::pin::pin!(jobs.buffer_unordered(lanes));
        while let Some(ran) = jobs.next().await {
            table.add(&ran.plan, &ran.verdicts);
            say(&shown(&ran, table.jobs, all));
        }
    }
    Ok(table)
}

async fn one(cluster: &Cluster, plan: JobPlan) -> Ran {
    let begin = Instant::now();
    let mut log = String::new();
    let verdicts = tokio::time::timeout(JOB, attempt(cluster, &plan, &mut log))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {JOB:?}")))
        .unwrap_or_else(|error| {
            let mut verdicts = vec![Verdict::Missed; plan.cases.len()];
            if let Some(last) = verdicts.last_mut() {
                *last = Verdict::Violated(format!("{error:#}"));
            }
            verdicts
        });
    Ran {
        plan,
        verdicts,
        log,
        took: begin.elapsed(),
    }
}

async fn attempt(
    cluster: &Cluster,
    plan: &JobPlan,
    log: &mut String,
) -> anyhow::Result<Vec<Verdict>> {
    let fate = Fate::default();
    let next = fate.clone();
    let proxy = Proxy::start(NODE, API_SERVER, move || next.next()).await?;
    let runner = Runner::start(cluster, &job::options(plan, proxy.address)).await?;
    let name = runner.name.clone();
    let judged = async {
        runner.submit(&job::describe(plan))?;
        let mut struck = conduct::conduct(cluster, &runner, plan, (&proxy, &fate)).await?;
        let outcome = runner.finish(&mut |_| ()).await?;
        struck.push(proxy.struck());
        let workspace = runner.path("/home/runner/_work/demo/demo");
        let counted = |file: &str| std::fs::read_to_string(workspace.join(file)).ok();
        Ok(judge::judge(plan, &outcome.report, &struck, &counted))
    }
    .await;
    *log = runner.log();
    runner.discard().await?;
    await_gone(cluster, &name).await?;
    judged
}

/// Waits until nothing is left that carries the runner pod's name.
async fn await_gone(cluster: &Cluster, runner: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let inventory = cluster
            .inventory()
            .await
            .context("failed to look for what is left")?;
        let left: Vec<String> = inventory
            .into_iter()
            .filter(|name| name.contains(runner))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > REMOVAL {
            bail!("left behind: {}", left.join(", "));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A line for a job, and what is wrong with it.
fn shown(ran: &Ran, number: usize, all: usize) -> String {
    let mut lines = Vec::new();
    for (number, (case, verdict)) in ran.plan.cases.iter().zip(&ran.verdicts).enumerate() {
        if let Verdict::Violated(wrong) = verdict {
            lines.push(format!(
                "      case {number}: {case:?}\n      cause: {wrong}\n"
            ));
        }
    }
    let state = if lines.is_empty() { "ok   " } else { "FAIL " };
    let mut text = format!(
        "{state} job {number} of {all} ({:?}): {} faults, {:.1} s\n",
        ran.plan.way,
        ran.plan.cases.len(),
        ran.took.as_secs_f64()
    );
    if !lines.is_empty() {
        // The steps print numbers by the thousand, which say nothing.
        for line in ran.log.lines().filter(|line| line.parse::<u32>().is_err()) {
            text.push_str("      | ");
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&lines.concat());
    }
    text
}
