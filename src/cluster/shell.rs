//! A program in a container that someone talks to, with a terminal where they have one.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status as End;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Cluster, ClusterError};

/// What may wait in each direction.
const BUFFER: usize = 256 * 1024;
/// How long words are awaited that the status has overtaken.
const REST: Duration = Duration::from_millis(50);

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

type Reading = Box<dyn AsyncRead + Unpin>;

/// The program. Dropping it breaks the connection.
pub struct Shell {
    process: AttachedProcess,
    stdin: Option<Box<dyn AsyncWrite + Unpin>>,
    words: Words,
}

/// What it says, until each stream has ended.
struct Words {
    stdout: Option<Reading>,
    stderr: Option<Reading>,
    status: Pin<Box<dyn Future<Output = Option<End>>>>,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell").finish_non_exhaustive()
    }
}

/// What the program did next.
#[derive(Debug)]
pub enum Said {
    /// So many bytes on standard output, which are in the first buffer.
    Out(usize),
    /// So many bytes on standard error, which are in the second.
    Err(usize),
    /// It ended with this exit code; `None` when the connection broke.
    End(Option<u8>),
}

impl Cluster {
    /// Starts a program, with a terminal if `tty`; its output and its errors are then one stream.
    pub async fn shell(
        &self,
        pod: &str,
        container: &str,
        command: &[String],
        tty: bool,
    ) -> Result<Shell, ClusterError> {
        let parameters = AttachParams::default()
            .container(container)
            .stdin(true)
            .stdout(true)
            .stderr(!tty)
            .tty(tty)
            .max_stdin_buf_size(BUFFER)
            .max_stdout_buf_size(BUFFER)
            .max_stderr_buf_size(BUFFER);
        let act = self.act("create", "pods/exec", pod);
        let api = self.api::<Pod>();
        let begun = api.exec(pod, command.to_vec(), &parameters);
        let mut process = self.connected(act.clone(), begun).await?;
        let (Some(stdin), Some(stdout)) = (process.stdin(), process.stdout()) else {
            return Err(ClusterError::Malformed {
                act,
                cause: "the exec has no streams".to_owned(),
            });
        };
        let stderr = process.stderr();
        let status = process.take_status();
        Ok(Shell {
            process,
            stdin: Some(Box::new(stdin)),
            words: Words {
                stdout: Some(Box::new(stdout)),
                stderr: stderr.map(|stderr| Box::new(stderr) as Reading),
                status: Box::pin(async { status?.await }),
            },
        })
    }
}

impl Shell {
    /// A handle by which the terminal's size is told.
    pub fn sizes(&mut self) -> impl FnMut(Size) + use<> {
        let mut sender = self.process.terminal_size();
        move |size| {
            if let Some(sender) = &mut sender {
                // One that is lost is followed by another when it matters.
                let _ = sender.try_send(TerminalSize {
                    width: size.width,
                    height: size.height,
                });
            }
        }
    }

    /// Takes standard input out, to be written to beside the reading.
    pub fn input(&mut self) -> Option<Box<dyn AsyncWrite + Unpin>> {
        self.stdin.take()
    }

    /// What it says next.
    pub async fn next(&mut self, out: &mut [u8], errors: &mut [u8]) -> io::Result<Said> {
        self.words.next(out, errors).await
    }
}

impl Words {
    async fn next(&mut self, out: &mut [u8], errors: &mut [u8]) -> io::Result<Said> {
        if let Some(said) = self.read(out, errors, true).await? {
            return Ok(said);
        }
        let status = (&mut self.status).await;
        let end = status.as_ref().map(code);
        // It may overtake the last words; what a program left behind may hold the streams open.
        self.status = Box::pin(std::future::ready(status));
        let rest = tokio::time::timeout(REST, self.read(out, errors, false));
        match rest.await {
            Ok(Ok(Some(said))) => Ok(said),
            _ => Ok(Said::End(end)),
        }
    }

    /// What a stream brings; `None` when both have ended, or, if it `may_end`, the program has.
    async fn read(
        &mut self,
        out: &mut [u8],
        errors: &mut [u8],
        may_end: bool,
    ) -> io::Result<Option<Said>> {
        while self.stdout.is_some() || self.stderr.is_some() {
            tokio::select! {
                biased;
                read = read_from(&mut self.stdout, out) => match read? {
                    0 => self.stdout = None,
                    count => return Ok(Some(Said::Out(count))),
                },
                read = read_from(&mut self.stderr, errors) => match read? {
                    0 => self.stderr = None,
                    count => return Ok(Some(Said::Err(count))),
                },
                status = &mut self.status, if may_end => {
                    self.status = Box::pin(std::future::ready(status));
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }
}

async fn read_from(stream: &mut Option<Reading>, buffer: &mut [u8]) -> io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Sends what someone types; `None` ends it.
pub async fn send(
    input: &mut Option<Box<dyn AsyncWrite + Unpin>>,
    bytes: Option<&[u8]>,
) -> io::Result<()> {
    match (input.as_mut(), bytes) {
        (Some(open), Some(bytes)) => {
            open.write_all(bytes).await?;
            open.flush().await
        }
        (Some(open), None) => {
            open.shutdown().await?;
            *input = None;
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

/// The exit code of a program (kubernetes, `remotecommand.NonZeroExitCodeReason`).
fn code(end: &End) -> u8 {
    if end.status.as_deref() == Some("Success") {
        return 0;
    }
    let causes = end
        .details
        .as_ref()
        .and_then(|details| details.causes.as_ref());
    let exit = causes
        .into_iter()
        .flatten()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let exit = exit.and_then(|cause| cause.message.as_ref()?.parse().ok());
    exit.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn all_of(words: &mut Words) -> (Vec<u8>, Vec<u8>, Option<u8>) {
        let (mut out, mut errors) = ([0; 2], [0; 2]);
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        loop {
            match words.next(&mut out, &mut errors).await.unwrap() {
                Said::Out(count) => said.extend(&out[..count]),
                Said::Err(count) => complained.extend(&errors[..count]),
                Said::End(code) => return (said, complained, code),
            }
        }
    }

    fn words(stdout: Reading, stderr: Reading) -> Words {
        let end = json!({"status": "Failure", "details": {"causes": [
            {"reason": "ExitCode", "message": "2"}]}});
        Words {
            stdout: Some(stdout),
            stderr: Some(stderr),
            status: Box::pin(std::future::ready(serde_json::from_value(end).unwrap())),
        }
    }

    #[tokio::test]
    async fn one_stream_that_ends_cuts_nothing_off_the_other() {
        let mut silent = words(Box::new(tokio::io::empty()), Box::new(&b"no shell"[..]));
        let expected = (Vec::new(), b"no shell".to_vec(), Some(2));
        assert_eq!(all_of(&mut silent).await, expected);
        let mut content = words(Box::new(&b"a shell"[..]), Box::new(tokio::io::empty()));
        let expected = (b"a shell".to_vec(), Vec::new(), Some(2));
        assert_eq!(all_of(&mut content).await, expected);
    }

    #[tokio::test]
    async fn words_that_the_status_overtakes_are_heard_and_a_stream_left_open_is_not_awaited() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut late = words(Box::new(near), Box::new(tokio::io::empty()));
        let speaks = async {
            tokio::task::yield_now().await;
            far.write_all(b"late").await.unwrap();
        };
        let (heard, ()) = tokio::join!(all_of(&mut late), speaks);
        assert_eq!(heard, (b"late".to_vec(), Vec::new(), Some(2)));
    }

    #[test]
    fn an_exit_code_is_read_from_the_status() {
        let end = |value| serde_json::from_value::<End>(value).unwrap();
        assert_eq!(code(&end(json!({"status": "Success"}))), 0);
        let failed = json!({"status": "Failure", "details": {"causes": [
            {"reason": "ExitCode", "message": "42"}]}});
        assert_eq!(code(&end(failed)), 42);
        assert_eq!(code(&end(json!({"status": "Failure"}))), 1);
    }
}
