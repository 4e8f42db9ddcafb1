//! What the pods of jobs and of container actions have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvVar, LocalObjectReference, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PreferredSchedulingTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use super::error::{SpecError, TemplateError};
use super::merge::{self, Merged, Target};
use super::names::{self, JOB_CONTAINER};
use super::plan::Inputs;
use super::user;
use super::volumes::{HOOK, SPOOL};
use crate::config;

/// The init container that writes the user's entry for `/etc/passwd`.
pub const PASSWD_CONTAINER: &str = "arc-hook-passwd";

/// Annotation by which a pod is known as made for this nonce.
pub const NONCE_ANNOTATION: &str = "arc-hook/nonce";

/// Label and owner of everything that is created. Without a known runner pod there is no owner,
/// and the label alone tells what belongs to it.
#[must_use]
pub fn metadata(inputs: &Inputs<'_>) -> ObjectMeta {
    let owner = inputs
        .runner
        .filter(|runner| !runner.uid.is_empty())
        .map(|runner| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: runner.name.clone(),
            uid: runner.uid.clone(),
            // Blocking needs a right on the runner pod's finalizers that ARC's Role does not give.
            block_owner_deletion: None,
            controller: None,
        });
    ObjectMeta {
        labels: Some(BTreeMap::from([(
            names::RUNNER_POD_LABEL.to_owned(),
            names::label(&inputs.config.pod_name),
        )])),
        owner_references: owner.map(|owner| vec![owner]),
        ..Default::default()
    }
}

/// A pod of ours around its containers, before the template is laid over it.
#[must_use]
pub fn pod(inputs: &Inputs<'_>, name: &str, spec: PodSpec) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([(
                NONCE_ANNOTATION.to_owned(),
                inputs.nonce.to_owned(),
            )])),
            ..metadata(inputs)
        },
        spec: Some(PodSpec {
            affinity: affinity(inputs),
            // A job has no business with the API server, and needs no list of the namespace's
            // services in its environment.
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            restart_policy: Some("Never".to_owned()),
            ..spec
        }),
        status: None,
    }
}

/// Ties the pod to the runner's node through the scheduler, never by `nodeName`, which would leave
/// claims that wait for their first consumer unbound.
fn affinity(inputs: &Inputs<'_>) -> Option<Affinity> {
    let node = inputs.runner?.node.clone()?;
    let term = NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: "kubernetes.io/hostname".to_owned(),
            operator: "In".to_owned(),
            values: Some(vec![node]),
        }]),
        ..Default::default()
    };
    let node_affinity = match inputs.config.affinity {
        config::Affinity::Required => NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![term],
            }),
            ..Default::default()
        },
        config::Affinity::Preferred => NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                PreferredSchedulingTerm {
                    preference: term,
                    weight: 100,
                },
            ]),
            ..Default::default()
        },
        config::Affinity::None => return None,
    };
    Some(Affinity {
        node_affinity: Some(node_affinity),
        ..Default::default()
    })
}

/// Pull secrets: the runner pod's, then those of the request.
#[must_use]
pub fn pull_secrets(
    inputs: &Inputs<'_>,
    of_images: impl IntoIterator<Item = String>,
) -> Option<Vec<LocalObjectReference>> {
    let inherited = inputs
        .runner
        .map(|runner| runner.pull_secrets.clone())
        .unwrap_or_default();
    let all = super::secrets::distinct(inherited.into_iter().chain(of_images));
    (!all.is_empty()).then(|| {
        all.into_iter()
            .map(|name| LocalObjectReference { name })
            .collect()
    })
}

/// A container with its environment, to which is added what Docker mode sets in every one
/// (actions/runner, `DockerCommandManager.cs`): `CI` unless the container has its own.
#[must_use]
pub fn container(name: &str, mut env: Vec<EnvVar>) -> Container {
    env.retain(|variable| variable.name != "GITHUB_ACTIONS");
    let has_ci = env.iter().any(|variable| variable.name == "CI");
    for added in ["GITHUB_ACTIONS", "CI"] {
        if added == "CI" && has_ci {
            continue;
        }
        env.push(EnvVar {
            name: added.to_owned(),
            value: Some("true".to_owned()),
            value_from: None,
        });
    }
    Container {
        name: name.to_owned(),
        env: Some(env),
        // Where a container could not write why it ended, its last lines tell.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Default::default()
    }
}

/// The container `job` under the supervisor. Its environment is in the spool, not here.
#[must_use]
pub fn supervised(nonce: &str) -> Container {
    Container {
        command: Some(vec![
            format!("{HOOK}/arc-hook"),
            "supervise".to_owned(),
            SPOOL.to_owned(),
            "--nonce".to_owned(),
            nonce.to_owned(),
        ]),
        ..container(JOB_CONTAINER, Vec::new())
    }
}

/// Lays the template over the pod.
pub fn merge(inputs: &Inputs<'_>, pod: &Pod, targets: &[Target]) -> Result<Merged, SpecError> {
    let pod = serde_json::to_value(pod).map_err(|error| TemplateError::Shape {
        at: None,
        what: format!("the pod cannot be written as JSON: {error}"),
        remedy: "report this as a defect of arc-hook",
    })?;
    let mut merged = merge::merge(pod, inputs.template, targets);
    for name in &inputs.template.settings().unknown {
        merged.warnings.push(format!(
            "template: annotation `{name}` is unknown to this version and has no effect"
        ));
    }
    Ok(merged)
}

/// The last touches and checks, after the template.
pub fn finish(
    inputs: &Inputs<'_>,
    pod: &mut Value,
    uid: Option<u32>,
    gid: Option<u32>,
    fs_group: Option<u32>,
) -> Result<(), SpecError> {
    user::apply(pod, uid, gid, fs_group);
    if inputs.template.settings().restricted {
        user::restrict(pod);
    }
    user::check(pod)
}
