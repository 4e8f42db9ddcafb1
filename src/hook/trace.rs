//! What the hook did in detail, for whoever asks by `ARC_HOOK_LOG` or `RUNNER_DEBUG`.

use std::io::{self, Write};

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::output;

/// Lets events of these targets and levels into the job's log.
pub fn start(filter: &str) {
    let targets = match filter.parse::<Targets>() {
        Ok(targets) => targets,
        Err(error) => {
            output::warning(&format!(
                "`ARC_HOOK_LOG` is `{filter}`, which is no filter ({error}); use for example \
                 `arc_hook=debug`"
            ));
            return;
        }
    };
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .without_time()
        .with_writer(|| Quoted)
        .with_filter(targets);
    tracing_subscriber::registry().with(layer).init();
}

/// Events may hold text from elsewhere, so none of their lines may become a command. The
/// formatter hands over one whole event at a time.
struct Quoted;

impl Write for Quoted {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        output::quoted("arc-hook", &String::from_utf8_lossy(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
