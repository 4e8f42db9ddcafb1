//! Scenarios side by side: most of the time a scenario waits.
//!
//! Each lane is a thread with a namespace and a scale set of its own, so that what a scenario
//! leaves behind is told from what another is about to make.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use tokio::sync::{mpsc, watch};

use super::{Scenario, Stage};
use crate::harness::cluster::Cluster;
use crate::harness::paths::Paths;

/// A scenario that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its name.
    pub name: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// The log of the job that ran last.
    pub log: String,
    /// What it came to.
    pub result: anyhow::Result<()>,
}

/// What all lanes share.
#[derive(Clone)]
struct Work {
    queue: Arc<Mutex<VecDeque<Scenario>>>,
    ended: mpsc::UnboundedSender<Ended>,
    stopped: watch::Receiver<()>,
    seed: u64,
}

/// Threads that run scenarios. When it is dropped, they put back what they took away, and end.
struct Lanes {
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    stop: Option<watch::Sender<()>>,
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // Whoever drops it has a worse error to tell.
            let _ = thread.join();
        }
    }
}

impl Lanes {
    /// Why lanes ended before the scenarios did.
    fn errors(mut self) -> anyhow::Result<()> {
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err(anyhow::anyhow!("a lane panicked")))?;
        }
        Ok(())
    }
}

/// A run of scenarios.
pub struct Run<'t> {
    /// Where the cluster is.
    pub paths: Paths,
    /// For whatever is random.
    pub seed: u64,
    /// Gets each scenario when it has ended.
    pub tell: &'t mut dyn FnMut(Ended),
}

impl Run<'_> {
    /// Runs `scenarios` in so many lanes at most, then those that must be alone.
    ///
    /// # Errors
    ///
    /// A lane that could not be made, or swept after a failure. A scenario that fails is no
    /// error.
    pub async fn all(&mut self, scenarios: Vec<Scenario>, lanes: usize) -> anyhow::Result<()> {
        let (alone, mut beside): (Vec<_>, Vec<_>) =
            scenarios.into_iter().partition(|scenario| scenario.alone);
        // What takes long must not begin last.
        beside.sort_by_key(|scenario| std::cmp::Reverse(scenario.deadline));
        self.side_by_side(beside, lanes).await?;
        self.side_by_side(alone, 1).await
    }

    async fn side_by_side(&mut self, scenarios: Vec<Scenario>, lanes: usize) -> anyhow::Result<()> {
        let lanes = lanes.min(scenarios.len());
        let (stop, stopped) = watch::channel(());
        let (ended, mut told) = mpsc::unbounded_channel();
        let work = Work {
            queue: Arc::new(Mutex::new(scenarios.into())),
            ended,
            stopped,
            seed: self.seed,
        };
        let mut running = Lanes {
            threads: Vec::new(),
            stop: Some(stop),
        };
        for number in 0..lanes {
            let (paths, work) = (self.paths.clone(), work.clone());
            let thread = std::thread::Builder::new()
                .name(format!("lane {number}"))
                .spawn(move || lane(paths, number, work))
                .context("failed to start a lane")?;
            running.threads.push(thread);
        }
        // Theirs are the only senders now: the last lane to end closes the channel.
        drop(work);
        while let Some(ended) = told.recv().await {
            (self.tell)(ended);
        }
        running.errors()
    }
}

fn lane(paths: Paths, number: usize, mut work: Work) -> anyhow::Result<()> {
    let mut stopped = work.stopped.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start a lane")?;
    runtime.block_on(async move {
        tokio::select! {
            result = work.all(paths, number) => result,
            _ = stopped.changed() => Ok(()),
        }
    })
}

impl Work {
    fn next(&self) -> Option<Scenario> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    }

    async fn all(&mut self, paths: Paths, number: usize) -> anyhow::Result<()> {
        let cluster = Cluster::lane(paths, number).await?;
        let stage = Arc::new(Stage::new(cluster, self.seed));
        while let Some(scenario) = self.next() {
            stage.keep(String::new());
            let start = Instant::now();
            let result = tokio::time::timeout(scenario.deadline, scenario.run(stage.clone()))
                .await
                .unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {:?}", scenario.deadline)));
            let failed = result.is_err();
            // Nobody to be told is a run that was stopped.
            let _ = self.ended.send(Ended {
                name: scenario.name,
                seconds: start.elapsed().as_secs_f64(),
                log: stage.log(),
                result,
            });
            if failed {
                stage.cluster.sweep().await?;
            }
        }
        Ok(())
    }
}
