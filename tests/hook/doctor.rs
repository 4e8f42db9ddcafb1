//! `arc-hook doctor`: what it asks, what it ends with, and that it changes nothing. What it finds is
//! tested on facts, in `src/admin/doctor/tests.rs`.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fake_api::{BINARY, Kind};
use crate::runner::Runner;

fn doctor(runner: &Runner, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("doctor")
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", runner.kubeconfig())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

/// A cluster in which everything of hook-templates/ was applied, and one runner pod.
pub fn installed() -> Runner {
    let runner = Runner::outside_a_pod();
    let put = |resource: &str, object: Value| runner.api.put(resource, object);
    let shipped = |file: &str| -> Vec<Value> {
        let path = format!("{}/hook-templates/{file}", env!("CARGO_MANIFEST_DIR"));
        serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    put(
        "namespaces",
        json!({"metadata": {"name": "ci", "labels": {"arc-hook/confine": "true"}}}),
    );
    for object in shipped("admission-policy.yaml") {
        match object["kind"].as_str() {
            Some("ValidatingAdmissionPolicy") => put("validatingadmissionpolicies", object),
            _ => put("validatingadmissionpolicybindings", object),
        }
    }
    put("nodes", json!({"metadata": {"name": "node-1"}}));
    put("configmaps", shipped("conan-zfs.yaml").remove(0));
    let [class, mut parent] = shipped("openebs-zfs.yaml").try_into().unwrap();
    put("storageclasses", class);
    parent["status"] = json!({"phase": "Bound", "capacity": {"storage": "200Gi"}});
    put("persistentvolumeclaims", parent);
    let mut pod = shipped("arc-values.yaml").remove(0)["template"].take();
    pod["metadata"] = json!({"name": "runner-1", "uid": "u", "labels": {
        "actions-ephemeral-runner": "True"}});
    let spec = &mut pod["spec"];
    spec["nodeName"] = json!("node-1");
    spec["serviceAccountName"] = json!("theirs");
    spec["volumes"].as_array_mut().unwrap().push(json!({
        "name": "work", "ephemeral": {"volumeClaimTemplate": {"spec": {
            "accessModes": ["ReadWriteOnce"]}}}}));
    let container = &mut spec["containers"][0];
    let mounts = container["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "work", "mountPath": "/home/runner/_work"}));
    let env = container["env"].as_array_mut().unwrap();
    env.push(json!({"name": "ACTIONS_RUNNER_POD_NAME",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}));
    put("pods", pod);
    let rules = shipped("rbac.yaml").remove(1)["rules"].take();
    runner.api.state().rules = serde_json::from_value(rules).unwrap();
    runner
}

#[test]
fn what_the_templates_install_is_well_and_stays_as_it_is() {
    let runner = installed();
    let output = doctor(&runner, &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.ends_with(" 0 could be better, 0 wrong\n"), "{told}");
    let state = runner.api.state();
    assert_eq!(state.impersonated, ["system:serviceaccount:ci:theirs"]);
    for (request, query) in state.requests.iter().zip(&state.queries) {
        let asks = request.starts_with("GET ") || request == "POST selfsubjectrulesreviews";
        assert!(asks || query.contains("dryRun=All"), "{request} {query}");
    }
}

#[test]
fn a_fault_is_told_with_its_change_and_ends_with_2() {
    let runner = installed();
    let mut parent = json!({"metadata": {"name": "gcc12-toolchain-main"}});
    parent["status"] = json!({"phase": "Bound", "capacity": {"storage": "50Gi"}});
    runner.api.put("persistentvolumeclaims", parent);
    let output = doctor(&runner, &["--output", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["verdict"], "fail");
    let checks = told["checks"].as_array().unwrap();
    let size = checks
        .iter()
        .find(|check| check["name"] == "storage/size")
        .unwrap();
    assert_eq!(size["verdict"], "fail");
    assert_eq!(size["change"], "resources:\n  requests:\n    storage: 50Gi");
}

#[test]
fn what_could_be_better_ends_with_1() {
    let runner = installed();
    runner
        .api
        .put("namespaces", json!({"metadata": {"name": "ci"}}));
    let output = doctor(&runner, &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("kubectl label namespace ci arc-hook/confine=true"),
        "{told}"
    );
}

#[test]
fn a_policy_that_no_binding_puts_in_force_is_named() {
    let runner = installed();
    let binding = |name: &str, action: &str| json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": [action]}});
    let bindings = "validatingadmissionpolicybindings";
    runner
        .api
        .put(bindings, binding("arc-hook-programs", "Audit"));
    let gone = (
        "validatingadmissionpolicies".to_owned(),
        "arc-hook-deletions".to_owned(),
    );
    runner.api.state().objects.remove(&gone);
    let output = doctor(&runner, &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    for name in ["arc-hook-deletions", "arc-hook-programs"] {
        assert!(
            told.contains(&format!("`{name}`, so that it can")),
            "{told}"
        );
    }
    assert!(!told.contains("`arc-hook-pods`"), "{told}");
    assert!(
        told.contains("kubectl apply -f hook-templates/admission-policy.yaml\n"),
        "{told}"
    );
}

#[test]
fn a_template_of_a_file_is_judged_in_place_of_the_mounted_one() {
    let runner = installed();
    let refusal = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown \
                   field \"spec.containers[0].imagePullPolicies\"";
    let refusal = Kind::Status(400, "BadRequest", refusal.to_owned());
    runner.api.fail("POST", "pods", 1, refusal);
    let output = doctor(&runner, &["--template", "hook-templates/minimal.yaml"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("the hook template `hook-templates/minimal.yaml` can be read"),
        "{told}"
    );
    assert!(
        told.contains("FAIL  template/dry-run: no job can start: "),
        "{told}"
    );
}

#[test]
fn an_account_that_sees_little_knows_little_and_calls_it_no_fault() {
    let runner = installed();
    for resource in [
        "namespaces",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "nodes",
        "storageclasses",
        "persistentvolumeclaims",
    ] {
        let message = format!(
            "{resource} is forbidden: User \"system:serviceaccount:ci:theirs\" cannot get it"
        );
        runner
            .api
            .fail("GET", resource, 9, Kind::Status(403, "Forbidden", message));
    }
    let output = doctor(&runner, &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("?     storage/class"), "{told}");
}

#[test]
fn an_api_server_that_is_not_there_is_the_one_thing_that_is_told() {
    let runner = installed();
    runner.api.fail("GET", "", 1000, Kind::Reset);
    let output = doctor(&runner, &[]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.starts_with("FAIL  server/version: the API server does not answer: "),
        "{told}"
    );
    assert_eq!(told.lines().count(), 3, "{told}");
}
