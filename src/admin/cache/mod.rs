//! `arc-hook cache`: the lines of caches and their generations, for people.
//!
//! Verbs that change something go by the rules of [`crate::cache`]: a claim is sealed before a line
//! names it, a line is replaced as it was read, and what a line no longer names is deleted last.

mod clone;
mod delete;
mod fill;
mod init;
mod list;
mod promote;
mod rebase;
mod rollback;
mod scene;
mod show;
mod store;
mod taint;

pub(super) use list::fit;

use std::time::Duration;

use clap::{Args, Subcommand};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::access::Access;
use super::{Format, print};
use crate::cache::record::SnapshotWish;
use crate::cache::{Key, Kind, Lineage};
use crate::cluster::Cluster;

/// How long an API server that does not answer is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks after the parents that jobs clone their caches from
#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(list::List),
    Show(show::Show),
    Init(Box<init::Init>),
    Clone(clone::Clone),
    Promote(promote::Promote),
    Rollback(rollback::Rollback),
    Taint(taint::Taint),
    Rebase(Box<rebase::Rebase>),
    Delete(delete::Delete),
}

impl Cache {
    /// Does what was asked for.
    ///
    /// # Errors
    /// It cannot be done, or the API server not be asked.
    pub fn run(&self) -> anyhow::Result<()> {
        let api = self.verb.access().connect()?;
        let cluster = api.cluster.patient(PATIENCE).telling(tell);
        api.run(self.verb.act(&cluster))
    }
}

impl Verb {
    fn access(&self) -> &Access {
        let chosen = match self {
            Self::List(verb) => return &verb.access,
            Self::Show(verb) => &verb.chosen,
            Self::Init(verb) => &verb.chosen,
            Self::Clone(verb) => &verb.chosen,
            Self::Promote(verb) => &verb.chosen,
            Self::Rollback(verb) => &verb.chosen,
            Self::Taint(verb) => &verb.chosen,
            Self::Rebase(verb) => &verb.chosen,
            Self::Delete(verb) => &verb.chosen,
        };
        &chosen.access
    }

    async fn act(&self, cluster: &Cluster) -> anyhow::Result<()> {
        match self {
            Self::List(verb) => verb.act(cluster).await,
            Self::Show(verb) => verb.act(cluster).await,
            Self::Init(verb) => verb.act(cluster).await,
            Self::Clone(verb) => verb.act(cluster).await,
            Self::Promote(verb) => verb.act(cluster).await,
            Self::Rollback(verb) => verb.act(cluster).await,
            Self::Taint(verb) => verb.act(cluster).await,
            Self::Rebase(verb) => Box::pin(verb.act(cluster)).await,
            Self::Delete(verb) => verb.act(cluster).await,
        }
    }
}

/// A line, and where.
#[derive(Debug, Args)]
struct Chosen {
    /// The line, as `arc-hook cache list` names it
    line: Key,

    /// The node, for a line that has generations on several
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Format,

    #[command(flatten)]
    access: Access,
}

impl Chosen {
    /// Tells what was done, to a person or a script.
    fn told(&self, words: &str, value: &Value) -> anyhow::Result<()> {
        match self.output {
            Format::Text => print(words),
            Format::Json => print(&format!("{value:#}\n")),
        }
    }
}

/// What a new generation is.
#[derive(Debug, Args)]
struct Via {
    /// What the generation is: the claim itself, or a snapshot of it, for lines whose caches say
    /// `via: snapshot`
    #[arg(long, value_enum, default_value_t)]
    via: Kind,

    /// Class of the snapshot; otherwise the default one of the volume's driver
    #[arg(long, value_name = "NAME")]
    snapshot_class: Option<String>,
}

impl Via {
    fn snapshot(&self) -> Option<SnapshotWish> {
        (self.via == Kind::Snapshot).then(|| SnapshotWish {
            class: self.snapshot_class.clone(),
        })
    }
}

/// Tells a person what goes on. Results are printed, so that a script can read them.
fn tell(words: &str) {
    eprintln!("{words}");
}

fn warn(words: &str) {
    eprintln!("warning: {words}");
}

/// The time, in whole seconds.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Who writes a generation by a verb.
fn person(verb: &str) -> Lineage {
    Lineage {
        trusted: true,
        actor: std::env::var("USER").unwrap_or_default(),
        event: verb.to_owned(),
        ..Lineage::default()
    }
}
