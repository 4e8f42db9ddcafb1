use insta::assert_yaml_snapshot;
use serde_json::json;

use super::{
    FOUNDING, World, container, entry, environment, manifests, prepare_job, request, service,
};
use crate::config::Affinity;
use crate::pod::{SpecError, User};
use crate::protocol::{PrepareJob, Registry};

/// A request with all that the runner writes, as of 2.336.0.
const FULL: &str = include_str!("requests/prepare_job.json");

#[test]
fn a_job_without_template_has_the_mounts_of_the_runner_and_nothing_of_its_environment() {
    let plan = World::new("").job(&prepare_job(FULL));
    assert_yaml_snapshot!(manifests(&plan));
    assert_eq!(plan.environment["NODE_ENV"], "development");
    assert_eq!(plan.warnings, Vec::<String>::new());
}

#[test]
fn the_template_of_the_founding_document_works_as_written() {
    let plan = World::new(FOUNDING).job(&request("gcc-conan:12", Vec::new()));
    assert_yaml_snapshot!(manifests(&plan));
    assert_eq!(plan.user, User::Image);
}

#[test]
fn nothing_of_the_environment_of_job_and_services_stands_in_the_pod() {
    let mut service = service("redis");
    service.environment_variables = environment(&[("PASSWORD", "planted-in-service")]);
    let mut request = request("node:22", vec![service]);
    if let Some(job) = request.container.as_mut() {
        job.environment_variables = environment(&[("TOKEN", "planted-in-job")]);
        job.registry = Some(Registry {
            username: Some("octo".to_owned()),
            password: Some("planted-in-registry".to_owned()),
            server_url: Some("ghcr.io".to_owned()),
        });
    }
    let plan = World::new("").job(&request);
    assert!(!plan.pod.to_string().contains("planted"), "{}", plan.pod);
    assert!(plan.supervised);
    assert_eq!(plan.environment["TOKEN"], "planted-in-job");
    assert_eq!(plan.secrets.len(), 2);
}

#[test]
fn the_pod_belongs_to_the_runner_pod_when_that_is_known() {
    let mut world = World::new("");
    let owners =
        world.job(&request("node:22", Vec::new())).pod["metadata"]["ownerReferences"].clone();
    assert_eq!(
        owners,
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "linux-x64-9k2rw-runner-b7xqd",
                "uid": "6f1c9e5a-4a8e-4c7b-9a51-0d8f6c0b2a11"}])
    );
    world.runner = None;
    let pod = world.job(&request("node:22", Vec::new())).pod;
    assert!(pod["metadata"].get("ownerReferences").is_none());
    assert_eq!(
        pod["metadata"]["labels"]["runner-pod"],
        "linux-x64-9k2rw-runner-b7xqd"
    );
    assert!(pod["spec"].get("affinity").is_none());
}

#[test]
fn the_node_is_demanded_preferred_or_left_open_and_never_named() {
    let mut world = World::new("");
    let term = json!({"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}
    ]});
    for (affinity, expected) in [
        (
            Affinity::Required,
            json!({"requiredDuringSchedulingIgnoredDuringExecution":
                   {"nodeSelectorTerms": [term.clone()]}}),
        ),
        (
            Affinity::Preferred,
            json!({"preferredDuringSchedulingIgnoredDuringExecution":
                   [{"weight": 100, "preference": term.clone()}]}),
        ),
        (Affinity::None, serde_json::Value::Null),
    ] {
        world.config.affinity = affinity;
        let pod = world.job(&request("node:22", Vec::new())).pod;
        assert_eq!(pod["spec"]["affinity"]["nodeAffinity"], expected);
        assert!(pod["spec"].get("nodeName").is_none());
    }
}

#[test]
fn pull_secrets_of_the_runner_pod_are_inherited_and_each_image_has_its_own() {
    let mut world = World::new("");
    if let Some(runner) = world.runner.as_mut() {
        runner.pull_secrets = vec!["company-registry".to_owned()];
    }
    let login = |user: &str| {
        Some(Registry {
            username: Some(user.to_owned()),
            password: Some("secret".to_owned()),
            server_url: None,
        })
    };
    let mut first = service("octo/first");
    first.registry = login("first");
    let mut second = service("octo/second");
    second.registry = login("second");
    let mut again = service("octo/again");
    again.registry = login("first");
    let plan = world.job(&request("node:22", vec![first, second, again]));
    let names: Vec<_> = plan.pod["spec"]["imagePullSecrets"]
        .as_array()
        .expect("secrets")
        .iter()
        .map(|secret| secret["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names[0], "company-registry");
    let made: Vec<_> = plan
        .secrets
        .iter()
        .map(|secret| secret.metadata.name.clone().expect("a name"))
        .collect();
    assert_eq!(names[1..], made);
    let data = plan.secrets[0].data.clone().expect("data");
    assert_eq!(
        String::from_utf8_lossy(&data[".dockerconfigjson"].0),
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"Zmlyc3Q6c2VjcmV0","password":"secret","username":"first"}}}"#
    );
}

#[test]
fn services_are_reached_by_the_name_of_their_image() {
    let plan = World::new("").job(&request(
        "node:22",
        vec![
            service("redis:7"),
            service("redis"),
            service("ghcr.io/octo/db@sha256:00"),
        ],
    ));
    assert_eq!(plan.host_names, ["redis-0", "redis-1", "db", "redis"]);
    assert_eq!(
        plan.pod["spec"]["hostAliases"],
        json!([{"ip": "127.0.0.1", "hostnames": ["redis-0", "redis-1", "db", "redis"]}])
    );
    let names: Vec<_> = plan
        .services
        .iter()
        .map(|service| &service.container)
        .collect();
    assert_eq!(names, ["redis-0", "redis-1", "db"]);
}

#[test]
fn variables_with_names_that_no_secret_allows_reach_a_service() {
    let mut odd = service("redis");
    odd.environment_variables = environment(&[
        ("A/B", "slash"),
        ("PLAIN", "$(HOME) stays"),
        ("WITH-HYPHEN.AND.DOT", "kept"),
    ]);
    let plan = World::new("").job(&request("node:22", vec![odd]));
    let env = &container(&plan.pod, "redis")["env"];
    let data = plan.secrets[0].data.clone().expect("data");
    for (name, value) in [
        ("A/B", "slash"),
        ("PLAIN", "$(HOME) stays"),
        ("WITH-HYPHEN.AND.DOT", "kept"),
    ] {
        let key = entry(env, "name", name)["valueFrom"]["secretKeyRef"]["key"]
            .as_str()
            .expect("a key");
        assert_eq!(data[key].0, value.as_bytes());
    }
}

#[test]
fn a_variable_that_no_process_can_have_is_refused_by_name() {
    for name in ["", "A=B", "A\0B", "A\nB", "\u{c4}"] {
        let mut odd = service("redis");
        odd.environment_variables = environment(&[(name, "value")]);
        let world = World::new("");
        let error = crate::pod::job(&world.inputs(), &request("node:22", vec![odd]));
        assert!(
            matches!(error, Err(SpecError::EnvironmentName { .. })),
            "{error:?}"
        );
    }
}

#[test]
fn ci_of_a_service_counts_and_github_actions_does_not() {
    let mut own = service("redis");
    own.environment_variables = environment(&[("CI", "false"), ("GITHUB_ACTIONS", "no")]);
    let plan = World::new("").job(&request("node:22", vec![own]));
    let env = &container(&plan.pod, "redis")["env"];
    assert!(entry(env, "name", "CI")["valueFrom"].is_object());
    assert_eq!(entry(env, "name", "GITHUB_ACTIONS")["value"], "true");
    assert_eq!(env.as_array().map(Vec::len), Some(2));
}

#[test]
fn arguments_of_a_service_are_split_once_and_nothing_in_them_is_replaced() {
    let mut redis = service("redis");
    redis.entry_point = Some("redis-server".to_owned());
    redis.entry_point_args = ["--requirepass", "\"a", "b\"", "'$(HOME)'"]
        .map(str::to_owned)
        .to_vec();
    let plan = World::new("").job(&request("node:22", vec![redis]));
    let redis = container(&plan.pod, "redis");
    assert_eq!(redis["command"], json!(["redis-server"]));
    assert_eq!(redis["args"], json!(["--requirepass", "a b", "$$(HOME)"]));
}

#[test]
fn a_service_without_command_runs_as_its_image_says() {
    let plan = World::new("").job(&request("node:22", vec![service("redis")]));
    let redis = container(&plan.pod, "redis");
    assert!(redis.get("command").is_none());
    assert!(redis.get("args").is_none());
    assert!(redis.get("volumeMounts").is_none());
    assert!(redis.get("securityContext").is_none());
}

#[test]
fn the_command_of_the_template_runs_beside_the_supervisor() {
    let world =
        World::new("spec: {containers: [{name: $job, command: [sh], args: ['-c', 'sleep 50']}]}");
    let plan = world.job(&request("node:22", Vec::new()));
    assert_eq!(plan.companion, ["sh", "-c", "sleep 50"]);
    let job = container(&plan.pod, "job");
    assert_eq!(job["command"][0], "/__hook/arc-hook");
    assert!(job.get("args").is_none());
}

#[test]
fn a_job_with_services_only_is_refused_with_the_remedy() {
    let world = World::new("");
    let error = crate::pod::job(
        &world.inputs(),
        &PrepareJob {
            container: None,
            services: vec![service("redis")],
        },
    )
    .expect_err("no job container");
    assert!(error.to_string().starts_with("Job Container is required"));
    assert!(error.to_string().contains("add `container:`"));
}

#[test]
fn two_pods_of_one_request_differ_by_the_nonce_only() {
    let mut world = World::new(FOUNDING);
    let first = world.job(&prepare_job(FULL)).pod.to_string();
    let old = world.nonce;
    world.nonce = "fedcba9876543210fedcba9876543210";
    let second = world.job(&prepare_job(FULL)).pod.to_string();
    assert_ne!(first, second);
    let secret = |nonce: &str| crate::pod::names::derived(nonce, "environment");
    assert_eq!(
        first
            .replace(old, world.nonce)
            .replace(&secret(old), &secret(world.nonce)),
        second
    );
}
