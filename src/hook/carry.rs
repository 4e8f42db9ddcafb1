//! What is done over a connection that may break: a pod prepared, a step run, files brought back.
//!
//! A step has its name before it is sent. A connection that breaks is made anew, and goes on at the
//! byte of the log that arrived; a step that was handed over is never sent again.

use std::cell::Cell;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::crossing::{
    Break, Crossing, await_acceptance, commit, follow, hello, look_at_signals, rest,
};
use super::link::{Link, LinkError};
use super::parcel::Parcel;
use super::remote::Remote;
use super::step_files::{self, Returned};
use crate::cluster::Exec;
use crate::spool::client::{self, Liveness, StepError};
use crate::spool::signals::Signals;
use crate::spool::{Exit, GATE, Nonce, Ready, StepRequest};
use crate::transport::frame::{Hello, Kind};

/// How long a step goes on while no relay speaks for its hook.
const ALONE: u32 = 5 * 60;
/// How long connections that break are made anew when only files are to come.
const REFRESH: Duration = Duration::from_mins(5);
/// Pauses between attempts at a connection.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// What stands at the runner's end of a step, whatever becomes of its connections.
struct End<'e> {
    returned: &'e Returned<'e>,
    log: &'e mut dyn Write,
    signals: &'e Signals,
    liveness: &'e mut dyn Liveness,
}

/// What a step left.
#[derive(Debug)]
pub struct Carried {
    /// Its end.
    pub ended: Result<Exit, StepError>,
    /// Directories for `PATH`.
    pub entries: anyhow::Result<Vec<String>>,
}

impl Remote<'_> {
    /// Waits for the supervisor, and gives the pod what the runner has, and `files` besides, each
    /// with its path in archives, by a `relay` that runs, if there is one. `None` when a signal came
    /// first.
    pub fn prepare(
        &self,
        relay: Option<Exec>,
        files: &[(String, PathBuf)],
        signals: &Signals,
        liveness: &mut dyn Liveness,
        within: Duration,
    ) -> anyhow::Result<Option<Ready>> {
        let what = format!("copy the runner's files to pod `{}`", self.pod);
        let relay = Cell::new(relay);
        let once = || self.prepare_once(relay.take(), files, signals);
        persist(&what, within, signals, liveness, once)
    }

    fn prepare_once(
        &self,
        relay: Option<Exec>,
        files: &[(String, PathBuf)],
        signals: &Signals,
    ) -> Result<Ready, Break> {
        let next = Nonce::random().map_err(StepError::Name)?;
        let parcel = self.pack(&next, files.to_vec(), signals)?;
        let mut link = match relay {
            Some(relay) => Link::to(self.api, relay),
            None => self.link()?,
        };
        link.send_json(Kind::Begin, &self.begin(None, &next))?;
        let hello = hello(&link.expect(Kind::Hello, Some(signals))?.bytes)?;
        tracing::debug!("the relay has answered");
        let ready = client::check_ready(hello.ready.to_string().as_bytes(), self.nonce)?;
        let packed = self.send_parcel(&mut link, &hello, parcel, signals)?;
        link.expect(Kind::Accepted, Some(signals))?;
        commit(packed.changed)?;
        link.finish();
        Ok(ready)
    }

    /// Brings file commands, and what changed in the workspace, to the runner, when no step of this
    /// pod has.
    pub fn refresh(&self, returned: &Returned<'_>, signals: &Signals) -> anyhow::Result<()> {
        let what = "take the action's files over to the runner";
        let liveness = &mut self.liveness();
        let once = || self.exchange_once(&[], returned, &[], signals);
        persist(what, REFRESH, signals, liveness, once).map(drop)
    }

    /// Gives the pod what the runner has, and `files` besides, and lets the program start that waits
    /// for them. `false` when a signal came first.
    pub fn open_gate(
        &self,
        files: &[(String, PathBuf)],
        signals: &Signals,
    ) -> anyhow::Result<bool> {
        let what = format!("copy the runner's files to pod `{}`", self.pod);
        let name = Nonce::random().context("make a name for the files")?;
        let nothing = Returned::nothing(self.memory.directory(), &name)?;
        let gate = format!("spool/{GATE}");
        let once = || self.exchange_once(files, &nothing, &[&gate], signals);
        let opened = persist(&what, REFRESH, signals, &mut self.liveness(), once);
        let _ = nothing.hand_over();
        Ok(opened?.is_some())
    }

    fn exchange_once(
        &self,
        files: &[(String, PathBuf)],
        returned: &Returned<'_>,
        discard: &[&str],
        signals: &Signals,
    ) -> Result<(), Break> {
        let name = || Nonce::random().map_err(StepError::Name);
        let (next, last) = (&name()?, &name()?);
        let parcel = self.pack(next, files.to_vec(), signals)?;
        let mut link = self.link()?;
        link.send_json(Kind::Begin, &self.begin(None, next))?;
        let hello = hello(&link.expect(Kind::Hello, Some(signals))?.bytes)?;
        let packed = self.send_parcel(&mut link, &hello, parcel, signals)?;
        link.expect(Kind::Accepted, Some(signals))?;
        commit(packed.changed)?;
        drop(packed.lock);
        let discard = discard.iter().map(|&path| path.to_owned()).collect();
        self.fetch(&mut link, discard, (None, last), returned, signals)?;
        link.finish();
        Ok(())
    }

    /// Runs a step in the pod. What comes back has reached the runner, however it ended.
    pub fn carry(
        &self,
        request: &StepRequest,
        externals: bool,
        log: &mut dyn Write,
        signals: &Signals,
        liveness: &mut dyn Liveness,
    ) -> anyhow::Result<Carried> {
        let name = || Nonce::random().context("make a name for the step");
        let request = StepRequest {
            alone: ALONE,
            ..request.clone()
        };
        let mut crossing = Crossing {
            request: &request,
            id: name()?,
            next: name()?,
            last: name()?,
            scripts: step_files::scripts(&request.argv),
            externals,
            orphans: self.memory.orphaned_steps(),
            offset: 0,
            told: 0,
            sent: false,
            accepted: false,
            pending: None,
            exit: None,
            give_up: None,
            examined: Instant::now(),
        };
        let held = self.memory.hold_step(&crossing.id)?;
        let returned = Returned::begin(self.config, self.memory.directory(), &crossing.id)?;
        let mut end = End {
            returned: &returned,
            log,
            signals,
            liveness,
        };
        let ended = self.cross(&mut crossing, &mut end);
        for orphan in &crossing.orphans {
            self.memory.forget_step(orphan);
        }
        drop(held);
        self.memory.forget_step(&crossing.id);
        let entries = returned.hand_over();
        Ok(match ended {
            Ok(exit) => Carried {
                ended: Ok(exit),
                entries,
            },
            // The step has ended, and what it left is lost.
            Err(Break::Files(error)) => match crossing.exit {
                Some(exit) => Carried {
                    ended: Ok(exit),
                    entries: Err(error),
                },
                None => return Err(error),
            },
            Err(Break::Step(error)) => Carried {
                ended: Err(error),
                entries,
            },
            Err(Break::Link(LinkError::Lost(_) | LinkError::Refused(_)))
                if signals.received().is_some() && !crossing.accepted =>
            {
                Carried {
                    ended: Err(StepError::Cancelled),
                    entries,
                }
            }
            Err(Break::Link(error)) => Carried {
                ended: Err(match error {
                    LinkError::Cancelled => StepError::Cancelled,
                    LinkError::Lost(cause) | LinkError::Refused(cause) => {
                        StepError::Dead(anyhow::anyhow!(cause))
                    }
                }),
                entries,
            },
        })
    }

    /// Makes connections until one has brought everything.
    fn cross(&self, crossing: &mut Crossing<'_>, end: &mut End<'_>) -> Result<Exit, Break> {
        let mut pause = FIRST_PAUSE;
        let mut silent_since = None;
        // What takes the job's files into its pod has shown that the account may do all this.
        self.api.cluster.may_have_been_away();
        loop {
            let offset = (crossing.offset, crossing.accepted);
            let cause = match self.attempt(crossing, end) {
                Err(Break::Link(LinkError::Lost(cause))) => cause,
                ended => return ended,
            };
            tracing::debug!(cause, offset = crossing.offset, "connection lost");
            if silent_since.is_none() {
                self.api.cluster.may_have_been_away();
            }
            if offset != (crossing.offset, crossing.accepted) {
                // It came further than the one before.
                pause = FIRST_PAUSE;
                silent_since = None;
                end.liveness.revived();
            }
            look_at_signals(crossing, end.signals, None)?;
            if crossing.give_up.is_some() && !crossing.sent {
                return Err(LinkError::Cancelled.into());
            }
            let silence = silent_since.get_or_insert_with(Instant::now).elapsed();
            if let Some(death) = end.liveness.examine(silence) {
                return Err(StepError::Dead(death).into());
            }
            rest(&mut pause);
        }
    }

    /// One connection: from handing the step over, or taking it up again, to its end.
    fn attempt(&self, crossing: &mut Crossing<'_>, end: &mut End<'_>) -> Result<Exit, Break> {
        let parcel = if crossing.sent {
            None
        } else {
            Some(self.pack_step(crossing, end)?)
        };
        let mut link = self.link()?;
        link.send_json(Kind::Begin, &self.begin(Some(crossing), &crossing.next))?;
        let waiting = (!crossing.sent).then_some(end.signals);
        let hello = hello(&link.expect(Kind::Hello, waiting)?.bytes)?;
        tracing::debug!("the relay has answered");
        if hello.known {
            drop(parcel);
            crossing.sent = true;
            await_acceptance(&mut link, crossing, end.signals)?;
        } else if crossing.accepted {
            return Err(StepError::Dead(anyhow::anyhow!(
                "pod `{}` does not know the step any more that it had begun; a process of the job \
                 may have removed its files",
                self.pod
            ))
            .into());
        } else {
            let parcel = match parcel {
                Some(parcel) => parcel,
                None => self.pack_step(crossing, end)?,
            };
            self.send_step(&mut link, &hello, crossing, parcel, end.signals)?;
            tracing::debug!(phase = "files copied in");
        }
        let exit = follow(&mut link, crossing, end.log, end.signals, end.liveness)?;
        if crossing.exit.replace(exit.clone()).is_none() {
            tracing::debug!(phase = "step ended", ?exit, "step ended");
        }
        let scripts = crossing.scripts.iter();
        self.fetch(
            &mut link,
            scripts.map(|name| format!("temp/{name}")).collect(),
            (crossing.give_up, &crossing.last),
            end.returned,
            end.signals,
        )?;
        tracing::debug!(phase = "files copied out");
        link.finish();
        Ok(exit)
    }

    fn pack_step(&self, crossing: &Crossing<'_>, end: &End<'_>) -> Result<Parcel, Break> {
        let mut files = end.returned.sent();
        for name in &crossing.scripts {
            files.push((format!("temp/{name}"), self.config.paths.temp.join(name)));
        }
        files.extend(self.event());
        self.pack(&crossing.next, files, end.signals)
    }

    fn send_step(
        &self,
        link: &mut Link<'_>,
        hello: &Hello,
        crossing: &mut Crossing<'_>,
        parcel: Parcel,
        signals: &Signals,
    ) -> Result<(), Break> {
        let packed = self.send_parcel(link, hello, parcel, signals)?;
        crossing.pending = packed.changed;
        let request = serde_json::to_vec(crossing.request).context("encode the request")?;
        crossing.sent = true;
        link.send(Kind::Request, &request)?;
        // Until the step is accepted nobody else may change the manifest.
        await_acceptance(link, crossing, signals)?;
        drop(packed.lock);
        Ok(())
    }
}

/// Does something that takes one whole connection, on as many as it takes. `None` when a signal
/// came first.
fn persist<T>(
    what: &str,
    within: Duration,
    signals: &Signals,
    liveness: &mut dyn Liveness,
    once: impl Fn() -> Result<T, Break>,
) -> anyhow::Result<Option<T>> {
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let cause = match once() {
            Ok(done) => return Ok(Some(done)),
            Err(Break::Link(LinkError::Cancelled)) => return Ok(None),
            Err(Break::Link(LinkError::Lost(cause))) => cause,
            Err(Break::Link(LinkError::Refused(cause))) => anyhow::bail!(cause),
            Err(Break::Step(error)) => return Err(error.into()),
            Err(Break::Files(error)) => return Err(error),
        };
        tracing::debug!(cause, "connection lost");
        if signals.received().is_some() {
            return Ok(None);
        }
        if let Some(death) = liveness.examine(begun.elapsed()) {
            return Err(death);
        }
        if begun.elapsed() >= within {
            anyhow::bail!(
                "{what}: {cause}, again and again for {} s",
                within.as_secs()
            );
        }
        rest(&mut pause);
    }
}
