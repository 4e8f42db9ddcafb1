//! `cleanup_job`: nothing of the job stays.
//!
//! It may be called twice, for a job that was never prepared, or while the API server is away; a
//! failure would turn a green job red, so it only ever warns. It does not wait for the pods' end,
//! unless a cache is promoted: the next `prepare_job` of the same runner does, and where there is
//! none, ARC deletes the runner pod, to which everything belongs.

use std::time::Duration;

use super::api::Api;
use super::leftovers::Leftovers;
use super::output;
use super::promotion::Finish;
use super::retention::{KeptJob, Retention};
use super::sweep::sweep;
use crate::config::Config;
use crate::pod::names;
use crate::record::{JobRecord, Memory};
use crate::spool::{JobTree, Nonce};

/// How long an API server that is away is waited for. The runner may be given 60 s in all after a
/// cancel.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the tree's removal is tried: processes of the job may still write while they end.
const TRIES: u32 = 20;

/// Removes what the job left. The exit code is always 0.
#[must_use]
pub fn run(config: &Config) -> u8 {
    let memory = Memory::of(&config.paths.state, &names::job_pod(&config.pod_name));
    let job = memory.job().ok().flatten();
    let kept = remove_from_cluster(config, &memory, job.as_ref()).unwrap_or_else(|error| {
        output::warning(&format!("{error:#}; what is left goes with the runner pod"));
        None
    });
    tracing::debug!(phase = "cluster cleaned");
    if let Err(error) = memory.remove() {
        output::warning(&format!("{error:#}"));
    }
    let needs_tree = kept.as_ref().is_some_and(|kept| kept.needs_tree);
    let spared = job.filter(|_| needs_tree).map(|job| job.nonce);
    remove_tree(config, spared.as_ref());
    tracing::debug!(phase = "directories removed");
    if let Some(kept) = kept {
        // Last of all, where someone looks first.
        output::line(&kept.way_in);
    }
    0
}

fn remove_from_cluster(
    config: &Config,
    memory: &Memory,
    job: Option<&JobRecord>,
) -> anyhow::Result<Option<KeptJob>> {
    let namespace = job.map(|job| job.namespace.as_str());
    let api = Api::connect(namespace.or(config.namespace.as_deref()))?;
    let cluster = api.cluster.patient(PATIENCE);
    let mut leftovers = api.run(Leftovers::find(&cluster, &config.pod_name))?;
    let own = rustix::process::geteuid().as_raw();
    let caches = job.map(|job| Finish::new(&cluster, config, memory, job));
    let promotes = caches.as_ref().is_some_and(Finish::promotes);
    let kept = job.and_then(|job| {
        let retention = Retention {
            api: &api,
            cluster: &cluster,
            config,
            memory,
            job,
        };
        retention.keep(&leftovers, promotes)
    });
    if let (Some(job), None) = (job, &kept)
        && job.user.is_some_and(|(uid, _)| uid != own)
        && leftovers.has_running(&job.pod)
    {
        sweep(config, job);
    }
    if let (Some(job), Some(_)) = (job, &kept) {
        leftovers.spare(&job.pod);
    }
    if promotes {
        api.run(leftovers.delete_within(&cluster, None))?;
    } else {
        api.run(leftovers.delete(&cluster))?;
    }
    let (pods, secrets) = leftovers.counts();
    if pods + secrets > 0 {
        output::line(&format!("Removed: pods {pods}, secrets {secrets}"));
    }
    match caches {
        Some(caches) if kept.is_some() => caches.keep(),
        Some(caches) => api.run(caches.finish(&leftovers))?,
        None => return Ok(kept),
    }
    tracing::debug!(phase = "caches settled");
    Ok(kept)
}

fn remove_tree(config: &Config, spared: Option<&Nonce>) {
    if let Some(spared) = spared {
        let _ = JobTree::remove_others(&config.paths, spared);
        return;
    }
    let mut outcome = JobTree::remove_all(&config.paths);
    for _ in 1..TRIES {
        match &outcome {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(Duration::from_millis(100));
                outcome = JobTree::remove_all(&config.paths);
            }
            _ => break,
        }
    }
    match outcome {
        Ok(()) => {}
        // Files of the job's own user, which take room until the volume goes with the runner.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            output::line(&format!(
                "Files of the job stay on the work volume: {error}"
            ));
        }
        Err(error) => output::warning(&format!("{error}; the next job of this runner tries again")),
    }
}
