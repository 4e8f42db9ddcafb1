//! `cleanup_job` keeps a job, if that is what its policy says of its end.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::super::api::Api;
use super::super::leftovers::Leftovers;
use super::super::output;
use crate::admin::rights::{self, Feature};
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::pod::{RUNNER_IMAGE, names};
use crate::record::{JobRecord, Memory};
use crate::retain::copy::Copy;
use crate::retain::keep::{self, Keeping, Outcome};
use crate::retain::ledger::Claim;
use crate::retain::policy::words;
use crate::retain::scrub::Report;
use crate::retain::{Entry, Failure, Kept, Mode, RetainRecord, environment, gc, judge};
use crate::worker_log;

/// How long kept jobs whose time is up may be looked for at the end of another.
const TIDY: Duration = Duration::from_secs(10);

/// A job at its end, which may be kept.
pub struct Retention<'a> {
    /// The connection.
    pub api: &'a Api,
    /// The same, as patient as the clean-up is.
    pub cluster: &'a Cluster,
    /// The hook's configuration.
    pub config: &'a Config,
    /// What is remembered of the job.
    pub memory: &'a Memory,
    /// The job.
    pub job: &'a JobRecord,
}

/// A job that is kept.
#[derive(Debug)]
pub struct KeptJob {
    /// The line that says how it is entered.
    pub way_in: String,
    /// Its directories on the work volume are what is kept.
    pub needs_tree: bool,
}

impl Retention<'_> {
    /// Keeps the job if that is what its policy says of its end. Whatever goes wrong, the job is not
    /// harmed: it is then removed like any other.
    #[must_use]
    pub fn keep(&self, leftovers: &Leftovers, promotes: bool) -> Option<KeptJob> {
        let record = self.job.retain.as_ref()?;
        let failure = self.memory.failure().ok().flatten();
        let end = judge::End {
            state: worker_log::job_state(&self.config.paths.diagnostics()),
            all_good: self.memory.all_good().unwrap_or(false),
            failure: failure.as_ref(),
        };
        let reason = judge::judge(&record.policy, end)?;
        if promotes {
            output::line("Not kept: a cache of the job becomes a parent");
            return None;
        }
        let tried = self.try_to(record, &failure.unwrap_or_else(no_step), reason, leftovers);
        let kept = match tried {
            Ok(Ok(kept)) => Some(kept),
            Ok(Err(why)) => {
                output::line(&format!("Not kept: {why}"));
                None
            }
            Err(error) => {
                let refusal = error.downcast_ref::<ClusterError>();
                if refusal.is_some_and(ClusterError::lacks_right) {
                    output::warning(&format!(
                        "the job is not kept: {error:#}; `arc-hook/retain` needs these rights: {}",
                        needed(record.policy.mode)
                    ));
                } else {
                    output::warning(&format!("the job is not kept: {error:#}"));
                }
                None
            }
        };
        let tidy = gc::run(self.cluster, false);
        let tidied = self
            .api
            .run(async { tokio::time::timeout(TIDY, tidy).await });
        if let Ok(Err(error)) = tidied {
            output::debug(&format!("kept jobs whose time is up stay for now: {error}"));
        }
        tracing::debug!(phase = "job kept");
        kept
    }

    fn try_to(
        &self,
        record: &RetainRecord,
        failure: &Failure,
        reason: judge::Reason,
        leftovers: &Leftovers,
    ) -> anyhow::Result<Result<KeptJob, String>> {
        let job = self.job;
        let is_it = |pod: &&Pod| pod.metadata.name.as_deref() == Some(&job.pod);
        let running = job.user.is_some() && leftovers.has_running(&job.pod);
        let Some(pod) = leftovers.pods().iter().find(is_it).filter(|_| running) else {
            return Ok(Err(format!("pod `{}` does not run any more", job.pod)));
        };
        let mut mode = record.policy.mode;
        let kept = if reason == judge::Reason::Asked {
            no_step().kept
        } else {
            failure.kept.clone()
        };
        let kept = self.with_defaults(kept, record);
        let report = self.scrub(&kept)?;
        if !report.failed.is_empty() || report.partly {
            let what = report.failed.first().map_or("", String::as_str);
            return Ok(Err(format!("its secrets cannot all be removed: {what}")));
        }
        let stubborn = self.api.run(self.end_services(pod))?;
        if (report.left > 0 || !stubborn.is_empty()) && mode == Mode::Pod {
            let what = match stubborn.first() {
                Some(service) => {
                    format!("service `{service}` does not end, whose environment holds secrets")
                }
                None => "processes of another user do not end".to_owned(),
            };
            if job.copied {
                return Ok(Err(what));
            }
            output::line(&format!("Only the volumes are kept: {what}"));
            mode = Mode::Volumes;
        }
        let entry = || self.entry(record, failure, reason, pod, mode, &kept);
        let secrets = leftovers.secrets();
        let copy = match self.copied(record, pod, &entry(), &secrets)? {
            Ok(copy) => copy,
            Err(why) => return Ok(Err(why)),
        };
        let of_copy = copy.as_ref().map(|claim| claim.name.as_str());
        let keeping = Keeping {
            cluster: self.cluster,
            pod,
            // As of now: whoever tidies up waits for what is kept, not for what is copied.
            entry: entry(),
            runner: &self.config.pod_name,
            work_claim: of_copy.or(record.work_claim.as_deref()),
            copied: copy.is_some(),
            caches: self.caches(),
            max: record.policy.max,
            secrets,
        };
        let kept = self.api.run(keeping.keep());
        if let (Some(copy), Err(_) | Ok(Outcome::Not(_))) = (&copy, &kept) {
            self.discard(copy);
        }
        match kept? {
            Outcome::Not(why) => Ok(Err(why)),
            Outcome::Kept(entry, told) => {
                tell(&report, leftovers.counts().1);
                for words in told {
                    output::line(&words);
                }
                Ok(Ok(self.told(&entry, record, copy.is_some())))
            }
        }
    }

    /// The copy of the job's files, where its volumes are to be kept and the work volume cannot be.
    fn copied(
        &self,
        record: &RetainRecord,
        pod: &Pod,
        entry: &Entry,
        gone: &[String],
    ) -> anyhow::Result<Result<Option<Claim>, String>> {
        if record.policy.mode != Mode::Volumes {
            return Ok(Ok(None));
        }
        let (why, class) = match &record.work_claim {
            None => ("the job has no volume but its pod's own".to_owned(), None),
            Some(name) => {
                let judged = keep::work_claim(self.cluster, name, &self.config.pod_name, entry);
                match self.api.run(judged)? {
                    (None, _) => return Ok(Ok(None)),
                    (Some(why), class) => (why, class),
                }
            }
        };
        let user = self
            .job
            .user
            .context("copy the job's files: its user is not known")?;
        let program = std::env::current_exe().context("find this program itself")?;
        let text = |path: &Path| path.display().to_string();
        let paths = &self.config.paths;
        let copy = Copy {
            job: pod,
            id: &entry.id,
            user,
            runner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            image: record.image.as_deref().unwrap_or(RUNNER_IMAGE),
            program: &text(&program),
            externals: &text(&paths.externals),
            workspace: &text(paths.workspace_below_work().unwrap_or(Path::new(""))),
            limit: record.policy.copy_limit,
            class: record.policy.storage_class.as_deref().or(class.as_deref()),
            gone,
        };
        output::line(&format!(
            "The job's files are copied to a claim of their own: {why}"
        ));
        Ok(self.copy(&copy)?.map(Some))
    }

    /// Steps that failed outside of a container leave nothing; the job's own environment is known.
    fn with_defaults(&self, mut kept: Kept, record: &RetainRecord) -> Kept {
        if kept.directory.is_none() {
            kept.directory.clone_from(&self.job.working_directory);
        }
        let own = environment::kept(&self.job.environment, &record.policy.env);
        for (name, value) in own {
            kept.environment.entry(name).or_insert(value);
        }
        for name in ["CI", "GITHUB_ACTIONS"] {
            let value = "true".to_owned();
            kept.environment.entry(name.to_owned()).or_insert(value);
        }
        kept
    }

    fn caches(&self) -> Vec<Claim> {
        let claim = |cache: &crate::cache::CacheRecord| Claim {
            name: cache.claim.clone(),
            uid: cache.uid.clone(),
        };
        self.job.caches.iter().map(claim).collect()
    }

    fn entry(
        &self,
        record: &RetainRecord,
        failure: &Failure,
        reason: judge::Reason,
        pod: &Pod,
        mode: Mode,
        kept: &Kept,
    ) -> Entry {
        let github = &self.config.github;
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let latest = keep::latest(pod, now, record.policy.max_ttl);
        let (repository, run, attempt) = (&github.repository, &github.run, &github.attempt);
        let failed = reason != judge::Reason::Asked && failure.exit != 0;
        Entry {
            id: names::derived(self.job.nonce.as_str(), "retained"),
            pod: self.job.pod.clone(),
            pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
            mode,
            scale_set: record.scale_set.clone(),
            node: record.node.clone(),
            repository: repository.clone(),
            run_url: format!(
                "{}/{repository}/actions/runs/{run}/attempts/{attempt}",
                github.server
            ),
            run: format!("{run}.{attempt}"),
            job: github.job.clone(),
            reason: reason.told().to_owned(),
            step: failed.then(|| failure.step.clone()),
            exit: failed.then_some(failure.exit),
            script: kept.script.is_some(),
            directory: kept.directory.clone(),
            since: now,
            expires: keep::later(now, record.policy.ttl).min(latest),
            latest,
            claims: Vec::new(),
        }
    }

    fn told(&self, entry: &Entry, record: &RetainRecord, copied: bool) -> KeptJob {
        let what = match entry.mode {
            Mode::Pod => format!("pod `{}` and its volumes", entry.pod),
            Mode::Volumes if copied => "a copy of the job's files, and its caches".to_owned(),
            Mode::Volumes => "the job's volumes".to_owned(),
        };
        output::line(&format!(
            "Kept: {what}, until {} ({}), because {}",
            entry.expires,
            words(record.policy.ttl),
            entry.reason
        ));
        KeptJob {
            needs_tree: !copied,
            way_in: format!(
                "Enter it: arc-hook retained enter {} --namespace {}",
                entry.id,
                self.cluster.namespace()
            ),
        }
    }
}

fn no_step() -> Failure {
    Failure {
        step: String::new(),
        exit: 0,
        cancelled: false,
        kept: Kept::default(),
    }
}

/// Says what was scrubbed. Names come from the job.
fn tell(report: &Report, secrets: usize) {
    output::group(&format!(
        "Scrubbed: processes {}, secrets {secrets}, files removed {}, cleaned {}",
        report.ended,
        report.removed.len(),
        report.cleaned.len()
    ));
    for (verb, paths) in [("removed", &report.removed), ("cleaned", &report.cleaned)] {
        for path in paths {
            output::quoted(verb, path);
        }
    }
    if report.more > 0 {
        output::line(&format!("and {} more", report.more));
    }
    output::end_group();
}

/// The rights, in a sentence.
fn needed(mode: Mode) -> String {
    let rules = match mode {
        Mode::Pod => rights::rules(&[Feature::Retain]),
        Mode::Volumes => rights::rules(&[Feature::Retain, Feature::RetainVolumes]),
    };
    let told = |rule: &rights::Rule| format!("{} on `{}`", rule.verbs.join(", "), rule.resource);
    rules.iter().map(told).collect::<Vec<_>>().join("; ")
}
