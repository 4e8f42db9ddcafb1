//! A program in a container, with its three streams.
//!
//! The service account's token is read anew by each connection, within a minute of its rotation
//! (kube-client 5.0, `client/auth`, `TokenFile`); one that stands does not need it any more.

use std::collections::VecDeque;
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, Stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status as End;
use kube::Resource as _;
use kube::api::AttachParams;
use kube::client::UpgradeConnectionError;
use kube::core::{Request, Status};
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message};

use super::attempt::failure;
use super::{Act, Cluster, ClusterError};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(15);
/// Output that waits while something is written.
const BUFFER: usize = 256 * 1024;
/// Most that is kept of what a program says besides.
const WORDS: usize = 4096;
/// How long what is left of an ended connection may take to be read.
const REST: Duration = Duration::from_millis(50);

/// How long a program's status may come after its last output.
const STATUS: Duration = Duration::from_secs(2);

/// The first byte of each message says what it is of
/// (kubernetes v1.36, `apimachinery/pkg/util/remotecommand/constants.go`).
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ENDED: u8 = 3;

/// How a connection ended: with the program's status, or without one.
type Ended = Result<End, ()>;

trait Socket: Stream<Item = Result<Message, SocketError>> + Sink<Message, Error = SocketError> {}

impl<S> Socket for S where
    S: Stream<Item = Result<Message, SocketError>> + Sink<Message, Error = SocketError>
{
}

/// A program that runs in a container. Dropping it breaks the connection, not the program.
///
/// Its messages are read from the socket itself: kube's streams cut what goes in into pieces of
/// 4 KiB, each of which costs the API server and the kubelet as much as a larger one, copy what
/// comes out twice more, and stay open when the connection breaks (kube-client 5.0,
/// `api/remote_command.rs`).
pub struct Exec {
    socket: Pin<Box<dyn Socket>>,
    /// Output that came while something was written.
    output: VecDeque<Bytes>,
    waiting: usize,
    words: Vec<u8>,
    /// The connection has ended, and what was said of the program then.
    ended: Option<Ended>,
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
            .stderr(true);
        let act = self.act("create", "pods/exec", pod);
        let connected = async {
            let request = Request::new(Pod::url_path(&(), Some(&self.namespace)))
                .exec(pod, command, &parameters)
                .map_err(kube::Error::BuildRequest)?;
            self.client.connect(request).await
        };
        let connection = self.connected(act, connected).await?;
        Ok(Exec {
            socket: Box::pin(connection.into_stream()),
            output: VecDeque::new(),
            waiting: 0,
            words: Vec::new(),
            ended: None,
        })
    }

    /// Waits for a connection to a program.
    pub(super) async fn connected<T>(
        &self,
        act: Act,
        begun: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ClusterError> {
        let begun = tokio::time::timeout(CONNECT, begun).await;
        let error = match begun {
            Ok(Ok(connection)) => return Ok(connection),
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
                self.may_have_been_away();
                failure(act, error, CONNECT)
            }
        })
    }
}

impl Exec {
    /// Writes to the program's standard input, all parts in one message.
    ///
    /// What comes meanwhile is taken in, for a program that waits for its output to be read may
    /// read nothing until then.
    pub async fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let mut message =
            Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
        message.push(STDIN);
        for part in parts {
            message.extend_from_slice(part);
        }
        let mut message = Some(Message::binary(message));
        poll_fn(|context| {
            while self.ended.is_none() && self.waiting < BUFFER {
                match self.poll_message(context) {
                    Poll::Ready(taken) => taken?,
                    Poll::Pending => break,
                }
            }
            if self.ended.is_some() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if message.is_some() {
                ready!(self.socket.as_mut().poll_ready(context)).map_err(broken)?;
                if let Some(message) = message.take() {
                    self.socket.as_mut().start_send(message).map_err(broken)?;
                }
            }
            self.socket.as_mut().poll_flush(context).map_err(broken)
        })
        .await
    }

    /// Reads from the program's standard output; nothing at the connection's end. Nothing is lost
    /// when it is not waited for.
    pub async fn read(&mut self) -> io::Result<Bytes> {
        poll_fn(|context| {
            loop {
                if let Some(bytes) = self.output.pop_front() {
                    self.waiting -= bytes.len();
                    return Poll::Ready(Ok(bytes));
                }
                if self.ended.is_some() {
                    return Poll::Ready(Ok(Bytes::new()));
                }
                ready!(self.poll_message(context))?;
            }
        })
        .await
    }

    /// Takes one message in.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let message = match ready!(self.socket.as_mut().poll_next(context)) {
            Some(Ok(message)) => message,
            ended => {
                self.ended = Some(Err(()));
                return Poll::Ready(match ended {
                    Some(Err(error)) => Err(broken(error)),
                    _ => Ok(()),
                });
            }
        };
        // Pings are answered by the socket itself.
        let Message::Binary(mut bytes) = message else {
            return Poll::Ready(Ok(()));
        };
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match bytes.split_to(1)[0] {
            STDOUT if !bytes.is_empty() => {
                self.waiting += bytes.len();
                self.output.push_back(bytes);
            }
            STDERR => {
                let room = WORDS - self.words.len();
                self.words
                    .extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            ENDED => self.ended = Some(serde_json::from_slice(&bytes).map_err(drop)),
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the connection's end, no longer than that.
    async fn end(&mut self, within: Duration) {
        let end = poll_fn(|context| {
            while self.ended.is_none() {
                // That it broke is its end, too.
                let _ = ready!(self.poll_message(context));
            }
            Poll::Ready(())
        });
        let _ = tokio::time::timeout(within, end).await;
    }

    /// Whether the program is known to have ended with 0. Its output has ended.
    pub async fn succeeded(&mut self) -> bool {
        self.end(STATUS).await;
        let status = self.ended.as_ref().and_then(|ended| ended.as_ref().ok());
        status.and_then(|status| status.status.as_deref()) == Some("Success")
    }

    /// Why the connection ended, as far as that was said.
    pub async fn last_words(&mut self) -> String {
        self.end(REST).await;
        let words = String::from_utf8_lossy(&self.words).trim().to_owned();
        if let Some(Ok(status)) = &self.ended {
            let message = status.message.as_deref().unwrap_or_default();
            return format!("{words} {message}").trim().to_owned();
        }
        words
    }
}

fn broken(error: impl Display) -> io::Error {
    io::Error::other(error.to_string())
}
