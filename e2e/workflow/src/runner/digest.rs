//! The hash over a part of a step's log.

use memchr::memmem;
use sha2::{Digest as _, Sha256};

use crate::directive::DigestDirective;
use crate::report::Digested;

/// A hash in the making.
#[derive(Debug)]
pub(super) struct Digest {
    directive: DigestDirective,
    place: Place,
    hash: Sha256,
    bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Before,
    Between,
    After,
}

impl Digest {
    /// Nothing yet.
    pub(super) fn new(directive: &DigestDirective) -> Self {
        Self {
            directive: directive.clone(),
            place: Place::Before,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Takes whole lines of which none is one of the two.
    pub(super) fn lines(&mut self, lines: &[u8]) {
        if self.place == Place::Between {
            self.add(lines);
        }
    }

    /// Takes what belongs to a line that was taken already.
    pub(super) fn rest(&mut self, raw: &[u8]) {
        if self.place == Place::Between && self.bytes > 0 {
            self.add(raw);
        }
    }

    /// Bytes and hash between the two lines, once both came.
    pub(super) fn result(&self) -> Option<Digested> {
        (self.place == Place::After).then(|| Digested {
            bytes: self.bytes,
            sha256: hexadecimal(self.hash.clone()),
        })
    }

    /// Whether one of the two lines may stand in these bytes.
    pub(super) fn turns_in(&self, bytes: &[u8]) -> bool {
        let line = match self.place {
            Place::Before => &self.directive.from,
            Place::Between => &self.directive.to,
            Place::After => return false,
        };
        memmem::find(bytes, line.as_bytes()).is_some()
    }

    /// Takes a line: its text, and its bytes with what ends it.
    pub(super) fn line(&mut self, text: &[u8], raw: &[u8]) {
        match self.place {
            Place::Before if text == self.directive.from.as_bytes() => self.place = Place::Between,
            Place::Between if text == self.directive.to.as_bytes() => self.place = Place::After,
            Place::Between => self.add(raw),
            _ => {}
        }
    }

    fn add(&mut self, raw: &[u8]) {
        self.hash.update(raw);
        self.bytes += raw.len() as u64;
    }
}

pub(super) fn hexadecimal(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
