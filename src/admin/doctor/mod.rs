//! `arc-hook doctor`: is the set-up right, and what exactly is to be changed.
//!
//! `gather` asks the API server and looks at its own pod; everything else is pure, one file for
//! each group of checks, from `Facts` to `Check`s. What may not be known from where it
//! runs (ARC's Role sees neither storage classes nor nodes) is `unknown`, and says who may know.

mod caches;
mod facts;
mod gather;
mod namespace;
mod rights;
mod runner;
mod server;
mod storage;
mod template;
#[cfg(test)]
mod tests;
mod work;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use self::facts::{Fact, Facts};
use super::access::Access;
use super::{Format, Worst, print};

const EXAMPLES: &str = "\
Examples:
  arc-hook doctor
  arc-hook doctor --namespace arc-runners --template hook-templates/conan-zfs.yaml
  arc-hook doctor --output json --runner-pod conan-zfs-abcde-runner-fghij";

/// Examines the set-up: what is right, and the exact change where something is not
///
/// In a runner pod it examines that pod; on a laptop with a kubeconfig, which sees more of the
/// cluster, the pod of `--runner-pod`, or one it finds. Nothing is changed. Ends with 0 when all is
/// well, 1 when something could be better, 2 when jobs fail or will.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    #[command(flatten)]
    access: Access,

    /// The runner pod to examine; otherwise its own, or one that ARC made in the namespace
    #[arg(long, value_name = "NAME", env = "ACTIONS_RUNNER_POD_NAME")]
    runner_pod: Option<String>,

    /// The hook template; otherwise the one that the runner pod mounts
    #[arg(
        long,
        value_name = "FILE",
        env = "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE"
    )]
    template: Option<PathBuf>,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl Doctor {
    /// Prints the checks, and returns the exit code of the worst.
    ///
    /// # Errors
    /// There is no API server to ask at all.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let facts = gather::gather(self)?;
        let checks = examine(&facts);
        let worst = worst(&checks);
        print(&match self.output {
            Format::Text => text(&checks),
            Format::Json => format!("{:#}\n", listed(&checks)),
        })?;
        Ok(worst.exit_code())
    }
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Pass,
    /// Cannot be seen from here.
    Unknown,
    /// It works, but not as well or as safely as it could.
    Warn,
    /// Jobs fail, or will.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq)]
struct Check {
    /// What was looked at, for scripts too: `group/subject`.
    name: &'static str,
    verdict: Verdict,
    /// What was found, as a lower-case fragment.
    found: String,
    /// What to do, as a lower-case fragment.
    remedy: Option<String>,
    /// The change, where it is one of YAML.
    change: Option<String>,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            remedy: None,
            change: None,
        }
    }

    fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Pass, found)
    }

    fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Unknown, found)
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(name, Verdict::Warn, found)
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(name, Verdict::Fail, found)
        }
    }

    /// With the YAML to write.
    fn change(mut self, yaml: impl Into<String>) -> Self {
        self.change = Some(yaml.into());
        self
    }
}

/// Every check, in the order in which they are read.
fn examine(facts: &Facts) -> Vec<Check> {
    if matches!(facts.version, Fact::Hidden(_)) {
        // Nothing else is known then.
        return server::examine(facts);
    }
    let groups = [
        server::examine,
        namespace::examine,
        rights::examine,
        runner::examine,
        work::examine,
        template::examine,
        storage::examine,
        caches::examine,
    ];
    groups.iter().flat_map(|examine| examine(facts)).collect()
}

fn worst(checks: &[Check]) -> Worst {
    let of = |check: &Check| match check.verdict {
        Verdict::Pass | Verdict::Unknown => Worst::Pass,
        Verdict::Warn => Worst::Warn,
        Verdict::Fail => Worst::Fail,
    };
    checks.iter().map(of).max().unwrap_or_default()
}

fn text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let _ = writeln!(
            text,
            "{:<5} {}: {}",
            match check.verdict {
                Verdict::Pass => "ok",
                Verdict::Unknown => "?",
                Verdict::Warn => "WARN",
                Verdict::Fail => "FAIL",
            },
            check.name,
            check.found
        );
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "      do: {remedy}");
        }
        for line in check.change.iter().flat_map(|change| change.lines()) {
            let _ = writeln!(text, "      | {line}");
        }
    }
    let count = |verdict| checks.iter().filter(|one| one.verdict == verdict).count();
    let _ = writeln!(
        text,
        "{} right, {} to be seen from elsewhere only, {} could be better, {} wrong",
        count(Verdict::Pass),
        count(Verdict::Unknown),
        count(Verdict::Warn),
        count(Verdict::Fail)
    );
    text
}

fn listed(checks: &[Check]) -> Value {
    let each: Vec<Value> = checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "verdict": match check.verdict {
                    Verdict::Pass => "pass",
                    Verdict::Unknown => "unknown",
                    Verdict::Warn => "warn",
                    Verdict::Fail => "fail",
                },
                "found": check.found,
                "remedy": check.remedy,
                "change": check.change,
            })
        })
        .collect();
    json!({"verdict": worst(checks).name(), "checks": each})
}
