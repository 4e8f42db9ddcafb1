//! What `gc` takes, and who runs it.

use serde_json::{Value, json};

use super::{Caching, MAIN, said};
use crate::fake_api::Kind;

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
