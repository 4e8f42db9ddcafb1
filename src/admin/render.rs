//! `arc-hook render`: what a hook template comes to, before any job does.
//!
//! The pod is built by the functions that build it in the hook ([`pod::job`],
//! [`pod::container_step`]), and judged by the API server as the hook sends it. Only what a runner
//! would bring is stated here instead: its pod, its directories, its user, and the names that are
//! random in a real run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::{Map, Value};
use similar::TextDiff;

use super::{print, read, template};
use crate::cluster;
use crate::config::Config;
use crate::hook::api::Api;
use crate::hook::surroundings::Surroundings;
use crate::pod::{self, Identity, JobFacts, Plan, RunnerPod, Template, WorkClaim};
use crate::protocol::{Command, Request};
use crate::spool::Nonce;

/// In place of what is random in a real run.
const NONCE: &str = "00000000000000000000000000000000";
/// The same of the job that an action belongs to.
const NONCE_OF_JOB: &str = "11111111111111111111111111111111";
/// In place of the runner pod's uid.
const UID: &str = "00000000-0000-0000-0000-000000000000";
/// In place of what is secret.
const MASK: &str = "***";
/// How long an API server that does not answer is asked.
const PATIENCE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  arc-hook render hook-templates/minimal.yaml
  arc-hook render --example action hook-templates/conan-zfs.yaml
  arc-hook render --diff hook-templates/restricted.yaml hook-templates/minimal.yaml";

/// Prints the pod and the Secrets that a hook template comes to
///
/// Needs no runner: what one would bring is made up, or given by options. Secret values are masked,
/// and names that are random in a real run are the same each time. Warnings go to standard error.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Render {
    /// The hook template, or the manifest of a `ConfigMap` with it under its only key; `-` reads
    /// standard input
    #[arg(env = "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE")]
    template: Option<PathBuf>,

    /// A file with the runner's JSON for `prepare_job` or `run_container_step`
    #[arg(long, value_name = "FILE", conflicts_with = "example")]
    request: Option<PathBuf>,

    /// What is asked for without such a file
    #[arg(long, value_enum, default_value_t)]
    example: Example,

    /// Prints a unified diff instead: what another template changes
    #[arg(long, value_name = "OTHER_TEMPLATE", conflicts_with = "server")]
    diff: Option<PathBuf>,

    /// Has the API server judge the result in a strict dry run; nothing is created
    #[arg(long)]
    server: bool,

    /// Namespace of the dry run; otherwise the kubeconfig's
    #[arg(
        long,
        short,
        value_name = "NAME",
        env = "ACTIONS_RUNNER_KUBERNETES_NAMESPACE"
    )]
    namespace: Option<String>,

    #[command(flatten)]
    runner: Runner,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Example {
    /// A job container and a service
    #[default]
    Job,
    /// A container action of a job
    Action,
}

impl Example {
    fn request(self) -> &'static str {
        match self {
            Self::Job => include_str!("examples/job.json"),
            Self::Action => include_str!("examples/action.json"),
        }
    }
}

/// What the hook learns from its surroundings.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for the runner that is made up")]
struct Runner {
    /// Name of its pod
    #[arg(
        long,
        value_name = "NAME",
        env = "ACTIONS_RUNNER_POD_NAME",
        default_value = "example-runner"
    )]
    pod_name: String,

    /// The node it is on
    #[arg(long, value_name = "NAME", default_value = "example-node")]
    node: String,

    /// How job pods are tied to that node: `required`, `preferred` or `none`
    #[arg(
        long,
        value_name = "HOW",
        env = "ARC_HOOK_AFFINITY",
        default_value = "required"
    )]
    affinity: String,

    /// Claim of its work volume [default: POD_NAME-work]
    #[arg(long, value_name = "NAME", env = "ACTIONS_RUNNER_CLAIM_NAME")]
    work_claim: Option<String>,

    /// Its work directory
    #[arg(long, value_name = "DIR", default_value = "/home/runner/_work")]
    work: PathBuf,

    /// The repository's directory, below the work directory and below itself
    #[arg(long, value_name = "NAME", default_value = "example")]
    repository: String,

    /// Its user and group
    #[arg(long, value_name = "UID:GID", default_value = "1001:1001")]
    user: UserAndGroup,

    /// A pull secret of its pod; may be given more than once
    #[arg(long, value_name = "NAME")]
    pull_secret: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct UserAndGroup(Identity);

impl FromStr for UserAndGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':');
        numbers
            .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)))
            .map(|(uid, gid)| Self(Identity { uid, gid }))
            .ok_or_else(|| "write two numbers, as 1001:1001".to_owned())
    }
}

impl Runner {
    /// As the hook would read it from its environment.
    fn config(&self, template: Option<&Path>) -> anyhow::Result<Config> {
        let work = self.work.display();
        let repository = &self.repository;
        let config = Config::read(|name| match name {
            "ACTIONS_RUNNER_POD_NAME" => Some(self.pod_name.clone()),
            "ACTIONS_RUNNER_CLAIM_NAME" => self.work_claim.clone(),
            "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE" => {
                template.map(|path| path.display().to_string())
            }
            "ARC_HOOK_AFFINITY" => Some(self.affinity.clone()),
            "RUNNER_TEMP" => Some(format!("{work}/_temp")),
            "GITHUB_WORKSPACE" => Some(format!("{work}/{repository}/{repository}")),
            _ => None,
        })?;
        Ok(config)
    }

    /// As the hook would find it in the cluster.
    fn pod(&self) -> RunnerPod {
        let claim = self.work_claim.clone();
        RunnerPod {
            scale_set: None,
            mounts_images: false,
            name: self.pod_name.clone(),
            uid: UID.to_owned(),
            node: Some(self.node.clone()),
            image: None,
            image_digest: None,
            pull_secrets: self.pull_secret.clone(),
            work_claim: Some(WorkClaim {
                claim: claim.unwrap_or_else(|| format!("{}-work", self.pod_name)),
                sub_path: String::new(),
            }),
        }
    }
}

impl Render {
    /// Prints what was asked for.
    ///
    /// # Errors
    /// A file cannot be used, no pod can be built from it, or the API server refuses it.
    pub fn run(&self) -> anyhow::Result<()> {
        let request = self.request()?;
        let one = Rendering::of(self, self.template.as_deref(), &request)?;
        one.warn();
        if let Some(path) = &self.diff {
            let other = Rendering::of(self, Some(path), &request)?;
            other.warn();
            return print(
                &TextDiff::from_lines(&one.text()?, &other.text()?)
                    .unified_diff()
                    .header(&one.name, &other.name)
                    .to_string(),
            );
        }
        print(&one.text()?)?;
        if self.server {
            one.judge(self.namespace.as_deref())?;
        }
        Ok(())
    }

    fn request(&self) -> anyhow::Result<Command> {
        let Some(path) = &self.request else {
            return Ok(Request::parse(self.example.request())?.command);
        };
        let used = || format!("use the request `{}`", path.display());
        let text = read(path).with_context(used)?;
        Ok(Request::parse(&text).with_context(used)?.command)
    }
}

/// A template and what it comes to.
struct Rendering {
    /// For people: the file, or that there is none.
    name: String,
    config: Config,
    template: Template,
    runner: RunnerPod,
    identity: Identity,
    nonce: Nonce,
    plan: Plan,
}

impl Rendering {
    fn of(render: &Render, path: Option<&Path>, request: &Command) -> anyhow::Result<Self> {
        let (name, template) = match path {
            None => ("no template".to_owned(), Template::none()),
            Some(path) => (path.display().to_string(), template(path)?),
        };
        let nonce = Nonce::try_from(NONCE.to_owned()).map_err(|error| anyhow!(error))?;
        let mut rendering = Self {
            name,
            config: render.runner.config(path)?,
            template,
            runner: render.runner.pod(),
            identity: render.runner.user.0,
            nonce,
            plan: Plan::default(),
        };
        rendering.plan = rendering
            .plan(request)
            .with_context(|| format!("build the pod with `{}`", rendering.name))?;
        Ok(rendering)
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            config: &self.config,
            runner: Some(self.runner.clone()),
            template: &self.template,
            identity: self.identity,
            program: PathBuf::from("/home/runner/arc-hook/arc-hook"),
        }
    }

    fn plan(&self, request: &Command) -> anyhow::Result<Plan> {
        let around = self.surroundings();
        let inputs = around.inputs(&self.nonce);
        match request {
            Command::PrepareJob(job) => Ok(pod::job(&inputs, job)?),
            Command::RunContainerStep(action) => {
                let job = JobFacts {
                    nonce: NONCE_OF_JOB.to_owned(),
                    user: self.identity,
                    address: None,
                    host_names: Vec::new(),
                };
                let mut plan = pod::container_step(&inputs, action, Some(&job))?;
                // For an action of a job these were said when the job was prepared.
                plan.warnings = pod::container_step(&inputs, action, None)?.warnings;
                Ok(plan)
            }
            Command::RunScriptStep(_) | Command::CleanupJob => bail!(
                "the request makes no pod: give one for `prepare_job` or `run_container_step`"
            ),
        }
    }

    fn warn(&self) {
        for warning in &self.plan.warnings {
            eprintln!("warning: {}: {warning}", self.name);
        }
    }

    /// The objects in the order of their creation.
    fn text(&self) -> anyhow::Result<String> {
        let mut objects = Vec::new();
        for secret in &self.plan.secrets {
            let mut secret = cluster::manifest(secret, self.nonce.as_str())?;
            mask(&mut secret);
            objects.push(secret);
        }
        objects.push(cluster::manifest(&self.plan.pod, self.nonce.as_str())?);
        let objects = serde_saphyr::to_string_multiple(&objects).context("write YAML")?;
        let mut text = String::new();
        if !self.plan.companion.is_empty() {
            let argv = serde_json::to_string(&self.plan.companion).context("write JSON")?;
            writeln!(
                text,
                "# Runs beside the steps, in the container `job`: {argv}"
            )?;
        }
        text.push_str(&objects);
        Ok(text)
    }

    /// Has the API server judge the objects, and says what it says.
    fn judge(&self, namespace: Option<&str>) -> anyhow::Result<()> {
        let api = Api::connect(namespace)?;
        // Standard output holds the objects.
        let cluster = api.cluster.patient(PATIENCE).telling(|words| {
            eprintln!("{words}");
        });
        let nonce = self.nonce.as_str();
        api.run(async {
            for secret in &self.plan.secrets {
                cluster.dry_run::<Secret>(secret, nonce).await?;
            }
            cluster
                .dry_run::<Pod>(&self.plan.pod, nonce)
                .await
                .map_err(|error| self.surroundings().blame(&self.plan, error))
        })?;
        eprintln!(
            "The API server accepts pod `{}` and its Secrets ({}) in namespace `{}`",
            self.plan.name,
            self.plan.secrets.len(),
            cluster.namespace()
        );
        Ok(())
    }
}

fn mask(secret: &mut Value) {
    for key in ["data", "stringData"] {
        let map = secret.get_mut(key).and_then(Value::as_object_mut);
        for value in map.into_iter().flat_map(Map::values_mut) {
            *value = MASK.into();
        }
    }
}
