//! The job's log on disk, bounded whatever a step prints.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// So much of a step's log is written as it comes.
pub(super) const HEAD: usize = 1 << 20;
/// So much of its end is kept beyond that.
pub(super) const TAIL: usize = 256 << 10;

/// Where the log goes.
#[derive(Debug)]
pub struct JobLog {
    file: Mutex<File>,
    echo: bool,
}

impl JobLog {
    /// A log in `path`, and on standard output too with `echo`.
    pub fn create(path: &Path, echo: bool) -> io::Result<Self> {
        Ok(Self {
            file: Mutex::new(File::create(path)?),
            echo,
        })
    }

    /// Appends bytes. A log that cannot be written is no reason to stop.
    pub fn write(&self, bytes: &[u8]) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(bytes);
        if self.echo {
            let _ = io::stdout().lock().write_all(bytes);
        }
    }

    /// Appends a line.
    pub fn line(&self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }
}

/// What of a step's log goes there: its beginning as it comes, its end when it is closed.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    log: &'a JobLog,
    head: usize,
    buffer: Vec<u8>,
    tail: [Vec<u8>; 2],
    omitted: u64,
}

impl<'a> Shown<'a> {
    /// Nothing yet.
    pub(super) fn new(log: &'a JobLog) -> Self {
        Self {
            log,
            head: 0,
            buffer: Vec::new(),
            tail: Default::default(),
            omitted: 0,
        }
    }

    /// Whether what comes now is shown only if it is near the end.
    pub(super) fn is_long(&self) -> bool {
        self.head >= HEAD
    }

    /// Takes a line.
    pub(super) fn push(&mut self, line: &[u8]) {
        if self.is_long() {
            self.omit(line);
        } else {
            self.head += line.len();
            self.buffer.extend_from_slice(line);
        }
    }

    /// Keeps the end of what is not shown.
    pub(super) fn omit(&mut self, bytes: &[u8]) {
        self.omitted += bytes.len() as u64;
        if self.tail[1].len() > TAIL {
            self.tail.swap(0, 1);
            self.tail[1].clear();
        }
        self.tail[1].extend_from_slice(bytes);
    }

    /// Writes what was taken.
    pub(super) fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.log.write(&self.buffer);
            self.buffer.clear();
        }
    }

    /// Writes the kept end of a log that was too long.
    pub(super) fn close(&mut self) {
        if self.omitted > 0 {
            let kept = (self.tail[0].len() + self.tail[1].len()) as u64;
            let note = format!("[... {} bytes not shown ...]\n", self.omitted - kept);
            self.log.write(note.as_bytes());
            for part in std::mem::take(&mut self.tail) {
                self.log.write(&part);
            }
            self.omitted = 0;
        }
    }
}
