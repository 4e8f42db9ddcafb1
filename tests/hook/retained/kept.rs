//! What stays of a failed job, what must not, and what keeps it from staying.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{CLAIMS, LABEL, Retaining, WORK, entries};
use crate::fake_api::Kind;
use crate::runner::{JOB_POD, RUNNER, holding, quote, service, until};

#[test]
fn a_failed_job_stays_when_its_runner_goes_and_nothing_of_its_secrets_does() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.prepare(&[]);
    let pid = job.runner.write("pid", "");
    let script = format!(
        "(sleep 600 & echo $! > {}); echo token $FROM_JOB; exit 3",
        pid.display()
    );
    let step = json!({
        "entryPoint": "sh", "entryPointArgs": ["-e", "-c", quote(&script)],
        "environmentVariables": {"GITHUB_ACTION": "__run_2", "GITHUB_SHA": "ffac537",
                                 "DEPLOY_KEY": "s3cret of the step"},
        "prependPath": ["/opt/tool"], "workingDirectory": job.runner.work()
    });
    assert_eq!(job.call("run_script_step", &step).code, 3);
    let cleaned = job.cleanup();

    let entry = job.entry();
    let id = entry["id"].as_str().unwrap();
    let last = cleaned.log.lines().last().unwrap();
    assert_eq!(
        last,
        format!("Enter it: arc-hook retained enter {id} --namespace ci"),
        "{cleaned:?}"
    );
    assert!(!cleaned.log.contains("s3cret"), "{cleaned:?}");
    assert_eq!(entry["exit"], 3);
    assert_eq!(entry["step"], "__run_2");
    assert_eq!(entry["repository"], "octo/demo");
    assert_eq!(
        entry["runUrl"],
        "https://github.com/octo/demo/actions/runs/42/attempts/1"
    );

    job.runner_goes();
    let pod = job.api().object("pods", JOB_POD).expect("the job's pod");
    let metadata = &pod["metadata"];
    assert_eq!(metadata["labels"], json!({LABEL: id}));
    assert!(metadata.get("ownerReferences").is_none(), "{metadata}");
    assert_eq!(metadata["annotations"]["arc-hook/exit-code"], "3");
    assert_eq!(metadata["annotations"]["arc-hook/failed-step"], "__run_2");
    let deadline = pod["spec"]["activeDeadlineSeconds"].as_i64().unwrap();
    assert!((86_300..=86_500).contains(&deadline), "{deadline}");
    let claim = job.api().object(CLAIMS, WORK).expect("the work claim");
    assert_eq!(claim["metadata"]["labels"][LABEL], id);

    let pid = fs::read_to_string(pid).unwrap();
    let alive = PathBuf::from(format!("/proc/{}", pid.trim())).exists();
    assert!(!alive, "a process of the job goes on");
    let tree = &job.runner.trees()[0];
    assert_eq!(holding(tree, "s3cret"), Vec::<PathBuf>::new());
    let kept = fs::read_to_string(tree.join("spool/kept.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["environment"]["GITHUB_SHA"], "ffac537");
    assert_eq!(kept["environment"]["HOME"], "/github/home");
    assert_eq!(kept["path"], json!(["/opt/tool"]));
    assert!(kept["script"].is_null() && kept["log"].is_null(), "{kept}");
    assert!(!job.runner.memory().exists());
}

#[test]
fn a_good_job_is_not_kept_and_asks_for_nothing() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.prepare(&[]);
    assert_eq!(job.runner.script("true").code, 0);
    job.cleanup();
    assert_eq!(job.api().names("pods"), [RUNNER]);
    assert_eq!(job.api().count("GET configmaps"), 0);
    assert!(job.runner.trees().is_empty());
}

#[test]
fn a_job_that_asks_for_it_is_not_kept() {
    let job = Retaining::new("arc-hook/retain: on-failure, arc-hook/retain-ttl: 1h");
    let mut request = crate::runner::job(&[]);
    let asked = &mut request["container"]["environmentVariables"];
    asked["ARC_HOOK_RETAIN"] = json!("never");
    job.prepare_with(&request);
    assert_eq!(job.runner.script("exit 3").code, 3);
    job.cleanup();
    assert_eq!(job.api().names("pods"), [RUNNER]);

    let mut request = crate::runner::job(&[]);
    let asked = &mut request["container"]["environmentVariables"];
    asked["ARC_HOOK_RETAIN"] = json!("always");
    asked["ARC_HOOK_RETAIN_TTL"] = json!("4h");
    let prepared = job.prepare_with(&request);
    assert_eq!(
        prepared.log.matches("::warning::").count(),
        2,
        "{prepared:?}"
    );
}

#[test]
fn a_failed_container_action_keeps_its_job() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.prepare(&[]);
    let action = json!({
        "image": "alpine", "entryPoint": "sh", "entryPointArgs": ["-c", quote("exit 4")],
        "environmentVariables": {"GITHUB_ACTION": "stamp", "INPUT_X": "s3cret of the action",
                                 "GITHUB_WORKSPACE": "/github/workspace", "GITHUB_SHA": "ffac537"},
        "workingDirectory": job.runner.work()
    });
    assert_eq!(job.call("run_container_step", &action).code, 4);
    job.cleanup();
    assert_eq!(job.api().names("pods"), [RUNNER, JOB_POD]);
    assert_eq!(job.entry()["step"], "stamp");
    let trees = job.runner.trees();
    assert_eq!(trees.len(), 1, "the action's own directories are gone");
    assert_eq!(holding(&trees[0], "s3cret"), Vec::<PathBuf>::new());
    let kept = fs::read_to_string(trees[0].join("spool/kept.json")).unwrap();
    assert!(
        kept.contains("ffac537") && !kept.contains("/github/workspace"),
        "{kept}"
    );
}

#[test]
fn missing_rights_are_one_warning_and_the_job_goes_as_ever() {
    for (method, resource) in [
        ("GET", "configmaps"),
        ("GET", CLAIMS),
        ("PATCH", CLAIMS),
        ("PATCH", "pods"),
    ] {
        let job = Retaining::new("arc-hook/retain: on-failure");
        let message = format!(
            "{resource} is forbidden: User \"system:serviceaccount:ci:runner\" \
            cannot {} resource \"{resource}\" in API group \"\" in the namespace \"ci\"",
            method.to_lowercase()
        );
        job.api()
            .fail(method, resource, 1, Kind::Status(403, "Forbidden", message));
        let cleaned = job.fail();
        assert_eq!(cleaned.log.matches("::warning::").count(), 1, "{cleaned:?}");
        assert!(cleaned.log.contains("patch on `pods`"), "{cleaned:?}");
        assert!(!cleaned.log.contains("Enter it"), "{cleaned:?}");
        assert_eq!(job.api().names("pods"), [RUNNER], "{method} {resource}");
        assert_eq!(entries(job.api()), Vec::<Value>::new());
        assert!(job.runner.trees().is_empty());
    }
}

#[test]
fn a_processor_that_cannot_be_given_back_is_told_and_harms_nothing() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    let text = "metadata: {annotations: {arc-hook/retain: on-failure}}\n\
        spec: {containers: [{name: $job, resources: {requests: {cpu: '2'}}}]}\n";
    fs::write(&job.template, text).unwrap();
    let none = Kind::Status(
        404,
        "NotFound",
        "the server could not find the resource".to_owned(),
    );
    job.api().fail("PATCH", "resize", 1, none);
    let cleaned = job.fail();
    assert!(
        cleaned.log.contains("its processors are not given back"),
        "{cleaned:?}"
    );
    assert_eq!(job.entry()["exit"], 3);
}

#[test]
fn a_work_claim_that_goes_already_or_is_anothers_is_told() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    let mut claim = job.api().object(CLAIMS, WORK).unwrap();
    claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    job.api().put(CLAIMS, claim.clone());
    let cleaned = job.fail();
    assert!(
        cleaned.log.contains("is being deleted already"),
        "{cleaned:?}"
    );
    assert_eq!(job.api().names("pods"), [RUNNER]);

    claim["metadata"] = json!({"name": WORK, "uid": "static"});
    job.api().put(CLAIMS, claim);
    let cleaned = job.fail();
    assert!(cleaned.log.contains("the next job needs it"), "{cleaned:?}");
    assert_eq!(job.api().names("pods"), [RUNNER]);
}

#[test]
fn of_a_job_whose_services_do_not_end_only_the_volumes_are_kept() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.prepare(&[service("redis")]);
    assert_eq!(job.runner.script("exit 3").code, 3);
    let cleaned = job.cleanup();
    assert!(
        cleaned
            .log
            .contains("Only the volumes are kept: service `redis` does not end"),
        "{cleaned:?}"
    );
    assert_eq!(job.api().names("pods"), [RUNNER]);
    assert_eq!(job.api().names("secrets"), Vec::<String>::new());
    let state = job.api().state();
    for ((kind, name), object) in &state.objects {
        assert!(!object.to_string().contains("s3cret"), "{kind} {name}");
        assert!(
            !object.to_string().contains("secretKeyRef"),
            "{kind} {name}"
        );
    }
}

#[test]
fn a_job_whose_steps_hook_was_killed_counts_as_failed() {
    // The runner's own word is missing here, so a step that never ended counts as failed.
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.prepare(&[]);
    let request = job.runner.script_request("sleep 60");
    let child = job.runner.start(&request, &[]);
    let outcomes = job.runner.memory().join("outcomes.jsonl");
    until("it has begun", || outcomes.exists());
    crate::runner::signal(&child, "-KILL");
    job.runner.finish(child);
    job.cleanup();
    assert_eq!(job.entry()["reason"], "the job failed");
}

#[test]
fn a_job_that_was_over_before_its_node_told_of_its_start_is_kept() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.prepare(&[]);
    assert_eq!(job.runner.script("exit 3").code, 3);
    let mut pod = job.api().object("pods", JOB_POD).unwrap();
    pod["status"]["phase"] = json!("Pending");
    job.api().put("pods", pod);
    let cleaned = job.cleanup();
    assert!(cleaned.log.contains("Enter it"), "{cleaned:?}");
}
