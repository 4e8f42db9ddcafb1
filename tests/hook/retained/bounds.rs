//! How many jobs are kept, and who goes first.

use std::collections::BTreeSet;

use serde_json::json;

use super::{CLAIMS, LABEL, Retaining, entries};
use crate::fake_api::{Kind, Kubelet};
use crate::runner::{JOB_POD, Runner, until};

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

#[test]
fn one_that_is_crowded_out_before_it_was_kept_is_left_to_its_runner() {
    let annotations = "arc-hook/retain: on-failure, arc-hook/retain-max: '1'";
    let first = Retaining::new(annotations);
    first.fail();
    let name = "runner-2";
    let second = Retaining::of(Runner::beside(&first.runner, name), name, annotations);
    second.prepare(&[]);
    assert_eq!(second.runner.script("exit 3").code, 3);
    let message = "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'arc-hook-deletions' with binding \
                   'arc-hook-deletions' denied request: a runner deletes what is its own";
    let denied = || Kind::Status(422, "Invalid", message.to_owned());
    first.api().fail("DELETE", "pods", 1, denied());
    first.api().fail("DELETE", CLAIMS, 1, denied());
    let cleaned = second.cleanup();
    assert!(cleaned.log.contains("Enter it"), "{cleaned:?}");
    assert!(!cleaned.log.contains("::warning::"), "{cleaned:?}");
    assert_eq!(second.entry()["pod"], "runner-2-workflow");
    assert!(first.api().names("pods").contains(&JOB_POD.to_owned()));
}

#[test]
fn a_node_that_runs_short_loses_its_oldest_kept_job_to_gc() {
    let job = Retaining::new("arc-hook/retain: on-failure");
    job.fail();
    job.runner_goes();
    let entry = job.entry();
    let (id, node) = (entry["id"].as_str().unwrap(), &entry["node"]);
    let node_with = |status: &str| {
        json!({"metadata": {"name": node}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": status}]}})
    };
    job.api().put("nodes", node_with("False"));
    let (_, out, errors) = job.verb(&["gc"]);
    assert_eq!(out, "nothing to remove\n", "{errors}");
    job.api().put("nodes", node_with("True"));
    let (_, out, errors) = job.verb(&["gc"]);
    assert_eq!(
        out,
        format!("removed kept job {id} (octo/demo): its node runs short\n"),
        "{errors}"
    );
    assert_eq!(job.api().names("pods"), Vec::<String>::new());
}
