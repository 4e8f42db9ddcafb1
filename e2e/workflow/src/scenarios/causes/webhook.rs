//! An admission webhook that denies whatever it is asked.

use std::net::SocketAddr;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::paths::Paths;
use crate::proxy::tls;

/// The running webhook; it ends when this is dropped.
pub struct Webhook {
    /// Its port, at 127.0.0.1.
    pub port: u16,
    task: JoinHandle<()>,
}

impl Webhook {
    /// Starts one, with the API server's own certificate.
    pub async fn start(paths: &Paths) -> anyhow::Result<Self> {
        let acceptor = tls::as_api_server(paths)?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .context("failed to listen for the API server")?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(deny))
                        .await;
                });
            }
        });
        Ok(Self { port, task })
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn deny(request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body)?;
    let answer = json!({
        "apiVersion": review["apiVersion"], "kind": review["kind"],
        "response": {
            "uid": review["request"]["uid"], "allowed": false,
            "status": {"code": 403, "message": "no pods on a Saturday"},
        },
    });
    Ok(Response::new(Full::new(Bytes::from(answer.to_string()))))
}
