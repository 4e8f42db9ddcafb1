//! Archives as a whole: what is sent is what is there afterwards, and nothing else is touched.

mod hostile;
mod trees;

use std::fs;
use std::path::{Path, PathBuf};

use super::changes::{LIMITS, Limits, NO_LIMITS, Sender};
use super::extract::{ExtractError, Extractor, Left};
use super::frame::Selection;
use super::manifest::Manifest;
use super::walk::Walk;
use crate::spool::Nonce;
use crate::spool::directory::Directory;

/// Runner and pod, each with a workspace and a manifest.
struct Sides {
    root: tempfile::TempDir,
}

impl Sides {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for side in ["runner", "pod"] {
            fs::create_dir_all(root.path().join(side).join("w")).unwrap();
        }
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn archive(&self, from: &str, selection: Selection, limits: Limits) -> Vec<u8> {
        let roots = [("w".to_owned(), self.path(from).join("w"))];
        let manifest = Manifest::of(&self.path(from));
        let mut archive = Vec::new();
        let mut sender = Sender::new(&mut archive);
        sender
            .differences(
                &mut manifest.entries().unwrap(),
                None,
                Walk::new(&roots, selection),
                &roots,
                limits,
            )
            .unwrap();
        sender.finish().unwrap();
        archive
    }

    /// What one side has and the other has not goes there; bytes of the archive.
    fn cross(&self, from: &str, to: &str, selection: Selection, limits: Limits) -> (usize, Left) {
        let archive = self.archive(from, selection, limits);
        let id = Nonce::random().unwrap();
        let mut left = Left::default();
        for side in [to, from] {
            let change = Manifest::of(&self.path(side)).change(&id).unwrap();
            // The sender's own files are as they are: only its manifest is to change.
            let scratch = self.path("scratch");
            fs::create_dir_all(&scratch).unwrap();
            let target = if side == to {
                self.path(to).join("w")
            } else {
                scratch.clone()
            };
            let taken = take(&archive, &target, limits, Some(change)).unwrap();
            left = taken.0;
            taken.1.unwrap().finish().unwrap().commit().unwrap();
            fs::remove_dir_all(scratch).unwrap();
        }
        (archive.len(), left)
    }

    fn up(&self) -> usize {
        self.cross("runner", "pod", Selection::All, NO_LIMITS).0
    }

    fn down(&self) -> usize {
        self.cross("pod", "runner", Selection::Tracked, LIMITS).0
    }
}

/// Takes an archive in, in pieces.
fn take(
    archive: &[u8],
    to: &Path,
    limits: Limits,
    manifest: Option<super::manifest::Change>,
) -> Result<(Left, Option<super::manifest::Change>), ExtractError> {
    let roots = vec![("w".to_owned(), Directory::open(to).unwrap())];
    let mut extractor = Extractor::new(roots, limits, manifest, &["w"]);
    for piece in archive.chunks(7919) {
        extractor.feed(piece)?;
    }
    if !extractor.has_ended() {
        return Err(ExtractError::Refused("it has no end".to_owned()));
    }
    Ok(extractor.finish())
}
