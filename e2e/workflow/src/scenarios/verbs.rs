//! `arc-hook cache` and `arc-hook gc` as an administrator calls them, on real volumes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::lines::{Lines, with_lines};
use super::{Acting, Stage};
use crate::harness::cluster::Role;
use crate::harness::verbs;

const MINE: &str = "verbs-mine";
const LOOKER: &str = "verbs-looker";
const COLLECTOR: &str = "verbs-gc";
/// How long a pod that looks into a volume may take, and a Job.
const LOOK: Duration = Duration::from_mins(1);
const GLANCE: Duration = Duration::from_millis(100);

/// A line from its first generation to its removal, with what each one holds.
pub fn whole_life(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        Box::pin(with_lines(&stage, &[], async |lines| {
            let lived = Box::pin(live(lines)).await;
            if lived.is_err() {
                // What a half-way state uses goes first.
                let now = DeleteParams::default().grace_period(0);
                let _ = pods(&stage).delete(LOOKER, &now).await;
                let _ = claims(&stage).delete(MINE, &DeleteParams::default()).await;
            }
            lived
        }))
        .await
    })
}

async fn live(lines: &Lines<'_>) -> anyhow::Result<()> {
    let stage = lines.stage;
    let main = lines.main();
    let cache = async |arguments: &[&str]| {
        let arguments = [&["cache", arguments[0], main.as_str()], &arguments[1..]].concat();
        call(stage, &arguments).await
    };
    let fill = "echo first >/cache/f; stat -c %u:%g /cache/f >/cache/owner";
    let image = ["--image", "alpine:latest"];
    let init = ["init", "--size", "64Mi", "--class", "openebs-zfspv"];
    cache(&[&init[..], &image[..], &["--", "sh", "-ec", fill]].concat()).await?;
    cache(&["clone", "--name", MINE]).await?;
    let found = inside(stage, MINE, "cat f owner; echo second >f").await?;
    ensure!(found == "first\n1001:1001", "the clone holds {found:?}");
    // Someone still has it.
    let Err(refusal) = cache(&["delete"]).await else {
        bail!("a line was deleted whose clone is in use");
    };
    let refusal = refusal.to_string();
    ensure!(refusal.contains("is a clone of generation 1"), "{refusal}");
    cache(&["promote", "--claim", MINE]).await?;
    let tainted = cache(&["taint", "1", "--reason", "a test"]).await?;
    ensure!(tainted.contains("generation 2 of"), "{tainted}");
    cache(&[&["rebase"], &image[..]].concat()).await?;
    let shown = async || {
        let text = cache(&["show", "--output", "json"]).await?;
        let mut line: Value = serde_json::from_str(&text)?;
        anyhow::Ok(line["nodes"][0].take())
    };
    let rebased = shown().await?;
    let copy = &rebased["generations"][2];
    ensure!(
        rebased["current"] == 3 && copy["depth"] == 0 && copy["base"]["number"] == 2,
        "{rebased}"
    );
    cache(&["clone", "--name", "verbs-copy"]).await?;
    let found = inside(stage, "verbs-copy", "cat f").await?;
    ensure!(found == "second", "the copy holds {found:?}");
    claims(stage)
        .delete("verbs-copy", &DeleteParams::default())
        .await?;
    cache(&["rollback"]).await?;
    ensure!(shown().await?["current"] == 2);
    let listed = call(stage, &["cache", "list"]).await?;
    ensure!(
        listed.lines().all(|line| line.chars().count() <= 80),
        "{listed}"
    );
    imported(lines).await?;
    collected(lines).await?;
    removed(stage, "verbs-copy").await?;
    cache(&["delete"]).await?;
    ensure!(lines.entry(None).await.is_err());
    Ok(())
}

/// A line may begin with what a claim holds, which stays what it is.
async fn imported(lines: &Lines<'_>) -> anyhow::Result<()> {
    let line = format!("{}/imported", lines.repository);
    let from = ["--from", "gcc12-toolchain-main", "--output", "json"];
    let made = call(
        lines.stage,
        &[&["cache", "init", &line], &from[..]].concat(),
    )
    .await?;
    let made: Value = serde_json::from_str(&made)?;
    let claim = made["claim"].as_str().context("no claim is named")?;
    let sealed = claims(lines.stage).get(claim).await?;
    let source = sealed.spec.and_then(|spec| spec.data_source);
    ensure!(source.is_some_and(|source| source.name == "gcc12-toolchain-main"));
    call(lines.stage, &["cache", "delete", &line])
        .await
        .map(drop)
}

/// `gc` takes superseded generations beyond those that are kept: young ones stay, a dry run tells, and
/// the shipped `CronJob`, run once with the runners' account, removes what is old.
async fn collected(lines: &Lines<'_>) -> anyhow::Result<()> {
    let stage = lines.stage;
    let line = format!("{}/old", lines.repository);
    let init = ["--from", "gcc12-toolchain-main", "--keep", "0"];
    call(stage, &[&["cache", "init", &line], &init[..]].concat()).await?;
    call(stage, &["cache", "clone", &line, "--name", "verbs-next"]).await?;
    call(stage, &["cache", "promote", &line, "--claim", "verbs-next"]).await?;
    let first = oldest(lines, &line).await?;
    let young = call(stage, &["gc"]).await?;
    ensure!(!young.contains(&first), "{young}");
    age(lines, &line).await?;
    let dry = call(stage, &["gc", "--dry-run"]).await?;
    ensure!(
        dry.contains(&format!("would remove claim {first}")),
        "{dry}"
    );
    ensure!(claims(stage).get_opt(&first).await?.is_some());
    let told = cron_job(stage).await?;
    ensure!(told.contains(&format!("removed claim {first}")), "{told}");
    removed(stage, &first).await?;
    call(stage, &["cache", "delete", &line]).await.map(drop)
}

async fn oldest(lines: &Lines<'_>, line: &str) -> anyhow::Result<String> {
    let text = call(lines.stage, &["cache", "show", line, "--output", "json"]).await?;
    let shown: Value = serde_json::from_str(&text)?;
    let claim = shown["nodes"][0]["generations"][0]["claim"].as_str();
    Ok(claim.context("the line has no generation")?.to_owned())
}

/// Has a line's superseded generations be old.
async fn age(lines: &Lines<'_>, line: &str) -> anyhow::Result<()> {
    let maps = lines.stage.cluster.api::<ConfigMap>();
    let all = maps.list(&kube::api::ListParams::default()).await?;
    let is_it = |map: &&ConfigMap| {
        map.annotations()
            .get("arc-hook/line")
            .is_some_and(|key| key == line)
    };
    let map = all.iter().find(is_it).context("the line is gone")?;
    let mut data = serde_json::Map::new();
    for (key, entry) in map.data.iter().flatten() {
        if key.starts_with("node.") {
            let mut entry: Value = serde_json::from_str(entry)?;
            for one in entry["generations"].as_array_mut().into_iter().flatten() {
                if one["superseded"].is_string() {
                    one["superseded"] = json!("2020-01-01T00:00:00Z");
                }
            }
            data.insert(key.clone(), json!(entry.to_string()));
        }
    }
    let patch = Patch::Merge(json!({"data": data}));
    maps.patch(&map.name_any(), &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Runs the Job of the shipped `CronJob` once; what it says.
async fn cron_job(stage: &Stage) -> anyhow::Result<String> {
    let cluster = &stage.cluster;
    let path = cluster.paths.template("cache-gc.yaml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    let shipped: CronJob = serde_saphyr::from_str(&text)?;
    let template = shipped.spec.job_template.spec;
    let mut job = json!({"metadata": {"name": COLLECTOR}, "spec": template});
    let pod = &mut job["spec"]["template"]["spec"];
    // What a user puts there: the own image, and the account that has the rights.
    pod["containers"][0]["image"] = json!(cluster.values_of(Role::default()).runner_image()?);
    pod["serviceAccountName"] = json!(cluster.service_account());
    let job: Job = serde_json::from_value(job)?;
    let jobs = cluster.api::<Job>();
    jobs.create(&PostParams::default(), &job).await?;
    let told = tokio::time::timeout(LOOK, ended_job(stage)).await;
    jobs.delete(COLLECTOR, &DeleteParams::background()).await?;
    told.context("the Job of the CronJob did not end")?
}

async fn ended_job(stage: &Stage) -> anyhow::Result<String> {
    let of_job = kube::api::ListParams::default()
        .labels(&format!("batch.kubernetes.io/job-name={COLLECTOR}"));
    loop {
        for pod in pods(stage).list(&of_job).await? {
            let status = serde_json::to_value(&pod.status)?;
            let phase = status["phase"].as_str().unwrap_or_default();
            if !["Succeeded", "Failed"].contains(&phase) {
                continue;
            }
            let log = pods(stage)
                .logs(&pod.name_any(), &LogParams::default())
                .await?;
            ensure!(
                phase == "Succeeded",
                "the Job of the CronJob failed: {status}: {log}"
            );
            return Ok(log);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// What a verb prints; its words on failure.
pub async fn call(stage: &Stage, arguments: &[&str]) -> anyhow::Result<String> {
    verbs::call(&stage.cluster, arguments).await
}

fn pods(stage: &Stage) -> Api<Pod> {
    stage.cluster.api()
}

fn claims(stage: &Stage) -> Api<PersistentVolumeClaim> {
    stage.cluster.api()
}

async fn removed(stage: &Stage, claim: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    while claims(stage).get_opt(claim).await?.is_some() {
        ensure!(begin.elapsed() < LOOK, "claim `{claim}` stays");
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// What a command prints in the shipped pod for dev containers, with this claim.
async fn inside(stage: &Stage, claim: &str, script: &str) -> anyhow::Result<String> {
    let path = stage.cluster.paths.template("dev-container.yaml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    let mut pod: Value = serde_saphyr::from_str(&text)?;
    pod["metadata"]["name"] = json!(LOOKER);
    // What a person puts there, but for the command.
    pod["spec"]["containers"][0]["image"] = json!("alpine:latest");
    pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!(claim);
    let script = format!("cd $CONAN_HOME && {{ {script}; }} >/dev/termination-log");
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-ec", script]);
    let pod: Pod = serde_json::from_value(pod)?;
    let pods = pods(stage);
    pods.create(&PostParams::default(), &pod).await?;
    let found = tokio::time::timeout(LOOK, ended(&pods)).await;
    pods.delete(LOOKER, &DeleteParams::default().grace_period(1))
        .await?;
    while pods.get_opt(LOOKER).await?.is_some() {
        tokio::time::sleep(GLANCE).await;
    }
    found.context("the pod that looks into the volume did not end")?
}

async fn ended(pods: &Api<Pod>) -> anyhow::Result<String> {
    loop {
        let pod = serde_json::to_value(pods.get(LOOKER).await?)?;
        let status = &pod["status"];
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        if let Some(code) = ended["exitCode"].as_i64() {
            let message = ended["message"].as_str().unwrap_or_default().trim();
            ensure!(code == 0, "the pod exited with {code}: {message}");
            return Ok(message.to_owned());
        }
        tokio::time::sleep(GLANCE).await;
    }
}
