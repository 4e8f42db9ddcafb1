//! What the hook did in detail, for whoever asks by `ARC_HOOK_LOG`, `RUNNER_DEBUG`,
//! `ARC_HOOK_METRICS_FILE` or an endpoint for spans.
//!
//! A command marks the end of each of its parts by an event with a field `phase`, whose value is a
//! literal: `tracing::debug!(phase = "pod created")`.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::output;

/// Every phase that a command marks. Metrics and spans know no other.
pub const PHASES: [&str; 13] = [
    "surroundings read",
    "pod planned",
    "caches cloned",
    "pod created",
    "pod started",
    "pod ready",
    "files copied in",
    "step ended",
    "files copied out",
    "cluster cleaned",
    "job kept",
    "caches settled",
    "directories removed",
];

/// What the parts of a command took, in the order of their ends.
#[derive(Debug, Clone)]
pub struct Phases(Arc<Mutex<Marks>>);

#[derive(Debug)]
struct Marks {
    last: Instant,
    ended: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Marks {
            last: Instant::now(),
            ended: Vec::new(),
        })))
    }

    /// Those that have ended.
    #[must_use]
    pub fn ended(&self) -> Vec<(&'static str, Duration)> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.ended.clone()
    }

    /// As a group in the job's log.
    pub fn show(&self, command: &str, took: Duration) {
        output::group(&format!("arc-hook: {command} took {} ms", took.as_millis()));
        for (phase, took) in self.ended() {
            output::line(&format!("{phase}: {} ms", took.as_millis()));
        }
        output::end_group();
    }
}

impl<S: Subscriber> Layer<S> for Phases {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut found = Phase(None);
        event.record(&mut found);
        if let Some(phase) = found.0 {
            let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let took = now - marks.last;
            marks.last = now;
            marks.ended.push((phase, took));
        }
    }
}

/// The phase of an event, if it is the end of one.
struct Phase(Option<&'static str>);

impl Visit for Phase {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "phase" {
            self.0 = PHASES.into_iter().find(|phase| *phase == value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Lets events of these targets and levels into the job's log, and notes phases.
#[must_use]
pub fn start(filter: Option<&str>) -> Phases {
    let phases = Phases::new();
    let targets = filter.and_then(|filter| match filter.parse::<Targets>() {
        Ok(targets) => Some(targets),
        Err(error) => {
            output::warning(&format!(
                "`ARC_HOOK_LOG` is `{filter}`, which is no filter ({error}); use for example \
                 `arc_hook=debug`"
            ));
            None
        }
    });
    let shown = targets.map(|targets| {
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_writer(|| Quoted)
            .with_filter(targets)
    });
    let own = Targets::new().with_target("arc_hook", tracing::Level::DEBUG);
    tracing_subscriber::registry()
        .with(phases.clone().with_filter(own))
        .with(shown)
        .init();
    phases
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn every_phase_that_a_command_marks_is_known() {
        let mut left = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut marked = 0;
        while let Some(path) = left.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(&path).unwrap();
                left.extend(entries.map(|entry| entry.unwrap().path()));
            } else if path.extension() == Some("rs".as_ref()) && !path.ends_with("hook/trace.rs") {
                marked += check(&path);
            }
        }
        assert!(marked >= PHASES.len(), "{marked}");
    }

    fn check(path: &Path) -> usize {
        let text = fs::read_to_string(path).unwrap();
        let phases = text.split("phase = \"").skip(1);
        let phases = phases.filter_map(|rest| rest.split('"').next());
        phases
            .inspect(|phase| assert!(PHASES.contains(phase), "{phase} in {}", path.display()))
            .count()
    }
}
