//! `arc-hook cache`: each verb as a person calls it, on an API server that binds claims and runs
//! Jobs at once.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::fake_api::{BINARY, Kind};
use crate::runner::{Runner, until};

const LINE: &str = "octo/demo/main";

/// A namespace with a claim that is filled.
fn namespace() -> Runner {
    let runner = Runner::outside_a_pod();
    runner.api.put("persistentvolumeclaims", claim("toolchain"));
    runner
}

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "ci", "uid": format!("uid-of-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "openebs-zfspv",
                 "volumeName": "pv-1", "resources": {"requests": {"storage": "199Gi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "200Gi"}}
    })
}

fn call(runner: &Runner, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("cache")
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", runner.kubeconfig())
        .env("USER", "alice")
        .output()
        .unwrap()
}

fn done(runner: &Runner, arguments: &[&str]) -> String {
    let output = call(runner, arguments);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(runner: &Runner, arguments: &[&str]) -> String {
    let output = call(runner, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A line with one generation, imported.
fn begun() -> Runner {
    let runner = namespace();
    done(
        &runner,
        &["init", LINE, "--from", "toolchain", "--node", "node-1"],
    );
    runner
}

/// The generations of the line on its node, as `list` has them.
fn generations(runner: &Runner) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&done(runner, &["list", "--output", "json"])).unwrap();
    let all = listed["lines"][0]["nodes"][0]["generations"].as_array();
    all.cloned().unwrap_or_default()
}

fn current(runner: &Runner) -> Value {
    let shown: Value =
        serde_json::from_str(&done(runner, &["show", LINE, "--output", "json"])).unwrap();
    shown["nodes"][0]["current"].clone()
}

fn of(runner: &Runner, resource: &str, name: &str) -> Value {
    let key = (resource.to_owned(), name.to_owned());
    runner.api.state().objects[&key].clone()
}

/// Has a claim be bound by now.
fn bind(runner: &Runner, claim: &str) {
    let key = ("persistentvolumeclaims".to_owned(), claim.to_owned());
    runner.api.state().objects.get_mut(&key).unwrap()["status"] =
        json!({"phase": "Bound", "capacity": {"storage": "200Gi"}});
}

/// A person's clone of the current generation, worked on.
fn cloned(runner: &Runner, name: &str) {
    done(runner, &["clone", LINE, "--name", name]);
}

#[test]
fn an_imported_parent_is_a_sealed_clone_and_the_claim_stays() {
    let runner = begun();
    let generations = generations(&runner);
    assert_eq!(generations.len(), 1);
    let first = &generations[0];
    assert_eq!((&first["number"], &first["depth"]), (&json!(1), &json!(1)));
    assert_eq!(first["lineage"]["event"], "init");
    assert_eq!(first["lineage"]["actor"], "alice");
    let sealed = of(
        &runner,
        "persistentvolumeclaims",
        first["claim"].as_str().unwrap(),
    );
    assert_eq!(sealed["metadata"]["labels"]["arc-hook/cache"], "generation");
    assert_eq!(
        sealed["metadata"]["annotations"]["arc-hook/generation"],
        "1"
    );
    assert_eq!(sealed["spec"]["dataSource"]["name"], "toolchain");
    assert_eq!(sealed["spec"]["resources"]["requests"]["storage"], "200Gi");
    assert_eq!(
        of(&runner, "persistentvolumeclaims", "toolchain"),
        claim("toolchain")
    );
    let told = refused(&runner, &["init", LINE, "--from", "toolchain"]);
    assert!(told.contains("generation 1 is current"), "{told}");
}

#[test]
fn the_node_is_that_of_the_volume_unless_it_may_not_be_read() {
    let init = ["init", LINE, "--from", "toolchain"];
    let runner = namespace();
    let volume = json!({"metadata": {"name": "pv-1"}, "spec": {"nodeAffinity": {"required": {
        "nodeSelectorTerms": [{"matchExpressions": [
            {"key": "openebs.io/nodeid", "operator": "In", "values": ["node-7"]}]}]}}}});
    runner.api.put("persistentvolumes", volume);
    assert!(done(&runner, &init).contains("on node `node-7`"));
    let runner = namespace();
    let forbidden = Kind::Status(403, "Forbidden", "no".to_owned());
    runner.api.fail("GET", "persistentvolumes", 1, forbidden);
    let told = refused(&runner, &init);
    assert!(told.contains("name the node by `--node`"), "{told}");
}

#[test]
fn a_parent_that_is_written_to_is_not_imported() {
    let runner = namespace();
    runner.api.put("pods", user_of("toolchain"));
    let told = refused(&runner, &["init", LINE, "--from", "toolchain"]);
    assert!(told.contains("pod `user-of-toolchain` mounts it"), "{told}");
    let told = refused(&runner, &["init", LINE, "--from", "missing"]);
    assert!(told.contains("its claim does not exist"), "{told}");
}

fn user_of(claim: &str) -> Value {
    json!({"metadata": {"name": format!("user-of-{claim}"), "uid": "u"},
           "spec": {"containers": [],
                    "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

#[test]
fn an_empty_parent_is_filled_by_a_job_of_the_jobs_user() {
    let runner = namespace();
    let init = [
        "init",
        LINE,
        "--size",
        "64Mi",
        "--class",
        "fast",
        "--keep",
        "5",
        "--image",
        "gcc:12",
        "--path",
        "/CONAN_HOME",
        "--env",
        "CONAN_HOME=/CONAN_HOME",
        "--",
        "conan",
        "install",
    ];
    let output = call(&runner, &init);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("warning"), "{told}");
    let created = runner.api.state().created.clone();
    let job = created.iter().find(|one| one["kind"] == "Job").unwrap();
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsUser"], 1001);
    assert_eq!(pod["containers"][0]["command"], json!(["conan", "install"]));
    let first = &generations(&runner)[0];
    assert_eq!((&first["depth"], &first["base"]), (&json!(0), &Value::Null));
    assert!(runner.api.names("jobs").is_empty() && runner.api.names("pods").is_empty());
    let listed = done(&runner, &["list"]);
    assert!(listed.contains("keeps 5"), "{listed}");
}

#[test]
fn a_job_that_fails_makes_no_generation_and_is_left_to_be_looked_at() {
    let runner = namespace();
    runner.api.state().job_exit = 3;
    let init = ["init", LINE, "--size", "64Mi", "--image", "gcc:12"];
    let told = refused(&runner, &init);
    assert!(told.contains("its program exits with 3"), "{told}");
    assert!(told.contains("kubectl logs -n ci job/"), "{told}");
    assert_eq!(runner.api.names("jobs").len(), 1);
    assert!(runner.api.names("configmaps").is_empty());
}

#[test]
fn a_parent_that_root_owns_is_warned_of() {
    let cases: [&[&str]; 3] = [
        &["--size", "64Mi"],
        &["--from", "toolchain"],
        &["--size", "64Mi", "--image", "gcc:12", "--user", "0:0"],
    ];
    for case in cases {
        let runner = namespace();
        let init = [&["init", LINE, "--node", "node-1"], case].concat();
        let output = call(&runner, &init);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert!(
            told.contains("warning: ") && told.contains("root"),
            "{told}"
        );
    }
}

#[test]
fn a_person_gets_a_clone_that_is_nobody_elses() {
    let runner = begun();
    let parent = generations(&runner)[0]["claim"].clone();
    cloned(&runner, "mine");
    let mine = of(&runner, "persistentvolumeclaims", "mine");
    assert_eq!(mine["metadata"]["labels"]["arc-hook/cache"], "personal");
    assert!(mine["metadata"].get("ownerReferences").is_none());
    assert_eq!(
        mine["metadata"]["annotations"]["volume.kubernetes.io/selected-node"],
        "node-1"
    );
    assert_eq!(mine["spec"]["dataSource"]["name"], parent);
    let told = refused(&runner, &["clone", LINE, "--name", "mine"]);
    assert!(
        told.contains("create claim `mine`: another object has that name"),
        "{told}"
    );
    let told = refused(&runner, &["clone", "octo/demo/other", "--name", "x"]);
    assert!(told.contains("there are octo/demo/main"), "{told}");
}

#[test]
fn a_clone_that_was_worked_on_becomes_the_next_generation() {
    let runner = begun();
    cloned(&runner, "mine");
    runner.api.put("pods", user_of("mine"));
    let promote = ["promote", LINE, "--claim", "mine"];
    let told = refused(&runner, &promote);
    assert!(told.contains("pod `user-of-mine` mounts it"), "{told}");
    runner.api.delete_pod("user-of-mine");
    // Somebody else changes the line at the same time.
    let conflict = Kind::Status(409, "Conflict", "the object has been modified".to_owned());
    runner.api.fail("PUT", "configmaps", 2, conflict);
    done(&runner, &promote);
    assert_eq!(current(&runner), 2);
    let second = &generations(&runner)[1];
    assert_eq!(second["claim"], "mine");
    assert_eq!(
        (&second["depth"], &second["base"]["number"]),
        (&json!(2), &json!(1))
    );
    let told = refused(&runner, &promote);
    assert!(told.contains("it is generation 2"), "{told}");
}

#[test]
fn an_answer_that_is_lost_makes_no_second_generation() {
    let runner = begun();
    cloned(&runner, "mine");
    runner.api.fail("PUT", "configmaps", 1, Kind::LostAnswer);
    done(&runner, &["promote", LINE, "--claim", "mine"]);
    let numbers: Vec<Value> = generations(&runner)
        .iter()
        .map(|one| one["number"].clone())
        .collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn a_tainted_generation_is_left_by_a_rollback() {
    let runner = begun();
    for name in ["second", "third"] {
        cloned(&runner, name);
        done(&runner, &["promote", LINE, "--claim", name]);
    }
    cloned(&runner, "mine");
    let told = done(&runner, &["taint", LINE, "2", "--reason", "a stolen token"]);
    assert!(
        told.contains("generation 3 of octo/demo/main on node-1"),
        "{told}"
    );
    assert!(told.contains("claim mine"), "{told}");
    let told = done(&runner, &["taint", LINE, "3", "--reason", "came of it"]);
    assert!(told.contains("It is current"), "{told}");
    let told = refused(&runner, &["rollback", LINE, "--to", "2"]);
    assert!(told.contains("tainted (a stolen token)"), "{told}");
    let told = done(&runner, &["rollback", LINE]);
    assert_eq!(
        told,
        "octo/demo/main: generation 1 is current on node `node-1`; it was 3\n"
    );
    assert_eq!(current(&runner), 1);
    let told = refused(&runner, &["rollback", LINE]);
    assert!(told.contains("no earlier generation is kept"), "{told}");
    // No number is given twice.
    cloned(&runner, "fourth");
    done(&runner, &["promote", LINE, "--claim", "fourth"]);
    assert_eq!(current(&runner), 4);
}

#[test]
fn a_rebase_ends_the_chain_and_keeps_the_descent() {
    let runner = begun();
    cloned(&runner, "mine");
    done(&runner, &["promote", LINE, "--claim", "mine"]);
    done(&runner, &["rebase", LINE, "--image", "busybox"]);
    assert_eq!(current(&runner), 3);
    let third = &generations(&runner)[2];
    assert_eq!(
        (&third["depth"], &third["base"]["number"]),
        (&json!(0), &json!(2))
    );
    let copy = of(
        &runner,
        "persistentvolumeclaims",
        third["claim"].as_str().unwrap(),
    );
    assert!(copy["spec"].get("dataSource").is_none());
    assert_eq!(copy["spec"]["storageClassName"], "openebs-zfspv");
    let created = runner.api.state().created.clone();
    let job = created.iter().find(|one| one["kind"] == "Job").unwrap();
    let source = &job["spec"]["template"]["spec"]["volumes"][1]["persistentVolumeClaim"];
    assert_eq!(*source, json!({"claimName": "mine", "readOnly": true}));
    let told = done(&runner, &["taint", LINE, "1", "--reason", "bad"]);
    assert!(told.contains("generation 3 of"), "{told}");
}

#[test]
fn a_rebase_that_a_promotion_overtakes_leaves_the_line_and_nothing_else() {
    let runner = begun();
    cloned(&runner, "mine");
    let claims = || runner.api.names("persistentvolumeclaims");
    let before = claims();
    runner.api.state().claims_wait = true;
    let told = std::thread::scope(|scope| {
        let late = scope.spawn(|| refused(&runner, &["rebase", LINE, "--image", "busybox"]));
        until("the copy is made", || claims().len() > before.len());
        done(&runner, &["promote", LINE, "--claim", "mine"]);
        let copy = claims().into_iter().find(|one| !before.contains(one));
        bind(&runner, &copy.unwrap());
        late.join().unwrap()
    });
    assert!(told.contains("another is current by now"), "{told}");
    assert_eq!(current(&runner), 2);
    assert_eq!(claims(), before);
}

#[test]
fn a_line_in_use_is_not_deleted() {
    let runner = begun();
    cloned(&runner, "mine");
    let told = refused(&runner, &["delete", LINE]);
    assert!(
        told.contains("claim `mine` is a clone of generation 1"),
        "{told}"
    );
    done(&runner, &["promote", LINE, "--claim", "mine"]);
    let told = refused(&runner, &["delete", LINE, "--generation", "2"]);
    assert!(told.contains("it is current"), "{told}");
    assert_eq!(
        done(&runner, &["delete", LINE]),
        "octo/demo/main: deleted, with 2 generations\n"
    );
    assert!(runner.api.names("configmaps").is_empty());
    assert_eq!(runner.api.names("persistentvolumeclaims"), ["toolchain"]);
    assert_eq!(
        done(&runner, &["list"]),
        "no lines in namespace `ci`; `arc-hook cache init` makes one\n"
    );
}

#[test]
fn one_superseded_generation_can_go() {
    let runner = begun();
    done(
        &runner,
        &["init", LINE, "--from", "toolchain", "--node", "node-2"],
    );
    let told = refused(&runner, &["rollback", LINE]);
    assert!(told.contains("name one by `--node`"), "{told}");
    runner.api.put("persistentvolumeclaims", claim("other"));
    let promote = ["promote", LINE, "--claim", "other", "--node", "node-2"];
    done(&runner, &promote);
    let delete = ["delete", LINE, "--node", "node-2", "--generation", "1"];
    done(&runner, &delete);
    done(&runner, &["delete", LINE, "--node", "node-1"]);
    let shown: Value =
        serde_json::from_str(&done(&runner, &["show", LINE, "--output", "json"])).unwrap();
    assert_eq!(shown["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(shown["nodes"][0]["generations"][0]["claim"], "other");
}

#[test]
fn a_line_of_another_version_is_told_of_and_left_alone() {
    let runner = begun();
    let foreign = json!({"metadata": {"name": "arc-hook-cache-x", "labels": {"arc-hook/cache": "line"}},
                         "data": {"format": "2"}});
    runner.api.put("configmaps", foreign);
    let output = call(&runner, &["list"]);
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("its format is `2`"), "{told}");
}

#[test]
fn every_verb_has_an_example() {
    let runner = namespace();
    for verb in [
        "list", "show", "init", "clone", "promote", "rollback", "taint", "rebase", "delete",
    ] {
        let help = done(&runner, &[verb, "--help"]);
        assert!(help.contains("Examples:"), "{verb}");
        assert!(
            help.contains(&format!("\n  arc-hook cache {verb}")),
            "{verb}"
        );
    }
}

#[test]
fn scripts_get_what_each_verb_did() {
    let runner = namespace();
    let json = |arguments: &[&str]| -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        serde_json::from_str(&done(&runner, &arguments)).unwrap()
    };
    let made = json(&["init", LINE, "--from", "toolchain", "--node", "node-1"]);
    assert_eq!((&made["line"], &made["number"]), (&json!(LINE), &json!(1)));
    assert_eq!(made["claim"], generations(&runner)[0]["claim"]);
    let mine = json(&["clone", LINE, "--name", "mine"]);
    assert_eq!(
        mine,
        json!({"line": LINE, "node": "node-1", "number": 1, "claim": "mine"})
    );
    let promoted = json(&["promote", LINE, "--claim", "mine"]);
    assert_eq!(
        promoted,
        json!({"line": LINE, "node": "node-1", "number": 2, "claim": "mine"})
    );
    let rebased = json(&["rebase", LINE, "--image", "busybox"]);
    assert_eq!(
        (&rebased["number"], &rebased["from"]),
        (&json!(3), &json!(2))
    );
    let rolled_back = json(&["rollback", LINE]);
    assert_eq!(
        rolled_back,
        json!({"line": LINE, "node": "node-1", "current": 2, "before": 3})
    );
    assert_eq!(
        json(&["taint", LINE, "3", "--reason", "bad"])["current"],
        false
    );
    let deleted = json(&["delete", LINE, "--generation", "3"]);
    assert_eq!(deleted["deleted"][0]["number"], 3);
    assert_eq!(json(&["show", LINE])["nodes"][0]["current"], 2);
    assert_eq!(
        json(&["delete", LINE])["deleted"].as_array().unwrap().len(),
        2
    );
    assert_eq!(json(&["list"]), json!({"lines": [], "unread": []}));
}

#[test]
fn a_line_of_snapshots_lives_by_the_same_verbs() {
    let runner = namespace();
    let snapshot = ["--via", "snapshot", "--snapshot-class", "ebs"];
    let init = [&["init", LINE, "--from", "toolchain"], &snapshot[..]].concat();
    let told = done(&runner, &init);
    assert!(
        told.contains("generation 1 on any node is snapshot"),
        "{told}"
    );
    // The claim was neither cloned nor taken.
    assert_eq!(runner.api.names("persistentvolumeclaims"), ["toolchain"]);
    let first = generations(&runner)[0].clone();
    assert_eq!(
        (&first["kind"], &first["depth"]),
        (&json!("snapshot"), &json!(0))
    );
    // Where it is restored is settled by the first pod that mounts it.
    runner.api.state().claims_wait = true;
    cloned(&runner, "mine");
    runner.api.state().claims_wait = false;
    bind(&runner, "mine");
    let mine = of(&runner, "persistentvolumeclaims", "mine");
    assert_eq!(mine["spec"]["dataSource"]["kind"], "VolumeSnapshot");
    assert_eq!(mine["spec"]["dataSource"]["name"], first["claim"]);
    done(
        &runner,
        &[&["promote", LINE, "--claim", "mine"], &snapshot[..]].concat(),
    );
    assert_eq!(current(&runner), 2);
    let listed = done(&runner, &["list"]);
    assert!(listed.contains("any node"), "{listed}");
    let shown = done(&runner, &["show", LINE]);
    assert!(
        shown.contains("snapshot   snapshot-") && !shown.contains("(gone)"),
        "{shown}"
    );
    let told = done(&runner, &["taint", LINE, "1", "--reason", "bad"]);
    assert!(
        told.contains("generation 2 of") && told.contains("claim mine"),
        "{told}"
    );
    done(&runner, &["rebase", LINE, "--image", "busybox"]);
    assert_eq!(current(&runner), 3);
    let [_, second, third] = &generations(&runner)[..] else {
        panic!("not three generations");
    };
    assert_eq!(
        (&third["kind"], &third["depth"], &third["base"]["number"]),
        (&json!("snapshot"), &json!(0), &json!(2))
    );
    let taken = of(&runner, "volumesnapshots", third["claim"].as_str().unwrap());
    assert_eq!(taken["spec"]["volumeSnapshotClassName"], "ebs");
    // A Job has copied what was restored for it into a claim that is no clone, and both are gone.
    let created = runner.api.state().created.clone();
    let job = created.iter().find(|one| one["kind"] == "Job").unwrap();
    let volumes = &job["spec"]["template"]["spec"]["volumes"];
    let claim = |volume: usize| {
        let name = &volumes[volume]["persistentVolumeClaim"]["claimName"];
        let mut all = created.iter();
        let claim = all.find(|one| one["metadata"]["name"] == *name);
        claim.unwrap()["spec"].clone()
    };
    assert_eq!(claim(1)["dataSource"]["name"], second["claim"]);
    assert!(claim(0).get("dataSource").is_none());
    assert_eq!(
        runner.api.names("persistentvolumeclaims"),
        ["mine", "toolchain"]
    );
    let told = refused(&runner, &["delete", LINE]);
    assert!(
        told.contains("claim `mine` is a clone of generation 1"),
        "{told}"
    );
    let key = ("persistentvolumeclaims".to_owned(), "mine".to_owned());
    runner.api.state().objects.remove(&key);
    done(&runner, &["delete", LINE]);
    assert!(runner.api.names("volumesnapshots").is_empty());

    let fill = [
        &["init", LINE, "--size", "64Mi", "--image", "gcc:12"],
        &snapshot[..],
    ]
    .concat();
    done(&runner, &fill);
    assert_eq!(runner.api.names("persistentvolumeclaims"), ["toolchain"]);
    assert_eq!(generations(&runner)[0]["kind"], "snapshot");
}

#[test]
fn where_snapshots_are_unknown_or_withheld_claims_are_looked_after_all_the_same() {
    for code in [403, 404] {
        let runner = begun();
        let failure = Kind::Status(code, "Forbidden", "not here".to_owned());
        runner.api.fail("GET", "volumesnapshots", 9, failure);
        assert_eq!(generations(&runner).len(), 1);
        done(&runner, &["delete", LINE]);
    }
}
