//! Whole jobs: prepare, steps, clean-up.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::fake_api::{Kind, Kubelet};
use crate::fake_cluster::running;
use crate::runner::{JOB_POD, RUNNER, Runner, holding, job, quote, service, until};

#[test]
fn a_job_runs_from_preparation_to_clean_up() {
    let runner = Runner::new();
    let prepared = runner.prepare(&[]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    assert_eq!(prepared.response["state"]["jobPod"], JOB_POD);
    assert_eq!(prepared.response["isAlpine"], false);
    assert_eq!(prepared.response["context"]["container"]["image"], "gcc:12");
    assert!(prepared.response["context"].get("services").is_none());

    let before = runner.api.state().requests.len();
    let step = runner.script("echo \"hello $FROM_JOB\"; echo k=v >> \"$GITHUB_OUTPUT\"; exit 7");
    assert_eq!(step.code, 7, "{step:?}");
    assert_eq!(step.log, "hello s3cret of the job\n");
    assert_eq!(
        fs::read_to_string(runner.file_command("output")).unwrap(),
        "k=v\n"
    );
    assert_eq!(
        runner.api.state().requests.len(),
        before,
        "a script step asks nobody"
    );

    let action = runner.call(
        "run_container_step",
        &json!({
            "image": "alpine", "entryPoint": "sh",
            "entryPointArgs": ["-c", quote("echo \"action $INPUT_X\"; exit 3")],
            "environmentVariables": {"INPUT_X": "s3cret of the action"},
            "workingDirectory": runner.work()
        }),
    );
    assert_eq!(action.code, 3, "{action:?}");
    assert_eq!(action.log, "action s3cret of the action\n");
    assert_eq!(runner.api.names("pods"), [RUNNER, JOB_POD]);
    assert_eq!(
        runner.trees().len(),
        1,
        "the action's own directories are gone"
    );

    let cleaned = runner.call("cleanup_job", &json!({}));
    let told = "Removed: pods 1, secrets 0\n";
    assert_eq!(
        (cleaned.code, cleaned.log.as_str()),
        (0, told),
        "{cleaned:?}"
    );
    assert_eq!(runner.api.names("pods"), [RUNNER]);
    assert_eq!(runner.api.names("secrets"), Vec::<String>::new());
    assert!(runner.trees().is_empty());
    assert!(!runner.memory().exists());
}

#[test]
fn everything_that_is_created_belongs_to_the_runner_and_holds_no_secret() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[service("redis")]).code, 0);
    let state = runner.api.state();
    assert!(state.created.len() >= 2);
    for object in &state.created {
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["runner-pod"], RUNNER, "{metadata}");
        assert_eq!(
            metadata["ownerReferences"][0]["uid"], "uid-of-runner",
            "{metadata}"
        );
        let is_pod = object["kind"] == "Pod";
        assert!(
            !is_pod || !object.to_string().contains("s3cret"),
            "{object}"
        );
    }
}

#[test]
fn services_are_awaited_and_answered_in_order() {
    let runner = Runner::new();
    let prepared = runner.prepare(&[service("redis:7"), service("ghcr.io/octo/queue@sha256:00")]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let services = prepared.response["context"]["services"].as_array().unwrap();
    assert_eq!(services[0]["image"], "redis:7");
    assert!(services[0]["ports"].is_object() && services[1]["ports"].is_object());
    assert!(
        runner.api.count("GET pods") >= 2,
        "services are seen ready by the API server"
    );
}

#[test]
fn a_service_is_waited_for_without_asking_where_the_role_lets_us_watch() {
    for generous in [true, false] {
        let runner = Runner::new();
        runner.api.state().generous = generous;
        runner.api.state().kubelet = Kubelet::RunButNotReady("redis");
        let request = runner.request("prepare_job", &job(&[service("redis")]));
        let child = runner.start(&request, &[]);
        until("the pod is looked at", || runner.api.count("GET pods") >= 5);
        let asked = runner.api.count("GET pods");
        if generous {
            std::thread::sleep(Duration::from_millis(1200));
        } else {
            until("it is looked at again", || {
                runner.api.count("GET pods") >= asked + 2
            });
        }
        let asked = runner.api.count("GET pods") - asked;
        assert_eq!(
            asked <= 1,
            generous,
            "{asked} requests while nothing changed"
        );
        runner
            .api
            .change_pod(JOB_POD, |pod| pod["status"] = running(pod));
        let prepared = runner.finish(child);
        assert_eq!(prepared.code, 0, "{prepared:?}");
    }
}

#[test]
fn the_runners_programs_arrive_beside_the_starting_job() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    let node = runner.trees()[0].join("externals/node20/bin/node");
    until("node is there", || node.exists());
    until("the copy is complete", || {
        runner.memory().join("externals").exists()
    });
}

#[test]
fn outside_of_a_pod_a_job_runs_with_a_warning_and_without_an_owner() {
    let runner = Runner::outside_a_pod();
    let prepared = runner.prepare(&[]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    assert!(
        prepared
            .log
            .contains("::warning::there is no pod `runner-1`"),
        "{prepared:?}"
    );
    let state = runner.api.state();
    let pod = &state.created[0];
    assert!(pod["metadata"].get("ownerReferences").is_none(), "{pod}");
    assert!(pod["spec"].get("affinity").is_none(), "{pod}");
}

#[test]
fn what_an_earlier_job_left_is_replaced() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[service("redis")]).code, 0);
    let old = runner.trees();
    let prepared = runner.prepare(&[]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    assert!(
        prepared
            .log
            .contains("An earlier job of this runner left pod"),
        "{prepared:?}"
    );
    assert_eq!(runner.api.names("secrets"), Vec::<String>::new());
    assert_eq!(runner.trees().len(), 1);
    assert_ne!(runner.trees(), old);
    assert_eq!(runner.script("exit 0").code, 0);
}

#[test]
fn lost_answers_and_an_unwell_api_server_do_not_disturb_a_job() {
    let runner = Runner::new();
    let trouble = || Kind::Status(503, "ServiceUnavailable", "etcd has no leader".to_owned());
    runner.api.fail("GET", "pods", 2, Kind::Reset);
    runner.api.fail("POST", "secrets", 1, Kind::LostAnswer);
    runner.api.fail("POST", "pods", 1, trouble());
    runner.api.fail("POST", "pods", 1, Kind::LostAnswer);
    let prepared = runner.prepare(&[service("redis")]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    runner.api.fail("GET", "secrets", 1, trouble());
    runner.api.fail("DELETE", "pods", 1, Kind::LostAnswer);
    assert_eq!(runner.call("cleanup_job", &json!({})).code, 0);
    assert_eq!(runner.api.names("pods"), [RUNNER]);
    assert_eq!(runner.api.names("secrets"), Vec::<String>::new());
}

#[test]
fn a_step_that_obeys_the_end_of_its_pod_is_never_green() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    let request = runner.script_request("trap 'exit 0' TERM; echo up; sleep 60 & wait");
    let child = runner.start(&request, &[]);
    let log = runner.trees()[0].join("spool/steps");
    until("it runs", || !holding(&log, "up").is_empty());
    runner.api.delete_pod(JOB_POD);
    let step = runner.finish(child);
    assert_eq!(step.code, 1, "{step:?}");
    let error = "::error title=Pod deleted::pod `runner-1-workflow` ";
    assert!(step.log.contains(error), "{step:?}");
    assert!(step.log.contains("deleted by someone else"), "{step:?}");
}

#[test]
fn a_container_that_dies_under_a_step_is_explained() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    let request = runner.script_request("echo up; sleep 60");
    let child = runner.start(&request, &[]);
    let log = runner.trees()[0].join("spool/steps");
    until("it runs", || !holding(&log, "up").is_empty());
    let asked = runner.api.state().requests.len();
    runner.api.kill_container(JOB_POD);
    runner.api.change_pod(JOB_POD, |pod| {
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    });
    let step = runner.finish(child);
    assert_eq!(step.code, 1, "{step:?}");
    let error = "::error title=Out of memory::pod `runner-1-workflow` ended: container `job` was \
                 killed for using more memory";
    assert!(step.log.contains(error), "{step:?}");
    assert!(
        step.log
            .contains("pod | container job: ended with code 137"),
        "{step:?}"
    );
    let asked = runner.api.state().requests.len() - asked;
    assert!(
        asked <= 3,
        "one look at the pod and its events, not {asked}"
    );
}

#[test]
fn cleaning_up_twice_or_without_a_job_is_fine() {
    let runner = Runner::new();
    for _ in 0..2 {
        let cleaned = runner.call("cleanup_job", &json!({}));
        assert_eq!((cleaned.code, cleaned.log.as_str()), (0, ""), "{cleaned:?}");
    }
    assert_eq!(runner.api.names("pods"), [RUNNER]);
}

#[test]
fn a_clean_up_that_is_forbidden_warns_and_leaves_the_job_green() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    let message = "pods is forbidden: User \"system:serviceaccount:ci:runner\" cannot delete \
                   resource \"pods\" in API group \"\" in the namespace \"ci\"";
    let forbidden = Kind::Status(403, "Forbidden", message.to_owned());
    runner.api.fail("DELETE", "pods", 9, forbidden);
    let cleaned = runner.call("cleanup_job", &json!({}));
    assert_eq!(cleaned.code, 0);
    assert!(cleaned.log.starts_with("::warning::"), "{cleaned:?}");
    assert!(
        cleaned.log.contains("lacks the right to `delete` `pods`"),
        "{cleaned:?}"
    );
    assert!(!runner.memory().exists());
}

#[test]
fn the_jobs_secrets_stand_on_the_runners_side_only() {
    let runner = Runner::new();
    assert_eq!(runner.prepare(&[]).code, 0);
    assert_eq!(runner.script("true").code, 0);
    assert_eq!(
        holding(&runner.work(), "s3cret"),
        Vec::<std::path::PathBuf>::new()
    );
}

/// What a step that fails for its user is told depends on it.
#[test]
fn a_job_remembers_what_chose_its_user() {
    let template = |text: &str| {
        let runner = Runner::new();
        let path = runner.work().join("template.yaml");
        fs::write(&path, text).unwrap();
        let variable = "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE";
        let with = [(variable, path.to_str().unwrap())];
        let prepared = runner.call_with("prepare_job", &job(&[]), &with);
        assert_eq!(prepared.code, 0, "{prepared:?}");
        let record = fs::read(runner.memory().join("job.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["forced_user"].clone()
    };
    let uid = rustix::process::geteuid().as_raw();
    let annotation = template("metadata: {annotations: {arc-hook/run-as: runner}}");
    assert_eq!(annotation["by"], "Annotation", "{annotation}");
    assert_eq!(annotation["uid"], uid, "{annotation}");
    let specification = template(&format!("spec: {{securityContext: {{runAsUser: {uid}}}}}"));
    assert_eq!(specification["by"], "Specification", "{specification}");
    assert!(template("metadata: {annotations: {arc-hook/run-as: image}}").is_null());
}

#[test]
fn a_cache_that_the_jobs_user_cannot_write_is_told_before_any_step() {
    let runner = Runner::new();
    let template = runner.work().with_file_name("template.yaml");
    let text = "
spec:
  containers:
  - name: $job
    volumeMounts: [{name: cache, mountPath: /nowhere/cache}, {name: keys, mountPath: /keys}]
  volumes:
  - {name: cache, persistentVolumeClaim: {claimName: cache}}
  - {name: keys, secret: {secretName: keys}}
";
    fs::write(&template, text).unwrap();
    let template = template.display().to_string();
    let prepared = runner.call_with(
        "prepare_job",
        &job(&[]),
        &[("ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE", &template)],
    );
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let warnings: Vec<&str> = prepared
        .log
        .lines()
        .filter(|line| line.starts_with("::warning::") && line.contains("cannot write"))
        .collect();
    assert_eq!(warnings.len(), 1, "{prepared:?}");
    assert!(
        warnings[0].contains("cannot write `/nowhere/cache`") && warnings[0].contains("its parent"),
        "{prepared:?}"
    );
}
