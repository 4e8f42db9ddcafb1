//! Who started a program of the test bed: what they are told, and that they want it to end.

use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// Prints `text` as it is.
pub fn say(text: &str) {
    // A reader that went away is no reason to stop.
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Runs a program's whole work, unless it is interrupted: what is under way is dropped then, and puts
/// back what it took away. Exits with 1 when the work says that something is wrong, and with 2 when it
/// could not be done.
pub async fn conclude(work: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let result = tokio::select! {
        result = work => result,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Ends when the program is to end, by Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminated.recv() => (),
    }
}
