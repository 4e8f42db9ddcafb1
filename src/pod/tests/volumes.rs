use serde_json::json;

use super::{World, container, entry, request, service};
use crate::config::{Affinity, Externals, WorkVolume};
use crate::pod::{SpecError, job};
use crate::protocol::{Mount, PrepareJob};

fn mount(source: Option<&str>, target: &str) -> Mount {
    Mount {
        user_provided_value: None,
        source_volume_path: source.map(str::to_owned),
        target_volume_path: target.to_owned(),
        read_only: false,
    }
}

fn with_volumes(volumes: Vec<Mount>) -> PrepareJob {
    let mut request = request("node:22", Vec::new());
    if let Some(job) = request.container.as_mut() {
        job.user_mount_volumes = volumes;
    }
    request
}

#[test]
fn no_container_mounts_the_root_of_the_work_volume_or_the_runners_temp() {
    let plan = World::new("").job(&request("node:22", vec![service("redis")]));
    for container in plan.pod["spec"]["containers"]
        .as_array()
        .expect("containers")
    {
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            if mount["name"] == "work" {
                let source = mount["subPath"].as_str().expect("a source below the root");
                assert!(
                    !source.is_empty() && !source.starts_with("_temp"),
                    "{mount}"
                );
            }
        }
    }
}

#[test]
fn no_source_lies_in_a_directory_that_a_job_can_write() {
    let plan = World::new("").job(&request("node:22", Vec::new()));
    let mounts = container(&plan.pod, "job")["volumeMounts"]
        .as_array()
        .expect("mounts")
        .clone();
    let source = |mount: &serde_json::Value| mount["subPath"].as_str().unwrap_or("").to_owned();
    for outer in mounts
        .iter()
        .filter(|mount| mount["readOnly"] != true && mount["name"] == "work")
    {
        for inner in &mounts {
            assert!(
                !source(inner).starts_with(&format!("{}/", source(outer))),
                "{inner} lies in {outer}"
            );
        }
    }
}

#[test]
fn a_work_directory_deep_in_its_volume_is_mounted_from_there() {
    let mut world = World::new("");
    if let Some(claim) = world
        .runner
        .as_mut()
        .and_then(|runner| runner.work_claim.as_mut())
    {
        claim.sub_path = "runners/7/_work".to_owned();
    }
    let plan = world.job(&request("node:22", Vec::new()));
    let mounts = &container(&plan.pod, "job")["volumeMounts"];
    assert_eq!(
        entry(mounts, "mountPath", "/__w/demo/demo")["subPath"],
        "runners/7/_work/demo/demo"
    );
    assert_eq!(
        entry(mounts, "mountPath", "/__hook")["subPath"],
        "runners/7/_work/.arc-hook/0123456789abcdef0123456789abcdef/hook"
    );
}

#[test]
fn a_tool_cache_outside_the_work_directory_is_where_the_runner_says() {
    let mut world = World::new("");
    world.config.paths.tools = "/opt/hostedtoolcache".into();
    let plan = world.job(&request("node:22", Vec::new()));
    let mounts = &container(&plan.pod, "job")["volumeMounts"];
    assert_eq!(entry(mounts, "mountPath", "/__t")["subPath"], "_tool");
}

#[test]
fn the_claim_is_the_configured_one_then_the_mounted_one_then_arcs() {
    let mut world = World::new("");
    let claim = |world: &World| {
        let plan = world.job(&request("node:22", Vec::new()));
        entry(&plan.pod["spec"]["volumes"], "name", "work")["persistentVolumeClaim"]["claimName"]
            .clone()
    };
    if let Some(runner) = world.runner.as_mut() {
        runner.work_claim = Some(crate::pod::WorkClaim {
            claim: "mounted".to_owned(),
            sub_path: String::new(),
        });
    }
    assert_eq!(claim(&world), "mounted");
    world.runner = None;
    assert_eq!(claim(&world), "linux-x64-9k2rw-runner-b7xqd-work");
    world.config.claim_name = Some("configured".to_owned());
    assert_eq!(claim(&world), "configured");
}

#[test]
fn a_runner_without_a_work_claim_is_told_what_to_mount() {
    let mut world = World::new("");
    if let Some(runner) = world.runner.as_mut() {
        runner.work_claim = None;
    }
    let plan = world.job(&request("node:22", Vec::new()));
    assert!(plan.copied, "left to itself, the hook copies");
    world.config.work_volume = crate::config::WorkVolume::Shared;
    let error = job(&world.inputs(), &request("node:22", Vec::new())).expect_err("no claim");
    assert!(
        error.to_string().contains("kubernetesModeWorkVolumeClaim"),
        "{error}"
    );
}

#[test]
fn a_pod_that_shares_no_volume_has_one_of_its_own_which_our_containers_fill() {
    let mut world = World::new("metadata: {annotations: {arc-hook/run-as: runner}}");
    world.config.work_volume = crate::config::WorkVolume::Copy;
    let plan = world.job(&with_volumes(vec![mount(
        Some("/home/runner/_work/demo/demo/data"),
        "/data",
    )]));
    insta::assert_yaml_snapshot!(plan.pod["spec"]);
}

#[test]
fn where_the_node_can_the_runners_programs_are_mounted_out_of_its_image() {
    let mut world = World::new("");
    let mounted = |world: &World| {
        let plan = world.job(&super::request("alpine", Vec::new()));
        let volumes = plan.pod["spec"]["volumes"].as_array().unwrap().clone();
        let mounts = &container(&plan.pod, "job")["volumeMounts"];
        let mount = entry(mounts, "mountPath", "/__e").clone();
        let image = volumes
            .into_iter()
            .find(|volume| !volume["image"].is_null());
        assert_eq!(image.is_none(), plan.copies_externals);
        assert_eq!(image.is_none(), mount["name"] == "work");
        let copied = plan.pod.to_string().contains("--externals");
        assert_eq!(copied, plan.copied && plan.copies_externals);
        image.map(|image| (image, mount))
    };
    assert_eq!(mounted(&world), None, "nothing is known of the node");

    world.runner.as_mut().unwrap().mounts_images = true;
    let volume = |image| json!({"name": "arc-hook-runner-image", "image": image});
    let mount = json!({"name": "arc-hook-runner-image", "mountPath": "/__e",
                       "subPath": "home/runner/externals", "readOnly": true});
    let there =
        json!({"reference": "ghcr.io/arc-hook/runner:latest", "pullPolicy": "IfNotPresent"});
    assert_eq!(mounted(&world), Some((volume(there), mount.clone())));

    let exact = "ghcr.io/arc-hook/runner@sha256:11";
    world.runner.as_mut().unwrap().image_digest = Some(exact.to_owned());
    let there = json!({"reference": exact, "pullPolicy": "IfNotPresent"});
    assert_eq!(mounted(&world), Some((volume(there), mount.clone())));

    world.config.externals = Externals::Copy;
    assert_eq!(mounted(&world), None, "they are to be copied");

    // Of another node nothing is known, and an image of that name may be an older one.
    for (work, affinity) in [
        (WorkVolume::Auto, Affinity::None),
        (WorkVolume::Copy, Affinity::Required),
    ] {
        (world.config.work_volume, world.config.affinity) = (work, affinity);
        world.config.externals = Externals::Auto;
        assert_eq!(mounted(&world), None, "{work:?}");
        world.config.externals = Externals::Image;
        let image = json!({"reference": exact});
        assert_eq!(mounted(&world), Some((volume(image), mount.clone())));
    }
}

#[test]
fn programs_that_are_copied_although_they_were_to_be_mounted_are_told_of() {
    let mut world = World::new("");
    let warnings = |world: &World| {
        let plan = world.job(&request("alpine", Vec::new()));
        let told = plan.warnings.join("\n");
        assert_eq!(
            plan.copies_externals,
            told.contains("node and the like are copied")
        );
        told
    };
    world.config.externals = Externals::Image;
    assert_eq!(warnings(&world), "");
    world.runner = None;
    let told = warnings(&world);
    assert!(told.contains("`ACTIONS_RUNNER_IMAGE`"), "{told}");
    world.config.runner_image = Some("ghcr.io/arc-hook/runner:1".to_owned());
    assert_eq!(warnings(&world), "");
}

#[test]
fn a_directory_of_the_workspace_is_mounted_where_the_workflow_says() {
    let plan = World::new("").job(&with_volumes(vec![Mount {
        read_only: true,
        ..mount(Some("/home/runner/_work/demo/demo/data"), "/data")
    }]));
    let mounts = &container(&plan.pod, "job")["volumeMounts"];
    assert_eq!(
        entry(mounts, "mountPath", "/data"),
        &json!({"name": "work", "mountPath": "/data", "subPath": "demo/demo/data", "readOnly": true})
    );
    assert_eq!(
        plan.directories,
        [std::path::PathBuf::from("demo/demo/data")]
    );
}

#[test]
fn named_volumes_are_shared_within_the_pod_and_nameless_ones_are_not() {
    let mut request = with_volumes(vec![mount(Some("shared"), "/a"), mount(None, "/b")]);
    let mut redis = service("redis");
    redis.user_mount_volumes = vec![mount(Some("shared"), "/data"), mount(None, "/b")];
    request.services.push(redis);
    let plan = World::new("").job(&request);
    let name = |container_name: &str, path: &str| {
        let mounts = &container(&plan.pod, container_name)["volumeMounts"];
        entry(mounts, "mountPath", path)["name"].clone()
    };
    assert_eq!(name("job", "/a"), name("redis", "/data"));
    assert_ne!(name("job", "/b"), name("redis", "/b"));
    for volume in [name("job", "/a"), name("job", "/b"), name("redis", "/b")] {
        let volume = entry(
            &plan.pod["spec"]["volumes"],
            "name",
            volume.as_str().expect("a name"),
        );
        assert_eq!(volume["emptyDir"], json!({}));
    }
}

/// A world whose pods share the work volume, and one whose do not.
fn both_ways() -> [World; 2] {
    let mut copies = World::new("");
    copies.config.work_volume = crate::config::WorkVolume::Copy;
    [World::new(""), copies]
}

#[test]
fn a_volume_that_is_to_be_read_only_is_in_both_ways() {
    for world in both_ways() {
        let read_only = |source, target| Mount {
            read_only: true,
            ..mount(source, target)
        };
        let plan = world.job(&with_volumes(vec![
            read_only(Some("/home/runner/_work/demo/demo/data"), "/data"),
            read_only(Some("named"), "/named"),
            mount(Some("/home/runner/_work/demo/demo"), "/whole"),
        ]));
        let mounts = &container(&plan.pod, "job")["volumeMounts"];
        let below = if plan.copied {
            "w/demo/demo"
        } else {
            "demo/demo"
        };
        let data = entry(mounts, "mountPath", "/data");
        assert_eq!(data["subPath"], format!("{below}/data"));
        for path in ["/data", "/named"] {
            assert_eq!(entry(mounts, "mountPath", path)["readOnly"], true, "{path}");
        }
        let whole = entry(mounts, "mountPath", "/whole");
        assert_eq!(whole["subPath"], below);
        assert!(whole["readOnly"].is_null());
    }
}

#[test]
fn nothing_of_runner_or_node_can_be_mounted_by_a_workflow() {
    for world in both_ways() {
        refuses_what_is_not_the_jobs(&world);
    }
}

fn refuses_what_is_not_the_jobs(world: &World) {
    for source in [
        "/",
        "/etc",
        "/var/run/docker.sock",
        "/home/runner",
        "/home/runner/_work",
        "/home/runner/_work/_temp",
        "/home/runner/_work/demo",
        "/home/runner/_work/demo/demo/../..",
        "/home/runner/_work/demo/demo2",
    ] {
        let error = job(
            &world.inputs(),
            &with_volumes(vec![mount(Some(source), "/data")]),
        );
        assert!(
            matches!(error, Err(SpecError::Volume { .. })),
            "{source}: {error:?}"
        );
    }
}

#[test]
fn no_volume_of_a_workflow_covers_the_runners_own() {
    let [world, copies] = both_ways();
    for target in [
        "/__hook/spool",
        "/__e",
        "/__w",
        "/github",
        "/github/workflow",
    ] {
        let request = with_volumes(vec![mount(Some("name"), target)]);
        let error = job(&copies.inputs(), &request);
        assert!(
            matches!(error, Err(SpecError::Volume { .. })),
            "{target}: {error:?}"
        );
    }
    for target in [
        "/__hook",
        "/__hook/spool/x",
        "/__e/node20",
        "/__w/demo/demo",
        "/__w/_temp/",
        "/github/home",
        "/github/workflow/x",
        "/",
        "relative",
        "/a/../__hook",
        "/a:b",
        "",
    ] {
        let error = job(
            &world.inputs(),
            &with_volumes(vec![mount(Some("name"), target)]),
        );
        assert!(
            matches!(error, Err(SpecError::Volume { .. })),
            "{target}: {error:?}"
        );
    }
    let twice = with_volumes(vec![mount(Some("a"), "/data"), mount(Some("b"), "/data/")]);
    assert!(job(&world.inputs(), &twice).is_err());
}

#[test]
fn no_pod_ever_has_a_host_path_or_the_docker_socket_of_a_request() {
    let plan = World::new("").job(&super::prepare_job(include_str!(
        "requests/prepare_job.json"
    )));
    let pod = plan.pod.to_string();
    assert!(!pod.contains("hostPath") && !pod.contains("docker.sock"));
}

#[test]
fn a_service_or_an_action_gets_no_part_of_the_workspace_by_volumes() {
    let world = World::new("");
    let mut redis = service("redis");
    redis.user_mount_volumes = vec![mount(Some("/home/runner/_work/demo/demo/sql"), "/sql")];
    let error = crate::pod::container_step(&world.inputs(), &redis, None);
    assert!(matches!(error, Err(SpecError::Volume { .. })), "{error:?}");
    let error = job(&world.inputs(), &request("node:22", vec![redis]));
    assert!(matches!(error, Err(SpecError::Volume { .. })), "{error:?}");
}

#[test]
fn the_supervisor_is_told_to_check_what_the_template_keeps() {
    let plan = World::new(
        "spec:
  containers:
  - name: $job
    volumeMounts:
    - {name: cache, mountPath: /cache}
    - {name: cache, mountPath: /odd/$(HOME)}
    - {name: cache, mountPath: /read-only, readOnly: true}
    - {name: keys, mountPath: /keys}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - {name: cache, ephemeral: {volumeClaimTemplate: {spec: {}}}}
  - {name: keys, secret: {secretName: keys}}
  - {name: scratch, emptyDir: {}}",
    )
    .job(&request("node:22", Vec::new()));
    let command = container(&plan.pod, "job")["command"].as_array().cloned();
    assert_eq!(
        command.expect("a command")[5..],
        ["--check", "/cache", "--check", "/odd/$$(HOME)"]
    );
}
