use serde_json::json;

use super::{World, container, request, service};
use crate::pod::{Identity, Plan, SpecError, User, job};

fn plan(template: &str) -> Plan {
    World::new(template).job(&request("node:22", vec![service("redis")]))
}

const RUNNER: User = User::Runner(Identity {
    uid: 1001,
    gid: 1001,
});

#[test]
fn run_as_runner_gives_job_and_volumes_to_the_user_of_the_hook() {
    let plan = plan("metadata: {annotations: {arc-hook/run-as: runner}}");
    assert_eq!(plan.user, RUNNER);
    assert_eq!(
        container(&plan.pod, "job")["securityContext"],
        json!({"runAsUser": 1001, "runAsGroup": 1001})
    );
    assert_eq!(
        plan.pod["spec"]["securityContext"],
        json!({"fsGroup": 1001, "fsGroupChangePolicy": "OnRootMismatch"})
    );
    assert!(
        container(&plan.pod, "redis")
            .get("securityContext")
            .is_none()
    );
}

#[test]
fn run_as_image_leaves_user_and_volumes_alone() {
    for template in ["", "metadata: {annotations: {arc-hook/run-as: image}}"] {
        let plan = plan(template);
        assert_eq!(plan.user, User::Image);
        assert!(container(&plan.pod, "job").get("securityContext").is_none());
        assert!(plan.pod["spec"].get("securityContext").is_none());
    }
}

#[test]
fn run_as_takes_numbers() {
    let user = |text: &str| {
        plan(&format!(
            "metadata: {{annotations: {{arc-hook/run-as: '{text}'}}}}"
        ))
        .user
    };
    assert_eq!(
        user("1000"),
        User::Fixed {
            uid: 1000,
            gid: None
        }
    );
    assert_eq!(
        user("1000:50"),
        User::Fixed {
            uid: 1000,
            gid: Some(50)
        }
    );
    assert_eq!(
        user("0:0"),
        User::Fixed {
            uid: 0,
            gid: Some(0)
        }
    );
}

#[test]
fn the_annotation_counts_before_the_template_and_says_so() {
    let plan = plan(
        "metadata: {annotations: {arc-hook/run-as: runner}}\n\
         spec: {containers: [{name: $job, securityContext: {runAsUser: 0, privileged: true}}]}",
    );
    assert_eq!(plan.user, RUNNER);
    assert_eq!(
        container(&plan.pod, "job")["securityContext"],
        json!({"privileged": true, "runAsUser": 1001, "runAsGroup": 1001})
    );
    assert!(
        plan.warnings[0].contains("arc-hook/run-as"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn the_container_of_the_template_counts_before_its_pod() {
    let of_pod = plan("spec: {securityContext: {runAsUser: 1000, runAsGroup: 1000}}");
    assert_eq!(
        of_pod.user,
        User::Fixed {
            uid: 1000,
            gid: Some(1000)
        }
    );
    let of_container = plan(
        "spec: {securityContext: {runAsUser: 1000, fsGroup: 5}, containers: [{name: $job, securityContext: {runAsUser: 7}}]}",
    );
    assert_eq!(of_container.user.uid(), Some(7));
    assert_eq!(of_container.pod["spec"]["securityContext"]["fsGroup"], 5);
}

#[test]
fn containers_that_share_a_volume_as_different_users_are_refused_by_name() {
    let template = |uid: u32, list: &str, extra: &str| {
        format!(
            "metadata: {{annotations: {{arc-hook/run-as: runner}}}}\n\
             spec:\n  volumes: [{{name: cache, emptyDir: {{}}}}]\n\
             \n  {list}: [{{name: seeder, image: x, {extra} securityContext: {{runAsUser: {uid}}}, volumeMounts: [{{name: cache, mountPath: /c}}]}}]\n"
        )
    };
    let with_job = |text: String, list: &str| {
        let job = "{name: $job, volumeMounts: [{name: cache, mountPath: /c}]}";
        if list == "containers" {
            text.replace("containers: [", &format!("containers: [{job}, "))
        } else {
            format!("{text}  containers: [{job}]\n")
        }
    };
    let build = |uid, list: &str, extra| {
        let world = World::new(&with_job(template(uid, list, extra), list));
        job(&world.inputs(), &request("node:22", Vec::new()))
    };
    let error = build(0, "containers", "").expect_err("root beside the runner");
    assert_eq!(
        error,
        SpecError::Users {
            other: "seeder".to_owned(),
            other_uid: 0,
            uid: 1001,
            volume: "cache".to_owned(),
        }
    );
    assert!(error.to_string().contains("`seeder`") && error.to_string().contains("`job`"));
    assert!(build(1001, "containers", "").is_ok());
    // An init container is over before the job begins, but not if it is a sidecar.
    assert!(build(0, "initContainers", "").is_ok());
    assert!(build(0, "initContainers", "restartPolicy: Always,").is_err());
}

#[test]
fn restricted_pods_have_what_the_level_demands_in_every_container() {
    let plan = plan(
        "metadata: {annotations: {arc-hook/security: restricted, arc-hook/run-as: runner}}\n\
         spec: {initContainers: [{name: init, image: x}], containers: [{name: side, image: x}, {name: $redis, securityContext: {runAsUser: 999}}]}",
    );
    assert_eq!(plan.pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        plan.pod["spec"]["securityContext"]["seccompProfile"],
        json!({"type": "RuntimeDefault"})
    );
    for list in ["initContainers", "containers"] {
        for container in plan.pod["spec"][list].as_array().expect("a list") {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(
                context["capabilities"],
                json!({"drop": ["ALL"]}),
                "{container}"
            );
        }
    }
    assert_eq!(
        container(&plan.pod, "redis")["securityContext"]["runAsUser"],
        999
    );
}

#[test]
fn a_forced_user_gets_an_entry_in_passwd_where_the_template_wants_it() {
    let passwd = |run_as: &str| {
        plan(&format!(
            "metadata: {{annotations: {{arc-hook/passwd: 'true', arc-hook/run-as: '{run_as}'}}}}"
        ))
    };
    let pod = passwd("runner").pod;
    insta::assert_yaml_snapshot!(json!({
        "init": pod["spec"]["initContainers"],
        "volumes": pod["spec"]["volumes"],
        "mounts": container(&pod, "job")["volumeMounts"]
            .as_array()
            .map(|mounts| mounts[mounts.len() - 2..].to_vec()),
    }));
    assert!(passwd("image").pod["spec"].get("initContainers").is_none());
}

#[test]
fn what_the_template_says_of_the_user_in_part_stays() {
    let group = plan("spec: {containers: [{name: $job, securityContext: {runAsGroup: 5}}]}");
    assert_eq!(group.user, User::Image);
    assert_eq!(
        container(&group.pod, "job")["securityContext"],
        json!({"runAsGroup": 5})
    );
    let malformed = plan("spec: {containers: [{name: $job, securityContext: {runAsUser: '5'}}]}");
    assert_eq!(
        container(&malformed.pod, "job")["securityContext"],
        json!({"runAsUser": "5"})
    );
    let image = plan(
        "metadata: {annotations: {arc-hook/run-as: image}}\n\
         spec: {containers: [{name: $job, securityContext: {runAsUser: 5, privileged: true}}]}",
    );
    assert_eq!(
        container(&image.pod, "job")["securityContext"],
        json!({"privileged": true})
    );
    assert_eq!(image.warnings.len(), 1);
}

#[test]
fn a_token_is_mounted_only_for_an_account_of_the_template() {
    let token = |template: &str| plan(template).pod["spec"]["automountServiceAccountToken"].clone();
    assert_eq!(token(""), json!(false));
    assert_eq!(token("spec: {serviceAccountName: builder}"), json!(null));
    assert_eq!(
        token("spec: {automountServiceAccountToken: true}"),
        json!(true)
    );
}
