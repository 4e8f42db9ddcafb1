//! The fake API server's way to a program in a container: the real relay, over a real WebSocket.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::fake_api::{Answer, BINARY, Cut, State, status, text};

/// After each piece that trickles.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// Answers an upgrade, and starts the program that the query names.
pub fn start(
    state: &Arc<Mutex<State>>,
    upgrade: hyper::upgrade::OnUpgrade,
    key: &[u8],
    pod: &str,
    query: &str,
) -> Answer {
    let mut state = state.lock().unwrap();
    if !state.supervisors.contains_key(pod) {
        return status(404, "NotFound", &format!("pods \"{pod}\" not found"));
    }
    let own = state.own_volume(pod);
    let seen = state.seen_by(pod);
    let words: Vec<String> = query
        .split('&')
        .filter_map(|part| part.strip_prefix("command="))
        .map(decoded)
        .map(|word| word.replace("/__hook/spool", seen[0].1.to_str().unwrap()))
        .map(|word| word.replace("/__work", own.to_str().unwrap()))
        .collect();
    // Only the hook's own program finds its way here, and only some of its verbs need to be told.
    let maps = match words.get(1).map(String::as_str) {
        Some("relay" | "keep") => std::iter::once(&("/__work", own))
            .chain(&seen)
            .map(|(from, to)| format!("{from}={}", to.display()))
            .collect(),
        _ => Vec::new(),
    };
    let relay = state.relay.clone().unwrap_or_else(|| BINARY.into());
    let child = Command::new(relay)
        .args(&words[1..])
        .args(maps.iter().flat_map(|map| ["--map", map]))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let cut = state.cuts.pop_front().unwrap_or(Cut::None);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            pump(socket, child, cut).await;
        }
    });
    let mut answer = text(101, "");
    let headers = answer.headers_mut();
    headers.insert("upgrade", "websocket".parse().unwrap());
    headers.insert("connection", "Upgrade".parse().unwrap());
    headers.insert(
        "sec-websocket-accept",
        derive_accept_key(key).parse().unwrap(),
    );
    headers.insert(
        "sec-websocket-protocol",
        "v5.channel.k8s.io".parse().unwrap(),
    );
    answer
}

/// A word of a query.
fn decoded(word: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Carries bytes until the program ends, the client goes, or the connection is cut. Without a
/// client the program's streams are closed; it is not killed.
async fn pump<S>(mut socket: WebSocketStream<S>, mut child: Child, cut: Cut)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut stdin = child.stdin.take();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (mut input, mut output) = match cut {
        Cut::None | Cut::Mute(_) | Cut::Trickle => (usize::MAX, usize::MAX),
        Cut::Input(bytes) => (bytes, usize::MAX),
        Cut::Output(bytes) => (usize::MAX, bytes),
    };
    let mut audible = match cut {
        Cut::Mute(bytes) => bytes,
        _ => usize::MAX,
    };
    let mut buffer = vec![0; 8192];
    let mut words = vec![0; 1024];
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&0) => {
                    let bytes = &bytes[1..];
                    let passing = bytes.len().min(input);
                    if matches!(cut, Cut::Trickle) {
                        tokio::time::sleep(PAUSE).await;
                    }
                    if let Some(stdin) = &mut stdin {
                        let _ = stdin.write_all(&bytes[..passing]).await;
                        let _ = stdin.flush().await;
                    }
                    input -= passing;
                    if passing < bytes.len() || input == 0 {
                        return;
                    }
                }
                Some(Ok(Message::Binary(bytes))) if bytes[..] == [255, 0] => stdin = None,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            count = stdout.read(&mut buffer), if audible > 0 => {
                let count = count.unwrap_or(0);
                if count == 0 {
                    break;
                }
                let passing = count.min(output).min(audible);
                let message = [&[1], &buffer[..passing]].concat();
                if socket.send(Message::Binary(Bytes::from(message))).await.is_err() {
                    return;
                }
                output -= passing;
                audible -= passing;
                if output == 0 {
                    return;
                }
            }
            count = stderr.read(&mut words) => {
                let count = count.unwrap_or(0);
                let message = [&[2], &words[..count]].concat();
                if count > 0
                    && socket.send(Message::Binary(Bytes::from(message))).await.is_err()
                {
                    return;
                }
            }
        }
    }
    let ended = child.wait().await.unwrap();
    let code = ended.code().unwrap_or(1);
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": if ended.success() { "Success" } else { "Failure" },
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}});
    let message = [&[3], status.to_string().as_bytes()].concat();
    let _ = socket.send(Message::Binary(Bytes::from(message))).await;
    let _ = socket.close(None).await;
    // A socket that is closed with something unread in it takes back what is still on its way.
    while let Some(Ok(_)) = socket.next().await {}
}
