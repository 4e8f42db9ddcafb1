//! Requests that cannot be understood or served: one line says why, and nothing is done.

use serde_json::json;

use crate::runner::Runner;

/// One `::error::` line that names this, exit code 1, nothing asked of the API server.
fn refused(runner: &Runner, input: &str, with: &[(&str, &str)], names: &str) {
    let outcome = runner.finish(runner.start(input, with));
    assert_eq!(outcome.code, 1, "{outcome:?}");
    let lines: Vec<_> = outcome.log.lines().collect();
    assert_eq!(lines.len(), 1, "{outcome:?}");
    assert!(lines[0].starts_with("::error"), "{outcome:?}");
    assert!(lines[0].contains(names), "{outcome:?}");
    assert_eq!(outcome.errors, "");
    assert_eq!(runner.api.state().requests, Vec::<String>::new());
    assert!(runner.trees().is_empty());
}

#[test]
fn input_that_is_no_request_is_refused_with_one_line() {
    let runner = Runner::new();
    refused(&runner, "", &[], "standard input is empty");
    refused(&runner, "{\"command\": ", &[], "parse the request");
    refused(&runner, "{\"command\":\"build_job\"}", &[], "`build_job`");
    let wrong_type = json!({"command": "run_script_step", "args": {"entryPointArgs": "x"}});
    refused(&runner, &wrong_type.to_string(), &[], "args.entryPointArgs");
}

#[test]
fn a_job_without_a_response_file_is_refused_before_anything_is_made() {
    let runner = Runner::new();
    let args = crate::runner::job(&[]);
    let missing = json!({"command": "prepare_job", "args": args}).to_string();
    refused(&runner, &missing, &[], "responseFile");
    let absent = json!({"command": "prepare_job", "args": args, "responseFile": "/nonexistent/r"});
    refused(&runner, &absent.to_string(), &[], "/nonexistent/r");
}

#[test]
fn a_job_of_services_only_is_refused_with_the_remedy() {
    let runner = Runner::new();
    let request = runner.request("prepare_job", &json!({"container": null, "services": []}));
    refused(&runner, &request, &[], "add `container:`");
}

#[test]
fn a_missing_variable_is_named_with_its_remedy() {
    let runner = Runner::new();
    let request = runner.request("prepare_job", &crate::runner::job(&[]));
    let without = [("ACTIONS_RUNNER_POD_NAME", "")];
    refused(&runner, &request, &without, "ACTIONS_RUNNER_POD_NAME");
}

#[test]
fn a_template_that_cannot_be_read_is_named() {
    let runner = Runner::new();
    let request = runner.request("prepare_job", &crate::runner::job(&[]));
    let with = [(
        "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE",
        "/nonexistent/content",
    )];
    refused(&runner, &request, &with, "/nonexistent/content");
}

#[test]
fn a_script_step_without_a_prepared_job_says_so() {
    let runner = Runner::new();
    let request = runner.request(
        "run_script_step",
        &json!({"entryPoint": "sh", "entryPointArgs": ["-c", "true"]}),
    );
    refused(&runner, &request, &[], "Initialize containers");
}
