use insta::assert_yaml_snapshot;
use serde_json::json;

use super::{FOUNDING, World, container, environment, manifests, service};
use crate::pod::{Identity, JobFacts, Plan, SpecError, container_step};
use crate::protocol::Container;

fn facts() -> JobFacts {
    JobFacts {
        nonce: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(),
        user: Identity { uid: 0, gid: 0 },
        address: Some("10.1.2.3".to_owned()),
        host_names: vec!["redis".to_owned()],
    }
}

fn action(entry_point: Option<&str>) -> Container {
    Container {
        entry_point: entry_point.map(str::to_owned),
        entry_point_args: ["\"hello", "world\"", "x"].map(str::to_owned).to_vec(),
        working_directory: Some("/github/workspace".to_owned()),
        environment_variables: environment(&[("INPUT_FOO-BAR", "planted")]),
        ..service("alpine:3.20")
    }
}

fn step(world: &World, request: &Container, job: Option<&JobFacts>) -> Plan {
    container_step(&world.inputs(), request, job).expect("a pod")
}

#[test]
fn an_action_with_an_entry_point_runs_under_the_supervisor_as_the_user_of_the_job() {
    let plan = step(
        &World::new(FOUNDING),
        &action(Some("/run.sh")),
        Some(&facts()),
    );
    assert_yaml_snapshot!(manifests(&plan));
    assert!(plan.supervised);
    assert_eq!(plan.environment["INPUT_FOO-BAR"], "planted");
}

#[test]
fn an_action_without_an_entry_point_runs_that_of_its_image() {
    let plan = step(&World::new(""), &action(None), Some(&facts()));
    assert_yaml_snapshot!(manifests(&plan));
    assert!(!plan.supervised);
    assert!(!plan.pod.to_string().contains("planted"));
    assert!(!plan.pod.to_string().contains("__hook"));
}

#[test]
fn an_action_without_a_job_has_directories_of_its_own() {
    let world = World::new("metadata: {annotations: {arc-hook/run-as: runner}}");
    let plan = step(&world, &action(None), None);
    let pod = plan.pod.to_string();
    assert!(pod.contains(".arc-hook/0123456789abcdef0123456789abcdef/home"));
    assert_eq!(
        container(&plan.pod, "job")["securityContext"],
        json!({"runAsUser": 1001, "runAsGroup": 1001})
    );
    assert!(plan.pod["spec"].get("hostAliases").is_none());
}

#[test]
fn an_action_runs_as_the_job_does_whatever_the_image_of_the_job_was() {
    let mut facts = facts();
    facts.user = Identity { uid: 999, gid: 50 };
    let plan = step(&World::new(""), &action(Some("sh")), Some(&facts));
    assert_eq!(
        container(&plan.pod, "job")["securityContext"],
        json!({"runAsUser": 999, "runAsGroup": 50})
    );
}

#[test]
fn the_command_of_the_template_is_the_jobs_and_not_the_actions() {
    let world = World::new("spec: {containers: [{name: $job, command: [sleep], args: [inf]}]}");
    let plan = step(&world, &action(None), None);
    let job = container(&plan.pod, "job");
    assert!(job.get("command").is_none());
    assert_eq!(job["args"], json!(["hello world", "x"]));
    assert!(plan.companion.is_empty());
}

#[test]
fn containers_of_the_template_are_in_the_pods_of_actions_too() {
    let world = World::new(
        "spec: {containers: [{name: side-car, image: ubuntu}, {name: $job, env: [{name: A, value: b}]}, {name: $redis, tty: true}]}",
    );
    let plan = step(&world, &action(None), None);
    assert_eq!(container(&plan.pod, "side-car")["image"], "ubuntu");
    assert!(
        container(&plan.pod, "job")["env"]
            .to_string()
            .contains("\"A\"")
    );
    assert_eq!(
        plan.pod["spec"]["containers"].as_array().map(Vec::len),
        Some(2)
    );
}

#[test]
fn an_action_with_a_dockerfile_is_refused_with_what_to_do() {
    let request = Container {
        dockerfile: Some("/home/runner/_work/_actions/o/r/v1/Dockerfile".to_owned()),
        ..Container::default()
    };
    let error = container_step(&World::new("").inputs(), &request, None).expect_err("no image");
    assert!(matches!(error, SpecError::Dockerfile(_)));
    assert!(
        error
            .to_string()
            .starts_with("Building container actions is not currently supported")
    );
}

#[test]
fn an_actions_pod_has_a_name_of_its_own_each_time() {
    let mut world = World::new("");
    let first = step(&world, &action(None), None).name;
    world.nonce = "fedcba9876543210fedcba9876543210";
    let second = step(&world, &action(None), None).name;
    assert!(first.starts_with("linux-x64-9k2rw-runner-b7xqd-step-"));
    assert_ne!(first, second);
}

#[test]
fn what_the_template_warns_of_is_said_once_for_the_job() {
    let world = World::new("spec: {restartPolicy: Always}");
    assert_eq!(
        step(&world, &action(None), Some(&facts())).warnings.len(),
        0
    );
    assert_eq!(step(&world, &action(None), None).warnings.len(), 1);
}

#[test]
fn a_program_that_shares_no_volume_lies_between_containers_that_bring_and_keep_its_files() {
    let mut world = World::new("metadata: {annotations: {arc-hook/run-as: runner}}");
    world.config.work_volume = crate::config::WorkVolume::Copy;
    let plan = step(&world, &action(None), Some(&facts()));
    let spec = &plan.pod["spec"];
    let names = |list: &str| -> Vec<String> {
        let all = spec[list].as_array().expect("containers").iter();
        all.map(|one| one["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(names("initContainers"), ["arc-hook-init", "arc-hook-gate"]);
    assert_eq!(names("containers"), ["job", "arc-hook-files"]);
    let paths = |container: &serde_json::Value| -> Vec<String> {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        mounts
            .map(|mount| mount["mountPath"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let job = container(&plan.pod, "job");
    assert_eq!(paths(job), ["/github"], "nothing of ours is in its reach");
    assert!(job["command"].is_null());
    let (gate, files) = (&spec["initContainers"][1], &spec["containers"][1]);
    assert_eq!(gate["command"].as_array().map(Vec::len), Some(6));
    assert_eq!(gate["command"][5], "--gate");
    for ours in [gate, files] {
        assert_eq!(paths(ours), ["/__hook", "/__hook/spool", "/github"]);
        let user = &ours["securityContext"];
        assert_eq!(
            (&user["runAsUser"], &user["runAsGroup"]),
            (&json!(0), &json!(0))
        );
        assert_ne!(ours["image"], job["image"]);
    }
    let supervised = step(&world, &action(Some("/run.sh")), Some(&facts()));
    assert!(!supervised.pod.to_string().contains("arc-hook-gate"));
}
