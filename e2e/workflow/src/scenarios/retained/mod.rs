//! Failed jobs that are kept: as they were but for their secrets, bounded, and open to people.

mod bounds;
mod copied;
mod ends;
mod entered;
mod room;
mod scrubbed;
mod whole;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Acting, Stage, judge};
use crate::harness::cluster::Role;
use crate::harness::grants;
use crate::harness::runner::{Options, Outcome, Runner};
use crate::runner::guid::guid;

pub use bounds::{forty_at_once, repositories, ten_at_once};
pub use copied::{going_claim, nothing_shared, nothing_shared_but_volumes};
pub use ends::of_itself;
pub use entered::{through_a_terminal, without_a_shell};
pub use room::makes_way;
pub use scrubbed::as_it_was;
pub use whole::{cancelled, volumes};

/// Name of the additional Role.
const ROLE: &str = "arc-hook-retained";
/// How long something that is on its way may take.
const SOON: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(100);

/// The shipped template, the shipped Role, and what is left of them.
struct Keeping<'a> {
    stage: &'a Stage,
    template: Value,
    role: Role,
    before: BTreeSet<String>,
}

/// Acts with kept jobs, which are removed however it ends. The template has these annotations in place of its
/// own, or beside them.
async fn keeping(
    stage: &Stage,
    annotations: &[(&str, &str)],
    act: impl AsyncFnOnce(&Keeping<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    keeping_as(Role::Shipped, stage, annotations, act).await
}

/// The same with runners of another Role.
async fn keeping_as(
    role: Role,
    stage: &Stage,
    annotations: &[(&str, &str)],
    act: impl AsyncFnOnce(&Keeping<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let keeping = Keeping::new(role, stage, annotations).await?;
    let result = act(&keeping).await;
    let removed = keeping.remove().await;
    result?;
    removed
}

impl<'a> Keeping<'a> {
    async fn new(
        role: Role,
        stage: &'a Stage,
        annotations: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let map = stage.cluster.template_map("conan-retain.yaml")?;
        let text = map.data.unwrap_or_default().into_values().next();
        let mut template: Value = serde_saphyr::from_str(&text.context("no template")?)?;
        for (name, value) in annotations {
            template["metadata"]["annotations"][format!("arc-hook/{name}")] = json!(value);
        }
        if template["metadata"]["annotations"]["arc-hook/retain-mode"] == "volumes" {
            let manifests = rbac(&template).await?;
            grants::printed(&stage.cluster, &manifests, ROLE, role).await?;
        } else {
            grants::retained(&stage.cluster, ROLE, role).await?;
        }
        Ok(Self {
            stage,
            template,
            role,
            before: stage.cluster.inventory().await?,
        })
    }

    fn options(&self) -> Options {
        self.options_of(&self.template)
    }

    fn options_of(&self, template: &Value) -> Options {
        Options {
            role: self.role,
            ..Options::of_template(template.to_string())
        }
    }

    /// Runs a job, and takes its runner away as ARC does.
    async fn run(&self, job: &Value) -> anyhow::Result<(Outcome, String)> {
        self.run_with(job, &self.options()).await
    }

    async fn run_with(&self, job: &Value, options: &Options) -> anyhow::Result<(Outcome, String)> {
        self.run_while(job, options, async |_| Ok(())).await
    }

    /// The same, while something happens to its runner.
    async fn run_while(
        &self,
        job: &Value,
        options: &Options,
        meanwhile: impl AsyncFnOnce(&Runner) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Outcome, String)> {
        let runner = Runner::start(&self.stage.cluster, options).await?;
        let (name, pod) = (runner.name.clone(), runner.job_pod());
        let outcome = async {
            runner.submit(&job.to_string())?;
            let mut show = |_: &str| ();
            let finished = runner.finish(&mut show);
            let (happened, outcome) = tokio::join!(meanwhile(&runner), finished);
            happened?;
            outcome
        };
        let outcome = outcome.await;
        self.stage.keep(runner.log());
        runner.discard().await?;
        let outcome = outcome?;
        judge(&outcome)?;
        let pods = self.stage.cluster.api::<Pod>();
        await_that("the runner pod is gone", async || {
            Ok(pods.get_opt(&name).await?.is_none())
        })
        .await?;
        Ok((outcome, pod))
    }

    /// `arc-hook` on this machine, as on someone's laptop.
    fn laptop(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program()?);
        command
            .args(words)
            .args(["--namespace", self.stage.cluster.namespace()])
            .env("KUBECONFIG", self.stage.cluster.paths.kubeconfig())
            .kill_on_drop(true);
        Ok(command)
    }

    /// What it prints; its exit code must be this.
    async fn told(&self, code: i32, words: &[&str]) -> anyhow::Result<String> {
        let output = self.laptop(words)?.output().await?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code),
            "`arc-hook {}` ended with {}: {out}{errors}",
            words.join(" "),
            output.status
        );
        Ok(out)
    }

    /// What a program in a kept job prints.
    async fn inside(&self, id: &str, script: &str) -> anyhow::Result<String> {
        let mut command = self.laptop(&["retained", "enter", id])?;
        let output = command.args(["--", "sh", "-ec", script]).output().await?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{script}: {}: {out}{errors}",
            output.status
        );
        Ok(out)
    }

    /// The kept jobs.
    async fn listed(&self) -> anyhow::Result<Vec<Value>> {
        let text = self
            .told(0, &["retained", "list", "--output", "json"])
            .await?;
        let listed: Value = serde_json::from_str(&text)?;
        Ok(listed["retained"].as_array().cloned().unwrap_or_default())
    }

    /// Deletes what is kept, and the rights.
    async fn remove(self) -> anyhow::Result<()> {
        let cluster = &self.stage.cluster;
        self.told(0, &["retained", "delete", "--all"]).await?;
        let parameters = DeleteParams::default();
        let ledger = cluster.api::<ConfigMap>();
        if !self.before.contains("ConfigMap/arc-hook-retained") {
            let _ = ledger.delete("arc-hook-retained", &parameters).await;
        }
        grants::revoke(cluster, ROLE).await?;
        cluster.await_nothing_left(&self.before).await
    }
}

/// The manifests of the least Role for a template.
async fn rbac(template: &Value) -> anyhow::Result<String> {
    let file = std::env::temp_dir().join(format!("arc-hook-template-{}.yaml", guid()));
    std::fs::write(&file, template.to_string())?;
    let output = Command::new(program()?).arg("rbac").arg(&file).output();
    let output = output.await;
    std::fs::remove_file(&file)?;
    let output = output?;
    ensure!(output.status.success(), "`arc-hook rbac`: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn program() -> anyhow::Result<PathBuf> {
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("this program has no directory")?;
    Ok(programs.join("../dist/arc-hook"))
}

async fn await_that(
    what: &str,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while !holds().await? {
        ensure!(start.elapsed() < SOON, "waited in vain until {what}");
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// A job whose one step fails with exit code 3.
fn failing(name: &str, run: &str) -> Value {
    json!({
        "name": name,
        "container": {"image": "alpine:latest"},
        "steps": [{"run": format!("{run}; exit 3"), "driver": {"exit": 3}}],
        "driver": {"conclusion": "failure"},
    })
}

/// The id in the line that ends the log of a kept job.
fn way_in(outcome: &Outcome) -> anyhow::Result<String> {
    let line = outcome
        .log
        .lines()
        .rev()
        .find(|line| line.contains("arc-hook retained enter "))
        .context("the log does not say how to enter the job")?;
    let words = line.split("retained enter ").nth(1).unwrap_or_default();
    let id = words.split(' ').next().unwrap_or_default();
    Ok(id.to_owned())
}
