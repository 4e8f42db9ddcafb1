//! `arc-hook render` as a person calls it, on a machine that has never seen a runner.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use insta::assert_snapshot;

const BINARY: &str = env!("CARGO_BIN_EXE_arc-hook");

struct Outcome {
    good: bool,
    printed: String,
    told: String,
}

fn render(arguments: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(BINARY)
        .arg("render")
        .args(arguments)
        .env_clear()
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A call that fails early may not read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        good: output.status.success(),
        printed: String::from_utf8(output.stdout).unwrap(),
        told: String::from_utf8(output.stderr).unwrap(),
    }
}

fn rendered(arguments: &[&str]) -> String {
    let outcome = render(arguments, "");
    assert!(outcome.good, "{}", outcome.told);
    assert_eq!(outcome.told, "");
    outcome.printed
}

fn refused(arguments: &[&str], input: &str) -> String {
    let outcome = render(arguments, input);
    assert!(!outcome.good);
    assert_eq!(outcome.printed, "");
    outcome.told
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn each_template_that_is_handed_out_is_shown_as_what_it_comes_to() {
    assert_snapshot!("job_minimal", rendered(&["hook-templates/minimal.yaml"]));
    assert_snapshot!("job_conan", rendered(&["hook-templates/conan-zfs.yaml"]));
    assert_snapshot!(
        "action_restricted",
        rendered(&["--example", "action", "hook-templates/restricted.yaml"])
    );
}

#[test]
fn without_a_template_the_pod_is_that_of_the_request_alone() {
    let without = rendered(&[]);
    assert!(without.contains("image: gcc:14\n"), "{without}");
    assert!(!without.contains("runAsUser"), "{without}");
}

#[test]
fn every_example_of_the_help_works() {
    let help = rendered(&["--help"]);
    let examples: Vec<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  arc-hook render "))
        .collect();
    assert!(!examples.is_empty(), "{help}");
    for example in examples {
        let arguments: Vec<&str> = example.split(' ').collect();
        assert_ne!(rendered(&arguments), "", "{example}");
    }
}

#[test]
fn a_diff_shows_what_another_template_changes_and_nothing_for_the_same() {
    let minimal = "hook-templates/minimal.yaml";
    assert_snapshot!(
        "diff",
        rendered(&["--diff", "hook-templates/conan-zfs.yaml", minimal])
    );
    assert_eq!(rendered(&["--diff", minimal, minimal]), "");
}

#[test]
fn a_request_of_the_runner_is_taken_from_a_file_and_its_secrets_stay_there() {
    let request = file(
        r#"{"command": "prepare_job", "responseFile": "/r", "state": {}, "args": {
            "container": {"image": "ghcr.io/o/i", "environmentVariables": {"TOKEN": "s3cret"},
                "registry": {"username": "u", "password": "s3cret", "serverUrl": "ghcr.io"}},
            "services": [{"image": "redis", "environmentVariables": {"PASSWORD": "s3cret"}}]}}"#,
    );
    let printed = rendered(&["--request", request.path().to_str().unwrap()]);
    assert!(printed.contains("image: ghcr.io/o/i\n"), "{printed}");
    assert!(printed.contains("  redis.PASSWORD: \"***\"\n"), "{printed}");
    assert!(!printed.contains("s3cret"), "{printed}");
    // Nor as base64, whatever stands before it.
    for encoded in ["czNjcmV0", "MzY3Jld", "zM2NyZX"] {
        assert!(!printed.contains(encoded), "{printed}");
    }
}

#[test]
fn what_a_runner_would_bring_can_be_given() {
    let printed = rendered(&[
        "--pod-name",
        "my-runner",
        "--node",
        "n7",
        "--affinity",
        "preferred",
        "--work-claim",
        "shared",
        "--work",
        "/runner/_work",
        "--repository",
        "lib",
        "--user",
        "7:8",
        "--pull-secret",
        "pull",
        "hook-templates/minimal.yaml",
    ]);
    for expected in [
        "name: my-runner-workflow\n",
        "- n7\n",
        "preferredDuringSchedulingIgnoredDuringExecution",
        "claimName: shared\n",
        "subPath: lib/lib\n",
        "runAsUser: 7\n",
        "runAsGroup: 8\n",
        "- name: pull\n",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
}

#[test]
fn what_is_printed_is_yaml_that_means_the_same_to_kubernetes() {
    // Words and numbers that YAML 1.1, which Kubernetes reads, takes for something else.
    let template = "spec:\n  containers:\n  - name: $job\n    env:\n";
    let values = [
        "yes",
        "on",
        "n",
        "0644",
        "1e3",
        "1_000",
        "12:30:45",
        "~",
        "null",
        "2026-11-21",
        "0x1f",
        ".5",
        "=",
        "# no",
        "a: b",
        "- x",
        "",
        " ",
        "two\nlines\n",
    ];
    let mut input = template.to_owned();
    for (index, value) in values.iter().enumerate() {
        use std::fmt::Write as _;
        writeln!(input, "    - {{name: V{index}, value: {value:?}}}").unwrap();
    }
    let outcome = render(&["--example", "action", "-"], &input);
    assert!(outcome.good, "{}", outcome.told);
    let pod: serde_json::Value = serde_saphyr::from_str(&outcome.printed).unwrap();
    let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    for (index, value) in values.iter().enumerate() {
        let name = format!("V{index}");
        let found = env.iter().find(|one| one["name"] == *name).unwrap();
        assert_eq!(found["value"], *value, "{}", outcome.printed);
        let plain = format!("value: {value}\n");
        assert!(!outcome.printed.contains(&plain), "{value:?} needs quotes");
    }
}

#[test]
fn the_command_of_the_job_container_is_told_although_it_is_in_no_pod() {
    let input = "spec: {containers: [{name: $job, command: [dockerd, --debug]}]}";
    let outcome = render(&["-"], input);
    assert_eq!(
        outcome.printed.lines().next(),
        Some("# Runs beside the steps, in the container `job`: [\"dockerd\",\"--debug\"]")
    );
}

#[test]
fn warnings_go_to_standard_error_and_name_the_template() {
    for example in ["job", "action"] {
        let input = "spec: {containers: [{name: $job, image: mine}]}";
        let outcome = render(&["--example", example, "-"], input);
        assert!(outcome.good);
        assert!(outcome.told.starts_with("warning: -: "), "{}", outcome.told);
        assert!(outcome.told.contains("`image`"), "{}", outcome.told);
        assert!(outcome.printed.starts_with("apiVersion: v1\n"));
    }
}

#[test]
fn errors_name_the_file_the_line_and_the_column() {
    let template = file("kind: ConfigMap\ndata:\n  content: |\n    spec:\n      volumes: {}\n");
    let path = template.path().to_str().unwrap();
    assert_eq!(
        refused(&[path], ""),
        format!(
            "arc-hook: use the hook template `{path}`: read the hook template, line 5 column 7: \
             `volumes` is a mapping; write a list\n"
        )
    );
    assert_eq!(
        refused(&["--diff", path, "hook-templates/minimal.yaml"], ""),
        refused(&[path], "")
    );
    let broken = refused(&["-"], "spec:\n  a: [\n");
    assert!(broken.contains("use the hook template `-`"), "{broken}");
    assert!(broken.contains("line 2 column 6"), "{broken}");

    let request =
        file("{\"command\": \"prepare_job\",\n \"args\": {\"services\": [{\"image\": 5}]}}");
    let told = refused(&["--request", request.path().to_str().unwrap()], "");
    assert!(told.contains(request.path().to_str().unwrap()), "{told}");
    assert!(told.contains("field `args.services[0].image`"), "{told}");
    assert!(told.contains("at line 2 column 34"), "{told}");

    let absent = refused(&["/no/such/template"], "");
    assert!(absent.contains("`/no/such/template`"), "{absent}");
}

#[test]
fn a_request_that_makes_no_pod_is_refused_with_the_remedy() {
    let request = file(r#"{"command": "cleanup_job"}"#);
    let told = refused(&["--request", request.path().to_str().unwrap()], "");
    assert!(told.contains("give one for `prepare_job`"), "{told}");
}
