//! Does to a running job what its plan says.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, EvictParams};

use super::job::{GATES, middle};
use super::plan::{Case, Command, Fault, JobPlan};
use crate::harness::absence::Absence;
use crate::harness::cluster::Cluster;
use crate::harness::process;
use crate::harness::runner::Runner;
use crate::proxy::raw::{Proxy, Wire};

/// How long a step may take to come to its middle. A kubelet that has lost the API server several times asks
/// again after a minute.
const MIDDLE: Duration = Duration::from_mins(3);
const GLANCE: Duration = Duration::from_millis(20);

/// What the next connections of a job's hook meet.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<Mutex<VecDeque<Wire>>>);

impl Fate {
    /// What the next connection meets.
    #[must_use]
    pub fn next(&self) -> Wire {
        let mut wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wires.pop_front().unwrap_or_default()
    }

    fn set(&self, wires: &[Wire]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wires.iter().copied().collect();
    }
}

/// Waits for each call of the job in turn and harms it. Returns how many connections had been harmed
/// before each; those that the job did not come to are missing.
pub async fn conduct(
    cluster: &Cluster,
    runner: &Runner,
    plan: &JobPlan,
    (proxy, fate): (&Proxy, &Fate),
) -> anyhow::Result<Vec<u32>> {
    let mut struck = Vec::new();
    for (number, case) in plan.cases.iter().enumerate() {
        if !comes_to(runner, &format!("{GATES}/at-{number}")).await {
            break;
        }
        struck.push(proxy.struck());
        fate.set(&case.wires);
        fs::write(runner.path(&format!("{GATES}/go-{number}")), "")
            .context("failed to let the job go on")?;
        harm(cluster, runner, number, case)
            .await
            .with_context(|| format!("case {number}, {}", case.fault.name()))?;
    }
    Ok(struck)
}

/// Waits for a file; `false` when the job ends first.
async fn comes_to(runner: &Runner, file: &str) -> bool {
    let file = runner.path(file);
    let report = runner.path(&format!("{GATES}/report.json"));
    while !file.exists() {
        if report.exists() {
            return false;
        }
        tokio::time::sleep(GLANCE).await;
    }
    true
}

async fn harm(
    cluster: &Cluster,
    runner: &Runner,
    number: usize,
    case: &Case,
) -> anyhow::Result<()> {
    let outside = matches!(
        case.fault,
        Fault::ApiServer | Fault::Kubelet | Fault::Supervisor | Fault::Deleted | Fault::Evicted
    );
    if !outside {
        return Ok(());
    }
    if matches!(case.command, Command::Script | Command::Container) {
        await_middle(runner, number).await?;
    }
    tokio::time::sleep(case.after).await;
    let pods = cluster.api::<Pod>();
    let now = DeleteParams::default().grace_period(1);
    match case.fault {
        Fault::ApiServer => away(cluster, "cluster/apiserver", case.lasts).await,
        Fault::Kubelet => away(cluster, "cluster/kubelet", case.lasts).await,
        Fault::Supervisor => {
            let uid = pod_of(runner, case).await?.uid().unwrap_or_default();
            let pid = process::find_with(&uid, "arc-hook", "supervise")
                .context("it has no supervisor")?;
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("no process")?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
            Ok(())
        }
        Fault::Deleted => {
            let name = pod_of(runner, case).await?.name_any();
            pods.delete(&name, &now).await?;
            Ok(())
        }
        _ => {
            let name = pod_of(runner, case).await?.name_any();
            let parameters = EvictParams {
                delete_options: Some(now),
                ..EvictParams::default()
            };
            pods.evict(&name, &parameters).await?;
            Ok(())
        }
    }
}

/// The pod that the step runs in: the last that was made, for that of an action whose hook was killed
/// stays until the job is over.
async fn pod_of(runner: &Runner, case: &Case) -> anyhow::Result<Pod> {
    let of_job = runner.job_pod();
    let pods = runner.job_pods().await?;
    let pods = pods.into_iter().filter(|pod| {
        let is_job = pod.name_any() == of_job;
        is_job == (case.command == Command::Script) && pod.metadata.deletion_timestamp.is_none()
    });
    pods.max_by_key(|pod| pod.metadata.creation_timestamp.clone())
        .context("its pod is not there")
}

async fn await_middle(runner: &Runner, number: usize) -> anyhow::Result<()> {
    let text = middle(number);
    tokio::time::timeout(MIDDLE, runner.await_log(&text))
        .await
        .unwrap_or_else(|_| anyhow::bail!("the step did not print `{text}` within {MIDDLE:?}"))
}

/// Takes a daemon of the cluster away for a while.
async fn away(cluster: &Cluster, script: &str, lasts: Duration) -> anyhow::Result<()> {
    let absence = Absence::begin(cluster.paths.script(script)).await?;
    tokio::time::sleep(lasts).await;
    absence.end().await
}
