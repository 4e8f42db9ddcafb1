//! The connection to the API server for commands that need one.
//!
//! A step that runs through the spool never gets here: building the client costs more than the
//! whole hand-over of a step.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use super::output;
use crate::cluster::Cluster;
use crate::spool::signals::Signals;

/// How often a signal is looked for while something is awaited.
const LOOK: Duration = Duration::from_millis(50);

/// A connection, and the thread that drives it.
#[derive(Debug)]
pub struct Api {
    runtime: Runtime,
    /// The cluster.
    pub cluster: Cluster,
}

/// How an act ended that a signal of the runner may cut short.
#[derive(Debug)]
pub enum Ended<T> {
    /// On its own.
    Done(T),
    /// By this signal.
    Signal(u8),
}

impl Api {
    /// Finds the API server; `namespace` wins over kubeconfig and service account.
    pub fn connect(namespace: Option<&str>) -> anyhow::Result<Self> {
        Self::connect_as(namespace, None)
    }

    /// The same, acting as a service account of the namespace.
    pub fn connect_as(namespace: Option<&str>, account: Option<&str>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the asynchronous runtime")?;
        let cluster = runtime.block_on(Cluster::connect_as(namespace, account))?;
        let cluster = cluster.telling(output::line);
        Ok(Self { runtime, cluster })
    }

    /// Waits for an act.
    pub fn run<T>(&self, act: impl Future<Output = T>) -> T {
        self.runtime.block_on(act)
    }

    /// Waits for an act, but not past a signal.
    pub fn run_unless_signalled<T>(
        &self,
        signals: &Signals,
        act: impl Future<Output = T>,
    ) -> Ended<T> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                signal = signalled(signals) => Ended::Signal(signal),
                done = act => Ended::Done(done),
            }
        })
    }
}

/// The signal, once there is one.
async fn signalled(signals: &Signals) -> u8 {
    loop {
        if let Some(signal) = signals.received() {
            return signal;
        }
        tokio::time::sleep(LOOK).await;
    }
}
