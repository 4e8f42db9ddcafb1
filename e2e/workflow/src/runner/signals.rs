//! When a running hook gets which signal: the runner's chain for a cancelled
//! step, and whatever a test wants beside it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::directive::{Directives, SignalName, When};

/// SIGINT, and 7.5 s later SIGTERM, and 2.5 s later SIGKILL.
const CHAIN: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::ZERO),
    (Signal::TERM, Duration::from_millis(7500)),
    (Signal::KILL, Duration::from_secs(10)),
];

/// What is to be done to a hook process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// One signal.
    Send(Signal),
    /// The chain for a cancelled step.
    Cancel,
    /// The job is cancelled.
    CancelJob,
}

#[derive(Debug)]
enum Start {
    Due(Instant),
    /// The number of a watched text.
    Line(usize),
    File(PathBuf),
}

#[derive(Debug)]
struct Entry {
    start: Start,
    after: Duration,
    action: Action,
}

/// The schedule of one call.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: Vec<Entry>,
    cancelled: bool,
}

impl Schedule {
    /// The schedule that `directives` ask for; `watch` registers a text whose
    /// appearance in the log counts and returns its number.
    pub fn new(
        directives: &Directives,
        timeout: Option<Duration>,
        now: Instant,
        watch: &mut dyn FnMut(&str) -> usize,
    ) -> Self {
        let mut schedule = Self::default();
        let mut add = |when: &When, action| {
            let after = Duration::from_millis(when.after_ms);
            let start = match (&when.line, &when.file) {
                (Some(line), _) => Start::Line(watch(line)),
                (None, Some(file)) => Start::File(file.clone()),
                (None, None) => Start::Due(now + after),
            };
            schedule.entries.push(Entry {
                start,
                after,
                action,
            });
        };
        for signal in &directives.signals {
            add(&signal.when, Action::Send(signal.send.into()));
        }
        if let Some(when) = &directives.cancel {
            add(when, Action::Cancel);
        }
        if let Some(when) = &directives.cancel_job {
            add(when, Action::CancelJob);
        }
        if let Some(timeout) = timeout {
            schedule.entries.push(Entry {
                start: Start::Due(now + timeout),
                after: timeout,
                action: Action::Cancel,
            });
        }
        schedule
    }

    /// What is to be done now. A cancellation becomes its chain of signals.
    pub fn due(&mut self, now: Instant, seen: &dyn Fn(usize) -> bool) -> Vec<Action> {
        let mut due = Vec::new();
        for entry in &mut self.entries {
            let started = match &entry.start {
                Start::Due(_) => false,
                Start::Line(number) => seen(*number),
                Start::File(path) => path.exists(),
            };
            if started {
                entry.start = Start::Due(now + entry.after);
            }
        }
        let mut cancel = false;
        self.entries.retain(|entry| match entry.start {
            Start::Due(moment) if moment <= now => {
                match entry.action {
                    Action::Cancel => cancel = true,
                    action => due.push(action),
                }
                false
            }
            _ => true,
        });
        if cancel {
            self.cancel(now);
            due.extend(self.due(now, seen));
        }
        due
    }

    /// Starts the chain, once.
    pub fn cancel(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.cancelled, true) {
            self.entries.extend(CHAIN.map(|(signal, after)| Entry {
                start: Start::Due(now + after),
                after,
                action: Action::Send(signal),
            }));
        }
    }

    /// Whether the step was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// How long nothing will become due, as far as can be known: texts and
    /// files are looked at every so often.
    #[must_use]
    pub fn idle(&self, now: Instant) -> Duration {
        const GLANCE: Duration = Duration::from_millis(50);
        self.entries
            .iter()
            .filter_map(|entry| match entry.start {
                Start::Due(moment) => Some(moment.saturating_duration_since(now)),
                _ => None,
            })
            .fold(GLANCE, Duration::min)
    }
}

impl From<SignalName> for Signal {
    fn from(name: SignalName) -> Self {
        match name {
            SignalName::Int => Self::INT,
            SignalName::Term => Self::TERM,
            SignalName::Kill => Self::KILL,
            SignalName::Stop => Self::STOP,
            SignalName::Cont => Self::CONT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel_at(line: Option<&str>, after_ms: u64) -> Directives {
        Directives {
            cancel: Some(When {
                line: line.map(str::to_owned),
                after_ms,
                ..When::default()
            }),
            ..Directives::default()
        }
    }

    #[test]
    fn a_cancelled_step_gets_the_runner_s_chain() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&cancel_at(None, 100), None, now, &mut |_| 0);
        let mut at = |ms| schedule.due(now + Duration::from_millis(ms), &|_| false);
        assert_eq!(at(99), []);
        assert_eq!(at(100), [Action::Send(Signal::INT)]);
        assert_eq!(at(7599), []);
        assert_eq!(at(7600), [Action::Send(Signal::TERM)]);
        assert_eq!(at(10_100), [Action::Send(Signal::KILL)]);
        assert_eq!(at(99_999), []);
    }

    #[test]
    fn a_line_starts_the_clock() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&cancel_at(Some("here"), 50), None, now, &mut |text| {
            assert_eq!(text, "here");
            3
        });
        assert_eq!(schedule.due(now + Duration::from_secs(9), &|_| false), []);
        let seen = now + Duration::from_secs(10);
        assert_eq!(schedule.due(seen, &|number| number == 3), []);
        assert_eq!(
            schedule.due(seen + Duration::from_millis(50), &|_| true),
            [Action::Send(Signal::INT)]
        );
        assert!(schedule.is_cancelled());
    }

    #[test]
    fn a_timeout_is_a_cancellation() {
        let now = Instant::now();
        let timeout = Some(Duration::from_secs(1));
        let mut schedule = Schedule::new(&Directives::default(), timeout, now, &mut |_| 0);
        assert_eq!(
            schedule.due(now + Duration::from_secs(1), &|_| false),
            [Action::Send(Signal::INT)]
        );
    }
}
