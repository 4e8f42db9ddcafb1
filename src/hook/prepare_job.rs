//! `prepare_job`: the job's pod, from nothing to ready.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Pod, Secret};

use super::api::{Api, Ended};
use super::await_pod::{PodWait, Progress};
use super::caches::Caches;
use super::leftovers::Leftovers;
use super::liveness::PodLiveness;
use super::made::Made;
use super::output;
use super::remote::Remote;
use super::retention;
use super::room;
use super::surroundings::{self, Surroundings};
use crate::cluster::{Cluster, ClusterError, Exec};
use crate::config::Config;
use crate::explain::{self, Subject};
use crate::pod::{self, Identity, Plan, RunnerPod, SpecError, Template, User, names};
use crate::protocol::{ContainerContext, Context, PrepareJob, Response, State};
use crate::record::{ForcedBy, ForcedUser, JobRecord, Memory};
use crate::spool::signals::Signals;
use crate::spool::{JobTree, Nonce, Ready, client};

/// Prepares the job, and returns the exit code.
///
/// # Errors
/// The pod could not be built, created, or did not become ready; nothing of it is left then.
pub fn run(
    config: &Config,
    request: &PrepareJob,
    response: Option<&Path>,
    signals: &Signals,
) -> anyhow::Result<u8> {
    let response = existing(response)?;
    if request.container.is_none() {
        return Err(SpecError::NoJobContainer.into());
    }
    let template = surroundings::template(config)?;
    let nonce = Nonce::random().context("make a name for the job's directory")?;
    let api = Api::connect(config.namespace.as_deref())?;
    let cluster = api.cluster.at_most(config.prepare_timeout);
    let job = Preparation {
        config,
        request,
        template: &template,
        nonce: &nonce,
        memory: Memory::of(&config.paths.state, &names::job_pod(&config.pod_name)),
        cluster: &cluster,
        made: RefCell::new(Made::default()),
    };
    let ended = job.prepare(&api, signals);
    let failure = match ended {
        Ended::Done(Ok(answer)) => match answer.write(response) {
            Ok(()) => return Ok(0),
            Err(error) => Err(error),
        },
        Ended::Done(Err(error)) => Err(error),
        Ended::Signal(signal) => {
            output::line("Cancelled; removing what was prepared");
            Ok(128 + signal)
        }
    };
    let made = job.made.take();
    api.run(made.remove(&cluster, config, &job.memory, &nonce));
    failure
}

/// The response file, which must exist before anything is made.
fn existing(response: Option<&Path>) -> anyhow::Result<&Path> {
    let path = response.context(
        "read the request: field `responseFile` is missing; the runner names a file there",
    )?;
    OpenOptions::new()
        .append(true)
        .open(path)
        .with_context(|| {
            format!(
                "open the response file `{}`: the runner creates it before each call",
                path.display()
            )
        })?;
    Ok(path)
}

struct Preparation<'a> {
    config: &'a Config,
    request: &'a PrepareJob,
    template: &'a Template,
    nonce: &'a Nonce,
    memory: Memory,
    cluster: &'a Cluster,
    made: RefCell<Made>,
}

/// A job whose pod has been created.
struct Begun<'a> {
    around: Surroundings<'a>,
    plan: Plan,
    record: JobRecord,
    /// Its directories on the work volume; absent when it has a volume of its own.
    tree: Option<JobTree>,
    begin: Instant,
}

impl Preparation<'_> {
    fn prepare(&self, api: &Api, signals: &Signals) -> Ended<anyhow::Result<Response>> {
        let begun = match api.run_unless_signalled(signals, self.begin()) {
            Ended::Done(Ok(begun)) => begun,
            Ended::Done(Err(error)) => return Ended::Done(Err(error)),
            Ended::Signal(signal) => return Ended::Signal(signal),
        };
        let (ready, pod) = match self.wait(api, signals, &begun) {
            Ended::Done(Ok(ready)) => ready,
            Ended::Done(Err(error)) => return Ended::Done(Err(error)),
            Ended::Signal(signal) => return Ended::Signal(signal),
        };
        Ended::Done(self.complete(begun, &ready, pod))
    }

    async fn begin(&self) -> anyhow::Result<Begun<'_>> {
        let begin = Instant::now();
        let (around, leftovers) = tokio::join!(
            Surroundings::look(self.cluster, self.config, self.template),
            Leftovers::find(self.cluster, &self.config.pod_name)
        );
        let (mut around, leftovers) = (around?, leftovers?);
        let (replaced, ()) = tokio::join!(
            leftovers.replace(self.cluster),
            around.look_at_node(self.cluster)
        );
        replaced?;
        tracing::debug!(phase = "surroundings read");
        let mut plan = pod::job(&around.inputs(self.nonce), self.request)?;
        for warning in &plan.warnings {
            output::warning(warning);
        }
        tracing::debug!(phase = "pod planned");
        self.forget_earlier()?;
        let caches = Caches {
            cluster: self.cluster,
            around: &around,
            nonce: self.nonce,
            made: &|claim| self.made.borrow_mut().claims.push(claim.to_owned()),
        };
        let caches = caches.prepare(&mut plan).await?;
        tracing::debug!(phase = "caches cloned");
        let tree = if plan.copied {
            None
        } else {
            Some(around.make_tree(&plan, self.nonce, None)?)
        };
        let record = JobRecord {
            nonce: self.nonce.clone(),
            pod: plan.name.clone(),
            namespace: self.cluster.namespace().to_owned(),
            environment: plan.environment.clone(),
            working_directory: plan.working_directory.clone(),
            foreign_user: around.is_foreign(plan.user),
            copied: plan.copied,
            externals_mounted: !plan.copies_externals,
            user: None,
            forced_user: None,
            address: None,
            host_names: plan.host_names.clone(),
            caches,
            retain: retention::settle(&around, &plan),
        };
        // Before the pod exists, so that whoever finds the one finds the other.
        self.memory.save(&record)?;
        self.create(&plan)
            .await
            .map_err(|error| around.blame(&plan, error))?;
        tracing::debug!(phase = "pod created", pod = plan.name);
        if let Some(tree) = tree.as_ref().filter(|_| plan.copies_externals) {
            self.made.borrow_mut().copy_externals(self.config, tree)?;
        }
        Ok(Begun {
            around,
            plan,
            record,
            tree,
            begin,
        })
    }

    fn complete(
        &self,
        begun: Begun<'_>,
        ready: &Ready,
        pod: Option<Pod>,
    ) -> anyhow::Result<Response> {
        let Begun {
            around,
            plan,
            mut record,
            begin,
            ..
        } = begun;
        tracing::debug!(phase = "pod ready", ?ready);
        check_user(&plan, ready, around.identity.uid)?;
        record.user = Some((ready.uid, ready.gid));
        record.forced_user = forced_user(&plan, self.template, ready);
        record.address = pod.and_then(|pod| pod.status?.pod_ip);
        self.memory.save(&record)?;
        tell(&plan, around.runner.as_ref(), ready, begin.elapsed());
        Ok(answer(&plan, ready))
    }

    /// Removes the memory and the directories of an earlier job.
    fn forget_earlier(&self) -> anyhow::Result<()> {
        self.memory.remove()?;
        if let Err(error) = JobTree::remove_all(&self.config.paths) {
            // Files of another user; they only take room.
            output::line(&format!(
                "Files of an earlier job stay on the work volume: {error}"
            ));
        }
        self.made.borrow_mut().directories = true;
        Ok(())
    }

    async fn create(&self, plan: &Plan) -> Result<(), ClusterError> {
        // The kubelet waits for seconds when it misses a secret that comes a moment later.
        for secret in &plan.secrets {
            if let Some(name) = &secret.metadata.name {
                self.made.borrow_mut().secrets.push(name.clone());
            }
            self.cluster
                .create::<Secret>(secret, self.nonce.as_str())
                .await?;
        }
        self.made.borrow_mut().pod = Some(plan.name.clone());
        self.cluster
            .create::<Pod>(&plan.pod, self.nonce.as_str())
            .await?;
        Ok(())
    }

    /// Waits until supervisor and services are ready. In a pod with a volume of its own the
    /// supervisor can only be asked once it runs, over the connection that brings it its files.
    fn wait(
        &self,
        api: &Api,
        signals: &Signals,
        begun: &Begun<'_>,
    ) -> Ended<anyhow::Result<(Ready, Option<Pod>)>> {
        let (plan, timeout) = (&begun.plan, self.config.prepare_timeout);
        let services: Vec<String> = plan
            .services
            .iter()
            .map(|service| service.container.clone())
            .collect();
        let subject = Subject {
            container: names::JOB_CONTAINER,
            services: &services,
            may_end: false,
        };
        let are_ready = |pod: Option<&Pod>| {
            services.is_empty() || pod.is_some_and(|pod| explain::all_ready(pod, &services))
        };
        let remote = Remote::of_job(api, self.config, &self.memory, &begun.record);
        let mut wait = PodWait::new(self.cluster, &plan.name, subject, timeout);
        // Where jobs are kept, those of the node make way for one that finds no room.
        let around = &begun.around;
        let keeps = around.template.settings().retain.is_on();
        let node = around.runner.as_ref().filter(|_| keeps);
        let node = node.and_then(|runner| runner.node.as_deref());
        let Some(tree) = &begun.tree else {
            let started = api.run_unless_signalled(signals, async {
                let started = wait.started(names::JOB_CONTAINER);
                tokio::select! {
                    biased;
                    started = room::beside(self.cluster, &plan.name, node, started) => {
                        started.map(|()| None)
                    }
                    relay = remote.early_relay() => Ok(Some(relay)),
                }
            });
            let relay = match started {
                Ended::Done(Ok(relay)) => relay,
                Ended::Done(Err(error)) => return Ended::Done(Err(error)),
                Ended::Signal(signal) => return Ended::Signal(signal),
            };
            tracing::debug!(phase = "pod started", early = relay.is_some());
            let ready = match self.give_files(&remote, relay, signals, begun) {
                Ended::Done(Ok(ready)) => ready,
                Ended::Done(Err(error)) => return Ended::Done(Err(error)),
                Ended::Signal(signal) => return Ended::Signal(signal),
            };
            tracing::debug!(phase = "files copied in");
            return api.run_unless_signalled(signals, async {
                let are_ready = |pod: Option<&Pod>| {
                    Ok(if are_ready(pod) {
                        Progress::Arrived(())
                    } else {
                        Progress::Almost
                    })
                };
                wait.until(are_ready).await?;
                Ok((ready, wait.pod().cloned()))
            });
        };
        let spool = match tree.spool() {
            Ok(spool) => spool,
            Err(error) => return Ended::Done(Err(error.into())),
        };
        let mut ready = None;
        api.run_unless_signalled(signals, async {
            let waited = wait.until(|pod| {
                if ready.is_none() {
                    ready = client::ready(&spool, self.nonce)?;
                }
                Ok(match (&ready, are_ready(pod)) {
                    (None, _) => Progress::None,
                    (Some(_), false) => Progress::Almost,
                    (Some(ready), true) => Progress::Arrived(ready.clone()),
                })
            });
            let ready = room::beside(self.cluster, &plan.name, node, waited).await?;
            Ok((ready, wait.pod().cloned()))
        })
    }

    /// Gives a pod with a volume of its own what the runner has, and what its supervisor is to run
    /// beside the steps.
    fn give_files(
        &self,
        remote: &Remote<'_>,
        relay: Option<Exec>,
        signals: &Signals,
        begun: &Begun<'_>,
    ) -> Ended<anyhow::Result<Ready>> {
        let (namespace, timeout) = (&begun.record.namespace, self.config.prepare_timeout);
        let mut liveness = PodLiveness::new(namespace, &begun.plan.name, self.nonce);
        let given = || {
            let entry = begun.around.entry(&begun.plan);
            let entry = entry
                .map(|entry| self.memory.write_entry(&entry))
                .transpose()?;
            let files = entry.map(|path| ("spool/entry.json".to_owned(), path));
            remote.prepare(relay, files.as_slice(), signals, &mut liveness, timeout)
        };
        match given().transpose() {
            Some(given) => Ended::Done(given),
            None => Ended::Signal(signals.received().unwrap_or_default()),
        }
    }
}

/// The job's user, unless it is its image's.
fn forced_user(plan: &Plan, template: &Template, ready: &Ready) -> Option<ForcedUser> {
    let by = match (plan.user, template.settings().run_as) {
        (User::Image, _) => return None,
        (_, Some(_)) => ForcedBy::Annotation,
        (_, None) => ForcedBy::Specification,
    };
    Some(ForcedUser {
        uid: ready.uid,
        by,
        named: ready.user_name.is_some(),
    })
}

/// The user is what was asked for, or the log says so.
fn check_user(plan: &Plan, ready: &Ready, own: u32) -> anyhow::Result<()> {
    match plan.user {
        User::Image if ready.uid != own => output::warning(&format!(
            "the job runs as user {} of its image and the runner as user {own}: neither may \
             change the other's files; set the annotation `arc-hook/run-as: runner` in a hook \
             template",
            ready.uid
        )),
        User::Runner(Identity { uid, .. }) | User::Fixed { uid, .. } if ready.uid != uid => {
            bail!(
                "prepare the job: its container runs as user {} instead of {uid}; see what \
                 changes pods on their way into the cluster (an admission webhook)",
                ready.uid
            )
        }
        _ => {}
    }
    for (path, _) in ready.writable.iter().filter(|(_, writable)| !**writable) {
        output::warning(&format!(
            "user {} of the job cannot write `{path}`; give that volume to this user (for a \
             clone: its parent), or set `arc-hook/run-as` in the hook template",
            ready.uid
        ));
    }
    Ok(())
}

/// One line each for user, work volume and time.
fn tell(plan: &Plan, runner: Option<&RunnerPod>, ready: &Ready, took: Duration) {
    let whose = match plan.user {
        User::Runner(_) => "the runner's",
        User::Image => "the image's",
        User::Fixed { .. } => "as configured",
    };
    let name = ready.user_name.as_deref().map_or_else(
        || "without an entry in the image's /etc/passwd".to_owned(),
        |name| format!("`{name}`"),
    );
    output::line(&format!(
        "User: {}:{} ({whose}), {name}",
        ready.uid, ready.gid
    ));
    let node = runner
        .and_then(|runner| runner.node.as_deref())
        .map_or_else(String::new, |node| format!(", on node `{node}`"));
    output::line(&if plan.copied {
        let pod = &plan.name;
        format!("Work volume: none is shared with pod `{pod}`; what changes is copied")
    } else {
        format!(
            "Work volume: shared between runner and pod `{}`{node}",
            plan.name
        )
    });
    output::line(&format!("Ready after {:.1} s", took.as_secs_f64()));
}

fn answer(plan: &Plan, ready: &Ready) -> Response {
    let services = plan.services.iter().map(|service| ContainerContext {
        id: Some(service.container.clone()),
        image: service.image.clone(),
        ports: service.ports.clone(),
    });
    Response {
        state: State {
            job_pod: plan.name.clone(),
        },
        context: Context {
            container: Some(ContainerContext {
                id: Some(plan.name.clone()),
                image: plan.image.clone(),
                ports: plan.ports.clone(),
            }),
            services: services.collect(),
        },
        is_alpine: ready.is_alpine(),
    }
}
