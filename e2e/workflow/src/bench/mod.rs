//! Benchmarks: the budgets of arc-hook, measured on the test cluster.
//!
//! What a pod, a process or a pipe costs differs between machines and hours, so
//! ours is measured in turn with a floor: what the same work takes without a
//! hook, just before. Where a row is judged by its excess over the floor, it
//! is the median of the differences of such pairs.
//!
//! ```text
//! bench (node) ── nsenter ──> agent in the runner pod ──> bash -e index.sh ──> the hook
//!              ── nsenter ──> agent in the job pod    ──> floors of steps and pipes
//!              ── API      ──> floor pods, in the shape of the hook's own
//! ```

pub mod agent;
mod clones;
mod copies;
mod flat;
mod floor;
mod generations;
mod hook;
mod lines;
mod measures;
mod programs;
mod seat;
pub mod table;

use crate::harness::cluster::{Cluster, Role};
use crate::harness::console::interrupted;
use crate::harness::paths::Paths;
use hook::Hook;
use table::Row;

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// `prepare_job`, `cleanup_job`.
    Jobs,
    /// `run_script_step`, `run_container_step`.
    Steps,
    /// Long logs.
    Logs,
    /// The supervisor between steps.
    Idle,
    /// A runner that shares no volume with its jobs.
    Copies,
    /// What such a runner's hook has in memory, whatever is copied.
    Flat,
    /// Clones of small and large parents.
    Clones,
    /// One line, promoted again and again.
    Generations,
    /// Node and the like, copied and mounted.
    Programs,
}

/// A run of the benchmarks.
pub(crate) struct Bench<'a> {
    cluster: Cluster,
    hook: Hook,
    runs: usize,
    full: bool,
    show: &'a mut dyn FnMut(&str),
    rows: Vec<Row>,
}

/// Measures these groups, each pair `runs` times, and shows rows as they come. `full` is for what
/// takes very long.
pub async fn run(
    groups: &[Group],
    runs: usize,
    full: bool,
    show: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<Row>> {
    anyhow::ensure!(runs > 0, "nothing is measured in 0 runs");
    let cluster = Cluster::connect(Paths::new()).await?;
    let hook = Hook::start(&cluster, Role::Shipped).await?;
    show(&table::head());
    let mut bench = Bench {
        cluster,
        hook,
        runs,
        full,
        show,
        rows: Vec::new(),
    };
    let measured = tokio::select! {
        measured = bench.groups(groups) => measured,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    let Bench { hook, rows, .. } = bench;
    let removed = hook.runner.remove().await;
    measured?;
    removed?;
    Ok(rows)
}

impl Bench<'_> {
    async fn groups(&mut self, groups: &[Group]) -> anyhow::Result<()> {
        if groups.contains(&Group::Jobs) {
            self.jobs(Role::Shipped).await?;
            self.jobs_of_stock().await?;
        }
        if groups.contains(&Group::Copies) {
            self.copies().await?;
        }
        if groups.contains(&Group::Flat) {
            self.flatness().await?;
        }
        if groups.contains(&Group::Clones) {
            self.clones().await?;
        }
        if groups.contains(&Group::Generations) {
            self.generations().await?;
        }
        if groups.contains(&Group::Programs) {
            self.programs().await?;
        }
        let of_one_job = [Group::Steps, Group::Logs, Group::Idle];
        if !groups.iter().any(|group| of_one_job.contains(group)) {
            return Ok(());
        }
        self.hook.prepare_job(&[]).await?;
        if groups.contains(&Group::Steps) {
            self.steps().await?;
        }
        if groups.contains(&Group::Logs) {
            self.logs().await?;
        }
        if groups.contains(&Group::Idle) {
            self.idle().await?;
        }
        self.end_job().await?;
        Ok(())
    }

    /// Jobs of another runner, which has no more than ARC's own rights.
    async fn jobs_of_stock(&mut self) -> anyhow::Result<()> {
        let stock = Hook::start(&self.cluster, Role::Stock).await?;
        let shipped = std::mem::replace(&mut self.hook, stock);
        let measured = self.jobs(Role::Stock).await;
        let stock = std::mem::replace(&mut self.hook, shipped);
        let removed = stock.runner.remove().await;
        measured.and(removed)
    }

    fn tell(&mut self, row: Row) {
        (self.show)(&table::shown(&row));
        self.rows.push(row);
    }
}
