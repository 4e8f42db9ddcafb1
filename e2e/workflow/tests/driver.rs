//! The whole driver against a hook that runs steps on this machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod local;

use arc_hook_e2e::report::Conclusion;
use local::{Outcome, Runner};
use serde_json::Value;

impl Outcome {
    fn passed(&self) -> &Self {
        assert!(
            self.report.failures.is_empty(),
            "{:#?}\n{}",
            self.report.failures,
            self.log
        );
        self
    }

    fn commands(&self) -> Vec<&str> {
        let calls = self.report.calls.iter();
        calls.map(|call| call.command.as_str()).collect()
    }
}

fn runner() -> Runner {
    Runner::with("fake-hook")
}

/// What the hook was called with.
fn inputs(runner: &Runner) -> Vec<Value> {
    let calls = std::fs::read_to_string(runner.root().join("_work/calls.jsonl")).unwrap();
    let calls = calls.lines().map(serde_json::from_str);
    calls.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_job_runs_from_prepare_to_cleanup() {
    let runner = runner();
    let outcome = runner.run(include_str!("whole.yaml"));
    outcome.passed();
    assert_eq!(
        outcome.commands(),
        [
            "prepare_job",
            "run_script_step",
            "run_script_step",
            "run_script_step",
            "run_script_step",
            "run_container_step",
            "run_container_step",
            "run_script_step",
            "cleanup_job"
        ]
    );
    assert!(outcome.log.contains("post set"), "{}", outcome.log);
    let steps = &outcome.report.steps;
    assert_eq!(steps[1].summary, "# Sum\n");
    assert_eq!(
        (steps[6].outcome, steps[6].conclusion),
        (Conclusion::Failure, Conclusion::Success)
    );

    let calls = inputs(&runner);
    let prepare = &calls[0];
    assert!(prepare["input"]["state"].is_null());
    assert!(prepare["env"]["LEVEL"].is_null() && prepare["env"]["GITHUB_OUTPUT"].is_null());
    let script = &calls[2]["input"];
    assert_eq!(script["state"]["calls"], 1);
    let env = &script["args"]["environmentVariables"];
    assert_eq!(env["GITHUB_WORKSPACE"], "/__w/demo/demo");
    assert!(
        env["GITHUB_OUTPUT"]
            .as_str()
            .unwrap()
            .starts_with("/__w/_temp/_runner")
    );
    assert!(env["HOME"].is_null());
    let after_path = &calls[3];
    assert_eq!(after_path["input"]["args"]["prependPath"][0], "/opt/tool");
    assert!(
        after_path["env"]["PATH"]
            .as_str()
            .unwrap()
            .starts_with("/opt/tool:")
    );
    let container = &calls[5]["input"]["args"];
    assert_eq!(container["entryPoint"], "/bin/x");
    assert_eq!(
        container["entryPointArgs"],
        serde_json::json!(["a", "'b", "c'"])
    );
    assert_eq!(container["environmentVariables"]["HOME"], "/github/home");
    let cleanup = calls.last().unwrap();
    assert!(!cleanup["env"]["GITHUB_OUTPUT"].is_null());
    assert!(
        std::fs::read_dir(runner.root().join("_work/_temp"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn what_is_not_as_expected_is_reported() {
    let outcome = runner().run(
        "
name: wrong
container: {image: alpine}
steps:
- run: echo hi
  driver: {exit: 3, expect: [ho], forbid: [hi], outputs: {x: y}, max-ms: 0, skipped: true}
",
    );
    assert_eq!(
        outcome.report.failures.len(),
        6,
        "{:#?}",
        outcome.report.failures
    );
}

#[test]
fn a_response_that_would_throw_fails_the_job() {
    let runner = runner();
    std::fs::write(runner.beside("index.sh"), "exit 0\n").unwrap();
    let outcome = runner.run("{name: x, container: {image: a}, steps: [{run: 'true'}]}");
    let failures = outcome.report.failures.join("\n");
    assert!(failures.contains("the runner would throw"), "{failures}");
    assert_eq!(outcome.report.conclusion, Conclusion::Failure);
}

#[test]
fn background_steps_run_beside_each_other() {
    let outcome = runner().run(
        "
name: background
container: {image: alpine}
steps:
- {id: a, background: true, run: 'while [ ! -e ../b ]; do sleep 0.01; done; touch ../a'}
- {id: b, background: true, run: 'touch ../b; while [ ! -e ../a ]; do sleep 0.01; done'}
- {wait: [a, b]}
- run: test -e ../a && test -e ../b
",
    );
    outcome.passed();
}

#[test]
fn a_cancelled_step_gets_signals_and_its_outputs_count() {
    let outcome = runner().run(
        r"
name: cancel
container: {image: alpine}
steps:
- id: slow
  run: |
    trap 'echo stopped >> /dev/stderr; echo x=1 >> $GITHUB_OUTPUT; exit 130' INT
    echo ready
    while :; do sleep 0.05; done
  driver:
    cancel-job: {line: ready}
    exit: 130
    expect: [stopped]
    outputs: {x: '1'}
- {run: echo never, driver: {skipped: true}}
- {run: echo still, if: always(), driver: {expect: [still]}}
driver: {conclusion: cancelled}
",
    );
    outcome.passed();
    assert_eq!(outcome.commands().last(), Some(&"cleanup_job"));
}

#[test]
fn a_broken_job_file_is_a_failure_with_a_report() {
    let outcome = runner().run("name: [");
    assert!(outcome.report.failures[0].contains("failed to parse"));
}

#[test]
fn a_runner_that_requires_a_container_refuses_a_job_without_one() {
    let job = "
name: refused
steps: [{run: echo never, if: always()}]
driver: {conclusion: failure}
";
    let required = runner().variable("ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER", "true");
    let outcome = required.run(job);
    outcome.passed();
    assert!(outcome.commands().is_empty());
    assert!(
        outcome
            .log
            .contains("Jobs without a job container are forbidden"),
        "{}",
        outcome.log
    );
}
