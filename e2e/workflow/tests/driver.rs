//! The whole driver against a hook that runs steps on this machine.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use arc_hook_e2e::report::{Conclusion, Report};
use serde_json::Value;

/// A runner's directory with the fake hook in it.
struct Runner {
    root: tempfile::TempDir,
}

/// What came of a job.
struct Outcome {
    report: Report,
    log: String,
    calls: Vec<Value>,
}

impl Runner {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let hook = root.path().join("index.sh");
        std::fs::write(&hook, format!("exec {}\n", fake_hook().display())).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, job: &str) -> Outcome {
        std::fs::write(self.path("job.yaml"), job).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_runner-worker"))
            .args(["--quiet", "--once"])
            .arg(self.path("job.yaml"))
            .arg("--root")
            .arg(self.root.path())
            .env("ACTIONS_RUNNER_CONTAINER_HOOKS", self.path("index.sh"))
            .env_remove("ACTIONS_ALLOW_UNSECURE_COMMANDS")
            .output()
            .unwrap();
        let report = std::fs::read_to_string(self.path("report.json"))
            .unwrap_or_else(|_| panic!("no report: {output:?}"));
        let calls = std::fs::read_to_string(self.path("_work/calls.jsonl")).unwrap_or_default();
        Outcome {
            report: serde_json::from_str(&report).unwrap(),
            log: std::fs::read_to_string(self.path("job.log")).unwrap(),
            calls: calls
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        }
    }
}

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
        self.calls
            .iter()
            .map(|call| call["input"]["command"].as_str().unwrap())
            .collect()
    }
}

fn fake_hook() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    profile.join("examples/fake-hook")
}

#[test]
fn a_job_runs_from_prepare_to_cleanup() {
    let runner = Runner::new();
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

    let prepare = &outcome.calls[0];
    assert!(prepare["input"]["state"].is_null());
    assert!(prepare["env"]["LEVEL"].is_null() && prepare["env"]["GITHUB_OUTPUT"].is_null());
    let script = &outcome.calls[2]["input"];
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
    let after_path = &outcome.calls[3];
    assert_eq!(after_path["input"]["args"]["prependPath"][0], "/opt/tool");
    assert!(
        after_path["env"]["PATH"]
            .as_str()
            .unwrap()
            .starts_with("/opt/tool:")
    );
    let container = &outcome.calls[5]["input"]["args"];
    assert_eq!(container["entryPoint"], "/bin/x");
    assert_eq!(
        container["entryPointArgs"],
        serde_json::json!(["a", "'b", "c'"])
    );
    assert_eq!(container["environmentVariables"]["HOME"], "/github/home");
    let cleanup = outcome.calls.last().unwrap();
    assert!(!cleanup["env"]["GITHUB_OUTPUT"].is_null());
    assert!(
        std::fs::read_dir(runner.path("_work/_temp"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn what_is_not_as_expected_is_reported() {
    let outcome = Runner::new().run(
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
    let runner = Runner::new();
    std::fs::write(runner.path("index.sh"), "exit 0\n").unwrap();
    let outcome = runner.run("{name: x, container: {image: a}, steps: [{run: 'true'}]}");
    let failures = outcome.report.failures.join("\n");
    assert!(failures.contains("the runner would throw"), "{failures}");
    assert_eq!(outcome.report.conclusion, Conclusion::Failure);
}

#[test]
fn a_bash_that_the_job_planted_is_found_first() {
    let runner = Runner::new();
    let outcome = runner.run(
        "
name: hijack
container: {image: alpine}
steps:
- run: |
    mkdir -p $RUNNER_TEMP/bin
    printf '#!/bin/sh\\necho HIJACKED\\nexit 9\\n' > $RUNNER_TEMP/bin/bash
    chmod +x $RUNNER_TEMP/bin/bash
    echo $RUNNER_TEMP/bin >> $GITHUB_PATH
- run: echo real
  driver: {exit: 9, expect: [HIJACKED], forbid: [real]}
driver: {conclusion: failure, cleanup-job: {exit: 9}}
",
    );
    outcome.passed();
}

/// The attack that a hook must keep from the runner: this one does nothing against it.
#[test]
fn a_link_that_the_job_planted_is_read_through() {
    let runner = Runner::new();
    std::fs::write(runner.path("secret"), "LEAK=the runner's secret\n").unwrap();
    let outcome = runner.run(
        "
name: leak
container: {image: alpine}
steps:
- run: ln -sf $RUNNER_TEMP/../../secret $GITHUB_ENV
- run: echo It is $LEAK
  driver: {expect: [It is the runner's secret]}
",
    );
    outcome.passed();
}

#[test]
fn background_steps_run_beside_each_other() {
    let outcome = Runner::new().run(
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
    let outcome = Runner::new().run(
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
    let outcome = Runner::new().run("name: [");
    assert!(outcome.report.failures[0].contains("failed to parse"));
}
