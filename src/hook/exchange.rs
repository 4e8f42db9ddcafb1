//! The files of one connection: those that the pod lacks, and those that come back.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;

use super::crossing::{Break, WAIT, commit, hello, tell_left};
use super::link::{Event, Link, LinkError};
use super::parcel::{Contents, Packed, Parcel};
use super::remote::Remote;
use super::step_files::Returned;
use crate::spool::Nonce;
use crate::spool::client::StepError;
use crate::spool::directory::Directory;
use crate::spool::signals::Signals;
use crate::transport::changes::LIMITS;
use crate::transport::extract::Extractor;
use crate::transport::frame::{Fetch, Hello, Kind, PIECE, Selection};

/// Most that the runner's workspace may hold: its own files and what came back.
const TOTAL: u64 = 16 << 30;

impl Remote<'_> {
    /// Begins to pack what the pod lacks, and `files` besides.
    pub(super) fn pack(
        &self,
        next: &Nonce,
        files: Vec<(String, PathBuf)>,
        signals: &Signals,
    ) -> Result<Parcel, Break> {
        let Some(lock) = self.lock(Some(signals))? else {
            return Err(LinkError::Cancelled.into());
        };
        let contents = Contents {
            manifest: self.manifest(),
            next: next.clone(),
            sources: self.sources.clone(),
            files,
        };
        Ok(Parcel::pack(contents, lock))
    }

    /// Sends what was packed, while it is.
    pub(super) fn send_parcel(
        &self,
        link: &mut Link<'_>,
        hello: &Hello,
        parcel: Parcel,
        signals: &Signals,
    ) -> Result<Packed, Break> {
        if !self.sources.is_empty() {
            self.send_manifest(link, hello.manifest.as_ref())?;
        }
        while let Some(piece) = parcel.next() {
            if signals.received().is_some() {
                return Err(LinkError::Cancelled.into());
            }
            link.send(Kind::Archive, &piece)?;
        }
        Ok(parcel.finish()?)
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

    /// Takes back file commands, and what changed in the workspace; then the pod loses `discard`,
    /// paths of archives.
    pub(super) fn fetch(
        &self,
        link: &mut Link<'_>,
        discard: Vec<String>,
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
        let named = commands.iter().map(|name| format!("commands/{name}"));
        let discard = named.chain(discard).collect();
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
