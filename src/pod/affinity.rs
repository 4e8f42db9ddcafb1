//! Which node a pod may run on.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PreferredSchedulingTerm,
};
use serde_json::{Map, Value};

use super::merge;
use super::plan::Inputs;
use super::volumes::Sources;
use crate::config;

/// Ties the pod to the runner's node through the scheduler, never by `nodeName`, which would leave
/// claims that wait for their first consumer unbound.
pub fn of(inputs: &Inputs<'_>, sources: &Sources) -> Option<Affinity> {
    // A pod with a volume of its own can run anywhere.
    if sources.copied() {
        return None;
    }
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

/// Unites affinities so that both hold. Required node terms are alternatives, so ours, of which
/// there is at most one, goes into each of the template's.
pub fn merge(ours: Value, theirs: &Value) -> Value {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = ours["nodeAffinity"].clone();
    let mut result = match ours {
        Value::Object(ours) => ours,
        _ => Map::new(),
    };
    for (key, theirs) in theirs.as_object().into_iter().flatten() {
        merge::value(&mut result, key, theirs);
    }
    let mut result = Value::Object(result);
    let their_node = &theirs["nodeAffinity"];
    if let (Some(ours), Some(theirs)) = (
        node[REQUIRED]["nodeSelectorTerms"][0]["matchExpressions"].as_array(),
        their_node[REQUIRED]["nodeSelectorTerms"].as_array(),
    ) {
        let terms: Vec<Value> = theirs
            .iter()
            .map(|term| {
                let mut term = term.clone();
                let mut expressions = ours.clone();
                expressions.extend(
                    term["matchExpressions"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default(),
                );
                term["matchExpressions"] = Value::Array(expressions);
                term
            })
            .collect();
        if !terms.is_empty() {
            result["nodeAffinity"][REQUIRED]["nodeSelectorTerms"] = Value::Array(terms);
        }
    }
    if let (Some(ours), Some(theirs)) =
        (node[PREFERRED].as_array(), their_node[PREFERRED].as_array())
    {
        let terms: Vec<Value> = ours.iter().chain(theirs).cloned().collect();
        result["nodeAffinity"][PREFERRED] = Value::Array(terms);
    }
    result
}
