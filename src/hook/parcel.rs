//! Files on their way to a pod: a thread reads them ahead of the connection that takes them.
//!
//! A walk through many files takes as long as a connection takes to be made.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context as _;

use crate::spool::Nonce;
use crate::transport::changes::{NO_LIMITS, Sender};
use crate::transport::entry::{Entry, Kind};
use crate::transport::frame::{PIECE, Selection};
use crate::transport::manifest::{Changed, Manifest};
use crate::transport::walk::Walk;

/// Pieces that wait for the connection.
const QUEUE: usize = 8;

/// What goes in.
#[derive(Debug)]
pub(super) struct Contents {
    /// What both sides have.
    pub manifest: Manifest,
    /// Its name once the pod has what the runner has.
    pub next: Nonce,
    /// Directories of which the pod gets what the manifest does not say that it has.
    pub sources: Vec<(String, PathBuf)>,
    /// Files that it gets in any case, each with its path in archives.
    pub files: Vec<(String, PathBuf)>,
}

/// An archive that is being made.
#[derive(Debug)]
pub(super) struct Parcel {
    pieces: Option<Receiver<Vec<u8>>>,
    packer: Option<JoinHandle<io::Result<Option<Changed>>>>,
    /// Until it has arrived nobody else may change the manifest.
    lock: Option<File>,
}

/// An archive that was made.
#[derive(Debug)]
pub(super) struct Packed {
    /// What the manifest is once it has arrived.
    pub changed: Option<Changed>,
    /// The lock on the manifest.
    pub lock: Option<File>,
}

impl Parcel {
    /// Begins to make it, with the lock on the manifest.
    pub fn pack(contents: Contents, lock: File) -> Self {
        let (sender, pieces) = sync_channel(QUEUE);
        Self {
            pieces: Some(pieces),
            packer: Some(std::thread::spawn(move || contents.write(sender))),
            lock: Some(lock),
        }
    }

    /// The next piece of the archive; `None` when it is whole, or cannot be.
    pub fn next(&self) -> Option<Vec<u8>> {
        self.pieces.as_ref()?.recv().ok()
    }

    /// How it ended.
    pub fn finish(mut self) -> anyhow::Result<Packed> {
        let packed = self.packer.take().map(JoinHandle::join);
        let changed = match packed {
            Some(Ok(packed)) => packed,
            // The panic has told itself.
            Some(Err(_)) | None => Err(io::Error::other("it was given up")),
        };
        Ok(Packed {
            changed: changed.context("copy the runner's files to the job's pod")?,
            lock: self.lock.take(),
        })
    }
}

/// The next attempt writes the same manifest: this one must have ended before.
impl Drop for Parcel {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(packer) = self.packer.take() {
            let _ = packer.join();
        }
    }
}

impl Contents {
    fn write(&self, pieces: SyncSender<Vec<u8>>) -> io::Result<Option<Changed>> {
        let mut sender = Sender::new(io::BufWriter::with_capacity(PIECE, Pieces(pieces)));
        for (name, path) in &self.files {
            let entry = Entry::bare(Kind::File, name.clone().into_bytes());
            sender.file(entry, path, NO_LIMITS)?;
        }
        if !self.sources.is_empty() {
            sender.note_in(self.manifest.change(&self.next)?);
            sender.differences(
                &mut self.manifest.entries()?,
                None,
                Walk::new(&self.sources, Selection::All),
                &self.sources,
                NO_LIMITS,
            )?;
        }
        sender.finish()
    }
}

struct Pieces(SyncSender<Vec<u8>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        match self.0.send(piece.to_vec()) {
            Ok(()) => Ok(piece.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
