//! Why a supervisor is silent: the only look at the API server that a step may take.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use k8s_openapi::api::core::v1::Pod;

use super::api::Api;
use super::output;
use crate::cluster::{Cluster, ClusterError, NONCE};
use crate::explain::{self, Evidence, Judgement, Subject};
use crate::pod::names;
use crate::spool::Nonce;
use crate::spool::client::Liveness;

/// How long a silent supervisor is borne with when the API server cannot say why it is.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long a refusal of the look is borne with. The pod was made with that right; an API server that
/// has just started refuses everything until it has read its Roles.
const REFUSAL: Duration = Duration::from_secs(30);
/// How long one look may take: the step's log and its signals wait meanwhile.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// Looks at the pod that runs the step.
#[derive(Debug)]
pub struct PodLiveness<'a> {
    namespace: &'a str,
    pod: &'a str,
    nonce: &'a Nonce,
    api: Option<Api>,
    since: Option<Instant>,
    may_end: bool,
}

impl<'a> PodLiveness<'a> {
    /// For the pod of that name and nonce.
    #[must_use]
    pub fn new(namespace: &'a str, pod: &'a str, nonce: &'a Nonce) -> Self {
        Self {
            namespace,
            pod,
            nonce,
            api: None,
            since: None,
            may_end: false,
        }
    }

    /// The program in the container `job` may have ended: the pod has others that matter.
    #[must_use]
    pub fn beside_program(self) -> Self {
        Self {
            may_end: true,
            ..self
        }
    }

    fn look(&mut self) -> anyhow::Result<Option<Pod>> {
        let api = match self.api.take() {
            Some(api) => api,
            None => Api::connect(Some(self.namespace))?,
        };
        let cluster: Cluster = api.cluster.patient(LOOK_PATIENCE);
        let pod = api.run(cluster.get::<Pod>(self.pod));
        self.api = Some(api);
        Ok(pod?)
    }

    /// Puts what is known of the pod into the log.
    fn tell(&self, pod: &Pod) {
        let known = self
            .api
            .as_ref()
            .map(|api| api.run(api.cluster.evidence(pod)));
        for fact in explain::facts(pod, &known.unwrap_or_default()) {
            output::quoted("pod", &fact);
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let annotations = pod.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get(NONCE))
            .map(String::as_str)
            == Some(self.nonce.as_str())
    }
}

impl Liveness for PodLiveness<'_> {
    fn revived(&mut self) {
        self.since = None;
    }

    fn why_ended(&mut self) -> anyhow::Error {
        let name = self.pod;
        let Ok(pod) = self.look() else {
            return anyhow!(
                "pod `{name}` was ended from outside; look at its events and at its node for why"
            );
        };
        let explanation = match pod.filter(|pod| self.is_ours(pod)) {
            None => explain::deleted(None),
            Some(pod) => {
                self.tell(&pod);
                explain::ending(&pod)
            }
        };
        anyhow::Error::new(explanation).context(format!("pod `{name}` was ended"))
    }

    fn examine(&mut self, silence: Duration) -> Option<anyhow::Error> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let name = self.pod;
        let seconds = silence.as_secs();
        let patient = since.elapsed() < PATIENCE;
        let pod = match self.look() {
            Ok(pod) => pod,
            Err(error) => {
                let passing = error
                    .downcast_ref::<ClusterError>()
                    .is_some_and(|error| passes(error, since.elapsed()));
                return (!passing).then(|| {
                    error.context(format!(
                        "the supervisor in pod `{name}` has been silent for {seconds} s, and the \
                         pod cannot be examined"
                    ))
                });
            }
        };
        let ended = |explanation| {
            Some(anyhow::Error::new(explanation).context(format!("pod `{name}` ended")))
        };
        let Some(pod) = pod.filter(|pod| self.is_ours(pod)) else {
            return ended(explain::deleted(None));
        };
        let subject = Subject {
            container: names::JOB_CONTAINER,
            services: &[],
            may_end: self.may_end,
        };
        match explain::judge(&pod, subject, &Evidence::default()) {
            Judgement::Dead(explanation) => {
                self.tell(&pod);
                ended(explanation)
            }
            // A node that is short of memory or of disk can halt everything for minutes.
            _ if patient => None,
            Judgement::Waiting(Some(explanation)) | Judgement::Failing(explanation, _) => {
                Some(anyhow::Error::new(explanation).context(format!(
                    "the supervisor in pod `{name}` has been silent for {seconds} s"
                )))
            }
            _ => Some(anyhow!(
                "the supervisor in pod `{name}` has been silent for {seconds} s although the pod \
                 runs; see whether its node is overloaded and its work volume writable"
            )),
        }
    }
}

/// Whether what keeps the pod from being looked at, for so long already, may pass by itself.
fn passes(error: &ClusterError, silent: Duration) -> bool {
    (error.is_unreachable() && silent < PATIENCE) || (error.lacks_right() && silent < REFUSAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::refused;

    #[test]
    fn a_right_that_the_job_was_made_with_is_not_missed_at_once() {
        let refusal = refused(
            403,
            "pods \"p\" is forbidden: User \"system:serviceaccount:ci:runner\" cannot get resource \
             \"pods\" in API group \"\" in the namespace \"ci\"",
        );
        assert!(refusal.lacks_right());
        assert!(passes(&refusal, Duration::from_secs(2)));
        assert!(!passes(&refusal, REFUSAL));
        let overloaded = refused(503, "apiserver is shutting down");
        assert!(passes(&overloaded, Duration::from_secs(200)));
        assert!(!passes(&overloaded, PATIENCE));
        assert!(!passes(
            &refused(404, "namespaces \"ci\" not found"),
            Duration::ZERO
        ));
    }
}
