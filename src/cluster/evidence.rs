//! What there is to know of a pod beside the pod itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;

use super::{Cluster, Known};
use crate::explain::Evidence;

impl Cluster {
    /// What the Role lets us know beside the pod itself. Never fails: it only ever adds to a
    /// message.
    pub async fn evidence(&self, pod: &Pod) -> Evidence {
        let quick = self.patient(Duration::from_secs(3));
        let mut events = Vec::new();
        for subject in subjects(pod) {
            let parameters =
                ListParams::default().fields(&format!("involvedObject.name={subject}"));
            let api = quick.api::<Event>();
            let act = quick.act("list", Event::RESOURCE, &subject);
            match quick.attempt(act, || api.list(&parameters)).await {
                Ok(list) => events.extend(list.items),
                Err(error) if error.is_forbidden() => return Evidence::Withheld,
                Err(_) => return Evidence::Unknown,
            }
        }
        // Runners have one job after the other, whose pods and claims bear the same names.
        let born = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        events.retain(|event| match event.involved_object.kind.as_deref() {
            Some("Pod") => event.involved_object.uid == pod.metadata.uid,
            _ => time_of(event) >= born,
        });
        events.sort_by_key(time_of);
        Evidence::Events(events)
    }
}

/// When an event was seen last.
fn time_of(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    last.or_else(|| event.event_time.as_ref().map(|time| time.0))
}

/// The pod and its claims, by name: events are found by these.
fn subjects(pod: &Pod) -> Vec<String> {
    let Some(name) = pod.metadata.name.clone() else {
        return Vec::new();
    };
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let claims = volumes.iter().filter_map(|volume| {
        let claim = volume.persistent_volume_claim.as_ref();
        claim.map(|claim| claim.claim_name.clone()).or_else(|| {
            volume
                .ephemeral
                .as_ref()
                .map(|_| format!("{name}-{}", volume.name))
        })
    });
    let mut subjects: Vec<_> = claims.collect();
    subjects.insert(0, name);
    subjects.dedup();
    subjects
}
