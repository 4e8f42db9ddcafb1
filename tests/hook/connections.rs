//! Connections to a job that shares no volume with its runner: mute, slow, and to a relay of another
//! version; and what comes back over them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::fake_api::Cut;
use crate::fake_cluster::lines;
use crate::runner::{JOB_POD, Outcome, Runner, until};

fn prepared() -> Runner {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    runner
}

fn script_with(runner: &Runner, script: &str, with: &[(&str, &str)]) -> Outcome {
    let request = runner.script_request(script);
    runner.finish(runner.start(&request, with))
}

/// In place of the relay: one that answers whatever it is told with this frame.
fn another_relay(runner: &Runner, kind: char, content: &str) {
    let length = u8::try_from(content.len()).unwrap();
    let text = format!(
        "#!/bin/sh\nprintf '{kind}\\{length:o}\\0\\0\\0%s' '{content}'\nexec cat > /dev/null\n"
    );
    let program = runner.write("another-relay", &text);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    runner.api.state().relay = Some(program);
}

#[test]
fn a_step_goes_on_when_its_connection_stands_and_is_mute() {
    let runner = prepared();
    runner.api.state().cuts = [Cut::Mute(50_000)].into();
    let counter = runner.volume(JOB_POD).join("counter");
    let script = format!("echo x >> {}; seq 20000; exit 3", counter.display());
    let step = runner.script(&script);
    assert_eq!(step.code, 3, "{step:?}");
    assert!(step.log == lines(1..=20000), "{} bytes", step.log.len());
    assert_eq!(fs::read(&counter).unwrap(), b"x\n");
}

/// How the connection broke says nothing that the pod's end does not.
#[test]
fn a_pod_that_ends_while_connections_break_is_the_one_cause() {
    let runner = prepared();
    runner.api.state().cuts = std::iter::repeat_n(Cut::Output(1), 1000).collect();
    let before = runner.api.count("GET exec");
    let hook = runner.start(&runner.script_request("seq 20000; sleep 60"), &[]);
    until("it tries again", || {
        runner.api.count("GET exec") > before + 2
    });
    runner.api.change_pod(JOB_POD, |pod| {
        let statuses = pod["status"]["containerStatuses"].as_array_mut().unwrap();
        let job = statuses.iter_mut().find(|status| status["name"] == "job");
        job.unwrap()["state"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
    });
    let step = runner.finish(hook);
    assert_eq!(step.code, 1, "{step:?}");
    let error = "::error title=Out of memory::pod `runner-1-workflow` ended: container `job` was";
    assert!(step.log.contains(error), "{step:?}");
}

#[test]
fn a_container_action_whose_job_is_gone_says_so_at_once() {
    let runner = prepared();
    runner.api.kill_container(JOB_POD);
    runner.api.delete_pod(JOB_POD);
    let action = runner.call(
        "run_container_step",
        &json!({"image": "alpine", "entryPoint": "true", "entryPointArgs": [],
                "workingDirectory": "/"}),
    );
    assert_eq!(action.code, 1, "{action:?}");
    let said = "pod `runner-1-workflow` ended: the pod was deleted";
    assert!(action.log.contains(said), "{action:?}");
}

#[test]
fn a_pod_that_takes_files_slowly_fills_no_memory_of_the_hook() {
    let runner = prepared();
    let file = fs::File::create(runner.work().join("repo/repo/large")).unwrap();
    file.set_len(64 << 20).unwrap();
    runner.api.state().cuts = [Cut::Trickle].into();
    let own = runner.volume(JOB_POD).join("w/repo/repo/large");
    let request = runner.script_request(&format!("stat -c %s {}", own.display()));
    let hook = runner.start(&request, &[]);
    let status = format!("/proc/{}/status", hook.id());
    let mut peak = 0;
    until("it has crossed", || {
        let Ok(status) = fs::read_to_string(&status) else {
            return true;
        };
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        // A process that has ended has none.
        let Some(line) = line else { return true };
        peak = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        false
    });
    let step = runner.finish(hook);
    assert_eq!(
        (step.code, step.log.as_str()),
        (0, "67108864\n"),
        "{step:?}"
    );
    assert!(peak > 0 && peak < 40 << 10, "{peak} KiB");
}

#[test]
fn what_comes_back_is_what_was_asked_for() {
    for (sync, ignored, tracked) in [
        ("tracked", false, true),
        ("all", true, true),
        ("none", false, false),
    ] {
        let runner = prepared();
        let script = format!(
            "cd {}; echo ignored > .gitignore; echo a > ignored; echo b > tracked; \
             echo k={sync} >> \"$GITHUB_OUTPUT\"",
            runner.volume(JOB_POD).join("w/repo/repo").display()
        );
        let step = script_with(&runner, &script, &[("ARC_HOOK_WORKSPACE_SYNC", sync)]);
        assert_eq!(step.code, 0, "{step:?}");
        let workspace = runner.work().join("repo/repo");
        let came = ["ignored", "tracked"].map(|name| workspace.join(name).exists());
        assert_eq!(came, [ignored, tracked], "{sync}");
        let output = fs::read_to_string(runner.file_command("output")).unwrap();
        assert_eq!(output, format!("k={sync}\n"));
    }
}

#[test]
fn a_file_command_beyond_its_bound_fails_the_step_and_is_not_cut() {
    let runner = prepared();
    let step = runner.script("truncate -s 101M \"$GITHUB_OUTPUT\"; echo done");
    assert_eq!(step.code, 1, "{step:?}");
    assert!(step.log.starts_with("done\n"), "{step:?}");
    assert!(
        step.log.contains(
            "copy the file command `output_0000` to the runner: it is larger than 100 MiB"
        ),
        "{step:?}"
    );
    assert_eq!(fs::read(runner.file_command("output")).unwrap(), b"");
}

#[test]
fn a_relay_of_another_version_is_refused_with_what_to_do_or_works() {
    let runner = prepared();
    let other = json!({"protocol": 99}).to_string();
    let refused = "the runner image changed while the job ran, run the job again";
    for (kind, content) in [('h', other.as_str()), ('f', refused)] {
        another_relay(&runner, kind, content);
        let step = runner.script("echo never");
        assert_eq!(step.code, 1, "{step:?}");
        assert!(step.log.contains(refused), "{step:?}");
        assert!(!step.log.contains("never"), "{step:?}");
    }
    // What has never been a relay.
    another_relay(&runner, 'Z', "");
    let step = runner.script("echo never");
    assert_eq!(step.code, 1, "{step:?}");
    assert!(step.log.contains("is not what arc-hook says"), "{step:?}");

    runner.api.state().relay = None;
    assert_eq!(runner.script("echo again").log, "again\n");
}
