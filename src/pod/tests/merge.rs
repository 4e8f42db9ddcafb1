use proptest::prelude::*;
use serde_json::json;

use super::{World, container, entry, environment, request, service};
use crate::pod::Plan;

fn plan(template: &str) -> Plan {
    let mut redis = service("redis:7");
    redis.environment_variables = environment(&[("MODE", "cache")]);
    redis.port_mappings = vec!["6379".to_owned()];
    World::new(template).job(&request("node:22", vec![redis]))
}

#[test]
fn a_template_that_says_nothing_changes_nothing() {
    let without = plan("");
    for template in [
        "{}",
        "metadata:",
        "spec: {}",
        "spec: {containers: [], volumes: [], initContainers: , imagePullSecrets: []}",
        "apiVersion: v1\nkind: PodTemplate\nmetadata: {labels: {}}",
        "spec: {containers: [{name: $job}, {name: $redis}, {name: $default}, {name: $other, tty: true}]}",
    ] {
        assert_eq!(plan(template), without, "{template}");
    }
}

#[test]
fn the_extension_of_the_reference_tests_gives_what_they_assert() {
    let plan = plan(include_str!("templates/extension.yaml"));
    insta::assert_yaml_snapshot!(super::manifests(&plan));
    assert_eq!(plan.companion, ["sh", "-c", "sleep 50"]);
    assert_eq!(plan.services.len(), 1);
}

#[test]
fn labels_and_annotations_of_the_template_are_added_but_ours_stay() {
    let plan =
        plan("metadata: {labels: {runner-pod: other, team: a}, annotations: {arc-hook/nonce: x}}");
    let metadata = &plan.pod["metadata"];
    assert_eq!(metadata["labels"]["team"], "a");
    assert_eq!(
        metadata["labels"]["runner-pod"],
        "linux-x64-9k2rw-runner-b7xqd"
    );
    assert_eq!(
        metadata["annotations"]["arc-hook/nonce"],
        "0123456789abcdef0123456789abcdef"
    );
    assert_eq!(plan.warnings.len(), 3, "{:?}", plan.warnings);
}

#[test]
fn environment_mounts_and_ports_are_merged_by_what_names_them() {
    let plan = plan(
        "spec:
           volumes: [{name: data, emptyDir: {}}]
           containers:
           - name: $redis
             env: [{name: MODE, value: store}, {name: EXTRA, value: x}]
             ports: [{containerPort: 6379, name: redis}, {containerPort: 6379, protocol: UDP}]
             volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /data/}]",
    );
    let redis = container(&plan.pod, "redis");
    assert_eq!(
        entry(&redis["env"], "name", "MODE"),
        &json!({"name": "MODE", "value": "store"})
    );
    assert_eq!(redis["env"].as_array().map(Vec::len), Some(4));
    assert_eq!(
        redis["ports"],
        json!([{"containerPort": 6379, "name": "redis"}, {"containerPort": 6379, "protocol": "UDP"}])
    );
    assert_eq!(redis["volumeMounts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn image_and_name_of_a_container_stay_with_a_warning() {
    let plan = plan("spec: {containers: [{name: $job, image: other}]}");
    assert_eq!(container(&plan.pod, "job")["image"], "node:22");
    assert!(plan.warnings[0].contains("`image` of `$job`"));
}

#[test]
fn maps_are_merged_by_key_and_alternatives_replaced_whole() {
    let plan = plan(
        "metadata: {annotations: {arc-hook/run-as: runner}}
spec:
  securityContext: {supplementalGroups: [7], seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: $job
    resources: {requests: {cpu: 1}}
    securityContext: {readOnlyRootFilesystem: true}
    readinessProbe: {exec: {command: ['true']}}",
    );
    assert_eq!(
        plan.pod["spec"]["securityContext"],
        json!({"supplementalGroups": [7], "seccompProfile": {"type": "RuntimeDefault"},
               "fsGroup": 1001, "fsGroupChangePolicy": "OnRootMismatch"})
    );
    let job = container(&plan.pod, "job");
    assert_eq!(job["resources"], json!({"requests": {"cpu": 1}}));
    assert_eq!(job["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(job["securityContext"]["runAsUser"], 1001);
}

#[test]
fn what_a_job_cannot_do_without_stays() {
    let plan = plan(
        "spec:
  restartPolicy: Always
  imagePullSecrets: [{name: extra}]
  volumes: [{name: work, emptyDir: {}}]
  containers:
  - name: job
    image: evil
  - name: $job
    restartPolicy: Always
    volumeMounts:
    - {name: work, mountPath: /__w/demo/demo/}
    - {name: work, mountPath: /__hook/spool/steps}
    - {name: work, mountPath: /extra}",
    );
    let spec = &plan.pod["spec"];
    assert_eq!(spec["restartPolicy"], "Never");
    assert!(entry(&spec["volumes"], "name", "work")["persistentVolumeClaim"].is_object());
    let job = container(&plan.pod, "job");
    assert_eq!(job["image"], "node:22");
    let mounts = job["volumeMounts"].to_string();
    assert!(
        mounts.contains("/extra") && !mounts.contains("/__hook/spool/steps"),
        "{mounts}"
    );
    assert_eq!(
        entry(&job["volumeMounts"], "mountPath", "/__w/demo/demo")["subPath"],
        "demo/demo"
    );
    assert!(job.get("restartPolicy").is_none());
    assert_eq!(plan.warnings.len(), 6, "{:?}", plan.warnings);
}

#[test]
fn pull_secrets_of_runner_and_template_are_united() {
    let mut world = World::new("spec: {imagePullSecrets: [{name: of-template}, {name: company}]}");
    if let Some(runner) = world.runner.as_mut() {
        runner.pull_secrets = vec!["company".to_owned()];
    }
    let plan = world.job(&request("node:22", Vec::new()));
    assert_eq!(
        plan.pod["spec"]["imagePullSecrets"],
        json!([{"name": "company"}, {"name": "of-template"}])
    );
}

#[test]
fn init_containers_of_the_template_are_added() {
    let plan = plan("spec: {initContainers: [{name: a, image: x}, {name: $fs-init, image: y}]}");
    assert_eq!(
        plan.pod["spec"]["initContainers"],
        json!([{"name": "a", "image": "x"}])
    );
}

#[test]
fn a_node_affinity_of_the_template_and_ours_both_hold() {
    let plan = plan(
        "spec:
  affinity:
    podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: []}
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: disk, operator: In, values: [ssd]}]
        - matchExpressions: [{key: disk, operator: In, values: [nvme]}]",
    );
    let affinity = &plan.pod["spec"]["affinity"];
    let ours = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]});
    let disk = |value: &str| json!({"key": "disk", "operator": "In", "values": [value]});
    assert_eq!(
        affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
        json!([{"matchExpressions": [ours, disk("ssd")]}, {"matchExpressions": [ours, disk("nvme")]}])
    );
    assert!(affinity["podAntiAffinity"].is_object());
}

#[test]
fn default_applies_to_every_service_and_the_particular_comes_after() {
    let world = World::new(
        "spec:
  containers:
  - {name: $redis-1, env: [{name: WHO, value: second}]}
  - {name: $redis, env: [{name: WHO, value: redis}, {name: R, value: r}]}
  - {name: $default, env: [{name: WHO, value: any}, {name: D, value: d}]}",
    );
    let plan = world.job(&request(
        "node:22",
        vec![service("redis"), service("redis"), service("postgres")],
    ));
    let value = |name: &str, variable: &str| {
        entry(&container(&plan.pod, name)["env"], "name", variable)["value"].clone()
    };
    assert_eq!(value("redis-0", "WHO"), "redis");
    assert_eq!(value("redis-1", "WHO"), "second");
    assert_eq!(value("redis-1", "R"), "r");
    assert_eq!(value("postgres", "WHO"), "any");
    assert_eq!(value("redis-0", "D"), "d");
    assert!(
        !container(&plan.pod, "job")["env"]
            .to_string()
            .contains("WHO")
    );
}

#[test]
fn a_container_of_the_template_and_a_service_of_its_name_both_run() {
    let world = World::new("spec: {containers: [{name: redis, image: proxy}]}");
    let plan = world.job(&request("node:22", vec![service("redis")]));
    assert_eq!(container(&plan.pod, "redis")["image"], "proxy");
    assert_ne!(plan.services[0].container, "redis");
    assert!(plan.host_names.contains(&"redis".to_owned()));
}

#[test]
fn keys_that_our_types_lack_reach_the_api_server() {
    let plan = plan(
        "spec: {futureField: {a: 1}, containers: [{name: $job, futureFlag: true}, {name: side, image: x, newer: 5}]}",
    );
    assert_eq!(plan.pod["spec"]["futureField"], json!({"a": 1}));
    assert_eq!(container(&plan.pod, "job")["futureFlag"], true);
    assert_eq!(container(&plan.pod, "side")["newer"], 5);
}

#[test]
fn mounts_of_the_job_do_not_leak_into_other_containers() {
    let plan = plan(
        "spec: {volumes: [{name: a, emptyDir: {}}], containers: [{name: $job, volumeMounts: [{name: a, mountPath: /a}]}]}",
    );
    assert!(container(&plan.pod, "redis").get("volumeMounts").is_none());
}

proptest! {
    #[test]
    fn merging_a_template_twice_is_merging_it_once(
        names in prop::collection::vec("[A-C]", 0..4),
        label in "[a-z]{1,5}",
    ) {
        let env: Vec<_> = names.iter().map(|name| json!({"name": name, "value": name})).collect();
        let text = json!({"metadata": {"labels": {"l": label}},
            "spec": {"containers": [{"name": "$job", "env": env}, {"name": "$default", "env": env}]}})
            .to_string();
        let world = World::new(&text);
        let pod = world.job(&request("node:22", vec![service("redis")])).pod;
        let targets = [("job", "job"), ("redis", "default")].map(|(container, extension)| {
            crate::pod::merge::Target {
                container: container.to_owned(),
                extensions: vec![extension.to_owned()],
            }
        });
        let again = crate::pod::merge::merge(pod.clone(), &world.template, &targets);
        prop_assert_eq!(again.pod, pod);
    }
}

#[test]
fn a_pods_own_volume_can_be_bounded_and_not_be_replaced() {
    let work = |world: &World| {
        let plan = world.job(&request("node:22", Vec::new()));
        let volume = entry(&plan.pod["spec"]["volumes"], "name", "work").clone();
        let told = plan.warnings.iter().any(|text| text.contains("`work`"));
        (volume, told)
    };
    let bounded = json!({"name": "work", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}});
    let elsewhere = json!({"name": "work", "hostPath": {"path": "/"}});
    let both = json!({"name": "work", "emptyDir": {}, "hostPath": {"path": "/"}});
    for (volume, copied, taken) in [
        (&bounded, true, true),
        (&bounded, false, false),
        (&elsewhere, true, false),
        (&both, true, false),
    ] {
        let mut world = World::new(&json!({"spec": {"volumes": [volume]}}).to_string());
        if copied {
            world.config.work_volume = crate::config::WorkVolume::Copy;
        }
        let (found, told) = work(&world);
        assert_eq!((found == *volume, told), (taken, !taken), "{found}");
    }
}
