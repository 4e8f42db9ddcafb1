//! What people do with kept jobs.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{CLAIMS, LEDGER, Retaining, WORK};
use crate::runner::{JOB_POD, RUNNER, Runner, holding};

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

    job.is_entered(&id);
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
