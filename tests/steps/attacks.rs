//! What a hostile job does to its own step, and what becomes of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::job::{Job, signal, text, wait_until};

#[test]
fn what_a_job_plants_in_place_of_a_file_command_is_neither_followed_nor_awaited() {
    let job = Job::start();
    let secret = job.root.path().join("secret");
    fs::write(&secret, "token=stolen\n").unwrap();
    for plant in [
        format!(
            "rm $GITHUB_OUTPUT; ln -s {} $GITHUB_OUTPUT",
            secret.display()
        ),
        "rm $GITHUB_OUTPUT; mkfifo $GITHUB_OUTPUT".to_owned(),
        "rm $GITHUB_OUTPUT; mkdir $GITHUB_OUTPUT".to_owned(),
    ] {
        let output = job.run(&plant);
        assert_eq!(output.status.code(), Some(1), "{plant}");
        assert!(text(&output.stdout).contains("output_0000-1111"), "{plant}");
        assert_eq!(
            fs::read(job.file_command("output")).unwrap(),
            b"",
            "{plant}"
        );
        let _ = fs::remove_file(job.inside("output"));
        let _ = fs::remove_dir(job.inside("output"));
    }
    // A removed file is an empty one, as in the runner itself.
    assert_eq!(job.run("rm $GITHUB_OUTPUT").status.code(), Some(0));
}

#[test]
fn forged_records_of_a_step_fail_it_and_never_the_hook() {
    let job = Job::start();
    let steps = job.tree.join("spool/steps");
    let secret = job.root.path().join("secret");
    fs::write(
        &secret,
        r#"{"outcome":{"code":0},"log_bytes":0,"run_ms":1}"#,
    )
    .unwrap();
    for plant in [
        format!("ln -s {} exit.json", secret.display()),
        "mkfifo exit.json".to_owned(),
        "echo '{\"outcome\":' > exit.json".to_owned(),
        "head -c 200000 /dev/zero > exit.json".to_owned(),
        "ln -s /etc/passwd log.0; echo hello".to_owned(),
    ] {
        let output = job.run(&format!(
            "cd {}/$ARC_HOOK_STEP && {plant}; sleep 1000",
            steps.display()
        ));
        assert_eq!(output.status.code(), Some(1), "{plant}");
        let shown = text(&output.stdout);
        assert!(shown.contains("::error::"), "{plant}: {shown}");
        assert!(!shown.contains("root:"), "{plant}: {shown}");
    }
    assert_eq!(job.run("echo fine").stdout, b"fine\n");
}

#[test]
fn secrets_of_a_step_are_neither_in_arguments_nor_left_in_the_spool() {
    let job = Job::start();
    let ready = job.root.path().join("ready");
    let environment = BTreeMap::from([("TOKEN".to_owned(), "s3cr3t-v4lue".to_owned())]);
    let step = job.begin_with(
        &format!(": > {}; sleep 1000", ready.display()),
        &environment,
    );
    wait_until("the step runs", || ready.exists());
    let found = Command::new("grep")
        .args(["-rl", "s3cr3t-v4lue"])
        .arg(job.tree.join("spool"))
        .output()
        .unwrap();
    assert_eq!(text(&found.stdout), "");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        // The test's own grep is gone by now.
        assert!(!text(&arguments).contains("s3cr3t-v4lue"));
    }
    signal(&step, rustix::process::Signal::TERM);
    step.wait_with_output().unwrap();
}

#[test]
fn links_between_processes_of_a_job_do_not_lead_scripts_astray() {
    let job = Job::start();
    // The job knows the name (it may guess by watching) and plants a link before the hook writes.
    let victim = job.root.path().join("victim");
    fs::write(&victim, "whole").unwrap();
    symlink(&victim, job.tree.join("temp/planted.sh")).unwrap();
    fs::write(job.paths.temp.join("planted.sh"), "echo script").unwrap();
    let mut child = job.hook().spawn().unwrap();
    let request = json!({"command": "run_script_step", "args": {
        "entryPoint": "true", "entryPointArgs": ["/__w/_temp/planted.sh"]}});
    writeln!(child.stdin.take().unwrap(), "{request}").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(fs::read(&victim).unwrap(), b"whole");
}
