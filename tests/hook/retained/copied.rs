//! Workspaces whose volume cannot be kept, and which are copied to a claim of their own.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{CLAIMS, LABEL, Retaining, WORK, entries};
use crate::fake_api::{Cut, Kind};
use crate::runner::{JOB_POD, Outcome, RUNNER, Runner, holding};

const VOLUMES: &str = "arc-hook/retain: on-failure, arc-hook/retain-mode: volumes";

/// A job without a shared volume whose step leaves `file` and a secret, and fails.
fn without_a_volume(annotations: &str, file: &str) -> (Retaining, Outcome) {
    let job = Retaining::of(Runner::without_a_volume(), RUNNER, annotations);
    job.prepare(&[]);
    let own = job.runner.volume(JOB_POD);
    let script = format!(
        "cd {}; mkdir -p w/repo/repo/.git; {file}\n\
         ln -s kept w/repo/repo/link; ln -s /etc/passwd w/repo/repo/outside\n\
         printf '[http]\\n\\textraheader = AUTHORIZATION: %s\\n' \"$FROM_JOB\" > w/repo/repo/.git/config\n\
         echo \"$FROM_JOB\" > github/home/.git-credentials; echo rc > github/home/.profile; exit 3",
        own.display()
    );
    assert_eq!(job.runner.script(&script).code, 3);
    let cleaned = job.cleanup();
    (job, cleaned)
}

fn claims(job: &Retaining) -> PathBuf {
    job.runner.work().parent().unwrap().join("claims")
}

/// The pod that copied, as it was created.
fn copier(job: &Retaining) -> Value {
    let state = job.api().state();
    let is_it = |one: &&Value| one["spec"].to_string().contains(r#""init","kept""#);
    state.created.iter().find(is_it).cloned().unwrap()
}

#[test]
fn of_a_job_without_a_shared_volume_a_copy_is_kept_and_an_equal_pod_is_made_on_it() {
    let annotations = format!("{VOLUMES}, arc-hook/retain-storage-class: fast");
    let (job, cleaned) = without_a_volume(&annotations, "echo kept > w/repo/repo/kept");
    assert!(
        cleaned.log.contains("a copy of the job's files"),
        "{cleaned:?}"
    );
    assert!(!cleaned.log.contains("::warning::"), "{cleaned:?}");
    job.runner_goes();
    let id = job.entry()["id"].as_str().unwrap().to_owned();
    let name = format!("arc-hook-retained-{id}");
    assert_eq!(job.api().names("pods"), Vec::<String>::new());
    let claim = job.api().object(CLAIMS, &name).expect("the copy");
    assert_eq!(claim["metadata"]["labels"], json!({LABEL: id}));
    assert!(
        claim["metadata"].get("ownerReferences").is_none(),
        "{claim}"
    );
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(
        job.entry()["claims"],
        json!([{"name": name, "uid": claim["metadata"]["uid"]}])
    );

    let made = copier(&job);
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], RUNNER);
    assert_eq!(made["metadata"]["labels"]["runner-pod"], RUNNER);
    assert_eq!(made["spec"]["automountServiceAccountToken"], false);

    let copy = claims(&job).join(&name);
    let workspace = copy.join("w/repo/repo");
    assert_eq!(
        fs::read_to_string(workspace.join("kept")).unwrap(),
        "kept\n"
    );
    assert_eq!(
        fs::read_link(workspace.join("link")).unwrap(),
        Path::new("kept")
    );
    assert_eq!(
        fs::read_to_string(copy.join("github/home/.profile")).unwrap(),
        "rc\n"
    );
    assert_eq!(
        fs::read_to_string(copy.join("externals/node20/bin/node")).unwrap(),
        "node"
    );
    assert_eq!(holding(&copy, "s3cret"), Vec::<PathBuf>::new());

    job.is_entered(&id);
    let (_, out, _) = job.verb(&["retained", "list"]);
    assert!(out.contains(&id), "{out}");
    let (code, _, errors) = job.verb(&["retained", "extend", &id, "5h"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(job.verb(&["retained", "delete", &id]).0, 0);
    assert_eq!(job.api().names(CLAIMS), Vec::<String>::new());
    assert_eq!(job.api().names("pods"), Vec::<String>::new());
}

#[test]
fn nothing_stays_of_a_copy_that_would_be_too_large() {
    let annotations = format!("{VOLUMES}, arc-hook/retain-copy-limit: 1Mi");
    let (job, cleaned) = without_a_volume(
        &annotations,
        "head -c 2000000 /dev/zero | tr '\\0' x > w/repo/repo/large",
    );
    let told = "Not kept: the job's files are more than 1Mi (`arc-hook/retain-copy-limit`)";
    assert!(cleaned.log.contains(told), "{cleaned:?}");
    assert!(!cleaned.log.contains("::warning::"), "{cleaned:?}");
    assert_eq!(job.api().names("pods"), [RUNNER]);
    assert_eq!(job.api().names(CLAIMS), [WORK]);
    assert_eq!(entries(job.api()), Vec::<Value>::new());
    assert!(fs::read_dir(claims(&job)).unwrap().next().is_none());
}

#[test]
fn a_copy_whose_connection_breaks_is_made_whole() {
    let job = Retaining::of(Runner::without_a_volume(), RUNNER, VOLUMES);
    job.prepare(&[]);
    let own = job.runner.volume(JOB_POD);
    let script = format!(
        "mkdir -p {0}/w/repo/repo; head -c 300000 /dev/zero | tr '\\0' x > {0}/w/repo/repo/large; exit 3",
        own.display()
    );
    assert_eq!(job.runner.script(&script).code, 3);
    // The first is the scrub's, the second the job's relay, the third that of the copy.
    job.api().state().cuts.extend([
        Cut::None,
        Cut::Output(100_000),
        Cut::None,
        Cut::None,
        Cut::Input(50_000),
    ]);
    let cleaned = job.cleanup();
    assert!(job.api().state().cuts.is_empty(), "{cleaned:?}");
    let id = job.entry()["id"].as_str().unwrap().to_owned();
    let copy = claims(&job).join(format!("arc-hook-retained-{id}"));
    let large = fs::metadata(copy.join("w/repo/repo/large")).unwrap();
    assert_eq!(large.len(), 300_000);
}

/// A job in a pod that shares the work volume, whose work claim has this metadata when it fails.
fn shared(metadata: &Value) -> (Retaining, Outcome) {
    let job = Retaining::new(VOLUMES);
    let mut claim = job.api().object(CLAIMS, WORK).unwrap();
    for (key, value) in metadata.as_object().unwrap() {
        claim["metadata"][key] = value.clone();
    }
    claim["spec"] = json!({"storageClassName": "slow"});
    job.api().put(CLAIMS, claim);
    job.prepare(&[]);
    let tree = job.runner.trees()[0].clone();
    let script = format!(
        "echo kept > {}/runner_workspace/kept; exit 3",
        tree.display()
    );
    assert_eq!(job.runner.script(&script).code, 3);
    let cleaned = job.cleanup();
    (job, cleaned)
}

#[test]
fn of_a_work_claim_that_goes_already_or_is_anothers_a_copy_is_kept() {
    let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let owners = json!({"ownerReferences": null});
    for (metadata, why) in [
        (going, "is being deleted already"),
        (owners, "the next job needs it"),
    ] {
        let (job, cleaned) = shared(&metadata);
        assert!(cleaned.log.contains(why), "{cleaned:?}");
        assert!(
            job.runner.trees().is_empty(),
            "the job's directories stay on the work volume"
        );
        let id = job.entry()["id"].as_str().unwrap().to_owned();
        let name = format!("arc-hook-retained-{id}");
        let claim = job.api().object(CLAIMS, &name).expect("the copy");
        assert_eq!(claim["spec"]["storageClassName"], "slow");
        let copy = claims(&job).join(&name);
        assert_eq!(fs::read_to_string(copy.join("w/kept")).unwrap(), "kept\n");
        let map = job.api().object("configmaps", &name).unwrap();
        let pod: Value = serde_json::from_str(map["data"]["pod"].as_str().unwrap()).unwrap();
        assert!(!pod.to_string().contains(WORK), "{pod}");
        job.runner_goes();
        let (code, out, errors) =
            job.verb(&["retained", "enter", &id, "--", "sh", "-c", "echo in"]);
        assert_eq!((code, out.as_str()), (0, "in\n"), "{errors}");
    }
}

#[test]
fn of_a_work_claim_that_a_policy_protects_a_copy_is_kept() {
    let message =
        "admission webhook \"volumes.example.org\" denied the request: claims stay as they are";
    let job = Retaining::new(VOLUMES);
    job.api().fail(
        "PATCH",
        CLAIMS,
        1,
        Kind::Status(403, "Forbidden", message.to_owned()),
    );
    let cleaned = job.fail();
    assert!(cleaned.log.contains("volumes.example.org"), "{cleaned:?}");
    assert!(!cleaned.log.contains("::warning::"), "{cleaned:?}");
    let id = job.entry()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        job.entry()["claims"][0]["name"],
        format!("arc-hook-retained-{id}")
    );
    let work = job.api().object(CLAIMS, WORK).unwrap();
    assert!(work["metadata"]["labels"].is_null(), "{work}");
}

#[test]
fn a_work_claim_that_can_be_kept_is_not_copied() {
    let job = Retaining::new(VOLUMES);
    job.fail();
    assert_eq!(job.api().names(CLAIMS), [WORK]);
    assert_eq!(job.api().count(&format!("POST {CLAIMS}")), 0);
}

#[test]
fn without_the_right_to_make_a_claim_there_is_one_warning_with_the_rule() {
    let job = Retaining::of(Runner::without_a_volume(), RUNNER, VOLUMES);
    let message = "persistentvolumeclaims is forbidden: User \"system:serviceaccount:ci:runner\" cannot \
                   create resource \"persistentvolumeclaims\" in API group \"\" in the namespace \"ci\"";
    job.api().fail(
        "POST",
        CLAIMS,
        1,
        Kind::Status(403, "Forbidden", message.to_owned()),
    );
    job.prepare(&[]);
    assert_eq!(job.runner.script("exit 3").code, 3);
    let cleaned = job.cleanup();
    assert_eq!(cleaned.log.matches("::warning::").count(), 1, "{cleaned:?}");
    assert!(
        cleaned.log.contains("create on `persistentvolumeclaims`"),
        "{cleaned:?}"
    );
    assert_eq!(job.api().names("pods"), [RUNNER]);
    assert_eq!(entries(job.api()), Vec::<Value>::new());
}
