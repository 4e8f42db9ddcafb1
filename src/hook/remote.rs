//! A pod that shares no volume with the runner, and where its directories are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::api::Api;
use super::crossing::Crossing;
use super::link::{self, Link, LinkError};
use super::liveness::PodLiveness;
use crate::cluster::Exec;
use crate::config::Config;
use crate::pod::names::JOB_CONTAINER;
use crate::record::{JobRecord, Memory};
use crate::spool::signals::Signals;
use crate::spool::tree::SPOOL_MOUNT;
use crate::spool::{Nonce, PROTOCOL};
use crate::transport::frame::{Begin, Root};
use crate::transport::manifest::Manifest;

/// A pod and the files that it shares with the runner by copying them.
#[derive(Debug)]
pub struct Remote<'a> {
    /// The connection to the API server.
    pub api: &'a Api,
    /// The hook's configuration.
    pub config: &'a Config,
    /// Where the manifest is.
    pub memory: &'a Memory,
    /// The pod.
    pub pod: &'a str,
    /// Its nonce.
    pub nonce: &'a Nonce,
    /// The container that its relays run in.
    pub container: &'static str,
    /// The words by which a relay is called there.
    pub relay: Vec<String>,
    /// Where the directories are in its container.
    pub roots: Vec<Root>,
    /// Directories of the runner that the pod is to have, in order.
    pub sources: Vec<(String, PathBuf)>,
}

impl<'a> Remote<'a> {
    /// The job's pod.
    #[must_use]
    pub fn of_job(
        api: &'a Api,
        config: &'a Config,
        memory: &'a Memory,
        job: &'a JobRecord,
    ) -> Self {
        let paths = &config.paths;
        let below = paths.workspace_below_work().unwrap_or(Path::new(""));
        let roots = [
            ("actions", "/__w/_actions".to_owned()),
            ("commands", "/__w/_temp/_runner_file_commands".to_owned()),
            ("home", "/github/home".to_owned()),
            ("spool", SPOOL_MOUNT.to_owned()),
            ("temp", "/__w/_temp".to_owned()),
            ("tools", "/__w/_tool".to_owned()),
            ("workflow", "/github/workflow".to_owned()),
            (
                "workspace",
                Path::new("/__w").join(below).display().to_string(),
            ),
        ];
        let sources = [
            ("actions", paths.work.join("_actions")),
            ("tools", paths.tools.clone()),
            ("workflow", paths.temp.join("_github_workflow")),
            ("workspace", paths.workspace.clone()),
        ];
        Self {
            api,
            config,
            memory,
            pod: &job.pod,
            nonce: &job.nonce,
            container: JOB_CONTAINER,
            relay: link::relay(),
            roots: roots
                .into_iter()
                .map(|(name, path)| Root {
                    name: name.to_owned(),
                    path,
                })
                .collect(),
            sources: sources
                .into_iter()
                .map(|(name, path)| (name.to_owned(), path))
                .collect(),
        }
    }

    /// The pod of a container action. One that has a job gets its files from the job's pod, one
    /// without from the runner.
    #[must_use]
    pub fn of_action(
        api: &'a Api,
        config: &'a Config,
        memory: &'a Memory,
        (pod, nonce): (&'a str, &'a Nonce),
        has_job: bool,
    ) -> Self {
        let roots = [
            ("commands", "/github/file_commands"),
            ("home", "/github/home"),
            ("spool", SPOOL_MOUNT),
            ("temp", "/github/runner_temp"),
            ("workflow", "/github/workflow"),
            ("workspace", "/github/workspace"),
        ];
        let sources = if has_job {
            Vec::new()
        } else {
            vec![
                (
                    "workflow".to_owned(),
                    config.paths.temp.join("_github_workflow"),
                ),
                ("workspace".to_owned(), config.paths.workspace.clone()),
            ]
        };
        Self {
            api,
            config,
            memory,
            pod,
            nonce,
            container: JOB_CONTAINER,
            relay: link::relay(),
            roots: roots
                .map(|(name, path)| Root {
                    name: name.to_owned(),
                    path: path.to_owned(),
                })
                .to_vec(),
            sources,
        }
    }

    /// Tells why nobody answers there.
    pub(super) fn liveness(&self) -> PodLiveness<'_> {
        let liveness = PodLiveness::new(self.api.cluster.namespace(), self.pod, self.nonce);
        if self.container == JOB_CONTAINER {
            liveness
        } else {
            liveness.beside_program()
        }
    }

    /// A relay in it, which was just created, if that runs soon.
    pub(super) async fn early_relay(&self) -> Exec {
        link::start_early_relay(&self.api.cluster, self.pod, self.container).await
    }

    /// A connection to it.
    pub(super) fn link(&self) -> Result<Link<'_>, LinkError> {
        Link::open(self.api, self.pod, self.container, &self.relay)
    }

    /// What both sides have.
    pub(super) fn manifest(&self) -> Manifest {
        Manifest::of(self.memory.directory())
    }

    /// `event.json`, for a pod that does not get its directory.
    pub(super) fn event(&self) -> Option<(String, PathBuf)> {
        let path = || ("workflow/event.json".to_owned(), self.config.event.clone());
        self.sources.is_empty().then(path)
    }

    /// What a relay is told first: of a step, or that only files are to be exchanged.
    pub(super) fn begin(&self, crossing: Option<&Crossing<'_>>, next: &Nonce) -> Begin {
        Begin {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: self.nonce.clone(),
            roots: self.roots.clone(),
            step: crossing.map(|crossing| crossing.id.clone()),
            offset: crossing.map_or(0, |crossing| crossing.offset),
            orphans: crossing
                .map(|crossing| crossing.orphans.clone())
                .unwrap_or_default(),
            externals: crossing.is_some_and(|crossing| crossing.externals),
            kept: self.sources.iter().map(|(name, _)| name.clone()).collect(),
            manifest: (!self.sources.is_empty()).then(|| next.clone()),
        }
    }

    /// The lock on the manifest. `None` when a signal came first.
    pub(super) fn lock(&self, signals: Option<&Signals>) -> anyhow::Result<Option<File>> {
        loop {
            if let Some(lock) = self.memory.lock_files()? {
                return Ok(Some(lock));
            }
            if signals.is_some_and(|signals| signals.received().is_some()) {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
