//! A job that is to be kept is emptied of processes and secrets.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::Retention;
use crate::cluster::{Cluster, ClusterError};
use crate::pod::names::JOB_CONTAINER;
use crate::retain::scrub::{Report, ScrubArgs};
use crate::retain::{Kept, inside, keep};
use crate::spool::JobTree;
use crate::spool::tree::{BINARY, HOOK_MOUNT, SPOOL_MOUNT};

/// How long the scrub may take. What a hostile job does to it must not hold up the clean-up.
const SCRUB: Duration = Duration::from_secs(30);
/// How long a service has to end after it was told to.
const SERVICE: Duration = Duration::from_secs(8);
/// How often one looks whether it has.
const LOOK: Duration = Duration::from_millis(200);
/// What a service is told to end with, in the image's own words: whichever it has.
const ENDS: [&[&str]; 4] = [
    &["kill", "-TERM", "1"],
    &["/bin/kill", "-TERM", "1"],
    &["sh", "-c", "kill -TERM 1"],
    &["busybox", "kill", "-TERM", "1"],
];

impl Retention<'_> {
    /// Ends the job's processes and removes its secrets, from inside.
    pub(super) fn scrub(&self, kept: &Kept) -> anyhow::Result<Report> {
        let job = self.job;
        let below = self
            .config
            .paths
            .workspace_below_work()
            .unwrap_or(Path::new(""));
        let home = job
            .environment
            .get("HOME")
            .map_or("/github/home", String::as_str);
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        let mut args = ScrubArgs {
            temp: paths(&["/__w/_temp"]),
            empty: paths(&["/__w/_temp/_runner_file_commands"]),
            home: Some(PathBuf::from(home)),
            workspace: Some(Path::new("/__w").join(below)),
        };
        let conan = job.environment.get("CONAN_HOME").cloned();
        if job.copied {
            args.temp.push("/github/runner_temp".into());
            args.empty
                .extend(["/github/file_commands".into(), "/github/workflow".into()]);
            let work = self.scrub_remotely(&args, conan, kept);
            return self
                .api
                .run(async { tokio::time::timeout(SCRUB, work).await })
                .context("scrub the job: it takes too long")?;
        }
        let tree = JobTree::open(&self.config.paths, &job.nonce, job.foreign_user)?;
        let workflow = tree.workflow()?;
        let spool = tree.spool()?;
        let (kept, foreign_user) = (kept.clone(), job.foreign_user);
        let (done, waited) = mpsc::channel();
        std::thread::spawn(move || {
            let scrubbed = inside::scrub(&spool, &args, conan, &kept, foreign_user);
            let _ = done.send(scrubbed);
        });
        let mut report = match waited.recv_timeout(SCRUB) {
            Ok(report) => report?,
            Err(_) => bail!("scrub the job: it takes too long"),
        };
        // The job sees it read-only.
        for name in workflow.names()? {
            workflow
                .remove(&name)
                .or_else(|_| workflow.remove_tree(&name))?;
            report.removed.push(format!("/github/workflow/{name}"));
        }
        Ok(report)
    }

    /// The same where the spool is in the pod.
    async fn scrub_remotely(
        &self,
        args: &ScrubArgs,
        conan: Option<String>,
        kept: &Kept,
    ) -> anyhow::Result<Report> {
        let mut command = vec![
            format!("{HOOK_MOUNT}/{BINARY}"),
            "keep".to_owned(),
            SPOOL_MOUNT.to_owned(),
        ];
        if let Some(conan) = conan {
            command.extend(["--conan".to_owned(), conan]);
        }
        command.extend(args.words().into_iter().skip(1));
        let mut line = serde_json::to_vec(kept).context("encode what is kept")?;
        line.push(b'\n');
        let said = said(self.cluster, &self.job.pod, JOB_CONTAINER, &command, &line).await?;
        serde_json::from_slice(&said.out).with_context(|| format!("scrub the job: {}", said.words))
    }

    /// Ends services whose environments hold secrets; those that do not end are returned.
    pub(super) async fn end_services(&self, pod: &Pod) -> Result<Vec<String>, ClusterError> {
        let name = &self.job.pod;
        let mut left = keep::with_secrets(pod);
        for words in ENDS {
            if left.is_empty() {
                break;
            }
            let command: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let mut told = false;
            for service in &left {
                // An image may lack the program; the next way may be the one.
                let said = said(self.cluster, name, service, &command, &[]).await;
                told |= said.is_ok_and(|said| said.success);
            }
            let end = Instant::now() + if told { SERVICE } else { Duration::ZERO };
            loop {
                let Some(now) = self.cluster.get::<Pod>(name).await? else {
                    return Ok(Vec::new());
                };
                left = keep::with_secrets(&now);
                if left.is_empty() || Instant::now() >= end {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(left)
    }
}

/// What a program in a container said.
struct Said {
    out: Vec<u8>,
    words: String,
    success: bool,
}

/// Runs a program in a container, and reads what it says, bounded.
async fn said(
    cluster: &Cluster,
    pod: &str,
    container: &str,
    command: &[String],
    input: &[u8],
) -> anyhow::Result<Said> {
    const LIMIT: usize = 512 * 1024;
    let mut exec = cluster.exec(pod, container, command).await?;
    if !input.is_empty() {
        exec.write(&[input])
            .await
            .context("talk to the job's pod")?;
    }
    let mut out = Vec::new();
    loop {
        let bytes = exec.read().await.context("hear the job's pod")?;
        if bytes.is_empty() {
            break;
        }
        out.extend_from_slice(&bytes);
        if out.len() > LIMIT {
            bail!("hear the job's pod: it says more than {LIMIT} bytes");
        }
    }
    let success = exec.succeeded().await;
    Ok(Said {
        words: exec.last_words().await,
        success,
        out,
    })
}
