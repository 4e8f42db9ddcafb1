//! A pod that shares no volume with the runner: what changed crosses before and after each step,
//! over one connection, which may break.
//!
//! A step has its name before it is sent. A connection that breaks is made anew, and goes on at the
//! byte of the log that arrived; a step that was handed over is never sent again.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::api::Api;
use super::crossing::{
    Break, Crossing, WAIT, await_acceptance, commit, follow, hello, look_at_signals, rest,
    tell_left,
};
use super::link::{Event, Link, LinkError};
use super::step_files::{self, Returned};
use crate::config::Config;
use crate::record::{JobRecord, Memory};
use crate::spool::client::{self, Liveness, StepError};
use crate::spool::directory::Directory;
use crate::spool::signals::Signals;
use crate::spool::tree::SPOOL_MOUNT;
use crate::spool::{Exit, Nonce, PROTOCOL, Ready, StepRequest};
use crate::transport::changes::{LIMITS, NO_LIMITS, Sender};
use crate::transport::entry::{Entry, Kind as What};
use crate::transport::extract::Extractor;
use crate::transport::frame::{Begin, Fetch, Hello, Kind, PIECE, Root, Selection};
use crate::transport::manifest::{Changed, Manifest};
use crate::transport::walk::Walk;

/// How long a step goes on while no relay speaks for its hook.
const ALONE: u32 = 5 * 60;
/// How long connections that break are made anew when only files are to come.
const REFRESH: Duration = Duration::from_mins(5);
/// Pauses between attempts at a connection.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A pod and the files that it shares with the runner by copying them.
#[derive(Debug)]
pub struct Remote<'a> {
    /// The connection to the API server.
    pub api: &'a Api,
    /// The hook's configuration.
    pub config: &'a Config,
    /// Where the manifest is.
    pub memory: &'a Memory,
    /// The pod.
    pub pod: &'a str,
    /// Its nonce.
    pub nonce: &'a Nonce,
    /// Where the directories are in its container.
    pub roots: Vec<Root>,
    /// Directories of the runner that the pod is to have, in order.
    pub sources: Vec<(String, PathBuf)>,
}

/// What a step left.
#[derive(Debug)]
pub struct Carried {
    /// Its end.
    pub ended: Result<Exit, StepError>,
    /// Directories for `PATH`.
    pub entries: anyhow::Result<Vec<String>>,
}

impl<'a> Remote<'a> {
    /// The job's pod.
    #[must_use]
    pub fn of_job(
        api: &'a Api,
        config: &'a Config,
        memory: &'a Memory,
        job: &'a JobRecord,
    ) -> Self {
        let paths = &config.paths;
        let below = paths.workspace_below_work().unwrap_or(Path::new(""));
        let roots = [
            ("actions", "/__w/_actions".to_owned()),
            ("commands", "/__w/_temp/_runner_file_commands".to_owned()),
            ("home", "/github/home".to_owned()),
            ("spool", SPOOL_MOUNT.to_owned()),
            ("temp", "/__w/_temp".to_owned()),
            ("tools", "/__w/_tool".to_owned()),
            ("workflow", "/github/workflow".to_owned()),
            (
                "workspace",
                Path::new("/__w").join(below).display().to_string(),
            ),
        ];
        let sources = [
            ("actions", paths.work.join("_actions")),
            ("tools", paths.tools.clone()),
            ("workflow", paths.temp.join("_github_workflow")),
            ("workspace", paths.workspace.clone()),
        ];
        Self {
            api,
            config,
            memory,
            pod: &job.pod,
            nonce: &job.nonce,
            roots: roots
                .into_iter()
                .map(|(name, path)| Root {
                    name: name.to_owned(),
                    path,
                })
                .collect(),
            sources: sources
                .into_iter()
                .map(|(name, path)| (name.to_owned(), path))
                .collect(),
        }
    }

    /// The pod of a container action. One that has a job gets its files from the job's pod, one
    /// without from the runner.
    #[must_use]
    pub fn of_action(
        api: &'a Api,
        config: &'a Config,
        memory: &'a Memory,
        (pod, nonce): (&'a str, &'a Nonce),
        has_job: bool,
    ) -> Self {
        let roots = [
            ("commands", "/github/file_commands"),
            ("home", "/github/home"),
            ("spool", SPOOL_MOUNT),
            ("temp", "/github/runner_temp"),
            ("workflow", "/github/workflow"),
            ("workspace", "/github/workspace"),
        ];
        let sources = if has_job {
            Vec::new()
        } else {
            vec![
                (
                    "workflow".to_owned(),
                    config.paths.temp.join("_github_workflow"),
                ),
                ("workspace".to_owned(), config.paths.workspace.clone()),
            ]
        };
        Self {
            api,
            config,
            memory,
            pod,
            nonce,
            roots: roots
                .map(|(name, path)| Root {
                    name: name.to_owned(),
                    path: path.to_owned(),
                })
                .to_vec(),
            sources,
        }
    }

    fn manifest(&self) -> Manifest {
        Manifest::of(self.memory.directory())
    }

    pub(super) fn begin(&self, crossing: Option<&Crossing<'_>>, next: &Nonce) -> Begin {
        Begin {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: self.nonce.clone(),
            roots: self.roots.clone(),
            step: crossing.map(|crossing| crossing.id.clone()),
            offset: crossing.map_or(0, |crossing| crossing.offset),
            orphans: crossing
                .map(|crossing| crossing.orphans.clone())
                .unwrap_or_default(),
            externals: crossing.is_some_and(|crossing| crossing.externals),
            kept: self.sources.iter().map(|(name, _)| name.clone()).collect(),
            manifest: (!self.sources.is_empty()).then(|| next.clone()),
        }
    }

    /// Waits for the supervisor, and gives the pod what the runner has.
    pub fn prepare(
        &self,
        entry: Option<&StepRequest>,
        signals: &Signals,
        liveness: &mut dyn Liveness,
        within: Duration,
    ) -> anyhow::Result<Option<Ready>> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let cause = match self.prepare_once(entry, signals) {
                Ok(ready) => return Ok(Some(ready)),
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
                return Err(death.context(cause));
            }
            if begun.elapsed() >= within {
                anyhow::bail!(
                    "copy the runner's files to pod `{}`: {cause}, again and again for {} s",
                    self.pod,
                    within.as_secs()
                );
            }
            rest(&mut pause);
        }
    }

    fn prepare_once(&self, entry: Option<&StepRequest>, signals: &Signals) -> Result<Ready, Break> {
        let next = Nonce::random().map_err(StepError::Name)?;
        let mut link = Link::open(self.api, self.pod)?;
        link.send_json(Kind::Begin, &self.begin(None, &next))?;
        let hello = hello(&link.expect(Kind::Hello, Some(signals))?.bytes)?;
        let ready = client::check_ready(hello.ready.to_string().as_bytes(), self.nonce)?;
        let Some(_lock) = self.lock(Some(signals))? else {
            return Err(LinkError::Cancelled.into());
        };
        let mut files = Vec::new();
        if let Some(entry) = entry {
            files.push((
                "spool/entry.json".to_owned(),
                self.memory.write_entry(entry)?,
            ));
        }
        let changed = self.send_files(&mut link, &hello, &next, &files, signals)?;
        link.expect(Kind::Accepted, Some(signals))?;
        commit(changed)?;
        link.finish();
        Ok(ready)
    }

    /// Brings what changed in the workspace to the runner, when no step of this pod has.
    pub fn refresh(&self, signals: &Signals) -> anyhow::Result<()> {
        let name = || Nonce::random().context("make a name for the files");
        let end = Instant::now() + REFRESH;
        let mut pause = FIRST_PAUSE;
        loop {
            let (next, last) = (name()?, name()?);
            let cause = match self.refresh_once(&next, &last, signals) {
                Ok(()) | Err(Break::Link(LinkError::Cancelled)) => return Ok(()),
                Err(Break::Link(LinkError::Lost(cause))) => cause,
                Err(Break::Link(LinkError::Refused(cause))) => anyhow::bail!(cause),
                Err(Break::Step(error)) => return Err(error.into()),
                Err(Break::Files(error)) => return Err(error),
            };
            if signals.received().is_some() {
                return Ok(());
            }
            if Instant::now() >= end {
                anyhow::bail!("take the action's files over to the runner: {cause}");
            }
            rest(&mut pause);
        }
    }

    fn refresh_once(&self, next: &Nonce, last: &Nonce, signals: &Signals) -> Result<(), Break> {
        let mut link = Link::open(self.api, self.pod)?;
        link.send_json(Kind::Begin, &self.begin(None, next))?;
        let hello = hello(&link.expect(Kind::Hello, Some(signals))?.bytes)?;
        let Some(lock) = self.lock(Some(signals))? else {
            return Err(LinkError::Cancelled.into());
        };
        let changed = self.send_files(&mut link, &hello, next, &[], signals)?;
        link.expect(Kind::Accepted, Some(signals))?;
        commit(changed)?;
        drop(lock);
        let returned = Returned::nothing(self.memory.directory(), next)?;
        let fetched = self.fetch(&mut link, &[], (None, last), &returned, signals);
        let _ = returned.hand_over();
        fetched?;
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
        let ended = self.cross(&mut crossing, &returned, log, signals, liveness);
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
    fn cross(
        &self,
        crossing: &mut Crossing<'_>,
        returned: &Returned<'_>,
        log: &mut dyn Write,
        signals: &Signals,
        liveness: &mut dyn Liveness,
    ) -> Result<Exit, Break> {
        let mut pause = FIRST_PAUSE;
        let mut silent_since = None;
        loop {
            let offset = (crossing.offset, crossing.accepted);
            let cause = match self.attempt(crossing, returned, log, signals, liveness) {
                Err(Break::Link(LinkError::Lost(cause))) => cause,
                ended => return ended,
            };
            tracing::debug!(cause, offset = crossing.offset, "connection lost");
            if offset != (crossing.offset, crossing.accepted) {
                // It came further than the one before.
                pause = FIRST_PAUSE;
                silent_since = None;
                liveness.revived();
            }
            look_at_signals(crossing, signals, None)?;
            if crossing.give_up.is_some() && !crossing.sent {
                return Err(LinkError::Cancelled.into());
            }
            let silence = silent_since.get_or_insert_with(Instant::now).elapsed();
            if let Some(death) = liveness.examine(silence) {
                return Err(StepError::Dead(death.context(cause)).into());
            }
            rest(&mut pause);
        }
    }

    /// One connection: from handing the step over, or taking it up again, to its end.
    fn attempt(
        &self,
        crossing: &mut Crossing<'_>,
        returned: &Returned<'_>,
        log: &mut dyn Write,
        signals: &Signals,
        liveness: &mut dyn Liveness,
    ) -> Result<Exit, Break> {
        let mut link = Link::open(self.api, self.pod)?;
        link.send_json(Kind::Begin, &self.begin(Some(crossing), &crossing.next))?;
        let waiting = (!crossing.sent).then_some(signals);
        let hello = hello(&link.expect(Kind::Hello, waiting)?.bytes)?;
        if hello.known {
            crossing.sent = true;
            await_acceptance(&mut link, crossing, signals)?;
        } else if crossing.accepted {
            return Err(StepError::Dead(anyhow::anyhow!(
                "pod `{}` does not know the step any more that it had begun; a process of the job \
                 may have removed its files",
                self.pod
            ))
            .into());
        } else {
            self.send_step(&mut link, &hello, crossing, returned, signals)?;
        }
        let exit = follow(&mut link, crossing, log, signals, liveness)?;
        crossing.exit = Some(exit.clone());
        self.fetch(
            &mut link,
            &crossing.scripts,
            (crossing.give_up, &crossing.last),
            returned,
            signals,
        )?;
        link.finish();
        Ok(exit)
    }

    fn send_step(
        &self,
        link: &mut Link<'_>,
        hello: &Hello,
        crossing: &mut Crossing<'_>,
        returned: &Returned<'_>,
        signals: &Signals,
    ) -> Result<(), Break> {
        let Some(lock) = self.lock(Some(signals))? else {
            return Err(LinkError::Cancelled.into());
        };
        let mut files = Vec::new();
        for (name, path) in returned.commands() {
            files.push((format!("commands/{name}"), path.to_owned()));
        }
        for name in &crossing.scripts {
            files.push((format!("temp/{name}"), self.config.paths.temp.join(name)));
        }
        if self.sources.is_empty() {
            files.push(("workflow/event.json".to_owned(), self.config.event.clone()));
        }
        crossing.pending = self.send_files(link, hello, &crossing.next, &files, signals)?;
        let request = serde_json::to_vec(crossing.request).context("encode the request")?;
        crossing.sent = true;
        link.send(Kind::Request, &request)?;
        // Until the step is accepted nobody else may change the manifest.
        await_acceptance(link, crossing, signals)?;
        drop(lock);
        Ok(())
    }

    /// The lock on the manifest. `None` when a signal came first.
    fn lock(&self, signals: Option<&Signals>) -> anyhow::Result<Option<File>> {
        loop {
            if let Some(lock) = self.memory.lock_files()? {
                return Ok(Some(lock));
            }
            if signals.is_some_and(|signals| signals.received().is_some()) {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends what the pod lacks, and `files` besides; what the manifest then is.
    fn send_files(
        &self,
        link: &mut Link<'_>,
        hello: &Hello,
        next: &Nonce,
        files: &[(String, PathBuf)],
        signals: &Signals,
    ) -> Result<Option<Changed>, Break> {
        let manifest = self.manifest();
        if !self.sources.is_empty() {
            self.send_manifest(link, hello.manifest.as_ref())?;
        }
        let archive = link.archive(signals);
        let mut out = io::BufWriter::with_capacity(PIECE, archive);
        let sent = (|| -> io::Result<Option<Changed>> {
            let mut sender = Sender::new(&mut out);
            for (name, path) in files {
                let entry = Entry::bare(What::File, name.clone().into_bytes());
                sender.file(false, entry, path, NO_LIMITS)?;
            }
            if !self.sources.is_empty() {
                sender.note_in(manifest.change(next)?);
                sender.differences(
                    &mut manifest.entries()?,
                    None,
                    Walk::new(&self.sources, Selection::All),
                    &self.sources,
                    NO_LIMITS,
                )?;
            }
            sender.finish()
        })();
        match sent {
            Ok(changed) => Ok(changed),
            Err(error) => {
                let (archive, _) = out.into_parts();
                Err(match archive.failure {
                    Some(failure) => failure.into(),
                    None => anyhow::Error::from(error)
                        .context("copy the runner's files to the job's pod")
                        .into(),
                })
            }
        }
    }

    /// Gives the relay the manifest of the runner, if it has another.
    fn send_manifest(&self, link: &mut Link<'_>, theirs: Option<&Nonce>) -> Result<(), Break> {
        let manifest = self.manifest();
        let ours = manifest.id().context("read the manifest")?;
        if ours.as_ref() == theirs {
            return Ok(());
        }
        let Some(_) = ours else {
            // The first time: the pod may have one of an attempt that broke off.
            link.send(Kind::Manifest, &[b'0'; 32])?;
            return Ok(());
        };
        let mut file = File::open(manifest.path()).context("open the manifest")?;
        let mut buffer = vec![0; PIECE];
        loop {
            match io::Read::read(&mut file, &mut buffer).context("read the manifest")? {
                0 => return Ok(()),
                count => link.send(Kind::Manifest, &buffer[..count])?,
            }
        }
    }

    /// Takes back file commands, and what changed in the workspace.
    fn fetch(
        &self,
        link: &mut Link<'_>,
        scripts: &[String],
        (give_up, last): (Option<Instant>, &Nonce),
        returned: &Returned<'_>,
        signals: &Signals,
    ) -> Result<(), Break> {
        let lock = self.lock(Some(signals))?;
        // There is little time after a cancel, and the runner reads no more of the workspace then.
        let selection = match lock {
            Some(_) if give_up.is_none() && !self.sources.is_empty() => self.config.workspace_sync,
            _ => Selection::None,
        };
        let manifest = self.manifest();
        let since = match selection {
            Selection::None => None,
            _ => manifest.id().context("read the manifest")?,
        };
        let commands: Vec<String> = returned
            .commands()
            .map(|(name, _)| name.to_owned())
            .collect();
        let mut discard: Vec<String> = commands
            .iter()
            .map(|name| format!("commands/{name}"))
            .collect();
        discard.extend(scripts.iter().map(|name| format!("temp/{name}")));
        let fetch = Fetch {
            commands,
            roots: vec!["workspace".to_owned()],
            selection: if since.is_some() {
                selection
            } else {
                Selection::None
            },
            since,
            next: last.clone(),
            bounded: true,
            discard,
        };
        link.send_json(Kind::Fetch, &fetch)?;
        let mut extractor = None;
        let mut corrected = false;
        loop {
            match link.next(WAIT)? {
                Event::Frame(frame) if frame.kind == Kind::Archive => {
                    let extractor = match &mut extractor {
                        Some(extractor) => extractor,
                        none => none.insert(self.extractor(&fetch, returned)?),
                    };
                    extractor
                        .feed(&frame.bytes)
                        .context("take the step's files over to the runner")?;
                    if extractor.has_ended() {
                        break;
                    }
                }
                Event::Frame(frame) if frame.kind == Kind::Hello && !corrected => {
                    corrected = true;
                    let hello = hello(&frame.bytes)?;
                    self.send_manifest(link, hello.manifest.as_ref())?;
                    link.send_json(Kind::Fetch, &fetch)?;
                }
                Event::Frame(frame) => {
                    let text = format!("talk to the relay: {:?} came with files", frame.kind);
                    return Err(LinkError::Refused(text).into());
                }
                Event::Beat(_) | Event::Nothing => {}
            }
            if give_up.is_some_and(|at| Instant::now() >= at) {
                return Err(StepError::Stuck.into());
            }
        }
        let Some(extractor) = extractor else {
            return Ok(());
        };
        let (left, change) = extractor.finish();
        if let Some(change) = change {
            let changed = change.finish().context("write the manifest")?;
            if changed.bytes > TOTAL {
                return Err(anyhow::anyhow!(
                    "take the step's files over to the runner: the workspace holds more than {} \
                     GiB that git does not ignore; ignore them, or set \
                     `ARC_HOOK_WORKSPACE_SYNC` to `none`",
                    TOTAL >> 30
                )
                .into());
            }
            commit(Some(changed))?;
        }
        tell_left(&left.named, left.count)?;
        returned.complete();
        Ok(())
    }

    fn extractor(&self, fetch: &Fetch, returned: &Returned<'_>) -> anyhow::Result<Extractor> {
        let mut roots = vec![("commands".to_owned(), returned.directory()?)];
        let mut change = None;
        if fetch.since.is_some() {
            let workspace = Directory::open(&self.config.paths.workspace)?;
            roots.push(("workspace".to_owned(), workspace));
            let manifest = self.manifest().change(&fetch.next);
            change = Some(manifest.context("write the manifest")?);
        }
        Ok(Extractor::new(roots, LIMITS, change, &["workspace"]))
    }
}

/// Most that the runner's workspace may hold: its own files and what came back.
const TOTAL: u64 = 16 << 30;
