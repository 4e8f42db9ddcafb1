//! Connections that are cut, stalled or slowed at chosen bytes, whatever goes over them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Breaker;

/// What happens to one direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Harm {
    /// Nothing.
    #[default]
    None,
    /// The connection is reset once so many bytes have passed.
    Cut(u64),
    /// After so many bytes nothing passes for so long.
    Stall(u64, Duration),
    /// At most so many bytes pass in a millisecond.
    Slow(u32),
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// To what the client sends.
    pub up: Harm,
    /// To what the server sends.
    pub down: Harm,
}

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    struck: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens at `address` and passes on to `upstream`; `plan` is asked for each connection.
    pub async fn start(
        address: SocketAddr,
        upstream: SocketAddr,
        mut plan: impl FnMut() -> Wire + Send + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("failed to listen at {address}"))?;
        let address = listener.local_addr()?;
        let struck = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&struck);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (wire, count) = (plan(), Arc::clone(&count));
                tokio::spawn(async move {
                    // An end that breaks is what this is for, and no error.
                    let _ = carry(stream, upstream, wire, &count).await;
                });
            }
        });
        Ok(Self {
            address,
            struck,
            task,
        })
    }

    /// How often harm was done: not every connection lives to see the byte that was chosen.
    #[must_use]
    pub fn struck(&self) -> u32 {
        self.struck.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Cut,
}

async fn carry(
    mut client: TcpStream,
    upstream: SocketAddr,
    wire: Wire,
    struck: &AtomicU32,
) -> std::io::Result<End> {
    let mut server = TcpStream::connect(upstream).await?;
    let breakers = [Breaker::of(&client)?, Breaker::of(&server)?];
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (mut up, mut down) = (
        Box::pin(one_way(from_client, to_server, wire.up, struck)),
        Box::pin(one_way(from_server, to_client, wire.down, struck)),
    );
    let mut open = [true, true];
    let cut = loop {
        let end = tokio::select! {
            end = &mut up, if open[0] => { open[0] = false; end? }
            end = &mut down, if open[1] => { open[1] = false; end? }
        };
        if end == End::Cut || open == [false, false] {
            break end;
        }
    };
    if cut == End::Cut {
        breakers.iter().for_each(Breaker::arm);
    }
    Ok(cut)
}

async fn one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    harm: Harm,
    struck: &AtomicU32,
) -> std::io::Result<End> {
    let mut buffer = vec![0; 16 << 10];
    let mut passed: u64 = 0;
    loop {
        let most = match harm {
            Harm::Slow(bytes) => (bytes.max(1) as usize).min(buffer.len()),
            _ => buffer.len(),
        };
        let count = from.read(&mut buffer[..most]).await?;
        if count == 0 {
            to.shutdown().await?;
            return Ok(End::Closed);
        }
        let bytes = &buffer[..count];
        // Where in these bytes the chosen one is, if it is.
        let reached = |at: u64| {
            let at = at.checked_sub(passed)?;
            usize::try_from(at).ok().filter(|at| *at <= count)
        };
        match harm {
            Harm::Cut(at) => {
                if let Some(at) = reached(at) {
                    struck.fetch_add(1, Ordering::Relaxed);
                    to.write_all(&bytes[..at]).await?;
                    return Ok(End::Cut);
                }
                to.write_all(bytes).await?;
            }
            Harm::Stall(at, pause) => {
                if let Some(at) = reached(at) {
                    struck.fetch_add(1, Ordering::Relaxed);
                    to.write_all(&bytes[..at]).await?;
                    tokio::time::sleep(pause).await;
                    to.write_all(&bytes[at..]).await?;
                } else {
                    to.write_all(bytes).await?;
                }
            }
            Harm::Slow(_) => {
                struck.fetch_add(u32::from(passed == 0), Ordering::Relaxed);
                to.write_all(bytes).await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Harm::None => to.write_all(bytes).await?,
        }
        passed += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const HERE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    /// Sends `sent` through a proxy to a server that sends it back, and returns what came.
    fn echoed(wire: Wire, sent: &[u8]) -> (Vec<u8>, std::io::Result<()>, u32) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = TcpListener::bind(HERE).await.unwrap();
            let upstream = server.local_addr().unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = server.accept().await {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                }
            });
            let proxy = Proxy::start(HERE, upstream, move || wire).await.unwrap();
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            let (mut from, mut to) = client.split();
            let mut got = Vec::new();
            let writes = async {
                to.write_all(sent).await?;
                to.shutdown().await
            };
            let (_, read) = tokio::join!(writes, from.read_to_end(&mut got));
            (got, read.map(drop), proxy.struck())
        })
    }

    #[test]
    fn without_harm_everything_passes() {
        let sent = vec![b'x'; 100_000];
        let (got, end, cut) = echoed(Wire::default(), &sent);
        assert_eq!((got == sent, end.is_ok(), cut), (true, true, 0));
    }

    #[test]
    fn a_connection_is_reset_after_exactly_so_many_bytes() {
        for at in [0, 1, 5, 9] {
            let wire = Wire {
                down: Harm::Cut(at),
                ..Wire::default()
            };
            let (got, end, cut) = echoed(wire, b"0123456789");
            assert!(got.len() as u64 <= at, "{got:?}");
            let end = end.unwrap_err();
            assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
            assert_eq!(cut, 1);
        }
    }

    #[test]
    fn a_stalled_or_slow_connection_loses_nothing() {
        let sent = b"0123456789".repeat(10);
        let pause = Duration::from_millis(30);
        for (harm, least) in [
            (Harm::Stall(3, pause), pause),
            (Harm::Slow(10), Duration::from_millis(9)),
        ] {
            let start = Instant::now();
            let wire = Wire {
                up: harm,
                ..Wire::default()
            };
            let (got, end, _) = echoed(wire, &sent);
            assert!(got == sent && end.is_ok(), "{harm:?}");
            assert!(start.elapsed() >= least, "{harm:?}");
        }
    }
}
