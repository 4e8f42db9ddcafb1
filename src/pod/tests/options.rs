use std::time::Duration;

use insta::assert_yaml_snapshot;
use proptest::prelude::*;
use serde_json::json;

use super::{World, container, entry, manifests, request, service};
use crate::pod::options::{Options, Tmpfs};
use crate::pod::{Plan, SpecError, User};
use crate::protocol::PrepareJob;

fn parse(text: &str) -> Options {
    Options::parse(Some(text), "service `x`").expect(text)
}

fn refused(text: &str) -> String {
    Options::parse(Some(text), "service `x`")
        .expect_err(text)
        .to_string()
}

fn with_options(job: &str, redis: &str) -> PrepareJob {
    let mut one = service("redis:7");
    one.create_options = Some(redis.to_owned());
    let mut request = request("node:22", vec![one]);
    if let Some(container) = request.container.as_mut() {
        container.create_options = Some(job.to_owned());
    }
    request
}

fn plan(template: &str, job: &str, redis: &str) -> Plan {
    World::new(template).job(&with_options(job, redis))
}

#[test]
fn flags_are_read_in_each_of_dockers_forms() {
    let expected = parse("--memory 512m --env A=b");
    for text in [
        "--memory=512m --env=A=b",
        "-m 512m -e A=b",
        "-m512m -eA=b",
        "-m=512m -e=A=b",
        "-m '512m' -e \"A=b\"",
        "  --memory\n512M --env A=b ",
    ] {
        assert_eq!(parse(text), expected, "{text}");
    }
    assert_eq!(expected.memory, Some(512 << 20));
    assert_eq!(expected.environment["A"], "b");
    assert_eq!(
        parse("-it --rm").without_effect,
        ["--interactive", "--tty", "--rm"]
    );
    assert_eq!(parse("-ite A=b").environment["A"], "b");
    assert_eq!(Options::parse(None, "x"), Ok(Options::default()));
    assert_eq!(parse(""), Options::default());
}

#[test]
fn quotes_hold_together_what_they_hold() {
    let health = parse(
        r#"--health-cmd "pg_isready -U 'my user'" --health-interval 10s --health-timeout=5s --health-retries 5"#,
    )
    .health
    .expect("a check");
    assert_eq!(health.command, "pg_isready -U 'my user'");
    assert_eq!(health.interval, Duration::from_secs(10));
    assert_eq!(health.deadline(), Duration::from_secs(55));
    assert!(refused("--health-cmd \"redis-cli ping").contains("a quote is missing"));
}

#[test]
fn each_option_is_read_as_docker_reads_it() {
    let options = parse(
        "--cpus=1.5 --shm-size 1g --workdir /src --entrypoint /init --hostname box \
         --add-host db:10.0.0.1 --add-host six=[::1] --label a=b --label c --network-alias cache \
         --tmpfs /run:rw,noexec,size=64m --tmpfs /cache:ro --user 1000:50 --pull always",
    );
    assert_eq!(options.cpu, Some(1500));
    assert_eq!(options.shm_size, Some(1 << 30));
    assert_eq!(options.working_directory.as_deref(), Some("/src"));
    assert_eq!(options.entry_point.as_deref(), Some("/init"));
    assert_eq!(options.hostname.as_deref(), Some("box"));
    assert_eq!(
        options.hosts,
        [("db", "10.0.0.1"), ("six", "::1")].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    assert_eq!(
        options.labels,
        [("a", "b"), ("c", "")].map(|(a, b)| (a.to_owned(), b.to_owned()))
    );
    assert_eq!(options.aliases, ["cache"]);
    assert_eq!(
        options.tmpfs,
        [
            Tmpfs {
                path: "/run".to_owned(),
                size: Some(64 << 20),
                read_only: false
            },
            Tmpfs {
                path: "/cache".to_owned(),
                size: None,
                read_only: true
            },
        ]
    );
    assert_eq!(options.user_numbers("x"), Ok(Some((1000, Some(50)))));
    assert_eq!(parse("--user root").user_numbers("x"), Ok(Some((0, None))));
    assert_eq!(options.pull_policy, Some("Always"));
}

#[test]
fn durations_are_those_of_go() {
    for (text, seconds) in [
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("1500ms", 1.5),
    ] {
        let health = parse(&format!("--health-cmd x --health-interval {text}")).health;
        assert_eq!(
            health.expect("a check").interval,
            Duration::from_secs_f64(seconds)
        );
    }
    for text in ["10", "s", "-1s", "1d", "", "9999h", "1e400s", "1..s"] {
        assert!(refused(&format!("--health-interval='{text}'")).contains("write a duration"));
    }
}

#[test]
fn a_check_that_is_none_is_none() {
    assert_eq!(parse("--health-cmd none").health, None);
    assert_eq!(parse("--no-healthcheck --health-cmd x").health, None);
    assert_eq!(parse("--health-interval 5s").health, None);
}

#[test]
fn what_would_widen_rights_is_refused_by_name() {
    for text in [
        "--privileged",
        "--privileged=true",
        "--cap-add SYS_ADMIN",
        "--cap-add=ALL",
        "--security-opt seccomp=unconfined",
        "--device /dev/fuse",
        "--pid=host",
        "--ipc host",
        "--network host",
        "--net=host",
        "--userns host",
        "--group-add 0",
        "-v /:/host",
        "--volume=/:/host",
        "--mount type=bind,source=/,target=/host",
        "--volumes-from other",
        "-p 80:80",
        "-P",
        "--gpus all",
        "--env-file /home/runner/.env",
        "--runtime crun",
        "--sysctl net.core.somaxconn=1",
        "--cgroup-parent /",
        "-itv /:/host",
        "-e A=b --privileged",
    ] {
        let error = refused(text);
        assert!(
            error.starts_with("build service `x`: `options:` has `--"),
            "{text}: {error}"
        );
    }
    assert_eq!(parse("--privileged=false"), Options::default());
}

#[test]
fn what_is_unknown_or_malformed_is_an_error_that_names_it() {
    for (text, name) in [
        ("--frobnicate", "`--frobnicate`"),
        ("--memory-hungry=1", "`--memory-hungry=1`"),
        ("--health-command x", "`--health-command`"),
        ("-x 1", "`-x`"),
        ("redis:7", "`redis:7`"),
        ("--", "`--`"),
        ("-", "`-`"),
        ("--memory", "`--memory`"),
        ("--memory=lots", "`--memory=lots`"),
        ("--cpus 0", "`--cpus=0`"),
        ("--cpus=-1", "`--cpus=-1`"),
        ("--env HOME", "`--env=HOME`"),
        ("--env =x", "`--env==x`"),
        ("--hostname My_Host", "`--hostname=My_Host`"),
        ("--add-host db:host-gateway", "`--add-host=db:host-gateway`"),
        ("--workdir src", "`--workdir=src`"),
        ("--tmpfs /x:size=big", "`--tmpfs=/x:size=big`"),
        ("--health-retries 0", "`--health-retries=0`"),
        ("--pull sometimes", "`--pull=sometimes`"),
    ] {
        let error = refused(text);
        assert!(error.contains(name), "{text}: {error}");
    }
}

#[test]
fn options_of_job_and_service_arrive_in_the_pod() {
    let plan = plan(
        "",
        "--cpus 2 --memory 4g --shm-size=256m --env A=option --env HOME=/nowhere --workdir /src \
         --entrypoint /init --hostname box --add-host db:10.0.0.1 --label team/name=x --tmpfs /run",
        "--cpus=.5 -m 128m --health-cmd 'redis-cli ping | grep $(A)' --health-interval 10s \
         --hostname cache --network-alias kv --entrypoint redis-server -e MODE=x --label a=b",
    );
    assert_yaml_snapshot!(manifests(&plan));
    assert_eq!(plan.environment["A"], "option");
    assert_eq!(plan.environment["HOME"], "/github/home");
    assert_eq!(plan.working_directory.as_deref(), Some("/src"));
    assert_eq!(plan.companion, ["/init"]);
    assert_eq!(plan.host_names, ["redis", "kv", "cache"]);
    assert_eq!(plan.services[0].health, Some(Duration::from_mins(1)));
    assert_eq!(plan.warnings, Vec::<String>::new());
}

#[test]
fn requests_above_the_allowed_are_cut_with_a_warning() {
    let plan = plan(
        "metadata: {annotations: {arc-hook/max-cpu: '2', arc-hook/max-memory: 1Gi}}",
        "--cpus 8 --memory 64g --shm-size 2g",
        "--cpus 1.5 --memory 512m",
    );
    let job = container(&plan.pod, "job");
    assert_eq!(
        job["resources"],
        json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "2", "memory": "1Gi"}})
    );
    assert_eq!(
        container(&plan.pod, "redis")["resources"]["limits"],
        json!({"cpu": "1500m", "memory": "512Mi"})
    );
    let shm = entry(&job["volumeMounts"], "mountPath", "/dev/shm")["name"].clone();
    let volume = entry(
        &plan.pod["spec"]["volumes"],
        "name",
        shm.as_str().expect("a name"),
    );
    assert_eq!(
        volume["emptyDir"],
        json!({"medium": "Memory", "sizeLimit": "1Gi"})
    );
    assert_eq!(plan.warnings.len(), 3);
    assert!(
        plan.warnings[0].contains("asks for 8 and gets 2"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn resources_of_the_template_count_before_those_of_the_workflow() {
    let plan = plan(
        "spec: {containers: [{name: $job, resources: {limits: {cpu: 1}}}, {name: $default, resources: {requests: {memory: 1Gi}}}]}",
        "--cpus 8 --memory 1g",
        "--memory 128m",
    );
    assert_eq!(
        container(&plan.pod, "job")["resources"],
        json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"memory": "1Gi"}})
    );
    assert_eq!(
        container(&plan.pod, "redis")["resources"],
        json!({"requests": {"memory": "1Gi"}})
    );
    assert_eq!(plan.warnings.len(), 2);
}

#[test]
fn a_user_option_counts_only_where_it_is_allowed_and_nothing_else_is_said() {
    let user = |template: &str| {
        let plan = plan(template, "--user 1000:50", "--user 999");
        (
            plan.user,
            container(&plan.pod, "redis")["securityContext"].clone(),
            plan.warnings.len(),
        )
    };
    assert_eq!(user(""), (User::Image, json!(null), 2));
    assert_eq!(
        user("metadata: {annotations: {arc-hook/allow-user-option: 'true'}}"),
        (
            User::Fixed {
                uid: 1000,
                gid: Some(50)
            },
            json!({"runAsUser": 999}),
            0
        )
    );
    let (of_job, _, warnings) = user(
        "metadata: {annotations: {arc-hook/allow-user-option: 'true', arc-hook/run-as: '7:7'}}",
    );
    assert_eq!(
        (of_job, warnings),
        (
            User::Fixed {
                uid: 7,
                gid: Some(7)
            },
            1
        )
    );
    let world = World::new("metadata: {annotations: {arc-hook/allow-user-option: 'true'}}");
    let named = crate::pod::job(&world.inputs(), &with_options("--user node", ""));
    assert!(matches!(named, Err(SpecError::Option { .. })), "{named:?}");
}

#[test]
fn memory_volumes_cover_nothing_of_the_runners() {
    let world = World::new("");
    for path in ["/__hook/x", "/__w/_temp", "/", "x"] {
        let request = with_options(&format!("--tmpfs {path}"), "");
        let error = crate::pod::job(&world.inputs(), &request);
        assert!(
            matches!(error, Err(SpecError::Option { .. })),
            "{path}: {error:?}"
        );
    }
}

#[test]
fn labels_of_a_workflow_are_annotations_of_a_prefix_of_their_own() {
    let plan = plan(
        "",
        "--label runner-pod=other --label arc-hook/nonce=x --label app=y",
        "",
    );
    let metadata = &plan.pod["metadata"];
    assert_eq!(
        metadata["labels"],
        json!({"runner-pod": "linux-x64-9k2rw-runner-b7xqd"})
    );
    assert_eq!(
        metadata["annotations"],
        json!({"arc-hook/nonce": "0123456789abcdef0123456789abcdef",
               "label.arc-hook/app": "y", "label.arc-hook/arc-hook.nonce": "x",
               "label.arc-hook/runner-pod": "other"})
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,80}") {
        let _ = Options::parse(Some(&text), "x");
    }

    #[test]
    fn any_value_survives_quoting(value in "[^\0]{0,40}") {
        let text = format!("-e {}", shell_words::quote(&format!("A={value}")));
        prop_assert_eq!(&parse(&text).environment["A"], &value);
    }
}
