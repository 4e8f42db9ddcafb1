//! Waiting for a pod: told by its own files, or by the API server that it will never come.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::output;
use crate::cluster::{Change, Cluster, ClusterError, LogSource, jitter};
use crate::explain::{self, Evidence, Explanation, Judgement, Subject};

/// How often the pod's files are looked at. A look costs microseconds, and what it finds late the
/// job starts late.
const TICK: Duration = Duration::from_millis(20);
/// How often the API server is asked, at first and at last.
const FIRST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_secs(2);
/// How long it is asked as often as at first while only it can tell.
const HURRY: Duration = Duration::from_secs(15);
/// A pod that is slower than this is worth asking its events, and a line in the log.
const SLOW: Duration = Duration::from_secs(3);
/// How often the log says again what is awaited.
const REPEAT: Duration = Duration::from_secs(30);
/// How long a watch is trusted before the pod is asked for all the same.
const WATCH: Duration = Duration::from_secs(5);
/// How long one look is tried again: the next one is as good.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a dead container's log that are shown.
const TAIL: u32 = 30;

/// What has come so far.
#[derive(Debug)]
pub enum Progress<T> {
    /// Nothing.
    None,
    /// All but what the API server alone can tell: it is asked more often.
    Almost,
    /// Everything.
    Arrived(T),
}

/// A pod that was created and is awaited.
#[derive(Debug)]
pub struct PodWait<'a> {
    cluster: Cluster,
    name: &'a str,
    subject: Subject<'a>,
    timeout: Duration,
    started: Instant,
    pod: Option<Pod>,
    /// What else is known of the pod; `None` until it was asked for.
    evidence: Option<Evidence>,
    may_watch: bool,
    trouble: Option<ClusterError>,
    failing: Option<(Instant, Duration)>,
    announced: Option<(&'static str, Instant)>,
}

type Look<'a> = Pin<Box<dyn Future<Output = Result<Seen, ClusterError>> + 'a>>;

struct Seen {
    pod: Option<Pod>,
    evidence: Option<Evidence>,
    may_watch: bool,
}

impl<'a> PodWait<'a> {
    /// Waits for the pod of that name, as it was created.
    #[must_use]
    pub fn new(cluster: &Cluster, name: &'a str, subject: Subject<'a>, timeout: Duration) -> Self {
        Self {
            cluster: cluster.patient(LOOK_PATIENCE),
            name,
            subject,
            timeout,
            started: Instant::now(),
            pod: None,
            evidence: None,
            may_watch: true,
            trouble: None,
            failing: None,
            announced: None,
        }
    }

    /// The pod as it was last seen.
    #[must_use]
    pub fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    /// Waits until `look_at` has what it wants of the pod as it was last seen, if it was.
    ///
    /// # Errors
    /// It will never come, and why; the pod's facts are in the log then.
    pub async fn until<T>(
        &mut self,
        mut look_at: impl FnMut(Option<&Pod>) -> anyhow::Result<Progress<T>>,
    ) -> anyhow::Result<T> {
        let cluster = self.cluster.clone();
        let name = self.name;
        let mut gap = FIRST_LOOK;
        let slow = self.slow();
        let mut look: Look<'_> = Box::pin(look_after(&cluster, name, gap, None, slow));
        loop {
            if let Progress::Arrived(arrived) = look_at(self.pod.as_ref())? {
                return Ok(arrived);
            }
            if self.started.elapsed() >= self.timeout {
                return Err(self.timed_out().await);
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                seen = &mut look => {
                    if let Err(explanation) = self.learn(seen)? {
                        return Err(self.report(explanation).await);
                    }
                    gap = match look_at(self.pod.as_ref())? {
                        Progress::Arrived(arrived) => return Ok(arrived),
                        Progress::Almost if self.started.elapsed() < HURRY => FIRST_LOOK,
                        Progress::Almost | Progress::None => (gap * 2).min(LAST_LOOK),
                    };
                    let (watched, slow) = (self.watched(), self.slow());
                    look = Box::pin(look_after(&cluster, name, gap, watched, slow));
                }
            }
        }
    }

    /// Waits until the API server tells that a container of the pod runs, or ran.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub async fn started(&mut self, container: &str) -> anyhow::Result<()> {
        self.until(|pod| {
            let started = pod.is_some_and(|pod| explain::has_started(pod, container));
            Ok(if started {
                Progress::Arrived(())
            } else {
                Progress::Almost
            })
        })
        .await
    }

    /// Where to watch on from, if that makes sense.
    fn watched(&self) -> Option<String> {
        let pod = self.pod.as_ref().filter(|_| self.may_watch)?;
        pod.metadata.resource_version.clone()
    }

    /// From when on the pod is asked for its events, too, unless the Role withholds them.
    fn slow(&self) -> Option<Instant> {
        let withheld = matches!(self.evidence, Some(Evidence::Withheld));
        (!withheld).then(|| self.started + SLOW)
    }

    /// Takes in what was seen: an explanation when it is over, an error when it is not to be seen.
    fn learn(
        &mut self,
        seen: Result<Seen, ClusterError>,
    ) -> Result<Result<(), Explanation>, ClusterError> {
        let seen = match seen {
            Ok(seen) => seen,
            Err(error) if error.is_unreachable() => {
                // The pod's own files may still come.
                self.trouble = Some(error);
                return Ok(Ok(()));
            }
            Err(error) => return Err(error),
        };
        self.trouble = None;
        self.may_watch &= seen.may_watch;
        self.evidence = match (seen.evidence, self.evidence.take()) {
            // What was known a moment ago is better than nothing.
            (None | Some(Evidence::Unknown), Some(known)) => Some(known),
            (seen, _) => seen,
        };
        let Some(pod) = seen.pod else {
            return Ok(Err(explain::deleted(self.pod.as_ref())));
        };
        let evidence = self.evidence.clone().unwrap_or_default();
        let judgement = explain::judge(&pod, self.subject, &evidence);
        self.pod = Some(pod);
        match judgement {
            Judgement::Dead(explanation) => return Ok(Err(explanation)),
            Judgement::Failing(explanation, grace) => {
                let (since, least) = *self.failing.get_or_insert((Instant::now(), grace));
                let grace = least.min(grace);
                self.failing = Some((since, grace));
                if since.elapsed() >= grace {
                    return Ok(Err(explanation));
                }
                let left = grace.saturating_sub(since.elapsed()).as_secs() + 1;
                self.announce(
                    &explanation,
                    &format!(" (fails in {left} s unless it passes)"),
                );
            }
            Judgement::Waiting(Some(explanation)) => {
                self.failing = None;
                if self.evidence.is_some() {
                    self.announce(&explanation, "");
                }
            }
            Judgement::Waiting(None) | Judgement::Running => self.failing = None,
        }
        Ok(Ok(()))
    }

    /// One line when there is something new to say, and now and then while there is not.
    fn announce(&mut self, explanation: &Explanation, note: &str) {
        let known = self
            .announced
            .is_some_and(|(title, since)| title == explanation.title && since.elapsed() < REPEAT);
        if !known {
            self.announced = Some((explanation.title, Instant::now()));
            output::line(&format!(
                "Waiting for pod `{}`: {}{note}",
                self.name, explanation.cause
            ));
        }
    }

    async fn timed_out(&mut self) -> anyhow::Error {
        if let Some(trouble) = self.trouble.take() {
            return trouble.into();
        }
        let evidence = match (&self.pod, &self.evidence) {
            (_, Some(Evidence::Withheld)) => Evidence::Withheld,
            (Some(pod), _) => self.cluster.evidence(pod).await,
            (None, _) => Evidence::Unknown,
        };
        let explanation = explain::timed_out(
            self.pod.as_ref(),
            self.subject,
            &evidence,
            self.started.elapsed(),
        );
        self.evidence = Some(evidence);
        self.report(explanation).await
    }

    /// Puts the pod's facts and the last words of its containers into the log.
    async fn report(&self, explanation: Explanation) -> anyhow::Error {
        if let Some(pod) = &self.pod {
            let evidence = match &self.evidence {
                None | Some(Evidence::Unknown) => self.cluster.evidence(pod).await,
                Some(evidence) => evidence.clone(),
            };
            for fact in explain::facts(pod, &evidence) {
                output::quoted("pod", &fact);
            }
            for container in explain::unwell(pod, self.subject) {
                let source = LogSource {
                    pod: self.name,
                    container: &container,
                };
                let tail = self.cluster.log_tail(source, TAIL).await;
                output::quoted(&format!("log of {container}"), &tail);
            }
        }
        anyhow::Error::new(explanation).context(format!("start pod `{}`", self.name))
    }
}

async fn look_after(
    cluster: &Cluster,
    name: &str,
    pause: Duration,
    watched: Option<String>,
    slow: Option<Instant>,
) -> Result<Seen, ClusterError> {
    let pause = tokio::time::sleep(pause.mul_f64(0.75 + jitter() / 2.0));
    let mut may_watch = true;
    let mut changed = None;
    match watched {
        None => pause.await,
        Some(version) => {
            match tokio::time::timeout(WATCH, cluster.changed(name, &version)).await {
                Ok(Ok(Change::Changed(pod))) => changed = Some(*pod),
                // Silence may be the watch's own fault, and events come without a change.
                Err(_) | Ok(Ok(Change::Gone)) => {}
                Ok(Ok(Change::None)) => pause.await,
                Ok(Err(error)) => {
                    may_watch = !error.is_forbidden();
                    pause.await;
                }
            }
        }
    }
    let pod = match changed {
        Some(pod) => Some(pod),
        None => cluster.get::<Pod>(name).await?,
    };
    let evidence = match &pod {
        Some(pod) if slow.is_some_and(|slow| Instant::now() >= slow) => {
            Some(cluster.evidence(pod).await)
        }
        _ => None,
    };
    Ok(Seen {
        pod,
        evidence,
        may_watch,
    })
}
