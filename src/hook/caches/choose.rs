//! Which parent a job's cache is cloned from, and what becomes of the clone when the job is good.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use serde_json::Value;

use super::One;
use super::tell::{age, short};
use crate::cache::clone::{self, Claim};
use crate::cache::policy::variable;
use crate::cache::record::{Expected, Promotion, Target, Verify, permission};
use crate::cache::select::{self, Passed};
use crate::cache::{Base, Key, Kind, Line, LineError, Lineage, snapshot};
use crate::cluster::{Cluster, ClusterError};
use crate::hook::surroundings::Surroundings;
use crate::pod::names;

/// What a volume is made from, and what is told of it.
pub(super) struct Choice {
    pub claim: Claim,
    /// What is cloned, by name and uid.
    pub source: Option<Source>,
    pub base: Option<Base>,
    pub depth: u32,
    /// "clone of …", as the log says it.
    pub told: String,
    pub passed: Vec<Passed>,
}

/// What a claim is cloned or restored from.
pub(super) struct Source {
    pub kind: Kind,
    pub name: String,
    pub uid: String,
}

impl One<'_> {
    /// Reads what there is to choose from, and chooses.
    pub(super) async fn choose(&self, attempt: u32) -> Result<(Choice, Promotion), ClusterError> {
        let cluster = self.all.cluster;
        let node = self.all.node();
        let asked = self.plan.environment.get(&variable(self.volume));
        let (candidates, mut passed) =
            select::candidates(self.policy, self.facts, asked.map(String::as_str));
        let target = self.target();
        let mut keys: Vec<&Key> = candidates.iter().map(|one| &one.key).collect();
        keys.extend(target.iter().filter_map(|target| target.as_ref().ok()));
        keys.sort_unstable();
        keys.dedup();
        let found = join_all(keys.iter().map(|key| read_line(cluster, key))).await;
        let mut lines = BTreeMap::new();
        for (key, line) in keys.iter().zip(found) {
            if let Some(line) = line? {
                lines.insert((*key).clone(), line);
            }
        }
        let (ranked, more) = select::rank(self.policy, &candidates, &lines, node);
        passed.extend(more);
        let promotion = self.promotion(target, &lines, node);
        let name = clone::name(self.volume, self.all.nonce.as_str(), attempt);
        for (key, generation) in ranked {
            let number = generation.number;
            let like = template_spec(self.all.around, self.volume);
            let spec = match snapshot::parent_spec(cluster, &generation, &like).await? {
                Ok(spec) => spec,
                Err(why) => {
                    passed.push(Passed {
                        name: key.to_string(),
                        why: format!("generation {number}: {why}"),
                    });
                    continue;
                }
            };
            let choice = Choice {
                claim: Claim {
                    name,
                    spec,
                    parent: format!("{key} generation {number}"),
                },
                source: Some(Source {
                    kind: generation.kind,
                    name: generation.claim.clone(),
                    uid: generation.uid.clone(),
                }),
                depth: generation.depth + 1,
                told: format!(
                    "clone of {key} generation {number} ({}commit {})",
                    age(&generation.time),
                    short(&generation.lineage.sha)
                ),
                base: Some(Base {
                    line: key,
                    number,
                    uid: generation.uid,
                }),
                passed,
            };
            return Ok((choice, promotion));
        }
        let choice = self.fall_back(name, passed).await?;
        Ok((choice, promotion))
    }

    /// No line has a parent: the template's own data source, or nothing.
    async fn fall_back(
        &self,
        name: String,
        mut passed: Vec<Passed>,
    ) -> Result<Choice, ClusterError> {
        let template = template_spec(self.all.around, self.volume);
        let source = &template["dataSource"];
        let mut choice = Choice {
            claim: Claim {
                name,
                spec: template.clone(),
                parent: "empty".to_owned(),
            },
            source: None,
            base: None,
            depth: 0,
            told: "empty".to_owned(),
            passed: Vec::new(),
        };
        let kind = source["kind"].as_str().unwrap_or_default();
        let parent = source["name"].as_str().unwrap_or_default();
        if kind == "PersistentVolumeClaim" {
            let found = self
                .all
                .cluster
                .get::<PersistentVolumeClaim>(parent)
                .await?;
            match clone::usable(found.as_ref(), None) {
                Ok(()) => {
                    let found = found.unwrap_or_default();
                    choice.claim.spec = clone::of(&found);
                    choice.claim.parent = format!("claim {parent}");
                    choice.told = format!("clone of claim `{parent}`, the template's dataSource");
                    choice.source = Some(Source {
                        kind: Kind::Claim,
                        name: parent.to_owned(),
                        uid: found.metadata.uid.unwrap_or_default(),
                    });
                    choice.depth = 1;
                }
                Err(why) => {
                    passed.push(Passed {
                        name: format!("claim `{parent}`, the template's dataSource"),
                        why,
                    });
                    if let Some(spec) = choice.claim.spec.as_object_mut() {
                        spec.remove("dataSource");
                        spec.remove("dataSourceRef");
                    }
                }
            }
        } else if !kind.is_empty() {
            choice.claim.parent = format!("{kind} {parent}");
            choice.told = format!("made from {kind} `{parent}`, the template's dataSource");
            choice.depth = 1;
        }
        choice.passed = passed;
        Ok(choice)
    }

    /// The line that this job's clone would be promoted to, or why to none; `None` when the
    /// template promotes nothing.
    fn target(&self) -> Option<Result<Key, String>> {
        let promote = self.policy.promote.as_ref()?;
        let job = &self.all.around.config.github;
        Some(permission(promote, job, self.verdict).and_then(|()| {
            promote
                .to
                .fill(self.facts)
                .ok_or_else(|| format!("`{}` is empty for this job", promote.to))
        }))
    }

    /// What is settled now about the end of the job.
    fn promotion(
        &self,
        target: Option<Result<Key, String>>,
        lines: &BTreeMap<Key, Result<Line, LineError>>,
        node: Option<&str>,
    ) -> Promotion {
        let Some(target) = target else {
            return Promotion::Off;
        };
        let settled = target.and_then(|key| {
            let place = self
                .policy
                .place(node)
                .ok_or("the node of the runner is not known")?;
            let expected = match lines.get(&key) {
                None => None,
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(line)) if line.key != key => {
                    return Err(format!("its object holds the line {}", line.key));
                }
                Some(Ok(line)) => line.current(place).map(Expected::of),
            };
            let job = &self.all.around.config.github;
            Ok(Target {
                node: place.to_owned(),
                expected,
                keep: self.policy.keep(),
                verify: self.verify()?,
                snapshot: self.policy.snapshot(),
                lineage: Lineage::of(job, self.verdict),
                line: key,
            })
        });
        match settled {
            Ok(target) => Promotion::To(Box::new(target)),
            Err(why) => Promotion::No(why),
        }
    }

    fn verify(&self) -> Result<Option<Verify>, String> {
        if self.policy.verify.is_empty() {
            return Ok(None);
        }
        let path = clone::mount_path(&self.plan.pod, names::JOB_CONTAINER, self.volume)
            .ok_or("nothing can verify it, because `$job` does not mount the volume")?;
        Ok(Some(Verify {
            command: self.policy.verify.clone(),
            image: self.plan.image.clone(),
            path,
            environment: clone::plain_environment(&self.plan.pod, names::JOB_CONTAINER),
        }))
    }
}

async fn read_line(
    cluster: &Cluster,
    key: &Key,
) -> Result<Option<Result<Line, LineError>>, ClusterError> {
    let found = cluster.get::<ConfigMap>(&key.object_name()).await?;
    Ok(found.map(|map| Line::read(&map)))
}

/// The spec of the claim that the template would have made for a volume.
fn template_spec(around: &Surroundings<'_>, volume: &str) -> Value {
    let volumes = around.template.spec().and_then(|spec| spec.get("volumes"));
    volumes
        .and_then(Value::as_array)
        .and_then(|volumes| volumes.iter().find(|found| found["name"] == volume))
        .map(|found| found["ephemeral"]["volumeClaimTemplate"]["spec"].clone())
        .unwrap_or_default()
}
