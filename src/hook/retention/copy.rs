//! The copy of a job's files to a claim that is kept in place of its work volume.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use super::super::await_pod::PodWait;
use super::super::output;
use super::super::remote::Remote;
use super::super::transfer::{TooMuch, Transfer};
use super::Retention;
use crate::explain::Subject;
use crate::pod::names::JOB_CONTAINER;
use crate::pod::quantity;
use crate::retain::copy::{self, COPIED, Copy};
use crate::retain::ledger::Claim;
use crate::spool::Nonce;
use crate::spool::signals::Signals;
use crate::transport::frame::Root;

/// How long the copy may take, once its pod runs: whoever waits for the runner waits for it.
const TIME: Duration = Duration::from_mins(5);
/// How long its pod may take to start: the image is on the node, the claim is new.
const START: Duration = Duration::from_mins(2);
/// How long it may take to go. What comes next does not need that.
const GONE: Duration = Duration::from_secs(10);
/// Seconds between SIGTERM and SIGKILL for it.
const GRACE: u32 = 1;

impl Retention<'_> {
    /// Makes the copy. Where it cannot be whole nothing of it stays, and why is said.
    pub(super) fn copy(&self, copy: &Copy<'_>) -> anyhow::Result<Result<Claim, String>> {
        let nonce = Nonce::random().context("make a name")?;
        let claim = copy.claim();
        let created = self
            .cluster
            .create::<PersistentVolumeClaim>(&claim, nonce.as_str());
        let created = self.api.run(created)?.metadata;
        let claim = Claim {
            name: created.name.unwrap_or_default(),
            uid: created.uid.unwrap_or_default(),
        };
        let copied = self.fill(copy, &nonce);
        let left = self.remove_pod(copy);
        match copied.and(left) {
            Ok(()) => Ok(Ok(claim)),
            Err(error) => {
                self.discard(&claim);
                match error.downcast_ref::<TooMuch>() {
                    Some(TooMuch(limit)) => Ok(Err(format!(
                        "the job's files are more than {} (`arc-hook/retain-copy-limit`)",
                        quantity::memory_quantity(i64::try_from(*limit).unwrap_or(i64::MAX))
                    ))),
                    None => Err(error),
                }
            }
        }
    }

    /// Removes a copy that nobody will enter. It is the runner's own, and goes with that at the last.
    pub(super) fn discard(&self, claim: &Claim) {
        let deleted =
            self.cluster
                .delete::<PersistentVolumeClaim>(&claim.name, Some(&claim.uid), None);
        if let Err(error) = self.api.run(deleted) {
            output::debug(&format!("the copy goes with the runner: {error}"));
        }
    }

    fn fill(&self, copy: &Copy<'_>, nonce: &Nonce) -> anyhow::Result<()> {
        let name = copy.pod_name(&self.config.pod_name);
        self.api.run(async {
            self.cluster
                .create::<Pod>(&copy.pod(&self.config.pod_name), nonce.as_str())
                .await?;
            let subject = Subject {
                container: JOB_CONTAINER,
                services: &[],
                may_end: false,
            };
            let mut wait = PodWait::new(self.cluster, &name, subject, START);
            wait.started(JOB_CONTAINER).await
        })?;
        let of_job = || Remote {
            sources: Vec::new(),
            ..Remote::of_job(self.api, self.config, self.memory, self.job)
        };
        let roots = |place: fn(&(&str, &str, &str)) -> String| {
            let root = |one: &(&str, &str, &str)| Root {
                name: one.0.to_owned(),
                path: place(one),
            };
            COPIED.iter().map(root).collect::<Vec<_>>()
        };
        let from = Remote {
            roots: roots(|one| one.1.to_owned()),
            ..of_job()
        };
        let to = Remote {
            pod: &name,
            nonce,
            relay: copy.relay(),
            roots: roots(|one| copy::below_mount(one.2)),
            ..of_job()
        };
        let transfer = Transfer {
            from: &from,
            to: &to,
            roots: &COPIED.map(|one| one.0),
            since: None,
            noted: None,
            most: Some(copy.limit),
        };
        // Whoever ends this process ends all of it: what was made goes with the runner. But a job
        // that pretends to be its relay could be silent for ever.
        let (signals, raise) = Signals::raised_by_hand().context("copy the job's files")?;
        let (_done, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(TIME) == Err(mpsc::RecvTimeoutError::Timeout) {
                raise.interrupt();
            }
        });
        if !transfer.run(&signals)? {
            bail!(
                "copy the job's files: it takes longer than {} s",
                TIME.as_secs()
            );
        }
        Ok(())
    }

    fn remove_pod(&self, copy: &Copy<'_>) -> anyhow::Result<()> {
        let name = copy.pod_name(&self.config.pod_name);
        self.api.run(async {
            self.cluster.delete::<Pod>(&name, None, Some(GRACE)).await?;
            self.cluster.gone(&name, None, GONE).await?;
            Ok(())
        })
    }
}
