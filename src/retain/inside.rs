//! The way into a job that is to be kept: its supervisor runs the scrub as a step.

use std::io::{self, BufRead as _, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::record::Kept;
use super::scrub::{Report, ScrubArgs};
use super::{KEPT, KEPT_LIMIT};
use crate::protocol::Environment;
use crate::spool::client::{Liveness, RunningStep};
use crate::spool::directory::{Directory, FileError};
use crate::spool::signals::Signals;
use crate::spool::{ENTRY, Outcome, STEPS, StepRequest};

/// Most that a report says.
const REPORT_LIMIT: usize = 256 * 1024;

/// A supervisor that is silent is not asked twice.
pub(crate) struct NotAlive;

impl Liveness for NotAlive {
    fn examine(&mut self, _: Duration) -> Option<anyhow::Error> {
        Some(self.why_ended())
    }

    fn why_ended(&mut self) -> anyhow::Error {
        anyhow::Error::msg("the supervisor is silent")
    }
}

/// What a program says, as far as it is short.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > REPORT_LIMIT {
            return Err(io::Error::other("its report is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has the supervisor behind `spool` run the scrub, and leaves there what `enter` needs. A hostile job can
/// forge the report, and so keep its own secrets to itself, in a pod of its own.
pub fn scrub(
    spool: &Directory,
    args: &ScrubArgs,
    conan: Option<String>,
    kept: &Kept,
    foreign_user: bool,
) -> anyhow::Result<Report> {
    let words = std::iter::once("/proc/self/exe".to_owned()).chain(args.words());
    let request = StepRequest {
        argv: words.collect(),
        environment: conan
            .map(|path| ("CONAN_HOME".to_owned(), path))
            .into_iter()
            .collect::<Environment>(),
        path: Vec::new(),
        directory: Some("/".to_owned()),
        alone: 0,
    };
    let signals = Signals::catch_these(&[]).context("scrub the job")?;
    let mut step = RunningStep::submit(spool.again()?, &request, foreign_user)?;
    let mut said = Bounded::default();
    let exit = step.follow(&mut said, &signals, &mut NotAlive)?;
    step.collect();
    if exit.outcome != Outcome::Code(0) {
        bail!("scrub the job: {}", String::from_utf8_lossy(&said.0).trim());
    }
    let report = serde_json::from_slice(&said.0).context("read the report of the scrub")?;
    clear(spool)?;
    let text = serde_json::to_vec(kept).context("encode what is kept")?;
    spool.record(KEPT, &text, if foreign_user { 0o644 } else { 0o600 })?;
    Ok(report)
}

/// Removes what steps left in the spool: requests, logs that nobody masked.
fn clear(spool: &Directory) -> Result<(), FileError> {
    let steps = spool.descend(STEPS)?;
    for name in steps.names()? {
        steps.remove_tree(&name).or_else(|_| steps.remove(&name))?;
    }
    spool.remove(ENTRY)
}

/// What is left of the failed step.
pub fn kept(spool: &Path) -> anyhow::Result<Kept> {
    let text = Directory::open(spool)
        .and_then(|spool| spool.read(KEPT, KEPT_LIMIT))
        .context("read what is kept of the job")?;
    let text = text.context("enter the job: it is not a kept one")?;
    serde_json::from_slice(&text).context("read what is kept of the job")
}

/// Plays the hook's part where runner and job share no volume
#[derive(Debug, Clone, clap::Args)]
pub struct KeepArgs {
    /// Directory of the spool
    spool: PathBuf,
    /// The job runs as another user than this
    #[arg(long)]
    foreign_user: bool,
    /// Conan's home, if the job has its own
    #[arg(long)]
    conan: Option<String>,
    #[command(flatten)]
    scrub: ScrubArgs,
    /// Where a directory of the container is, if it is not there
    #[arg(long = "map", value_name = "PATH=PATH", hide = true)]
    maps: Vec<String>,
}

impl KeepArgs {
    /// Reads what is kept, one line, and prints the report.
    pub fn run(self) -> anyhow::Result<()> {
        let mut line = String::new();
        let mut stdin = io::stdin().lock().take(KEPT_LIMIT);
        stdin.read_line(&mut line).context("read what is kept")?;
        let kept: Kept = serde_json::from_str(&line).context("read what is kept")?;
        let spool = Directory::open(&self.spool)?;
        let there = |path: &PathBuf| located(path, &self.maps);
        let args = ScrubArgs {
            temp: self.scrub.temp.iter().map(there).collect(),
            empty: self.scrub.empty.iter().map(there).collect(),
            home: self.scrub.home.as_ref().map(there),
            workspace: self.scrub.workspace.as_ref().map(there),
        };
        let report = scrub(&spool, &args, self.conan.clone(), &kept, self.foreign_user)?;
        let text = serde_json::to_vec(&report).context("encode the report")?;
        io::stdout().write_all(&text).context("tell the hook")
    }
}

fn located(path: &Path, maps: &[String]) -> PathBuf {
    maps.iter()
        .filter_map(|map| map.split_once('='))
        .find_map(|(from, to)| Some(Path::new(to).join(path.strip_prefix(from).ok()?)))
        .unwrap_or_else(|| path.to_owned())
}
