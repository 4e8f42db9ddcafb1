//! Where a job's work volume cannot be kept, what the job saw of it is copied to a claim of its own, by a
//! small pod that belongs to the runner until it has gone. Pure.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use crate::pod::names::{self, JOB_CONTAINER};
use crate::pod::{OWN_GITHUB, OWN_WORK, WORK, externals};
use crate::spool::tree::SPOOL_MOUNT;

/// Where that pod sees the claim.
const MOUNT: &str = "/__work";
/// Room on the claim besides what may be copied: a file system needs some for itself, one part in so many.
const OVERHEAD: u64 = 8;
const LEAST: u64 = 64 << 20;
/// The same for the runner's programs.
const PROGRAMS: u64 = 2 << 30;
/// The cluster ends the pod after so many seconds, should nobody else.
const DEADLINE: u32 = 900;
/// What decides where a pod may run, and how it is isolated there: as the job's.
const PLACED: [&str; 6] = [
    "affinity",
    "nodeSelector",
    "tolerations",
    "priorityClassName",
    "schedulerName",
    "runtimeClassName",
];

/// What is copied, by name: where it is in the job's container, and where below the claim.
pub const COPIED: [(&str, &str, &str); 3] = [
    ("home", "/github/home", "github/home"),
    ("spool", SPOOL_MOUNT, "spool"),
    ("work", "/__w", "w"),
];

/// A copy of a job's files that is to be made.
#[derive(Debug)]
pub struct Copy<'a> {
    /// The job's pod.
    pub job: &'a Pod,
    /// The kept job's id.
    pub id: &'a str,
    /// User and group of the job's container, whose the files are.
    pub user: (u32, u32),
    /// User and group of the runner, whose home directory holds the programs of its image.
    pub runner: (u32, u32),
    /// The runner's image.
    pub image: &'a str,
    /// Where it has this program.
    pub program: &'a str,
    /// Where it has the runner's others.
    pub externals: &'a str,
    /// The workspace below the work directory.
    pub workspace: &'a str,
    /// Most bytes that are copied.
    pub limit: u64,
    /// Storage class of the claim; the cluster's default when absent.
    pub class: Option<&'a str>,
    /// Names of Secrets that go with the job.
    pub gone: &'a [String],
}

impl Copy<'_> {
    /// Name of the pod. As one of the runner's own it may be entered by it.
    #[must_use]
    pub fn pod_name(&self, runner: &str) -> String {
        names::step_pod(runner, self.id)
    }

    /// The claim: the runner pod's own, until it is kept.
    #[must_use]
    pub fn claim(&self) -> Value {
        let room = self.limit / OVERHEAD + LEAST;
        let programs = if self.copies_programs() { PROGRAMS } else { 0 };
        let whole = (self.limit + room + programs).div_ceil(1 << 20);
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": self.metadata(&super::twin::name(self.id)),
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": self.class,
                "resources": {"requests": {"storage": format!("{whole}Mi")}},
            },
        })
    }

    /// The pod that mounts it: no image but the runner's, no account, no capability, where the job's pod is.
    #[must_use]
    pub fn pod(&self, runner: &str) -> Value {
        let of_job = serde_json::to_value(self.job.spec.clone().unwrap_or_default());
        let of_job = of_job.unwrap_or_default();
        let (uid, gid) = self.user;
        let mut command = vec![self.program, "init", "kept", "--to", MOUNT];
        if self.copies_programs() {
            command.extend(["--externals", self.externals]);
        }
        command.push(self.workspace);
        let mut security = Map::new();
        let options = &of_job["securityContext"]["seLinuxOptions"];
        if !options.is_null() {
            security.insert("seLinuxOptions".to_owned(), options.clone());
        }
        let groups = of_job["securityContext"]["supplementalGroups"].as_array();
        let mut groups = groups.cloned().unwrap_or_default();
        if uid != self.runner.0 {
            groups.push(json!(self.runner.1));
        }
        if !groups.is_empty() {
            security.insert("supplementalGroups".to_owned(), json!(groups));
        }
        let group = &of_job["securityContext"]["fsGroup"];
        let group = if group.is_null() {
            json!(gid)
        } else {
            group.clone()
        };
        security.insert("fsGroup".to_owned(), group);
        security.insert("fsGroupChangePolicy".to_owned(), json!("OnRootMismatch"));
        security.insert(
            "seccompProfile".to_owned(),
            json!({"type": "RuntimeDefault"}),
        );
        let mut spec = json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "activeDeadlineSeconds": DEADLINE,
            "securityContext": security,
            "containers": [{
                "name": JOB_CONTAINER,
                "image": self.image,
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                "securityContext": {
                    "runAsUser": uid, "runAsGroup": gid, "runAsNonRoot": uid != 0,
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [{"name": WORK, "mountPath": MOUNT}],
            }],
            "volumes": [{"name": WORK, "persistentVolumeClaim":
                {"claimName": super::twin::name(self.id)}}],
        });
        for key in PLACED {
            if !of_job[key].is_null() {
                spec[key] = of_job[key].clone();
            }
        }
        let secrets = super::twin::secrets_left(&of_job, self.gone);
        if !secrets.is_empty() {
            spec["imagePullSecrets"] = json!(secrets);
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": self.metadata(&self.pod_name(runner)), "spec": spec,
        })
    }

    /// The words by which the relay is called there.
    #[must_use]
    pub fn relay(&self) -> Vec<String> {
        let spool = format!("{MOUNT}/spool");
        [self.program, "relay", &spool].map(str::to_owned).to_vec()
    }

    /// Whether the job's container has the runner's programs from the work volume.
    fn copies_programs(&self) -> bool {
        let containers = self.job.spec.iter().flat_map(|spec| &spec.containers);
        containers
            .filter(|container| container.name == JOB_CONTAINER)
            .flat_map(|container| container.volume_mounts.iter().flatten())
            .any(|mount| mount.name == WORK && mount.mount_path == externals::MOUNT)
    }

    /// Label and owner of the job's pod, so that it goes with the same runner.
    fn metadata(&self, name: &str) -> Value {
        let of_job = &self.job.metadata;
        let label = of_job
            .labels
            .as_ref()
            .and_then(|labels| labels.get(names::RUNNER_POD_LABEL));
        json!({
            "name": name,
            "labels": {names::RUNNER_POD_LABEL: label},
            "ownerReferences": of_job.owner_references,
        })
    }
}

/// Where the copy has what the pod saw as `path`, for the relay there.
#[must_use]
pub fn below_mount(path: &str) -> String {
    format!("{MOUNT}/{path}")
}

/// Has the containers of a pod that shared the runner's work volume see the copy as they saw that.
///
/// The copy is laid out as the volume of a pod that has one of its own. So is a pod's own volume, whose
/// mounts stay as they are.
pub fn lay_over(spec: &mut Value) {
    let Some(own) = shared_tree(spec) else { return };
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounts = container.get_mut("volumeMounts");
            let Some(mounts) = mounts.and_then(Value::as_array_mut) else {
                continue;
            };
            for mount in mounts.iter_mut() {
                if mount["name"] == crate::pod::WORK_ROOT {
                    mount["name"] = json!(WORK);
                    mount["subPath"] = json!(OWN_WORK);
                } else if mount["name"] == WORK {
                    let path = mount["subPath"].as_str().unwrap_or_default();
                    mount["subPath"] = json!(in_copy(Path::new(path), &own));
                }
            }
            mounts.retain(|mount| {
                let at = mount["mountPath"].as_str().unwrap_or_default();
                let of = mount["subPath"].as_str().unwrap_or_default();
                // What lies in `/__w` as it lies in the copy is there already.
                let is_there = at
                    .strip_prefix("/__w/")
                    .is_some_and(|at| of.strip_prefix("w/") == Some(at) || !of.starts_with("w/"));
                mount["name"] != WORK || !is_there
            });
        }
    }
}

/// The pod's own directory on a work volume that it shares, `PREFIX/.arc-hook/NONCE`.
fn shared_tree(spec: &Value) -> Option<PathBuf> {
    let mut volumes = spec["volumes"].as_array().into_iter().flatten();
    let is_shared = |volume: &Value| volume["name"] == WORK && volume["emptyDir"].is_null();
    if !volumes.any(is_shared) {
        return None;
    }
    let containers = spec["containers"].as_array().into_iter().flatten();
    let mut mounts =
        containers.flat_map(|one| one["volumeMounts"].as_array().into_iter().flatten());
    let program =
        mounts.find(|mount| mount["name"] == WORK && mount["mountPath"] == crate::pod::HOOK)?;
    let path = Path::new(program["subPath"].as_str()?);
    path.parent().map(Path::to_owned)
}

/// Where the copy has what a shared volume had at `path`.
fn in_copy(path: &Path, own: &Path) -> String {
    if let Ok(name) = path.strip_prefix(own) {
        return match name.to_str().unwrap_or_default() {
            "temp" => format!("{OWN_WORK}/_temp"),
            name @ ("home" | "workflow" | "file_commands") => format!("{OWN_GITHUB}/{name}"),
            name => name.to_owned(),
        };
    }
    let work = own.ancestors().nth(2).unwrap_or(own);
    let below = path.strip_prefix(work).unwrap_or(path);
    format!("{OWN_WORK}/{}", below.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(externals: bool) -> Pod {
        let mut mounts = json!([
            {"name": "work", "mountPath": "/__hook", "subPath": ".arc-hook/n/hook", "readOnly": true},
        ]);
        if externals {
            let programs =
                json!({"name": "work", "mountPath": "/__e", "subPath": ".arc-hook/n/externals"});
            mounts.as_array_mut().unwrap().push(programs);
        }
        serde_json::from_value(json!({
            "metadata": {"name": "r-workflow", "labels": {"runner-pod": "r", "more": "x"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "r", "uid": "u"}]},
            "spec": {
                "nodeName": "node-1", "serviceAccountName": "builder",
                "securityContext": {"fsGroup": 2000, "runAsUser": 5, "sysctls": [{"name": "a", "value": "b"}]},
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In",
                        "values": ["node-1"]}]}]}}},
                "tolerations": [{"key": "ci", "operator": "Exists"}],
                "imagePullSecrets": [{"name": "of-the-runner"}, {"name": "r-secret-0a1b2c3d"}],
                "containers": [{"name": "job", "image": "gcc:12", "volumeMounts": mounts,
                    "securityContext": {"privileged": true}}],
            },
        }))
        .unwrap()
    }

    fn copy<'a>(job: &'a Pod, gone: &'a [String]) -> Copy<'a> {
        Copy {
            job,
            id: "0a1b2c3d",
            user: (1001, 1001),
            runner: (1001, 121),
            image: "runner:1",
            program: "/home/runner/arc-hook/arc-hook",
            externals: "/home/runner/externals",
            workspace: "r/r",
            limit: 1 << 30,
            class: Some("fast"),
            gone,
        }
    }

    #[test]
    fn claim_and_pod_are_the_runners_own_and_have_nothing_that_a_job_has() {
        let (job, gone) = (job(true), ["r-secret-0a1b2c3d".to_owned()]);
        let copy = copy(&job, &gone);
        insta::assert_yaml_snapshot!("the_claim_of_a_copy", copy.claim());
        let pod = copy.pod("r");
        assert!(!pod.to_string().contains("r-secret"), "{pod}");
        insta::assert_yaml_snapshot!("the_pod_of_a_copy", pod);
    }

    #[test]
    fn a_job_that_has_the_runners_programs_from_an_image_needs_no_room_for_them() {
        let (with, without) = (job(true), job(false));
        let size = |job| copy(job, &[]).claim()["spec"]["resources"]["requests"]["storage"].clone();
        assert_eq!(
            (size(&with), size(&without)),
            (json!("3264Mi"), json!("1216Mi"))
        );
        assert!(
            !copy(&without, &[])
                .pod("r")
                .to_string()
                .contains("--externals")
        );
    }

    #[test]
    fn what_a_root_user_owns_is_copied_by_root_without_capabilities() {
        let job = job(false);
        let root = Copy {
            user: (0, 0),
            ..copy(&job, &[])
        };
        let pod = root.pod("r");
        let security = &pod["spec"]["containers"][0]["securityContext"];
        assert_eq!(
            (&security["runAsUser"], &security["runAsNonRoot"]),
            (&json!(0), &json!(false))
        );
        assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(
            pod["spec"]["securityContext"]["supplementalGroups"],
            json!([121])
        );
    }

    fn shared(prefix: &str) -> Value {
        let mount = |at: &str, of: &str| json!({"name": "work", "mountPath": at, "subPath": format!("{prefix}{of}")});
        json!({
            "containers": [{"name": "job", "volumeMounts": [
                mount("/__hook", ".arc-hook/n/hook"), mount("/__hook/spool", ".arc-hook/n/spool"),
                {"name": "arc-hook-w", "mountPath": "/__w"},
                mount("/__w/r", ".arc-hook/n/runner_workspace"), mount("/__w/r/r", "r/r"),
                mount("/__w/_actions", "_actions"), mount("/__w/_tool", "_tool"), mount("/__t", "_tool"),
                mount("/__w/_temp", ".arc-hook/n/temp"),
                mount("/__w/_temp/_runner_file_commands", ".arc-hook/n/file_commands"),
                mount("/__e", ".arc-hook/n/externals"), mount("/github/home", ".arc-hook/n/home"),
                mount("/github/workflow", ".arc-hook/n/workflow"),
                mount("/github/file_commands", ".arc-hook/n/file_commands"),
                mount("/github/runner_temp", ".arc-hook/n/temp"),
                mount("/data", "r/r/data"), {"name": "conan-home", "mountPath": "/CONAN_HOME"}]}],
            "initContainers": [{"name": "arc-hook-passwd", "volumeMounts": [
                mount("/__hook", ".arc-hook/n/hook")]}],
            "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": "r-work"}}],
        })
    }

    #[test]
    fn a_pod_sees_the_copy_as_it_saw_the_volume_that_it_shared() {
        let mut spec = shared("");
        lay_over(&mut spec);
        let text: Vec<String> = spec["containers"][0]["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| format!("{} {} {}", one["mountPath"], one["name"], one["subPath"]))
            .collect();
        insta::assert_snapshot!(text.join("\n"));
        assert_eq!(
            spec["initContainers"][0]["volumeMounts"][0]["subPath"],
            "hook"
        );
        let mut below = shared("some/where/");
        lay_over(&mut below);
        assert_eq!(below["containers"], spec["containers"]);
    }

    #[test]
    fn a_pod_with_a_volume_of_its_own_sees_the_copy_in_its_place() {
        let mut spec = json!({"containers": [{"name": "job", "volumeMounts": [
            {"name": "work", "mountPath": "/__hook", "subPath": "hook"},
            {"name": "work", "mountPath": "/__w", "subPath": "w"}]}],
            "volumes": [{"name": "work", "emptyDir": {}}]});
        let before = spec.clone();
        lay_over(&mut spec);
        assert_eq!(spec, before);
    }
}
