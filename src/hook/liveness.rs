//! Why a supervisor is silent: the only look at the API server that a step may take.

use std::time::{Duration, Instant};

use crate::spool::client::Liveness;

/// How long an unreachable API server is borne with beside a silent supervisor.
const PATIENCE: Duration = Duration::from_mins(5);

/// Looks at the pod that runs the step.
#[derive(Debug)]
pub struct PodLiveness<'a> {
    namespace: &'a str,
    pod: &'a str,
    since: Option<Instant>,
}

impl<'a> PodLiveness<'a> {
    /// For the pod of that name.
    #[must_use]
    pub fn new(namespace: &'a str, pod: &'a str) -> Self {
        Self {
            namespace,
            pod,
            since: None,
        }
    }
}

impl Liveness for PodLiveness<'_> {
    fn examine(&mut self, silence: Duration) -> Option<String> {
        let since = *self.since.get_or_insert_with(Instant::now);
        (since.elapsed() >= PATIENCE).then(|| {
            format!(
                "the supervisor in pod `{}` of namespace `{}` has been silent for {} s",
                self.pod,
                self.namespace,
                silence.as_secs()
            )
        })
    }
}
