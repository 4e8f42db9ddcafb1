//! What `options:` asks for, put into the pod as far as the platform engineer allows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ExecAction, Probe, ResourceRequirements, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use super::arguments;
use super::error::SpecError;
use super::names;
use super::options::{Health, Options};
use super::plan::Inputs;
use super::quantity;
use super::volumes;

/// The pod as it is given: what a container got besides its own fields.
#[derive(Debug, Default)]
pub struct Granted {
    /// Volumes for `--tmpfs` and `--shm-size`.
    pub volumes: Vec<Volume>,
    /// What the log must say.
    pub warnings: Vec<String>,
}

/// One container that options apply to.
#[derive(Debug, Clone, Copy)]
pub struct Grantee<'a> {
    /// Name of the container.
    pub name: &'a str,
    /// Names of the template's containers that are laid over it.
    pub extensions: &'a [String],
    /// What to call it in messages.
    pub told: &'a str,
}

impl Grantee<'_> {
    /// Puts resources, memory volumes and the pull policy into the container.
    pub fn grant(
        &self,
        inputs: &Inputs<'_>,
        options: &Options,
        container: &mut Container,
    ) -> Result<Granted, SpecError> {
        let mut granted = Granted::default();
        for option in &options.without_effect {
            granted
                .warnings
                .push(format!("{}: `{option}` has no effect in a pod", self.told));
        }
        self.resources(inputs, options, container, &mut granted);
        if let Some(policy) = options.pull_policy {
            container.image_pull_policy = Some(policy.to_owned());
        }
        self.memory_volumes(inputs, options, container, &mut granted)?;
        Ok(granted)
    }

    fn resources(
        &self,
        inputs: &Inputs<'_>,
        options: &Options,
        container: &mut Container,
        granted: &mut Granted,
    ) {
        let settings = inputs.template.settings();
        let cpu = options.cpu.map(|cpu| {
            self.cut(
                "--cpus",
                cpu,
                settings.max_cpu,
                quantity::cpu_quantity,
                granted,
            )
        });
        let memory = options.memory.map(|memory| {
            let show = quantity::memory_quantity;
            self.cut("--memory", memory, settings.max_memory, show, granted)
        });
        let mut amounts = BTreeMap::new();
        for (resource, option, amount) in [("cpu", "--cpus", cpu), ("memory", "--memory", memory)] {
            let Some(amount) = amount else {
                continue;
            };
            if self.template_sets(inputs, resource) {
                granted.warnings.push(format!(
                    "{}: `{option}` is left aside: the hook template sets `{resource}`",
                    self.told
                ));
                continue;
            }
            amounts.insert(resource.to_owned(), Quantity(amount));
        }
        if !amounts.is_empty() {
            container.resources = Some(ResourceRequirements {
                limits: Some(amounts.clone()),
                requests: Some(amounts),
                ..Default::default()
            });
        }
    }

    /// Cuts an amount to what the annotation allows.
    fn cut(
        &self,
        option: &str,
        wanted: i64,
        most: Option<i64>,
        show: fn(i64) -> String,
        granted: &mut Granted,
    ) -> String {
        let Some(most) = most.filter(|most| wanted > *most) else {
            return show(wanted);
        };
        granted.warnings.push(format!(
            "{}: `{option}` asks for {} and gets {}, the most that the hook template allows",
            self.told,
            show(wanted),
            show(most)
        ));
        show(most)
    }

    /// Whether the template itself sets a resource of this container. A request of one origin and a
    /// limit of another could contradict each other.
    fn template_sets(&self, inputs: &Inputs<'_>, resource: &str) -> bool {
        inputs
            .template
            .containers("containers")
            .filter(|(name, _)| {
                name.strip_prefix('$')
                    .is_some_and(|name| self.extensions.iter().any(|one| one == name))
            })
            .any(|(_, container)| {
                ["limits", "requests"].iter().any(|kind| {
                    container
                        .get("resources")
                        .and_then(|resources| resources.get(kind)?.get(resource))
                        .is_some_and(|amount| !amount.is_null())
                })
            })
    }

    fn memory_volumes(
        &self,
        inputs: &Inputs<'_>,
        options: &Options,
        container: &mut Container,
        granted: &mut Granted,
    ) -> Result<(), SpecError> {
        let most = inputs.template.settings().max_memory;
        let show = quantity::memory_quantity;
        let mut wanted: Vec<(&str, String, Option<i64>, bool)> = Vec::new();
        if let Some(size) = options.shm_size {
            wanted.push(("--shm-size", "/dev/shm".to_owned(), Some(size), false));
        }
        for tmpfs in &options.tmpfs {
            // Without a size it would take what the node has.
            let size = tmpfs.size.or(most);
            wanted.push(("--tmpfs", tmpfs.path.clone(), size, tmpfs.read_only));
        }
        for (option, path, size, read_only) in wanted {
            let mounts = container.volume_mounts.get_or_insert_default();
            volumes::check_target(&path, mounts, &[]).map_err(|reason| SpecError::Option {
                container: self.told.to_owned(),
                option: format!("{option}={path}"),
                reason: reason.to_owned(),
            })?;
            let name = format!(
                "memory-{}",
                names::derived(self.name, &format!("{option} {path}"))
            );
            mounts.push(VolumeMount {
                name: name.clone(),
                mount_path: path,
                read_only: read_only.then_some(true),
                ..Default::default()
            });
            let size = size.map(|size| self.cut(option, size, most, show, granted));
            granted.volumes.push(Volume {
                name,
                empty_dir: Some(EmptyDirVolumeSource {
                    medium: Some("Memory".to_owned()),
                    size_limit: size.map(Quantity),
                    ..Default::default()
                }),
                ..Default::default()
            });
        }
        Ok(())
    }
}

/// The probes of a health check.
///
/// Readiness follows Docker's settings. Until the first success a startup probe asks each second
/// instead, since the first step waits for it; Kubernetes ends the container when that does not
/// come in the time that Docker would give it.
#[must_use]
pub fn probes(health: &Health) -> (Probe, Probe) {
    let seconds = |time: std::time::Duration| {
        i32::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(i32::MAX)
    };
    let readiness = Probe {
        exec: Some(ExecAction {
            command: Some(arguments::literal(vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                health.command.clone(),
            ])),
        }),
        period_seconds: Some(seconds(health.interval).max(1)),
        timeout_seconds: Some(seconds(health.timeout).max(1)),
        failure_threshold: i32::try_from(health.retries).ok(),
        ..Default::default()
    };
    let period = health.start_interval.map_or(1, seconds).max(1);
    let startup = Probe {
        period_seconds: Some(period),
        failure_threshold: Some(seconds(health.deadline()) / period + 1),
        ..readiness.clone()
    };
    (startup, readiness)
}

/// Labels of the workflow, as annotations of the pod: labels of a pod decide what policies and
/// services select it, which is not for a workflow to say.
pub fn annotate<'a>(pod: &mut Value, labels: impl IntoIterator<Item = &'a (String, String)>) {
    const PREFIX: &str = "label.arc-hook/";
    for (name, value) in labels {
        let name: String = name
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '.'
                }
            })
            .collect();
        let name = name.trim_matches(['-', '_', '.']);
        if name.is_empty() || name.len() > 63 {
            continue;
        }
        pod["metadata"]["annotations"][format!("{PREFIX}{name}")] = Value::from(value.as_str());
    }
}
