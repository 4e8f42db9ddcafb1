//! A program in a terminal, and someone who types. `script` of util-linux makes the terminal.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_mins(1);

/// The terminal.
pub struct Terminal {
    child: Child,
    input: Option<std::process::ChildStdin>,
    output: ChildStdout,
    shown: String,
    seen: usize,
}

impl Terminal {
    /// Starts the command in a terminal of this size.
    pub fn open(command: &Command, columns: u16, rows: u16) -> anyhow::Result<Self> {
        let command = command.as_std();
        let mut line = OsString::from(format!("stty cols {columns} rows {rows}; exec"));
        for word in std::iter::once(command.get_program()).chain(command.get_args()) {
            let word = word.to_str().context("a word is no text")?;
            line.push(format!(" '{}'", word.replace('\'', "'\\''")));
        }
        let mut script = std::process::Command::new("script");
        script.arg("-qefc").arg(line).arg("/dev/null");
        for (name, value) in command.get_envs() {
            script.env(name, value.unwrap_or_default());
        }
        script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = Command::from(script)
            .kill_on_drop(true)
            .spawn()
            .context("failed to start `script`")?;
        let input = child.stdin.take().context("`script` has no input")?;
        let output = child.stdout.take().context("`script` has no output")?;
        Ok(Self {
            child,
            input: Some(
                input
                    .into_owned_fd()
                    .context("failed to take the input")?
                    .into(),
            ),
            output,
            shown: String::new(),
            seen: 0,
        })
    }

    /// Types.
    pub fn type_in(&mut self, keys: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let input = self.input.as_mut().context("nobody types any more")?;
        input.write_all(keys.as_bytes()).context("failed to type")
    }

    /// Waits until the terminal has shown this, after what was waited for before.
    pub async fn expect(&mut self, text: &str) -> anyhow::Result<()> {
        let mut buffer = vec![0; 4096];
        let answered = tokio::time::timeout(ANSWER, async {
            loop {
                if let Some(at) = self.shown[self.seen..].find(text) {
                    self.seen += at + text.len();
                    return Ok(true);
                }
                let count = self.output.read(&mut buffer).await?;
                if count == 0 {
                    return anyhow::Ok(false);
                }
                self.shown
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        match answered.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Ok(Ok(false)) | Err(_) => bail!("the terminal does not show `{text}`: {}", self.shown),
        }
    }

    /// Gives the terminal another size, of which its program is told.
    pub async fn resize(&self, columns: u16, rows: u16) -> anyhow::Result<()> {
        let pid = self.child.id().context("the program has ended")?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let child = children
            .split_whitespace()
            .next()
            .context("`script` runs nothing")?;
        let status = Command::new("stty")
            .arg("-F")
            .arg(std::fs::read_link(format!("/proc/{child}/fd/0"))?)
            .args(["cols", &columns.to_string(), "rows", &rows.to_string()])
            .status()
            .await?;
        anyhow::ensure!(status.success(), "failed to resize the terminal: {status}");
        Ok(())
    }

    /// The program's exit code.
    pub async fn ended(mut self) -> anyhow::Result<Option<i32>> {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(ANSWER, async {
            self.output.read_to_end(&mut rest).await?;
            self.child.wait().await
        });
        Ok(ended.await.context("the program does not end")??.code())
    }
}
