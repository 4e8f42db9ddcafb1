//! What there is of caches in a namespace, and how it hangs together.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};

use super::Chosen;
use crate::cache::gc::source;
use crate::cache::{Generation, Generations, Key, Kind, Line, ROLE_LABEL, Role, clone};
use crate::cluster::{Cluster, ClusterError, VolumeSnapshot};

/// Lines, claims, and the pods that mount them.
#[derive(Debug, Clone, Default)]
pub struct Scene {
    /// Every line that can be read.
    pub lines: Vec<Line>,
    /// Why others cannot.
    pub unread: Vec<String>,
    /// Every claim.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Every snapshot that can be seen.
    pub snapshots: Vec<VolumeSnapshot>,
    /// Pods by the claim that they mount.
    pub pods: BTreeMap<String, Vec<String>>,
}

/// A generation and its place.
#[derive(Debug, Clone, Copy)]
pub struct Place<'s> {
    /// Its line.
    pub key: &'s Key,
    /// Its node.
    pub node: &'s str,
    /// What the line says of it.
    pub generation: &'s Generation,
}

impl Scene {
    /// Reads it.
    pub async fn read(cluster: &Cluster) -> Result<Self, ClusterError> {
        let label = format!("{ROLE_LABEL}={}", Role::Line.as_str());
        let (claims, pods, maps, snapshots) = tokio::try_join!(
            cluster.list::<PersistentVolumeClaim>(None),
            cluster.list::<Pod>(None),
            cluster.list::<ConfigMap>(Some(&label)),
            cluster.snapshots(),
        )?;
        let mut scene = Self {
            claims,
            snapshots: snapshots.unwrap_or_default(),
            ..Self::default()
        };
        for map in &maps {
            match Line::read(map) {
                Ok(line) => scene.lines.push(line),
                Err(error) => scene.unread.push(error.to_string()),
            }
        }
        scene.lines.sort_by(|one, other| one.key.cmp(&other.key));
        for pod in &pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            for claim in mounted(pod) {
                scene.pods.entry(claim).or_default().push(name.clone());
            }
        }
        Ok(scene)
    }

    /// The line of a key.
    pub fn line(&self, key: &Key) -> anyhow::Result<&Line> {
        let found = self.lines.iter().find(|line| line.key == *key);
        found.ok_or_else(|| {
            let known: Vec<String> = self.lines.iter().map(|line| line.key.to_string()).collect();
            let known = match known.as_slice() {
                [] => "there are none; `arc-hook cache init` makes one".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            anyhow!("find the line `{key}`: {known}")
        })
    }

    /// What the chosen line has on the chosen node.
    pub fn chosen(&self, chosen: &Chosen) -> anyhow::Result<Found<'_>> {
        on(self.line(&chosen.line)?, chosen.node.as_deref())
    }

    /// Claims that were cloned or restored from a generation.
    pub fn clones(&self, one: &Generation) -> Vec<&str> {
        let parent = Some((one.kind, one.claim.as_str()));
        let is_clone = |claim: &&PersistentVolumeClaim| source(claim) == parent;
        let clones = self.claims.iter().filter(is_clone);
        clones
            .filter_map(|one| one.metadata.name.as_deref())
            .collect()
    }

    /// The pods that mount a claim.
    pub fn mounted_by(&self, claim: &str) -> &[String] {
        self.pods.get(claim).map_or(&[], Vec::as_slice)
    }

    /// The claim of that name.
    pub fn claim(&self, name: &str) -> Option<&PersistentVolumeClaim> {
        let is_it = |claim: &&PersistentVolumeClaim| claim.metadata.name.as_deref() == Some(name);
        self.claims.iter().find(is_it)
    }

    /// What holds a generation is there.
    pub fn holds(&self, one: &Generation) -> bool {
        match one.kind {
            Kind::Claim => self.claim(&one.claim).is_some(),
            Kind::Snapshot => {
                let name = Some(one.claim.as_str());
                let mut all = self.snapshots.iter();
                all.any(|snapshot| snapshot.metadata.name.as_deref() == name)
            }
        }
    }

    /// The `VolumeSnapshotClass` of the snapshot that holds a generation.
    pub fn snapshot_class(&self, one: &Generation) -> Option<String> {
        let mut all = self.snapshots.iter();
        let held = all.find(|snapshot| snapshot.metadata.uid.as_deref() == Some(&one.uid))?;
        held.spec.volume_snapshot_class_name.clone()
    }

    /// Every generation of every line.
    pub fn generations(&self) -> impl Iterator<Item = Place<'_>> {
        self.lines.iter().flat_map(|line| {
            line.nodes.iter().flat_map(|(node, entry)| {
                entry.generations.iter().map(|generation| Place {
                    key: &line.key,
                    node,
                    generation,
                })
            })
        })
    }

    /// The generation that a claim was cloned from.
    pub fn parent(&self, claim: &PersistentVolumeClaim) -> Option<Place<'_>> {
        let source = source(claim)?;
        self.generations()
            .find(|place| (place.generation.kind, place.generation.claim.as_str()) == source)
    }

    /// The generations that hold what was in this one, near ones first.
    pub fn descendants(&self, uid: &str) -> Vec<Place<'_>> {
        let mut known = BTreeSet::from([uid.to_owned()]);
        let mut found: Vec<Place<'_>> = Vec::new();
        loop {
            let more: Vec<Place<'_>> = self
                .generations()
                .filter(|place| !known.contains(&place.generation.uid))
                .filter(|place| {
                    let base = place.generation.base.as_ref();
                    base.is_some_and(|base| known.contains(&base.uid))
                })
                .collect();
            if more.is_empty() {
                return found;
            }
            known.extend(more.iter().map(|place| place.generation.uid.clone()));
            found.extend(more);
        }
    }
}

/// A line's generations on one node, or those that are snapshots and tied to none.
#[derive(Debug, Clone, Copy)]
pub struct Found<'l> {
    /// The line.
    pub line: &'l Line,
    /// The node.
    pub node: &'l str,
    /// What there is.
    pub entry: &'l Generations,
}

/// What a line has on the chosen node, or on its only one.
pub fn on<'l>(line: &'l Line, node: Option<&str>) -> anyhow::Result<Found<'l>> {
    let nodes: Vec<&str> = line.nodes.keys().map(String::as_str).collect();
    let node = match (node, nodes.as_slice()) {
        (Some(node), _) => node,
        (None, [node]) => node,
        (None, []) => bail!(
            "use the line `{}`: it has no generation; `arc-hook cache init` makes one",
            line.key
        ),
        (None, several) => bail!(
            "choose a node of the line `{}`: it has generations on {}; name one by `--node`",
            line.key,
            several.join(", ")
        ),
    };
    let (node, entry) = line.nodes.get_key_value(node).with_context(|| {
        format!(
            "use the line `{}` on node `{node}`: it has generations on {} only",
            line.key,
            nodes.join(", ")
        )
    })?;
    Ok(Found { line, node, entry })
}

impl<'l> Found<'l> {
    /// The generation of that number, or the current one.
    pub fn generation(&self, number: Option<u64>) -> anyhow::Result<&'l Generation> {
        let Self { line, node, entry } = self;
        let Some(number) = number else {
            return entry.current().with_context(|| {
                format!(
                    "use the line `{}` on node `{node}`: no generation is current; `arc-hook cache \
                     rollback --to N` makes one",
                    line.key
                )
            });
        };
        entry.get(number).with_context(|| {
            let numbers = entry.generations.iter().map(|one| one.number.to_string());
            format!(
                "find generation {number} of `{}` on node `{node}`: it has {}",
                line.key,
                numbers.collect::<Vec<_>>().join(", ")
            )
        })
    }
}

fn mounted(pod: &Pod) -> Vec<String> {
    // Its volumes are no longer in use then.
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    clone::claims_of(pod).map(str::to_owned).collect()
}

#[cfg(test)]
pub mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::cache::line::tests::generation;
    use crate::cache::{Base, Lineage, Taint};

    /// The time of the tests.
    pub fn noon() -> Timestamp {
        "2026-01-03T12:00:00Z".parse().unwrap()
    }

    pub fn made(number: u64, time: &str, base: Option<(&str, u64)>) -> Generation {
        Generation {
            claim: format!("cache-{number}"),
            base: base.map(|(line, number)| Base {
                line: line.parse().unwrap(),
                number,
                uid: format!("uid-{number}"),
            }),
            depth: u32::from(base.is_some()),
            ..generation(number, time)
        }
    }

    pub fn claim(name: &str, source: Option<&str>) -> PersistentVolumeClaim {
        let mut claim: Value = json!({
            "metadata": {"name": name, "uid": format!("uid-of-{name}")},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "openebs-zfspv"},
            "status": {"phase": "Bound", "capacity": {"storage": "200Gi"}},
        });
        if let Some(source) = source {
            claim["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": source});
        }
        serde_json::from_value(claim).unwrap()
    }

    /// Two lines, one with a family, clones and a taint, one on two nodes with a long name.
    pub fn scene() -> Scene {
        let mut main = Line::new("octo/demo/main".parse().unwrap());
        let entry = main.nodes.entry("node-1".to_owned()).or_default();
        entry.promote(made(1, "2026-01-01T00:00:00Z", None));
        entry.promote(made(2, "2026-01-02T00:00:00Z", Some(("octo/demo/main", 1))));
        entry.promote(made(3, "2026-01-03T11:10:00Z", Some(("octo/demo/main", 2))));
        entry.generations[1].tainted = Some(Taint {
            time: "2026-01-03T11:50:00Z".to_owned(),
            reason: "a compiler of last year".to_owned(),
        });
        let long =
            "octo/an-extraordinarily-long-name-of-a-repository/refs%2Ftags%2Fa-long-tag-of-it";
        let mut other = Line::new(long.parse().unwrap());
        for (node, number) in [("worker-in-a-rack-far-away.example.org", 7), ("node-2", 4)] {
            let entry = other.nodes.entry(node.to_owned()).or_default();
            let mut generation = made(number, "2025-11-03T12:00:00Z", Some(("octo/demo/main", 2)));
            generation.lineage = Lineage {
                event: "init".to_owned(),
                actor: "somebody-with-a-long-name".to_owned(),
                ..Lineage::default()
            };
            entry.promote(generation);
        }
        Scene {
            lines: vec![other, main],
            unread: Vec::new(),
            claims: vec![
                claim("cache-3", Some("cache-2")),
                claim("job-1", Some("cache-3")),
                claim("job-2", Some("cache-3")),
                claim("cache-2", Some("cache-1")),
                claim("cache-1", None),
            ],
            snapshots: Vec::new(),
            pods: BTreeMap::from([("job-1".to_owned(), vec!["runner-workflow".to_owned()])]),
        }
    }

    #[test]
    fn descendants_are_found_across_lines_and_generations() {
        let scene = scene();
        let names: Vec<String> = scene
            .descendants("uid-1")
            .iter()
            .map(|place| format!("{} {}", place.node, place.generation.number))
            .collect();
        assert_eq!(
            names,
            [
                "node-1 2",
                "node-2 4",
                "worker-in-a-rack-far-away.example.org 7",
                "node-1 3"
            ]
        );
        assert!(scene.descendants("uid-3").is_empty());
    }

    #[test]
    fn a_circle_of_bases_has_an_end() {
        let mut scene = scene();
        let entry = scene.lines[1].nodes.get_mut("node-1").unwrap();
        entry.generations[0].base = made(9, "", Some(("x", 3))).base;
        assert_eq!(scene.descendants("uid-2").len(), 4);
    }

    #[test]
    fn clones_are_counted_by_their_source_and_uses_by_their_mounts() {
        let scene = scene();
        let third = scene.lines[1].nodes["node-1"].get(3).unwrap();
        assert_eq!(scene.clones(third), ["job-1", "job-2"]);
        let snapshot = Generation {
            kind: Kind::Snapshot,
            ..third.clone()
        };
        assert!(scene.clones(&snapshot).is_empty() && !scene.holds(&snapshot));
        assert_eq!(scene.mounted_by("job-1"), ["runner-workflow"]);
        assert_eq!(scene.mounted_by("job-2"), [""; 0]);
        let parent = scene.parent(&claim("x", Some("cache-2"))).unwrap();
        assert_eq!(parent.generation.number, 2);
    }

    #[test]
    fn what_is_not_chosen_clearly_is_told() {
        let scene = scene();
        let several = on(&scene.lines[0], None).unwrap_err().to_string();
        assert!(several.contains("name one by `--node`"), "{several}");
        let other = on(&scene.lines[1], Some("node-9")).unwrap_err().to_string();
        assert!(other.contains("has generations on node-1 only"), "{other}");
        let found = on(&scene.lines[1], None).unwrap();
        let missing = found.generation(Some(9)).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "find generation 9 of `octo/demo/main` on node `node-1`: it has 1, 2, 3"
        );
        let unknown = scene.line(&"x".parse().unwrap()).unwrap_err().to_string();
        assert!(unknown.contains("octo/demo/main"), "{unknown}");
    }
}
