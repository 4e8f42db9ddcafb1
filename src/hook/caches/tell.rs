//! What the job's log says of its caches.

use k8s_openapi::jiff::Timestamp;

use super::choose::Choice;
use super::{Cloned, One};
use crate::admin::rights::{self, Feature};
use crate::cache::{CacheRecord, Kind, Policy};
use crate::cluster::ClusterError;
use crate::hook::output;

impl One<'_> {
    /// One line: what the clone is of, how long that took, and why it is of nothing better.
    pub(super) fn tell(&self, choice: &Choice, cloned: &Cloned) {
        let time = match cloned {
            Cloned::Bound(time) => format!(", in {:.1} s", time.as_secs_f64()),
            Cloned::Pending | Cloned::Orphaned => ", not bound yet".to_owned(),
        };
        let mut line = format!("Cache {}: {}{time}", self.volume, choice.told);
        for passed in &choice.passed {
            line.push_str("; ");
            line.push_str(&passed.to_string());
        }
        output::line(&line);
    }
}

/// The template's own volumes it is, because rights are missing.
pub(super) fn refused<'p>(error: &ClusterError, policies: impl Iterator<Item = &'p Policy>) {
    let mut features = vec![Feature::Caches];
    if policies
        .into_iter()
        .any(|policy| policy.via == Kind::Snapshot)
    {
        features.push(Feature::Snapshots);
    }
    output::warning(&format!(
        "{error}. The job runs on the template's own volumes. All rights that caches need: {}; \
         `arc-hook rbac` prints them for this hook template",
        rights(&features)
    ));
}

/// A container action runs without a cache that would be at `path`.
pub(super) fn not_lent(cache: &CacheRecord, path: &str) {
    output::line(&format!(
        "Cache {} is not at `{path}` in this action: one pod alone can mount it. Where its storage \
         class lets pods of a node share a volume (for zfs-localpv `shared: \"yes\"`, set before \
         the first parent is made), set `shared: true` in the annotation `arc-hook/cache.{}`",
        cache.volume, cache.volume
    ));
}

/// The rights that caches need, in a sentence.
fn rights(features: &[Feature]) -> String {
    let rules = rights::rules(features);
    let told = |rule: &rights::Rule| format!("{} on `{}`", rule.verbs.join(", "), rule.resource);
    rules.iter().map(told).collect::<Vec<_>>().join("; ")
}

pub(super) fn short(sha: &str) -> &str {
    sha.get(..7)
        .filter(|_| !sha.is_empty())
        .unwrap_or("unknown")
}

/// "3 h old, ", or nothing for a time that cannot be read.
pub(super) fn age(time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return String::new();
    };
    let seconds = Timestamp::now().as_second() - time.as_second();
    let (number, unit) = match seconds {
        ..120 => (seconds.max(0), "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{number} {unit} old, ")
}
