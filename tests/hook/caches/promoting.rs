//! The good clone that becomes the next parent, and those that do not.

use super::{CLAIMS, Caching, MAIN, TEMPLATE, said};
use crate::fake_api::Kind;
use crate::runner::{JOB_POD, Outcome, Runner, signal, until};

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
    until("the step runs", || {
        caching.runner.trees()[0]
            .join("spool/steps")
            .read_dir()
            .is_ok_and(|mut steps| steps.next().is_some())
    });
    signal(&step, "-KILL");
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
fn a_long_chain_of_clones_is_told_with_what_ends_it() {
    let caching = Caching::new();
    caching.run(0);
    let told = |depth: u32| {
        let mut line = caching.line(MAIN).unwrap();
        let entry = line.nodes.get_mut("node-1").unwrap();
        entry.generations.last_mut().unwrap().depth = depth;
        let map = serde_json::to_value(line.to_config_map()).unwrap();
        caching.api().put("configmaps", map);
        let (_, cleaned) = caching.run(0);
        said(&cleaned, "Cache conan-home: promoted to octo/demo/main");
        cleaned.log.contains("arc-hook cache rebase octo/demo/main")
    };
    assert!(!told(62));
    assert!(told(63));
}
