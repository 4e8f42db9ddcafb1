//! Plays GitHub's runner for one job, in the runner pod.
//!
//! Without arguments it waits for a job in `<root>/jobs/job.yaml`, where
//! `<root>` is the directory above the one it lies in (`/home/runner` for
//! `/home/runner/bin/Runner.Worker`). The file is expected to appear by
//! rename. Beside it appear `job.log`, which grows as the job goes on, and at
//! the end `report.json`, by rename; then the program waits until `collected`
//! exists there too, because a container's files go with its last process,
//! and ends with 0 whatever became of the job.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_hook_e2e::job::Job;
use arc_hook_e2e::report::Report;
use arc_hook_e2e::runner::job_log::JobLog;
use arc_hook_e2e::runner::layout::Layout;
use arc_hook_e2e::runner::worker::Worker;
use clap::Parser;

/// How long the results are kept when nobody collects them.
const COLLECTION: Duration = Duration::from_mins(10);
const GLANCE: Duration = Duration::from_millis(20);

/// Plays GitHub's runner for one job.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this job at once and do not wait for its collection.
    #[arg(long, value_name = "FILE")]
    once: Option<PathBuf>,
    /// Where the runner is installed.
    #[arg(long, value_name = "DIRECTORY")]
    root: Option<PathBuf>,
    /// Where `report.json` and `job.log` go; beside the job by default.
    #[arg(long, value_name = "DIRECTORY")]
    results: Option<PathBuf>,
    /// Keep the log off standard output.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("runner-worker: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        once,
        root,
        results,
        quiet,
    } = arguments;
    // A script's background processes ignore SIGINT, and so would all that is started from here;
    // a signal that is caught is reset for children.
    let always = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, always)
        .context("failed to catch SIGINT")?;
    let root = match root {
        Some(root) => root,
        None => installed_root().context("the runner's directory is not known, use --root")?,
    };
    let jobs = root.join("jobs");
    let waits = once.is_none();
    let path = match once {
        Some(path) => path,
        None => wait_for_job(&jobs)?,
    };
    let results = results
        .or_else(|| path.parent().map(Path::to_owned))
        .unwrap_or_default();
    let report = run_job(&path, &root, &results, !quiet)?;
    if waits {
        wait_for(&jobs.join("collected"), COLLECTION);
        return Ok(ExitCode::SUCCESS);
    }
    for failure in &report.failures {
        eprintln!("FAILED: {failure}");
    }
    Ok(ExitCode::from(u8::from(!report.failures.is_empty())))
}

fn run_job(path: &Path, root: &Path, results: &Path, echo: bool) -> anyhow::Result<Report> {
    let log = JobLog::create(&results.join("job.log"), echo)
        .with_context(|| format!("failed to create a log in `{}`", results.display()))?;
    // A job that cannot be run is reported like any other failure: whoever
    // waits for the report must not wait in vain.
    let report = Job::read(path)
        .and_then(|job| {
            let layout = Layout::new(root, job.repository_name());
            Ok(Worker::new(&job, &layout, &log)?.run())
        })
        .unwrap_or_else(|error| {
            let failure = format!("{error:#}");
            log.line(&format!("##[error]{failure}"));
            Report {
                failures: vec![failure],
                ..Report::default()
            }
        });
    let text = serde_json::to_string_pretty(&report)?;
    let temporary = results.join("report.json.new");
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, results.join("report.json")))
        .with_context(|| format!("failed to write a report to `{}`", results.display()))?;
    Ok(report)
}

fn installed_root() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.parent()?.parent()?.to_owned())
}

fn wait_for_job(jobs: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(jobs)
        .with_context(|| format!("failed to make `{}`", jobs.display()))?;
    let path = jobs.join("job.yaml");
    wait_for(&path, Duration::MAX);
    Ok(path)
}

fn wait_for(path: &Path, patience: Duration) {
    let start = Instant::now();
    while !path.exists() && start.elapsed() < patience {
        std::thread::sleep(GLANCE);
    }
}
