//! The look at a sealed clone before it becomes a parent.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::{CLAIMS, Caching, MAIN, TEMPLATE, said};
use crate::fake_api::Kubelet;
use crate::runner::{Runner, job, service};

/// A cache whose clones are looked at before they become parents.
fn verifying() -> Caching {
    let template = TEMPLATE.replace("keep: 1", "keep: 1\n      verify: conan cache check");
    Caching::of(Runner::new(), &template)
}

/// Ends a job; the pod that verifies its clone comes to this.
fn ending(caching: &Caching, status: Value) -> crate::runner::Outcome {
    caching.api().state().kubelet = Kubelet::Status(status);
    caching.cleanup(&[])
}

fn succeeded() -> Value {
    json!({"phase": "Succeeded"})
}

/// What was created of a kind, in that order.
fn created(caching: &Caching, kind: &str) -> Vec<Value> {
    let state = caching.api().state();
    let created = state.created.iter().filter(|one| one["kind"] == kind);
    created.cloned().collect()
}

#[test]
fn a_clone_becomes_a_parent_only_when_it_passes_and_is_sealed_by_then() {
    let caching = verifying();
    caching.prepare(&[]);
    let failed = json!({"phase": "Failed", "containerStatuses": [
        {"name": "verify", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
         "state": {"terminated": {"exitCode": 3}}}]});
    said(
        &ending(&caching, failed),
        "not promoted: `conan cache check` on it: it exits with 3",
    );
    assert!(caching.line(MAIN).is_none());
    assert!(caching.claims().is_empty(), "{:?}", caching.claims());

    caching.api().state().kubelet = Kubelet::Run;
    caching.prepare(&[]);
    let claim = caching.claims().pop_first().unwrap();
    // It ends by a fault behind the verification, so nothing is swapped yet.
    caching.api().state().kubelet = Kubelet::Status(succeeded());
    let died = caching.cleanup(&[("ARC_HOOK_FAULT", "verified")]);
    assert_eq!(died.code, -9, "{died:?}");
    assert!(caching.line(MAIN).is_none());
    let sealed = caching.api().object(CLAIMS, &claim).unwrap();
    assert_eq!(sealed["metadata"]["labels"]["arc-hook/cache"], "generation");
    let pods = created(&caching, "Pod");
    let looks = &pods.last().unwrap()["spec"];
    assert_eq!(
        looks["volumes"],
        json!([{"name": "cache", "persistentVolumeClaim": {"claimName": claim}}])
    );
    assert_eq!(looks["containers"][0]["volumeMounts"][0]["readOnly"], true);
    assert_eq!(looks["automountServiceAccountToken"], false);
    assert!(!looks.to_string().contains("s3cret"), "{looks}");
}

/// Whether a selector selects what has these labels (Kubernetes, `LabelSelectorAsSelector`).
fn selects(selector: &LabelSelector, labels: &Value) -> bool {
    assert!(
        selector.match_expressions.is_none(),
        "expressions are not played here"
    );
    let wanted = selector.match_labels.iter().flatten();
    wanted.into_iter().all(|(key, value)| labels[key] == *value)
}

#[test]
fn the_shipped_network_policy_takes_everything_from_the_pod_that_verifies_and_from_no_other() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/hook-templates/verify-network.yaml"
    );
    let policy: NetworkPolicy =
        serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let policy = policy.spec.unwrap();
    let types = policy.policy_types.unwrap();
    assert_eq!(types, ["Ingress", "Egress"]);
    assert!(policy.ingress.is_none() && policy.egress.is_none());

    let caching = verifying();
    let request = job(&[service("redis:7")]);
    assert_eq!(caching.call("prepare_job", &request, &[]).code, 0);
    let action = json!({
        "image": "alpine", "entryPoint": "true", "entryPointArgs": [],
        "environmentVariables": {}, "workingDirectory": caching.runner.work()
    });
    assert_eq!(caching.call("run_container_step", &action, &[]).code, 0);
    said(&ending(&caching, succeeded()), "promoted to octo/demo/main");
    let selector = policy.pod_selector.unwrap_or_default();
    let selected: Vec<(String, bool)> = created(&caching, "Pod")
        .iter()
        .map(|pod| {
            let container = pod["spec"]["containers"][0]["name"].as_str().unwrap();
            let selected = selects(&selector, &pod["metadata"]["labels"]);
            (container.to_owned(), selected)
        })
        .collect();
    let expected = [("job", false), ("job", false), ("verify", true)];
    assert_eq!(
        selected,
        expected.map(|(name, selected)| (name.to_owned(), selected))
    );
}
