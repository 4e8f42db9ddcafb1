//! Caches with lines: good jobs on main make the next parent, and nobody else does.

use std::sync::Arc;

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::json;

use super::lines::{Lines, said, with_lines};
use super::{Acting, Stage, judge};
use crate::harness::runner::{Options, Runner};

/// How many jobs promote the same line at once.
const AT_ONCE: usize = 10;
/// As many as there are pods for on a node, runners and jobs, with room for what else is there.
const MANY: usize = 50;
/// So many of them start at a time: only their ends are to fall together.
const STARTING: usize = 5;

/// What each promotion has to pass.
const VERIFY: (&str, &str) = ("keep: 3", "keep: 3\n      verify: test -d /CONAN_HOME");

/// The template that the founding document ends with.
const FOUNDING: &str = include_str!("../../../../src/pod/tests/templates/founding.yaml");

/// That template as it is: the cluster itself clones its parent for the job's pod, with which the clone
/// comes and goes, and nothing is chosen or promoted.
pub fn founding(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let job = json!({
            "name": "The founding document's",
            "container": {"image": "alpine:latest"},
            "steps": [{"run": "grep \" $CONAN_HOME \" /proc/mounts; touch $CONAN_HOME/built; \
                               echo ready; until [ -e go ]; do sleep 0.1; done; rm go"}],
        });
        let looks = async |runner: &Runner| {
            runner.await_log("ready").await?;
            let pod = stage.cluster.api::<Pod>().get(&runner.job_pod()).await?;
            let labels = pod.labels().get("labeled-by").map(String::as_str);
            ensure!(
                labels == Some("extension"),
                "the pod is labelled {labels:?}"
            );
            let name = format!("{}-conan-home", runner.job_pod());
            let claim = stage
                .cluster
                .api::<PersistentVolumeClaim>()
                .get(&name)
                .await?;
            let owner = claim.owner_references().first().map(|one| &one.name);
            ensure!(
                owner == Some(&runner.job_pod()),
                "its claim is of {owner:?}"
            );
            let source = claim.spec.and_then(|spec| spec.data_source);
            let source = source.map(|source| source.name);
            ensure!(
                source.as_deref() == Some("gcc12-toolchain-main"),
                "{source:?}"
            );
            std::fs::write(runner.path("/home/runner/_work/demo/demo/go"), "")?;
            Ok(())
        };
        let options = Options::of_template(FOUNDING);
        let outcome = stage.run_beside(&job.to_string(), &options, looks).await?;
        ensure!(!outcome.log.contains("Cache "), "a cache is told of");
        Ok(())
    })
}

/// Main promotes, a pull request gets the new generation, and neither it nor a
/// failing or cancelled job promotes.
pub fn lifecycle(stage: Arc<Stage>) -> Acting {
    Box::pin(
        async move { with_lines(&stage, &[VERIFY], async |lines| lines_live(lines).await).await },
    )
}

async fn lines_live(lines: &Lines<'_>) -> anyhow::Result<()> {
    let main = lines.main();
    let write = |name: &str| json!([{"run": format!("echo {name} > /CONAN_HOME/{name}")}]);
    let first = lines.run(write("first"), json!({})).await?;
    said(
        &first,
        "clone of claim `gcc12-toolchain-main`, the template's dataSource",
    )?;
    said(&first, &format!("promoted to {main} generation 1"))?;

    // A pull request of a fork, whose job tries to be more.
    let repo = |name: &str| json!({"repo": {"full_name": name}});
    let forge = "cat /CONAN_HOME/first; echo poison > /CONAN_HOME/poison\n\
        mkdir -p /__w/_diag; cp /github/workflow/event.json /__w/_diag/ || true\n\
        { echo '[2026-01-01 00:00:00Z INFO Worker] Job message:'; echo ' {}'; } \
        > /__w/_diag/Worker_20990101-000000-utc.log\n\
        echo '{}' > /github/workflow/event.json && exit 9\n\
        echo GITHUB_EVENT_NAME=push >> $GITHUB_ENV\n\
        echo GITHUB_REF=refs/heads/main >> $GITHUB_ENV";
    let forged =
        json!({"jobPod": "x", "caches": [{"volume": "conan-home", "promotion": {"To": {}}}]});
    let fork = lines
        .run(
            json!([{"run": forge, "driver": {"expect": ["first"], "state": forged}}]),
            json!({
                "github": {"event_name": "pull_request", "ref": "refs/pull/7/merge",
                           "base_ref": "main", "head_ref": "main"},
                "event": {"pull_request": {"head": repo("mallory/lines"),
                                           "base": repo(&lines.repository)}},
                "container": {"image": "alpine:latest", "env": {
                    "GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main",
                    "ARC_HOOK_CACHE_CONAN_HOME": main}},
                "driver": {"cleanup-job": {"state": forged}},
            }),
        )
        .await?;
    said(&fork, &format!("clone of {main} generation 1"))?;
    said(
        &fork,
        "not promoted: the pull request comes from the fork `mallory/lines`",
    )?;

    let failed = lines
        .run(
            json!([{"run": "echo bad > /CONAN_HOME/bad; exit 3", "driver": {"exit": 3}}]),
            json!({"driver": {"conclusion": "failure"}}),
        )
        .await?;
    said(&failed, "not promoted: the job failed")?;
    let cancelled = lines
        .run(
            json!([{"run": "echo ready; sleep 60",
                    "driver": {"cancel-job": {"line": "ready"}, "fails": true}}]),
            json!({"driver": {"conclusion": "cancelled"}}),
        )
        .await?;
    said(&cancelled, "not promoted: the job was cancelled")?;

    let see = "cat /CONAN_HOME/first; ls /CONAN_HOME; [ ! -e /CONAN_HOME/poison ] && [ ! -e /CONAN_HOME/bad ]";
    let second = lines
        .run(
            json!([{"run": see, "driver": {"expect": ["first"]}}]),
            json!({}),
        )
        .await?;
    said(&second, &format!("clone of {main} generation 1"))?;
    said(&second, &format!("promoted to {main} generation 2"))?;
    let entry = lines.entry(None).await?;
    ensure!(entry["current"] == 2, "the pointer is {}", entry["current"]);
    lines.await_no_orphan().await
}

/// Jobs that began with the same generation promote at once, twice: one of them wins each time, the
/// others are told, and no claim is left over.
pub fn at_once(stage: Arc<Stage>) -> Acting {
    raced(stage, AT_ONCE)
}

/// The same with as many as a node has room for.
pub fn many_at_once(stage: Arc<Stage>) -> Acting {
    raced(stage, MANY)
}

fn raced(stage: Arc<Stage>, jobs: usize) -> Acting {
    Box::pin(async move {
        with_lines(&stage, &[VERIFY], async |lines| {
            for generation in 1..=2 {
                race(lines, jobs, generation).await?;
            }
            Ok(())
        })
        .await
    })
}

async fn race(lines: &Lines<'_>, jobs: usize, generation: u64) -> anyhow::Result<()> {
    let cluster = &lines.stage.cluster;
    let runners: Vec<Runner> = stream::iter(0..jobs)
        .map(|_| waiting(lines))
        .buffer_unordered(STARTING)
        .try_collect()
        .await?;
    let raced = async {
        let name = lines.name();
        for runner in &runners {
            let workspace = runner.path(&format!("/home/runner/_work/{name}/{name}"));
            std::fs::write(workspace.join("go"), "")?;
        }
        let mut finished = Vec::new();
        for runner in &runners {
            finished.push(runner.finish(&mut |_| ()).await?);
        }
        anyhow::Ok(finished)
    };
    let outcomes = raced.await;
    let logs: Vec<String> = runners.iter().map(Runner::log).collect();
    lines.stage.keep(logs.join("\n"));
    for runner in &runners {
        cluster.delete_runner(&runner.name).await?;
    }
    let outcomes = outcomes?;
    for outcome in &outcomes {
        judge(outcome)?;
    }
    let count = |text: &str| logs.iter().filter(|log| log.contains(text)).count();
    let won = count(&format!(
        "promoted to {} generation {generation}\n",
        lines.main()
    ));
    let lost = count("another job was faster");
    ensure!(
        (won, lost) == (1, jobs - 1),
        "{won} of {jobs} jobs promoted generation {generation}, {lost} were told that another was"
    );
    let entry = lines.entry(None).await?;
    let generations = entry["generations"].as_array().map_or(0, Vec::len);
    ensure!(
        entry["current"] == generation && u64::try_from(generations)? == generation,
        "after {generation} rounds the line has {entry}"
    );
    lines.await_no_orphan().await
}

/// A runner whose job has its clone, and waits for the file `go`.
async fn waiting(lines: &Lines<'_>) -> anyhow::Result<Runner> {
    let wait = "echo ready; until [ -e go ]; do sleep 0.1; done; rm go";
    let runner = lines.runner().await?;
    runner.submit(&lines.job(&json!([{"run": wait}]), &json!({})))?;
    let begun = runner.await_log("ready").await;
    if begun.is_err() {
        lines.stage.keep(runner.log());
    }
    begun.map(|()| runner)
}
