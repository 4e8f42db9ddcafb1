//! The log of a step: what the hook printed, with workflow commands carried
//! out and secrets hidden, and what is judged by it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use memchr::{memchr, memmem, memrchr};

use super::command::{self, Command};
use super::context::JobState;
use super::digest::Digest;
use super::job_log::{JobLog, Shown};
use super::lines::{Piece, Splitter};
use crate::directive::DigestDirective;
use crate::report::Digested;

/// The server cuts the message of an annotation here.
const LONGEST_MESSAGE: usize = 4096;

/// Which pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What workflow commands did.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// `set-output`.
    pub outputs: BTreeMap<String, String>,
    /// `save-state`.
    pub state: BTreeMap<String, String>,
    /// `kind: message`, or `kind title=A title: message`; of a problem matcher
    /// `kind file=PATH line=N: message`.
    pub annotations: Vec<String>,
    /// A command threw, which fails the step.
    pub failed: bool,
}

/// The log of one step.
#[derive(Debug)]
pub struct StepLog<'a> {
    shown: Shown<'a>,
    state: &'a JobState,
    prefix: String,
    insecure_commands: bool,
    streams: [Pipe; 2],
    digest: Option<Digest>,
    watched: Vec<(String, bool)>,
    stop_token: Option<String>,
    echo_commands: bool,
    /// What the commands in it did.
    pub effects: Effects,
}

#[derive(Debug, Default)]
struct Pipe {
    splitter: Splitter,
    bytes: u64,
}

impl<'a> StepLog<'a> {
    /// An empty log. `prefix` tells the lines of a background step apart;
    /// `insecure_commands` is the step's `ACTIONS_ALLOW_UNSECURE_COMMANDS`.
    #[must_use]
    pub fn new(
        log: &'a JobLog,
        state: &'a JobState,
        prefix: &str,
        insecure_commands: bool,
    ) -> Self {
        Self {
            shown: Shown::new(log),
            state,
            prefix: prefix.to_owned(),
            insecure_commands,
            streams: Default::default(),
            digest: None,
            watched: Vec::new(),
            stop_token: None,
            echo_commands: false,
            effects: Effects::default(),
        }
    }

    /// Hashes the bytes between two lines.
    pub fn hash_between(&mut self, directive: &DigestDirective) {
        self.digest = Some(Digest::new(directive));
    }

    /// Watches for a line with `text` in it; returns the text's number.
    pub fn watch(&mut self, text: &str) -> usize {
        self.watched.push((text.to_owned(), false));
        self.watched.len() - 1
    }

    /// Whether such a line came.
    #[must_use]
    pub fn seen(&self, number: usize) -> bool {
        self.watched.get(number).is_some_and(|(_, seen)| *seen)
    }

    /// Takes what was read from a pipe.
    pub fn read(&mut self, stream: Stream, bytes: &[u8]) {
        self.streams[stream as usize].bytes += bytes.len() as u64;
        let plain = self.plain_part(bytes);
        let (before, rest) = bytes.split_at(plain.start);
        let (plain, after) = rest.split_at(plain.len());
        self.take(stream, |splitter, sink| splitter.push(before, sink));
        self.skip(plain);
        self.take(stream, |splitter, sink| splitter.push(after, sink));
        self.shown.flush();
    }

    /// Whole lines that nobody will look at one by one: the step's log is
    /// beyond its head, and they hold nothing that means anything. Without
    /// this the driver, and not the hook, would bound the rate of a long log.
    fn plain_part(&self, bytes: &[u8]) -> Range<usize> {
        let watched = self.watched.iter().any(|(_, seen)| !seen);
        let lines = memchr(b'\n', bytes).zip(memrchr(b'\n', bytes));
        let Some((first, last)) = lines else {
            return 0..0;
        };
        let part = first + 1..last + 1;
        let plain = self.shown.is_long()
            && self.prefix.is_empty()
            && !watched
            && !self.state.has_masks()
            && !self.state.matchers.any()
            && memmem::find(bytes, b"::").is_none()
            && memmem::find(bytes, b"##[").is_none()
            && memchr(b'\r', bytes).is_none()
            && self
                .digest
                .as_ref()
                .is_none_or(|digest| !digest.turns_in(bytes));
        if plain { part } else { 0..0 }
    }

    /// Takes such lines.
    fn skip(&mut self, lines: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.lines(lines);
        }
        self.shown.omit(lines);
    }

    /// The pipe is at its end.
    pub fn end(&mut self, stream: Stream) {
        self.take(stream, Splitter::finish);
        self.shown.flush();
    }

    fn take(
        &mut self,
        stream: Stream,
        feed: impl FnOnce(&mut Splitter, &mut dyn FnMut(Piece<'_>)),
    ) {
        // The splitter is moved out, so that its lines can be given to `self`.
        let mut splitter = std::mem::take(&mut self.streams[stream as usize].splitter);
        feed(&mut splitter, &mut |piece| match piece {
            Piece::Line { text, raw } => {
                if let Some(digest) = &mut self.digest {
                    digest.line(text, raw);
                }
                self.line(&String::from_utf8_lossy(text));
            }
            Piece::Rest(raw) => {
                if let Some(digest) = &mut self.digest {
                    digest.rest(raw);
                }
            }
        });
        self.streams[stream as usize].splitter = splitter;
    }

    /// A line of the runner's own.
    pub fn note(&mut self, line: &str) {
        self.print(line);
        self.shown.flush();
    }

    /// An error of the runner's own.
    pub fn error(&mut self, message: &str) {
        self.effects.annotations.push(format!("error: {message}"));
        self.note(&format!("##[error]{message}"));
    }

    /// Bytes that came through a pipe.
    #[must_use]
    pub fn bytes(&self, stream: Stream) -> u64 {
        self.streams[stream as usize].bytes
    }

    /// Bytes and hash between the two lines, once both came.
    #[must_use]
    pub fn digest(&self) -> Option<Digested> {
        self.digest.as_ref()?.result()
    }

    /// Writes the kept end of a log that was too long.
    pub fn close(&mut self) {
        self.shown.close();
    }

    fn line(&mut self, line: &str) {
        let is_command = (memmem::find(line.as_bytes(), b"::").is_some()
            || memmem::find(line.as_bytes(), b"##[").is_some())
            && self.command(line);
        if is_command {
            return;
        }
        match self.state.matchers.find(line) {
            None => self.print(line),
            Some((severity, annotation)) => {
                let shown = self.state.masked(&annotation).unwrap_or(annotation);
                self.effects.annotations.push(shown);
                self.print(&format!("##[{severity}]{line}"));
            }
        }
    }

    /// Carries out a command; false when the line is to be printed.
    fn command(&mut self, line: &str) -> bool {
        let Some(command) = command::parse(line, self.stop_token.as_deref()) else {
            return false;
        };
        if let Some(token) = &self.stop_token {
            let resumed = command.name.eq_ignore_ascii_case(token);
            if resumed {
                self.stop_token = None;
                self.print(line);
            }
            return resumed;
        }
        if self.echo_commands && command.name != "add-mask" {
            self.print(line);
        }
        if let Err(reason) = self.carry_out(&command, line) {
            self.effects.failed = true;
            let message = format!("Unable to process command '{line}' successfully: {reason}");
            self.effects.annotations.push(format!("error: {message}"));
            self.print(&format!("##[error]{message}"));
        }
        true
    }

    fn carry_out(&mut self, command: &Command, line: &str) -> Result<(), String> {
        let named = || {
            command
                .property("name")
                .map(str::to_owned)
                .ok_or_else(|| format!("Required field 'name' is missing in ##[{}]", command.name))
        };
        match command.name.as_str() {
            "stop-commands" => {
                self.stop_token = Some(command.data.clone());
                self.print(line);
            }
            "set-env" | "add-path" if !self.insecure_commands => {
                return Err(format!("The `{}` command is disabled", command.name));
            }
            "set-env" => {
                let name = named()?;
                self.state.memory().env.insert(name, command.data.clone());
            }
            "add-path" => self.state.add_path(&command.data),
            "set-output" => {
                self.effects.outputs.insert(named()?, command.data.clone());
            }
            "save-state" => {
                self.effects.state.insert(named()?, command.data.clone());
            }
            "add-mask" => self.state.add_mask(&command.data),
            "echo" => self.echo_commands = command.data.trim().eq_ignore_ascii_case("on"),
            kind @ ("error" | "warning" | "notice") => {
                let message: String = command.data.chars().take(LONGEST_MESSAGE).collect();
                let shown = self.state.masked(&message).unwrap_or(message);
                let title = command.property("title");
                let title = title.map_or_else(String::new, |title| format!(" title={title}"));
                let annotation = format!("{kind}{title}: {shown}");
                self.effects.annotations.push(annotation);
                self.print(&format!("##[{kind}]{shown}"));
            }
            "group" => self.print(&format!("##[group]{}", command.data)),
            "endgroup" => self.print("##[endgroup]"),
            "add-matcher" => self.state.matchers.add(&command.data)?,
            "remove-matcher" => {
                let owner = command.property("owner").unwrap_or_default();
                self.state.matchers.remove(owner);
            }
            // Debug lines are not shown.
            _ => {}
        }
        Ok(())
    }

    fn print(&mut self, line: &str) {
        let line = self
            .state
            .masked(line)
            .map_or(Cow::Borrowed(line), Cow::Owned);
        for (text, seen) in &mut self.watched {
            *seen = *seen || memmem::find(line.as_bytes(), text.as_bytes()).is_some();
        }
        let line = format!("{}{line}\n", self.prefix);
        self.shown.push(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::digest::hexadecimal;
    use super::super::job_log::{HEAD, TAIL};
    use super::*;
    use sha2::{Digest as _, Sha256};
    use std::fmt::Write as _;

    fn with_log(insecure: bool, input: &str, check: impl FnOnce(&StepLog<'_>, &str, &JobState)) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let log = JobLog::create(&path, false).unwrap();
        let state = JobState::default();
        let mut step = StepLog::new(&log, &state, "", insecure);
        step.hash_between(&DigestDirective {
            from: "BEGIN".to_owned(),
            to: "END".to_owned(),
            sha256: None,
            bytes: None,
        });
        step.read(Stream::Stdout, input.as_bytes());
        step.end(Stream::Stdout);
        step.close();
        check(&step, &std::fs::read_to_string(&path).unwrap(), &state);
    }

    #[test]
    fn commands_are_carried_out_and_shown_as_github_does() {
        let input = "hi\n::group::G\n::error file=x::bad%0Athing\n::set-output name=o::v\n\
                     ::add-mask::hush\nhush now\n::endgroup::\nlast";
        with_log(false, input, |step, log, _| {
            assert_eq!(
                log,
                "hi\n##[group]G\n##[error]bad\nthing\n*** now\n##[endgroup]\nlast\n"
            );
            assert_eq!(step.effects.outputs["o"], "v");
            assert_eq!(step.effects.annotations, ["error: bad\nthing"]);
            assert!(!step.effects.failed);
        });
    }

    #[test]
    fn stopped_commands_are_text_until_the_token() {
        let input = "::stop-commands::tok\n::error::no\n::tok::\n::error::yes\n";
        with_log(false, input, |step, log, _| {
            assert!(log.contains("::error::no\n"), "{log}");
            assert_eq!(step.effects.annotations, ["error: yes"]);
        });
    }

    #[test]
    fn insecure_commands_fail_the_step_unless_allowed() {
        let input = "::add-path::/evil\n::set-env name=A::b\n";
        with_log(false, input, |step, _, state| {
            assert!(step.effects.failed);
            assert!(state.prepended().is_empty());
        });
        with_log(true, input, |step, _, state| {
            assert!(!step.effects.failed);
            assert_eq!(state.prepended(), ["/evil"]);
            assert_eq!(state.memory().env["A"], "b");
        });
    }

    #[test]
    fn the_bytes_between_two_lines_are_hashed() {
        with_log(false, "x\nBEGIN\nab\r\nc\nEND\ny\n", |step, _, _| {
            let digest = step.digest().unwrap();
            assert_eq!(digest.bytes, 6);
            let expected = hexadecimal(Sha256::new_with_prefix(b"ab\r\nc\n"));
            assert_eq!(digest.sha256, expected);
            assert_eq!(step.bytes(Stream::Stdout), 20);
        });
    }

    #[test]
    fn a_long_log_is_hashed_wherever_the_reads_end() {
        let temp = tempfile::tempdir().unwrap();
        let log = JobLog::create(&temp.path().join("log"), false).unwrap();
        let state = JobState::default();
        let mut step = StepLog::new(&log, &state, "", false);
        step.hash_between(&DigestDirective {
            from: "BEGIN".to_owned(),
            to: "END".to_owned(),
            sha256: None,
            bytes: None,
        });
        let mut text = String::new();
        for number in 0..300_000 {
            writeln!(text, "line {number}").unwrap();
        }
        let input = format!("BEGIN\n{text}END\n::error::seen\n");
        for (index, chunk) in input.as_bytes().chunks(4099).enumerate() {
            // Short reads too.
            let (a, b) = chunk.split_at(index % chunk.len());
            step.read(Stream::Stdout, a);
            step.read(Stream::Stdout, b);
        }
        let digest = step.digest().unwrap();
        assert_eq!(digest.bytes, text.len() as u64);
        assert_eq!(digest.sha256, hexadecimal(Sha256::new_with_prefix(&text)));
        assert_eq!(step.effects.annotations, ["error: seen"]);
    }

    #[test]
    fn a_long_log_keeps_its_head_and_its_tail() {
        let mut input = String::new();
        for number in 0..400_000 {
            writeln!(input, "line {number}").unwrap();
        }
        with_log(false, &input, |_, log, _| {
            assert!(log.len() < HEAD + 3 * TAIL, "{}", log.len());
            assert!(log.starts_with("line 0\n") && log.ends_with("line 399999\n"));
            assert!(log.contains("bytes not shown"));
        });
    }
}
