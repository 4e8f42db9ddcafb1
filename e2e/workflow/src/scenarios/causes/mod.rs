//! Every cause of failure that one node allows, provoked, and what the job's log says of it.

mod table;
mod webhook;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::Kubeconfig;
use serde_json::json;

use super::{Acting, Stage};
use crate::harness::runner::{Options, Outcome, Runner};
use crate::report::Call;
use table::{CAUSES, Cause, Deed, Told};
use webhook::Webhook;

/// So many jobs at once: most of the time they wait.
const AT_ONCE: usize = 7;
const LEVEL: &str = "pod-security.kubernetes.io/enforce";
const GLANCE: Duration = Duration::from_millis(50);
/// How long one trial may take.
const TRIAL: Duration = Duration::from_mins(2);

/// Provokes them all.
pub fn explained(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let before = stage.cluster.inventory().await?;
        let webhook = Webhook::start(&stage.cluster.paths).await?;
        let planted = Planted::plant(&stage, webhook.port)?;
        let cpu = cpu_of_the_node(&stage).await?;
        let trials = CAUSES
            .iter()
            .flat_map(|cause| cause.told.iter().map(move |told| (cause, told)));
        let trials = trials.map(|(cause, told)| {
            let stage = &stage;
            async move {
                let result = tokio::time::timeout(TRIAL, trial(stage, cause, told, cpu))
                    .await
                    .unwrap_or_else(|_| bail!("not done after {TRIAL:?}"));
                result.with_context(|| format!("{}, {:?}", cause.name, told.role))
            }
        });
        let results: Vec<anyhow::Result<String>> = futures_util::stream::iter(trials)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        drop(planted);
        let mut said = String::new();
        let mut failures = Vec::new();
        for result in results {
            match result {
                Ok(text) => said += &text,
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        // For people who want to judge the words.
        let path = stage.cluster.paths.state.join("log/causes.txt");
        std::fs::write(&path, said)
            .with_context(|| format!("failed to write `{}`", path.display()))?;
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        stage.cluster.await_nothing_left(&before).await
    })
}

/// Runs the job of a cause, and returns what was said.
async fn trial(stage: &Stage, cause: &Cause, told: &Told, cpu: u64) -> anyhow::Result<String> {
    let timeout = cause.timeout.map(|seconds| {
        let name = "ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS";
        (name.to_owned(), seconds.to_string())
    });
    let options = Options {
        template: Some(template(cause, cpu)),
        role: told.role,
        variables: timeout.into_iter().collect(),
        ..Options::default()
    };
    let runner = Runner::start(&stage.cluster, &options).await?;
    let outcome = async {
        runner.submit(&job(cause)?)?;
        act(stage, cause.deed, &runner, cpu).await?;
        runner.finish(&mut |_| ()).await
    };
    let outcome = outcome.await;
    let log = runner.log();
    runner.discard().await?;
    judge(cause, told, &outcome?).map_err(|error| {
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n  | ");
        error.context(format!("the log ends in\n  | {tail}\n"))
    })
}

fn template(cause: &Cause, cpu: u64) -> String {
    let spec = cause
        .template
        .replace("ALL_CPU", &format!("{cpu}m"))
        .replace("MOST_CPU", &most(cpu));
    format!(
        "metadata: {{labels: {{cause: {}}}, annotations: {{arc-hook/run-as: runner}}}}\nspec: {spec}\n",
        cause.name
    )
}

/// More than half, so that only one pod of it has room.
fn most(cpu: u64) -> String {
    format!("{}m", cpu / 2 + 100)
}

/// The job's description: what fails is judged here, not by the driver.
fn job(cause: &Cause) -> anyhow::Result<String> {
    let mut job: serde_json::Value = serde_saphyr::from_str(cause.job)?;
    job["name"] = json!(cause.name);
    job["driver"] = json!({"any-conclusion": true, "prepare-job": {"any-exit": true}});
    for step in job["steps"].as_array_mut().into_iter().flatten() {
        step["driver"] = json!({"any-exit": true});
    }
    Ok(job.to_string())
}

async fn act(stage: &Stage, deed: Deed, runner: &Runner, cpu: u64) -> anyhow::Result<()> {
    let pods = stage.cluster.api::<Pod>();
    let pod = runner.job_pod();
    match deed {
        Deed::None => {}
        Deed::DeleteAwaited => {
            while pods.get_opt(&pod).await?.is_none() {
                tokio::time::sleep(GLANCE).await;
            }
            // The hook has seen it by then, or sees that it is gone.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = DeleteParams::default().grace_period(0);
            pods.delete(&pod, &now).await?;
        }
        Deed::Evict => {
            runner.await_log("ready").await?;
            pods.evict(&pod, &kube::api::EvictParams::default()).await?;
        }
        Deed::Preempt => {
            runner.await_log("ready").await?;
            let owner = runner.pod().await?.metadata;
            let preemptor: Pod = serde_json::from_value(json!({
                "metadata": {
                    "name": format!("{}-preemptor", runner.name),
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}
                    ],
                },
                "spec": {
                    "priorityClassName": "cause-preemptor",
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "main", "image": "alpine:latest", "command": ["sleep", "600"],
                        "resources": {"requests": {"cpu": most(cpu)}},
                    }],
                },
            }))?;
            pods.create(&PostParams::default(), &preemptor).await?;
        }
    }
    Ok(())
}

/// One error with a title, with the right words, in time.
fn judge(cause: &Cause, told: &Told, outcome: &Outcome) -> anyhow::Result<String> {
    let calls = &outcome.report.calls;
    let failed: Vec<&Call> = calls.iter().filter(|call| call.exit != 0).collect();
    let [call] = failed[..] else {
        bail!(
            "{} calls of the hook failed, one was expected",
            failed.len()
        );
    };
    let titled: Vec<&String> = call
        .annotations
        .iter()
        .filter(|text| text.starts_with("error title="))
        .collect();
    let [error] = titled[..] else {
        bail!("not one error with a title: {:?}", call.annotations);
    };
    let head = format!("error title={}: ", told.title);
    ensure!(
        error.starts_with(&head),
        "expected `{head}`, found `{error}`"
    );
    for words in told.words {
        ensure!(error.contains(words), "`{words}` is missing in `{error}`");
    }
    for (text, least) in cause.lines {
        let found = outcome
            .log
            .lines()
            .filter(|line| line.contains(text))
            .count();
        ensure!(
            found >= *least,
            "{found} lines with `{text}`, {least} were expected"
        );
    }
    let warnings = call
        .annotations
        .iter()
        .filter(|text| text.starts_with("warning"));
    ensure!(warnings.count() == 0, "warnings: {:?}", call.annotations);
    let seconds = call.wall_ms / 1000.0;
    let most = f64::from(cause.within);
    ensure!(
        seconds < most,
        "{seconds:.1} s, at most {most} were expected"
    );
    ensure!(
        outcome.report.failures.is_empty(),
        "{:?}",
        outcome.report.failures
    );
    let mut said = String::new();
    let (name, role, command) = (cause.name, told.role, &call.command);
    writeln!(
        said,
        "{name} ({role:?}, {command}, {seconds:.1} s)\n  {error}"
    )?;
    Ok(said)
}

/// Allocatable processors of the node, in thousandths.
async fn cpu_of_the_node(stage: &Stage) -> anyhow::Result<u64> {
    let nodes: Api<Node> = Api::all(stage.cluster.client.clone());
    let nodes = nodes.list(&kube::api::ListParams::default()).await?;
    let status = nodes.items.first().and_then(|node| node.status.as_ref());
    let amount = status
        .and_then(|status| status.allocatable.as_ref()?.get("cpu"))
        .context("the node has no processors")?;
    let text = amount.0.as_str();
    Ok(match text.strip_suffix('m') {
        Some(milli) => milli.parse()?,
        None => text.parse::<u64>()? * 1000,
    })
}

/// What `e2e/causes.yaml` makes; removed when dropped, whatever happened meanwhile.
struct Planted {
    kubectl: PathBuf,
    file: PathBuf,
    namespace: String,
}

impl Planted {
    fn plant(stage: &Stage, port: u16) -> anyhow::Result<Self> {
        let paths = &stage.cluster.paths;
        let config = Kubeconfig::read_from(paths.kubeconfig())?;
        let cluster = config
            .clusters
            .first()
            .and_then(|named| named.cluster.as_ref());
        let authority = cluster
            .and_then(|cluster| cluster.certificate_authority_data.clone())
            .context("the kubeconfig has no certificate authority")?;
        let text = std::fs::read_to_string(paths.script("causes.yaml"))?
            .replace("DENYING_PORT", &port.to_string())
            .replace("CA_BUNDLE", &authority);
        let planted = Self {
            kubectl: paths.script("kubectl"),
            file: paths.state.join("causes.yaml"),
            namespace: stage.cluster.namespace().to_owned(),
        };
        std::fs::write(&planted.file, text)
            .with_context(|| format!("failed to write `{}`", planted.file.display()))?;
        let file = planted.file.display().to_string();
        let level = format!("{LEVEL}=baseline");
        planted.run(&["apply", "-f", &file])?;
        planted.run(&[
            "label",
            "--overwrite",
            "namespace",
            &planted.namespace,
            &level,
        ])?;
        Ok(planted)
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(&self.kubectl)
            .args(["-n", &self.namespace])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("failed to run `{}`", self.kubectl.display()))?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {error}");
        Ok(())
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let file = self.file.display().to_string();
        // Later scenarios would fail for a reason that is not theirs; an error cannot be told here.
        let _ = self.run(&["label", "namespace", &self.namespace, &format!("{LEVEL}-")]);
        let _ = self.run(&["delete", "--ignore-not-found", "--wait=false", "-f", &file]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;

    #[test]
    fn every_cause_has_a_job_a_template_and_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for cause in CAUSES {
            assert!(names.insert(cause.name), "{}", cause.name);
            assert!(!cause.told.is_empty(), "{}", cause.name);
            Job::parse(&job(cause).unwrap()).unwrap();
            let template: serde_json::Value =
                serde_saphyr::from_str(&template(cause, 2000)).unwrap();
            assert_eq!(template["metadata"]["labels"]["cause"], cause.name);
        }
    }

    #[test]
    fn the_node_s_processors_stand_in_the_template() {
        let preempted = CAUSES.iter().find(|cause| cause.name == "preempted");
        let text = template(preempted.unwrap(), 2000);
        assert!(text.contains("cpu: 1100m"), "{text}");
    }
}
