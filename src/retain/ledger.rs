//! Who is kept: one `ConfigMap` of the namespace, changed only by swaps of its `resourceVersion`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::policy::Mode;
use super::{LABEL, LEDGER};
use crate::cluster::{Cluster, ClusterError, jitter};

/// How long a swap is tried while others swap too.
const PATIENCE: Duration = Duration::from_secs(45);
/// The longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// A kept job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its handle for people: eight hexadecimal digits.
    pub id: String,
    /// Name of its pod, which in mode `volumes` is gone.
    pub pod: String,
    /// Uid of that pod.
    pub pod_uid: String,
    /// What is kept.
    pub mode: Mode,
    /// Its scale set.
    pub scale_set: String,
    /// Its node, where that is known.
    #[serde(default)]
    pub node: Option<String>,
    /// Its repository.
    pub repository: String,
    /// The run's page.
    pub run_url: String,
    /// Number of the run's attempt and the like, as people say it: `12345.1`.
    pub run: String,
    /// Key of the job in the workflow.
    pub job: String,
    /// Why it is kept.
    pub reason: String,
    /// The step that failed, if one did.
    pub step: Option<String>,
    /// That step's exit code.
    pub exit: Option<u8>,
    /// The failed step can be run again.
    pub script: bool,
    /// Where its steps ran.
    pub directory: Option<String>,
    /// Since when it is kept.
    pub since: Timestamp,
    /// When it goes.
    pub expires: Timestamp,
    /// Beyond which `expires` cannot be moved.
    pub latest: Timestamp,
    /// Its claims, but for those that go with the pod.
    pub claims: Vec<Claim>,
}

/// A claim, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Entry {
    /// Whether its time is up.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires <= now
    }
}

/// The ledger as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// By id.
    pub entries: BTreeMap<String, Entry>,
    /// What this version cannot read; it stays as it is.
    pub unread: BTreeMap<String, String>,
    pub(super) version: Option<String>,
}

impl Ledger {
    /// Reads it; absent is empty.
    #[must_use]
    pub fn parse(found: Option<&ConfigMap>) -> Self {
        let mut ledger = Self {
            version: found.and_then(|map| map.metadata.resource_version.clone()),
            ..Self::default()
        };
        let data = found.and_then(|map| map.data.as_ref());
        for (key, text) in data.into_iter().flatten() {
            match serde_json::from_str::<Entry>(text) {
                Ok(entry) if entry.id == *key => drop(ledger.entries.insert(key.clone(), entry)),
                _ => drop(ledger.unread.insert(key.clone(), text.clone())),
            }
        }
        ledger
    }

    fn to_config_map(&self) -> ConfigMap {
        let written = |entry: &Entry| serde_json::to_string(entry).unwrap_or_default();
        let mut data = self.unread.clone();
        data.extend(
            self.entries
                .iter()
                .map(|(id, entry)| (id.clone(), written(entry))),
        );
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(LEDGER.to_owned()),
                labels: Some(BTreeMap::from([(LABEL.to_owned(), "ledger".to_owned())])),
                resource_version: self.version.clone(),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        }
    }

    /// Enters a job, and returns those that have to leave for it: all whose time is up, and the oldest
    /// of its scale set and of its repository beyond `max`.
    pub fn admit(&mut self, entry: Entry, max: usize, now: Timestamp) -> Vec<Entry> {
        let mut gone = self.expire(now);
        let id = entry.id.clone();
        let same: [fn(&Entry) -> &str; 2] = [|one| &one.scale_set, |one| &one.repository];
        let shares: [String; 2] = same.map(|of| of(&entry).to_owned());
        self.entries.insert(id.clone(), entry);
        for (of, value) in same.iter().zip(&shares) {
            while self.entries.values().filter(|one| of(one) == value).count() > max.max(1) {
                let others = self
                    .entries
                    .values()
                    .filter(|one| of(one) == value && one.id != id);
                let Some(oldest) = oldest(others) else { break };
                gone.extend(self.entries.remove(&oldest));
            }
        }
        gone
    }

    /// Takes those out whose time is up.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Entry> {
        let up = |entry: &Entry| entry.is_expired(now);
        let ids: Vec<String> = self
            .entries
            .values()
            .filter(|entry| up(entry))
            .map(|entry| entry.id.clone())
            .collect();
        ids.iter()
            .filter_map(|id| self.entries.remove(id))
            .collect()
    }

    /// Takes one out for a node that has no room: one whose time is up, else the oldest.
    pub fn relieve(&mut self, node: &str, now: Timestamp) -> Vec<Entry> {
        let on_node = |entry: &&Entry| entry.node.as_deref() == Some(node);
        let expired: Vec<String> = self
            .entries
            .values()
            .filter(on_node)
            .filter(|entry| entry.is_expired(now))
            .map(|entry| entry.id.clone())
            .collect();
        let chosen = if expired.is_empty() {
            oldest(self.entries.values().filter(on_node))
                .into_iter()
                .collect()
        } else {
            expired
        };
        chosen
            .iter()
            .filter_map(|id| self.entries.remove(id))
            .collect()
    }

    /// Reads the namespace's ledger.
    pub async fn read(cluster: &Cluster) -> Result<Self, ClusterError> {
        let found = cluster.get::<ConfigMap>(LEDGER).await?;
        Ok(Self::parse(found.as_ref()))
    }

    /// Changes it by a swap, again and again while others are faster. `change` may be called several
    /// times, each time with what is there; nothing is written when it leaves the entries as they are.
    pub async fn change<T>(
        cluster: &Cluster,
        mut change: impl FnMut(&mut Self) -> T,
    ) -> Result<Option<T>, ClusterError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut ledger = Self::read(cluster).await?;
            let before = ledger.entries.clone();
            let result = change(&mut ledger);
            if ledger.entries == before {
                return Ok(Some(result));
            }
            let object = ledger.to_config_map();
            let stored = match ledger.version {
                None => cluster.create_new::<ConfigMap>(&object).await?,
                Some(_) => cluster.replace::<ConfigMap>(&object).await?,
            };
            if stored.is_some() {
                return Ok(Some(result));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            tokio::time::sleep(PAUSE.mul_f64(jitter())).await;
        }
    }
}

fn oldest<'a>(entries: impl Iterator<Item = &'a Entry>) -> Option<String> {
    let first = entries.min_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)))?;
    Some(first.id.clone())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    pub(crate) fn entry(id: &str, repository: &str, since: i64, ttl: i64) -> Entry {
        Entry {
            id: id.to_owned(),
            pod: format!("runner-{id}-workflow"),
            pod_uid: format!("uid-{id}"),
            mode: Mode::Pod,
            scale_set: "conan-zfs".to_owned(),
            node: Some("node-1".to_owned()),
            repository: repository.to_owned(),
            run_url: format!("https://github.com/{repository}/actions/runs/7/attempts/1"),
            run: "7.1".to_owned(),
            job: "build".to_owned(),
            reason: "the job failed".to_owned(),
            step: Some("__run_2".to_owned()),
            exit: Some(3),
            script: false,
            directory: Some("/__w/demo/demo".to_owned()),
            since: at(since),
            expires: at(since + ttl),
            latest: at(since + 10 * ttl),
            claims: vec![Claim {
                name: format!("runner-{id}-work"),
                uid: format!("uid-work-{id}"),
            }],
        }
    }

    fn ids(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.id.as_str()).collect()
    }

    #[test]
    fn beyond_the_bound_the_oldest_leaves() {
        let mut ledger = Ledger::default();
        for (index, id) in ["a", "b", "c"].into_iter().enumerate() {
            let since = i64::try_from(index).unwrap();
            assert!(
                ledger
                    .admit(entry(id, "o/r", since, 100), 3, at(since))
                    .is_empty()
            );
        }
        assert_eq!(
            ids(&ledger.admit(entry("d", "o/r", 3, 100), 3, at(3))),
            ["a"]
        );
        assert_eq!(ledger.entries.len(), 3);
    }

    #[test]
    fn one_whose_time_is_up_leaves_before_an_older_one() {
        let mut ledger = Ledger::default();
        ledger.admit(entry("long", "o/r", 0, 100), 2, at(0));
        ledger.admit(entry("short", "o/r", 1, 5), 2, at(1));
        assert_eq!(
            ids(&ledger.admit(entry("new", "o/r", 10, 5), 2, at(10))),
            ["short"]
        );
    }

    #[test]
    fn another_repositorys_jobs_count_for_the_scale_set_only() {
        let mut ledger = Ledger::default();
        let elsewhere = Entry {
            scale_set: "other".to_owned(),
            ..entry("a", "o/a", 0, 100)
        };
        ledger.admit(elsewhere, 1, at(0));
        assert!(ledger.admit(entry("b", "o/b", 1, 100), 1, at(1)).is_empty());
        assert_eq!(
            ids(&ledger.admit(entry("c", "o/a", 2, 100), 1, at(2))),
            ["b", "a"]
        );
    }

    #[test]
    fn a_node_without_room_gets_it_from_the_expired_then_from_the_oldest() {
        let mut ledger = Ledger::default();
        for (id, since, ttl) in [("old", 0, 100), ("up", 1, 5), ("new", 2, 100)] {
            ledger
                .entries
                .insert(id.to_owned(), entry(id, "o/r", since, ttl));
        }
        assert!(ledger.relieve("node-2", at(10)).is_empty());
        assert_eq!(ids(&ledger.relieve("node-1", at(10))), ["up"]);
        assert_eq!(ids(&ledger.relieve("node-1", at(10))), ["old"]);
    }

    #[test]
    fn what_this_version_cannot_read_stays_as_it_is() {
        let data = BTreeMap::from([("ffffffff".to_owned(), "{\"version\":2}".to_owned())]);
        let found = ConfigMap {
            data: Some(data.clone()),
            ..ConfigMap::default()
        };
        let mut ledger = Ledger::parse(Some(&found));
        ledger.admit(entry("a", "o/r", 0, 100), 5, at(0));
        let written = ledger.to_config_map().data.unwrap();
        assert_eq!(written["ffffffff"], data["ffffffff"]);
        assert_eq!(
            Ledger::parse(Some(&ledger.to_config_map())).entries,
            ledger.entries
        );
    }

    proptest! {
        #[test]
        fn the_bound_holds_after_any_sequence(
            jobs in proptest::collection::vec((0..3_u8, 0..3_u8, 1..50_i64), 1..40), max in 1..6_usize
        ) {
            let mut ledger = Ledger::default();
            for (index, (set, repository, ttl)) in jobs.iter().enumerate() {
                let now = i64::try_from(index).unwrap();
                let new = Entry {
                    scale_set: format!("set-{set}"),
                    ..entry(&format!("{index:08x}"), &format!("o/{repository}"), now, *ttl)
                };
                let before = ledger.entries.len() + 1;
                let gone = ledger.admit(new.clone(), max, at(now));
                prop_assert_eq!(before, ledger.entries.len() + gone.len());
                prop_assert!(ledger.entries.contains_key(&new.id));
                let of_set = ledger.entries.values().filter(|one| one.scale_set == new.scale_set);
                prop_assert!(of_set.count() <= max);
                let of_repository = ledger.entries.values().filter(|one| one.repository == new.repository);
                prop_assert!(of_repository.count() <= max);
            }
        }
    }
}
