//! The hook's part in keeping failed jobs: `prepare_job` settles whether a job may be kept, each failing
//! step is noted, and `cleanup_job` takes what is to be kept out of the runner's hands.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::api::Api;
use super::leftovers::Leftovers;
use super::output;
use super::step_files;
use super::surroundings::Surroundings;
use crate::admin::rights::{self, Feature};
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::pod::Plan;
use crate::pod::names::{self, JOB_CONTAINER};
use crate::protocol::Environment;
use crate::record::{JobRecord, Memory};
use crate::retain::keep::{self, Keeping, Outcome};
use crate::retain::ledger::Claim;
use crate::retain::policy::words;
use crate::retain::record::Script;
use crate::retain::scrub::{Report, ScrubArgs};
use crate::retain::{Entry, Failure, Kept, Mode, RetainRecord, environment, gc, inside, judge};
use crate::spool::JobTree;
use crate::spool::signals::Signals;
use crate::spool::tree::{BINARY, HOOK_MOUNT, SPOOL_MOUNT};
use crate::worker_log::{self, JobState};

/// How long the scrub may take. What a hostile job does to it must not hold up the clean-up.
const SCRUB: Duration = Duration::from_secs(30);
/// How long a service has to end after it was told to.
const SERVICE: Duration = Duration::from_secs(8);
/// How often one looks whether it has.
const LOOK: Duration = Duration::from_millis(200);
/// How long kept jobs whose time is up may be looked for at the end of another.
const TIDY: Duration = Duration::from_secs(10);
/// Largest script of a step that is kept.
const SCRIPT_LIMIT: u64 = 64 * 1024;
/// Longest name of a step that is kept.
const STEP_LIMIT: usize = 128;
/// What a service is told to end with, in the image's own words: whichever it has.
const ENDS: [&[&str]; 4] = [
    &["kill", "-TERM", "1"],
    &["/bin/kill", "-TERM", "1"],
    &["sh", "-c", "kill -TERM 1"],
    &["busybox", "kill", "-TERM", "1"],
];

/// Settles in `prepare_job` whether and how the job may be kept.
#[must_use]
pub fn settle(around: &Surroundings<'_>, plan: &Plan) -> Option<RetainRecord> {
    let mut policy = around.template.settings().retain.clone();
    // Outside of a pod nothing would take the job away, and nothing needs to be saved.
    let runner = around.runner.as_ref().filter(|_| policy.is_on())?;
    for told in policy.ask(&plan.environment) {
        output::warning(&told);
    }
    let volumes = plan.pod["spec"]["volumes"].as_array();
    let work = volumes
        .into_iter()
        .flatten()
        .find(|volume| volume["name"] == crate::pod::WORK)
        .and_then(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    policy.is_on().then(|| RetainRecord {
        policy,
        scale_set: runner.scale_set.clone().unwrap_or_default(),
        node: runner.node.clone(),
        work_claim: work.map(str::to_owned),
    })
}

/// A step whose failure would be noted. Empty where the job cannot be kept.
#[derive(Debug)]
pub struct Step(Option<Noted>);

#[derive(Debug)]
struct Noted {
    name: String,
    environment: Environment,
    kept: Kept,
    argv: Vec<String>,
    retain: RetainRecord,
}

impl Step {
    /// A script step.
    #[must_use]
    pub fn of(job: &JobRecord, request: &crate::spool::StepRequest) -> Self {
        let Some(retain) = &job.retain else {
            return Self(None);
        };
        Self(Some(Noted {
            name: name(&request.environment),
            kept: Kept {
                environment: environment::kept(&request.environment, &retain.policy.env),
                path: request.path.clone(),
                directory: request.directory.clone(),
                ..Kept::default()
            },
            environment: request.environment.clone(),
            argv: request.argv.clone(),
            retain: retain.clone(),
        }))
    }

    /// A container action: its pod is gone when the job is entered, so only what is true of the job's
    /// own container is kept of its environment.
    #[must_use]
    pub fn of_action(job: &JobRecord, variables: &Environment) -> Self {
        let Some(retain) = &job.retain else {
            return Self(None);
        };
        let mut kept = environment::kept(variables, &retain.policy.env);
        kept.retain(|name, value| name != "PATH" && name != "HOME" && !value.starts_with('/'));
        kept.extend(environment::kept(&job.environment, &retain.policy.env));
        Self(Some(Noted {
            name: name(variables),
            environment: Environment::new(),
            kept: Kept {
                environment: kept,
                directory: job.working_directory.clone(),
                ..Kept::default()
            },
            argv: Vec::new(),
            retain: retain.clone(),
        }))
    }

    /// Notes it if it failed, unless an earlier one had failed the job already: what runs after that is
    /// there to clean up.
    pub fn note(
        self,
        config: &Config,
        memory: &Memory,
        ended: &anyhow::Result<u8>,
        signals: &Signals,
    ) {
        let Some(mut noted) = self.0 else { return };
        let exit = *ended.as_ref().unwrap_or(&1);
        if exit == 0 {
            return;
        }
        let is_known = matches!(memory.failure(), Ok(Some(_)));
        let state = worker_log::job_state(&config.paths.diagnostics());
        if is_known && matches!(state, Some(JobState::Failed | JobState::Cancelled)) {
            return;
        }
        if noted.retain.policy.script && !noted.argv.is_empty() {
            let more = &noted.retain.policy.env;
            let log = memory.last_words();
            let log = String::from_utf8_lossy(&log);
            noted.kept.log = Some(environment::masked(&log, &noted.environment, more));
            noted.kept.script = script(config, &noted.argv);
        }
        memory.note_failure(&Failure {
            step: noted.name,
            exit,
            cancelled: signals.received().is_some(),
            kept: noted.kept,
        });
    }
}

fn name(variables: &Environment) -> String {
    let name = variables.get("GITHUB_ACTION").map_or("", String::as_str);
    name.chars().take(STEP_LIMIT).collect()
}

/// The step itself, from the runner's own files.
fn script(config: &Config, argv: &[String]) -> Option<Script> {
    let mut files = Vec::new();
    for name in step_files::scripts(argv) {
        let file = std::fs::File::open(config.paths.temp.join(&name)).ok()?;
        let mut text = String::new();
        file.take(SCRIPT_LIMIT + 1).read_to_string(&mut text).ok()?;
        if text.len() as u64 > SCRIPT_LIMIT {
            return None;
        }
        files.push((name, text));
    }
    Some(Script {
        argv: argv.to_vec(),
        files,
    })
}

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
                if refusal.is_some_and(ClusterError::is_forbidden) {
                    output::warning(&format!(
                        "the job is not kept: {error:#}; `arc-hook/retain` needs these rights: {}",
                        needed()
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
        if mode == Mode::Volumes && job.copied {
            output::line("The job has no volume but its pod's own, so its pod is kept");
            mode = Mode::Pod;
        }
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
        let entry = self.entry(record, failure, reason, pod, mode, &kept);
        let keeping = Keeping {
            cluster: self.cluster,
            pod,
            entry,
            runner: &self.config.pod_name,
            work_claim: record.work_claim.as_deref(),
            caches: self.caches(),
            max: record.policy.max,
            secrets: leftovers.secrets(),
        };
        match self.api.run(keeping.keep())? {
            Outcome::Not(why) => Ok(Err(why)),
            Outcome::Kept(entry, told) => {
                tell(&report, leftovers.counts().1);
                for words in told {
                    output::line(&words);
                }
                Ok(Ok(self.told(&entry, record)))
            }
        }
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

    /// Ends the job's processes and removes its secrets, from inside.
    fn scrub(&self, kept: &Kept) -> anyhow::Result<Report> {
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
    async fn end_services(&self, pod: &Pod) -> Result<Vec<String>, ClusterError> {
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

    fn told(&self, entry: &Entry, record: &RetainRecord) -> KeptJob {
        let what = match entry.mode {
            Mode::Pod => format!("pod `{}` and its volumes", entry.pod),
            Mode::Volumes => "the job's volumes".to_owned(),
        };
        output::line(&format!(
            "Kept: {what}, until {} ({}), because {}",
            entry.expires,
            words(record.policy.ttl),
            entry.reason
        ));
        KeptJob {
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
fn needed() -> String {
    let rules = rights::rules(&[Feature::Retain]);
    let told = |rule: &rights::Rule| format!("{} on `{}`", rule.verbs.join(", "), rule.resource);
    rules.iter().map(told).collect::<Vec<_>>().join("; ")
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
        exec.write(input).await.context("talk to the job's pod")?;
    }
    let mut out = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = exec.read(&mut buffer).await.context("hear the job's pod")?;
        if count == 0 {
            break;
        }
        out.extend_from_slice(&buffer[..count]);
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
