//! `run_container_step`: a container action in a pod of its own.
//!
//! With an entry point it runs under a supervisor, through a spool of its own, exactly as a script
//! step does. Without one nobody outside knows what the image starts: it runs as it is, and the
//! API server tells its log and its end.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Pod, Secret};

use super::api::{Api, Ended};
use super::await_pod::{PodWait, Progress};
use super::caches;
use super::hint::Tail;
use super::liveness::PodLiveness;
use super::output;
use super::remote::Remote;
use super::retention;
use super::run_script_step::arguments;
use super::step::{self, StepRun, Way};
use super::step_files::{Returned, StepFiles};
use super::step_log::StepLog;
use super::surroundings::{self, Surroundings};
use super::transfer::{SHARED, Transfer};
use super::unwrapped::Unwrapped;
use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::explain::Subject;
use crate::pod::{self, Identity, JobFacts, Plan, names};
use crate::protocol::Container;
use crate::record::{ForcedUser, JobRecord, Memory};
use crate::spool::signals::Signals;
use crate::spool::{JobTree, Nonce, StepRequest, client};

/// How long the removal of the action's pod may take: the runner kills 10 s after its first
/// signal, and what is left `cleanup_job` finds.
const DISCARD: Duration = Duration::from_secs(10);
/// The same once the runner has sent a signal.
const DISCARD_CANCELLED: Duration = Duration::from_secs(1);
/// How long a cancelled program may take to end and to say its last words.
const CANCEL: Duration = Duration::from_secs(4);

/// Runs the action and returns its exit code.
///
/// # Errors
/// The pod could not be built, created, or did not start, or its end is not known.
pub fn run(config: &Config, request: &Container, signals: &Signals) -> anyhow::Result<u8> {
    let job_memory = Memory::of(&config.paths.state, &names::job_pod(&config.pod_name));
    // A job that was never ready cannot lend its directories; the action runs on its own then.
    let job = job_memory.job()?.filter(|job| job.user.is_some());
    if job.is_some() {
        job_memory.note_begin("run_container_step");
    }
    let template = surroundings::template(config)?;
    let nonce = Nonce::random().context("make a name for the action's directory")?;
    let namespace = job.as_ref().map(|job| job.namespace.as_str());
    let api = Api::connect(namespace.or(config.namespace.as_deref()))?;
    let around = match api
        .run_unless_signalled(signals, Surroundings::look(&api.cluster, config, &template))
    {
        Ended::Done(around) => around?,
        Ended::Signal(signal) => return Ok(128 + signal),
    };
    let mut plan = pod::container_step(
        &around.inputs(&nonce),
        request,
        job.as_ref().and_then(facts).as_ref(),
    )?;
    for warning in &plan.warnings {
        output::warning(warning);
    }
    tracing::debug!(phase = "pod planned");
    if let Some(job) = &job {
        caches::lend(&mut plan, &job.caches);
    }
    let memory = match &job {
        Some(_) => job_memory,
        None => Memory::of(&config.paths.state, &plan.name),
    };
    let action = Action {
        around: &around,
        config,
        request,
        plan: &plan,
        nonce: &nonce,
        api: &api,
        memory: &memory,
    };
    let code = action.run(job.as_ref(), signals);
    if let Some(job) = &job {
        retention::Step::of_action(job, &request.environment_variables)
            .note(config, &memory, &code, signals);
    }
    action.discard(match signals.received() {
        None => DISCARD,
        Some(_) => DISCARD_CANCELLED,
    });
    if job.is_some() {
        memory.note_outcome("run_container_step", *code.as_ref().unwrap_or(&1));
    } else {
        let _ = memory.remove();
    }
    code
}

/// What the action's pod shares with the job's.
fn facts(job: &JobRecord) -> Option<JobFacts> {
    let (uid, gid) = job.user?;
    Some(JobFacts {
        nonce: job.nonce.to_string(),
        user: Identity { uid, gid },
        address: job.address.clone(),
        host_names: job.host_names.clone(),
    })
}

pub(super) struct Action<'a> {
    around: &'a Surroundings<'a>,
    pub(super) config: &'a Config,
    request: &'a Container,
    pub(super) plan: &'a Plan,
    pub(super) nonce: &'a Nonce,
    pub(super) api: &'a Api,
    pub(super) memory: &'a Memory,
}

impl Action<'_> {
    fn run(&self, job: Option<&JobRecord>, signals: &Signals) -> anyhow::Result<u8> {
        self.memory.begin()?;
        if self.plan.copied {
            return self.copied(job, signals);
        }
        let jobs = job
            .map(|job| JobTree::open(&self.config.paths, &job.nonce, job.foreign_user))
            .transpose()
            .context("open the job's directory on the work volume")?;
        let own = self
            .around
            .make_tree(self.plan, self.nonce, jobs.as_ref())?;
        let files = jobs.as_ref().unwrap_or(&own);
        let forced_user = job.and_then(|job| job.forced_user);
        if self.plan.supervised {
            self.supervised(&own, files, forced_user, signals)
        } else {
            // Nobody has looked into its image, so a missing name is no cause to be told.
            let forced_user = forced_user.map(|user| ForcedUser {
                named: true,
                ..user
            });
            self.unwrapped(files, forced_user, signals)
        }
    }

    /// In a pod with a volume of its own: the job's files cross from pod to pod, and back.
    fn copied(&self, job: Option<&JobRecord>, signals: &Signals) -> anyhow::Result<u8> {
        if !self.plan.supervised {
            return self.surrounded(job, signals);
        }
        let pod = (self.plan.name.as_str(), self.nonce);
        let (api, config) = (self.api, self.config);
        let remote = Remote::of_action(api, config, self.memory, pod, job.is_some());
        let jobs = job.map(|job| Remote::of_job(api, config, self.memory, job));
        let started = api.run_unless_signalled(signals, async {
            self.create().await?;
            tokio::select! {
                biased;
                started = self.started(names::JOB_CONTAINER) => started.map(|()| None),
                relay = remote.early_relay() => Ok(Some(relay)),
            }
        });
        let relay = match started {
            Ended::Signal(signal) => return Ok(128 + signal),
            Ended::Done(started) => started?,
        };
        let namespace = api.cluster.namespace();
        let mut liveness = PodLiveness::new(namespace, &self.plan.name, self.nonce);
        let cancelled = || Ok(128 + signals.received().unwrap_or_default());
        let timeout = self.config.prepare_timeout;
        let Some(ready) = remote.prepare(relay, &[], signals, &mut liveness, timeout)? else {
            return cancelled();
        };
        if let Some(jobs) = &jobs {
            let there = Transfer {
                from: jobs,
                to: &remote,
                roots: &SHARED,
                since: None,
                noted: Some(self.nonce),
                most: None,
            };
            if !there.run(signals)? {
                return cancelled();
            }
        }
        let run = StepRun {
            config,
            memory: self.memory,
            way: Way::Copied {
                remote: &remote,
                externals: false,
            },
            request: self.step()?,
            forced_user: job.and_then(|job| job.forced_user).map(|user| ForcedUser {
                named: ready.user_name.is_some(),
                ..user
            }),
            last_words: false,
        };
        let code = run.run(signals, &mut liveness)?;
        if let Some(jobs) = &jobs {
            let back = Transfer {
                from: &remote,
                to: jobs,
                roots: &SHARED,
                since: Some(self.nonce),
                noted: None,
                most: None,
            };
            if back.run(signals)? {
                self.refresh(jobs, signals)?;
            }
        }
        Ok(code)
    }

    /// The job's pod has what an action wrote, and the runner follows.
    pub(super) fn refresh(&self, jobs: &Remote<'_>, signals: &Signals) -> anyhow::Result<()> {
        let name = Nonce::random().context("make a name for the files")?;
        let nothing = Returned::nothing(self.memory.directory(), &name)?;
        let refreshed = jobs.refresh(&nothing, signals);
        let _ = nothing.hand_over();
        refreshed
    }

    /// What is to run.
    fn step(&self) -> anyhow::Result<StepRequest> {
        let program = self.request.entry_point.as_deref().unwrap_or_default();
        Ok(StepRequest {
            argv: arguments(program, &self.request.entry_point_args)?,
            environment: self.plan.environment.clone(),
            path: Vec::new(),
            directory: self.plan.working_directory.clone(),
            alone: 0,
        })
    }

    /// Creates the pod.
    pub(super) async fn create(&self) -> anyhow::Result<()> {
        self.create_all()
            .await
            .map_err(|error| self.around.blame(self.plan, error))
    }

    async fn create_all(&self) -> Result<(), ClusterError> {
        let cluster = self.api.cluster.at_most(self.config.prepare_timeout);
        for secret in &self.plan.secrets {
            cluster
                .create::<Secret>(secret, self.nonce.as_str())
                .await?;
        }
        cluster
            .create::<Pod>(&self.plan.pod, self.nonce.as_str())
            .await?;
        Ok(())
    }

    fn supervised(
        &self,
        own: &JobTree,
        files: &JobTree,
        forced_user: Option<ForcedUser>,
        signals: &Signals,
    ) -> anyhow::Result<u8> {
        let request = self.step()?;
        let spool = own.spool()?;
        let started = self.api.run_unless_signalled(signals, async {
            self.create().await?;
            tracing::debug!(phase = "pod created");
            let mut wait = self.wait(false);
            let ready = wait
                .until(|_| {
                    let ready = client::ready(&spool, self.nonce)?;
                    Ok(ready.map_or(Progress::None, Progress::Arrived))
                })
                .await;
            tracing::debug!(phase = "pod ready");
            ready
        });
        let ready = match started {
            Ended::Signal(signal) => return Ok(128 + signal),
            Ended::Done(ready) => ready?,
        };
        let step = StepRun {
            config: self.config,
            memory: self.memory,
            way: Way::Shared { files, spool },
            request,
            forced_user: forced_user.map(|user| ForcedUser {
                named: ready.user_name.is_some(),
                ..user
            }),
            last_words: false,
        };
        let cluster = &self.api.cluster;
        let mut liveness = PodLiveness::new(cluster.namespace(), &self.plan.name, self.nonce);
        step.run(signals, &mut liveness)
    }

    fn unwrapped(
        &self,
        files: &JobTree,
        forced_user: Option<ForcedUser>,
        signals: &Signals,
    ) -> anyhow::Result<u8> {
        let crossing = StepFiles::copy_in(self.config, self.memory, files, &[])?;
        let begin = async {
            self.create().await?;
            tracing::debug!(phase = "pod created");
            anyhow::Ok(())
        };
        self.follow_program(begin, || crossing.copy_out(), forced_user, signals)
    }

    /// Follows a program that runs as its image says to its end. `collect` brings what it leaves
    /// besides its log.
    pub(super) fn follow_program(
        &self,
        begin: impl Future<Output = anyhow::Result<()>>,
        collect: impl FnOnce() -> anyhow::Result<Vec<String>>,
        forced_user: Option<ForcedUser>,
        signals: &Signals,
    ) -> anyhow::Result<u8> {
        let environment = &self.request.environment_variables;
        let allowed = step::allows_unsecure_commands(self.config, environment);
        let mut tail = Tail::new(step::stdout()?);
        let mut log = StepLog::new(&mut tail, allowed);
        let mut program = Unwrapped::new(&self.api.cluster, &self.plan.name);
        let ended = self.api.run_unless_signalled(signals, async {
            begin.await?;
            self.started(names::JOB_CONTAINER).await?;
            tracing::debug!(phase = "pod ready");
            program.follow(&mut log).await
        });
        let mut collect = Some(collect);
        let mut collected = None;
        let ended = match ended {
            Ended::Done(ended) => ended.map(|code| u8::try_from(code & 0xff).unwrap_or(1)),
            Ended::Signal(signal) => {
                // What lies in the pod goes with it.
                if let Some(collect) = collect.take_if(|_| self.plan.copied) {
                    collected = Some(collect());
                }
                self.api.run(program.cancel(&mut log, CANCEL));
                Ok(128 + signal)
            }
        };
        tracing::debug!(phase = "step ended");
        let entries = match (collected, collect) {
            (None, Some(collect)) => collect(),
            (collected, _) => collected.unwrap_or(Ok(Vec::new())),
        };
        tracing::debug!(phase = "files copied out");
        let commands = log.finish();
        let code = ended?;
        if signals.received().is_none() {
            tail.tell(forced_user, code);
        }
        let commands = commands.context("hand the log to the runner")?;
        let mut entries = entries?;
        entries.extend(commands.entries.iter().cloned());
        self.memory.add_path(&entries)?;
        Ok(step::after_path_commands(code, &commands, allowed))
    }

    /// Waits until a container runs, or ran.
    pub(super) async fn started(&self, container: &str) -> anyhow::Result<()> {
        self.wait(!self.plan.supervised).started(container).await
    }

    /// `may_end`: the container's own program is what runs in it.
    fn wait(&self, may_end: bool) -> PodWait<'_> {
        let subject = Subject {
            container: names::JOB_CONTAINER,
            services: &[],
            may_end,
        };
        PodWait::new(
            &self.api.cluster,
            &self.plan.name,
            subject,
            self.config.prepare_timeout,
        )
    }

    /// Removes pod, secrets and directories of the action.
    fn discard(&self, limit: Duration) {
        let cluster: Cluster = self.api.cluster.patient(limit);
        let remove = async {
            // The name is random, so whatever bears it is ours.
            cluster
                .delete::<Pod>(&self.plan.name, None, Some(1))
                .await?;
            for secret in &self.plan.secrets {
                if let Some(name) = &secret.metadata.name {
                    cluster.delete::<Secret>(name, None, None).await?;
                }
            }
            anyhow::Ok(())
        };
        let removed = self
            .api
            .run(async { tokio::time::timeout(limit, remove).await });
        if !matches!(removed, Ok(Ok(()))) {
            output::debug("the action's pod could not be deleted; `cleanup_job` will");
        }
        tracing::debug!(phase = "cluster cleaned");
        if let Err(error) = JobTree::remove(&self.config.paths, self.nonce) {
            output::debug(&format!("{error}; `cleanup_job` tries again"));
        }
    }
}
