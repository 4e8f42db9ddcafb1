//! The runners' namespace: what its `PodSecurity` level and its policies say.

use std::collections::BTreeSet;

use super::Check;
use super::facts::{Fact, Facts};
use crate::admin::rights::{self, Feature};
use crate::config::WorkVolume;
use crate::pod::Template;

/// By this label, with the value `true`, the bindings select namespaces.
const CONFINE: &str = "arc-hook/confine";
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    vec![level(facts), policy(facts)]
}

fn level(facts: &Facts) -> Check {
    const NAME: &str = "namespace/pod-security";
    let name = &facts.namespace_name;
    let namespace = match &facts.namespace {
        Fact::Known(namespace) => namespace,
        Fact::Absent => {
            return Check::fail(
                NAME,
                format!("namespace `{name}` does not exist"),
                "name the scale set's namespace with `--namespace`, or create it",
            )
            .change(format!(
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}"
            ));
        }
        Fact::Hidden(why) => {
            return Check::unknown(NAME, format!("the namespace cannot be read: {why}"));
        }
    };
    let labels = namespace.metadata.labels.as_ref();
    let enforced = labels
        .and_then(|labels| labels.get(ENFORCE))
        .map_or("privileged", String::as_str);
    let settings = facts.template().map(Template::settings);
    let restricted = settings.is_some_and(|settings| settings.restricted);
    let host_ports = settings.is_some_and(|settings| settings.host_ports);
    match enforced {
        "restricted" if !restricted => Check::fail(
            NAME,
            format!("namespace `{name}` enforces `restricted`, which refuses the job's pods"),
            "ask for restricted pods in the hook template",
        )
        .change("metadata:\n  annotations:\n    arc-hook/security: restricted"),
        "restricted" | "baseline" if host_ports => Check::fail(
            NAME,
            format!(
                "namespace `{name}` enforces `{enforced}`, which refuses the node's ports that \
                 `arc-hook/host-ports` asks for"
            ),
            "take the annotation out of the hook template: services are reachable without",
        )
        .change("metadata:\n  annotations:\n    arc-hook/host-ports: \"false\""),
        enforced => Check::pass(
            NAME,
            format!("namespace `{name}` enforces `{enforced}`, which admits the job's pods"),
        ),
    }
}

fn policy(facts: &Facts) -> Check {
    const NAME: &str = "namespace/admission-policy";
    let name = &facts.namespace_name;
    let in_force = match &facts.policies {
        Fact::Known(names) => names,
        Fact::Absent => &BTreeSet::new(),
        Fact::Hidden(why) => {
            return Check::unknown(
                NAME,
                format!("whether the admission policy is in force cannot be seen: {why}"),
            );
        }
    };
    let needed = needed(facts);
    let missing: Vec<&Policy> = needed
        .iter()
        .filter(|policy| !in_force.contains(policy.name))
        .copied()
        .collect();
    let apply = "kubectl apply -f hook-templates/admission-policy.yaml";
    if missing.len() == needed.len() || !is_labelled(facts) {
        return Check::warn(
            NAME,
            format!(
                "nothing confines what service accounts create in namespace `{name}`: who can \
                 create pods can become root on a node"
            ),
            format!("{apply} && kubectl label namespace {name} arc-hook/confine=true"),
        );
    }
    if missing.is_empty() {
        return Check::pass(
            NAME,
            format!(
                "all {} admission policies that jobs need confine the runner's account",
                needed.len()
            ),
        );
    }
    let told: Vec<String> = missing
        .iter()
        .map(|policy| format!("`{}`, so that it can {}", policy.name, policy.open))
        .collect();
    Check::warn(
        NAME,
        format!(
            "the runner's account is not confined by {}: a policy of that name, or a binding of it \
             with the action `Deny`, is missing",
            told.join("; nor by ")
        ),
        apply,
    )
}

/// A policy of hook-templates/admission-policy.yaml.
struct Policy {
    name: &'static str,
    /// What the runner's account can do without it.
    open: &'static str,
    /// Only with rights that these features ask for; ARC's own Role suffices for the others.
    of: &'static [Feature],
}

const POLICIES: [Policy; 7] = [
    Policy {
        name: "arc-hook-pods",
        open: "become root on a node by a pod that it creates",
        of: &[],
    },
    Policy {
        name: "arc-hook-secrets",
        open: "have Kubernetes fill Secrets with the tokens of other accounts",
        of: &[],
    },
    Policy {
        name: "arc-hook-changes",
        open: "change other runners' pods and claims",
        of: &[Feature::Caches, Feature::Retain],
    },
    Policy {
        name: "arc-hook-deletions",
        open: "delete other runners' pods and Secrets",
        of: &[],
    },
    Policy {
        name: "arc-hook-records",
        open: "clone other runners' volumes and write hook templates",
        of: &[Feature::Caches, Feature::Retain],
    },
    Policy {
        name: "arc-hook-programs",
        open: "run programs in other runners' pods",
        of: &[],
    },
    Policy {
        name: "arc-hook-kinds",
        open: "create Jobs, whose pods nothing confines",
        of: &[],
    },
];

fn needed(facts: &Facts) -> Vec<&'static Policy> {
    let templates: Vec<Template> = facts.template().cloned().into_iter().collect();
    let features = rights::features(&templates, WorkVolume::Auto);
    POLICIES
        .iter()
        .filter(|policy| {
            policy.of.is_empty() || policy.of.iter().any(|feature| features.contains(feature))
        })
        .collect()
}

/// Whether the namespace is one of those that the bindings select.
fn is_labelled(facts: &Facts) -> bool {
    let namespace = facts.namespace.known();
    let labels = namespace.and_then(|namespace| namespace.metadata.labels.as_ref());
    labels
        .and_then(|labels| labels.get(CONFINE))
        .map(String::as_str)
        == Some("true")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_policy_that_is_shipped_is_known() {
        let text = include_str!("../../../hook-templates/admission-policy.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        let shipped: Vec<&str> = objects
            .iter()
            .filter(|object| object["kind"] == "ValidatingAdmissionPolicy")
            .map(|object| object["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(POLICIES.map(|policy| policy.name).to_vec(), shipped);
    }
}
