//! The pod's end of a step's connection: it plays the hook's part at the spool.
//!
//! One process per connection. It ends when its connection does; the step goes on, and the next
//! relay takes it over where the log broke off.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::changes::{LIMITS, Limits, NO_LIMITS, Sender};
use super::connection::{Archive, BEAT, Connection, Log};
use super::entry::{Entries, Entry, Kind as What};
use super::extract::Extractor;
use super::frame::{Begin, Fetch, Frame, Hello, Kind, PIECE, Root, Selection};
use super::manifest::{Changed, Manifest};
use super::walk::Walk;
use crate::spool::client::{Liveness, RunningStep, StepError};
use crate::spool::directory::Directory;
use crate::spool::{Exit, Nonce, PROTOCOL, READY, RECORD_LIMIT, StepRequest};

/// How often a record is looked for that will come soon.
const LOOK: Duration = Duration::from_millis(5);
/// Written beside the program once the runner's other programs have been copied.
pub const EXTERNALS: &str = "externals.complete";

/// What the relay is told when it starts.
#[derive(Debug, Clone, clap::Args)]
pub struct RelayArgs {
    /// Directory of the spool
    spool: PathBuf,
    /// Where a directory of the container is, if it is not there
    #[arg(long = "map", value_name = "PATH=PATH", hide = true)]
    maps: Vec<String>,
    /// How long the hook may say nothing, in seconds; it pings every few
    #[arg(long, value_name = "SECONDS", default_value_t = 60, hide = true)]
    silence: u64,
}

impl RelayArgs {
    /// Serves one connection.
    ///
    /// # Errors
    /// The connection broke, or what was asked for could not be done; then the hook has been told.
    pub fn run(&self) -> anyhow::Result<()> {
        let (connection, incoming) = Connection::open(Duration::from_secs(self.silence))?;
        connection.begin_to_beat(Directory::open(&self.spool)?);
        let relay = Relay {
            connection: &connection,
            incoming,
            spool: Directory::open(&self.spool)?,
            manifest: Manifest::of(&self.spool),
            args: self,
        };
        let served = relay.serve();
        if let Err(error) = &served {
            let _ = connection.send(Kind::Failed, format!("{error:#}").as_bytes());
        }
        served
    }

    /// Where a directory of the container is.
    fn locate(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        for (from, to) in self.maps.iter().filter_map(|map| map.split_once('=')) {
            if let Ok(below) = path.strip_prefix(from) {
                return Path::new(to).join(below);
            }
        }
        path.to_owned()
    }
}

/// The hook is told how silent the supervisor is, and judges.
struct Told;

impl Liveness for Told {
    fn examine(&mut self, _: Duration) -> Option<anyhow::Error> {
        None
    }

    fn why_ended(&mut self) -> anyhow::Error {
        anyhow::anyhow!("the hook knows")
    }
}

struct Relay<'a> {
    connection: &'a Arc<Connection>,
    incoming: Receiver<Frame>,
    spool: Directory,
    manifest: Manifest,
    args: &'a RelayArgs,
}

impl Relay<'_> {
    /// The next frame. A hook that says nothing for too long is gone, though the connection stands.
    fn next(&self) -> anyhow::Result<Frame> {
        loop {
            match self.incoming.recv_timeout(BEAT) {
                Ok(frame) => return Ok(frame),
                Err(RecvTimeoutError::Timeout) if !self.connection.is_lost() => {}
                Err(_) => bail!("the hook is gone"),
            }
        }
    }

    fn serve(&self) -> anyhow::Result<()> {
        let begin = self.begin()?;
        let ready = self.ready()?;
        for id in &begin.orphans {
            RunningStep::orphan(&self.spool, id)?;
        }
        let known = begin
            .step
            .as_ref()
            .is_some_and(|id| RunningStep::is_known(&self.spool, id));
        self.connection.json(
            Kind::Hello,
            &Hello {
                protocol: PROTOCOL,
                known,
                manifest: self.manifest.id()?,
                ready,
            },
        )?;
        let request = if known { None } else { self.receive(&begin)? };
        match &begin.step {
            None => {
                self.connection.send(Kind::Accepted, &[])?;
                self.give_back(&begin, None)
            }
            Some(id) => {
                let mut step = self.hand_over(&begin, id, request)?;
                let exit = self.follow(&mut step)?;
                self.connection.json(Kind::Exit, &exit)?;
                self.give_back(&begin, Some(&step))
            }
        }
    }

    fn begin(&self) -> anyhow::Result<Begin> {
        #[derive(serde::Deserialize)]
        struct Version {
            protocol: u32,
            version: String,
        }
        let frame = self.next()?;
        if frame.kind != Kind::Begin {
            bail!("talk to the hook: it begins with something else than its version");
        }
        let version: Version =
            serde_json::from_slice(&frame.bytes).context("read the hook's version")?;
        if version.protocol != PROTOCOL {
            bail!(
                "talk to the job's pod: it was made by version {} of arc-hook, and this hook is \
                 version {}; the runner image changed while the job ran, run the job again",
                env!("CARGO_PKG_VERSION"),
                version.version
            );
        }
        serde_json::from_slice(&frame.bytes).context("read what the hook wants")
    }

    /// Waits for the supervisor's first record.
    fn ready(&self) -> anyhow::Result<serde_json::Value> {
        loop {
            if let Some(bytes) = self.spool.read(READY, RECORD_LIMIT)? {
                return serde_json::from_slice(&bytes).context("read the supervisor's record");
            }
            self.pause()?;
        }
    }

    fn pause(&self) -> anyhow::Result<()> {
        if self.connection.is_lost() {
            bail!("the hook is gone");
        }
        std::thread::sleep(LOOK);
        Ok(())
    }

    fn roots(&self, roots: &[Root]) -> Vec<(String, PathBuf)> {
        let mut roots: Vec<_> = roots
            .iter()
            .map(|root| (root.name.clone(), self.args.locate(&root.path)))
            .collect();
        roots.sort();
        roots
    }

    /// Takes in what the hook sends before a step. The request comes last.
    fn receive(&self, begin: &Begin) -> anyhow::Result<Option<StepRequest>> {
        let mut extractor: Option<Extractor> = None;
        let mut intake = self.manifest.intake();
        let mut request = None;
        loop {
            let frame = self.next()?;
            match frame.kind {
                Kind::Manifest => intake.take_in(&frame.bytes)?,
                Kind::Archive => {
                    intake.complete()?;
                    let extractor = match &mut extractor {
                        Some(extractor) => extractor,
                        none => none.insert(self.extractor(begin)?),
                    };
                    extractor
                        .feed(&frame.bytes)
                        .context("write the runner's files in the job's pod")?;
                }
                Kind::Request => {
                    let parsed = serde_json::from_slice(&frame.bytes);
                    request = Some(parsed.context("read the step's request")?);
                }
                kind => bail!("talk to the hook: {kind:?} came before the step"),
            }
            let complete = extractor.as_ref().is_some_and(Extractor::has_ended);
            if complete && (request.is_some() || begin.step.is_none()) {
                break;
            }
        }
        if let Some(change) = extractor.and_then(|extractor| extractor.finish().1) {
            change.finish()?.commit()?;
        }
        Ok(request)
    }

    fn extractor(&self, begin: &Begin) -> anyhow::Result<Extractor> {
        let mut roots = Vec::new();
        for (name, path) in self.roots(&begin.roots) {
            roots.push((name, Directory::open(&path)?));
        }
        let change = match &begin.manifest {
            Some(id) => Some(self.manifest.change(id)?),
            None => None,
        };
        let kept: Vec<&str> = begin.kept.iter().map(String::as_str).collect();
        Ok(Extractor::new(roots, NO_LIMITS, change, &kept))
    }

    /// Hands the step over, or takes it over from another relay.
    fn hand_over(
        &self,
        begin: &Begin,
        id: &Nonce,
        request: Option<StepRequest>,
    ) -> anyhow::Result<RunningStep> {
        let mut step = match request {
            None => RunningStep::take_over(id.clone(), self.spool.again()?)?,
            Some(request) => {
                while begin.externals && !self.has_externals()? {
                    if self.connection.is_cancelled() {
                        bail!("the step was cancelled before it began");
                    }
                    self.pause()?;
                }
                if self.connection.is_lost() {
                    bail!("the hook is gone");
                }
                RunningStep::submit_as(id.clone(), self.spool.again()?, &request, false).or_else(
                    |error| match error {
                        // Another relay was faster.
                        StepError::File(_) if RunningStep::is_known(&self.spool, id) => {
                            RunningStep::take_over(id.clone(), self.spool.again()?)
                        }
                        error => Err(error),
                    },
                )?
            }
        };
        self.connection
            .arrived
            .fetch_max(begin.offset, Ordering::AcqRel);
        step.relay_from(begin.offset, Arc::clone(&self.connection.arrived));
        // The relay before this one may still have it.
        if !step.hold() {
            let lock = step.lock().context("hold the step's lock")?;
            self.connection.hold_when_free(lock);
        }
        self.connection.send(Kind::Accepted, &[])?;
        Ok(step)
    }

    fn has_externals(&self) -> anyhow::Result<bool> {
        let marker = self.args.locate("/__hook").join(EXTERNALS);
        let Ok(failure) = std::fs::read_to_string(marker) else {
            return Ok(false);
        };
        if !failure.is_empty() {
            bail!(
                "run a JavaScript action: the runner's `externals` could not be copied: {failure}"
            );
        }
        Ok(true)
    }

    fn follow(&self, step: &mut RunningStep) -> anyhow::Result<Exit> {
        let signals = self
            .connection
            .signals()
            .context("follow the step: it was followed before")?;
        let followed = step.follow(&mut Log(self.connection), &signals, &mut Told);
        if let Err(StepError::Stuck) = followed {
            // The hook counts for itself, and says so.
            loop {
                self.pause()?;
            }
        }
        Ok(followed?)
    }

    /// Sends what the hook wants back, until it is content.
    fn give_back(&self, begin: &Begin, step: Option<&RunningStep>) -> anyhow::Result<()> {
        let mut intake = self.manifest.intake();
        let mut changed: Option<Changed> = None;
        let mut discard = Vec::new();
        loop {
            let frame = self.next()?;
            match frame.kind {
                Kind::Manifest => intake.take_in(&frame.bytes)?,
                Kind::Fetch => {
                    intake.complete()?;
                    let fetch: Fetch =
                        serde_json::from_slice(&frame.bytes).context("read what is wanted back")?;
                    changed = self.fetch(begin, &fetch)?;
                    discard = fetch.discard;
                }
                Kind::Done => {
                    if let Some(changed) = changed.take() {
                        changed.commit()?;
                    }
                    if let Some(step) = step {
                        step.collect_relayed();
                    }
                    let roots = self.roots(&begin.roots);
                    for path in discard {
                        if let Some((root, name)) = path.split_once('/')
                            && let Some((_, root)) = roots.iter().find(|(known, _)| known == root)
                        {
                            let _ = std::fs::remove_file(root.join(name));
                        }
                    }
                    // A hook that does not wait for it has all the same what it needs.
                    let _ = self.connection.send(Kind::Accepted, &[]);
                    return Ok(());
                }
                kind => bail!("talk to the hook: {kind:?} came after the step"),
            }
        }
    }

    /// Sends file commands and what changed of the wanted directories. The manifest that comes of
    /// it counts when the hook has it all.
    fn fetch(&self, begin: &Begin, fetch: &Fetch) -> anyhow::Result<Option<Changed>> {
        let have = self.manifest.id()?;
        if fetch.since.is_some() && fetch.since != have {
            self.connection.json(
                Kind::Hello,
                &Hello {
                    protocol: PROTOCOL,
                    known: true,
                    manifest: have,
                    ready: serde_json::Value::Null,
                },
            )?;
            return Ok(None);
        }
        let all = self.roots(&begin.roots);
        let limits = if fetch.bounded { LIMITS } else { NO_LIMITS };
        let out = Archive(self.connection);
        let mut sender = Sender::new(io::BufWriter::with_capacity(PIECE, out));
        if let Some((_, commands)) = all.iter().find(|(name, _)| name == "commands") {
            send_commands(&mut sender, commands, &fetch.commands, limits)?;
        }
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|(name, _)| fetch.roots.contains(name))
            .collect();
        if fetch.since.is_some() {
            sender.note_in(self.manifest.change(&fetch.next)?);
        }
        if fetch.selection != Selection::None {
            for root in wanted {
                let roots = [root];
                let walk = Walk::new(&roots, fetch.selection);
                let within = Some(roots[0].0.as_str());
                if fetch.since.is_some() {
                    let mut known = self.manifest.entries()?;
                    sender.differences(&mut known, within, walk, &roots, limits)?;
                } else {
                    let mut known = Entries::new(io::empty());
                    sender.differences(&mut known, within, walk, &roots, limits)?;
                }
            }
        }
        Ok(sender.finish()?)
    }
}

fn send_commands<W: Write>(
    sender: &mut Sender<W>,
    directory: &Path,
    names: &[String],
    limits: Limits,
) -> io::Result<()> {
    let mut names = names.to_vec();
    names.sort();
    for name in &names {
        let path = format!("commands/{name}");
        let entry = Entry::bare(What::File, path.into_bytes());
        sender.file(entry, &directory.join(name), limits)?;
    }
    Ok(())
}
