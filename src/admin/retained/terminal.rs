//! Someone's terminal, joined to a program in a container.

use std::io::{self, Read as _};

use anyhow::{Context as _, bail};
use rustix::termios::{self, OptionalActions, Termios};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, Said, Size, send};
use crate::pod::names::JOB_CONTAINER;

/// What is read at once.
const BUFFER: usize = 16 * 1024;

/// A terminal that passes every key on, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn begin() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn size() -> Option<Size> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    Some(Size {
        width: size.ws_col,
        height: size.ws_row,
    })
}

/// Joins this process's streams to the program's, and returns its exit code. A terminal's keys, Ctrl-C
/// among them, are the program's; so is its size.
pub async fn talk(cluster: &Cluster, pod: &str, command: &[String]) -> anyhow::Result<u8> {
    let tty = termios::isatty(io::stdin()) && termios::isatty(io::stdout());
    let mut shell = cluster.shell(pod, JOB_CONTAINER, command, tty).await?;
    let mut input = shell.input();
    let mut resize = shell.sizes();
    let mut resized = signal(SignalKind::window_change()).context("watch the terminal's size")?;
    if let Some(size) = size().filter(|_| tty) {
        resize(size);
    }
    let raw = tty
        .then(Raw::begin)
        .transpose()
        .context("set the terminal up")?;
    let mut typed = typing();
    let (mut out, mut errors) = (vec![0; BUFFER], vec![0; BUFFER]);
    let ended = loop {
        tokio::select! {
            said = shell.next(&mut out, &mut errors) => match said.context("hear the program")? {
                Said::Out(count) => show(&mut io::stdout(), &out[..count])?,
                Said::Err(count) => show(&mut io::stderr(), &errors[..count])?,
                Said::End(code) => break code,
            },
            bytes = typed.recv(), if input.is_some() => {
                // What a program that has ended is told does not matter.
                if send(&mut input, bytes.as_deref()).await.is_err() {
                    input = None;
                }
            }
            _ = resized.recv() => size().into_iter().for_each(&mut resize),
        }
    };
    drop(raw);
    match ended {
        Some(code) => Ok(code),
        None => bail!("the connection to pod `{pod}` broke"),
    }
}

/// Prints what the program says.
pub async fn listen(cluster: &Cluster, pod: &str, command: &[String]) -> anyhow::Result<u8> {
    let mut shell = cluster.shell(pod, JOB_CONTAINER, command, false).await?;
    let (mut out, mut errors) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        match shell
            .next(&mut out, &mut errors)
            .await
            .context("hear the program")?
        {
            Said::Out(count) => show(&mut io::stdout(), &out[..count])?,
            Said::Err(count) => show(&mut io::stderr(), &errors[..count])?,
            Said::End(Some(code)) => return Ok(code),
            Said::End(None) => bail!("the connection to pod `{pod}` broke"),
        }
    }
}

fn show(to: &mut impl io::Write, bytes: &[u8]) -> anyhow::Result<()> {
    to.write_all(bytes)
        .and_then(|()| to.flush())
        .context("write what the program says")
}

/// What is typed, read by a thread of its own: it is still waiting for a key when the program has ended, and
/// must not hold up the end of this process.
fn typing() -> mpsc::Receiver<Vec<u8>> {
    let (typed, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        let mut stdin = io::stdin().lock();
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if typed.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    keys
}
