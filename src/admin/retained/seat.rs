//! Where a program runs for someone: in the kept pod, or in an equal one that is made for them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};

use super::{now, tell};
use crate::cluster::{Cluster, ClusterError};
use crate::explain::Subject;
use crate::hook::await_pod::PodWait;
use crate::pod::names::JOB_CONTAINER;
use crate::retain::{Entry, Mode, gc, twin};
use crate::spool::Nonce;
use crate::spool::tree::{BINARY, HOOK_MOUNT, SPOOL_MOUNT};

/// How long the equal pod may take to start.
const START: Duration = Duration::from_mins(2);
/// How long an old one may take to go.
const GONE: Duration = Duration::from_secs(40);

/// The pod, and whether it was made for whoever asks.
pub struct Seat {
    /// Its name.
    pub pod: String,
    made: bool,
}

impl Seat {
    /// Finds it, or makes it.
    pub async fn take(cluster: &Cluster, entry: &Entry) -> anyhow::Result<Self> {
        if entry.is_expired(now()) {
            tell("the job's time is up: it goes with the next `arc-hook gc`");
        }
        if entry.mode == Mode::Volumes {
            return Box::pin(Self::of_volumes(cluster, entry)).await;
        }
        let found = cluster.get::<Pod>(&entry.pod).await?;
        match found.filter(|pod| pod.metadata.uid.as_deref() == Some(&entry.pod_uid)) {
            Some(pod) if gc::has_ended(&pod) => bail!(
                "enter job `{}`: its pod `{}` has ended: its time was up, or its node had no room; \
                 `arc-hook retained delete {}` removes what is left",
                entry.id,
                entry.pod,
                entry.id
            ),
            Some(_) => Ok(Self {
                pod: entry.pod.clone(),
                made: false,
            }),
            None => bail!("enter job `{}`: its pod `{}` is gone", entry.id, entry.pod),
        }
    }

    async fn of_volumes(cluster: &Cluster, entry: &Entry) -> anyhow::Result<Self> {
        let name = twin::name(&entry.id);
        if let Some(found) = cluster.get::<Pod>(&name).await? {
            let is_going = found.metadata.deletion_timestamp.is_some();
            if !is_going && !gc::has_ended(&found) {
                return Ok(Self {
                    pod: name,
                    made: false,
                });
            }
            let uid = found.metadata.uid.as_deref();
            if !is_going {
                cluster.delete::<Pod>(&name, uid, Some(1)).await?;
            }
            if !cluster.gone(&name, uid, GONE).await? {
                bail!(
                    "enter job `{}`: an earlier pod `{name}` does not end",
                    entry.id
                );
            }
        }
        let map = cluster.get::<ConfigMap>(&name).await?;
        let map = map.with_context(|| format!("enter job `{}`: its manifest is gone", entry.id))?;
        let text = map.data.as_ref().and_then(|data| data.get("pod"));
        let mut pod: Value = serde_json::from_str(text.map_or("", String::as_str))
            .with_context(|| format!("read the manifest of job `{}`", entry.id))?;
        let left = entry.latest.as_second() - now().as_second();
        pod["spec"]["activeDeadlineSeconds"] = json!(left.max(60));
        let nonce = Nonce::random().context("make a name")?;
        tell(&format!("making pod `{name}` on the job's volumes"));
        match cluster.create::<Pod>(&pod, nonce.as_str()).await {
            // Someone else enters too.
            Ok(_) | Err(ClusterError::Taken { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let subject = Subject {
            container: JOB_CONTAINER,
            services: &[],
            may_end: false,
        };
        let mut wait = PodWait::new(cluster, &name, subject, START);
        wait.started(JOB_CONTAINER).await?;
        Ok(Self {
            pod: name,
            made: true,
        })
    }

    /// Leaves it. What was made for this goes.
    pub async fn leave(self, cluster: &Cluster) -> anyhow::Result<()> {
        if self.made {
            cluster.delete::<Pod>(&self.pod, None, Some(1)).await?;
        }
        Ok(())
    }
}

/// The words by which this program is called in the job's container.
pub fn command(flags: &[&str], program: &[String]) -> Vec<String> {
    let mut words = vec![
        format!("{HOOK_MOUNT}/{BINARY}"),
        "enter".to_owned(),
        SPOOL_MOUNT.to_owned(),
    ];
    words.extend(flags.iter().map(|&flag| flag.to_owned()));
    if !program.is_empty() {
        words.push("--".to_owned());
        words.extend_from_slice(program);
    }
    words
}
