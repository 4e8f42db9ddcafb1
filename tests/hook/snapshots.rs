//! Caches whose generations are `VolumeSnapshot`s: the same protocol on another kind of object.

use arc_hook::cache::{Generation, Kind};
use serde_json::json;

use crate::caches::{Caching, MAIN, TEMPLATE, said};
use crate::fake_api::Kind as Failure;
use crate::runner::{JOB_POD, Runner, job};

const CLAIMS: &str = "persistentvolumeclaims";
const SNAPSHOTS: &str = "volumesnapshots";

fn caching() -> Caching {
    Caching::of(Runner::new(), &template())
}

fn template() -> String {
    TEMPLATE.replace(
        "keep: 1",
        "keep: 1\n      via: snapshot\n      snapshot-class: ebs",
    )
}

fn current(caching: &Caching) -> Generation {
    let line = caching.line(MAIN).unwrap();
    line.current("_").unwrap().clone()
}

/// The pointer names a snapshot that is there and owned by nobody, and no job has left a claim.
fn assert_whole(caching: &Caching) {
    let one = current(caching);
    assert_eq!(one.kind, Kind::Snapshot);
    let snapshot = caching.api().object(SNAPSHOTS, &one.claim).unwrap();
    assert_eq!(snapshot["metadata"]["uid"], *one.uid);
    assert_eq!(
        snapshot["metadata"]["labels"]["arc-hook/cache"],
        "generation"
    );
    assert!(
        snapshot["metadata"].get("ownerReferences").is_none(),
        "{snapshot}"
    );
    assert_eq!(snapshot["status"]["readyToUse"], true);
}

#[test]
fn a_good_job_leaves_a_snapshot_from_which_the_next_is_restored_on_any_node() {
    let caching = caching();
    let (_, cleaned) = caching.run(0);
    said(
        &cleaned,
        "Cache conan-home: promoted to octo/demo/main generation 1",
    );
    assert_whole(&caching);
    assert!(caching.claims().is_empty(), "{:?}", caching.claims());
    let first = current(&caching);
    let taken = caching.api().object(SNAPSHOTS, &first.claim).unwrap();
    assert_eq!(taken["spec"]["volumeSnapshotClassName"], "ebs");

    let prepared = caching.prepare(&[]);
    said(
        &prepared,
        "Cache conan-home: clone of octo/demo/main generation 1 (",
    );
    let claim = caching.claims().pop_first().unwrap();
    let claim = caching.api().object(CLAIMS, &claim).unwrap();
    assert_eq!(
        claim["spec"]["dataSource"],
        json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot",
               "name": first.claim})
    );
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "200Gi");
    said(
        &caching.cleanup(&[]),
        "promoted to octo/demo/main generation 2",
    );
    assert_whole(&caching);
    assert_eq!(current(&caching).base.unwrap().uid, first.uid);
    assert!(caching.claims().is_empty());
}

#[test]
fn whatever_kills_the_hook_the_pointer_names_a_ready_snapshot_and_gc_cleans_up() {
    for (point, expected) in [
        ("pod-gone", 1),
        ("sealed", 1),
        ("verified", 1),
        ("swapped", 2),
    ] {
        let caching = caching();
        caching.run(0);
        caching.prepare(&[]);
        let cleaned = caching.cleanup(&[("ARC_HOOK_FAULT", point)]);
        assert_eq!(cleaned.code, -9, "{point}: {cleaned:?}");
        assert_whole(&caching);
        assert_eq!(current(&caching).number, expected, "{point}");
        caching.later();
        caching.gc(&[]);
        assert_whole(&caching);
        assert_eq!(
            caching.api().names(SNAPSHOTS).len(),
            caching.named(MAIN).len(),
            "{point}"
        );
        assert!(caching.claims().is_empty(), "{point}");
    }
}

#[test]
fn a_second_cleanup_takes_nothing_back() {
    let caching = caching();
    caching.run(0);
    caching.prepare(&[]);
    caching.cleanup(&[("ARC_HOOK_FAULT", "swapped")]);
    caching.cleanup(&[]);
    assert_whole(&caching);
    assert_eq!(current(&caching).number, 2);
    assert!(caching.claims().is_empty());
}

#[test]
fn the_one_that_is_late_takes_no_snapshot() {
    let first = caching();
    let second = Caching::of(Runner::beside(&first.runner, "runner-2"), &template());
    first.run(0);
    first.prepare(&[]);
    second.run(0);
    said(&first.cleanup(&[]), "another job was faster");
    assert_eq!(first.api().names(SNAPSHOTS).len(), 2);
    assert!(first.claims().is_empty());
}

#[test]
fn superseded_snapshots_go_beyond_what_is_kept() {
    let caching = caching();
    for _ in 0..4 {
        caching.run(0);
    }
    caching.later();
    let report = caching.gc(&[]);
    assert_eq!(
        report.matches(r#""kind": "snapshot""#).count(),
        2,
        "{report}"
    );
    assert_eq!(caching.api().names(SNAPSHOTS).len(), 2);
    assert_whole(&caching);
}

#[test]
fn a_snapshot_that_is_gone_is_passed_over_and_told() {
    let caching = caching();
    caching.run(0);
    let key = (SNAPSHOTS.to_owned(), current(&caching).claim);
    caching.api().state().objects.remove(&key);
    let prepared = caching.prepare(&[]);
    said(&prepared, "generation 1: its snapshot does not exist");
    said(&prepared, "Cache conan-home: empty");
}

#[test]
fn without_the_right_to_take_one_the_job_is_good_and_the_log_says_why_it_promotes_nothing() {
    let caching = caching();
    let message = "volumesnapshots.snapshot.storage.k8s.io is forbidden: User \
                   \"system:serviceaccount:ci:runner\" cannot create resource \"volumesnapshots\"";
    let forbidden = Failure::Status(403, "Forbidden", message.to_owned());
    caching.api().fail("POST", SNAPSHOTS, 9, forbidden);
    assert_eq!(caching.call("prepare_job", &job(&[]), &[]).code, 0);
    assert!(caching.api().object("pods", JOB_POD).is_some());
    let cleaned = caching.cleanup(&[]);
    said(
        &cleaned,
        "not promoted: create snapshot `snapshot-conan-home-",
    );
    assert!(caching.line(MAIN).is_none());
}
