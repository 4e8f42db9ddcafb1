//! What `prepare_job` settles about a cache, for `cleanup_job`: kept with the hook's memory of the
//! job, where the job cannot reach.

use serde::{Deserialize, Serialize};

use super::line::{Base, Generation, Lineage};
use super::pattern::Key;
use super::policy::Promote;
use super::trust::Verdict;
use crate::github::Github;

/// One cache of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The template's volume.
    pub volume: String,
    /// Name of the job's claim.
    pub claim: String,
    /// Uid of that claim.
    pub uid: String,
    /// The generation that it was cloned from.
    pub base: Option<Base>,
    /// How many clones lie between it and a volume that is none.
    pub depth: u32,
    /// Whether a second pod of the node can mount it.
    pub shared: bool,
    /// What becomes of it when the job is good.
    pub promotion: Promotion,
}

/// What becomes of a good job's clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Promotion {
    /// It becomes the next generation.
    To(Box<Target>),
    /// It goes with the job, and why.
    No(String),
    /// The template promotes nothing; there is nothing to tell.
    Off,
}

/// Where a clone is promoted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The line.
    pub line: Key,
    /// The entry that is advanced: a node's, or that of snapshots.
    pub node: String,
    /// What was current there when the job began; absent when nothing was.
    pub expected: Option<Expected>,
    /// How many superseded generations stay.
    pub keep: u32,
    /// What must succeed on the frozen clone before; absent for nothing.
    pub verify: Option<Verify>,
    /// Where the generation is to be a snapshot of the clone.
    #[serde(default)]
    pub snapshot: Option<SnapshotWish>,
    /// Who writes it.
    pub lineage: Lineage,
}

/// A snapshot that is to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotWish {
    /// Its `VolumeSnapshotClass`; the default one of the volume's driver when absent.
    pub class: Option<String>,
}

/// The generation that a job began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its number.
    pub number: u64,
    /// Uid of its claim.
    pub uid: String,
}

/// A look at a frozen clone before it becomes a parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// What runs.
    pub command: Vec<String>,
    /// The image that it runs in: the job's.
    pub image: String,
    /// Where the clone is mounted, as in the job.
    pub path: String,
    /// What the template gives the job container as environment.
    pub environment: Vec<(String, String)>,
}

impl CacheRecord {
    /// Whether its generations are snapshots, as far as this job has to do with any.
    #[must_use]
    pub fn takes_snapshot(&self) -> bool {
        matches!(&self.promotion, Promotion::To(target) if target.snapshot.is_some())
    }
}

impl Expected {
    /// The one that a generation is.
    #[must_use]
    pub fn of(generation: &Generation) -> Self {
        Self {
            number: generation.number,
            uid: generation.uid.clone(),
        }
    }
}

/// Whether a job may promote, and if not, why.
pub fn permission(promote: &Promote, job: &Github, verdict: &Verdict) -> Result<(), String> {
    if let Verdict::Untrusted(why) = verdict {
        return Err(why.clone());
    }
    if !promote.events.contains(&job.event) {
        return Err(format!(
            "the hook template does not promote jobs of `{}`",
            job.event
        ));
    }
    let is_ours = |glob: &super::Glob| glob.matches(&job.repository);
    if !promote.repositories.iter().any(is_ours) {
        let repository = &job.repository;
        return Err(format!(
            "the hook template does not promote jobs of `{repository}`"
        ));
    }
    if !promote.refs.iter().any(|glob| glob.matches(&job.git_ref)) {
        return Err(format!(
            "the hook template does not promote `{}`",
            job.git_ref
        ));
    }
    Ok(())
}

impl Lineage {
    /// That of a job.
    #[must_use]
    pub fn of(job: &Github, verdict: &Verdict) -> Self {
        Self {
            trusted: verdict.is_trusted(),
            repository: job.repository.clone(),
            git_ref: job.git_ref.clone(),
            sha: job.sha.clone(),
            run: job.run.clone(),
            attempt: job.attempt.clone(),
            actor: job.actor.clone(),
            event: job.event.clone(),
            workflow: job.workflow.clone(),
            job: job.job.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Policy;

    #[test]
    fn a_job_promotes_when_repository_event_and_ref_are_all_allowed() {
        let policy = "promote: {to: x, repositories: [octo/*], events: [push, pull_request], \
                      refs: [refs/heads/main]}";
        let promote = Policy::parse(policy).unwrap().promote.unwrap();
        let job = |repository: &str, event: &str, git_ref: &str| Github {
            repository: repository.to_owned(),
            event: event.to_owned(),
            git_ref: git_ref.to_owned(),
            ..Github::default()
        };
        let judge = |job: &Github| permission(&promote, job, &Verdict::Trusted);
        assert_eq!(judge(&job("octo/demo", "push", "refs/heads/main")), Ok(()));
        for (repository, event, git_ref) in [
            ("mallory/demo", "push", "refs/heads/main"),
            ("octo/demo", "schedule", "refs/heads/main"),
            ("octo/demo", "push", "refs/heads/main2"),
            ("octo/demo", "push", "refs/tags/main"),
            ("octo/demo", "push", ""),
        ] {
            assert!(judge(&job(repository, event, git_ref)).is_err());
        }
        let untrusted = Verdict::Untrusted("a fork".to_owned());
        let good = job("octo/demo", "push", "refs/heads/main");
        assert_eq!(
            permission(&promote, &good, &untrusted),
            Err("a fork".to_owned())
        );
    }
}
