//! What arc-hook must do on a real cluster, one scenario each.
//!
//! A scenario's name is a sentence. Most are a job of `e2e/jobs/`, whose
//! directives say what is expected; some act on the cluster beside the job.

mod attacks;
mod caches;
mod causes;
mod copies;
mod credentials;
mod doctor;
mod faults;
pub mod lanes;
mod limits;
mod lines;
mod nodes;
mod outside;
mod pods;
mod policy;
mod programs;
mod proxied;
mod retained;
mod roles;
mod several;
mod snapshots;
mod stage;
mod users;
mod verbs;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::attacks::Origin;
pub use stage::{Stage, judge};

/// A scenario may take so long unless it says otherwise.
const DEADLINE: Duration = Duration::from_mins(2);

/// What a scenario's function returns.
type Acting = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// What is shown, as a sentence.
    pub name: &'static str,
    /// When it has failed at the latest.
    pub deadline: Duration,
    /// Whether it takes away what others need.
    pub alone: bool,
    act: Act,
}

#[derive(Clone, Copy)]
enum Act {
    /// A file of `e2e/jobs/`.
    Job(&'static str),
    /// A function.
    Code(fn(Arc<Stage>) -> Acting),
}

impl Scenario {
    const fn job(name: &'static str, file: &'static str) -> Self {
        Self {
            name,
            deadline: DEADLINE,
            alone: false,
            act: Act::Job(file),
        }
    }

    const fn code(name: &'static str, act: fn(Arc<Stage>) -> Acting) -> Self {
        Self {
            name,
            deadline: DEADLINE,
            alone: false,
            act: Act::Code(act),
        }
    }

    const fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Nothing else runs meanwhile.
    const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Runs it.
    pub async fn run(&self, stage: Arc<Stage>) -> anyhow::Result<()> {
        match self.act {
            Act::Job(file) => stage.run_file(file).await,
            Act::Code(act) => act(stage).await,
        }
    }
}

/// Scenarios that are a file of `e2e/jobs/`.
const JOBS: [(&str, &str); 10] = [
    (
        "exit codes and signals of steps come through",
        "exit-codes.yaml",
    ),
    (
        "output arrives whole, in order, with its commands",
        "output.yaml",
    ),
    (
        "file commands of passing, failing and cancelled steps count",
        "file-commands.yaml",
    ),
    ("ten background steps run at once", "background.yaml"),
    (
        "a daemon left behind by a step lives on and holds nothing up",
        "daemon.yaml",
    ),
    ("an image without a shell runs steps", "scratch.yaml"),
    (
        "JavaScript and container actions run as the job's user",
        "actions.yaml",
    ),
    (
        "a hook that is killed takes its step with it",
        "killed-hook.yaml",
    ),
    (
        "a bash planted for the runner is never run",
        "path-attacks.yaml",
    ),
    (
        "links, FIFOs and directories lead nowhere",
        "file-attacks.yaml",
    ),
];

/// All scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all: Vec<Scenario> = JOBS
        .into_iter()
        .map(|(name, file)| Scenario::job(name, file))
        .collect();
    all.extend(built_right());
    all.extend(walled());
    all.extend(apart());
    all.extend(kept());
    all.extend(cached());
    all.extend([
        Scenario::code(
            "3,000 variables and difficult values arrive",
            limits::environment,
        ),
        Scenario::code(
            "a log that nobody reads stays small on disk",
            limits::back_pressure,
        ),
        Scenario::code("a log of 2 GB arrives byte for byte", limits::long_log)
            .within(Duration::from_mins(8))
            // It keeps the disk busy.
            .alone(),
        Scenario::code("a full work volume is a clear failure", limits::full_volume)
            .within(Duration::from_mins(4)),
        Scenario::code(
            "a job without a container runs a container action",
            limits::without_container,
        ),
        Scenario::code(
            "job and actions run as the image's own user",
            users::of_the_image,
        ),
        Scenario::code(
            "a hook outside of a pod runs a job, with a warning",
            outside::of_a_pod,
        ),
        Scenario::code(
            "a set-up that is right passes the doctor",
            doctor::right_set_up,
        ),
        Scenario::code(
            "the doctor finds each planted fault",
            doctor::planted_faults,
        ),
        Scenario::code(
            "a hook killed in prepare_job leaves nothing once its runner is gone",
            faults::killed_in_prepare,
        ),
        Scenario::code(
            "a runner pod that goes takes its job along",
            faults::runner_gone,
        ),
        Scenario::code("a leftover job pod is replaced", faults::leftover_pod),
        Scenario::code(
            "a deleted job pod is a failure with its cause",
            faults::pod_deleted,
        )
        .within(Duration::from_mins(4)),
        Scenario::code("ARC's own Role is enough, and more is used", roles::both),
        Scenario::code(
            "a job comes through requests that fail",
            proxied::failing_requests,
        ),
        Scenario::code(
            "a job comes through connections that break",
            proxied::cut_connections,
        ),
        Scenario::code(
            "every cause of failure is named, with its remedy",
            causes::explained,
        )
        .within(Duration::from_mins(5)),
        Scenario::code(
            "steps do not notice that the API server is away",
            faults::api_outage,
        )
        .within(Duration::from_mins(4))
        .alone(),
    ]);
    all
}

/// What takes so long that only a full run has it.
#[must_use]
pub fn long() -> Vec<Scenario> {
    vec![
        Scenario::code(
            "of fifty jobs that promote a cache at once one wins",
            caches::many_at_once,
        )
        .within(Duration::from_mins(25))
        .alone(),
        Scenario::code(
            "of forty jobs that fail at once five are kept",
            retained::forty_at_once,
        )
        .within(Duration::from_mins(15))
        .alone(),
        Scenario::code(
            "a hook that is stopped for a minute goes on where it was, shared or not",
            copies::stopped,
        )
        .within(Duration::from_mins(5)),
        Scenario::code(
            "a hundred thousand files cross where nothing is shared",
            copies::many_files,
        )
        .within(Duration::from_mins(10))
        .alone(),
    ]
}

/// That failed jobs stay for people, and not for ever.
fn kept() -> [Scenario; 12] {
    [
        Scenario::code(
            "a failed job is kept as it was, but for its secrets, until its time is up",
            retained::as_it_was,
        ),
        Scenario::code(
            "a kept job is entered through a terminal, and its step runs again",
            retained::through_a_terminal,
        ),
        Scenario::code(
            "a kept job whose image has no shell is entered by its own programs",
            retained::without_a_shell,
        ),
        Scenario::code(
            "a failed job that shared no volume is kept, entered and mended",
            retained::nothing_shared,
        ),
        Scenario::code(
            "of a failed job that shared no volume a copy is kept and entered",
            retained::nothing_shared_but_volumes,
        ),
        Scenario::code(
            "of a failed job whose work claim goes a copy is kept and entered",
            retained::going_claim,
        ),
        Scenario::code("a cancelled job is kept on request", retained::cancelled),
        Scenario::code(
            "of a job whose volumes are kept an equal pod is made",
            retained::volumes,
        ),
        Scenario::code(
            "of ten jobs that fail at once five are kept",
            retained::ten_at_once,
        )
        .within(Duration::from_mins(6)),
        Scenario::code(
            "a repository's kept jobs are bounded over all scale sets",
            retained::repositories,
        ),
        Scenario::code(
            "a kept job gives its processors back, and the cluster ends it at the last",
            retained::of_itself,
        )
        .within(Duration::from_mins(3)),
        Scenario::code(
            "a kept job makes way for one that finds no room",
            retained::makes_way,
        )
        .within(Duration::from_mins(3)),
    ]
}

/// That jobs get good clones, and lines good generations.
fn cached() -> [Scenario; 9] {
    [
        Scenario::code(
            "the founding document's own template works unchanged",
            caches::founding,
        ),
        Scenario::code(
            "a cache that Conan finds damaged is not promoted",
            several::verified,
        )
        .within(Duration::from_mins(4)),
        Scenario::code(
            "good jobs on main make the next parent of a cache, and no others do",
            caches::lifecycle,
        )
        .within(Duration::from_mins(4)),
        Scenario::code(
            "of ten jobs that promote a cache at once one wins",
            caches::at_once,
        )
        .within(Duration::from_mins(6)),
        Scenario::code(
            "several caches are cloned and promoted, and an action gets what can be shared",
            several::caches,
        )
        .within(Duration::from_mins(4)),
        Scenario::code(
            "a line of a cache lives by its verbs from the first generation to the last",
            verbs::whole_life,
        )
        .within(Duration::from_mins(4)),
        Scenario::code(
            "a cache whose generations are snapshots is restored and promoted",
            snapshots::of_a_cache,
        )
        .within(Duration::from_mins(4)),
        Scenario::code(
            "a parent on another node than the work volume is passed over or explained",
            nodes::parents_elsewhere,
        )
        .within(Duration::from_mins(4))
        .alone(),
        Scenario::code(
            "node comes out of the runner's image where the node can mount it",
            programs::mounted,
        )
        .within(Duration::from_mins(6))
        .alone(),
    ]
}

/// That nothing leads from a job to its runner, or to another's pod.
fn walled() -> [Scenario; 8] {
    [
        Scenario::code("attacks of a step lead nowhere", |stage| {
            attacks::contained(stage, Origin::Job)
        }),
        Scenario::code("attacks of a process left behind lead nowhere", |stage| {
            attacks::contained(stage, Origin::Background)
        }),
        Scenario::code("attacks of a container action lead nowhere", |stage| {
            attacks::contained(stage, Origin::Action)
        })
        .within(Duration::from_mins(4)),
        Scenario::code("attacks of a service lead nowhere", |stage| {
            attacks::contained(stage, Origin::Service)
        }),
        Scenario::code("a forged state leads nowhere", attacks::forged_state),
        Scenario::code("planted secrets stand in no pod", attacks::planted_secrets),
        Scenario::code(
            "what is the runner's is out of a job's reach",
            attacks::out_of_reach,
        ),
        Scenario::code(
            "the runners' account creates what a job needs and no more",
            policy::confined_account,
        ),
    ]
}

/// That a job whose pod shares no volume with its runner is like any other.
fn apart() -> [Scenario; 6] {
    [
        Scenario::code(
            "a job comes through that shares no volume with its runner",
            copies::nothing_shared,
        ),
        Scenario::code(
            "the runner has what it reads itself of a workspace that it does not share",
            copies::what_the_runner_reads,
        ),
        Scenario::code(
            "volumes of a workflow are mounted or refused with a reason, shared or not",
            copies::user_volumes,
        ),
        Scenario::code(
            "actions whose program their image chooses have the job's files, not shared",
            copies::plain_actions,
        ),
        Scenario::code(
            "files of every kind cross where nothing is shared",
            copies::files_of_every_kind,
        ),
        Scenario::code(
            "a cache is cloned and promoted by jobs that share no work volume",
            copies::caches,
        )
        .within(Duration::from_mins(4)),
    ]
}

/// That the pod is the one that workflow and template ask for.
fn built_right() -> [Scenario; 16] {
    [
        Scenario::job(
            "services are healthy, reachable and their own users",
            "services.yaml",
        ),
        Scenario::job(
            "a service that exits fails the job with its last words",
            "service-exits.yaml",
        ),
        Scenario::job(
            "a service that never becomes healthy does too",
            "service-unhealthy.yaml",
        ),
        Scenario::job(
            "an option that would widen rights is refused by name",
            "option-refused.yaml",
        ),
        Scenario::job("an unknown option is named", "option-unknown.yaml"),
        Scenario::code(
            "options arrive as requests and limits, cut to what is allowed",
            pods::options,
        ),
        Scenario::code("every part of a hook template arrives", pods::template),
        Scenario::job(
            "a key that Kubernetes does not know is found in the template",
            "template-unknown-key.yaml",
        ),
        Scenario::code(
            "two users on one volume are refused before anything is made",
            pods::users_of_a_volume,
        ),
        Scenario::code("a restricted namespace runs a whole job", pods::restricted),
        Scenario::code("job and actions are the runner's user", users::runner),
        Scenario::code("job and actions are the image's root", users::root),
        Scenario::code("job and actions are any user", users::number),
        Scenario::code("a cache filled by root is told", users::roots_cache),
        Scenario::code(
            "private images are pulled with credentials of their own",
            credentials::each_its_own,
        ),
        Scenario::code(
            "a wrong password is told and shown nowhere",
            credentials::wrong_password,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::paths::Paths;
    use crate::job::Job;

    #[test]
    fn every_job_can_be_read() {
        let jobs = Paths::new().script("jobs");
        for scenario in all() {
            if let Act::Job(file) = scenario.act {
                Job::read(&jobs.join(file)).unwrap();
            }
        }
        for file in ["demo.yaml", "demo-retained.yaml"] {
            Job::read(&jobs.join(file)).unwrap();
        }
    }

    #[test]
    fn no_two_scenarios_are_called_alike() {
        let mut names: Vec<&str> = all().iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
