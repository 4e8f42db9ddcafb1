//! `arc-hook render --server`: the API server's verdict on a template.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fake_api::{BINARY, Kind};
use crate::runner::Runner;

const TEMPLATE: &str = "spec:\n  containers:\n  - name: $job\n    imagePullPolicies: Always\n";

fn render(runner: &Runner) -> Output {
    let template = runner.work().join("template.yaml");
    fs::write(&template, TEMPLATE).unwrap();
    Command::new(BINARY)
        .args(["render", "--server"])
        .arg(template)
        .env_clear()
        .env("KUBECONFIG", runner.kubeconfig())
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_api_server_judges_strictly_and_nothing_is_created() {
    let runner = Runner::outside_a_pod();
    let output = render(&runner);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(
        told(&output),
        "The API server accepts pod `example-runner-workflow` and its Secrets (2) in namespace `ci`\n"
    );
    let state = runner.api.state();
    assert_eq!(
        state.requests,
        ["POST secrets", "POST secrets", "POST pods"]
    );
    for query in &state.queries {
        assert!(query.contains("dryRun=All"), "{query}");
        assert!(query.contains("fieldValidation=Strict"), "{query}");
    }
    assert!(state.objects.is_empty());
    let pod: Value = serde_saphyr::from_multiple(&String::from_utf8_lossy(&output.stdout))
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(pod["metadata"]["name"], "example-runner-workflow");
}

#[test]
fn a_refusal_names_the_place_in_the_template() {
    let runner = Runner::outside_a_pod();
    let message = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown \
                   field \"spec.containers[0].imagePullPolicies\"";
    let refusal = Kind::Status(400, "BadRequest", message.to_owned());
    runner.api.fail("POST", "pods", 1, refusal);
    let output = render(&runner);
    assert!(!output.status.success());
    assert!(!output.stdout.is_empty(), "it can still be read");
    let told = told(&output);
    assert!(
        told.contains(
            "template.yaml`, line 4 column 5 (`spec.containers[0].imagePullPolicies`): create pod \
             `example-runner-workflow`: Kubernetes does not know a field"
        ),
        "{told}"
    );
}

#[test]
fn an_object_whose_name_is_taken_has_passed_too() {
    let runner = Runner::outside_a_pod();
    let metadata = json!({"name": "example-runner-workflow"});
    runner.api.put("pods", json!({"metadata": metadata}));
    let output = render(&runner);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn an_api_server_that_is_not_there_is_given_up_soon() {
    let runner = Runner::outside_a_pod();
    runner.api.fail("POST", "secrets", 1000, Kind::Reset);
    let output = render(&runner);
    assert!(!output.status.success());
    assert!(
        told(&output).contains("no answer from the Kubernetes API"),
        "{}",
        told(&output)
    );
}
