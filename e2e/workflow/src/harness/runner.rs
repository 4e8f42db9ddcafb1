//! A runner pod and the job in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use super::audit::{Mark, Request};
use super::cluster::{Cluster, Role, TEMPLATE_MAP};
use super::process;
use crate::report::Report;
use crate::runner::guid::guid;

/// How long a runner pod may take to start.
const START: Duration = Duration::from_mins(2);
const GLANCE: Duration = Duration::from_millis(20);
/// ARC's label of the scale set.
const SCALE_SET: &str = "actions.github.com/scale-set-name";

/// How a runner pod differs from the shipped values.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another hook template.
    pub template: Option<String>,
    /// Another size of the work volume.
    pub work_size: Option<String>,
    /// The node that it must be on, where there are two.
    pub node: Option<String>,
    /// Variables of the runner's container.
    pub variables: Vec<(String, String)>,
    /// Pull secrets of the runner pod.
    pub pull_secrets: Vec<String>,
    /// Another scale set, by name.
    pub scale_set: Option<String>,
    /// Another Role, with the values that go with it.
    pub role: Role,
}

impl Options {
    /// The shipped values with another hook template.
    #[must_use]
    pub fn of_template(template: impl Into<String>) -> Self {
        Self {
            template: Some(template.into()),
            ..Self::default()
        }
    }
}

/// A running runner pod. The driver in it takes one job.
pub struct Runner {
    cluster: Cluster,
    /// Its name.
    pub name: String,
    uid: String,
    pid: u32,
    role: Role,
    before: BTreeSet<String>,
    audit: Option<Mark>,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    /// The driver's report.
    pub report: Report,
    /// The job's log.
    pub log: String,
    /// What the runner's account asked the API server, when that is known.
    pub requests: Option<Vec<Request>>,
}

impl Runner {
    /// Creates the pod and waits until its driver waits for a job.
    pub async fn start(cluster: &Cluster, options: &Options) -> anyhow::Result<Self> {
        let before = cluster.inventory().await?;
        let name = format!("conan-zfs-{}-runner-{}", &guid()[..5], &guid()[..5]);
        let mut values = cluster.values_of(options.role).clone();
        if let Some(size) = &options.work_size {
            values.set_work_size(size);
        }
        if let Some(node) = &options.node {
            values.set_node(node);
        }
        for (variable, value) in &options.variables {
            values.set_variable(variable, value)?;
        }
        for secret in &options.pull_secrets {
            values.add_pull_secret(secret)?;
        }
        let pods = cluster.api::<Pod>();
        if options.template.is_some() {
            values.rename_config_map(TEMPLATE_MAP, &name);
        }
        let mut pod = values.runner_pod(&name, options.role.account())?;
        if let Some(set) = &options.scale_set {
            pod.labels_mut().insert(SCALE_SET.to_owned(), set.clone());
        }
        let pod = pods
            .create(&PostParams::default(), &pod)
            .await
            .context("failed to create the runner pod")?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(template) = &options.template {
            // It goes with the pod that mounts it.
            let map: ConfigMap = serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
                ]},
                "data": {"content": template},
            }))?;
            cluster.apply(&map).await?;
        }
        let mut runner = Self {
            cluster: cluster.clone(),
            name,
            uid,
            pid: 0,
            role: options.role,
            before,
            audit: Mark::here(&cluster.paths.audit_log()),
        };
        if let Err(error) = runner.await_driver().await {
            let _ = runner.cluster.delete_runner(&runner.name).await;
            return Err(error);
        }
        Ok(runner)
    }

    async fn await_driver(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(pid) = process::find(&self.uid, "Runner.Worker")
                && process::root(pid).join("home/runner/jobs").is_dir()
            {
                self.pid = pid;
                return Ok(());
            }
            if start.elapsed() > START {
                let pod = self.cluster.api::<Pod>().get(&self.name).await?;
                let status = serde_json::to_string(&pod.status.unwrap_or_default())?;
                bail!("the runner pod did not start within {START:?}: {status}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// A path of the runner container, as this machine can reach it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        process::root(self.pid).join(path.trim_start_matches('/'))
    }

    /// Hands over a job.
    pub fn submit(&self, job: &str) -> anyhow::Result<()> {
        let jobs = self.path("/home/runner/jobs");
        fs::write(jobs.join("job.yaml.new"), job)
            .and_then(|()| fs::rename(jobs.join("job.yaml.new"), jobs.join("job.yaml")))
            .context("failed to hand the job to the runner pod")
    }

    /// The job's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path("/home/runner/jobs/job.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log has the line `text`.
    pub async fn await_log(&self, text: &str) -> anyhow::Result<()> {
        loop {
            if self.log().lines().any(|line| line == text) {
                return Ok(());
            }
            if self.path("/home/runner/jobs/report.json").exists() {
                bail!("the job ended without the line `{text}`");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The job pod's name.
    #[must_use]
    pub fn job_pod(&self) -> String {
        let head = &self.name[..self.name.len().min(54)];
        format!("{head}-workflow")
    }

    /// Waits for the end of the job; `show` gets the log as it grows.
    pub async fn finish(&self, show: &mut dyn FnMut(&str)) -> anyhow::Result<Outcome> {
        let report = self.path("/home/runner/jobs/report.json");
        let mut shown = 0;
        let text = loop {
            let text = fs::read_to_string(&report).ok();
            let log = self.log();
            if let Some(more) = log.get(shown..) {
                show(more);
                shown = log.len();
            }
            if let Some(text) = text {
                break text;
            }
            if !process::root(self.pid).join("home").is_dir() {
                bail!("the runner's driver ended without a report");
            }
            tokio::time::sleep(GLANCE).await;
        };
        let requests = self
            .audit
            .as_ref()
            .and_then(|mark| mark.requests_of(&self.cluster.user(self.role)).ok());
        Ok(Outcome {
            report: serde_json::from_str(&text).context("the driver's report is malformed")?,
            log: self.log(),
            requests,
        })
    }

    /// Deletes what ARC would, and waits until nothing is left.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.cluster.delete_runner(&self.name).await?;
        self.cluster.await_nothing_left(&self.before).await
    }

    /// Deletes what ARC would, beside other runners: what is left of all of them is looked for
    /// when they are done.
    pub async fn discard(self) -> anyhow::Result<()> {
        self.cluster.delete_runner(&self.name).await
    }

    /// Deletes the runner pod and nothing else: what belongs to it must
    /// follow by itself.
    pub async fn vanish(self) -> anyhow::Result<()> {
        let now = DeleteParams::default().grace_period(1);
        self.cluster.api::<Pod>().delete(&self.name, &now).await?;
        self.cluster.await_nothing_left(&self.before).await
    }

    /// The runner pod as the API server has it.
    pub async fn pod(&self) -> anyhow::Result<Pod> {
        Ok(self.cluster.api::<Pod>().get(&self.name).await?)
    }

    /// Pods of the job, by the label they carry.
    pub async fn job_pods(&self) -> anyhow::Result<Vec<Pod>> {
        let linked = kube::api::ListParams::default().labels(&format!("runner-pod={}", self.name));
        let pods = self.cluster.api::<Pod>().list(&linked).await?;
        Ok(pods
            .into_iter()
            .filter(|pod| pod.name_any() != self.name)
            .collect())
    }
}
