//! The work volume: whether a second pod can mount it where job pods go.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Volume, VolumeMount};

use super::Check;
use super::facts::{Fact, Facts};

const NAME: &str = "work/volume";
const ACCESS: &str = "work/access-mode";

const CLAIM: &str = "containerMode:\n  type: kubernetes\n  kubernetesModeWorkVolumeClaim:\n    \
    accessModes: [ReadWriteOnce]\n    storageClassName: CLASS\n    resources: {requests: {storage: 10Gi}}";

/// The runner's work directory, as ARC mounts it.
pub(super) fn directory(facts: &Facts) -> PathBuf {
    let mounts = facts
        .container()
        .and_then(|container| container.volume_mounts.as_ref());
    let work = mounts
        .into_iter()
        .flatten()
        .find(|mount| mount.name == "work");
    work.map_or_else(
        || PathBuf::from("/home/runner/_work"),
        |mount| PathBuf::from(&mount.mount_path),
    )
}

/// The volume there.
fn volume(facts: &Facts) -> Option<(&VolumeMount, &Volume)> {
    let directory = directory(facts);
    let mounts = facts.container()?.volume_mounts.as_ref()?;
    let mount = mounts
        .iter()
        .filter(|mount| directory.starts_with(&mount.mount_path))
        .max_by_key(|mount| Path::new(&mount.mount_path).components().count())?;
    let volumes = facts.runner.known()?.spec.as_ref()?.volumes.as_ref()?;
    Some((mount, volumes.iter().find(|one| one.name == mount.name)?))
}

/// Whether the workspace will be copied, as [`crate::pod::volumes`] decides it.
pub(super) fn copies(facts: &Facts) -> bool {
    match facts.variable("ARC_HOOK_WORK") {
        Some("copy") => true,
        Some("shared") => false,
        _ => {
            let named = facts.variable("ACTIONS_RUNNER_CLAIM_NAME");
            named.is_none_or(str::is_empty) && unshared(facts).is_some()
        }
    }
}

/// Why no second pod can mount what is at the work directory.
enum Unshared {
    /// Nothing is, or no claim.
    NoClaim,
    /// It is a claim, mounted in a way that nobody can repeat: what is wrong, and the remedy.
    Mount(String, &'static str),
}

fn unshared(facts: &Facts) -> Option<Unshared> {
    let directory = directory(facts);
    let place = directory.display();
    let (mount, volume) = match volume(facts) {
        Some(found) if found.1.ephemeral.is_some() || found.1.persistent_volume_claim.is_some() => {
            found
        }
        _ => return Some(Unshared::NoClaim),
    };
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    if mount.read_only == Some(true) {
        Some(Unshared::Mount(
            format!("the work volume is mounted read-only at `{place}`"),
            "take `readOnly` out of that mount",
        ))
    } else if !expression.is_empty() {
        Some(Unshared::Mount(
            format!("the work volume is mounted at `{place}` by `subPathExpr`"),
            "use `subPath`: nobody else can know what the expression comes to",
        ))
    } else if of_template(volume).is_some_and(|modes| modes == ["ReadWriteOncePod"]) {
        Some(Unshared::Mount(
            format!("the work volume at `{place}` is ReadWriteOncePod"),
            "use `ReadWriteOnce`, which several pods of one node may mount",
        ))
    } else {
        None
    }
}

/// The access modes of a claim that is made for the pod.
fn of_template(volume: &Volume) -> Option<&[String]> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    template.spec.access_modes.as_deref()
}

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    if facts.runner.known().is_none() {
        return Vec::new();
    }
    if copies(facts) {
        return vec![copied(facts)];
    }
    let mut checks = vec![mounted(facts)];
    if checks[0].verdict == super::Verdict::Pass {
        checks.push(access(facts));
    }
    checks
}

fn copied(facts: &Facts) -> Check {
    let directory = directory(facts);
    let place = directory.display();
    let memory = volume(facts).filter(|(_, volume)| {
        let empty = volume.empty_dir.as_ref();
        empty.is_some_and(|empty| empty.medium.as_deref() == Some("Memory"))
    });
    if let Some((mount, _)) = memory {
        return Check::warn(
            NAME,
            format!("`{place}` is in memory, and every job's workspace is copied through it"),
            "take `medium: Memory` out: a large checkout counts against the runner's memory",
        )
        .change(format!(
            "volumes:\n- name: {}\n  emptyDir: {{}}",
            mount.name
        ));
    }
    let wanted = facts.variable("ARC_HOOK_WORK") == Some("copy");
    match unshared(facts) {
        Some(Unshared::Mount(what, remedy)) if !wanted => Check::warn(
            NAME,
            format!("{what}: every job's workspace is copied instead"),
            remedy,
        ),
        _ => Check::pass(NAME, "the workspace is copied between runner and job pod"),
    }
}

fn mounted(facts: &Facts) -> Check {
    let directory = directory(facts);
    let place = directory.display();
    match (unshared(facts), volume(facts)) {
        (Some(Unshared::Mount(what, remedy)), _) => Check::fail(
            NAME,
            format!("{what}: the job pod cannot mount it beside the runner"),
            remedy,
        ),
        (None, Some((mount, _))) => Check::pass(
            NAME,
            format!("volume `{}` is the runner's `{place}`", mount.name),
        ),
        // A claim that is only named may be mounted by a pod that this one knows nothing of.
        (Some(Unshared::NoClaim), _) | (None, None) => Check::fail(
            NAME,
            format!("there is no claim at `{place}`: no second pod can mount it"),
            "let ARC make a claim for it, or set `ARC_HOOK_WORK` to `auto`, which copies then",
        )
        .change(CLAIM),
    }
}

fn access(facts: &Facts) -> Check {
    let affinity = match facts.variable("ARC_HOOK_AFFINITY") {
        None | Some("") => "required",
        Some(affinity) => affinity,
    };
    let own = volume(facts).and_then(|(_, volume)| of_template(volume));
    let modes = match (&facts.work_claim, own) {
        (_, Some(modes)) => modes.to_vec(),
        (Fact::Known(claim), None) => {
            let spec = claim.spec.as_ref();
            spec.and_then(|spec| spec.access_modes.clone())
                .unwrap_or_default()
        }
        (Fact::Absent, None) => {
            return Check::fail(
                ACCESS,
                "the claim of the work volume does not exist",
                "create it, or let ARC make one for each runner",
            )
            .change(CLAIM);
        }
        (Fact::Hidden(why), None) => {
            return Check::unknown(
                ACCESS,
                format!("the work volume's claim cannot be read: {why}"),
            );
        }
    };
    let told = modes.join(", ");
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    let to_affinity = |value: &str| {
        format!(
            "template:\n  spec:\n    containers:\n    - name: runner\n      env:\n      \
             - name: ARC_HOOK_AFFINITY\n        value: {value}"
        )
    };
    if has("ReadWriteMany") {
        let any = match affinity {
            "required" => {
                "; job pods still stay on the runner's node: `ARC_HOOK_AFFINITY=none` would let \
                 them go to any"
            }
            _ => "",
        };
        return Check::pass(ACCESS, format!("the work volume is {told}{any}"));
    }
    if has("ReadWriteOncePod") && !has("ReadWriteOnce") {
        return Check::fail(
            ACCESS,
            "the work volume is ReadWriteOncePod: the job pod cannot mount it beside the runner",
            "use `ReadWriteOnce`, which several pods of one node may mount",
        )
        .change(CLAIM);
    }
    match affinity {
        "required" => Check::pass(
            ACCESS,
            format!("the work volume is {told}, and job pods run on the runner's node"),
        ),
        other => Check::fail(
            ACCESS,
            format!(
                "the work volume is {told}, and `ARC_HOOK_AFFINITY` is `{other}`: a job pod on \
                 another node waits for it forever"
            ),
            "tie job pods to the runner's node, or use a `ReadWriteMany` volume",
        )
        .change(to_affinity("required")),
    }
}
