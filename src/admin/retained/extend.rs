//! `arc-hook retained extend`: a kept job stays longer, up to its own bound.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{connect, find, now, tell};
use crate::admin::access::Access;
use crate::retain::policy::duration;
use crate::retain::{EXPIRES_ANNOTATION, Ledger, Mode, keep};

const EXAMPLES: &str = "\
Examples:
  arc-hook retained extend 3f9a1c2e 8h
  arc-hook retained extend 3f9a1c2e 30m --namespace ci";

/// Keeps a job longer: so long from now, at most to the end that its template sets
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Extend {
    /// The job, as `arc-hook retained list` names it
    job: String,

    /// How long from now: `30m`, `8h`, `1d`
    #[arg(value_name = "TIME", value_parser = time)]
    time: Duration,

    #[command(flatten)]
    access: Access,
}

fn time(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "use a time as `30m`, `8h` or `1d`".to_owned())
}

impl Extend {
    pub fn run(&self) -> anyhow::Result<()> {
        let (api, cluster) = connect(&self.access)?;
        api.run(async {
            let ledger = Ledger::read(&cluster).await?;
            let id = find(&ledger, &self.job, cluster.namespace())?.id.clone();
            let wanted = keep::later(now(), self.time);
            let changed = Ledger::change(&cluster, |ledger| {
                let entry = ledger.entries.get_mut(&id)?;
                if wanted <= entry.latest {
                    entry.expires = wanted;
                }
                Some(entry.clone())
            });
            let changed = changed
                .await?
                .context("change the ledger of kept jobs: others change it all the time; try again")?;
            let entry = changed.context("the job is not kept any more")?;
            if wanted > entry.latest {
                bail!(
                    "keep job `{id}` until {wanted}: the cluster ends it at {} (`arc-hook/retain-max-ttl` \
                     of its template); copy out what you need",
                    entry.latest
                );
            }
            if entry.mode == Mode::Pod {
                let patch = json!({"metadata": {"annotations":
                    {EXPIRES_ANNOTATION: entry.expires.to_string()}}});
                cluster
                    .patch::<Pod>(&entry.pod, &entry.pod_uid, patch)
                    .await?;
            }
            tell(&format!("kept until {}", entry.expires));
            Ok(())
        })
    }
}
