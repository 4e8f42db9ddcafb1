//! `arc-hook retained delete`: a kept job goes now.

use anyhow::bail;
use clap::Args;

use super::{connect, find, print};
use crate::admin::access::Access;
use crate::retain::{Entry, Ledger, gc};

const EXAMPLES: &str = "\
Examples:
  arc-hook retained delete 3f9a1c2e
  arc-hook retained delete --all --namespace ci";

/// Deletes kept jobs, with their volumes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Delete {
    /// The jobs, as `arc-hook retained list` names them
    #[arg(required_unless_present = "all")]
    jobs: Vec<String>,

    /// Every kept job of the namespace
    #[arg(long, conflicts_with = "jobs")]
    all: bool,

    #[command(flatten)]
    access: Access,
}

impl Delete {
    pub fn run(&self) -> anyhow::Result<()> {
        let (api, cluster) = connect(&self.access)?;
        api.run(async {
            let ledger = Ledger::read(&cluster).await?;
            let mut ids = Vec::new();
            for job in &self.jobs {
                ids.push(find(&ledger, job, cluster.namespace())?.id.clone());
            }
            if self.all {
                ids.extend(ledger.entries.into_keys());
            }
            // Out of the ledger first: nobody enters what is going.
            let gone = Ledger::change(&cluster, |ledger| -> Vec<Entry> {
                ids.iter()
                    .filter_map(|id| ledger.entries.remove(id))
                    .collect()
            });
            let Some(gone) = gone.await? else {
                bail!("delete kept jobs: others change the ledger all the time; try again");
            };
            for entry in &gone {
                gc::delete(&cluster, entry).await?;
                print(&format!(
                    "deleted {} ({} {})\n",
                    entry.id, entry.repository, entry.run
                ))?;
            }
            Ok(())
        })
    }
}
