//! Whether a job is kept, from what is known of its end.

use super::policy::{Policy, When};
use super::record::Failure;
use crate::worker_log::JobState;

/// What is known when `cleanup_job` is called: the runner does not tell it how the job ended.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The runner's own word in its diagnostic log.
    pub state: Option<JobState>,
    /// Every step that began ended with 0, as far as the hook saw.
    pub all_good: bool,
    /// The step whose end is remembered.
    pub failure: Option<&'a Failure>,
}

/// Why a job is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It failed.
    Failed,
    /// It was cancelled, or its time was up.
    Cancelled,
    /// The policy keeps every job.
    Asked,
}

impl Reason {
    /// What the log says of it.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Failed => "the job failed",
            Self::Cancelled => "the job was cancelled",
            Self::Asked => "every job is kept here",
        }
    }
}

/// Judges. `None`: it is not kept.
///
/// A step with `continue-on-error` does not fail a job, and only the runner knows of it; where its log
/// does not tell, a step that failed counts.
#[must_use]
pub fn judge(policy: &Policy, end: End<'_>) -> Option<Reason> {
    let reason = match (end.state, end.failure) {
        (Some(JobState::Cancelled), _) => Reason::Cancelled,
        (None, Some(failure)) if failure.cancelled => Reason::Cancelled,
        (Some(JobState::Failed), _) => Reason::Failed,
        (None, _) if !end.all_good => Reason::Failed,
        (Some(JobState::Good) | None, _) => Reason::Asked,
    };
    let kept = match (policy.when, reason) {
        (When::Never, _) | (When::OnFailure, Reason::Asked) => false,
        (When::Always, _) | (When::OnFailure, Reason::Failed) => true,
        (When::OnFailure, Reason::Cancelled) => policy.cancelled,
    };
    kept.then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retain::Kept;

    fn failure(cancelled: bool) -> Failure {
        Failure {
            step: "__run_2".to_owned(),
            exit: 3,
            cancelled,
            kept: Kept::default(),
        }
    }

    fn judged(when: When, cancelled: bool, end: End<'_>) -> Option<Reason> {
        let policy = Policy {
            when,
            cancelled,
            ..Policy::default()
        };
        judge(&policy, end)
    }

    const GOOD: End<'_> = End {
        state: Some(JobState::Good),
        all_good: true,
        failure: None,
    };

    #[test]
    fn a_good_job_is_kept_only_where_every_job_is() {
        assert_eq!(judged(When::OnFailure, false, GOOD), None);
        assert_eq!(judged(When::Always, false, GOOD), Some(Reason::Asked));
        assert_eq!(judged(When::Never, true, GOOD), None);
    }

    #[test]
    fn what_the_runner_says_wins_over_what_the_hook_saw() {
        let continued = failure(false);
        let end = End {
            all_good: false,
            failure: Some(&continued),
            ..GOOD
        };
        assert_eq!(judged(When::OnFailure, false, end), None);
        let end = End {
            state: Some(JobState::Failed),
            ..GOOD
        };
        assert_eq!(judged(When::OnFailure, false, end), Some(Reason::Failed));
    }

    #[test]
    fn without_the_runners_word_a_failed_step_counts() {
        let failed = failure(false);
        let end = End {
            state: None,
            all_good: false,
            failure: Some(&failed),
        };
        assert_eq!(judged(When::OnFailure, false, end), Some(Reason::Failed));
        let end = End {
            state: None,
            ..GOOD
        };
        assert_eq!(judged(When::OnFailure, false, end), None);
    }

    #[test]
    fn a_cancelled_job_is_kept_only_on_request() {
        let cut = failure(true);
        for end in [
            End {
                state: Some(JobState::Cancelled),
                ..GOOD
            },
            End {
                state: None,
                all_good: false,
                failure: Some(&cut),
            },
        ] {
            assert_eq!(judged(When::OnFailure, false, end), None);
            assert_eq!(judged(When::OnFailure, true, end), Some(Reason::Cancelled));
        }
    }
}
