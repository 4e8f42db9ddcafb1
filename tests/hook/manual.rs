//! What people are told to type: the examples of `--help`, the commands of the README, completions
//! and manual pages.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::doctor::installed;
use crate::fake_api::BINARY;
use crate::runner::Runner;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Verbs whose examples are run, against the fake API server where they ask one. Those of others
/// must be understood.
const RUN: [&str; 6] = ["doctor", "render", "rbac", "completions", "man", "gc"];
/// The same of those that are about kept jobs; to enter one takes a job, as `retained::people` has it.
const RUN_OF_RETAINED: [&str; 4] = ["list", "logs", "extend", "delete"];

fn call(runner: &Runner, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", runner.kubeconfig())
        .current_dir(ROOT)
        .output()
        .unwrap()
}

fn printed(runner: &Runner, arguments: &[&str]) -> String {
    let output = call(runner, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs in a help text.
fn verbs(help: &str) -> Vec<String> {
    let list = help.split("Commands:\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let indented = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = indented.filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// The examples in a verb's help and in that of its own verbs.
fn examples(runner: &Runner, path: &[&str]) -> Vec<String> {
    let help = printed(runner, &[path, &["--help"]].concat());
    let lines = help.lines().filter(|line| line.starts_with("  arc-hook "));
    let mut examples: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    for verb in verbs(&help) {
        examples.extend(self::examples(runner, &[path, &[&verb]].concat()));
    }
    examples
}

fn words(line: &str) -> Vec<String> {
    let words = line.strip_prefix("arc-hook ").unwrap().split_whitespace();
    words.map(str::to_owned).collect()
}

/// A cluster that the examples fit.
fn cluster() -> Runner {
    let runner = installed();
    let mut pod = runner.api.state().objects[&("pods".to_owned(), "runner-1".to_owned())].clone();
    pod["metadata"]["name"] = "conan-zfs-abcde-runner-fghij".into();
    runner.api.put("pods", pod);
    let labels = json!({"arc-hook/confine": "true"});
    let metadata = json!({"name": "arc-runners", "labels": labels});
    runner.api.put("namespaces", json!({"metadata": metadata}));
    runner
}

/// The kept job of the examples.
fn keep_one(runner: &Runner) {
    let pod = "conan-zfs-abcde-runner-fghij-workflow";
    let metadata = json!({"name": pod, "uid": "kept", "labels": {"arc-hook/retained": "3f9a1c2e"}});
    let spec = json!({"containers": [{"name": "job", "image": "alpine"}]});
    runner
        .api
        .put("pods", json!({"metadata": metadata, "spec": spec}));
    let entry = json!({
        "id": "3f9a1c2e", "pod": pod, "podUid": "kept", "mode": "pod", "scaleSet": "conan-zfs",
        "repository": "octo/demo", "runUrl": "https://github.com/octo/demo/actions/runs/42/attempts/1",
        "run": "42.1", "job": "build", "reason": "the job failed", "step": "__run_2", "exit": 3,
        "script": false, "directory": null, "since": "2026-01-01T00:00:00Z",
        "expires": "2999-01-01T00:00:00Z", "latest": "2999-01-02T00:00:00Z", "claims": [],
    });
    let data = json!({"3f9a1c2e": entry.to_string()});
    let metadata = json!({"name": "arc-hook-retained", "resourceVersion": "1"});
    runner
        .api
        .put("configmaps", json!({"metadata": metadata, "data": data}));
}

fn run(runner: &Runner, line: &str) {
    let words = words(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let of_retained = words[0] == "retained" && RUN_OF_RETAINED.contains(&words[1]);
    if of_retained {
        keep_one(runner);
    }
    if RUN.contains(&words[0]) || of_retained {
        let output = call(runner, &words);
        assert!(output.status.success(), "{line}: {output:?}");
    } else {
        // What the command line does not understand is refused before `--help` is heeded. What stands
        // behind `--` is another program's.
        let own = words.split(|word| *word == "--").next().unwrap();
        printed(runner, &[own, &["--help"][..]].concat());
    }
}

#[test]
fn every_verb_has_an_example_and_every_example_works() {
    let runner = cluster();
    let all = verbs(&printed(&runner, &["--help"]));
    assert!(
        RUN.iter().all(|verb| all.iter().any(|one| one == verb)),
        "{all:?}"
    );
    for verb in &all {
        let examples = examples(&runner, &[verb]);
        assert!(!examples.is_empty(), "`{verb} --help` has no example");
        for example in examples {
            run(&runner, &example);
        }
    }
    // Of `arc-hook man --to target/man`.
    assert!(
        Path::new(ROOT)
            .join("target/man/arc-hook-doctor.1")
            .exists()
    );
}

/// Commands of the README that are not run here: where they are, and the words there.
const ELSEWHERE: [(&str, &str, &str); 11] = [
    (
        "kubectl apply -f hook-templates/admission-policy.yaml",
        "e2e/workflow/src/harness/policy.rs",
        "admission-policy.yaml",
    ),
    (
        "kubectl label namespace arc-runners arc-hook/confine=true",
        "e2e/workflow/src/harness/policy.rs",
        "{\"arc-hook/confine\": \"true\"}",
    ),
    (
        "rustup target add x86_64-unknown-linux-musl",
        "e2e/up",
        "rustup target add \"$TARGET\"",
    ),
    (
        "cargo build --profile dist -p arc-hook",
        "e2e/up",
        "--profile dist -p arc-hook",
    ),
    (
        "docker build -f runner-image/Dockerfile",
        "e2e/images/build",
        "runner-image/Dockerfile",
    ),
    (
        "kubectl exec -n arc-runners RUNNER_POD",
        "e2e/workflow/src/scenarios/doctor.rs",
        "\"exec\", \"-n\", namespace",
    ),
    ("cargo test", "e2e/test", "cargo test --workspace"),
    ("./e2e/demo", "e2e/demo", "jobs/demo.yaml"),
    ("./e2e/test", "e2e/test", "stage scenarios"),
    ("./e2e/bench", "e2e/bench", "bench"),
    ("./e2e/faults", "e2e/test", "stage faults"),
];

/// The command lines of the fenced blocks of `sh`, without their comments.
fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                let command = line.split("  #").next().unwrap_or_default().trim();
                commands.push(command.to_owned());
            }
            _ => {}
        }
    }
    commands.retain(|command| !command.is_empty() && !command.starts_with('#'));
    commands
}

#[test]
fn every_command_of_the_readme_is_run_somewhere() {
    let runner = cluster();
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let commands = commands(&readme);
    assert!(commands.len() >= 9, "{commands:?}");
    for command in &commands {
        if command.starts_with("arc-hook ") {
            run(&runner, command);
            continue;
        }
        let place = ELSEWHERE
            .iter()
            .find(|(begin, ..)| command.starts_with(begin));
        let (_, file, words) = place.unwrap_or_else(|| panic!("nothing runs `{command}`"));
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        assert!(
            text.contains(words),
            "`{command}`: `{file}` has no `{words}` any more"
        );
    }
    for (command, ..) in ELSEWHERE {
        let still = commands.iter().any(|one| one.starts_with(command));
        assert!(still, "the README has no `{command}` any more");
    }
}

#[test]
fn what_is_for_pods_is_in_no_completion_and_on_no_page() {
    let runner = Runner::outside_a_pod();
    for arguments in [
        &["completions", "bash"][..],
        &["completions", "zsh"],
        &["man"],
    ] {
        let text = printed(&runner, arguments);
        assert!(text.contains("doctor"), "{text}");
        assert!(!text.contains("supervise"), "{text}");
    }
    let output = call(&runner, &["man", "supervise"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn bash_takes_the_completions() {
    let runner = Runner::outside_a_pod();
    let script = printed(&runner, &["completions", "bash"]);
    let test = format!(
        "{script}\nCOMP_WORDS=(arc-hook do); COMP_CWORD=1; \
         $(complete -p arc-hook | sed 's/.*-F \\([^ ]*\\).*/\\1/') arc-hook do arc-hook; echo \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["-c", &test]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "doctor\n",
        "{output:?}"
    );
}

#[test]
fn under_a_linked_name_it_is_a_plug_in_of_kubectl() {
    let runner = installed();
    let plugin = runner.work().join("kubectl-arc_hook");
    std::os::unix::fs::symlink(BINARY, &plugin).unwrap();
    let call = |arguments: &[&str]| {
        Command::new(&plugin)
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", runner.kubeconfig())
            .output()
            .unwrap()
    };
    let bare = call(&[]);
    assert_eq!(bare.status.code(), Some(2), "{bare:?}");
    let help = String::from_utf8(bare.stderr).unwrap();
    assert!(help.contains("Usage: kubectl arc-hook <COMMAND>"), "{help}");
    let doctor = call(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
}
