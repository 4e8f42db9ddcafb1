//! How many jobs are kept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{bail, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use super::{Acting, GLANCE, Keeping, SOON, Stage, failing, judge, keeping, way_in};
use crate::harness::runner::Runner;

/// How many jobs fail at once, and how many of them are kept.
const AT_ONCE: usize = 10;
/// The same in a full run.
const MANY: usize = 40;
/// The template's own bound.
const AT_MOST: usize = 5;
/// So many runners start at a time: each takes a volume, which the storage driver makes one by one.
const STARTING: usize = 5;

/// Of many jobs that fail at once exactly as many are kept as may be.
pub fn ten_at_once(stage: Arc<Stage>) -> Acting {
    at_once(stage, AT_ONCE)
}

/// The same with as many as a node has room for.
pub fn forty_at_once(stage: Arc<Stage>) -> Acting {
    at_once(stage, MANY)
}

fn at_once(stage: Arc<Stage>, jobs: usize) -> Acting {
    Box::pin(async move {
        keeping(&stage, &[], async |keeping: &Keeping<'_>| {
            at_once_with(keeping, jobs).await
        })
        .await
    })
}

async fn at_once_with(keeping: &Keeping<'_>, jobs: usize) -> anyhow::Result<()> {
    let cluster = &keeping.stage.cluster;
    let options = keeping.options();
    let mut runners = Vec::new();
    let raced = async {
        while runners.len() < jobs {
            let count = STARTING.min(jobs - runners.len());
            let started = (0..count).map(|_| Runner::start(cluster, &options));
            runners.extend(try_join_all(started).await?);
        }
        let job = failing("At once", "echo ready; until [ -e go ]; do sleep 0.1; done");
        for runner in &runners {
            runner.submit(&job.to_string())?;
        }
        try_join_all(runners.iter().map(|runner| runner.await_log("ready"))).await?;
        for runner in &runners {
            std::fs::write(runner.path("/home/runner/_work/demo/demo/go"), "")?;
        }
        let mut outcomes = Vec::new();
        for runner in &runners {
            outcomes.push(runner.finish(&mut |_| ()).await?);
        }
        anyhow::Ok(outcomes)
    };
    let outcomes = raced.await;
    let logs: Vec<String> = runners.iter().map(Runner::log).collect();
    keeping.stage.keep(logs.join("\n"));
    for runner in runners {
        runner.discard().await?;
    }
    for outcome in outcomes? {
        judge(&outcome)?;
    }
    let listed: BTreeSet<String> = keeping
        .listed()
        .await?
        .iter()
        .filter_map(|one| one["pod"].as_str().map(str::to_owned))
        .collect();
    ensure!(
        listed.len() == AT_MOST,
        "{} jobs are listed: {listed:?}",
        listed.len()
    );
    let pods = cluster.api::<Pod>();
    let kept = ListParams::default().labels("arc-hook/retained");
    let mut there = BTreeSet::new();
    let start = Instant::now();
    while start.elapsed() < SOON {
        let found = pods.list(&kept).await?;
        there = found.iter().map(ResourceExt::name_any).collect();
        if there == listed {
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
    bail!("pods {there:?} are there, and the ledger names {listed:?}")
}

/// A repository's jobs count together, whichever scale set they ran on, and another's do not.
pub fn repositories(stage: Arc<Stage>) -> Acting {
    Box::pin(async move { keeping(&stage, &[("retain-max", "1")], repositories_with).await })
}

async fn repositories_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    for (scale_set, repository) in [
        ("one", "octo/demo"),
        ("two", "octo/other"),
        ("three", "octo/demo"),
    ] {
        let mut options = keeping.options();
        options.scale_set = Some(scale_set.to_owned());
        let mut job = failing("Of a repository", "echo broken");
        job["repository"] = json!(repository);
        let (outcome, _) = keeping.run_with(&job, &options).await?;
        ids.push(way_in(&outcome)?);
    }
    let listed = keeping.listed().await?;
    let listed: BTreeSet<&str> = listed.iter().filter_map(|one| one["id"].as_str()).collect();
    let expected = BTreeSet::from([ids[1].as_str(), ids[2].as_str()]);
    ensure!(listed == expected, "kept are {listed:?}, not {expected:?}");
    Ok(())
}
