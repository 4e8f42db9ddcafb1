//! What goes over the one connection of a step: frames, each with a kind and a length.
//!
//! One stream each way, because an exec keeps no order between standard output and standard error.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::spool::Nonce;

/// Most that one frame may hold: a request is the largest thing that comes in one piece.
pub const FRAME_LIMIT: usize = 16 * 1024 * 1024;
/// Pieces of logs and files. With its header one is as long as what runtime, kubelet and API server
/// read and hand on at a time (Go's `io.Copy`): a longer one would be handed on in two parts, the
/// second of a few bytes, which costs them as much as the first.
pub const PIECE: usize = 32 * 1024 - HEADER;
const HEADER: usize = 5;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    // From the hook.
    /// [`Begin`], first of all.
    Begin = b'B',
    /// A piece of the manifest of what the runner's side has.
    Manifest = b'M',
    /// A piece of an archive, either way.
    Archive = b'D',
    /// The step's request: the step is handed over once it has come whole.
    Request = b'R',
    /// Bytes of the log that arrived, as a little-endian u64.
    Got = b'G',
    /// End the step.
    Cancel = b'C',
    /// The hook is alive.
    Ping = b'P',
    /// [`Fetch`]: what is wanted back.
    Fetch = b'F',
    /// All has arrived: the archive counts from now on, and the step can be forgotten.
    Done = b'K',
    // From the relay.
    /// [`Hello`], in answer to [`Begin`].
    Hello = b'h',
    /// The step was handed over: it runs, or ran. In answer to [`Self::Done`]: it is forgotten.
    Accepted = b'a',
    /// A piece of the log.
    Log = b'l',
    /// The relay is alive; how long the supervisor has been silent, in seconds, as a little-endian
    /// u64.
    Beat = b'b',
    /// The record of the step's end.
    Exit = b'x',
    /// The relay cannot go on, and why.
    Failed = b'f',
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::{
            Accepted, Archive, Beat, Begin, Cancel, Done, Exit, Failed, Fetch, Got, Hello, Log,
            Manifest, Ping, Request,
        };
        [
            Begin, Manifest, Archive, Request, Got, Cancel, Ping, Fetch, Done, Hello, Accepted,
            Log, Beat, Exit, Failed,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The number that it holds.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.bytes
            .as_slice()
            .try_into()
            .ok()
            .map(u64::from_le_bytes)
    }
}

/// What came is no frame.
#[derive(Debug, Error)]
#[error("what came over the connection is not what arc-hook says: {0}")]
pub struct FrameError(pub String);

/// The header of a frame.
#[must_use]
pub fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [kind as u8, length[0], length[1], length[2], length[3]]
}

/// Writes a frame.
pub fn write(out: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&header(kind, bytes.len()))?;
    out.write_all(bytes)
}

/// Takes frames out of a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    read: usize,
}

impl Decoder {
    /// Takes in what came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read == self.buffer.len() {
            self.buffer.clear();
        } else if self.read > PIECE {
            self.buffer.drain(..self.read);
        } else {
            self.buffer.extend_from_slice(bytes);
            return;
        }
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it has come whole.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let left = &self.buffer[self.read..];
        let Some((header, rest)) = left.split_at_checked(HEADER) else {
            return Ok(None);
        };
        let kind = Kind::of(header[0])
            .ok_or_else(|| FrameError(format!("a frame of kind {}", header[0])))?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > FRAME_LIMIT {
            return Err(FrameError(format!("a frame of {length} bytes")));
        }
        let Some(bytes) = rest.get(..length) else {
            return Ok(None);
        };
        let bytes = bytes.to_vec();
        self.read += HEADER + length;
        Ok(Some(Frame { kind, bytes }))
    }
}

/// The directories that files come from and go to, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// First part of the paths in archives and manifests.
    pub name: String,
    /// Where it is in the container.
    pub path: String,
}

/// What the hook wants of a relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// [`crate::spool::PROTOCOL`] of the hook.
    pub protocol: u32,
    /// Version of the hook's binary.
    pub version: String,
    /// The pod that is meant.
    pub nonce: Nonce,
    /// Directories in the container.
    pub roots: Vec<Root>,
    /// The step; absent when only files are to be exchanged.
    pub step: Option<Nonce>,
    /// Bytes of the step's log that have arrived.
    pub offset: u64,
    /// Steps whose hooks are dead: they are to end at once.
    pub orphans: Vec<Nonce>,
    /// The step runs one of the runner's own programs, which must have been copied.
    pub externals: bool,
    /// Roots whose files are in the manifest.
    pub kept: Vec<String>,
    /// Name of the manifest once the archive that follows is applied to it; without one it stays
    /// as it is.
    pub manifest: Option<Nonce>,
}

/// The relay's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::spool::PROTOCOL`] of the relay.
    pub protocol: u32,
    /// Whether the step was handed over before.
    pub known: bool,
    /// Name of the manifest that it has.
    pub manifest: Option<Nonce>,
    /// The supervisor's first record.
    pub ready: serde_json::Value,
}

/// What is to come back after a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Names of file commands.
    pub commands: Vec<String>,
    /// Directories of which the changes are wanted.
    pub roots: Vec<String>,
    /// Which of their files.
    pub selection: Selection,
    /// Changes since when: the hook's manifest, which may be a newer one than the relay's. All there
    /// is when absent.
    pub since: Option<Nonce>,
    /// Name of the manifest once the archive is applied to it.
    pub next: Nonce,
    /// The receiver is the runner: it takes no links, and not any size.
    pub bounded: bool,
    /// Files that nobody needs afterwards, as paths of an archive.
    pub discard: Vec<String>,
}

/// Which files come back to the runner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// Those that git does not ignore.
    #[default]
    Tracked,
    /// All.
    All,
    /// None.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_sent_however_the_stream_is_cut(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2000), 0..20),
            piece in 1_usize..5000,
        ) {
            let mut stream = Vec::new();
            for content in &contents {
                write(&mut stream, Kind::Log, content).unwrap();
            }
            let mut decoder = Decoder::default();
            let mut came = Vec::new();
            for part in stream.chunks(piece) {
                decoder.push(part);
                while let Some(frame) = decoder.take().unwrap() {
                    prop_assert_eq!(frame.kind, Kind::Log);
                    came.push(frame.bytes);
                }
            }
            prop_assert_eq!(came, contents);
        }

        #[test]
        fn no_stream_makes_the_decoder_panic_or_hoard(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.take() {}
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_came() {
        let mut decoder = Decoder::default();
        decoder.push(&header(Kind::Log, FRAME_LIMIT + 1));
        assert!(decoder.take().is_err());
    }
}
