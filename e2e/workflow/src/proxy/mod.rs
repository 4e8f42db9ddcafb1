//! A proxy between hook and API server that does harm by plan.
//!
//! ```text
//! hook ── TLS ──> http: reads requests, answers or drops some   ── TLS ──> API server
//! hook ── TLS ──> raw: counts bytes, cuts or delays connections ── ... ──> API server
//! ```
//!
//! [`http`] knows what a request is and can lose the answer to a single one; it ends the hook's TLS
//! with the API server's own certificate, so that nothing of the hook's is changed but the
//! address. [`raw`] knows bytes only and so works for whatever goes over a connection.
//! What happens is decided by a plan that a seed makes, and can be repeated.

pub mod http;
pub mod plan;
pub mod raw;
pub mod tls;

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt::set_socket_linger;
use tokio::net::TcpStream;

/// The node's address, which the API server's certificate names, and any free port of it.
pub const NODE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 1)),
    0,
);

/// A second handle of a connection, by which it can be made to break instead of to end.
#[derive(Debug)]
struct Breaker(OwnedFd);

impl Breaker {
    fn of(stream: &TcpStream) -> std::io::Result<Self> {
        Ok(Self(stream.as_fd().try_clone_to_owned()?))
    }

    /// Whoever closes the connection now resets it.
    fn arm(&self) {
        let _ = set_socket_linger(&self.0, Some(std::time::Duration::ZERO));
    }
}
