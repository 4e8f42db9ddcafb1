//! `arc-hook rbac`: the Role that is printed, the one that is shipped, and the one that is granted.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fake_api::{BINARY, Kind};
use crate::runner::Runner;

fn rbac(runner: &Runner, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("rbac")
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", runner.kubeconfig())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = rbac(&Runner::outside_a_pod(), arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn shipped(file: &str) -> String {
    let path = format!("{}/hook-templates/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// What the shipped file grants, as the rules of a review.
fn granted() -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&shipped("rbac.yaml")).unwrap();
    objects[1]["rules"].as_array().unwrap().clone()
}

#[test]
fn the_shipped_role_is_the_one_that_is_printed() {
    let file = shipped("rbac.yaml");
    let body = file.find("\napiVersion").unwrap() + 1;
    assert!(file[..body].lines().all(|line| line.starts_with('#')));
    assert_eq!(&file[body..], printed(&[]));
}

#[test]
fn the_shipped_values_add_what_arcs_chart_lacks() {
    let rules = |text: &str| -> Value {
        let values: Value = serde_saphyr::from_str(text).unwrap();
        values["containerMode"]["kubernetesModeAdditionalRoleRules"].clone()
    };
    let template = "hook-templates/conan-zfs.yaml";
    let printed = printed(&["--arc-values", template]);
    assert_eq!(rules(&shipped("arc-values.yaml")), rules(&printed));
}

#[test]
fn the_shipped_roles_together_are_what_caches_with_lines_and_kept_jobs_need() {
    let rules = |text: &str| -> Vec<Value> {
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        objects.retain(|object| object["kind"] == "Role");
        objects[0]["rules"].as_array().unwrap().clone()
    };
    let both = [shipped("rbac.yaml"), shipped("cache-rbac.yaml")].map(|text| rules(&text));
    let printed = printed(&["hook-templates/conan-lines.yaml"]);
    assert_eq!(both.concat(), rules(&printed));
    let both = [shipped("rbac.yaml"), shipped("retain-rbac.yaml")].map(|text| rules(&text));
    let printed = self::printed(&["hook-templates/conan-retain.yaml"]);
    assert_eq!(both.concat(), rules(&printed));
}

#[test]
fn a_workspace_that_is_copied_adds_its_rule() {
    let copy = printed(&["--work", "copy", "--least"]);
    assert!(copy.contains("resources: [pods/exec]"), "{copy}");
    assert!(!copy.contains("watch"), "{copy}");
    let json: Value = serde_json::from_str(&printed(&["--output", "json"])).unwrap();
    assert_eq!(json["features"], json!(["jobs", "watch", "events"]));
}

#[test]
fn a_role_that_is_just_right_passes() {
    let runner = Runner::outside_a_pod();
    runner.api.state().rules = granted();
    let output = rbac(&runner, &["--check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let state = runner.api.state();
    assert_eq!(state.requests, ["POST selfsubjectrulesreviews"]);
}

#[test]
fn what_is_missing_fails_and_what_is_too_much_warns() {
    let runner = Runner::outside_a_pod();
    let mut rules = granted();
    rules.push(json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["*"]}));
    runner.api.state().rules.clone_from(&rules);
    let output = rbac(&runner, &["--check"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("MORE      * nodes"), "{told}");

    rules.retain(|rule| rule["resources"] != json!(["secrets"]));
    runner.api.state().rules = rules;
    let output = rbac(&runner, &["--check", "--output", "json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["verdict"], "fail");
    assert_eq!(told["missing"][0]["right"], "get secrets");
}

#[test]
fn another_account_is_asked_for_by_impersonation() {
    let runner = Runner::outside_a_pod();
    runner.api.state().rules = granted();
    let output = rbac(&runner, &["--check", "--service-account", "theirs"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let state = runner.api.state();
    assert_eq!(state.impersonated, ["system:serviceaccount:ci:theirs"]);
}

#[test]
fn what_cannot_be_found_out_is_no_pass() {
    let runner = Runner::outside_a_pod();
    let refusal = Kind::Status(401, "Unauthorized", "Unauthorized".to_owned());
    runner
        .api
        .fail("POST", "selfsubjectrulesreviews", 1, refusal);
    let output = rbac(&runner, &["--check"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("renew the kubeconfig"), "{told}");
}
