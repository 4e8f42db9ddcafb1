//! Whether a job's code is the repository's own.
//!
//! Judged once, in `prepare_job`, before anything of the job runs, from what the runner itself
//! says: its own environment, and its diagnostic log for what a pull request comes from. A job
//! of a fork, and one whose event lets a stranger choose the code or the time, is untrusted;
//! so is every event that is not known here.

use crate::github::Github;
use crate::worker_log::PullRequest;

/// Events that run the code of a branch or tag of the repository itself, started by who can write
/// to it or by GitHub's clock.
const TRUSTED: [&str; 6] = [
    "push",
    "schedule",
    "workflow_dispatch",
    "repository_dispatch",
    "merge_group",
    "release",
];

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The code is the repository's own.
    Trusted,
    /// It may be anyone's, and why.
    Untrusted(String),
}

impl Verdict {
    /// Judges a job; `pull_request` is what the runner's diagnostic log says of it.
    #[must_use]
    pub fn of(job: &Github, pull_request: Option<&PullRequest>) -> Self {
        let event = job.event.as_str();
        if TRUSTED.contains(&event) {
            return Self::Trusted;
        }
        if event != "pull_request" {
            return Self::Untrusted(if event.is_empty() {
                "its event is not known".to_owned()
            } else {
                format!("jobs of the event `{event}` never promote")
            });
        }
        let Some(from) = pull_request else {
            return Self::Untrusted(
                "the runner's diagnostic log does not tell where the pull request comes from, so \
                 it counts as a fork's"
                    .to_owned(),
            );
        };
        let own = !job.repository.is_empty()
            && from.repository == job.repository
            && from.base == job.repository
            && from.run == job.run;
        match (own, &from.head) {
            (true, Some(head)) if *head == job.repository => Self::Trusted,
            (true, Some(head)) => {
                Self::Untrusted(format!("the pull request comes from the fork `{head}`"))
            }
            _ => Self::Untrusted(
                "the pull request comes from a fork, or from one that is gone".to_owned(),
            ),
        }
    }

    /// Whether the code is the repository's own.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        *self == Self::Trusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(event: &str) -> Github {
        Github {
            repository: "octo/demo".to_owned(),
            run: "42".to_owned(),
            event: event.to_owned(),
            ..Github::default()
        }
    }

    fn from(head: Option<&str>) -> PullRequest {
        PullRequest {
            repository: "octo/demo".to_owned(),
            run: "42".to_owned(),
            base: "octo/demo".to_owned(),
            head: head.map(str::to_owned),
        }
    }

    #[test]
    fn events_are_trusted_by_name_and_unknown_ones_are_not() {
        for event in TRUSTED {
            assert_eq!(Verdict::of(&job(event), None), Verdict::Trusted, "{event}");
        }
        let own = from(Some("octo/demo"));
        for event in [
            "pull_request_target",
            "issue_comment",
            "workflow_run",
            "fork",
            "Push",
            "tomorrow",
            "",
        ] {
            let verdict = Verdict::of(&job(event), Some(&own));
            assert!(!verdict.is_trusted(), "{event}");
        }
    }

    #[test]
    fn a_pull_request_is_trusted_only_when_the_runner_knows_its_branch_to_be_ours() {
        let judge = |from: Option<&PullRequest>| Verdict::of(&job("pull_request"), from);
        assert!(judge(Some(&from(Some("octo/demo")))).is_trusted());
        for fork in [None, Some(from(None)), Some(from(Some("mallory/demo")))] {
            assert!(!judge(fork.as_ref()).is_trusted(), "{fork:?}");
        }
    }

    #[test]
    fn a_log_of_another_job_says_nothing() {
        for other in [
            PullRequest {
                run: "41".to_owned(),
                ..from(Some("octo/demo"))
            },
            PullRequest {
                repository: "octo/other".to_owned(),
                ..from(Some("octo/demo"))
            },
            PullRequest {
                base: "mallory/demo".to_owned(),
                ..from(Some("octo/demo"))
            },
        ] {
            let verdict = Verdict::of(&job("pull_request"), Some(&other));
            assert!(!verdict.is_trusted(), "{other:?}");
        }
        let nobody = Github {
            repository: String::new(),
            ..job("pull_request")
        };
        let empty = PullRequest {
            run: "42".to_owned(),
            head: Some(String::new()),
            ..PullRequest::default()
        };
        assert!(!Verdict::of(&nobody, Some(&empty)).is_trusted());
    }
}
