//! Which failures pass by themselves, and how long to wait between attempts.

use std::time::Duration;

use kube::core::Status;

/// The first pause; it doubles from there.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause. An API server that restarts is back within seconds, and the hook should not
/// be the last to notice.
const LONGEST: Duration = Duration::from_secs(5);
/// What an overloaded API server asks for (kubernetes v1.36, `retryAfter` in
/// `apiserver/pkg/server/filters/maxinflight.go`): it says so in a header alone, which kube keeps to
/// itself.
const OVERLOAD: Duration = Duration::from_secs(1);

/// Pauses between attempts: doubling, and jittered so that the hooks of a whole scale set, cut off
/// together, do not come back together.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next pause: between half and the whole of the step, or what the server asked for.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(LONGEST);
        match asked {
            Some(asked) => asked.min(LONGEST * 2).mul_f64(1.0 + jitter() / 4.0),
            None => step.mul_f64(0.5 + jitter() / 2.0),
        }
    }
}

/// The pause before the next look at what has been `waited` for so long already: what comes
/// quickly is seen quickly, what takes minutes an eighth late and two seconds at most.
pub(crate) fn pause_after(waited: Duration) -> Duration {
    (waited / 8).clamp(Duration::from_millis(50), Duration::from_secs(2))
}

/// A number between 0 and 1.
pub(crate) fn jitter() -> f64 {
    // Without random numbers all hooks wait alike, which is bad manners but not an error.
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// What an answer of the API server means for another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same request may succeed later; the server may have said when.
    Again(Option<Duration>),
    /// It may succeed within moments, or never.
    Soon,
    /// The answer stands.
    Final,
}

/// Judges an error answer.
pub(super) fn of_status(status: &Status) -> Verdict {
    let asked = status
        .details
        .as_ref()
        .map(|details| details.retry_after_seconds)
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Duration::from_secs(seconds.into()));
    let again = match status.code {
        429 => return Verdict::Again(asked.or(Some(OVERLOAD))),
        // Every kind of server trouble, including a webhook that does not answer.
        500..=599 => true,
        // Two writers met, for example on a quota's usage. `AlreadyExists` is another matter.
        409 => status.reason == "Conflict" && !precondition(status),
        // Made together with the namespace, moments later.
        403 if status.message.contains("error looking up service account") => {
            return Verdict::Soon;
        }
        _ => false,
    };
    if again {
        Verdict::Again(asked)
    } else {
        Verdict::Final
    }
}

/// A deletion that named a uid met another object of that name.
pub(super) fn precondition(status: &Status) -> bool {
    status.code == 409 && status.message.contains("Precondition failed")
}

/// An API server that has just started lets nobody do anything until it has read the Roles: it answers
/// with the words of its role-based access control (kubernetes v1.36,
/// `plugin/pkg/auth/authorizer/rbac/rbac.go`, whose listers fill after the server is ready).
fn lacks_roles(status: &Status) -> bool {
    status.code == 403
        && status.message.contains(" cannot ")
        && status.message.contains(" resource ")
}

/// Judges a failure. `doubtful`: a refusal would contradict what is known.
pub(super) fn of_error(error: &kube::Error, doubtful: bool) -> Verdict {
    match error {
        kube::Error::Api(status) if doubtful && lacks_roles(status) => Verdict::Soon,
        kube::Error::Api(status) => of_status(status),
        // A certificate that does not fit today does not fit in a second either.
        kube::Error::Service(_) | kube::Error::HyperError(_)
            if !chain(error).contains("certificate") =>
        {
            Verdict::Again(None)
        }
        // Half an answer: the connection broke in the middle.
        kube::Error::ReadEvents(_) | kube::Error::SerdeError(_) => Verdict::Again(None),
        _ => Verdict::Final,
    }
}

/// The innermost words of an error: kube wraps "connection refused" into three layers that each
/// repeat the next.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> Status {
        Status::failure(message, reason).with_code(code)
    }

    #[test]
    fn what_is_awaited_is_looked_at_often_at_first_and_seldom_later() {
        let looks = |within: Duration| {
            let mut waited = Duration::ZERO;
            let mut looks = 0;
            while waited < within {
                let pause = pause_after(waited);
                assert!(pause <= Duration::from_millis(50).max(waited / 8));
                waited += pause;
                looks += 1;
            }
            looks
        };
        assert_eq!(looks(Duration::from_millis(400)), 8);
        assert!(looks(Duration::from_secs(16)) < 50);
        assert!(looks(Duration::from_mins(5)) < 200);
    }

    #[test]
    fn pauses_double_and_stay_below_the_longest() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..10).map(|_| backoff.pause(None)).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST);
        assert!(pauses[9] >= LONGEST / 2 && pauses[9] <= LONGEST);
    }

    #[test]
    fn a_server_that_names_a_time_is_obeyed_within_bounds() {
        let mut backoff = Backoff::new();
        let asked = backoff.pause(Some(Duration::from_secs(1)));
        assert!(asked >= Duration::from_secs(1) && asked < Duration::from_secs(2));
        assert!(backoff.pause(Some(Duration::from_hours(1))) < Duration::from_secs(15));
    }

    #[test]
    fn overload_and_server_errors_are_tried_again() {
        for code in [500, 502, 503, 504] {
            assert_eq!(
                of_status(&status(code, "", "")),
                Verdict::Again(None),
                "{code}"
            );
        }
        let overload = of_status(&status(
            429,
            "",
            "Too many requests, please try again later.",
        ));
        assert_eq!(overload, Verdict::Again(Some(OVERLOAD)));
    }

    #[test]
    fn a_conflict_on_a_quota_is_tried_again_but_a_taken_name_is_not() {
        let conflict = status(
            409,
            "Conflict",
            "Operation cannot be fulfilled on resourcequotas \"q\": the object has been modified",
        );
        assert_eq!(of_status(&conflict), Verdict::Again(None));
        let taken = status(409, "AlreadyExists", "pods \"x\" already exists");
        assert_eq!(of_status(&taken), Verdict::Final);
        let other = status(
            409,
            "Conflict",
            "Operation cannot be fulfilled on Pod \"x\": Precondition failed: UID in precondition: a, UID in object meta: b",
        );
        assert_eq!(of_status(&other), Verdict::Final);
    }

    #[test]
    fn refusals_stand() {
        for code in [400, 401, 403, 404, 413, 422] {
            assert_eq!(of_status(&status(code, "", "")), Verdict::Final, "{code}");
        }
    }
}
