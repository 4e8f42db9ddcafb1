//! `arc-hook gc`: removes what no longer serves.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::access::Access;
use super::{Format, print};
use crate::cache::gc::{self, Doomed, Report};
use crate::cluster::ClusterError;
use crate::retain::{self, gc::Gone};

const EXAMPLES: &str = "\
Examples:
  arc-hook gc --dry-run
  arc-hook gc --namespace ci --output json";

/// Removes old generations of caches, kept jobs whose time is up, and what crashes left
///
/// Superseded generations beyond those that a line keeps, promotions that were never finished,
/// clones without a job, and kept jobs whose time is up. Jobs do the same at their end. Never what a
/// line's pointer names, what a pending clone is made from, or what is younger than the grace.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Gc {
    /// Tells what would be removed, and removes nothing
    #[arg(long)]
    dry_run: bool,

    /// How old something must be: seconds, or `15m`, `2h`. Not less than a job may take to start
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "15m")]
    grace: Duration,

    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    output: Format,

    #[command(flatten)]
    access: Access,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.trim().char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let number: u64 = digits
        .trim()
        .parse()
        .map_err(|_| "use a number of seconds, or `15m`, `2h`".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

impl Gc {
    /// Does it.
    pub fn run(&self) -> anyhow::Result<()> {
        let api = self.access.connect()?;
        let (report, jobs) = api
            .run(async {
                let jobs = retain::gc::run(&api.cluster, self.dry_run).await?;
                let report = gc::run(&api.cluster, self.grace, true, self.dry_run).await?;
                Ok::<_, ClusterError>((report, jobs))
            })
            .context("remove what no longer serves")?;
        print(&match self.output {
            Format::Text => text(&report, &jobs, self.dry_run),
            Format::Json => json(&report, &jobs, self.dry_run),
        })
    }
}

fn text(report: &Report, jobs: &[Gone], dry: bool) -> String {
    let mut text = String::new();
    for unread in &report.unread {
        let _ = writeln!(text, "{unread}");
    }
    let verb = if dry { "would remove" } else { "removed" };
    for job in jobs {
        let of = job.repository.as_ref();
        let of = of.map(|name| format!(" ({name})")).unwrap_or_default();
        let _ = writeln!(text, "{verb} kept job {}{of}: {}", job.id, job.why);
    }
    for one in &report.removed {
        let _ = writeln!(text, "{verb} {}", told(one));
    }
    if report.removed.is_empty() && jobs.is_empty() {
        let _ = writeln!(text, "nothing to remove");
    }
    text
}

fn told(one: &Doomed) -> String {
    let mut told = format!("{} {}", one.kind.noun(), one.claim);
    if let Some(listed) = &one.listed {
        let _ = write!(
            told,
            " ({} generation {} on {})",
            listed.line, listed.number, listed.node
        );
    }
    let _ = write!(told, ": {}", one.why);
    if one.clones > 0 {
        let clones = if one.clones == 1 { "clone" } else { "clones" };
        let _ = write!(
            told,
            "; its space may be freed only with its {} {clones}",
            one.clones
        );
    }
    told
}

fn json(report: &Report, jobs: &[Gone], dry: bool) -> String {
    let value = json!({"dryRun": dry, "removed": report.removed, "unread": report.unread,
        "retained": jobs});
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Kind;
    use crate::cache::gc::Listed;

    fn report() -> Report {
        Report {
            removed: vec![
                Doomed {
                    kind: Kind::Claim,
                    claim: "cache-conan-home-1".to_owned(),
                    listed: Some(Listed {
                        line: "octo/demo/main".parse().unwrap(),
                        node: "node-1".to_owned(),
                        number: 1,
                    }),
                    why: "superseded, and 3 later ones stay".to_owned(),
                    clones: 2,
                },
                Doomed {
                    kind: Kind::Snapshot,
                    claim: "snapshot-conan-home-9".to_owned(),
                    listed: None,
                    why: "a promotion that was never finished".to_owned(),
                    clones: 0,
                },
            ],
            unread: Vec::new(),
        }
    }

    #[test]
    fn a_report_is_told_for_people_and_for_scripts() {
        let gone = [Gone {
            id: "3f9a1c2e".to_owned(),
            repository: Some("octo/demo".to_owned()),
            why: "its time is up".to_owned(),
        }];
        insta::assert_snapshot!(text(&report(), &gone, true));
        insta::assert_snapshot!(json(&report(), &gone, false));
        assert_eq!(text(&Report::default(), &[], true), "nothing to remove\n");
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("15m"), Ok(Duration::from_mins(15)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("soon").is_err() && duration("").is_err());
    }
}
