//! What only events tell: volumes, claims, the network.

use k8s_openapi::api::core::v1::Event;

use super::{Evidence, Explanation, Judgement, LONG_GRACE, SHORT_GRACE, quote};

/// The last complaint among the events, judged. `None` when there is none.
pub(super) fn judge(evidence: &Evidence) -> Option<Judgement> {
    let Evidence::Events(events) = evidence else {
        return None;
    };
    events.iter().rev().find_map(one)
}

fn one(event: &Event) -> Option<Judgement> {
    let message = event.message.as_deref().unwrap_or_default();
    let name = event.involved_object.name.as_deref().unwrap_or_default();
    match event.reason.as_deref()? {
        "ProvisioningFailed" => Some(claim(name, message)),
        "FailedBinding" => Some(binding(name, message)),
        "FailedMount" | "FailedMapVolume" => Some(mount(message)),
        "FailedAttachVolume" => Some(Judgement::Waiting(Some(Explanation::new(
            "Volume cannot be attached",
            format!(
                "a volume cannot be attached to the node: {}",
                quote(message)
            ),
            "see that no other node uses a `ReadWriteOnce` volume of the job, and the storage \
             driver's log",
        )))),
        "FailedCreatePodSandBox" => Some(Judgement::Waiting(Some(Explanation::new(
            "Pod sandbox",
            format!("the node cannot set the pod up: {}", quote(message)),
            "look at the network plug-in and the container runtime of that node",
        )))),
        "NetworkNotReady" => Some(Judgement::Waiting(Some(Explanation::new(
            "Node's network",
            format!("the node's network is not ready: {}", quote(message)),
            "look at the network plug-in of that node",
        )))),
        _ => None,
    }
}

fn claim(name: &str, message: &str) -> Judgement {
    let quoted = quote(message);
    if message.contains("DataSource") && message.contains("not found") {
        return Judgement::Failing(
            Explanation::new(
                "Parent missing",
                format!("claim `{name}` is to be cloned from one that does not exist: {quoted}"),
                "create the parent PersistentVolumeClaim in this namespace, or correct \
                 `dataSource` in the hook template",
            ),
            SHORT_GRACE,
        );
    }
    if message.contains("size is not matching") || message.contains("requested volume size") {
        return Judgement::Failing(
            Explanation::new(
                "Clone of another size",
                format!("claim `{name}` asks for another size than its parent has: {quoted}"),
                "give the volume in the hook template exactly the parent's size",
            ),
            SHORT_GRACE,
        );
    }
    if message.contains("storageclass") && message.contains("not found") {
        return Judgement::Failing(
            Explanation::new(
                "Storage class missing",
                format!("claim `{name}` names a storage class that does not exist: {quoted}"),
                "create the StorageClass, or correct `storageClassName` in the hook template",
            ),
            SHORT_GRACE,
        );
    }
    // Provisioners retry, and a pool in trouble may recover.
    Judgement::Failing(
        Explanation::new(
            "Volume cannot be provisioned",
            format!("claim `{name}` cannot be provisioned: {quoted}"),
            "look at the storage driver's log and the room in its pool",
        ),
        LONG_GRACE,
    )
}

fn binding(name: &str, message: &str) -> Judgement {
    let explanation = Explanation::new(
        "Claim not bound",
        format!("claim `{name}` is not bound: {}", quote(message)),
        "name a storage class that provisions volumes, or make a volume for the claim",
    );
    if message.contains("no storage class is set") {
        Judgement::Failing(explanation, SHORT_GRACE)
    } else {
        Judgement::Waiting(Some(explanation))
    }
}

fn mount(message: &str) -> Judgement {
    let quoted = quote(message);
    if (message.contains("configmap \"") || message.contains("secret \""))
        && message.contains("not found")
    {
        return Judgement::Failing(
            Explanation::new(
                "Volume's source missing",
                format!("a volume of the pod has no source: {quoted}"),
                "create the named object, or correct the volume in the hook template",
            ),
            SHORT_GRACE,
        );
    }
    if message.contains("already mounted") {
        return Judgement::Waiting(Some(Explanation::new(
            "Volume in use",
            format!("another pod has a volume that only one pod may mount: {quoted}"),
            "see which pod uses that claim; give each job a claim of its own, or the class \
             `shared: \"yes\"`",
        )));
    }
    Judgement::Waiting(Some(Explanation::new(
        "Volume cannot be mounted",
        format!("a volume cannot be mounted: {quoted}"),
        "look at the storage driver's log on that node",
    )))
}
