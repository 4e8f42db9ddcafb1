//! What there is of caches in a namespace, and what of it no longer serves.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::cache::{Key, Kind, Line, ROLE_LABEL, Role, SEALED_ANNOTATION, clone};
use crate::cluster::{Cluster, ClusterError, VolumeSnapshot};

/// What there is.
#[derive(Debug, Default)]
pub struct Scene {
    /// Every claim of the namespace.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Every snapshot; `None` when none was looked for or may be seen, and then none is touched.
    pub snapshots: Option<Vec<VolumeSnapshot>>,
    /// Names of claims that a pod mounts.
    pub mounted: BTreeSet<String>,
    /// Every line that can be read.
    pub lines: Vec<Line>,
    /// Why others cannot be read. While there are such, claims that no line names stay.
    pub unread: Vec<String>,
}

/// Something to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doomed {
    /// What kind of object it is.
    pub kind: Kind,
    /// Name of the claim, or snapshot.
    pub claim: String,
    /// The generation that it is in a line, which it leaves first.
    pub listed: Option<Listed>,
    /// Why it goes.
    pub why: String,
    /// Claims that were cloned from it. Where clones share blocks with their parent, as on ZFS,
    /// its space is freed when they are gone too.
    pub clones: usize,
}

/// A generation's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The line.
    pub line: Key,
    /// The node.
    pub node: String,
    /// The number there.
    pub number: u64,
}

impl Scene {
    /// Reads it, with snapshots where these are looked for. What others change meanwhile is the same
    /// or younger than the grace.
    pub async fn read(cluster: &Cluster, snapshots: bool) -> Result<Self, ClusterError> {
        // The lines last: what is named by one when it is sealed is seen here.
        let (claims, pods) = tokio::try_join!(
            cluster.list::<PersistentVolumeClaim>(None),
            cluster.list::<Pod>(None)
        )?;
        let snapshots = if snapshots {
            cluster.snapshots().await?
        } else {
            None
        };
        let line = format!("{ROLE_LABEL}={}", Role::Line.as_str());
        let mut scene = Self {
            claims,
            snapshots,
            mounted: pods
                .iter()
                .flat_map(clone::claims_of)
                .map(str::to_owned)
                .collect(),
            ..Self::default()
        };
        for map in cluster.list::<ConfigMap>(Some(&line)).await? {
            match Line::read(&map) {
                Ok(line) => scene.lines.push(line),
                Err(error) => scene.unread.push(error.to_string()),
            }
        }
        Ok(scene)
    }

    /// What is to go at the time `now`.
    #[must_use]
    pub fn doomed(&self, now: Timestamp, grace: Duration) -> Vec<Doomed> {
        let mut doomed = self.superseded(now, grace);
        doomed.extend(self.orphans(now, grace));
        doomed
    }

    fn superseded(&self, now: Timestamp, grace: Duration) -> Vec<Doomed> {
        let mut doomed = Vec::new();
        for line in &self.lines {
            let keep = usize::try_from(line.keep).unwrap_or(usize::MAX);
            for (node, entry) in &line.nodes {
                let mut old: Vec<_> = entry
                    .generations
                    .iter()
                    .filter(|one| Some(one.number) != entry.current)
                    .collect();
                old.sort_by_key(|one| std::cmp::Reverse(one.number));
                for one in old.into_iter().skip(keep) {
                    let since = one.superseded.as_deref();
                    let is_old = since.is_some_and(|since| is_older(since, now, grace));
                    let is_unseen = one.kind == Kind::Snapshot && self.snapshots.is_none();
                    let found = self.meta(one.kind, &one.claim);
                    let is_ours = found.is_some_and(|meta| meta.uid.as_deref() == Some(&one.uid));
                    if !is_old || is_unseen || (is_ours && self.is_pinned(one.kind, &one.claim)) {
                        continue;
                    }
                    doomed.push(Doomed {
                        kind: one.kind,
                        claim: one.claim.clone(),
                        listed: Some(Listed {
                            line: line.key.clone(),
                            node: node.clone(),
                            number: one.number,
                        }),
                        why: format!("superseded, and {keep} later ones stay"),
                        clones: self.clones(one.kind, &one.claim),
                    });
                }
            }
        }
        doomed
    }

    fn orphans(&self, now: Timestamp, grace: Duration) -> Vec<Doomed> {
        let named: BTreeSet<&str> = self
            .lines
            .iter()
            .flat_map(|line| line.nodes.values())
            .flat_map(|entry| &entry.generations)
            .map(|one| one.uid.as_str())
            .collect();
        let mut doomed = Vec::new();
        for (kind, meta) in self.objects() {
            let name = meta.name.as_deref().unwrap_or_default();
            let made = meta
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.to_string());
            let label = |key: &str| meta.labels.as_ref()?.get(key).map(String::as_str);
            let owned = meta
                .owner_references
                .as_ref()
                .is_some_and(|all| !all.is_empty());
            if meta.deletion_timestamp.is_some() || self.is_pinned(kind, name) {
                continue;
            }
            let why = if label(ROLE_LABEL) == Some(Role::Generation.as_str()) {
                let annotations = meta.annotations.as_ref();
                let sealed = annotations.and_then(|all| all.get(SEALED_ANNOTATION));
                let since = sealed.or(made.as_ref());
                let is_named = meta.uid.as_deref().is_some_and(|uid| named.contains(uid));
                // A line that cannot be read may name it.
                if is_named
                    || !self.unread.is_empty()
                    || !since.is_some_and(|s| is_older(s, now, grace))
                {
                    continue;
                }
                "a promotion that was never finished"
            } else if label(ROLE_LABEL) == Some(Role::Clone.as_str()) && !owned {
                let is_old = made.is_some_and(|made| is_older(&made, now, grace));
                if self.mounted.contains(name) || !is_old {
                    continue;
                }
                "a clone that no job has any more"
            } else {
                continue;
            };
            doomed.push(Doomed {
                kind,
                claim: name.to_owned(),
                listed: None,
                why: why.to_owned(),
                clones: self.clones(kind, name),
            });
        }
        doomed
    }

    /// A clone of it is still being made.
    fn is_pinned(&self, kind: Kind, name: &str) -> bool {
        self.claims.iter().any(|claim| {
            let phase = claim
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            source(claim) == Some((kind, name)) && phase != Some("Bound")
        })
    }

    fn clones(&self, kind: Kind, name: &str) -> usize {
        let is_clone = |claim: &&PersistentVolumeClaim| source(claim) == Some((kind, name));
        self.claims.iter().filter(is_clone).count()
    }

    /// Everything that can hold a generation.
    fn objects(&self) -> impl Iterator<Item = (Kind, &ObjectMeta)> {
        let claims = self.claims.iter().map(|one| (Kind::Claim, &one.metadata));
        let snapshots = self.snapshots.iter().flatten();
        claims.chain(snapshots.map(|one| (Kind::Snapshot, &one.metadata)))
    }

    fn meta(&self, kind: Kind, name: &str) -> Option<&ObjectMeta> {
        self.objects()
            .find(|(found, meta)| *found == kind && meta.name.as_deref() == Some(name))
            .map(|(_, meta)| meta)
    }

    pub(super) fn claim(&self, name: &str) -> Option<&PersistentVolumeClaim> {
        let is_it = |claim: &&PersistentVolumeClaim| claim.metadata.name.as_deref() == Some(name);
        self.claims.iter().find(is_it)
    }

    pub(super) fn snapshot(&self, name: &str) -> Option<&VolumeSnapshot> {
        let is_it = |one: &&VolumeSnapshot| one.metadata.name.as_deref() == Some(name);
        self.snapshots.iter().flatten().find(is_it)
    }
}

/// The claim that another is cloned from, or the snapshot that it is restored from.
pub(crate) fn source(claim: &PersistentVolumeClaim) -> Option<(Kind, &str)> {
    let source = claim.spec.as_ref()?.data_source.as_ref()?;
    let kind = match source.kind.as_str() {
        "PersistentVolumeClaim" => Kind::Claim,
        "VolumeSnapshot" => Kind::Snapshot,
        _ => return None,
    };
    Some((kind, source.name.as_str()))
}

/// A time that cannot be read is young: nothing is deleted by mistake.
fn is_older(time: &str, now: Timestamp, grace: Duration) -> bool {
    let Ok(time) = time.parse::<Timestamp>() else {
        return false;
    };
    let grace = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
    now.as_second().saturating_sub(time.as_second()) > grace
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::GRACE;
    use super::*;
    use crate::cache::Generation;
    use crate::cache::line::tests::generation;

    const NOW: &str = "2026-01-02T00:00:00Z";
    const OLD: &str = "2026-01-01T00:00:00Z";
    const YOUNG: &str = "2026-01-01T23:59:00Z";

    fn claim(name: &str, role: &str, time: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut claim = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": time,
                         "labels": {ROLE_LABEL: role}, "annotations": {SEALED_ANNOTATION: time}},
            "spec": {}, "status": {"phase": "Bound"},
        });
        change(&mut claim);
        claim
    }

    /// A line of generations 1 to `last` on node n1, all superseded long ago but the last.
    fn line(last: u64, keep: u32) -> Line {
        let mut line = Line::new("octo/demo/main".parse().unwrap());
        line.keep = keep;
        let entry = line.nodes.entry("n1".to_owned()).or_default();
        for number in 1..=last {
            entry.promote(Generation {
                claim: format!("g{number}"),
                uid: format!("uid-g{number}"),
                ..generation(number, OLD)
            });
        }
        line
    }

    fn scene(lines: Vec<Line>, claims: Vec<Value>) -> Scene {
        let claims = claims.into_iter().map(serde_json::from_value);
        Scene {
            claims: claims.collect::<Result<_, _>>().unwrap(),
            lines,
            ..Scene::default()
        }
    }

    fn names(scene: &Scene) -> Vec<String> {
        let doomed = scene.doomed(NOW.parse().unwrap(), GRACE);
        doomed.into_iter().map(|one| one.claim).collect()
    }

    fn generations(count: u64) -> Vec<Value> {
        (1..=count)
            .map(|number| claim(&format!("g{number}"), "generation", OLD, |_| ()))
            .collect()
    }

    #[test]
    fn the_current_generation_and_those_to_keep_stay() {
        assert_eq!(
            names(&scene(vec![line(5, 2)], generations(5))),
            ["g2", "g1"]
        );
        assert_eq!(
            names(&scene(vec![line(5, 0)], generations(5))),
            ["g4", "g3", "g2", "g1"]
        );
        let mut rolled_back = line(5, 1);
        let entry = rolled_back.nodes.get_mut("n1").unwrap();
        entry.point_to(1, OLD);
        assert_eq!(
            names(&scene(vec![rolled_back], generations(5))),
            ["g4", "g3", "g2"]
        );
    }

    #[test]
    fn what_was_superseded_within_the_grace_stays() {
        let mut line = line(3, 0);
        let entry = line.nodes.get_mut("n1").unwrap();
        entry.generations[1].superseded = Some(YOUNG.to_owned());
        assert_eq!(names(&scene(vec![line], generations(3))), ["g1"]);
    }

    #[test]
    fn the_source_of_a_pending_clone_stays() {
        let mut claims = generations(3);
        claims.push(claim("job", "clone", YOUNG, |claim| {
            claim["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "g1"});
            claim["status"]["phase"] = json!("Pending");
        }));
        assert_eq!(names(&scene(vec![line(3, 0)], claims.clone())), ["g2"]);
        claims[3]["status"]["phase"] = json!("Bound");
        let scene = scene(vec![line(3, 0)], claims);
        let doomed = scene.doomed(NOW.parse().unwrap(), GRACE);
        assert_eq!(doomed[1].clones, 1);
    }

    #[test]
    fn a_generation_that_no_line_names_goes_after_the_grace() {
        let orphans = |time| vec![claim("lost", "generation", time, |_| ())];
        assert_eq!(names(&scene(vec![line(1, 0)], orphans(OLD))), ["lost"]);
        assert!(names(&scene(vec![line(1, 0)], orphans(YOUNG))).is_empty());
        let mut unread = scene(Vec::new(), orphans(OLD));
        unread.unread.push("format 2".to_owned());
        assert!(names(&unread).is_empty());
    }

    #[test]
    fn a_claim_of_a_known_name_but_another_uid_is_not_the_generation() {
        let reborn = claim("g1", "generation", OLD, |claim| {
            claim["metadata"]["uid"] = json!("another");
        });
        assert_eq!(names(&scene(vec![line(1, 0)], vec![reborn])), ["g1"]);
    }

    /// The line of [`line`], whose generations are snapshots that are there.
    fn snapshots(last: u64, keep: u32) -> Scene {
        let mut line = line(last, keep);
        let entry = line.nodes.remove("n1").unwrap();
        let entry = line.nodes.entry("_".to_owned()).or_insert(entry);
        for one in &mut entry.generations {
            one.kind = Kind::Snapshot;
        }
        let all = generations(last).into_iter().map(serde_json::from_value);
        Scene {
            snapshots: Some(all.collect::<Result<_, _>>().unwrap()),
            ..scene(vec![line], Vec::new())
        }
    }

    #[test]
    fn snapshots_go_like_claims_but_only_where_they_are_seen() {
        let mut scene = snapshots(4, 1);
        assert_eq!(names(&scene), ["g2", "g1"]);
        let restored = claim("job", "clone", YOUNG, |claim| {
            claim["spec"]["dataSource"] = json!({"kind": "VolumeSnapshot", "name": "g1"});
            claim["status"]["phase"] = json!("Pending");
        });
        scene.claims = vec![serde_json::from_value(restored).unwrap()];
        assert_eq!(names(&scene), ["g2"]);
        scene.snapshots = None;
        assert!(names(&scene).is_empty());
    }

    #[test]
    fn a_snapshot_that_no_line_names_goes_after_the_grace() {
        let mut scene = snapshots(2, 1);
        scene.lines.clear();
        assert_eq!(names(&scene), ["g1", "g2"]);
        scene.unread.push("format 2".to_owned());
        assert!(names(&scene).is_empty());
    }

    #[test]
    fn clones_of_people_and_of_running_jobs_stay() {
        let claims = vec![
            claim("personal", "personal", OLD, |_| ()),
            claim("owned", "clone", OLD, |claim| {
                claim["metadata"]["ownerReferences"] =
                    json!([{"apiVersion": "v1", "kind": "Pod", "name": "r", "uid": "u"}]);
            }),
            claim("mounted", "clone", OLD, |_| ()),
            claim("young", "clone", YOUNG, |_| ()),
            claim("left", "clone", OLD, |_| ()),
            claim("foreign", "", OLD, |_| ()),
        ];
        let mut scene = scene(Vec::new(), claims);
        scene.mounted.insert("mounted".to_owned());
        assert_eq!(names(&scene), ["left"]);
    }
}
