//! `arc-hook retained`: failed jobs that are kept, for people.

mod delete;
mod enter;
mod extend;
mod list;
mod logs;
mod seat;
mod terminal;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use k8s_openapi::jiff::Timestamp;

use super::access::Access;
use super::{Format, print};
use crate::cluster::Cluster;
use crate::hook::api::Api;
use crate::retain::{Entry, Ledger};

/// How long an API server that does not answer is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lists, enters and removes failed jobs that are kept
#[derive(Debug, Args)]
pub struct Retained {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::List),
    Enter(enter::Enter),
    Logs(logs::Logs),
    Extend(extend::Extend),
    Delete(delete::Delete),
}

impl Retained {
    /// Does what was asked for, and returns the exit code: that of the program, for one that is run.
    ///
    /// # Errors
    /// It cannot be done, or the API server not be asked.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::List(verb) => verb.run().map(|()| ExitCode::SUCCESS),
            Verb::Enter(verb) => verb.run(),
            Verb::Logs(verb) => verb.run(),
            Verb::Extend(verb) => verb.run().map(|()| ExitCode::SUCCESS),
            Verb::Delete(verb) => verb.run().map(|()| ExitCode::SUCCESS),
        }
    }
}

/// A connection for a person.
fn connect(access: &Access) -> anyhow::Result<(Api, Cluster)> {
    let api = access.connect()?;
    let cluster = api.cluster.patient(PATIENCE).telling(tell);
    Ok((api, cluster))
}

/// Tells a person what goes on. Results are printed, so that a script can read them.
fn tell(words: &str) {
    eprintln!("{words}");
}

/// The time, in whole seconds.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The one job that is meant: by its id, the beginning of it, or the name of its pod.
fn find<'l>(ledger: &'l Ledger, wanted: &str, namespace: &str) -> anyhow::Result<&'l Entry> {
    let is_it = |entry: &&Entry| {
        entry.pod == wanted || (!wanted.is_empty() && entry.id.starts_with(wanted))
    };
    let mut found = ledger.entries.values().filter(is_it);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) => {
            bail!("`{wanted}` begins the ids of several kept jobs; name one whole")
        }
        (None, _) => bail!(
            "no kept job is called `{wanted}` in namespace `{namespace}`; `arc-hook retained list` \
             names them"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retain::ledger::tests::entry;

    #[test]
    fn a_job_is_found_by_id_beginning_and_pod() {
        let mut ledger = Ledger::default();
        for id in ["0a1b2c3d", "0a999999"] {
            ledger
                .entries
                .insert(id.to_owned(), entry(id, "o/r", 0, 60));
        }
        let found = |wanted| find(&ledger, wanted, "ci").map(|entry| entry.id.clone());
        assert_eq!(found("0a1b").unwrap(), "0a1b2c3d");
        assert_eq!(found("runner-0a999999-workflow").unwrap(), "0a999999");
        assert!(found("0a").unwrap_err().to_string().contains("several"));
        assert!(found("").unwrap_err().to_string().contains("no kept job"));
    }
}
