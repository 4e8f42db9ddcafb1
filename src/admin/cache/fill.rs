//! A Job that writes into a parent before jobs clone it.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::tell;
use crate::cluster::{Cluster, pause_after};
use crate::explain::{self, End, Evidence, Judgement, Subject};
use crate::spool::Nonce;

const CONTAINER: &str = "fill";
const VOLUME: &str = "cache";
const SOURCE: &str = "source";
/// By it the Job's controller marks the Job's pods (Kubernetes, `pkg/apis/batch/types.go`).
const OF_JOB: &str = "batch.kubernetes.io/job-name";
/// Where a rebase finds what it copies.
pub const SOURCE_PATH: &str = "/source";

/// How a Job writes.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// User and group that write, which should be those of the jobs; the volume is handed to the
    /// group
    #[arg(long, value_name = "UID:GID", default_value = "1001:1001", value_parser = user)]
    pub user: (u32, u32),

    /// A pull secret of the image; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub pull_secret: Vec<String>,

    /// How long it may take: seconds, or `30m`, `2h`
    #[arg(long, value_name = "TIME", value_parser = super::super::gc::duration, default_value = "1h")]
    pub timeout: Duration,
}

fn user(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(':');
    numbers
        .and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)))
        .ok_or_else(|| "write two numbers, as 1001:1001".to_owned())
}

/// What a Job does.
#[derive(Debug)]
pub struct Filling<'f> {
    /// The claim that it writes to.
    pub claim: &'f str,
    /// Where it is mounted.
    pub path: &'f str,
    /// A claim that it reads from.
    pub source: Option<&'f str>,
    /// What runs.
    pub image: &'f str,
    /// Empty for the image's own.
    pub command: &'f [String],
    /// Its environment.
    pub environment: &'f [(String, String)],
    /// The node it must run on.
    pub node: Option<&'f str>,
    /// How.
    pub how: &'f How,
}

impl Filling<'_> {
    /// The Job. Its pod has no account and no rights; where its user is root it keeps the
    /// capabilities to give files away.
    fn manifest(&self, name: &str) -> Value {
        let (uid, gid) = self.how.user;
        let mut security = json!({
            "allowPrivilegeEscalation": false,
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        if uid != 0 {
            security["capabilities"] = json!({"drop": ["ALL"]});
            security["runAsNonRoot"] = json!(true);
        }
        let mut env = vec![json!({"name": "HOME", "value": "/tmp"})];
        env.retain(|_| self.environment.iter().all(|(name, _)| name != "HOME"));
        env.extend(
            self.environment
                .iter()
                .map(|(name, value)| json!({"name": name, "value": value})),
        );
        let mut mounts = vec![json!({"name": VOLUME, "mountPath": self.path})];
        let mut volumes =
            vec![json!({"name": VOLUME, "persistentVolumeClaim": {"claimName": self.claim}})];
        if let Some(source) = self.source {
            mounts.push(json!({"name": SOURCE, "mountPath": SOURCE_PATH, "readOnly": true}));
            volumes.push(json!({
                "name": SOURCE,
                "persistentVolumeClaim": {"claimName": source, "readOnly": true},
            }));
        }
        let mut container = json!({
            "name": CONTAINER,
            "image": self.image,
            "env": env,
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        });
        if !self.command.is_empty() {
            container["command"] = json!(self.command);
        }
        let pull: Vec<Value> = self
            .how
            .pull_secret
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        let mut spec = json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "imagePullSecrets": pull,
            "securityContext": {
                "runAsUser": uid, "runAsGroup": gid,
                "fsGroup": gid, "fsGroupChangePolicy": "OnRootMismatch",
            },
            "containers": [container],
            "volumes": volumes,
        });
        if let Some(node) = self.node {
            spec["affinity"] = json!({"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                    "matchFields": [
                        {"key": "metadata.name", "operator": "In", "values": [node]},
                    ],
                }]},
            }});
        }
        json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": name},
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": self.how.timeout.as_secs().max(1),
                "template": {"spec": spec},
            },
        })
    }

    /// Runs the Job, waits for its success and removes it; returns the node that it ran on. A Job
    /// that fails stays, with its log.
    pub async fn run(&self, cluster: &Cluster, nonce: &Nonce) -> anyhow::Result<String> {
        // The nonce makes it unique; names of pods are cut from it.
        let name = format!("{}-fill", &self.claim[..self.claim.len().min(50)]);
        let job: Job = cluster
            .create(&self.manifest(&name), nonce.as_str())
            .await?;
        tell(&format!("Job `{name}` runs ..."));
        let pod = self.succeeded(cluster, &name).await?;
        let uid = job.metadata.uid.as_deref();
        cluster.delete::<Job>(&name, uid, None).await?;
        // Only then nothing mounts the volume any more.
        let pod_name = pod.metadata.name.clone().unwrap_or_default();
        let removed = cluster
            .gone(
                &pod_name,
                pod.metadata.uid.as_deref(),
                Duration::from_mins(2),
            )
            .await?;
        if !removed {
            bail!("wait for the end of pod `{pod_name}`: it is still there; look at its node");
        }
        let node = pod.spec.and_then(|spec| spec.node_name);
        node.ok_or_else(|| anyhow!("find the node of pod `{pod_name}`: it names none"))
    }

    async fn succeeded(&self, cluster: &Cluster, job: &str) -> anyhow::Result<Pod> {
        let failed = |why: &str| {
            let namespace = cluster.namespace();
            anyhow!(
                "fill claim `{claim}`: {why}; `kubectl logs -n {namespace} job/{job}` may tell \
                 more. Delete both then: `kubectl delete -n {namespace} job/{job} pvc/{claim}`",
                claim = self.claim
            )
        };
        let begin = Instant::now();
        let subject = Subject {
            container: CONTAINER,
            services: &[],
            may_end: true,
        };
        let mut failing: Option<Instant> = None;
        loop {
            let pods = cluster.labelled::<Pod>(OF_JOB, job).await?;
            if let Some(pod) = pods.into_iter().next() {
                match explain::end(&pod, CONTAINER) {
                    End::Exited(0, _) => return Ok(pod),
                    End::Exited(code, why) => {
                        let why = why.map_or_else(String::new, |why| format!(": {why}"));
                        return Err(failed(&format!("its program exits with {code}{why}")));
                    }
                    End::Dead(why) => return Err(failed(&why.to_string())),
                    End::None => {}
                }
                match explain::judge(&pod, subject, &Evidence::default()) {
                    Judgement::Dead(why) => return Err(failed(&why.to_string())),
                    Judgement::Failing(why, grace) => {
                        let since = *failing.get_or_insert_with(Instant::now);
                        if since.elapsed() > grace {
                            return Err(failed(&why.to_string()));
                        }
                    }
                    Judgement::Running | Judgement::Waiting(_) => failing = None,
                }
            }
            if begin.elapsed() > self.how.timeout {
                let limit = self.how.timeout.as_secs();
                return Err(failed(&format!("it was not done after {limit} s")));
            }
            tokio::time::sleep(pause_after(begin.elapsed())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(user: (u32, u32)) -> How {
        How {
            user,
            pull_secret: vec!["registry".to_owned()],
            timeout: Duration::from_hours(1),
        }
    }

    #[test]
    fn a_job_that_fills_runs_as_the_users_of_the_cache_and_may_nothing_else() {
        let filling = Filling {
            claim: "cache-1",
            path: "/CONAN_HOME",
            source: None,
            image: "gcc:12",
            command: &["conan".to_owned(), "install".to_owned()],
            environment: &[("CONAN_HOME".to_owned(), "/CONAN_HOME".to_owned())],
            node: Some("node-1"),
            how: &how((1001, 1001)),
        };
        insta::assert_yaml_snapshot!(filling.manifest("cache-1-fill"));
    }

    #[test]
    fn a_job_of_roots_that_copies_reads_its_source_only() {
        let filling = Filling {
            claim: "cache-2",
            path: "/cache",
            source: Some("cache-1"),
            image: "busybox",
            command: &[],
            environment: &[("HOME".to_owned(), "/h".to_owned())],
            node: None,
            how: &how((0, 0)),
        };
        insta::assert_yaml_snapshot!(filling.manifest("cache-2-fill"));
    }

    #[test]
    fn a_user_is_two_numbers() {
        assert_eq!(user("1001:1001"), Ok((1001, 1001)));
        assert!(user("1001").is_err() && user("a:b").is_err());
    }
}
