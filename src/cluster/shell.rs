//! A program in a container that someone talks to, with a terminal where they have one.

use std::future::Future;
use std::io;
use std::pin::Pin;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status as End;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Cluster, ClusterError};

/// What may wait in each direction.
const BUFFER: usize = 256 * 1024;

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The program. Dropping it breaks the connection.
pub struct Shell {
    process: AttachedProcess,
    status: Pin<Box<dyn Future<Output = Option<End>>>>,
    stdin: Option<Box<dyn AsyncWrite + Unpin>>,
    stdout: Box<dyn AsyncRead + Unpin>,
    stderr: Option<Box<dyn AsyncRead + Unpin>>,
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
            status: Box::pin(async { status?.await }),
            stdin: Some(Box::new(stdin)),
            stdout: Box::new(stdout),
            stderr: stderr.map(|stderr| Box::new(stderr) as Box<dyn AsyncRead + Unpin>),
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
        let stderr = self.stderr.as_mut();
        let errors_read = async {
            match stderr {
                Some(stderr) => stderr.read(errors).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            read = self.stdout.read(out) => match read? {
                0 => {}
                count => return Ok(Said::Out(count)),
            },
            read = errors_read => match read? {
                0 => self.stderr = None,
                count => return Ok(Said::Err(count)),
            },
            status = &mut self.status => return self.rest(status, out).await,
        }
        // A stream has ended; the status follows.
        let status = (&mut self.status).await;
        Ok(Said::End(status.as_ref().map(code)))
    }

    /// The status may overtake the last words.
    async fn rest(&mut self, status: Option<End>, out: &mut [u8]) -> io::Result<Said> {
        const REST: std::time::Duration = std::time::Duration::from_millis(50);
        let end = status.as_ref().map(code);
        self.status = Box::pin(std::future::ready(status));
        match tokio::time::timeout(REST, self.stdout.read(out)).await {
            Ok(Ok(count @ 1..)) => Ok(Said::Out(count)),
            _ => Ok(Said::End(end)),
        }
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
