//! The volumes that the template makes for each job: class, parent, size, place.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::Check;
use super::facts::{ClaimOfTemplate, Fact, Facts, claims};
use crate::pod::quantity;

/// The driver zfs-localpv.
const ZFS: &str = "zfs.csi.openebs.io";
/// Provisioners that make empty volumes only.
const NO_CLONES: [&str; 6] = [
    "kubernetes.io/no-provisioner",
    "rancher.io/local-path",
    "openebs.io/local",
    "k8s.io/minikube-hostpath",
    "microk8s.io/hostpath",
    "docker.io/hostpath",
];

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    let Some(template) = facts.template() else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    for claim in &claims(template) {
        let class = class(facts, claim);
        let found = class.1;
        checks.push(class.0);
        let Some((kind, name)) = &claim.source else {
            continue;
        };
        if let Some(class) = found {
            checks.push(clones(claim, class));
            checks.extend(binding(claim, class));
        }
        if kind == "PersistentVolumeClaim" {
            checks.extend(parent(facts, claim, name, found));
        }
    }
    checks
}

fn class<'f>(facts: &'f Facts, claim: &ClaimOfTemplate) -> (Check, Option<&'f StorageClass>) {
    const NAME: &str = "storage/class";
    let volume = &claim.volume;
    let Some(name) = &claim.class else {
        let check = Check::warn(
            NAME,
            format!("volume `{volume}` names no storage class: the cluster's default is taken"),
            "name the class, which must be the parent's for a clone",
        )
        .change("storageClassName: openebs-zfspv");
        return (check, None);
    };
    match facts.classes.get(name) {
        Some(Fact::Known(class)) => {
            let provisioner = &class.provisioner;
            let found = format!("volume `{volume}` is of class `{name}`, made by {provisioner}");
            (Check::pass(NAME, found), Some(class))
        }
        Some(Fact::Absent) => {
            let check = Check::fail(
                NAME,
                format!("volume `{volume}` is of class `{name}`, which does not exist"),
                "create it (hook-templates/openebs-zfs.yaml has one), or name another",
            )
            .change(format!(
                "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  name: {name}\n\
                 provisioner: {ZFS}"
            ));
            (check, None)
        }
        Some(Fact::Hidden(why)) => (hidden(NAME, &format!("class `{name}`"), why), None),
        None => (
            hidden(NAME, &format!("class `{name}`"), "it was not asked for"),
            None,
        ),
    }
}

fn hidden(name: &'static str, what: &str, why: &str) -> Check {
    Check::unknown(name, format!("{what} cannot be read: {why}"))
}

/// Whether nothing that this provisioner makes can be a clone.
pub(super) fn makes_empty_ones_only(provisioner: &str) -> bool {
    NO_CLONES.contains(&provisioner) || provisioner.starts_with("kubernetes.io/")
}

fn clones(claim: &ClaimOfTemplate, class: &StorageClass) -> Check {
    const NAME: &str = "storage/clone";
    let volume = &claim.volume;
    let provisioner = &class.provisioner;
    if makes_empty_ones_only(provisioner) {
        return Check::fail(
            NAME,
            format!("volume `{volume}` is to be a clone, and {provisioner} makes empty ones only"),
            "take a class whose driver clones: OpenEBS zfs-localpv, or any CSI driver that says so",
        )
        .change("storageClassName: openebs-zfspv");
    }
    Check::pass(
        NAME,
        if provisioner == ZFS {
            format!("{provisioner} clones volumes in moments")
        } else {
            format!("whether {provisioner} clones is up to that CSI driver")
        },
    )
}

/// zfs-localpv reports the pool's free space, against which the scheduler holds the nominal size of
/// a clone that needs none (openebs/zfs-localpv issue 400).
fn binding(claim: &ClaimOfTemplate, class: &StorageClass) -> Option<Check> {
    const NAME: &str = "storage/binding";
    let mode = class.volume_binding_mode.as_deref().unwrap_or("Immediate");
    if class.provisioner != ZFS {
        return None;
    }
    Some(if mode == "WaitForFirstConsumer" {
        Check::warn(
            NAME,
            format!(
                "class of volume `{}` waits for its first consumer: a clone whose nominal size \
                 exceeds the pool's free space is unschedulable, though it needs none",
                claim.volume
            ),
            "make a class that binds at once (a class cannot be changed: delete it, create it anew)",
        )
        .change("volumeBindingMode: Immediate")
    } else {
        Check::pass(NAME, "clones are made at once, whatever room the pool has")
    })
}

fn parent(
    facts: &Facts,
    claim: &ClaimOfTemplate,
    name: &str,
    class: Option<&StorageClass>,
) -> Vec<Check> {
    const NAME: &str = "storage/parent";
    let volume = &claim.volume;
    let found = match facts.parents.get(name) {
        Some(Fact::Known(parent)) => parent,
        Some(Fact::Absent) => {
            let size = claim.size.as_deref().unwrap_or("200Gi");
            let class = claim.class.as_deref().unwrap_or("openebs-zfspv");
            return vec![
                Check::fail(
                    NAME,
                    format!(
                        "volume `{volume}` is to be a clone of claim `{name}`, which does not \
                         exist in namespace `{}`",
                        facts.namespace_name
                    ),
                    "create and fill it there: a volume can be cloned within its namespace only",
                )
                .change(format!(
                    "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: {name}\nspec:\n  \
                     storageClassName: {class}\n  accessModes: [ReadWriteOnce]\n  resources: \
                     {{requests: {{storage: {size}}}}}"
                )),
            ];
        }
        Some(Fact::Hidden(why)) => {
            return vec![hidden(NAME, &format!("claim `{name}`"), why)];
        }
        None => return Vec::new(),
    };
    let mut checks = vec![state(name, found)];
    checks.extend(of_class(claim, name, found));
    checks.extend(size(claim, name, found, class));
    checks.extend(place(facts, name, found));
    checks
}

fn state(name: &str, parent: &PersistentVolumeClaim) -> Check {
    const NAME: &str = "storage/parent";
    let phase = parent
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if parent.metadata.deletion_timestamp.is_some() {
        return Check::fail(
            NAME,
            format!("claim `{name}` is being deleted, and cannot be cloned any more"),
            "make another parent, and name it as `dataSource` in the hook template",
        );
    }
    match phase {
        Some("Bound") => Check::pass(NAME, format!("claim `{name}` is bound and can be cloned")),
        phase => Check::fail(
            NAME,
            format!(
                "claim `{name}` is {}, and so is every clone of it",
                phase.unwrap_or("not bound")
            ),
            format!("kubectl describe pvc {name}: its events say what it waits for"),
        ),
    }
}

fn of_class(claim: &ClaimOfTemplate, name: &str, parent: &PersistentVolumeClaim) -> Option<Check> {
    let of_parent = parent.spec.as_ref()?.storage_class_name.as_deref()?;
    let asked = claim.class.as_deref()?;
    (asked != of_parent).then(|| {
        Check::fail(
            "storage/parent-class",
            format!(
                "volume `{}` is of class `{asked}` and its parent `{name}` of `{of_parent}`",
                claim.volume
            ),
            "give the clone its parent's class",
        )
        .change(format!("storageClassName: {of_parent}"))
    })
}

/// zfs-localpv: "clone: volume size is not matching"; the CSI provisioner refuses less than the
/// source has.
fn size(
    claim: &ClaimOfTemplate,
    name: &str,
    parent: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
) -> Option<Check> {
    const NAME: &str = "storage/size";
    let capacity = parent.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    let asked = claim.size.as_deref()?;
    let (of_parent, of_clone) = (quantity::bytes(&capacity.0)?, quantity::bytes(asked)?);
    let equal = class.is_some_and(|class| class.provisioner == ZFS);
    let volume = &claim.volume;
    let has = &capacity.0;
    if of_clone == of_parent || (of_clone > of_parent && !equal) {
        return Some(Check::pass(
            NAME,
            format!("volume `{volume}` asks for {asked}, its parent `{name}` has {has}"),
        ));
    }
    let rule = if equal {
        "a clone must have exactly the size of its parent"
    } else {
        "a clone cannot be smaller than its parent"
    };
    Some(
        Check::fail(
            NAME,
            format!("volume `{volume}` asks for {asked}, its parent `{name}` has {has}: {rule}"),
            "ask for the parent's size in the hook template",
        )
        .change(format!("resources:\n  requests:\n    storage: {has}")),
    )
}

/// A clone lies where its parent lies, and the job pod where the runner is.
fn place(facts: &Facts, name: &str, parent: &PersistentVolumeClaim) -> Option<Check> {
    const NAME: &str = "storage/node";
    let volume = parent.spec.as_ref()?.volume_name.as_deref()?;
    let volume = match facts.volumes.get(volume)? {
        Fact::Known(volume) => volume,
        Fact::Absent => return None,
        Fact::Hidden(why) => return Some(hidden(NAME, &format!("volume `{volume}`"), why)),
    };
    let nodes = nodes(volume);
    let runner = facts.runner.known()?.spec.as_ref()?.node_name.as_deref()?;
    if nodes.is_empty() || nodes.iter().any(|node| node == runner) {
        return Some(Check::pass(
            NAME,
            format!("claim `{name}` can be cloned on the runner's node `{runner}`"),
        ));
    }
    let node = &nodes[0];
    Some(
        Check::fail(
            NAME,
            format!(
                "claim `{name}` lies on node `{node}` and the runner is on `{runner}`: a job pod \
                 must be on both"
            ),
            "let runners go to the parent's node only, or make a parent on each node",
        )
        .change(format!(
            "template:\n  spec:\n    nodeSelector:\n      kubernetes.io/hostname: {node}"
        )),
    )
}

/// The nodes that a volume can be used on; empty for any.
fn nodes(volume: &PersistentVolume) -> Vec<String> {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    let terms = required.map(|required| required.node_selector_terms.iter());
    terms
        .into_iter()
        .flatten()
        .flat_map(|term| term.match_expressions.iter().flatten())
        .filter(|one| one.key == "kubernetes.io/hostname" || one.key == "openebs.io/nodeid")
        .flat_map(|one| one.values.iter().flatten().cloned())
        .collect()
}
