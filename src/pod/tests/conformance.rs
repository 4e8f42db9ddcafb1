//! What the tests of the official hooks assert of pods (actions/runner-container-hooks,
//! `packages/k8s/tests`), on ours.

use serde_json::json;

use super::{World, container, entry, environment, prepare_job, request, service};
use crate::pod::{Plan, container_step};

const EXTENSION: &str = include_str!("templates/extension.yaml");

fn value(plan: &Plan, name: &str, variable: &str) -> serde_json::Value {
    entry(&container(&plan.pod, name)["env"], "name", variable)["value"].clone()
}

#[test]
fn ci_and_github_actions_are_set_in_job_and_service() {
    let plan = World::new("").job(&request("node:22", vec![service("redis")]));
    for name in ["job", "redis"] {
        assert_eq!(value(&plan, name, "CI"), "true");
        assert_eq!(value(&plan, name, "GITHUB_ACTIONS"), "true");
    }
}

#[test]
fn ci_of_the_job_is_kept_and_that_of_the_service_still_true() {
    let mut request = request("node:22", vec![service("redis")]);
    if let Some(job) = request.container.as_mut() {
        job.environment_variables = environment(&[("CI", "false")]);
    }
    let plan = World::new("").job(&request);
    // The job's environment lies over the container's in each step.
    assert_eq!(plan.environment["CI"], "false");
    assert_eq!(value(&plan, "redis", "CI"), "true");
}

#[test]
fn the_extension_leaves_images_and_adds_environment_resources_and_sidecar() {
    let plan = World::new(EXTENSION).job(&request("node:22", vec![service("redis")]));
    let metadata = &plan.pod["metadata"];
    assert_eq!(metadata["annotations"]["annotated-by"], "extension");
    assert_eq!(metadata["labels"]["labeled-by"], "extension");
    assert_eq!(plan.pod["spec"]["restartPolicy"], "Never");
    assert_eq!(container(&plan.pod, "job")["image"], "node:22");
    assert_eq!(container(&plan.pod, "job")["imagePullPolicy"], "Always");
    assert_eq!(value(&plan, "job", "ENV1"), "value1");
    assert_eq!(plan.companion, ["sh", "-c", "sleep 50"]);
    assert_eq!(container(&plan.pod, "redis")["image"], "redis");
    assert_eq!(value(&plan, "redis", "ENV2"), "value2");
    assert_eq!(
        container(&plan.pod, "redis")["resources"]["limits"],
        json!({"memory": "1Gi", "cpu": "2"})
    );
    assert_eq!(container(&plan.pod, "side-car")["image"], "ubuntu:latest");
    assert_eq!(
        container(&plan.pod, "side-car")["args"],
        json!(["-c", "sleep 60"])
    );
}

#[test]
fn only_job_and_services_are_answered_not_the_containers_of_the_extension() {
    let plan = World::new(EXTENSION).job(&request("node:22", vec![service("redis")]));
    let answered: Vec<_> = plan
        .services
        .iter()
        .map(|service| &service.container)
        .collect();
    assert_eq!(answered, ["redis"]);
}

#[test]
fn ports_may_be_missing_null_or_empty() {
    for ports in ["", r#","portMappings":null"#, r#","portMappings":[]"#] {
        let plan = World::new("").job(&prepare_job(&format!(
            r#"{{"container":{{"image":"node:22"{ports}}},"services":[{{"image":"redis"{ports}}}]}}"#
        )));
        assert!(plan.services[0].ports.is_empty());
        assert!(container(&plan.pod, "redis").get("ports").is_none());
    }
}

#[test]
fn two_services_of_one_image_are_both_answered() {
    let plan = World::new("").job(&request(
        "node:22",
        vec![service("redis"), service("redis")],
    ));
    let answered: Vec<_> = plan
        .services
        .iter()
        .map(|service| &service.container)
        .collect();
    assert_eq!(answered, ["redis-0", "redis-1"]);
}

#[test]
fn an_action_has_the_extension_and_its_environment() {
    let mut action = service("node:22");
    action.environment_variables = environment(&[("NODE_ENV", "development")]);
    let world = World::new(EXTENSION);
    let plan = container_step(&world.inputs(), &action, None).expect("a pod");
    assert_eq!(value(&plan, "job", "ENV1"), "value1");
    assert_eq!(value(&plan, "job", "CI"), "true");
    assert_eq!(value(&plan, "job", "GITHUB_ACTIONS"), "true");
    assert_eq!(container(&plan.pod, "side-car")["image"], "ubuntu:latest");
    let data = plan.secrets[0].data.clone().expect("data");
    assert_eq!(data["job.NODE_ENV"].0, b"development");
}
