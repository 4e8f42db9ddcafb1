//! A connection to the relay in a pod.

use std::io;
use std::time::{Duration, Instant};

use super::api::Api;
use crate::cluster::{Cluster, ClusterError, Exec};
use crate::spool::signals::Signals;
use crate::spool::tree::{BINARY, HOOK_MOUNT, SPOOL_MOUNT};
use crate::transport::frame::{self, Decoder, Frame, Kind};

/// A relay says every second that it is alive.
const MUTE: Duration = Duration::from_secs(15);
/// It ends when it has heard nothing for a minute.
const PING: Duration = Duration::from_secs(5);
/// How long a relay that has all it needs may take to say so.
const GOODBYE: Duration = Duration::from_secs(2);

/// No pod starts sooner after it was created.
const EARLIEST: Duration = Duration::from_millis(300);
/// How often it is tried to start a relay in one that may not have started yet, and the pauses between.
const EARLY_TRIES: u32 = 20;
const EARLY_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no more to come.
#[derive(Debug)]
pub enum LinkError {
    /// The connection broke, or nobody is there: another may stand.
    Lost(String),
    /// The API server or the relay said no.
    Refused(String),
    /// A signal of the runner came first.
    Cancelled,
}

/// The words by which a pod's relay is called.
#[must_use]
pub fn relay() -> Vec<String> {
    let program = format!("{HOOK_MOUNT}/{BINARY}");
    vec![program, "relay".to_owned(), SPOOL_MOUNT.to_owned()]
}

/// What came.
#[derive(Debug)]
pub enum Event {
    /// A frame.
    Frame(Frame),
    /// The supervisor has been silent for so long.
    Beat(Duration),
    /// Nothing, for now.
    Nothing,
}

/// A connection, and the relay at its other end.
#[derive(Debug)]
pub struct Link<'a> {
    api: &'a Api,
    exec: Exec,
    decoder: Decoder,
    heard: Instant,
    pinged: Instant,
}

/// Starts a relay in a container of a pod that was just created, as soon as that runs. Never, when it
/// is late: what keeps it is for others to tell.
///
/// The runtime knows that a container runs up to a second before the API server does, because the
/// kubelet asks it once a second (kubernetes v1.36, `pkg/kubelet/kubelet.go`,
/// `genericPlegRelistPeriod`), and an exec asks the runtime.
pub async fn start_early_relay(cluster: &Cluster, pod: &str, container: &str) -> Exec {
    tokio::time::sleep(EARLIEST).await;
    for _ in 0..EARLY_TRIES {
        if let Ok(exec) = cluster.exec(pod, container, &relay()).await {
            return exec;
        }
        tokio::time::sleep(EARLY_PAUSE).await;
    }
    std::future::pending().await
}

impl<'a> Link<'a> {
    /// Starts a relay in a container of the pod.
    pub fn open(
        api: &'a Api,
        pod: &str,
        container: &str,
        relay: &[String],
    ) -> Result<Self, LinkError> {
        let exec =
            api.run(api.cluster.exec(pod, container, relay))
                .map_err(|error| match &error {
                    // The pod itself will tell what is the matter with it.
                    ClusterError::Refused { code, .. } if *code == 401 || *code == 403 => {
                        LinkError::Refused(error.to_string())
                    }
                    _ => LinkError::Lost(error.to_string()),
                })?;
        Ok(Self::to(api, exec))
    }

    /// To a relay that runs.
    #[must_use]
    pub fn to(api: &'a Api, exec: Exec) -> Self {
        Self {
            api,
            exec,
            decoder: Decoder::default(),
            heard: Instant::now(),
            pinged: Instant::now(),
        }
    }

    /// Sends a frame. Waits while the relay does not take it.
    pub fn send(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), LinkError> {
        let exec = &mut self.exec;
        let header = frame::header(kind, bytes.len());
        let sent = self.api.run(async {
            tokio::time::timeout(MUTE * 2, exec.write(&[&header, bytes]))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        });
        self.pinged = Instant::now();
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(self.lost(&format!("it takes nothing any more: {error}"))),
        }
    }

    /// Sends a value.
    pub fn send_json(
        &mut self,
        kind: Kind,
        value: &impl serde::Serialize,
    ) -> Result<(), LinkError> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| LinkError::Refused(format!("encode a request: {error}")))?;
        self.send(kind, &bytes)
    }

    /// What came, waiting for it no longer than `wait`.
    pub fn next(&mut self, wait: Duration) -> Result<Event, LinkError> {
        if self.pinged.elapsed() >= PING {
            self.send(Kind::Ping, &[])?;
        }
        loop {
            match self.decoder.take() {
                Ok(Some(frame)) => return Self::event(frame),
                Ok(None) => {}
                Err(error) => return Err(LinkError::Refused(error.to_string())),
            }
            let exec = &mut self.exec;
            let read = self
                .api
                .run(async { tokio::time::timeout(wait, exec.read()).await });
            match read {
                Err(_) if self.heard.elapsed() >= MUTE => {
                    return Err(LinkError::Lost(format!(
                        "nothing came over the connection for {} s",
                        MUTE.as_secs()
                    )));
                }
                Err(_) => return Ok(Event::Nothing),
                Ok(Ok(bytes)) if bytes.is_empty() => return Err(self.lost("it was closed")),
                Ok(Ok(bytes)) => {
                    self.heard = Instant::now();
                    self.decoder.push(&bytes);
                }
                Ok(Err(error)) => return Err(self.lost(&error.to_string())),
            }
        }
    }

    fn event(frame: Frame) -> Result<Event, LinkError> {
        match frame.kind {
            Kind::Failed => Err(LinkError::Refused(
                String::from_utf8_lossy(&frame.bytes).into_owned(),
            )),
            Kind::Beat => Ok(Event::Beat(Duration::from_secs(
                frame.number().unwrap_or(0),
            ))),
            _ => Ok(Event::Frame(frame)),
        }
    }

    /// The end of the connection: what the relay said last counts more than how it ended.
    fn lost(&mut self, how: &str) -> LinkError {
        loop {
            match self.decoder.take() {
                Ok(Some(frame)) if frame.kind == Kind::Failed => {
                    return LinkError::Refused(String::from_utf8_lossy(&frame.bytes).into_owned());
                }
                Ok(Some(_)) => {}
                _ => break,
            }
            let read = self.exec.read();
            let read = self
                .api
                .run(async { tokio::time::timeout(Duration::from_millis(200), read).await });
            match read {
                Ok(Ok(bytes)) if !bytes.is_empty() => self.decoder.push(&bytes),
                _ => break,
            }
        }
        let words = self.api.run(self.exec.last_words());
        LinkError::Lost(if words.is_empty() {
            format!("the connection broke: {how}")
        } else {
            format!("the connection broke: {how} ({words})")
        })
    }

    /// The next frame, which must be of that kind. A signal ends the wait.
    pub fn expect(&mut self, kind: Kind, signals: Option<&Signals>) -> Result<Frame, LinkError> {
        loop {
            if signals.is_some_and(|signals| signals.received().is_some()) {
                return Err(LinkError::Cancelled);
            }
            match self.next(Duration::from_millis(50))? {
                Event::Frame(frame) if frame.kind == kind => return Ok(frame),
                Event::Frame(frame) => {
                    return Err(LinkError::Refused(format!(
                        "talk to the relay: {:?} came in place of {kind:?}",
                        frame.kind
                    )));
                }
                Event::Beat(_) | Event::Nothing => {}
            }
        }
    }

    /// Tells the relay that all has arrived, and waits until it has forgotten the step. Its own end
    /// would be told much later.
    pub fn finish(mut self) {
        if self.send(Kind::Done, &[]).is_err() {
            return;
        }
        let end = Instant::now() + GOODBYE;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.next(left) {
                Ok(Event::Frame(frame)) if frame.kind == Kind::Accepted => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}
