//! Jobs that cannot be prepared: the cause is told, and nothing is left.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake_api::{Kind, Kubelet};
use crate::runner::{JOB_POD, RUNNER, Runner, job, service, signal, until};

fn nothing_is_left(runner: &Runner) {
    assert_eq!(runner.api.names("pods"), [RUNNER]);
    assert_eq!(runner.api.names("secrets"), Vec::<String>::new());
    assert!(runner.trees().is_empty(), "{:?}", runner.trees());
    assert!(!runner.memory().exists());
}

fn container(name: &str, state: &Value) -> Value {
    json!({"name": name, "image": "gcc:12", "imageID": "", "ready": false, "restartCount": 0,
           "state": state})
}

fn pending(state: &Value) -> Kubelet {
    Kubelet::Status(json!({"phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [container("job", state)]}))
}

#[test]
fn a_missing_right_is_named_and_nothing_is_left() {
    let runner = Runner::new();
    let message = "pods is forbidden: User \"system:serviceaccount:ci:runner\" cannot create \
                   resource \"pods\" in API group \"\" in the namespace \"ci\"";
    let forbidden = Kind::Status(403, "Forbidden", message.to_owned());
    runner.api.fail("POST", "pods", 9, forbidden);
    let prepared = runner.prepare(&[service("redis")]);
    assert_eq!(prepared.code, 1);
    let last = prepared.log.lines().last().unwrap();
    assert!(
        last.starts_with("::error title=Missing permission::"),
        "{last}"
    );
    assert!(
        last.contains("lacks the right to `create` `pods`"),
        "{last}"
    );
    nothing_is_left(&runner);
}

#[test]
fn an_invalid_image_name_fails_at_once_with_the_pods_facts() {
    let runner = Runner::new();
    runner.api.state().kubelet = pending(&json!({"waiting": {
        "reason": "InvalidImageName", "message": "couldn't parse\n::set-output name=x::y"}}));
    let start = Instant::now();
    let prepared = runner.prepare(&[]);
    assert_eq!(prepared.code, 1);
    assert!(start.elapsed() < Duration::from_secs(14));
    assert!(
        prepared.log.contains("::error title=Invalid image name::"),
        "{prepared:?}"
    );
    assert!(
        prepared
            .log
            .contains("pod | container job: waiting, InvalidImageName"),
        "{prepared:?}"
    );
    let forged = prepared
        .log
        .lines()
        .filter(|line| line.trim_start().starts_with("::set-output"));
    assert_eq!(forged.count(), 0, "{prepared:?}");
    nothing_is_left(&runner);
}

#[test]
fn an_image_that_is_not_there_fails_after_its_stated_grace() {
    let runner = Runner::new();
    runner.api.state().kubelet = pending(&json!({"waiting": {
        "reason": "ErrImagePull", "message": "gcc:12: not found"}}));
    let start = Instant::now();
    let prepared = runner.prepare(&[]);
    assert_eq!(prepared.code, 1);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(14), "{took:?}");
    assert!(
        prepared.log.contains("fails in 15 s unless it passes"),
        "{prepared:?}"
    );
    assert!(
        prepared.log.contains("::error title=Image not found::"),
        "{prepared:?}"
    );
    nothing_is_left(&runner);
}

#[test]
fn a_service_that_exits_fails_the_job_with_its_last_words() {
    let runner = Runner::new();
    let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    runner.api.state().kubelet = Kubelet::Status(json!({"phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [container("job", &json!({"running": {}})),
                              container("redis", &ended)]}));
    let prepared = runner.prepare(&[service("redis")]);
    assert_eq!(prepared.code, 1);
    assert!(
        prepared
            .log
            .contains("container `redis` exited with code 1"),
        "{prepared:?}"
    );
    assert!(runner.api.count("GET log") >= 1, "its log is shown");
    nothing_is_left(&runner);
}

#[test]
fn time_that_is_up_tells_what_was_awaited() {
    let runner = Runner::new();
    runner.api.state().kubelet = Kubelet::Status(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
         "message": "0/1 nodes are available: 1 Insufficient cpu."}]}));
    let limit = [("ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS", "8")];
    let prepared = runner.call_with("prepare_job", &job(&[]), &limit);
    assert_eq!(prepared.code, 1);
    assert!(
        prepared
            .log
            .contains("Waiting for pod `runner-1-workflow`: no node"),
        "{prepared:?}"
    );
    assert!(
        prepared.log.contains("::error title=Not enough room::"),
        "{prepared:?}"
    );
    assert!(prepared.log.contains("not ready after 8 s"), "{prepared:?}");
    let asked = runner.api.count("GET events");
    assert_eq!(asked, 1, "what the Role withholds is asked for once");
    nothing_is_left(&runner);
}

#[test]
fn an_admission_webhook_that_does_not_answer_is_waited_for_as_long_as_a_pod_may_take() {
    let runner = Runner::new();
    let message = "Internal error occurred: failed calling webhook \"pods.example.com\": failed to \
                   call webhook: Post \"https://policy.svc:443/\": connection refused";
    let down = Kind::Status(500, "InternalError", message.to_owned());
    runner.api.fail("POST", "pods", 1000, down);
    let limit = [("ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS", "3")];
    let start = Instant::now();
    let prepared = runner.call_with("prepare_job", &job(&[]), &limit);
    assert_eq!(prepared.code, 1);
    assert!(start.elapsed() < Duration::from_secs(30), "{prepared:?}");
    let error = "::error title=Admission webhook unreachable::";
    assert!(prepared.log.contains(error), "{prepared:?}");
    nothing_is_left(&runner);
}

#[test]
fn a_pod_that_someone_deletes_meanwhile_is_reported_as_such() {
    let runner = Runner::new();
    runner.api.state().kubelet = Kubelet::Idle;
    let request = runner.request("prepare_job", &job(&[]));
    let child = runner.start(&request, &[]);
    until("the pod is created", || runner.api.names("pods").len() == 2);
    let key = ("pods".to_owned(), JOB_POD.to_owned());
    runner.api.state().objects.remove(&key);
    let prepared = runner.finish(child);
    assert_eq!(prepared.code, 1);
    assert!(
        prepared.log.contains("::error title=Pod deleted::"),
        "{prepared:?}"
    );
    nothing_is_left(&runner);
}

#[test]
fn a_signal_while_the_pod_is_awaited_removes_it() {
    for name in ["-INT", "-TERM"] {
        let runner = Runner::new();
        runner.api.state().kubelet = Kubelet::Idle;
        let request = runner.request("prepare_job", &job(&[service("redis")]));
        let child = runner.start(&request, &[]);
        until("the pod is created", || runner.api.names("pods").len() == 2);
        let start = Instant::now();
        signal(&child, name);
        signal(&child, name);
        let prepared = runner.finish(child);
        assert!(start.elapsed() < Duration::from_secs(20), "{prepared:?}");
        assert_eq!(
            prepared.code,
            if name == "-INT" { 130 } else { 143 },
            "{prepared:?}"
        );
        nothing_is_left(&runner);
    }
}

#[test]
fn a_job_whose_preparation_was_killed_runs_no_step_and_is_cleaned_up() {
    let runner = Runner::new();
    runner.api.state().kubelet = Kubelet::Idle;
    let request = runner.request("prepare_job", &job(&[service("redis")]));
    let child = runner.start(&request, &[]);
    until("the pod is created", || runner.api.names("pods").len() == 2);
    signal(&child, "-KILL");
    assert_eq!(runner.finish(child).code, -9);
    let step = runner.script("true");
    assert_eq!(step.code, 1);
    assert!(step.log.contains("Initialize containers"), "{step:?}");
    assert_eq!(runner.call("cleanup_job", &json!({})).code, 0);
    nothing_is_left(&runner);
}

#[test]
fn a_signal_while_the_creation_is_under_way_removes_what_came_of_it() {
    let runner = Runner::new();
    let slow = Kind::Slow(Duration::from_secs(2));
    runner.api.fail("POST", "pods", 1, slow);
    let request = runner.request("prepare_job", &job(&[]));
    let child = runner.start(&request, &[]);
    until("the pod is asked for", || {
        runner.api.count("POST pods") == 1
    });
    signal(&child, "-INT");
    assert_eq!(runner.finish(child).code, 130);
    assert_eq!(runner.call("cleanup_job", &json!({})).code, 0);
    nothing_is_left(&runner);
}
