//! The hook, called as the runner calls it, by an agent in a runner pod.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::agent::{Measured, Order};
use super::seat::Seat;
use crate::harness::cluster::{Cluster, Role};
use crate::harness::process;
use crate::harness::runner::{Options, Runner};
use crate::job::Job;
use crate::runner::environment;
use crate::runner::layout::Layout;
use crate::runner::request::{HookContainer, Request, ScriptStep};

/// The user of the runner's image.
pub const USER: u32 = 1001;
/// Image of the job container and of the container action.
pub const IMAGE: &str = "alpine:latest";

/// No caches and no volumes of its own: what is measured is the hook's.
const TEMPLATE: &str = "metadata:\n  annotations:\n    arc-hook/run-as: runner\n";
const JOB: &str = "{name: bench, container: {image: 'alpine:latest'}}";
const SCRIPT: &str = "bench.sh";
const FILE_COMMANDS: [(&str, &str); 5] = [
    ("GITHUB_ENV", "set_env_bench"),
    ("GITHUB_OUTPUT", "set_output_bench"),
    ("GITHUB_PATH", "add_path_bench"),
    ("GITHUB_STATE", "save_state_bench"),
    ("GITHUB_STEP_SUMMARY", "step_summary_bench"),
];

/// A runner pod, and an agent that calls the hook in it.
pub struct Hook {
    /// The pod.
    pub runner: Runner,
    /// The agent.
    pub seat: Seat,
    layout: Layout,
    job: Job,
    env: BTreeMap<String, String>,
    bash: String,
}

impl Hook {
    /// Starts a runner pod with these rights and lays it out as the runner would.
    pub async fn start(cluster: &Cluster, role: Role) -> anyhow::Result<Self> {
        let options = Options {
            template: Some(TEMPLATE.to_owned()),
            // A log of any length, and what the floors leave until they are removed.
            work_size: Some("4Gi".to_owned()),
            role,
            ..Options::default()
        };
        Self::with(cluster, &options).await
    }

    /// The same in a runner pod of another kind.
    pub async fn with(cluster: &Cluster, options: &Options) -> anyhow::Result<Self> {
        let runner = Runner::start(cluster, options).await?;
        match Self::sit_down(&runner).await {
            Ok((seat, layout, job)) => {
                let env = hook_environment(&seat, &layout, &job, &runner.name);
                let bash = ["/usr/bin/bash", "/bin/bash"]
                    .into_iter()
                    .find(|path| seat.path(path).exists())
                    .unwrap_or("bash");
                Ok(Self {
                    runner,
                    seat,
                    layout,
                    job,
                    env,
                    bash: bash.to_owned(),
                })
            }
            Err(error) => {
                let _ = runner.remove().await;
                Err(error)
            }
        }
    }

    async fn sit_down(runner: &Runner) -> anyhow::Result<(Seat, Layout, Job)> {
        let pod = runner.pod().await?;
        let uid = pod.metadata.uid.unwrap_or_default();
        let pid = process::find(&uid, "Runner.Worker").context("the runner's driver is gone")?;
        let mut seat = Seat::take(pid, USER)?;
        let job = Job::parse(JOB)?;
        let layout = Layout::new(Path::new("/home/runner"), job.repository_name());
        let directories = [
            &layout.actions,
            &layout.tools,
            &layout.home,
            &layout.workflow,
            &layout.file_commands,
            &layout.responses,
            &layout.workspace,
        ];
        let mut argv = vec!["/usr/bin/mkdir".to_owned(), "-p".to_owned()];
        argv.extend(directories.iter().map(|path| path.display().to_string()));
        seat.succeed(&Order {
            argv,
            ..Order::default()
        })
        .await?;
        seat.write(layout.workflow.join("event.json"), "{}")?;
        for (_, file) in FILE_COMMANDS {
            seat.write(layout.file_commands.join(file), "")?;
        }
        Ok((seat, layout, job))
    }

    /// `prepare_job`, with services of these images.
    pub async fn prepare_job(&mut self, services: &[&str]) -> anyhow::Result<Measured> {
        let container = self.job.container.as_ref();
        let container = container.map(|container| HookContainer::job(container, &self.layout));
        let services = services.iter().map(|&image| HookContainer {
            image: Some(image.to_owned()),
            ..HookContainer::default()
        });
        let services: Vec<HookContainer> = services.collect();
        let args = json!({"container": container, "services": services});
        self.call("prepare_job", &args, 0).await
    }

    /// `run_script_step`; the log is left unread for so long at first.
    pub async fn run_script_step(
        &mut self,
        script: &str,
        stall_ms: u64,
    ) -> anyhow::Result<Measured> {
        self.seat.write(self.layout.temp.join(SCRIPT), script)?;
        let args = serde_json::to_value(ScriptStep {
            entry_point: "sh".to_owned(),
            entry_point_args: vec!["-e".to_owned(), format!("/__w/_temp/{SCRIPT}")],
            environment_variables: environment::github(&self.job, &self.layout),
            prepend_path: Vec::new(),
            working_directory: "/__w/demo/demo".to_owned(),
        })?;
        self.call("run_script_step", &args, stall_ms).await
    }

    /// `run_container_step` of a program in [`IMAGE`].
    pub async fn run_container_step(&mut self, program: &str) -> anyhow::Result<Measured> {
        let action = HookContainer {
            image: Some(IMAGE.to_owned()),
            entry_point: Some(program.to_owned()),
            environment_variables: environment::github(&self.job, &self.layout),
            ..HookContainer::action(&self.layout)
        };
        let args = serde_json::to_value(action)?;
        self.call("run_container_step", &args, 0).await
    }

    /// `cleanup_job`.
    pub async fn cleanup_job(&mut self) -> anyhow::Result<Measured> {
        self.call("cleanup_job", &json!({}), 0).await
    }

    /// What the runner starts for each call, with no hook behind it.
    pub async fn bash(&mut self) -> anyhow::Result<Measured> {
        let argv = [&self.bash, "-e", "-c", "exec /usr/bin/true"];
        self.seat
            .succeed(&Order {
                argv: argv.map(str::to_owned).to_vec(),
                env: self.env.clone(),
                ..Order::default()
            })
            .await
    }

    async fn call(
        &mut self,
        command: &str,
        args: &Value,
        stall_ms: u64,
    ) -> anyhow::Result<Measured> {
        let response = self.layout.responses.join("bench.json");
        self.seat.write(&response, "")?;
        let mut input = serde_json::to_string(&Request {
            command,
            response_file: &response.to_string_lossy(),
            args,
            state: &None,
        })?;
        input.push('\n');
        let hook = self
            .env
            .get("ACTIONS_RUNNER_CONTAINER_HOOKS")
            .context("the runner's container has no hook")?;
        let order = Order {
            argv: vec![self.bash.clone(), "-e".to_owned(), hook.clone()],
            env: self.env.clone(),
            directory: self.layout.workspace.display().to_string(),
            input,
            stall_ms,
        };
        self.seat
            .succeed(&order)
            .await
            .with_context(|| format!("failed to call {command}"))
    }

    /// Where the runner's work volume is mounted, as this machine can reach it.
    #[must_use]
    pub fn work(&self) -> std::path::PathBuf {
        self.seat.path(&self.layout.work)
    }

    /// Names of the trees of the running job's pods, of which there is one or more.
    pub fn nonces(&self) -> anyhow::Result<Vec<String>> {
        let root = self.work().join(".arc-hook");
        let entries =
            fs::read_dir(&root).with_context(|| format!("failed to list `{}`", root.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.to_str().map(str::to_owned))
            .collect())
    }
}

fn hook_environment(
    seat: &Seat,
    layout: &Layout,
    job: &Job,
    name: &str,
) -> BTreeMap<String, String> {
    let mut env = seat.env.clone();
    env.extend(environment::github(job, layout));
    env.extend(environment::runner(layout));
    for (variable, file) in FILE_COMMANDS {
        let path = layout.file_commands.join(file).display().to_string();
        env.insert(variable.to_owned(), path);
    }
    let event = layout.workflow.join("event.json").display().to_string();
    let others = [
        ("GITHUB_EVENT_PATH", event.as_str()),
        ("GITHUB_ACTIONS", "true"),
        ("RUNNER_NAME", name),
        ("RUNNER_TRACKING_ID", "github_bench"),
    ];
    env.extend(others.map(|(name, value)| (name.to_owned(), value.to_owned())));
    env
}
