//! The caches with lines: whether their volumes can be cloned or restored, and whether a job finds a
//! parent. What is wrong with an annotation itself is found with the template.

use k8s_openapi::api::storage::v1::StorageClass;

use super::Check;
use super::facts::{ClaimOfTemplate, Fact, Facts, claims};
use super::storage::makes_empty_ones_only;
use crate::cache::{Facts as OfJob, Kind, Policy};
use crate::cluster::VolumeSnapshotClass;

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    let Some(template) = facts.template() else {
        return Vec::new();
    };
    let claims = claims(template);
    let mut checks = Vec::new();
    for (volume, policy) in &template.settings().caches {
        let claim = claims.iter().find(|claim| claim.volume == *volume);
        let name = claim.and_then(|claim| claim.class.as_ref());
        let class = name.and_then(|name| facts.classes.get(name)?.known());
        // Of a volume with a data source the class is judged already.
        let is_cloned = claim.is_some_and(|claim| claim.source.is_some());
        match (class, policy.via) {
            (Some(class), Kind::Snapshot) => checks.push(snapshots(facts, volume, policy, class)),
            (Some(class), Kind::Claim) if !is_cloned => checks.push(clones(volume, class)),
            _ => {}
        }
        checks.extend(parents(facts, volume, policy, claim));
    }
    checks
}

fn clones(volume: &str, class: &StorageClass) -> Check {
    const NAME: &str = "caches/clone";
    let provisioner = &class.provisioner;
    if makes_empty_ones_only(provisioner) {
        return Check::fail(
            NAME,
            format!(
                "cache `{volume}`: {provisioner} makes empty volumes only, so no job gets a clone of \
                 a generation"
            ),
            "take a class whose driver clones: OpenEBS zfs-localpv, or any CSI driver that says so",
        )
        .change("storageClassName: openebs-zfspv");
    }
    Check::pass(
        NAME,
        format!("cache `{volume}`: generations are claims that {provisioner} clones"),
    )
}

fn snapshots(facts: &Facts, volume: &str, policy: &Policy, class: &StorageClass) -> Check {
    const NAME: &str = "caches/snapshot";
    let driver = &class.provisioner;
    let all = match &facts.snapshot_classes {
        Fact::Known(all) => all,
        Fact::Absent => {
            return Check::fail(
                NAME,
                format!("cache `{volume}` is via snapshots, which this cluster does not know"),
                "install external-snapshotter with its definitions, or take the line away where the \
                 driver clones",
            )
            .change("via: clone");
        }
        Fact::Hidden(why) => {
            let what =
                format!("the VolumeSnapshotClasses for cache `{volume}` cannot be read: {why}");
            return Check::unknown(NAME, what);
        }
    };
    let ours: Vec<&VolumeSnapshotClass> = all.iter().filter(|one| one.driver == *driver).collect();
    let asked = policy.snapshot_class.as_deref();
    let found = match asked {
        Some(name) => ours.iter().find(|one| one.name() == name),
        None => ours.iter().find(|one| one.is_default()),
    };
    if let Some(found) = found {
        let name = found.name();
        return Check::pass(
            NAME,
            format!("cache `{volume}`: {driver} takes snapshots of class `{name}`"),
        );
    }
    let names: Vec<&str> = ours.iter().map(|one| one.name()).collect();
    let what = match asked {
        Some(name) => format!("cache `{volume}`: no VolumeSnapshotClass `{name}` is of {driver}"),
        None => format!("cache `{volume}`: {driver} has no default VolumeSnapshotClass"),
    };
    match names.as_slice() {
        [] => Check::fail(NAME, what, "create one").change(format!(
            "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\nmetadata:\n  \
             name: {}\ndriver: {driver}\ndeletionPolicy: Delete",
            asked.unwrap_or("caches")
        )),
        [first, ..] => {
            let there = names.join(", ");
            Check::fail(NAME, what, format!("name one of its own: {there}"))
                .change(format!("snapshot-class: {first}"))
        }
    }
}

/// Whether a job begins with a parent at all: one of a line, or the volume's own data source.
fn parents(
    facts: &Facts,
    volume: &str,
    policy: &Policy,
    claim: Option<&ClaimOfTemplate>,
) -> Vec<Check> {
    const NAME: &str = "caches/parents";
    let lines = match &facts.lines {
        Fact::Known(lines) => lines,
        Fact::Absent => return Vec::new(),
        Fact::Hidden(why) => {
            let what = format!("the lines for cache `{volume}` cannot be read: {why}");
            return vec![Check::unknown(NAME, what)];
        }
    };
    let node = facts.runner.known().and_then(|pod| pod.spec.as_ref());
    let node = node.and_then(|spec| spec.node_name.as_deref());
    let mut checks = Vec::new();
    // Without a placeholder a pattern is a line that somebody must have made.
    for key in policy
        .parents
        .iter()
        .filter_map(|one| one.fill(&OfJob::default()))
    {
        let line = lines.iter().find(|line| line.key == key);
        let current = policy.place(node).map(|place| line?.current(place));
        let what = match (line, current) {
            (None, _) => format!("cache `{volume}`: the line `{key}` does not exist"),
            (Some(_), Some(None)) => {
                format!("cache `{volume}`: the line `{key}` has no generation on the runner's node")
            }
            (Some(_), Some(Some(_)) | None) => {
                checks.push(Check::pass(
                    NAME,
                    format!("cache `{volume}`: the line `{key}` has a generation"),
                ));
                continue;
            }
        };
        checks.push(Check::warn(
            NAME,
            what,
            format!(
                "make its first generation, as by `arc-hook cache init {key} --from CLAIM`, or take it \
                 out of `parents`"
            ),
        ));
    }
    let is_cloned = claim.is_some_and(|claim| claim.source.is_some());
    if checks.is_empty() && lines.is_empty() && !is_cloned {
        checks.push(Check::warn(
            NAME,
            format!(
                "cache `{volume}` is empty for every job until one promotes: there is no line, and the \
                 volume has no `dataSource`"
            ),
            "make a first generation by `arc-hook cache init`, of a claim or by a Job that fills it",
        ));
    }
    checks
}
