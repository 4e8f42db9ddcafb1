//! What is left when the hook dies in the middle, and that it goes.

use serde_json::Value;

use super::{Caching, MAIN, TEMPLATE};
use crate::runner::{Runner, job};

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
