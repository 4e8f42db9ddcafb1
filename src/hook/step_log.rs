//! What stands between a step's log and the runner: `add-path` commands are kept back.
//!
//! The runner obeys `::add-path::DIR` when the job sets `ACTIONS_ALLOW_UNSECURE_COMMANDS`, and
//! then looks up `bash` for the next hook call in DIR on its own file system
//! (actions/runner 2.336.0, `src/Runner.Sdk/Util/WhichUtil.cs`). The hook keeps such entries and
//! puts them in front of each step's `PATH` itself. Everything else passes byte for byte.
//!
//! A command is `::name k=v::data` at the start of a line, after blanks, or `##[name k=v]data`
//! anywhere in it; names know no case, and lines end at LF, CR or CRLF
//! (`src/Runner.Common/ActionCommand.cs`, `src/Runner.Worker/ActionCommandManager.cs`). Where the
//! runner's reading is subtle, in what counts as a blank, this one takes more for a command, never
//! less.

use std::io::{self, Write};

/// Longest command that is understood: `PATH` entries are paths.
const LONGEST: usize = 64 * 1024;

/// Passes a log on and keeps `add-path` commands back.
#[derive(Debug)]
pub struct StepLog<W> {
    out: W,
    /// Whether the job allows `add-path` commands.
    allowed: bool,
    line: Line,
    /// Something of the current line went out already.
    begun: bool,
    /// The LF of a CRLF whose line was kept back.
    skip_line_feed: bool,
    /// The token of `stop-commands`, in lower case.
    stopped: Option<Vec<u8>>,
    commands: PathCommands,
}

#[derive(Debug)]
enum Line {
    /// Nothing but blanks so far.
    Start,
    /// No `::` command can begin any more.
    Middle,
    /// Bytes that may become a command.
    Held(Vec<u8>),
    /// A command of ours; the bytes up to here.
    Command(Vec<u8>),
    /// The rest of a command that is too long.
    Dropped,
}

enum Guess {
    No,
    Perhaps,
    Yes,
}

impl<W: Write> StepLog<W> {
    /// Passes on to `out`.
    pub fn new(out: W, allowed: bool) -> Self {
        Self {
            out,
            allowed,
            line: Line::Start,
            begun: false,
            skip_line_feed: false,
            stopped: None,
            commands: PathCommands::default(),
        }
    }

    /// Ends the log, and tells which directories the step asked for, in order.
    ///
    /// # Errors
    /// The rest could not be written.
    pub fn finish(mut self) -> io::Result<PathCommands> {
        self.end_of_line(&[])?;
        self.out.flush()?;
        Ok(self.commands)
    }

    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(last) = bytes.last() {
            self.begun = !matches!(last, b'\n' | b'\r');
            self.out.write_all(bytes)?;
        }
        Ok(())
    }

    /// Whether `held` begins a command that must be seen whole.
    fn guess(&self, held: &[u8]) -> Guess {
        let names = [&b"add-path"[..], &b"stop-commands"[..]];
        let names = names.into_iter().chain(self.stopped.as_deref());
        let (prefix, ends): (&[u8], &[u8]) = match held[0] {
            b':' => (b"::", b" :"),
            _ => (b"##[", b" ]"),
        };
        if held.len() < prefix.len() {
            return if prefix.starts_with(held) {
                Guess::Perhaps
            } else {
                Guess::No
            };
        }
        if !held.starts_with(prefix) {
            return Guess::No;
        }
        let text = &held[prefix.len()..];
        for name in names {
            let common = text.len().min(name.len());
            if !text[..common].eq_ignore_ascii_case(&name[..common]) {
                continue;
            }
            match text.get(name.len()) {
                None => return Guess::Perhaps,
                Some(end) if ends.contains(end) => return Guess::Yes,
                Some(_) => {}
            }
        }
        Guess::No
    }

    /// Takes one byte that may belong to a command.
    fn hold(&mut self, mut held: Vec<u8>, byte: u8) -> io::Result<()> {
        held.push(byte);
        match self.guess(&held) {
            Guess::Perhaps => self.line = Line::Held(held),
            Guess::Yes => self.line = Line::Command(held),
            Guess::No => {
                // Only its first byte is known to be plain: `###[add-path]` is a command.
                self.line = Line::Middle;
                self.pass(&held[..1])?;
                self.write_all(&held[1..])?;
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self, end: &[u8]) -> io::Result<()> {
        match std::mem::replace(&mut self.line, Line::Start) {
            Line::Start | Line::Middle => self.pass(end)?,
            Line::Held(held) => {
                self.pass(&held)?;
                self.pass(end)?;
            }
            Line::Command(text) => {
                if self.obey(&text) {
                    self.end_of_kept_line(end)?;
                } else {
                    self.pass(&text)?;
                    self.pass(end)?;
                }
            }
            Line::Dropped => self.end_of_kept_line(end)?,
        }
        self.begun = false;
        Ok(())
    }

    fn end_of_kept_line(&mut self, end: &[u8]) -> io::Result<()> {
        if self.begun {
            return self.pass(end);
        }
        self.skip_line_feed = end == b"\r";
        Ok(())
    }

    /// Acts on a whole command. `true` when the runner must not see it.
    fn obey(&mut self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text);
        let (info, data) = if let Some(rest) = text.strip_prefix("::") {
            let Some(parts) = rest.split_once("::") else {
                return false;
            };
            parts
        } else {
            let Some(parts) = text[3..].split_once(']') else {
                return false;
            };
            parts
        };
        let name = info
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        if let Some(token) = &self.stopped {
            if name.as_bytes() == token.as_slice() {
                self.stopped = None;
                return false;
            }
        } else if name == "stop-commands" {
            if !data.is_empty() && !is_command(data) {
                self.stopped = Some(data.to_ascii_lowercase().into_bytes());
            }
            return false;
        }
        if name != "add-path" {
            return false;
        }
        if self.stopped.is_some() || !self.allowed {
            self.commands.refused |= self.stopped.is_none();
            return true;
        }
        let entry = unescape(data);
        if !entry.is_empty() {
            self.commands.entries.push(entry);
        }
        true
    }
}

impl<W: Write> Write for StepLog<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.skip_line_feed) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            match &mut self.line {
                Line::Middle | Line::Start => {
                    let (plain, stop) = self.scan(rest);
                    self.pass(&rest[..plain])?;
                    rest = &rest[plain..];
                    if let Some(byte) = stop {
                        self.hold(Vec::new(), byte)?;
                        rest = &rest[1..];
                    }
                }
                Line::Held(held) => {
                    if first == b'\n' || first == b'\r' {
                        self.end_of_line(&[first])?;
                    } else {
                        let held = std::mem::take(held);
                        self.hold(held, first)?;
                    }
                    rest = &rest[1..];
                }
                Line::Command(text) => {
                    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    let room = LONGEST.saturating_sub(text.len());
                    text.extend_from_slice(&rest[..end.min(room)]);
                    if end > room {
                        self.commands.refused = true;
                        self.line = Line::Dropped;
                    }
                    self.end_at(rest, end)?;
                    rest = &rest[(end + 1).min(rest.len())..];
                }
                Line::Dropped => {
                    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    self.end_at(rest, end)?;
                    rest = &rest[(end + 1).min(rest.len())..];
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> StepLog<W> {
    fn end_at(&mut self, rest: &[u8], end: usize) -> io::Result<()> {
        match rest.get(end) {
            Some(&byte) => self.end_of_line(&[byte]),
            None => Ok(()),
        }
    }

    /// How many bytes are plain, and the byte after them that may begin a command.
    fn scan(&mut self, bytes: &[u8]) -> (usize, Option<u8>) {
        let mut at = 0;
        loop {
            if matches!(self.line, Line::Start) {
                // Runs of lines are passed on in one piece.
                while bytes.get(at).is_some_and(|&byte| is_blank(byte)) {
                    at += 1;
                }
                match bytes.get(at) {
                    None => return (at, None),
                    Some(&byte @ (b':' | b'#')) => return (at, Some(byte)),
                    Some(_) => self.line = Line::Middle,
                }
            }
            match memchr::memchr3(b'\n', b'\r', b'#', &bytes[at..]) {
                None => return (bytes.len(), None),
                Some(offset) => {
                    at += offset;
                    if bytes[at] == b'#' {
                        return (at, Some(b'#'));
                    }
                    at += 1;
                    self.line = Line::Start;
                }
            }
        }
    }
}

/// What the runner may take for a blank before a command, line ends included.
fn is_blank(byte: u8) -> bool {
    byte <= b' ' || byte >= 0x7f
}

/// Names that the runner refuses as the token of `stop-commands`.
fn is_command(token: &str) -> bool {
    [
        "add-mask",
        "add-matcher",
        "add-path",
        "debug",
        "echo",
        "endgroup",
        "error",
        "group",
        "notice",
        "pause-logging",
        "remove-matcher",
        "save-state",
        "set-env",
        "set-output",
        "stop-commands",
        "warning",
    ]
    .iter()
    .any(|name| name.eq_ignore_ascii_case(token))
}

fn unescape(data: &str) -> String {
    data.replace("%0D", "\r")
        .replace("%0A", "\n")
        .replace("%25", "%")
}

/// What a step asked for by `add-path` commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathCommands {
    /// Directories, in order.
    pub entries: Vec<String>,
    /// It asked although the job does not allow it, or for more than a path.
    pub refused: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(input: &[u8], allowed: bool, chunk: usize) -> (String, PathCommands) {
        let mut out = Vec::new();
        let mut log = StepLog::new(&mut out, allowed);
        for part in input.chunks(chunk) {
            log.write_all(part).unwrap();
        }
        let commands = log.finish().unwrap();
        (String::from_utf8_lossy(&out).into_owned(), commands)
    }

    /// Every way of cutting the input into writes must come to the same.
    fn kept(input: &str, allowed: bool) -> (String, Vec<String>) {
        let (out, commands) = through(input.as_bytes(), allowed, input.len().max(1));
        for chunk in 1..input.len() {
            assert_eq!(
                through(input.as_bytes(), allowed, chunk),
                (out.clone(), commands.clone()),
                "cut every {chunk} bytes"
            );
        }
        (out, commands.entries)
    }

    #[test]
    fn an_add_path_command_is_kept_from_the_runner_and_remembered() {
        for (input, out) in [
            ("a\n::add-path::/opt/x\nb\n", "a\nb\n"),
            ("a\n  \t::ADD-path::/opt/x\nb\n", "a\n  \t\nb\n"),
            ("a\n::add-path k=v::/opt/x\nb\n", "a\nb\n"),
            ("a\r::add-path::/opt/x\rb\n", "a\rb\n"),
            ("a\r\n::add-path::/opt/x\r\nb\r\n", "a\r\nb\r\n"),
            ("##[add-path]/opt/x\nb\n", "b\n"),
            ("text ##[add-path]/opt/x\nb\n", "text \nb\n"),
            ("###[add-path]/opt/x\nb\n", "#\nb\n"),
            ("::add-path::/opt/x", ""),
        ] {
            let (printed, entries) = kept(input, true);
            assert_eq!(printed, out, "{input:?}");
            assert_eq!(entries, ["/opt/x"], "{input:?}");
        }
    }

    #[test]
    fn an_add_path_command_that_the_job_does_not_allow_is_refused() {
        let (out, commands) = through(b"::add-path::/opt/x\n", false, 100);
        assert_eq!(out, "");
        assert_eq!(commands.entries, Vec::<String>::new());
        assert!(commands.refused);
    }

    #[test]
    fn other_commands_and_text_pass_byte_for_byte() {
        for input in [
            "::group::x\n::endgroup::\n",
            "::set-output name=a::b\n",
            "std::vector<int> a::add-path::b\n",
            "x ::add-path::/opt\n",
            "::add-pathology::x\n",
            ":: add-path::x\n",
            "::add-path",
            "##[group]x\n# # ## ##[ \n",
            "no newline at the end",
            "\r\n\r\n\n\r",
            "",
        ] {
            let (out, entries) = kept(input, true);
            assert_eq!(out, input);
            assert_eq!(entries, Vec::<String>::new());
        }
    }

    #[test]
    fn an_add_path_while_commands_are_stopped_reaches_neither_the_runner_nor_the_path() {
        let input = "::stop-commands::tok\n::add-path::/a\n::tok::\n::add-path::/b\n";
        let (out, entries) = kept(input, true);
        assert_eq!(out, "::stop-commands::tok\n::tok::\n");
        assert_eq!(entries, ["/b"]);
    }

    #[test]
    fn a_command_of_endless_length_is_dropped_in_bounded_memory() {
        let mut input = b"::add-path::".to_vec();
        input.resize(10 * LONGEST, b'x');
        input.extend_from_slice(b"\nnext\n");
        let (out, commands) = through(&input, true, 4096);
        assert_eq!(out, "next\n");
        assert!(commands.refused && commands.entries.is_empty());
    }

    proptest! {
        #[test]
        fn what_holds_no_command_is_never_changed(
            lines in proptest::collection::vec("[ :#\\[\\]a-dA-D\\-\r\n]{0,30}", 0..8),
            chunk in 1_usize..40,
        ) {
            let input = lines.join("\n");
            let (out, _) = through(input.as_bytes(), true, chunk);
            prop_assert_eq!(out, input);
        }
    }
}
