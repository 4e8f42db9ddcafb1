//! The clone that a job gets, or what it gets instead.

use serde_json::json;

use super::{CLAIMS, Caching, MAIN, TEMPLATE, said};
use crate::fake_api::Kind;
use crate::runner::{JOB_POD, Runner, job, until};

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
        until("the clone is asked for", || caching.claims().len() == 2);
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
