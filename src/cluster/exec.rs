//! A program in a container, with its three streams.
//!
//! The service account's token is read anew by each connection, within a minute of its rotation
//! (kube-client 5.0, `client/auth`, `TokenFile`); one that stands does not need it any more.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status as End;
use kube::api::{AttachParams, AttachedProcess};
use kube::client::UpgradeConnectionError;
use kube::core::Status;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Act, Cluster, ClusterError, Instant, failure};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(15);
/// What may wait in each direction.
const BUFFER: usize = 256 * 1024;
/// Most that is read of what a program says besides.
const WORDS: u64 = 4096;
/// How long what is left of an ended connection may take to be read.
const REST: Duration = Duration::from_millis(50);

/// How long a program's status may come after its last output.
const STATUS: Duration = Duration::from_secs(2);

/// How a connection ended: with the program's status, or without one.
type Ended = Result<End, ()>;

/// A program that runs in a container. Dropping it breaks the connection, not the program.
pub struct Exec {
    /// Its end ends the connection.
    _process: AttachedProcess,
    status: Pin<Box<dyn Future<Output = Option<End>>>>,
    /// The connection has ended, and what was said of the program then. Only this tells of a
    /// connection that broke: kube leaves the streams open.
    ended: Option<Ended>,
    stdin: Box<dyn AsyncWrite + Unpin>,
    stdout: Box<dyn AsyncRead + Unpin>,
    stderr: Box<dyn AsyncRead + Unpin>,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec").finish_non_exhaustive()
    }
}

impl Cluster {
    /// Starts a program in a container. It may have started also when no answer came.
    pub async fn exec(
        &self,
        pod: &str,
        container: &str,
        command: &[String],
    ) -> Result<Exec, ClusterError> {
        let parameters = AttachParams::default()
            .container(container)
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .max_stdin_buf_size(BUFFER)
            .max_stdout_buf_size(BUFFER);
        let (act, mut process) = self.attach(pod, command, &parameters).await?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (process.stdin(), process.stdout(), process.stderr())
        else {
            return Err(ClusterError::Malformed {
                act,
                cause: "the exec has no streams".to_owned(),
            });
        };
        let status = process.take_status();
        Ok(Exec {
            status: Box::pin(async { status?.await }),
            ended: None,
            _process: process,
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
        })
    }

    /// Starts a program, with the streams that the parameters name.
    pub(super) async fn attach(
        &self,
        pod: &str,
        command: &[String],
        parameters: &AttachParams,
    ) -> Result<(Act, AttachedProcess), ClusterError> {
        let act = self.act("create", "pods/exec", pod);
        let api = self.api::<Pod>();
        let begun = api.exec(pod, command.to_vec(), parameters);
        let begun = tokio::time::timeout(CONNECT, begun).await;
        let error = match begun {
            Ok(Ok(process)) => return Ok((act, process)),
            Ok(Err(kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(
                code,
            )))) => {
                let message = format!("the answer to an exec is {code}");
                let status = Status::failure(&message, "").with_code(code.as_u16());
                Some(kube::Error::Api(status.boxed()))
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        Err(match error {
            Some(kube::Error::Api(status)) if status.code == 403 => {
                if self.past().doubts(&act.attempt) {
                    ClusterError::Unreachable {
                        act,
                        waited: CONNECT,
                        cause: "it has just started, and does not know its Roles yet".to_owned(),
                    }
                } else {
                    failure(act, Some(kube::Error::Api(status)), CONNECT)
                }
            }
            Some(error @ kube::Error::Api(_)) => failure(act, Some(error), CONNECT),
            error => {
                self.past().away = Some(Instant::now());
                failure(act, error, CONNECT)
            }
        })
    }
}

impl Exec {
    /// Writes to the program's standard input.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.ended.is_none() {
            tokio::select! {
                written = self.stdin.write_all(bytes) => return written,
                status = &mut self.status => self.ended = Some(status.ok_or(())),
            }
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }

    /// Reads from the program's standard output; 0 at the connection's end. Nothing is lost when
    /// it is not waited for.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended.is_none() {
            tokio::select! {
                biased;
                read = self.stdout.read(buffer) => return read,
                status = &mut self.status => self.ended = Some(status.ok_or(())),
            }
        }
        let rest = tokio::time::timeout(REST, self.stdout.read(buffer)).await;
        rest.unwrap_or(Ok(0))
    }

    /// Whether the program is known to have ended with 0. Its output has ended.
    pub async fn succeeded(&mut self) -> bool {
        if self.ended.is_none() {
            let status = tokio::time::timeout(STATUS, &mut self.status).await;
            self.ended = Some(status.ok().flatten().ok_or(()));
        }
        let status = self.ended.as_ref().and_then(|ended| ended.as_ref().ok());
        status.and_then(|status| status.status.as_deref()) == Some("Success")
    }

    /// Why the connection ended, as far as that was said.
    pub async fn last_words(&mut self) -> String {
        let mut words = Vec::new();
        let mut stderr = (&mut self.stderr).take(WORDS);
        let _ = tokio::time::timeout(REST, stderr.read_to_end(&mut words)).await;
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        if let Some(Ok(status)) = &self.ended {
            let message = status.message.as_deref().unwrap_or_default();
            return format!("{words} {message}").trim().to_owned();
        }
        words
    }
}
