//! Requests that fail one by one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Breaker;
use super::plan::{Fault, Mixture};

/// Where requests go on to.
#[derive(Clone)]
pub struct Upstream {
    /// Address.
    pub address: SocketAddr,
    /// Trust in its certificate, which must name that address.
    pub connector: TlsConnector,
}

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    mixture: Arc<Mutex<Mixture>>,
    task: JoinHandle<()>,
}

type Body = Either<Incoming, Full<Bytes>>;

impl Proxy {
    /// Listens at `address` and does harm as `mixture` says.
    pub async fn start(
        address: SocketAddr,
        acceptor: TlsAcceptor,
        upstream: Upstream,
        mixture: Mixture,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("failed to listen at {address}"))?;
        let address = listener.local_addr()?;
        let mixture = Arc::new(Mutex::new(mixture));
        let shared = Arc::clone(&mixture);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection {
                    upstream: upstream.clone(),
                    mixture: Arc::clone(&shared),
                };
                tokio::spawn(connection.serve(stream, acceptor.clone()));
            }
        });
        Ok(Self {
            address,
            mixture,
            task,
        })
    }

    /// What it did: method, path, fault.
    #[must_use]
    pub fn done(&self) -> Vec<(String, String, Fault)> {
        let mixture = self.mixture.lock().unwrap_or_else(PoisonError::into_inner);
        mixture.done.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    upstream: Upstream,
    mixture: Arc<Mutex<Mixture>>,
}

impl Connection {
    // A connection that breaks is what this is for, and no error.
    async fn serve(self, stream: TcpStream, acceptor: TlsAcceptor) {
        let Ok(breaker) = Breaker::of(&stream) else {
            return;
        };
        let Ok(stream) = acceptor.accept(stream).await else {
            return;
        };
        let service = service_fn(|request| self.answer(request, &breaker));
        let _ = server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    /// An error makes the server drop the connection without an answer.
    async fn answer(
        &self,
        request: Request<Incoming>,
        breaker: &Breaker,
    ) -> anyhow::Result<Response<Body>> {
        let fault = self
            .mixture
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fault(request.method().as_str(), request.uri().path());
        match fault {
            None => Ok(self.pass(request).await?.map(Either::Left)),
            Some(Fault::Status(code)) => refused(code, None),
            Some(Fault::Overload(seconds)) => refused(429, Some(seconds)),
            Some(Fault::Reset) => {
                breaker.arm();
                anyhow::bail!("reset by plan");
            }
            Some(Fault::LostAnswer) => {
                // The whole answer: a deletion is done when it has come, not when it begins.
                let answer = self.pass(request).await?;
                answer.into_body().collect().await?;
                breaker.arm();
                anyhow::bail!("answer lost by plan");
            }
        }
    }

    async fn pass(&self, request: Request<Incoming>) -> anyhow::Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.upstream.address).await?;
        let name = ServerName::from(self.upstream.address.ip());
        let stream = self.upstream.connector.connect(name, stream).await?;
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender.send_request(request).await?)
    }
}

/// An answer of who is between, or of the API server in trouble: both are plain text.
fn refused(code: u16, retry_after: Option<u16>) -> anyhow::Result<Response<Body>> {
    let mut answer = Response::builder()
        .status(code)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8");
    if let Some(seconds) = retry_after {
        answer = answer.header(RETRY_AFTER, seconds);
    }
    let text = format!("{code} by plan\n");
    Ok(answer.body(Either::Right(Full::new(Bytes::from(text))))?)
}
