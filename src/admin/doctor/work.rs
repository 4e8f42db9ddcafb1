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

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    if facts.runner.known().is_none() {
        return Vec::new();
    }
    let copies = facts.variable("ARC_HOOK_WORK") == Some("copy");
    let mut checks = vec![mounted(facts, copies)];
    if checks
        .iter()
        .all(|check| check.verdict == super::Verdict::Pass)
        && !copies
    {
        checks.push(access(facts));
    }
    checks
}

fn mounted(facts: &Facts, copies: bool) -> Check {
    let directory = directory(facts);
    let place = directory.display();
    let found = volume(facts);
    let claim = found.is_some_and(|(_, volume)| {
        volume.ephemeral.is_some() || volume.persistent_volume_claim.is_some()
    });
    if let Some((mount, volume)) = found
        && copies
    {
        let empty = volume.empty_dir.as_ref();
        if empty.is_some_and(|empty| empty.medium.as_deref() == Some("Memory")) {
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
    }
    match found {
        _ if copies => Check::pass(NAME, "the workspace is copied between runner and job pod"),
        None => Check::fail(
            NAME,
            format!("no volume is mounted at `{place}`: a job pod cannot share it"),
            "choose Kubernetes mode with a work volume",
        )
        .change(CLAIM),
        Some(_) if !claim => Check::fail(
            NAME,
            format!("the volume at `{place}` is no claim: no second pod can mount it"),
            "let ARC make a claim for it",
        )
        .change(CLAIM),
        Some((mount, _)) if mount.read_only == Some(true) => Check::fail(
            NAME,
            format!("the work volume is mounted read-only at `{place}`"),
            "take `readOnly` out of that mount",
        ),
        Some((mount, _))
            if mount
                .sub_path_expr
                .as_deref()
                .is_some_and(|one| !one.is_empty()) =>
        {
            Check::fail(
                NAME,
                format!("the work volume is mounted at `{place}` by `subPathExpr`"),
                "use `subPath`: nobody else can know what the expression comes to",
            )
        }
        Some((mount, _)) => Check::pass(
            NAME,
            format!("volume `{}` is the runner's `{place}`", mount.name),
        ),
    }
}

fn access(facts: &Facts) -> Check {
    let affinity = match facts.variable("ARC_HOOK_AFFINITY") {
        None | Some("") => "required",
        Some(affinity) => affinity,
    };
    let of_template = volume(facts).and_then(|(_, volume)| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        template.spec.access_modes.clone()
    });
    let modes = match (&facts.work_claim, of_template) {
        (_, Some(modes)) => modes,
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
