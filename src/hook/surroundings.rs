//! What pods are built from, besides the request; and what must be there before they are.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;

use super::output;
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::pod::{Identity, Inputs, Plan, RunnerPod, Template, User, externals};
use crate::spool::directory::Directory;
use crate::spool::{JobTree, Nonce, StepRequest};

/// How long it may take to learn what the node is, without which a job starts as well.
const NODE: Duration = Duration::from_secs(2);

/// Everything that a pod depends on.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The hook's configuration.
    pub config: &'a Config,
    /// The runner's own pod, if this process runs in one.
    pub runner: Option<RunnerPod>,
    /// The platform engineer's template.
    pub template: &'a Template,
    /// User and group of this process.
    pub identity: Identity,
    /// This program.
    pub program: PathBuf,
}

impl<'a> Surroundings<'a> {
    /// Reads the runner's own pod.
    pub async fn look(
        cluster: &Cluster,
        config: &'a Config,
        template: &'a Template,
    ) -> anyhow::Result<Self> {
        let found: Option<Pod> = cluster.get(&config.pod_name).await?;
        if found.is_none() {
            output::warning(&format!(
                "there is no pod `{}` in namespace `{}`: this hook runs outside of a pod, so its \
                 pods have no owner that they would go with, and no node that they must be on",
                config.pod_name,
                cluster.namespace()
            ));
        }
        Ok(Self {
            config,
            runner: found.map(|pod| RunnerPod::from_pod(&pod, config)),
            template,
            identity: Identity {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            },
            program: std::env::current_exe().context("find this program itself")?,
        })
    }

    /// Learns whether the runner's node can mount images, as far as one may know: nodes are no namespace's,
    /// and most accounts may not see them. That is asked anew for each job, in one request, since what a
    /// runner remembers goes with its pod; and only where the answer counts.
    pub async fn look_at_node(&mut self, cluster: &Cluster) {
        let (config, Some(runner)) = (self.config, self.runner.as_mut()) else {
            return;
        };
        if !externals::depend_on_node(config, runner) {
            return;
        }
        if let Some(name) = &runner.node {
            let node = cluster.at_most(NODE).node(name).await.ok().flatten();
            let info = node.and_then(|node| node.status?.node_info);
            runner.mounts_images = info.is_some_and(|info| externals::can_mount(&info));
        }
    }

    /// The arguments of the pure functions that build pods.
    #[must_use]
    pub fn inputs<'i>(&'i self, nonce: &'i Nonce) -> Inputs<'i> {
        Inputs {
            config: self.config,
            runner: self.runner.as_ref(),
            template: self.template,
            nonce: nonce.as_str(),
            identity: self.identity,
            program: &self.program,
        }
    }

    /// Whether the container may run as another user than this process.
    #[must_use]
    pub fn is_foreign(&self, user: User) -> bool {
        match user {
            User::Runner(identity) => identity.uid != self.identity.uid,
            User::Fixed { uid, .. } => uid != self.identity.uid,
            // Known only when it runs.
            User::Image => true,
        }
    }

    /// What the API server said of the pod, with the places in the hook template that it is about.
    #[must_use]
    pub fn blame(&self, plan: &Plan, error: ClusterError) -> anyhow::Error {
        let places: Vec<String> = self
            .template
            .blamed(&plan.pod, &error.to_string())
            .into_iter()
            .map(|(field, at)| format!("{at} (`{field}`)"))
            .collect();
        match &self.config.template {
            Some(path) if !places.is_empty() => anyhow::Error::from(error).context(format!(
                "use the hook template `{}`, {}",
                path.display(),
                places.join(", ")
            )),
            _ => error.into(),
        }
    }

    /// Makes the pod's directories on the work volume.
    pub fn make_tree(
        &self,
        plan: &Plan,
        nonce: &Nonce,
        lender: Option<&JobTree>,
    ) -> anyhow::Result<JobTree> {
        let foreign_user = self.is_foreign(plan.user);
        let tree = JobTree::create(&self.config.paths, nonce, foreign_user, lender)
            .context("make the pod's directories on the work volume")?;
        self.make_directories(plan, foreign_user)?;
        if let Some(entry) = self.entry(plan) {
            tree.set_entry(&entry)?;
        }
        Ok(tree)
    }

    /// The template's command, which runs beside the steps.
    #[must_use]
    pub fn entry(&self, plan: &Plan) -> Option<StepRequest> {
        (!plan.companion.is_empty()).then(|| StepRequest {
            argv: plan.companion.clone(),
            environment: plan.environment.clone(),
            path: Vec::new(),
            directory: plan.working_directory.clone(),
            alone: 0,
        })
    }

    /// Makes the directories of the workflow's own `volumes:`. No part of them may be a link, since
    /// the kubelet would follow it.
    fn make_directories(&self, plan: &Plan, foreign_user: bool) -> anyhow::Result<()> {
        for path in &plan.directories {
            let mut directory = Directory::open(&self.config.paths.work)?;
            let mut parts = path.iter().peekable();
            while let Some(part) = parts.next() {
                directory = if foreign_user && parts.peek().is_none() {
                    directory.make(part, 0o777)
                } else {
                    directory.ensure(part, 0o755)
                }
                .with_context(|| format!("make the source of a volume, `{}`", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The platform engineer's template, if one is configured.
pub fn template(config: &Config) -> anyhow::Result<Template> {
    let Some(path) = &config.template else {
        return Ok(Template::none());
    };
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "read the hook template `{}`, which `ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE` names; see \
             that the ConfigMap is mounted into the runner's container",
            path.display()
        )
    })?;
    Template::parse(&text).with_context(|| format!("use the hook template `{}`", path.display()))
}
