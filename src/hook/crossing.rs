//! One step on its way to a pod and back, over as many connections as it takes.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::link::{Event, Link, LinkError};
use super::output;
use crate::cluster::jitter;
use crate::spool::client::{Liveness, StepError};
use crate::spool::signals::Signals;
use crate::spool::{Exit, Nonce, PROTOCOL, StepRequest};
use crate::transport::entry::Reason;
use crate::transport::frame::{Hello, Kind};
use crate::transport::manifest::Changed;

/// From the runner's first signal to giving up on a step's own end, as in [`client`].
const CANCEL_DEADLINE: Duration = Duration::from_secs(6);
/// How long the runner's other programs may take to be copied.
const EXTERNALS: Duration = Duration::from_mins(10);
/// How often the relay is told how much of the log arrived.
const ACKNOWLEDGE: u64 = 1 << 20;
/// Silence of the supervisor that calls for a look at its pod.
const SILENCE: Duration = Duration::from_secs(5);
/// How often it is looked at.
const EXAMINE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(3);
/// How long one look for something new takes.
pub(super) const WAIT: Duration = Duration::from_millis(50);

/// A step on its way.
pub(super) struct Crossing<'s> {
    pub request: &'s StepRequest,
    pub id: Nonce,
    /// Name of the manifest once the pod has what the runner has.
    pub next: Nonce,
    /// The same for what the runner has afterwards.
    pub last: Nonce,
    pub scripts: Vec<String>,
    pub externals: bool,
    pub orphans: Vec<Nonce>,
    /// Bytes of the log that were handed on.
    pub offset: u64,
    pub told: u64,
    /// The request was sent: the step may run.
    pub sent: bool,
    pub accepted: bool,
    /// What the manifest becomes once the step is accepted.
    pub pending: Option<Changed>,
    pub exit: Option<Exit>,
    pub give_up: Option<Instant>,
    pub examined: Instant,
}

/// Why an attempt ended.
pub(super) enum Break {
    Link(LinkError),
    Step(StepError),
    Files(anyhow::Error),
}

impl From<LinkError> for Break {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<StepError> for Break {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<anyhow::Error> for Break {
    fn from(error: anyhow::Error) -> Self {
        Self::Files(error)
    }
}

/// Obeys a signal of the runner: the step is cancelled, and given up some time after.
pub(super) fn look_at_signals(
    crossing: &mut Crossing<'_>,
    signals: &Signals,
    link: Option<&mut Link<'_>>,
) -> Result<(), Break> {
    if crossing.give_up.is_none() && signals.received().is_some() {
        crossing.give_up = Some(Instant::now() + CANCEL_DEADLINE);
        if let Some(link) = link {
            link.send(Kind::Cancel, &[])?;
        }
    }
    if crossing.give_up.is_some_and(|at| Instant::now() >= at) {
        return Err(StepError::Stuck.into());
    }
    Ok(())
}

pub(super) fn hello(bytes: &[u8]) -> Result<Hello, Break> {
    #[derive(serde::Deserialize)]
    struct Version {
        protocol: u32,
    }
    let malformed = |error: serde_json::Error| StepError::Record {
        record: "hello",
        reason: error.to_string(),
    };
    let version: Version = serde_json::from_slice(bytes).map_err(malformed)?;
    if version.protocol != PROTOCOL {
        return Err(StepError::Version {
            found: version.protocol,
        }
        .into());
    }
    Ok(serde_json::from_slice(bytes).map_err(malformed)?)
}

pub(super) fn commit(changed: Option<Changed>) -> anyhow::Result<()> {
    match changed {
        Some(changed) => changed.commit().context("write the manifest"),
        None => Ok(()),
    }
}

/// Names what did not come. A file command that did not is a failure.
pub(super) fn tell_left(named: &[(String, Reason)], count: u64) -> anyhow::Result<()> {
    for (path, reason) in named {
        let why = match reason {
            Reason::TooLarge => "it is larger than 100 MiB",
            Reason::TooMuch => "the files before it take 2 GiB",
            Reason::Unreadable => "the job's user may not read it",
        };
        if let Some(name) = path.strip_prefix("commands/") {
            anyhow::bail!("copy the file command `{name}` to the runner: {why}");
        }
        let name = path.strip_prefix("workspace/").unwrap_or(path);
        output::line(&format!("`{name}` stays in the job's pod: {why}"));
    }
    let others = count.saturating_sub(named.len() as u64);
    if others > 0 {
        output::line(&format!("{others} more files stay in the job's pod"));
    }
    Ok(())
}

/// Pauses longer each time, jittered, so that the hooks of a scale set do not come back together.
pub(super) fn rest(pause: &mut Duration) {
    std::thread::sleep(pause.mul_f64(0.5 + jitter() / 2.0));
    *pause = (*pause * 2).min(LAST_PAUSE);
}

pub(super) fn await_acceptance(
    link: &mut Link<'_>,
    crossing: &mut Crossing<'_>,
    signals: &Signals,
) -> Result<(), Break> {
    let deadline = Instant::now() + EXTERNALS;
    loop {
        look_at_signals(crossing, signals, Some(link))?;
        match link.next(WAIT)? {
            Event::Frame(frame) if frame.kind == Kind::Accepted => break,
            Event::Frame(frame) => {
                let text = format!("talk to the relay: {:?} came too early", frame.kind);
                return Err(LinkError::Refused(text).into());
            }
            Event::Beat(_) | Event::Nothing => {}
        }
        if Instant::now() >= deadline {
            let text = "start the step: the pod has not begun it within 10 minutes; are the \
                        runner's `externals` still being copied?";
            return Err(LinkError::Refused(text.to_owned()).into());
        }
    }
    crossing.accepted = true;
    commit(crossing.pending.take())?;
    Ok(())
}

pub(super) fn follow(
    link: &mut Link<'_>,
    crossing: &mut Crossing<'_>,
    log: &mut dyn Write,
    signals: &Signals,
    liveness: &mut dyn Liveness,
) -> Result<Exit, Break> {
    crossing.told = crossing.offset;
    if crossing.give_up.is_some() {
        link.send(Kind::Cancel, &[])?;
    }
    loop {
        look_at_signals(crossing, signals, Some(link))?;
        match link.next(WAIT)? {
            Event::Nothing => log.flush().map_err(StepError::Sink)?,
            Event::Beat(silence) if silence >= SILENCE => {
                if crossing.examined.elapsed() >= EXAMINE {
                    crossing.examined = Instant::now();
                    if let Some(cause) = liveness.examine(silence) {
                        return Err(StepError::Dead(cause).into());
                    }
                }
            }
            Event::Beat(_) => liveness.revived(),
            Event::Frame(frame) if frame.kind == Kind::Log => {
                if let Err(error) = log.write_all(&frame.bytes) {
                    // Nobody listens: the step must not go on unseen.
                    let _ = link.send(Kind::Cancel, &[]);
                    return Err(StepError::Sink(error).into());
                }
                crossing.offset += frame.bytes.len() as u64;
                if crossing.offset - crossing.told >= ACKNOWLEDGE {
                    crossing.told = crossing.offset;
                    link.send(Kind::Got, &crossing.offset.to_le_bytes())?;
                }
            }
            Event::Frame(frame) if frame.kind == Kind::Exit => {
                let record = |reason: String| StepError::Record {
                    record: "exit.json",
                    reason,
                };
                let exit: Exit = serde_json::from_slice(&frame.bytes)
                    .map_err(|error| record(error.to_string()))?;
                if exit.log_bytes != crossing.offset {
                    let reason = format!(
                        "the log has {} bytes of {}",
                        crossing.offset, exit.log_bytes
                    );
                    return Err(record(reason).into());
                }
                log.flush().map_err(StepError::Sink)?;
                return Ok(exit);
            }
            Event::Frame(frame) => {
                let text = format!("talk to the relay: {:?} came with the log", frame.kind);
                return Err(LinkError::Refused(text).into());
            }
        }
    }
}
