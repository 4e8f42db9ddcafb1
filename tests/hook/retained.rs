//! Failed jobs that are kept: what of them stays, what must not, how many, and for how long.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::fake_api::{BINARY, FakeApi, Kind, Kubelet};
use crate::runner::{JOB_POD, Outcome, RUNNER, Runner, holding, job, quote, service, until};

const CLAIMS: &str = "persistentvolumeclaims";
const WORK: &str = "runner-1-work";
const LEDGER: &str = "arc-hook-retained";
const LABEL: &str = "arc-hook/retained";

/// A runner whose template keeps jobs.
struct Retaining {
    runner: Runner,
    template: PathBuf,
}

impl Retaining {
    fn new(annotations: &str) -> Self {
        Self::of(Runner::new(), RUNNER, annotations)
    }

    fn of(runner: Runner, name: &str, annotations: &str) -> Self {
        let text =
            format!("metadata:\n  annotations: {{{annotations}}}\nspec: {{containers: []}}\n");
        let template = runner.write("pod-template/content", &text);
        let work = format!("{name}-work");
        runner.api.put(
            CLAIMS,
            json!({"metadata": {"name": work, "uid": format!("uid-of-{work}"), "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "x", "controller": true}]}}),
        );
        Self { runner, template }
    }

    fn api(&self) -> &FakeApi {
        &self.runner.api
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        vec![
            (
                "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE",
                self.template.to_str().unwrap(),
            ),
            ("GITHUB_REPOSITORY", "octo/demo"),
            ("GITHUB_RUN_ID", "42"),
            ("GITHUB_RUN_ATTEMPT", "1"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_JOB", "build"),
        ]
    }

    fn call(&self, command: &str, args: &Value) -> Outcome {
        self.runner.call_with(command, args, &self.environment())
    }

    fn prepare(&self, services: &[Value]) {
        self.prepare_with(&job(services));
    }

    fn prepare_with(&self, job: &Value) -> Outcome {
        let prepared = self.call("prepare_job", job);
        assert_eq!(prepared.code, 0, "{prepared:?}");
        prepared
    }

    fn cleanup(&self) -> Outcome {
        let cleaned = self.call("cleanup_job", &json!({}));
        assert_eq!(cleaned.code, 0, "{cleaned:?}");
        cleaned
    }

    /// A job whose one step fails.
    fn fail(&self) -> Outcome {
        self.prepare(&[]);
        assert_eq!(self.runner.script("exit 3").code, 3);
        self.cleanup()
    }

    /// The one entry of the ledger.
    fn entry(&self) -> Value {
        let entries = entries(self.api());
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].clone()
    }

    /// Runs a verb as from a laptop.
    fn verb(&self, words: &[&str]) -> (i32, String, String) {
        let output = Command::new(BINARY)
            .args(words)
            .env_clear()
            .env("KUBECONFIG", self.runner.kubeconfig())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    /// What ARC does next: all that bears the runner's label goes, then the runner, then what it owns.
    fn runner_goes(&self) {
        let mut state = self.api().state();
        state.objects.retain(|_, object| {
            let metadata = &object["metadata"];
            let owned = &metadata["ownerReferences"][0]["name"];
            metadata["labels"]["runner-pod"] != RUNNER
                && owned != RUNNER
                && metadata["name"] != RUNNER
        });
    }
}

fn entries(api: &FakeApi) -> Vec<Value> {
    let ledger = api.object("configmaps", LEDGER).unwrap_or_default();
    let data = ledger["data"].as_object().cloned().unwrap_or_default();
    data.values()
        .map(|text| serde_json::from_str(text.as_str().unwrap()).unwrap())
        .collect()
}

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
fn of_jobs_that_fail_at_once_as_many_stay_as_may() {
    const AT_ONCE: usize = 8;
    let annotations = "arc-hook/retain: on-failure, arc-hook/retain-max: '3'";
    let first = Retaining::new(annotations);
    let mut jobs = Vec::new();
    for number in 2..=AT_ONCE {
        let name = format!("runner-{number}");
        let runner = Runner::beside(&first.runner, &name);
        jobs.push(Retaining::of(runner, &name, annotations));
    }
    jobs.push(first);
    for job in &jobs {
        job.prepare(&[]);
        assert_eq!(job.runner.script("exit 3").code, 3);
    }
    let cleaning: Vec<_> = jobs
        .iter()
        .map(|job| {
            let request = job.runner.request("cleanup_job", &json!({}));
            job.runner.start(&request, &job.environment())
        })
        .collect();
    let logs: Vec<String> = jobs
        .iter()
        .zip(cleaning)
        .map(|(job, child)| job.runner.finish(child).log)
        .collect();
    let api = jobs[0].api();
    let listed: BTreeSet<String> = entries(api)
        .iter()
        .map(|entry| entry["pod"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed.len(), 3, "{logs:?}");
    let pods: BTreeSet<String> = api
        .names("pods")
        .into_iter()
        .filter(|name| name.ends_with("-workflow"))
        .collect();
    assert_eq!(pods, listed);
    let claims = api.names(CLAIMS);
    let kept = claims.iter().filter(|name| {
        let claim = api.object(CLAIMS, name).unwrap();
        claim["metadata"]["labels"][LABEL].is_string()
    });
    assert_eq!(kept.count(), 3);
}

#[test]
fn of_a_job_whose_volumes_are_kept_an_equal_pod_can_be_made() {
    let annotations = "arc-hook/retain: on-failure, arc-hook/retain-mode: volumes";
    let job = Retaining::new(annotations);
    let cleaned = job.fail();
    assert!(
        cleaned.log.contains("Kept: the job's volumes"),
        "{cleaned:?}"
    );
    job.runner_goes();
    let id = job.entry()["id"].as_str().unwrap().to_owned();
    assert_eq!(job.api().names("pods"), Vec::<String>::new());
    assert_eq!(job.api().names(CLAIMS), [WORK]);
    let map = job
        .api()
        .object("configmaps", &format!("arc-hook-retained-{id}"))
        .unwrap();
    let pod: Value = serde_json::from_str(map["data"]["pod"].as_str().unwrap()).unwrap();
    assert_eq!(pod["spec"]["containers"][0]["name"], "job");
    assert!(!pod.to_string().contains("s3cret"));
    let (code, out, _) = job.verb(&["retained", "delete", &id]);
    assert_eq!((code, out), (0, format!("deleted {id} (octo/demo 42.1)\n")));
    assert_eq!(job.api().names(CLAIMS), Vec::<String>::new());
    assert_eq!(job.api().names("configmaps"), [LEDGER]);
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
fn a_job_without_a_shared_volume_is_scrubbed_entered_and_run_again() {
    let runner = Runner::without_a_volume();
    let annotations = "arc-hook/retain: on-failure, arc-hook/retain-script: 'true'";
    let job = Retaining::of(runner, RUNNER, annotations);
    job.prepare(&[]);
    let own = job.runner.volume(JOB_POD);
    let script = format!(
        "cd {}; mkdir -p w/repo/repo/.git github/home; echo 'kept' > w/repo/repo/kept\n\
         printf '[http]\\n\\textraheader = AUTHORIZATION: %s\\n' \"$FROM_JOB\" > w/repo/repo/.git/config\n\
         echo \"$FROM_JOB\" > w/_temp/0f9a1b2c-0123-4567-89ab-0123456789ab.sh\n\
         echo \"$FROM_JOB\" > github/home/.git-credentials; echo \"I know $FROM_JOB\"\n\
         test -e {}/fixed || exit 5; echo repaired",
        own.display(),
        own.display()
    );
    assert_eq!(job.runner.script(&script).code, 5);
    let cleaned = job.cleanup();
    assert_eq!(
        holding(&own, "s3cret"),
        Vec::<PathBuf>::new(),
        "{cleaned:?}"
    );
    for told in ["extraheader", "cleaned | "] {
        assert_eq!(
            cleaned.log.contains(told),
            told != "extraheader",
            "{cleaned:?}"
        );
    }
    assert_eq!(
        fs::read_to_string(own.join("w/repo/repo/kept")).unwrap(),
        "kept\n"
    );
    job.runner_goes();
    let id = job.entry()["id"].as_str().unwrap().to_owned();

    let (code, out, errors) = job.verb(&[
        "retained",
        "enter",
        &id,
        "--",
        "sh",
        "-c",
        "echo $HOME; exit 7",
    ]);
    assert_eq!((code, out.as_str()), (7, "/github/home\n"), "{errors}");
    let (code, out, errors) = job.verb(&["retained", "logs", &id]);
    assert_eq!((code, out.as_str()), (0, "I know ***\n"), "{errors}");
    let (code, ..) = job.verb(&["retained", "enter", &id, "--rerun"]);
    assert_eq!(code, 5);
    fs::write(own.join("fixed"), "").unwrap();
    let (code, out, errors) = job.verb(&["retained", "enter", &id[..4], "--rerun"]);
    assert_eq!(
        (code, out.lines().last()),
        (0, Some("repaired")),
        "{errors}"
    );
}

#[test]
fn a_kept_job_is_listed_extended_and_gone_after_its_time() {
    let job = Retaining::new(
        "arc-hook/retain: on-failure, arc-hook/retain-ttl: 1h, arc-hook/retain-max-ttl: 2h",
    );
    job.fail();
    job.runner_goes();
    let id = job.entry()["id"].as_str().unwrap().to_owned();
    let (code, out, _) = job.verb(&["retained", "list"]);
    assert!(
        code == 0 && out.contains(&id) && out.contains("octo/demo"),
        "{out}"
    );
    let (_, out, _) = job.verb(&["retained", "list", "--output", "json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["retained"][0]["pod"], JOB_POD);

    let before = job.entry()["expires"].clone();
    let (code, _, errors) = job.verb(&["retained", "extend", &id, "90m"]);
    assert_eq!(code, 0, "{errors}");
    let after = job.entry()["expires"].clone();
    assert_ne!(before, after);
    let pod = job.api().object("pods", JOB_POD).unwrap();
    assert_eq!(pod["metadata"]["annotations"]["arc-hook/expires"], after);
    let (code, _, errors) = job.verb(&["retained", "extend", &id, "3h"]);
    assert!(code == 2 && errors.contains("retain-max-ttl"), "{errors}");
    assert_eq!(job.entry()["expires"], after);

    let (_, out, _) = job.verb(&["gc", "--dry-run"]);
    assert_eq!(out, "nothing to remove\n");
    let mut ledger = job.api().object("configmaps", LEDGER).unwrap();
    let mut entry = job.entry();
    entry["expires"] = json!("2020-01-01T00:00:00Z");
    ledger["data"][&id] = json!(entry.to_string());
    job.api().put("configmaps", ledger);
    let (code, out, errors) = job.verb(&["gc"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(
        out,
        format!("removed kept job {id} (octo/demo): its time is up\n")
    );
    assert_eq!(job.api().names("pods"), Vec::<String>::new());
    assert_eq!(job.api().names(CLAIMS), Vec::<String>::new());
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
fn a_kept_job_makes_way_for_one_that_finds_no_room() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.fail();
    job.runner_goes();
    let name = "runner-2";
    let runner = Runner::beside(&job.runner, name);
    let next = Retaining::of(runner, name, "arc-hook/retain: on-failure");
    let message = "0/1 nodes are available: 1 Insufficient memory.";
    next.api().state().kubelet = Kubelet::Status(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}));
    let request = next.runner.request("prepare_job", &crate::runner::job(&[]));
    let child = next.runner.start(&request, &next.environment());
    until("the kept job is gone", || {
        entries(next.api()).is_empty() && !next.api().names("pods").contains(&JOB_POD.to_owned())
    });
    crate::runner::signal(&child, "-INT");
    let prepared = next.runner.finish(child);
    assert!(prepared.log.contains("makes way"), "{prepared:?}");
}
