//! Files on their way from pod to pod, for container actions and for jobs that are kept: out of one
//! relay, into another, with no more of them in memory than a few pieces.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use thiserror::Error;

use super::crossing::rest;
use super::link::{Event, LinkError};
use super::remote::Remote;
use crate::spool::Nonce;
use crate::spool::client::Liveness as _;
use crate::spool::signals::Signals;
use crate::transport::entry::{Entry, Kind as What};
use crate::transport::frame::{Begin, Fetch, Kind, Selection};

/// What an action's pod has of the job's.
pub const SHARED: [&str; 3] = ["home", "temp", "workspace"];
/// How often both ends are looked at when nothing moves.
const WAIT: Duration = Duration::from_millis(10);
/// How long a connection that breaks is made anew.
const PATIENCE: Duration = Duration::from_mins(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Which way, and what of it.
#[derive(Debug)]
pub struct Transfer<'t> {
    /// Where files come from.
    pub from: &'t Remote<'t>,
    /// Where they go.
    pub to: &'t Remote<'t>,
    /// The directories, by the names that both give them.
    pub roots: &'t [&'t str],
    /// Name of the sender's manifest since which changes count; all files when absent.
    pub since: Option<&'t Nonce>,
    /// Name of the receiver's manifest of what it has got.
    pub noted: Option<&'t Nonce>,
    /// How much it may be; what a job's own actions need has no bound.
    /// Most bytes that it may be; what a job's own actions need has no bound.
    pub most: Option<u64>,
}

/// It is more than so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the files are more than {0} bytes")]
pub struct TooMuch(pub u64);

/// Why an attempt ended early.
enum Stop {
    Link(LinkError),
    TooMuch(TooMuch),
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl Transfer<'_> {
    /// Does it, on as many connections as it takes. `false` when a signal came first.
    pub fn run(&self, signals: &Signals) -> anyhow::Result<bool> {
        self.persist(signals).with_context(|| {
            let (from, to) = (self.from.pod, self.to.pod);
            format!("copy files from pod `{from}` to pod `{to}`")
        })
    }

    fn persist(&self, signals: &Signals) -> anyhow::Result<bool> {
        let begun = Instant::now();
        let mut ends = [self.from.liveness(), self.to.liveness()];
        let mut pause = FIRST_PAUSE;
        loop {
            let cause = match self.once(signals) {
                Ok(()) => return Ok(true),
                Err(Stop::TooMuch(error)) => return Err(error.into()),
                Err(Stop::Link(LinkError::Cancelled)) => return Ok(false),
                Err(Stop::Link(LinkError::Lost(_))) if signals.received().is_some() => {
                    return Ok(false);
                }
                Err(Stop::Link(LinkError::Lost(cause))) => cause,
                Err(Stop::Link(LinkError::Refused(cause))) => bail!(cause),
            };
            tracing::debug!(cause, "connection lost");
            for end in &mut ends {
                if let Some(death) = end.examine(begun.elapsed()) {
                    return Err(death);
                }
            }
            if begun.elapsed() >= PATIENCE {
                bail!(cause);
            }
            rest(&mut pause);
        }
    }

    fn once(&self, signals: &Signals) -> Result<(), Stop> {
        let signals = Some(signals);
        let mut from = self.from.link()?;
        let mut to = self.to.link()?;
        from.send_json(Kind::Begin, &self.begin(self.from, None))?;
        to.send_json(Kind::Begin, &self.begin(self.to, self.noted))?;
        from.expect(Kind::Hello, signals)?;
        to.expect(Kind::Hello, signals)?;
        let mut nothing = Vec::new();
        Entry::bare(What::End, Vec::new()).encode(&mut nothing);
        from.send(Kind::Archive, &nothing)?;
        from.expect(Kind::Accepted, signals)?;
        let next =
            Nonce::random().map_err(|error| LinkError::Refused(format!("make a name: {error}")))?;
        from.send_json(
            Kind::Fetch,
            &Fetch {
                commands: Vec::new(),
                roots: names(self.roots),
                selection: Selection::All,
                since: self.since.cloned(),
                next,
                bounded: false,
                discard: Vec::new(),
            },
        )?;
        let mut bytes = 0;
        loop {
            if signals.is_some_and(|signals| signals.received().is_some()) {
                return Err(LinkError::Cancelled.into());
            }
            match from.next(WAIT)? {
                Event::Frame(frame) if frame.kind == Kind::Archive => {
                    bytes += frame.bytes.len() as u64;
                    if let Some(most) = self.most.filter(|most| bytes > *most) {
                        return Err(Stop::TooMuch(TooMuch(most)));
                    }
                    to.send(Kind::Archive, &frame.bytes)?;
                    continue;
                }
                Event::Frame(frame) => {
                    let text = format!("talk to the relay: {:?} came with files", frame.kind);
                    return Err(LinkError::Refused(text).into());
                }
                Event::Beat(_) | Event::Nothing => {}
            }
            match to.next(WAIT)? {
                Event::Frame(frame) if frame.kind == Kind::Accepted => break,
                Event::Frame(frame) => {
                    let text = format!("talk to the relay: {:?} came too early", frame.kind);
                    return Err(LinkError::Refused(text).into());
                }
                Event::Beat(_) | Event::Nothing => {}
            }
        }
        to.finish();
        from.finish();
        Ok(())
    }

    fn begin(&self, remote: &Remote<'_>, noted: Option<&Nonce>) -> Begin {
        Begin {
            kept: names(self.roots),
            manifest: noted.cloned(),
            ..remote.begin(None, remote.nonce)
        }
    }
}

fn names(roots: &[&str]) -> Vec<String> {
    roots.iter().map(|&name| name.to_owned()).collect()
}
