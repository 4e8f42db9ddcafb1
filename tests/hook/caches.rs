//! Caches: the parent that is chosen, the good clone that becomes the next, and what is left when
//! the hook dies in the middle.

use std::collections::BTreeSet;
use std::process::Command;

use arc_hook::cache::{Key, Line};
use serde_json::{Value, json};

use crate::fake_api::{BINARY, FakeApi, Kind};
use crate::runner::{JOB_POD, Outcome, Runner, job};

const CLAIMS: &str = "persistentvolumeclaims";
pub const MAIN: &str = "octo/demo/main";
const OLD: &str = "2020-01-01T00:00:00Z";

pub const TEMPLATE: &str = r#"
metadata:
  annotations:
    arc-hook/run-as: runner
    arc-hook/cache.conan-home: |
      parents: ["{repository}/{base_ref}", "{repository}/main"]
      promote:
        to: "{repository}/{ref_name}"
        repositories: [octo/*]
        events: [push, pull_request]
        refs: [refs/heads/**, refs/pull/**]
      keep: 1
      allow: [toolchain/*]
spec:
  containers:
  - name: $job
    env: [{name: CONAN_HOME, value: /CONAN_HOME}]
    volumeMounts: [{name: conan-home, mountPath: /CONAN_HOME}]
  volumes:
  - name: conan-home
    ephemeral:
      volumeClaimTemplate:
        spec:
          storageClassName: openebs-zfspv
          accessModes: [ReadWriteOnce]
          dataSource: {kind: PersistentVolumeClaim, name: seed}
          resources: {requests: {storage: 200Gi}}
"#;

/// A runner, and what it calls the hook with.
pub struct Caching {
    /// The runner.
    pub runner: Runner,
    template: String,
}

impl Caching {
    fn new() -> Self {
        Self::of(Runner::new(), TEMPLATE)
    }

    pub fn of(runner: Runner, template: &str) -> Self {
        let template = runner.write("pod-template/content", template);
        Self {
            runner,
            template: template.display().to_string(),
        }
    }

    pub fn api(&self) -> &FakeApi {
        &self.runner.api
    }

    /// A call as a push to main makes it, with these changes.
    pub fn call(&self, command: &str, args: &Value, with: &[(&str, &str)]) -> Outcome {
        let mut all = vec![
            (
                "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE",
                self.template.as_str(),
            ),
            ("GITHUB_REPOSITORY", "octo/demo"),
            ("GITHUB_REPOSITORY_OWNER", "octo"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_SHA", "ffac537e6cbbf934b08745a378932722df287a53"),
            ("GITHUB_RUN_ID", "42"),
            ("RUNNER_ARCH", "X64"),
        ];
        all.extend(with);
        self.runner.call_with(command, args, &all)
    }

    pub fn prepare(&self, with: &[(&str, &str)]) -> Outcome {
        let prepared = self.call("prepare_job", &job(&[]), with);
        assert_eq!(prepared.code, 0, "{prepared:?}");
        prepared
    }

    pub fn cleanup(&self, with: &[(&str, &str)]) -> Outcome {
        self.call("cleanup_job", &json!({}), with)
    }

    /// A job whose one step exits with this.
    pub fn run(&self, code: i32) -> (Outcome, Outcome) {
        let prepared = self.prepare(&[]);
        assert_eq!(self.runner.script(&format!("exit {code}")).code, code);
        (prepared, self.cleanup(&[]))
    }

    pub fn line(&self, key: &str) -> Option<Line> {
        line(self.api(), key)
    }

    /// Number of the current generation of main.
    fn current(&self) -> u64 {
        let line = self.line(MAIN).unwrap();
        line.current("node-1").unwrap().number
    }

    pub fn claims(&self) -> BTreeSet<String> {
        self.api().names(CLAIMS).into_iter().collect()
    }

    /// The pointer names a complete generation, or there is none yet.
    fn assert_whole(&self, key: &str) {
        let Some(line) = self.line(key) else { return };
        let current = line.current("node-1").expect("a current generation");
        let claim = self
            .api()
            .object(CLAIMS, &current.claim)
            .expect("its claim");
        assert_eq!(claim["metadata"]["uid"], *current.uid);
        assert_eq!(claim["metadata"]["labels"]["arc-hook/cache"], "generation");
        assert!(
            claim["metadata"].get("ownerReferences").is_none(),
            "{claim}"
        );
        assert_eq!(claim["status"]["phase"], "Bound");
    }

    /// What happens once the runner pod is deleted, and then the hours pass.
    pub fn later(&self) {
        let mut state = self.api().state();
        state.objects.retain(|_, object| {
            let owner = &object["metadata"]["ownerReferences"][0]["uid"];
            *owner != "uid-of-runner"
        });
        for object in state.objects.values_mut() {
            if let Some(sealed) = object.pointer_mut("/metadata/annotations/arc-hook~1sealed") {
                *sealed = json!(OLD);
            }
            let data = object.get_mut("data").and_then(Value::as_object_mut);
            for entry in data.into_iter().flat_map(|data| data.values_mut()) {
                let text = entry.as_str().unwrap();
                if let Ok(mut value @ Value::Object(_)) = serde_json::from_str::<Value>(text) {
                    let generations = value["generations"].as_array_mut().unwrap();
                    for one in generations {
                        if one["superseded"].is_string() {
                            one["superseded"] = json!(OLD);
                        }
                    }
                    *entry = json!(value.to_string());
                }
            }
        }
    }

    pub fn gc(&self, with: &[(&str, &str)]) -> String {
        self.collect(&[], with)
    }

    fn collect(&self, arguments: &[&str], with: &[(&str, &str)]) -> String {
        let output = Command::new(BINARY)
            .args(["gc", "--output", "json"])
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", self.runner.kubeconfig())
            .envs(with.iter().copied())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Claims that a line names.
    pub fn named(&self, key: &str) -> BTreeSet<String> {
        let line = self.line(key);
        let entries = line.iter().flat_map(|line| line.nodes.values());
        let generations = entries.flat_map(|entry| &entry.generations);
        generations.map(|one| one.claim.clone()).collect()
    }
}

fn line(api: &FakeApi, key: &str) -> Option<Line> {
    let key: Key = key.parse().unwrap();
    let object = api.object("configmaps", &key.object_name())?;
    let map = serde_json::from_value(object).unwrap();
    Some(Line::read(&map).unwrap())
}

pub fn said(outcome: &Outcome, text: &str) {
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let found = outcome.log.lines().any(|line| line.contains(text));
    assert!(found, "no `{text}` in {}", outcome.log);
}

#[test]
fn a_good_job_on_main_makes_the_parent_of_the_next() {
    let caching = Caching::new();
    let (prepared, cleaned) = caching.run(0);
    said(&prepared, "Cache conan-home: empty, in ");
    said(&prepared, "octo/demo/main: no such line");
    said(
        &cleaned,
        "Cache conan-home: promoted to octo/demo/main generation 1",
    );
    caching.assert_whole(MAIN);
    assert!(!caching.api().names("pods").contains(&JOB_POD.to_owned()));

    let prepared = caching.prepare(&[]);
    said(
        &prepared,
        "Cache conan-home: clone of octo/demo/main generation 1 (",
    );
    said(&prepared, "commit ffac537");
    let first = caching.line(MAIN).unwrap();
    let parent = first.current("node-1").unwrap();
    let pod = caching.api().object("pods", JOB_POD).unwrap();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let volume = volumes
        .iter()
        .find(|one| one["name"] == "conan-home")
        .unwrap();
    let claim = volume["persistentVolumeClaim"]["claimName"]
        .as_str()
        .unwrap();
    let claim = caching.api().object(CLAIMS, claim).unwrap();
    assert_eq!(claim["spec"]["dataSource"]["name"], *parent.claim);
    assert_eq!(
        claim["metadata"]["ownerReferences"][0]["uid"],
        "uid-of-runner"
    );
    assert_eq!(
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"],
        "node-1"
    );
    said(
        &caching.cleanup(&[]),
        "promoted to octo/demo/main generation 2",
    );
    let second = caching.line(MAIN).unwrap();
    let current = second.current("node-1").unwrap();
    assert_eq!(current.base.as_ref().unwrap().number, 1);
    assert_eq!((current.depth, current.lineage.run.as_str()), (1, "42"));
    assert_eq!(caching.claims(), caching.named(MAIN));
}

#[test]
fn the_templates_own_data_source_is_cloned_where_no_line_has_a_parent() {
    let caching = Caching::new();
    caching.api().put(
        CLAIMS,
        json!({"metadata": {"name": "seed", "uid": "u"},
               "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "other"},
               "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}}}),
    );
    said(
        &caching.prepare(&[]),
        "clone of claim `seed`, the template's dataSource",
    );
    let state = caching.api().state();
    let claim = state
        .created
        .iter()
        .find(|one| one["kind"] == "PersistentVolumeClaim");
    let spec = &claim.unwrap()["spec"];
    assert_eq!(spec["resources"]["requests"]["storage"], "10Gi");
    assert_eq!(spec["storageClassName"], "other");
}

#[test]
fn a_parent_that_is_missing_is_passed_over_and_told() {
    let caching = Caching::new();
    caching.run(0);
    let claim = caching.named(MAIN).pop_first().unwrap();
    let key = (CLAIMS.to_owned(), claim);
    caching.api().state().objects.remove(&key);
    let prepared = caching.prepare(&[]);
    said(&prepared, "generation 1: its claim does not exist");
    said(&prepared, "Cache conan-home: empty");
}

#[test]
fn a_parent_that_goes_while_its_clone_is_made_is_replaced() {
    let caching = Caching::new();
    caching.run(0);
    let parent = caching.named(MAIN).pop_first().unwrap();
    caching.api().state().claims_wait = true;
    let prepared = std::thread::scope(|scope| {
        let call = scope.spawn(|| caching.prepare(&[]));
        crate::runner::until("the clone is asked for", || caching.claims().len() == 2);
        let mut state = caching.api().state();
        state.objects.remove(&(CLAIMS.to_owned(), parent));
        state.claims_wait = false;
        drop(state);
        call.join().unwrap()
    });
    said(
        &prepared,
        "octo/demo/main generation 1 is gone; choosing anew",
    );
    said(&prepared, "Cache conan-home: empty, in ");
    assert_eq!(caching.claims().len(), 1, "the first attempt is gone");
}

#[test]
fn a_claim_that_is_not_bound_is_left_to_the_wait_for_the_pod() {
    let caching = Caching::new();
    caching.api().state().claims_wait = true;
    let prepared = caching.prepare(&[("ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS", "2")]);
    said(&prepared, "Cache conan-home: empty, not bound yet");
    assert_eq!(caching.claims().len(), 1);
}

#[test]
fn a_job_that_failed_or_was_cancelled_promotes_nothing() {
    let caching = Caching::new();
    let (_, cleaned) = caching.run(3);
    said(&cleaned, "not promoted: a step of the job failed");
    for (state, why) in [
        ("Failed", "not promoted: the job failed"),
        ("Canceled", "not promoted: the job was cancelled"),
    ] {
        caching.prepare(&[]);
        caching.runner.write(
            "_diag/Worker_20260101-000000-utc.log",
            &format!(
                "[2026-01-01 00:00:00Z INFO StepsRunner] Current state: job state = '{state}'\n"
            ),
        );
        said(&caching.cleanup(&[]), why);
    }
    assert!(caching.line(MAIN).is_none());
    assert!(caching.claims().is_empty(), "{:?}", caching.claims());
}

#[test]
fn a_step_whose_hook_was_killed_has_failed() {
    let caching = Caching::new();
    caching.prepare(&[]);
    let step = caching
        .runner
        .start(&caching.runner.script_request("echo on; sleep 60"), &[]);
    crate::runner::until("the step runs", || {
        caching.runner.trees()[0]
            .join("spool/steps")
            .read_dir()
            .is_ok_and(|mut steps| steps.next().is_some())
    });
    crate::runner::signal(&step, "-KILL");
    caching.runner.finish(step);
    said(
        &caching.cleanup(&[]),
        "not promoted: a step of the job failed",
    );
}

#[test]
fn a_pod_that_someone_else_deleted_is_not_promoted() {
    let caching = Caching::new();
    caching.prepare(&[]);
    caching.api().delete_pod(JOB_POD);
    said(
        &caching.cleanup(&[]),
        "not promoted: its pod was deleted by someone else",
    );
    assert!(caching.claims().is_empty());
}

/// What the runner's diagnostic log holds for a pull request.
fn worker_log(head: &str) -> String {
    let map = |pairs: &[(&str, Value)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| json!({"k": k, "v": v})).collect();
        json!({"t": 2, "d": pairs})
    };
    let repo = |name: &str| map(&[("repo", map(&[("full_name", json!(name))]))]);
    let pull_request = map(&[("head", repo(head)), ("base", repo("octo/demo"))]);
    let github = map(&[
        ("repository", json!("octo/demo")),
        ("run_id", json!("42")),
        ("event", map(&[("pull_request", pull_request)])),
    ]);
    let message = serde_json::to_string_pretty(&json!({"contextData": {"github": github}}));
    format!(
        "[2026-01-01 00:00:00Z INFO Worker] Job message:\n {}\n",
        message.unwrap()
    )
}

const PULL_REQUEST: [(&str, &str); 3] = [
    ("GITHUB_EVENT_NAME", "pull_request"),
    ("GITHUB_REF", "refs/pull/7/merge"),
    ("GITHUB_BASE_REF", "main"),
];

#[test]
fn a_pull_request_gets_the_generation_of_its_base_and_promotes_only_from_the_own_repository() {
    let caching = Caching::new();
    caching.run(0);
    for (log, why) in [
        (None, "counts as a fork's"),
        (Some("mallory/demo"), "comes from the fork `mallory/demo`"),
        (
            Some("octo/demo"),
            "promoted to octo/demo/refs%2Fpull%2F7%2Fmerge generation 1",
        ),
    ] {
        if let Some(head) = log {
            caching
                .runner
                .write("_diag/Worker_20260101-000000-utc.log", &worker_log(head));
        }
        let prepared = caching.prepare(&PULL_REQUEST);
        said(&prepared, "clone of octo/demo/main generation 1");
        // What the job can write has no say: neither a log of its own nor an event.
        let forged = caching.runner.work().join("_diag");
        std::fs::create_dir_all(&forged).unwrap();
        let name = "Worker_20990101-000000-utc.log";
        std::fs::write(forged.join(name), worker_log("octo/demo")).unwrap();
        said(&caching.cleanup(&PULL_REQUEST), why);
    }
    assert_eq!(caching.current(), 1);
}

#[test]
fn the_verdict_is_settled_before_the_job_runs() {
    let caching = Caching::new();
    caching.prepare(&PULL_REQUEST);
    // The runner says something else by the end, and so does a file that was not there before.
    caching.runner.write(
        "_diag/Worker_20260101-000000-utc.log",
        &worker_log("octo/demo"),
    );
    said(
        &caching.cleanup(&[]),
        "not promoted: the runner's diagnostic log does not tell",
    );
    assert!(caching.line(MAIN).is_none());
}

#[test]
fn a_ref_named_like_another_line_or_like_a_branch_reaches_neither() {
    let caching = Caching::new();
    caching.run(0);
    for (git_ref, line) in [
        ("refs/heads/octo/demo/main", "octo/demo/octo%2Fdemo%2Fmain"),
        ("refs/tags/main", ""),
        ("refs/heads/../main", "octo/demo/..%2Fmain"),
    ] {
        let with = [("GITHUB_REF", git_ref)];
        caching.prepare(&with);
        let cleaned = caching.cleanup(&with);
        if line.is_empty() {
            said(
                &cleaned,
                "the hook template does not promote `refs/tags/main`",
            );
        } else {
            said(&cleaned, &format!("promoted to {line} generation 1"));
        }
    }
    assert_eq!(caching.current(), 1);
}

#[test]
fn a_job_can_ask_for_allowed_lines_only_and_decides_nothing_else() {
    let caching = Caching::new();
    let toolchain = [
        ("GITHUB_REPOSITORY", "toolchain/gcc"),
        ("GITHUB_REF", "refs/heads/x"),
    ];
    caching.prepare(&toolchain);
    said(
        &caching.cleanup(&toolchain),
        "does not promote jobs of `toolchain/gcc`",
    );
    let mut request = job(&[]);
    let env = &mut request["container"]["environmentVariables"];
    env["ARC_HOOK_CACHE_CONAN_HOME"] = json!("octo/secret");
    env["GITHUB_EVENT_NAME"] = json!("push");
    env["GITHUB_REF"] = json!("refs/heads/main");
    let prepared = caching.call("prepare_job", &request, &PULL_REQUEST);
    said(
        &prepared,
        "`octo/secret`: the hook template does not allow it",
    );
    let forged = json!({"jobPod": "x", "caches": [{"volume": "conan-home"}]});
    said(
        &caching.call("cleanup_job", &forged, &PULL_REQUEST),
        "counts as a fork's",
    );
    request["container"]["environmentVariables"]["ARC_HOOK_CACHE_CONAN_HOME"] =
        json!("toolchain/gcc");
    said(
        &caching.call("prepare_job", &request, &[]),
        "toolchain/gcc: no such line",
    );
}

#[test]
fn of_two_jobs_that_began_together_the_first_wins_and_the_other_is_told() {
    let first = Caching::new();
    let second = Caching::of(Runner::beside(&first.runner, "runner-2"), TEMPLATE);
    first.run(0);
    first.prepare(&[]);
    second.prepare(&[]);
    said(
        &second.cleanup(&[]),
        "promoted to octo/demo/main generation 2",
    );
    said(
        &first.cleanup(&[]),
        "not promoted: octo/demo/main had generation 1 when this job began and now has generation \
         2: another job was faster",
    );
    assert_eq!(first.claims(), first.named(MAIN));
}

#[test]
fn of_many_jobs_at_once_one_promotes_in_each_round() {
    const JOBS: usize = 5;
    let first = Caching::new();
    let mut all: Vec<Caching> = (2..=JOBS)
        .map(|number| Runner::beside(&first.runner, &format!("runner-{number}")))
        .map(|runner| Caching::of(runner, TEMPLATE))
        .collect();
    all.push(first);
    for round in 1..=2 {
        std::thread::scope(|scope| {
            for one in &all {
                scope.spawn(|| one.prepare(&[]));
            }
        });
        let cleaned: Vec<Outcome> = std::thread::scope(|scope| {
            let calls: Vec<_> = all
                .iter()
                .map(|one| scope.spawn(|| one.cleanup(&[])))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let promoted = format!("promoted to {MAIN} generation {round}\n");
        let won = cleaned
            .iter()
            .filter(|one| one.log.contains(&promoted))
            .count();
        let lost = cleaned
            .iter()
            .filter(|one| one.log.contains("another job was faster"))
            .count();
        assert_eq!((won, lost), (1, JOBS - 1), "{cleaned:?}");
        all[0].assert_whole(MAIN);
        assert_eq!(all[0].claims(), all[0].named(MAIN));
    }
}

#[test]
fn whatever_kills_the_hook_the_pointer_names_a_whole_generation_and_gc_cleans_up() {
    // Where it dies, and which generation is the current one then.
    for (point, expected) in [
        ("claim-created", 1),
        ("pod-deleted", 1),
        ("pod-gone", 1),
        ("sealed", 1),
        ("verified", 1),
        ("swapped", 2),
    ] {
        let caching = Caching::new();
        caching.run(0);
        let fault = [("ARC_HOOK_FAULT", point)];
        let prepared = caching.call("prepare_job", &job(&[]), &fault);
        if point == "claim-created" {
            assert_eq!(prepared.code, -9, "{point}: {prepared:?}");
        } else {
            assert_eq!(prepared.code, 0, "{point}: {prepared:?}");
            let cleaned = caching.cleanup(&fault);
            assert_eq!(cleaned.code, -9, "{point}: {cleaned:?}");
        }
        caching.assert_whole(MAIN);
        assert_eq!(caching.current(), expected, "{point}");
        // Another `cleanup_job` of the same runner spoils nothing.
        caching.cleanup(&[]);
        caching.assert_whole(MAIN);
        assert_eq!(caching.current(), expected, "{point}");
        caching.later();
        caching.gc(&[]);
        caching.assert_whole(MAIN);
        assert_eq!(caching.claims(), caching.named(MAIN), "{point}");
    }
}

#[test]
fn the_loser_that_dies_and_gc_that_dies_leave_nothing_for_long() {
    let caching = Caching::new();
    let other = Caching::of(Runner::beside(&caching.runner, "runner-2"), TEMPLATE);
    for _ in 0..3 {
        caching.run(0);
    }
    caching.prepare(&[]);
    other.run(0);
    let cleaned = caching.cleanup(&[("ARC_HOOK_FAULT", "lost")]);
    assert_eq!(cleaned.code, -9, "{cleaned:?}");
    caching.assert_whole(MAIN);
    caching.later();
    // Two generations are beyond `keep: 1`; it dies when they are out of the line.
    assert_eq!(caching.gc(&[("ARC_HOOK_FAULT", "unlisted")]), "");
    caching.assert_whole(MAIN);
    assert_eq!(caching.named(MAIN).len(), 2);
    assert_eq!(caching.claims().len(), 4);
    let report: Value = serde_json::from_str(&caching.gc(&[])).unwrap();
    assert_eq!(report["removed"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(caching.claims(), caching.named(MAIN));
    assert_eq!(caching.claims().len(), 2);
}

#[test]
fn a_dry_run_tells_what_would_go_and_takes_nothing() {
    let caching = Caching::new();
    for _ in 0..4 {
        caching.run(0);
    }
    caching.later();
    let before = caching.api().state().objects.clone();
    let told = caching.collect(&["--dry-run"], &[]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["dryRun"], true);
    let numbers: Vec<&Value> = told["removed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["listed"]["number"])
        .collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(caching.api().state().objects, before);
    let went: Value = serde_json::from_str(&caching.gc(&[])).unwrap();
    assert_eq!(
        (&went["removed"], &went["dryRun"]),
        (&told["removed"], &json!(false))
    );
}

#[test]
fn of_jobs_that_end_together_one_collects() {
    let caching = Caching::new();
    for _ in 0..4 {
        caching.run(0);
    }
    caching.later();
    let lists = |caching: &Caching| caching.api().count("GET persistentvolumeclaims");
    let lease = |caching: &Caching| {
        let found = caching.api().object("leases", "arc-hook-gc").unwrap();
        found["spec"].clone()
    };
    // The last job has just looked.
    assert_eq!(lease(&caching).get("holderIdentity"), None);
    let collect = |caching: &Caching| {
        caching.prepare(&[]);
        let before = lists(caching);
        caching.cleanup(&[]);
        (lists(caching) - before, caching.named(MAIN).len())
    };
    let (_, left) = collect(&caching);
    assert_eq!(
        left, 5,
        "somebody has looked within the minute, so nobody does"
    );
    let renew = |time: &str| {
        let key = ("leases".to_owned(), "arc-hook-gc".to_owned());
        let mut state = caching.api().state();
        let spec = &mut state.objects.get_mut(&key).unwrap()["spec"];
        spec["renewTime"] = json!(time);
        spec["holderIdentity"] = json!("another");
    };
    renew("2999-01-01T00:00:00.000000Z");
    assert_eq!(collect(&caching).1, 6, "another holds it");
    // Its holder died long ago.
    renew("2020-01-01T00:00:00.000000Z");
    let (_, left) = collect(&caching);
    assert!(left < 6, "{left} are left");
    assert_eq!(lease(&caching).get("holderIdentity"), None);
    caching.assert_whole(MAIN);
}

#[test]
fn of_two_that_reach_for_the_lease_at_once_one_gets_it() {
    let caching = Caching::new();
    for _ in 0..4 {
        caching.run(0);
    }
    caching.later();
    let key = ("leases".to_owned(), "arc-hook-gc".to_owned());
    caching.api().state().objects.get_mut(&key).unwrap()["spec"]["renewTime"] =
        json!("2020-01-01T00:00:00.000000Z");
    caching.prepare(&[]);
    let conflict = "the object has been modified".to_owned();
    let faster = Kind::Status(409, "Conflict", conflict);
    caching.api().fail("PUT", "leases", 1, faster);
    said(&caching.cleanup(&[]), "promoted");
    assert_eq!(caching.named(MAIN).len(), 5, "the other one collects");
}

#[test]
fn an_answer_that_is_lost_promotes_once() {
    for (method, resource) in [
        ("PATCH", CLAIMS),
        ("POST", "configmaps"),
        ("PUT", "configmaps"),
        ("POST", CLAIMS),
    ] {
        let caching = Caching::new();
        if method == "PUT" {
            caching.run(0);
        }
        caching.api().fail(method, resource, 1, Kind::LostAnswer);
        let (_, cleaned) = caching.run(0);
        let number = if method == "PUT" { 2 } else { 1 };
        said(&cleaned, &format!("promoted to {MAIN} generation {number}"));
        caching.assert_whole(MAIN);
        assert_eq!(caching.claims(), caching.named(MAIN), "{method} {resource}");
    }
}

#[test]
fn missing_rights_are_one_warning_and_the_job_runs_on_the_templates_volume() {
    for (method, resource, verb) in [("GET", "configmaps", "get"), ("POST", CLAIMS, "create")] {
        let caching = Caching::new();
        let message = format!(
            "{resource} is forbidden: User \"system:serviceaccount:ci:runner\" cannot {verb} \
             resource \"{resource}\" in API group \"\" in the namespace \"ci\""
        );
        caching
            .api()
            .fail(method, resource, 9, Kind::Status(403, "Forbidden", message));
        let prepared = caching.prepare(&[]);
        let warnings: Vec<_> = prepared
            .log
            .lines()
            .filter(|line| line.starts_with("::warning::") && line.contains("rights"))
            .collect();
        assert_eq!(warnings.len(), 1, "{}", prepared.log);
        for part in [verb, resource, "patch", "arc-hook rbac"] {
            assert!(warnings[0].contains(part), "{part}: {}", warnings[0]);
        }
        let pod = caching.api().object("pods", JOB_POD).unwrap();
        let volumes = pod["spec"]["volumes"].to_string();
        assert!(volumes.contains("volumeClaimTemplate"), "{volumes}");
        assert_eq!(caching.runner.script("true").code, 0);
        assert!(!caching.cleanup(&[]).log.contains("Cache"));
    }
}

#[test]
fn a_container_action_gets_the_clone_where_two_pods_can_mount_it() {
    let action = |caching: &Caching| {
        let args = json!({
            "image": "alpine", "entryPoint": "true", "entryPointArgs": [],
            "environmentVariables": {}, "workingDirectory": caching.runner.work()
        });
        let outcome = caching.call("run_container_step", &args, &[]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let state = caching.api().state();
        let mut pods = state.created.iter().filter(|one| one["kind"] == "Pod");
        (outcome.log, pods.next_back().unwrap()["spec"].to_string())
    };
    let alone = Caching::new();
    alone.prepare(&[]);
    let (log, spec) = action(&alone);
    assert!(log.contains("not at `/CONAN_HOME` in this action"), "{log}");
    assert!(log.contains("`shared: true`"), "{log}");
    assert!(!spec.contains("conan-home"), "{spec}");

    let template = TEMPLATE.replace("keep: 1", "shared: true");
    let shared = Caching::of(Runner::new(), &template);
    shared.prepare(&[]);
    let claim = shared.claims().pop_first().unwrap();
    let (log, spec) = action(&shared);
    assert_eq!(log, "");
    assert!(spec.contains(&claim), "{spec}");
}

#[test]
fn a_job_that_cannot_be_prepared_leaves_no_claim() {
    let caching = Caching::new();
    let message = "exceeded quota: q, requested: pods=1".to_owned();
    caching
        .api()
        .fail("POST", "pods", 99, Kind::Status(403, "Forbidden", message));
    let prepared = caching.call("prepare_job", &job(&[]), &[]);
    assert_eq!(prepared.code, 1, "{prepared:?}");
    assert!(caching.claims().is_empty());
}

#[test]
fn a_job_that_shares_no_volume_follows_its_cache_to_the_runners_node() {
    let caching = Caching::of(Runner::without_a_volume(), TEMPLATE);
    let (_, cleaned) = caching.run(0);
    said(
        &cleaned,
        "Cache conan-home: promoted to octo/demo/main generation 1",
    );
    caching.assert_whole(MAIN);
    let prepared = caching.prepare(&[]);
    said(
        &prepared,
        "Cache conan-home: clone of octo/demo/main generation 1 (",
    );
    said(&prepared, "none is shared with pod");
    let pod = caching.api().object("pods", JOB_POD).unwrap();
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let claim = volumes
        .iter()
        .find_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
        .unwrap();
    let claim = caching.api().object(CLAIMS, claim).unwrap();
    let node = &claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"];
    assert_eq!(node, "node-1", "generations of the runner's node count");
    // Nothing but the clone's volume ties the pod to a node.
    assert!(pod["spec"]["affinity"].is_null(), "{pod}");
}
