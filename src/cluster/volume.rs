//! What a volume says of its place: it belongs to no namespace, so a Role cannot grant to read it.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;

use super::{Cluster, ClusterError};

impl Cluster {
    /// The one node that a volume can be mounted on; `None` when there are several, or none is
    /// named, or the caller may not know.
    pub async fn node_of_volume(&self, name: &str) -> Result<Option<String>, ClusterError> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let act = self.act("get", "persistentvolumes", name);
        match self.attempt(act, || api.get_opt(name)).await {
            Ok(found) => Ok(found.as_ref().and_then(only_node).map(str::to_owned)),
            Err(error) if error.is_forbidden() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The only value of the only label that the volume asks of its node: drivers of local storage
/// name the node so, each under a key of its own.
fn only_node(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else {
        return None;
    };
    match term.match_expressions.as_deref()? {
        [one] if one.operator == "In" => match one.values.as_deref()? {
            [node] => Some(node),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tied_to(expressions: &Value) -> Option<String> {
        let volume: PersistentVolume = serde_json::from_value(json!({"spec": {"nodeAffinity": {
            "required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}}}))
        .unwrap();
        only_node(&volume).map(str::to_owned)
    }

    #[test]
    fn a_volume_on_one_node_names_it() {
        let key = "openebs.io/nodeid";
        let one = json!([{"key": key, "operator": "In", "values": ["node-1"]}]);
        assert_eq!(tied_to(&one).as_deref(), Some("node-1"));
    }

    #[test]
    fn a_volume_of_a_zone_names_no_node() {
        let zone = json!([{"key": "zone", "operator": "In", "values": ["a", "b"]}]);
        assert_eq!(tied_to(&zone), None);
        let two = json!([{"key": "zone", "operator": "In", "values": ["a"]},
                         {"key": "kind", "operator": "In", "values": ["b"]}]);
        assert_eq!(tied_to(&two), None);
        assert_eq!(tied_to(&json!([])), None);
    }
}
