//! Container actions.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake_api::{Kind, Kubelet};
use crate::runner::{Outcome, RUNNER, Runner, quote, signal, until};

/// An action without a known entry point.
fn unwrapped() -> Value {
    json!({"image": "hello", "entryPoint": null, "entryPointArgs": ["\"one", "two\""],
           "environmentVariables": {"INPUT_TOKEN": "s3cret of the action"},
           "workingDirectory": "/github/workspace"})
}

fn program(exit: Option<i32>, cut: Option<usize>) -> Kubelet {
    Kubelet::Program {
        log: (0..50)
            .map(|n| format!("2026-11-21T06:00:{n:02}.5Z line {n}"))
            .collect(),
        exit,
        cut,
    }
}

fn lines() -> String {
    crate::fake_cluster::lines((0..50).map(|n| format!("line {n}")))
}

/// Runs a program that does not end by itself, and does harm once its log is read.
fn meddled_with(runner: &Runner, harm: impl FnOnce(&Child)) -> Outcome {
    runner.api.state().kubelet = program(None, None);
    let request = runner.request("run_container_step", &unwrapped());
    let child = runner.start(&request, &[]);
    until("the log is read", || runner.api.count("GET log") > 0);
    harm(&child);
    runner.finish(child)
}

fn nothing_is_left(runner: &Runner) {
    assert_eq!(runner.api.names("pods"), [RUNNER]);
    assert_eq!(runner.api.names("secrets"), Vec::<String>::new());
    assert!(runner.trees().is_empty());
}

#[test]
fn without_an_entry_point_the_log_and_the_exit_code_come_from_kubernetes() {
    for code in [0, 42] {
        let runner = Runner::new();
        runner.api.state().kubelet = program(Some(code), None);
        let action = runner.call("run_container_step", &unwrapped());
        assert_eq!(action.code, code, "{action:?}");
        assert_eq!(action.log, lines());
        nothing_is_left(&runner);
        let state = runner.api.state();
        let pod = state
            .created
            .iter()
            .find(|object| object["kind"] == "Pod")
            .unwrap();
        assert!(!pod.to_string().contains("s3cret"), "{pod}");
        assert_eq!(pod["spec"]["containers"][0]["args"], json!(["one two"]));
    }
}

#[test]
fn a_log_stream_that_breaks_is_resumed_without_loss() {
    let runner = Runner::new();
    runner.api.state().kubelet = program(Some(0), Some(333));
    let action = runner.call("run_container_step", &unwrapped());
    assert_eq!(action.code, 0, "{action:?}");
    assert_eq!(action.log, lines());
}

#[test]
fn a_program_whose_pod_is_deleted_is_never_green() {
    let runner = Runner::new();
    let action = meddled_with(&runner, |_| {
        let mut state = runner.api.state();
        state.objects.retain(|(_, name), _| name == RUNNER);
    });
    assert_eq!(action.code, 1, "{action:?}");
    let error = "::error title=Pod deleted::pod `";
    assert!(action.log.contains(error), "{action:?}");
}

#[test]
fn an_exit_code_of_zero_after_a_deletion_is_no_success() {
    let runner = Runner::new();
    let action = meddled_with(&runner, |_| {
        let mut state = runner.api.state();
        let pods = state
            .objects
            .iter_mut()
            .filter(|((_, name), _)| name != RUNNER);
        for ((kind, _), pod) in pods {
            if kind == "pods" {
                pod["metadata"]["deletionTimestamp"] = json!("2026-11-21T06:01:00Z");
                pod["status"]["containerStatuses"][0]["state"] =
                    json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
            }
        }
    });
    assert_eq!(action.code, 1, "{action:?}");
}

#[test]
fn a_cancelled_program_is_deleted_in_time() {
    let runner = Runner::new();
    let mut start = Instant::now();
    let action = meddled_with(&runner, |child| {
        start = Instant::now();
        signal(child, "-INT");
    });
    assert_eq!(action.code, 130, "{action:?}");
    assert!(start.elapsed() < Duration::from_secs(10));
    nothing_is_left(&runner);
}

#[test]
fn with_an_entry_point_file_commands_come_back_and_path_entries_stay() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    let script = format!(
        "echo k=v > {}; echo /opt/tool > {}",
        runner.inside("output").display(),
        runner.inside("path").display()
    );
    let action = runner.call(
        "run_container_step",
        &json!({"image": "alpine", "entryPoint": "sh", "entryPointArgs": ["-c", quote(&script)],
                "workingDirectory": "/"}),
    );
    assert_eq!(action.code, 0, "{action:?}");
    assert_eq!(
        fs::read_to_string(runner.file_command("output")).unwrap(),
        "k=v\n"
    );
    assert_eq!(fs::read_to_string(runner.file_command("path")).unwrap(), "");
    let step = runner.script("echo \"$PATH\"");
    assert!(step.log.starts_with("/opt/tool:"), "{step:?}");
}

#[test]
fn without_a_prepared_job_an_action_runs_on_its_own() {
    let runner = Runner::new();
    let action = runner.call(
        "run_container_step",
        &json!({"image": "alpine", "entryPoint": "sh",
                "entryPointArgs": ["-c", quote("echo alone; exit 5")], "workingDirectory": "/"}),
    );
    assert_eq!(
        (action.code, action.log.as_str()),
        (5, "alone\n"),
        "{action:?}"
    );
    nothing_is_left(&runner);
    assert_eq!(
        fs::read_dir(runner.memory().parent().unwrap())
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn an_action_takes_the_hooks_program_from_the_job_without_a_copy() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    let job = runner.trees()[0].join("hook/arc-hook");
    let script = format!(
        "ls -di {}/*/hook/arc-hook",
        job.ancestors().nth(3).unwrap().display()
    );
    let action = runner.call(
        "run_container_step",
        &json!({"image": "alpine", "entryPoint": "sh", "entryPointArgs": ["-c", quote(&script)],
                "workingDirectory": "/"}),
    );
    let files: Vec<&str> = action
        .log
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(files.len() == 2 && files[0] == files[1], "{action:?}");
    assert!(job.exists(), "it goes with the job, not with the action");
}

#[test]
fn a_cancelled_action_ends_with_its_log_and_its_file_commands() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    let script = format!(
        "echo k=v > {}; echo started; sleep 60",
        runner.inside("output").display()
    );
    let request = runner.request(
        "run_container_step",
        &json!({"image": "alpine", "entryPoint": "sh", "entryPointArgs": ["-c", quote(&script)],
                "workingDirectory": "/"}),
    );
    let output = runner.inside("output");
    let child = runner.start(&request, &[]);
    until("it runs", || {
        fs::read(&output).is_ok_and(|text| !text.is_empty())
    });
    let start = Instant::now();
    signal(&child, "-TERM");
    let action = runner.finish(child);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_ne!(action.code, 0);
    assert_eq!(action.log, "started\n");
    assert_eq!(
        fs::read_to_string(runner.file_command("output")).unwrap(),
        "k=v\n"
    );
    assert_eq!(runner.api.names("pods").len(), 2);
}

#[test]
fn an_action_with_a_dockerfile_is_refused_with_what_to_do_instead() {
    let runner = Runner::new();
    let action = runner.call(
        "run_container_step",
        &json!({"image": null, "dockerfile": "/home/runner/_work/_actions/o/r/v1/Dockerfile"}),
    );
    assert_eq!(action.code, 1);
    assert!(action.log.contains("docker://"), "{action:?}");
    assert_eq!(runner.api.count("POST pods"), 0);
    nothing_is_left(&runner);
}

#[test]
fn an_action_that_cannot_be_created_leaves_nothing() {
    let runner = Runner::new();
    let message = "pods \"x\" is forbidden: exceeded quota: jobs, requested: pods=1, used: pods=9";
    let quota = Kind::Status(403, "Forbidden", message.to_owned());
    runner.api.fail("POST", "pods", 9, quota);
    let action = runner.call("run_container_step", &unwrapped());
    assert_eq!(action.code, 1);
    assert!(
        action.log.contains("::error title=Quota exceeded::"),
        "{action:?}"
    );
    nothing_is_left(&runner);
}
