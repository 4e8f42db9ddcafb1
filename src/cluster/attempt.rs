//! One call: bounded in time, made again where that helps, and judged in the light of earlier ones.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::retry::{self, Backoff, Verdict};
use super::{Act, CONNECT_TIMEOUT, Cluster, ClusterError};
use crate::explain::{Attempt, refusal};

/// A single request. The API server answers ordinary ones in milliseconds; admission webhooks may
/// take up to 30 s by their own limit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// How long a call is made again for what comes within moments or never.
const SOON: Duration = Duration::from_secs(5);
/// An API server that was away may need so long until it knows who may do what.
const STARTING: Duration = Duration::from_secs(15);
/// How often someone is told that a call is still being tried.
const TELL: Duration = Duration::from_secs(10);

/// What earlier calls have told of the API server.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Verbs and resources that were allowed: they are the account's right, whatever is said later.
    allowed: BTreeSet<(&'static str, &'static str)>,
    /// When it did not answer, or not as it should.
    away: Option<Instant>,
}

impl Past {
    /// Whether a refusal would contradict what is known: because the same was allowed before, or because
    /// the API server was away a moment ago.
    pub(super) fn doubts(&self, attempt: &Attempt) -> bool {
        self.allowed.contains(&(attempt.verb, attempt.resource))
            || self.away.is_some_and(|away| away.elapsed() < STARTING)
    }
}

impl Cluster {
    /// Has refusals of the next seconds doubted: an API server that has just started refuses everything
    /// until it has read its Roles.
    pub fn may_have_been_away(&self) {
        self.past().away = Some(Instant::now());
    }

    pub(super) fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls, and calls again while that can help and patience lasts.
    pub(super) async fn attempt<T, F>(
        &self,
        act: Act,
        mut call: impl FnMut() -> F,
    ) -> Result<T, ClusterError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let start = Instant::now();
        let end = start + self.patience;
        let mut told = start;
        let mut backoff = Backoff::new();
        loop {
            let limit = REQUEST_TIMEOUT.min(
                end.saturating_duration_since(Instant::now())
                    .max(CONNECT_TIMEOUT),
            );
            let answer = tokio::time::timeout(limit, call()).await;
            let (verdict, error) = match answer {
                Ok(Ok(value)) => {
                    let right = (act.attempt.verb, act.attempt.resource);
                    self.past().allowed.insert(right);
                    return Ok(value);
                }
                Ok(Err(error)) => {
                    let doubtful = self.past().doubts(&act.attempt);
                    (retry::of_error(&error, doubtful), Some(error))
                }
                Err(_) => (Verdict::Again(None), None),
            };
            if matches!(verdict, Verdict::Again(_)) {
                self.may_have_been_away();
            }
            let (again, asked) = match verdict {
                Verdict::Again(asked) => (true, asked),
                Verdict::Soon => (start.elapsed() < SOON, None),
                Verdict::Final => (false, None),
            };
            if again {
                let pause = backoff.pause(asked);
                if Instant::now() + pause < end {
                    if told.elapsed() >= TELL {
                        told = Instant::now();
                        let error = error.as_ref().map(|error| retry::chain(error));
                        let error = error.as_deref().unwrap_or("no answer");
                        let left = (end - Instant::now()).as_secs();
                        (self.tell)(&format!(
                            "Cannot {act} yet: {error}; trying for another {left} s"
                        ));
                    }
                    tracing::debug!(%act, ?pause, error = ?error, "trying again");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            return Err(failure(act, error, start.elapsed()));
        }
    }
}

/// The error of a call that failed, after it was made for so long.
pub(super) fn failure(act: Act, error: Option<kube::Error>, waited: Duration) -> ClusterError {
    match error {
        None => ClusterError::Unreachable {
            act,
            waited,
            cause: "requests are accepted and not answered".to_owned(),
        },
        Some(kube::Error::Api(status)) => ClusterError::Refused {
            explanation: Box::new(refusal(&act.attempt, &status)),
            code: status.code,
            act,
        },
        Some(error @ (kube::Error::Service(_) | kube::Error::HyperError(_))) => {
            ClusterError::Unreachable {
                act,
                waited,
                cause: retry::chain(&error),
            }
        }
        Some(error) => ClusterError::Malformed {
            act,
            cause: retry::chain(&error),
        },
    }
}

/// What an answer of this code and these words to a `get` of a pod is to a caller.
#[cfg(test)]
pub(crate) fn refused(code: u16, message: &str) -> ClusterError {
    let attempt = Attempt {
        verb: "get",
        resource: "pods",
        namespace: "ci".to_owned(),
    };
    let name = "p".to_owned();
    let status = kube::core::Status::failure(message, "").with_code(code);
    let error = kube::Error::Api(status.boxed());
    failure(Act { attempt, name }, Some(error), Duration::ZERO)
}
