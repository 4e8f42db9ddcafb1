//! `arc-hook retained list`: who is kept, and for how long.

use std::fmt::Write as _;

use clap::Args;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::{Format, connect, now, print, tell};
use crate::admin::access::Access;
use crate::admin::cache::fit;
use crate::retain::policy::words;
use crate::retain::{Entry, Ledger, Mode};

const EXAMPLES: &str = "\
Examples:
  arc-hook retained list
  arc-hook retained list --namespace ci --output json";

/// Lists the jobs that are kept, those that go first at the top
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct List {
    #[command(flatten)]
    access: Access,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl List {
    pub fn run(&self) -> anyhow::Result<()> {
        let (api, cluster) = connect(&self.access)?;
        let ledger = api.run(Ledger::read(&cluster))?;
        if !ledger.unread.is_empty() {
            tell(&format!(
                "warning: {} entries were written by another version of arc-hook and are not shown",
                ledger.unread.len()
            ));
        }
        let mut entries: Vec<&Entry> = ledger.entries.values().collect();
        entries.sort_by_key(|entry| (entry.expires, &entry.id));
        match self.output {
            Format::Text if entries.is_empty() => print(&format!(
                "no kept jobs in namespace `{}`\n",
                cluster.namespace()
            )),
            Format::Text => print(&table(&entries, now())),
            Format::Json => print(&format!("{:#}\n", json!({"retained": entries}))),
        }
    }
}

/// The jobs, in 80 columns.
fn table(entries: &[&Entry], now: Timestamp) -> String {
    let mut text = String::new();
    let mut row = |cells: [&str; 7]| {
        let [id, repository, run, job, exit, left, kept] = cells;
        let line = format!(
            "{id:<8}  {:<20} {:<14} {:<13} {exit:>4} {left:>7} {kept}",
            fit(repository, 20),
            fit(run, 14),
            fit(job, 13),
        );
        let _ = writeln!(text, "{}", line.trim_end());
    };
    row([
        "ID",
        "REPOSITORY",
        "RUN",
        "JOB, STEP",
        "EXIT",
        "LEFT",
        "KEPT",
    ]);
    for entry in entries {
        let step = entry.step.as_deref().unwrap_or_default();
        let job = format!("{} {step}", entry.job);
        let exit = entry.exit.map(|exit| exit.to_string()).unwrap_or_default();
        let kept = match entry.mode {
            Mode::Pod => "pod",
            Mode::Volumes => "volumes",
        };
        row([
            &entry.id,
            &entry.repository,
            &entry.run,
            job.trim(),
            &exit,
            &left(entry, now),
            kept,
        ]);
    }
    text
}

fn left(entry: &Entry, now: Timestamp) -> String {
    let seconds = entry.expires.as_second() - now.as_second();
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) => words(std::time::Duration::from_secs(seconds)),
        _ => "expired".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retain::ledger::tests::{at, entry};

    #[test]
    fn kept_jobs_fit_a_terminal() {
        let long = Entry {
            repository: "an-organisation/with-a-repository-of-a-long-name".to_owned(),
            run: "17189341234567.12".to_owned(),
            job: "build-and-test-everything".to_owned(),
            mode: Mode::Volumes,
            ..entry("0a1b2c3d", "o/r", 0, 100_000)
        };
        let always = Entry {
            step: None,
            exit: None,
            ..entry("ffffffff", "octo/demo", 0, 30)
        };
        let plain = entry("1a2b3c4d", "octo/demo", 0, 3_000);
        let table = table(&[&always, &plain, &long], at(60));
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
        insta::assert_snapshot!(table);
    }
}
