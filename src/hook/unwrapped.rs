//! A program that runs as its image says, without a supervisor: its log and its end as the API
//! server tells them.

use std::io::Write;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;

use super::output;
use crate::cluster::{Cluster, CopyError, LogPosition, LogSource};
use crate::explain::{self, End};
use crate::pod::names;

/// How often the pod is looked at while its log is followed: a stream from a node that is gone
/// stays open and mute.
const LOOK: Duration = Duration::from_secs(2);
/// Pause before a stream that ended early is opened again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a stream may take to end by itself once the program has.
const STREAM_END: Duration = Duration::from_secs(5);
/// Where the kubelet begins a new file, and keeps but the newest for whoever reads
/// (`containerLogMaxSize`, 10 MiB by default): of two files that were filled while one was read,
/// the first is lost, and nothing tells.
const ROTATION: u64 = 8 * 1024 * 1024;
/// How long the rest of the log may take to arrive.
const REST: Duration = Duration::from_mins(5);

/// Follows the program in a pod to its end.
#[derive(Debug)]
pub struct Unwrapped<'a> {
    cluster: &'a Cluster,
    pod: &'a str,
    position: LogPosition,
}

impl<'a> Unwrapped<'a> {
    /// For a pod whose container has started.
    #[must_use]
    pub fn new(cluster: &'a Cluster, pod: &'a str) -> Self {
        Self {
            cluster,
            pod,
            position: LogPosition::default(),
        }
    }

    fn source(&self) -> LogSource<'a> {
        LogSource {
            pod: self.pod,
            container: names::JOB_CONTAINER,
        }
    }

    /// Copies the log as it comes, and returns the exit code that Kubernetes recorded.
    ///
    /// # Errors
    /// There is no such record, and why.
    pub async fn follow(&mut self, log: &mut dyn Write) -> anyhow::Result<i32> {
        let source = self.source();
        loop {
            let (cluster, pod) = (self.cluster, self.pod);
            let code = tokio::select! {
                copied = cluster.copy_log(source, true, &mut self.position, log) => {
                    log.flush().context("hand the log to the runner")?;
                    check(copied)?;
                    ended(cluster, pod).await?
                }
                code = until_ended(cluster, pod) => {
                    let code = code?;
                    let rest = cluster.copy_log(source, true, &mut self.position, log);
                    if let Ok(copied) = tokio::time::timeout(STREAM_END, rest).await {
                        check(copied)?;
                    }
                    Some(code)
                }
            };
            let Some(code) = code else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            // What the stream did not bring before it ended, if anything.
            let rest = cluster.copy_log(source, false, &mut self.position, log);
            match tokio::time::timeout(REST, rest).await {
                Ok(Ok(_)) => {}
                Ok(Err(CopyError::Cluster(error))) => {
                    output::warning(&format!("the end of the log may be missing: {error}"));
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => output::warning("the end of the log is missing: it does not arrive"),
            }
            if self.position.total() > ROTATION {
                output::warning(
                    "lines of this log may be missing: Kubernetes keeps about 10 MiB of what a \
                     container prints; give the action an `entrypoint`, so that it runs under the \
                     hook's supervisor, for a log of any length",
                );
            }
            return Ok(code);
        }
    }

    /// Deletes the pod and copies what its program still says while it ends.
    pub async fn cancel(&mut self, log: &mut dyn Write, within: Duration) {
        let cluster = self.cluster.patient(within);
        let end = async {
            // The kubelet gives two seconds at least between SIGTERM and SIGKILL.
            let _ = cluster.delete::<Pod>(self.pod, None, Some(2)).await;
            let _ = cluster
                .copy_log(self.source(), true, &mut self.position, log)
                .await;
        };
        let _ = tokio::time::timeout(within, end).await;
    }
}

/// A log that cannot be had now may be had later; a runner that does not take it is gone.
fn check<T>(copied: Result<T, CopyError>) -> anyhow::Result<()> {
    match copied {
        Err(CopyError::Cluster(error)) if error.is_forbidden() => Err(error.into()),
        Err(error @ CopyError::Write(_)) => Err(error.into()),
        Ok(_) | Err(CopyError::Cluster(_)) => Ok(()),
    }
}

async fn until_ended(cluster: &Cluster, pod: &str) -> anyhow::Result<i32> {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(code) = ended(cluster, pod).await? {
            return Ok(code);
        }
    }
}

/// The exit code, once there is one.
async fn ended(cluster: &Cluster, name: &str) -> anyhow::Result<Option<i32>> {
    let Some(pod) = cluster.get::<Pod>(name).await? else {
        let explanation = explain::deleted(None);
        return Err(anyhow::Error::new(explanation).context(format!("pod `{name}` ended")));
    };
    match explain::end(&pod, names::JOB_CONTAINER) {
        End::None => Ok(None),
        End::Exited(code, note) => {
            if let Some(note) = note {
                output::titled_error(note.title, &note.to_string());
            }
            Ok(Some(code))
        }
        End::Dead(explanation) => {
            Err(anyhow::Error::new(explanation).context(format!("pod `{name}` ended")))
        }
    }
}
