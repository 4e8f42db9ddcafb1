//! What calls of the hook took and how they ended, summed up in a file for Prometheus
//! (`ARC_HOOK_METRICS_FILE`), which node-exporter's textfile collector reads.
//!
//! Each call is a process of its own, so each adds to what the file says. Labels come from fixed
//! sets, and what a file holds beyond them is dropped, so that it stays small for ever.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

/// More than a full file of ours has.
const LIMIT: u64 = 64 * 1024;
/// More series than commands, outcomes and phases make.
const SERIES: usize = 200;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With exit code 0.
    Success,
    /// With the exit code of a step that failed.
    Failure,
    /// By a signal of the runner.
    Cancelled,
    /// On the hook's own side.
    Error,
}

impl Outcome {
    /// In metrics and spans.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// The runner's name for it.
    pub command: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What it took.
    pub took: Duration,
    /// What its parts took.
    pub phases: &'a [(&'static str, Duration)],
}

/// Adds a call to the file.
///
/// # Errors
/// The directory cannot be written.
pub fn add(path: &Path, call: &Call<'_>) -> anyhow::Result<()> {
    let wrote = || format!("add to `{}`, the `ARC_HOOK_METRICS_FILE`", path.display());
    let aside = |extension: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        // The collector reads `*.prom` only.
        name.push(extension);
        path.with_file_name(name)
    };
    let lock = File::create(aside(".lock")).with_context(wrote)?;
    // Steps in the background end side by side. Held for a moment, and let go with the process.
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(io::Error::from)
        .with_context(wrote)?;
    let mut series = read(path).with_context(wrote)?;
    record(&mut series, call);
    let new = aside(".new");
    fs::write(&new, text(&series)).with_context(wrote)?;
    fs::rename(&new, path).with_context(wrote)
}

/// Sums by name and labels.
type Series = BTreeMap<String, f64>;

/// The metrics: name, help.
const METRICS: [(&str, &str); 2] = [
    (
        "arc_hook_command_seconds",
        "Time of a call of the hook, a step's own time included.",
    ),
    ("arc_hook_phase_seconds", "Time of a part of such calls."),
];

fn read(path: &Path) -> io::Result<Series> {
    let mut text = String::new();
    let no_links = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    match fs::OpenOptions::new()
        .read(true)
        .custom_flags(no_links)
        .open(path)
    {
        Ok(file) => {
            file.take(LIMIT).read_to_string(&mut text)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(parse(&text))
}

fn parse(text: &str) -> Series {
    let known = |name: &str| {
        METRICS.iter().any(|(metric, _)| {
            let rest = name.strip_prefix(metric).unwrap_or_default();
            rest.starts_with("_sum{") || rest.starts_with("_count{")
        })
    };
    text.lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(name, _)| known(name) && name.ends_with('}'))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .filter(|(_, value): &(String, f64)| value.is_finite() && *value >= 0.0)
        .take(SERIES)
        .collect()
}

fn record(series: &mut Series, call: &Call<'_>) {
    let mut add = |metric: &str, labels: &str, took: Duration| {
        *series
            .entry(format!("{metric}_sum{{{labels}}}"))
            .or_default() += took.as_secs_f64();
        *series
            .entry(format!("{metric}_count{{{labels}}}"))
            .or_default() += 1.0;
    };
    let Call {
        command,
        outcome,
        took,
        phases,
    } = call;
    let outcome = outcome.name();
    add(
        METRICS[0].0,
        &format!("command=\"{command}\",outcome=\"{outcome}\""),
        *took,
    );
    for (phase, took) in *phases {
        add(
            METRICS[1].0,
            &format!("command=\"{command}\",phase=\"{phase}\""),
            *took,
        );
    }
}

fn text(series: &Series) -> String {
    let mut text = String::new();
    for (metric, help) in METRICS {
        let _ = writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} summary");
        for (name, value) in series.iter().filter(|(name, _)| name.starts_with(metric)) {
            let _ = writeln!(text, "{name} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;

    fn call(outcome: Outcome, millis: u64) -> Call<'static> {
        const PHASES: &[(&str, Duration)] = &[
            ("files in", Duration::from_millis(2)),
            ("step", Duration::from_millis(250)),
        ];
        Call {
            command: "run_script_step",
            outcome,
            took: Duration::from_millis(millis),
            phases: PHASES,
        }
    }

    #[test]
    fn calls_add_up_in_the_format_of_the_text_file_collector() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("arc-hook.prom");
        add(&path, &call(Outcome::Success, 250)).unwrap();
        add(&path, &call(Outcome::Success, 500)).unwrap();
        add(&path, &call(Outcome::Cancelled, 1000)).unwrap();
        assert_snapshot!(fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn calls_side_by_side_all_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("arc-hook.prom");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        add(&path, &call(Outcome::Failure, 1)).unwrap();
                    }
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        let count =
            "arc_hook_command_seconds_count{command=\"run_script_step\",outcome=\"failure\"} 40\n";
        assert!(text.contains(count), "{text}");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = add(Path::new("/no/such/a.prom"), &call(Outcome::Success, 1)).unwrap_err();
        assert!(error.to_string().contains("`/no/such/a.prom`"), "{error}");
    }

    #[test]
    fn no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("arc-hook.prom");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(add(&path, &call(Outcome::Success, 1)).is_err());
    }

    proptest! {
        #[test]
        fn whatever_the_file_held_it_stays_small_and_valid(found in "\\PC*(\nfoo_sum\\{a=\"\\PC{0,9}\"\\} [0-9.eE+-]{0,5}){0,20}") {
            let mut series = parse(&found);
            record(&mut series, &call(Outcome::Success, 1));
            prop_assert!(series.len() <= SERIES + 6);
            prop_assert_eq!(parse(&text(&series)), series);
        }
    }
}
