//! The template laid over a pod of ours.
//!
//! The rules of the official hooks (actions/runner-container-hooks, ADR 0134), made right where
//! theirs lose things: lists are merged by what names their elements instead of being appended or
//! replaced; maps are merged by key instead of being replaced; what a job cannot do without stays.
//!
//! | part | rule |
//! |---|---|
//! | labels, annotations | the template's win, but for ours |
//! | `containers`, `initContainers` | `$name` is laid over that container, others are added |
//! | volumes, pull secrets, env, mounts, ports | by name, claim to the template; ours stay |
//! | a volume of ours that is an `emptyDir` | the template may bound it, or have it in memory |
//! | probes, lifecycle, and other alternatives | the template's replaces ours whole |
//! | `command` and `args` of `$job` | handed out, to be run beside the supervisor |
//! | `image` and `name` of a `$name` container | stay, with a warning, as upstream |
//! | anything else | maps by key, else the template's |

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::affinity;
use super::names::{JOB_CONTAINER, RUNNER_POD_LABEL};
use super::template::Template;

/// Lists of a pod's spec that are merged by a key.
pub(super) const NAMED_LISTS: [(&str, &str); 5] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("imagePullSecrets", "name"),
    ("hostAliases", "ip"),
];

/// Lists of a container that are merged by a key.
pub(super) const CONTAINER_LISTS: [(&str, &str); 4] = [
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("ports", "containerPort"),
];

/// Lists whose elements have no name: the template's are added to ours.
const APPENDED_LISTS: [&str; 3] = ["envFrom", "tolerations", "topologySpreadConstraints"];

/// Maps that hold one of several alternatives, so that two of them together mean nothing.
const WHOLE: [&str; 8] = [
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "seccompProfile",
    "appArmorProfile",
    "seLinuxOptions",
    "capabilities",
];

/// One container of ours and the template containers that are laid over it, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Name of the container.
    pub container: String,
    /// Names after the `$`.
    pub extensions: Vec<String>,
}

/// A pod with the template in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The pod.
    pub pod: Value,
    /// `command` and `args` of `$job`.
    pub command: Vec<String>,
    /// `args` of `$job`.
    pub arguments: Vec<String>,
    /// What the log must say.
    pub warnings: Vec<String>,
}

/// Lays the template over a pod.
#[must_use]
pub fn merge(pod: Value, template: &Template, targets: &[Target]) -> Merged {
    let mut merged = Merged {
        pod,
        command: Vec::new(),
        arguments: Vec::new(),
        warnings: Vec::new(),
    };
    merged.metadata(template);
    let Some(spec) = template.spec() else {
        return merged;
    };
    let mut ours = match merged.pod.get_mut("spec").map(Value::take) {
        Some(Value::Object(ours)) => ours,
        _ => Map::new(),
    };
    for (key, theirs) in spec {
        if theirs.is_null() {
            continue;
        }
        merged.field(&mut ours, key, theirs, targets);
    }
    merged.pod["spec"] = Value::Object(ours);
    merged
}

impl Merged {
    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    fn metadata(&mut self, template: &Template) {
        for key in ["labels", "annotations"] {
            for (name, value) in template.metadata(key) {
                let ours = self.pod["metadata"][key].get(name);
                if name == RUNNER_POD_LABEL || (ours.is_some() && name.starts_with("arc-hook/")) {
                    self.warn(format!(
                        "template: {key} `{name}` is set by this hook and stays; remove it there"
                    ));
                    continue;
                }
                self.pod["metadata"][key][name] = json!(value);
            }
        }
    }

    fn field(
        &mut self,
        ours: &mut Map<String, Value>,
        key: &str,
        theirs: &Value,
        targets: &[Target],
    ) {
        match key {
            "containers" | "initContainers" => self.containers(ours, key, theirs, targets),
            "volumes" => {
                let kept: BTreeSet<String> = names(ours.get("volumes"));
                let empty = [ours.get("volumes"), Some(theirs)].map(empty_dirs);
                let warnings = by_key(ours, key, "name", theirs, |name| {
                    // One that is empty at first may be bounded, or be in memory.
                    let is_empty = empty.iter().all(|names| names.contains(name));
                    (kept.contains(name) && !is_empty).then(|| {
                        format!(
                            "template: volume `{name}` is made by this hook and stays; \
                             give yours another name"
                        )
                    })
                });
                self.warnings.extend(warnings);
            }
            "imagePullSecrets" => {
                by_key(ours, key, "name", theirs, |_| None);
            }
            "hostAliases" => host_aliases(ours, theirs),
            "affinity" => {
                let affinity = ours.remove("affinity").unwrap_or(Value::Null);
                ours.insert(key.to_owned(), affinity::merge(affinity, theirs));
            }
            "restartPolicy" if theirs != "Never" => self.warn(
                "template: `restartPolicy` stays `Never`: a container that starts again has lost \
                 the steps it ran",
            ),
            "nodeName" => {
                self.warn(
                    "template: `nodeName` bypasses the scheduler, so that volumes which wait for \
                     their first consumer are never made; use `nodeSelector`",
                );
                ours.insert(key.to_owned(), theirs.clone());
            }
            _ => value(ours, key, theirs),
        }
    }

    fn containers(
        &mut self,
        ours: &mut Map<String, Value>,
        list: &str,
        theirs: &Value,
        targets: &[Target],
    ) {
        let mut containers = match ours.remove(list) {
            Some(Value::Array(containers)) => containers,
            _ => Vec::new(),
        };
        let extensions: Vec<&Map<String, Value>> = theirs
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_object)
            .collect();
        let mut matched = BTreeSet::new();
        for container in &mut containers {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            let own = vec![name.clone()];
            let wanted = targets
                .iter()
                .find(|target| target.container == name && list == "containers")
                .map_or(&own, |target| &target.extensions);
            for extension in wanted {
                for theirs in &extensions {
                    let is_it = theirs
                        .get("name")
                        .and_then(Value::as_str)
                        .and_then(|name| name.strip_prefix('$'))
                        == Some(extension);
                    if is_it {
                        matched.insert(extension.clone());
                        self.container(container, theirs, &name, extension);
                    }
                }
            }
        }
        let kept: BTreeSet<String> = containers
            .iter()
            .filter_map(|container| container["name"].as_str().map(str::to_owned))
            .collect();
        for theirs in extensions {
            let name = theirs
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if name.starts_with('$') {
                // A template serves many jobs: not each has the service that it speaks of.
                continue;
            }
            if kept.contains(name) {
                self.warn(format!(
                    "template: container `{name}` is made by this hook and stays; use `${name}` \
                     to change it, or give yours another name"
                ));
                continue;
            }
            containers.push(Value::Object(theirs.clone()));
        }
        if !containers.is_empty() {
            ours.insert(list.to_owned(), Value::Array(containers));
        }
    }

    fn container(
        &mut self,
        container: &mut Value,
        theirs: &Map<String, Value>,
        name: &str,
        extension: &str,
    ) {
        let Some(ours) = container.as_object_mut() else {
            return;
        };
        let is_job = name == JOB_CONTAINER;
        for (key, theirs) in theirs {
            if theirs.is_null() {
                continue;
            }
            match key.as_str() {
                "name" => {}
                "image" => self.warn(format!(
                    "template: `image` of `${extension}` is left aside; the workflow names the \
                     image of container `{name}`"
                )),
                "restartPolicy" | "restartPolicyRules" if is_job => self.warn(format!(
                    "template: `{key}` of `${extension}` is left aside: a job container that \
                     starts again has lost the steps it ran"
                )),
                "command" if is_job => self.command = strings(theirs),
                "args" if is_job => self.arguments = strings(theirs),
                "volumeMounts" => {
                    let kept: Vec<String> = if is_job {
                        mount_paths(ours)
                    } else {
                        Vec::new()
                    };
                    let theirs: Vec<Value> = theirs
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter(|mount| {
                            let path = mount["mountPath"].as_str().unwrap_or_default();
                            let lost = kept.iter().any(|ours| same_path(ours, path))
                                || (is_job && is_under_hook(path));
                            if lost {
                                self.warnings.push(format!(
                                    "template: the mount at `{path}` in `${extension}` is left \
                                     aside; this hook mounts its own there"
                                ));
                            }
                            !lost
                        })
                        .cloned()
                        .collect();
                    if !theirs.is_empty() {
                        by_key(ours, key, "mountPath", &Value::Array(theirs), |_| None);
                    }
                }
                "env" => {
                    by_key(ours, key, "name", theirs, |_| None);
                }
                "volumeDevices" => {
                    by_key(ours, key, "devicePath", theirs, |_| None);
                }
                "ports" => ports(ours, theirs),
                _ => value(ours, key, theirs),
            }
        }
    }
}

/// Merges one value: maps by key, lists appended or replaced, else the template's.
pub(super) fn value(ours: &mut Map<String, Value>, key: &str, theirs: &Value) {
    match (ours.get_mut(key), theirs) {
        (_, Value::Null) => {}
        (Some(Value::Object(ours)), Value::Object(theirs)) if !WHOLE.contains(&key) => {
            for (key, theirs) in theirs {
                value(ours, key, theirs);
            }
        }
        (Some(Value::Array(ours)), Value::Array(theirs)) if APPENDED_LISTS.contains(&key) => {
            ours.extend(theirs.iter().cloned());
        }
        _ => {
            ours.insert(key.to_owned(), theirs.clone());
        }
    }
}

/// Merges a list by a key of its elements: an element of the template takes the place of ours of
/// the same key, unless `keep` says, with its reason, that ours stays.
fn by_key(
    ours: &mut Map<String, Value>,
    list: &str,
    key: &str,
    theirs: &Value,
    keep: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut elements = match ours.remove(list) {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    };
    for theirs in theirs.as_array().into_iter().flatten() {
        let id = theirs[key].as_str().unwrap_or_default();
        let same = |ours: &Value| match ours[key].as_str() {
            Some(ours) if key == "mountPath" => same_path(ours, id),
            Some(ours) => ours == id,
            None => false,
        };
        match elements.iter_mut().find(|ours| same(ours)) {
            Some(ours) => match keep(id) {
                Some(warning) => warnings.push(warning),
                None => *ours = theirs.clone(),
            },
            None => elements.push(theirs.clone()),
        }
    }
    if !elements.is_empty() {
        ours.insert(list.to_owned(), Value::Array(elements));
    }
    warnings
}

/// Ports are the same when number and protocol are.
fn ports(ours: &mut Map<String, Value>, theirs: &Value) {
    let mut elements = match ours.remove("ports") {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    };
    let id = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        (port["containerPort"].clone(), protocol)
    };
    for theirs in theirs.as_array().into_iter().flatten() {
        match elements.iter_mut().find(|ours| id(ours) == id(theirs)) {
            Some(ours) => *ours = theirs.clone(),
            None => elements.push(theirs.clone()),
        }
    }
    if !elements.is_empty() {
        ours.insert("ports".to_owned(), Value::Array(elements));
    }
}

/// Names of one address are united: services of ours are at 127.0.0.1 already.
fn host_aliases(ours: &mut Map<String, Value>, theirs: &Value) {
    let mut aliases = match ours.remove("hostAliases") {
        Some(Value::Array(aliases)) => aliases,
        _ => Vec::new(),
    };
    for theirs in theirs.as_array().into_iter().flatten() {
        let Some(ours) = aliases.iter_mut().find(|ours| ours["ip"] == theirs["ip"]) else {
            aliases.push(theirs.clone());
            continue;
        };
        let mut hostnames = strings(&ours["hostnames"]);
        for name in strings(&theirs["hostnames"]) {
            if !hostnames.contains(&name) {
                hostnames.push(name);
            }
        }
        ours["hostnames"] = json!(hostnames);
    }
    if !aliases.is_empty() {
        ours.insert("hostAliases".to_owned(), Value::Array(aliases));
    }
}

fn names(list: Option<&Value>) -> BTreeSet<String> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|element| element["name"].as_str().map(str::to_owned))
        .collect()
}

/// Names of the volumes that are empty when a pod starts, and go with it.
fn empty_dirs(list: Option<&Value>) -> BTreeSet<String> {
    let volumes = list.and_then(Value::as_array).into_iter().flatten();
    let empty = volumes.filter(|volume| {
        let sources = volume.as_object().map_or(0, Map::len);
        // Its name and this.
        volume["emptyDir"].is_object() && sources == 2
    });
    names(Some(&empty.cloned().collect()))
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

fn mount_paths(container: &Map<String, Value>) -> Vec<String> {
    container
        .get("volumeMounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|mount| mount["mountPath"].as_str().map(str::to_owned))
        .collect()
}

/// True for `/a/b` and `/a//b/`.
pub(super) fn same_path(one: &str, other: &str) -> bool {
    Path::new(one)
        .components()
        .eq(Path::new(other).components())
}

/// The supervisor and its spool: nothing else may lie there.
fn is_under_hook(path: &str) -> bool {
    Path::new(path).starts_with(super::volumes::HOOK)
}
