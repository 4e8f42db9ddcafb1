//! Who started a program of the test bed: what they are told, and that they want it to end.

use std::io::{self, Write};

use tokio::signal::unix::{SignalKind, signal};

/// Prints `text` as it is.
pub fn say(text: &str) {
    // A reader that went away is no reason to stop.
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Ends when the program is to end, by Ctrl-C or SIGTERM.
pub async fn interrupted() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminated.recv() => (),
    }
}
