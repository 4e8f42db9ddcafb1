//! Jobs that share no volume with their runner.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fake_api::{Cut, Kind, Kubelet};
use crate::fake_cluster::lines;
use crate::runner::{JOB_POD, RUNNER, Runner, quote, signal, until};

#[test]
fn a_job_without_a_volume_runs_from_preparation_to_clean_up() {
    let runner = Runner::without_a_volume();
    let workspace = runner.work().join("repo/repo");
    fs::create_dir_all(runner.work().join("_actions/o/a/v1")).unwrap();
    fs::write(runner.work().join("_actions/o/a/v1/index.js"), "action").unwrap();
    fs::write(workspace.join("from-runner"), "runner").unwrap();
    let prepared = runner.prepare(&[]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    assert!(prepared.log.contains("none is shared"), "{prepared:?}");
    let own = runner.volume(JOB_POD);
    assert!(own.join("w/_actions/o/a/v1/index.js").exists());
    assert_eq!(
        fs::read(own.join("w/repo/repo/from-runner")).unwrap(),
        b"runner"
    );

    let script = format!(
        "cd {}; echo \"hello $FROM_JOB\"; mkdir -p .github/actions/x; \
         echo runs: > .github/actions/x/action.yml; echo made > made; chmod 755 made; \
         rm from-runner; echo k=v >> \"$GITHUB_OUTPUT\"; exit 7",
        own.join("w/repo/repo").display()
    );
    let step = runner.script(&script);
    assert_eq!(step.code, 7, "{step:?}");
    assert_eq!(step.log, "hello s3cret of the job\n");
    assert_eq!(
        fs::read_to_string(runner.file_command("output")).unwrap(),
        "k=v\n"
    );
    assert_eq!(
        fs::read(workspace.join(".github/actions/x/action.yml")).unwrap(),
        b"runs:\n"
    );
    let mode = fs::metadata(workspace.join("made"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    assert!(!workspace.join("from-runner").exists());

    assert_eq!(runner.api.count("GET exec"), 2, "one connection a call");
    let cleaned = runner.call("cleanup_job", &json!({}));
    assert_eq!(cleaned.code, 0, "{cleaned:?}");
    assert_eq!(runner.api.names("pods"), [RUNNER]);
    assert!(!runner.memory().exists());
}

#[test]
fn a_pod_gets_its_files_before_the_api_server_knows_that_it_runs() {
    let runner = Runner::without_a_volume();
    fs::write(runner.work().join("repo/repo/from-runner"), "runner").unwrap();
    runner.api.state().kubelet = Kubelet::RunUntold;
    let prepared = runner.prepare(&[]);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let copied = runner.volume(JOB_POD).join("w/repo/repo/from-runner");
    assert_eq!(fs::read(copied).unwrap(), b"runner");
    assert_eq!(runner.api.count("GET exec"), 1);
}

#[test]
fn a_step_whose_connection_breaks_runs_once_and_its_log_is_whole() {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    let own = runner.volume(JOB_POD);
    for (round, cut) in (0..4)
        .flat_map(|n| {
            let at = 1 + n * 397;
            [Cut::Input(at), Cut::Output(at), Cut::Output(at * 50)]
        })
        .enumerate()
    {
        runner.api.state().cuts = [cut, Cut::Output(3000)].into();
        let counter = own.join(format!("count-{round}"));
        let script = format!(
            "echo x >> {}; seq 20000; echo k={round} >> \"$GITHUB_OUTPUT\"; exit 3",
            counter.display()
        );
        let step = runner.script(&script);
        assert_eq!(step.code, 3, "{cut:?} {step:?}");
        let expected = lines(1..=20000);
        assert!(step.log == expected, "{cut:?}: {} bytes", step.log.len());
        assert_eq!(fs::read(&counter).unwrap(), b"x\n", "{cut:?}");
        assert_eq!(
            fs::read_to_string(runner.file_command("output")).unwrap(),
            format!("k={round}\n"),
            "{cut:?}"
        );
    }
}

#[test]
fn a_step_outlives_an_api_server_that_has_just_started_and_refuses_everything() {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    for (method, resource, words) in [
        ("GET", "exec", "create resource \"pods/exec\""),
        ("GET", "pods", "get resource \"pods\""),
    ] {
        let message = format!(
            "pods is forbidden: User \"system:serviceaccount:ci:runner\" cannot {words} in API group \
             \"\" in the namespace \"ci\""
        );
        let kind = Kind::Status(403, "Forbidden", message);
        runner.api.fail(method, resource, 2, kind);
    }
    runner.api.state().cuts = [Cut::Output(3000)].into();
    let step = runner.script("seq 20000; exit 3");
    assert_eq!(step.code, 3, "{step:?}");
    assert!(step.log == lines(1..=20000), "{} bytes", step.log.len());
    let left: Vec<u32> = runner
        .api
        .state()
        .faults
        .iter()
        .map(|fault| fault.times)
        .collect();
    assert!(left.iter().all(|times| *times == 0), "{left:?}");
}

#[test]
fn what_a_container_action_writes_reaches_the_job_and_the_runner() {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    let own = runner.volume(JOB_POD);
    let workspace = own.join("w/repo/repo");
    let prepare = format!(
        "cd {}; echo one > kept; echo two > removed; ln -s kept link; echo home > {}/github/home/h",
        workspace.display(),
        own.display()
    );
    assert_eq!(runner.script(&prepare).code, 0);
    // Where its container is, the action alone knows: it runs in its spool's pod.
    let pods = own.parent().unwrap().display();
    let script = format!(
        "cd {pods}/*-step-*/github/workspace; cat kept link ../home/h; rm removed; \
         echo three > made; echo k=v > ../file_commands/output_0000; exit 4"
    );
    let action = runner.call(
        "run_container_step",
        &json!({"image": "alpine", "entryPoint": "sh", "entryPointArgs": ["-c", quote(&script)],
                "workingDirectory": "/"}),
    );
    assert_eq!(action.code, 4, "{action:?}");
    assert_eq!(action.log, "one\none\nhome\n");
    assert_eq!(
        fs::read_to_string(runner.file_command("output")).unwrap(),
        "k=v\n"
    );
    for side in [workspace, runner.work().join("repo/repo")] {
        assert_eq!(fs::read(side.join("made")).unwrap(), b"three\n", "{side:?}");
        assert!(!side.join("removed").exists(), "{side:?}");
    }
    assert_eq!(runner.api.names("pods"), [RUNNER, JOB_POD]);
}

/// A program that says one line.
fn program(exit: Option<i32>) -> Kubelet {
    Kubelet::Program {
        log: vec!["2026-11-21T06:00:00.5Z it runs".to_owned()],
        exit,
        cut: None,
    }
}

/// The volume of the action's pod, once its program may start.
fn released(runner: &Runner) -> std::path::PathBuf {
    let pods = runner.volume("x").parent().unwrap().to_owned();
    let action = || {
        let entries = fs::read_dir(&pods).into_iter().flatten().flatten();
        let mut paths = entries.map(|entry| entry.path());
        paths.find(|path| path.to_str().unwrap().contains("-step-"))
    };
    until("the action's files are there", || {
        action().is_some_and(|own| {
            own.join("spool/ready.json").exists() && !own.join("spool/gate").exists()
        })
    });
    action().unwrap()
}

#[test]
fn a_program_that_its_image_chooses_has_the_jobs_files_and_what_it_writes_comes_back() {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    let own = runner.volume(JOB_POD);
    let workspace = own.join("w/repo/repo");
    let script = format!(
        "cd {}; echo one > kept; echo two > removed; echo home > {}/github/home/h",
        workspace.display(),
        own.display()
    );
    assert_eq!(runner.script(&script).code, 0);
    runner.api.state().kubelet = program(None);
    let args =
        json!({"image": "hello", "entryPoint": null, "workingDirectory": "/github/workspace"});
    let request = runner.request("run_container_step", &args);
    let child = runner.start(&request, &[]);
    let action = released(&runner).join("github");
    assert_eq!(fs::read(action.join("workspace/kept")).unwrap(), b"one\n");
    assert_eq!(fs::read(action.join("home/h")).unwrap(), b"home\n");
    fs::remove_file(action.join("workspace/removed")).unwrap();
    fs::write(action.join("workspace/made"), "three\n").unwrap();
    fs::write(action.join("file_commands/output_0000"), "k=v\n").unwrap();
    runner.api.state().kubelet = program(Some(4));
    let step = runner.finish(child);
    assert_eq!((step.code, step.log.as_str()), (4, "it runs\n"), "{step:?}");
    let output = fs::read_to_string(runner.file_command("output")).unwrap();
    assert_eq!(output, "k=v\n");
    for side in [workspace, runner.work().join("repo/repo")] {
        assert_eq!(fs::read(side.join("made")).unwrap(), b"three\n", "{side:?}");
        assert!(!side.join("removed").exists(), "{side:?}");
    }
    assert_eq!(runner.api.names("pods"), [RUNNER, JOB_POD]);
}

#[test]
fn such_a_program_works_on_the_runners_workspace_without_a_job_and_is_cancelled_with_its_output() {
    let runner = Runner::without_a_volume();
    let workspace = runner.work().join("repo/repo");
    fs::write(workspace.join("input"), "from the runner\n").unwrap();
    runner.api.state().kubelet = program(None);
    let request = runner.request("run_container_step", &json!({"image": "hello"}));
    let child = runner.start(&request, &[]);
    let action = released(&runner).join("github");
    let input = fs::read(action.join("workspace/input")).unwrap();
    assert_eq!(input, b"from the runner\n");
    fs::write(action.join("workspace/made"), "by it\n").unwrap();
    fs::write(action.join("file_commands/output_0000"), "k=v\n").unwrap();
    until("its log is read", || runner.api.count("GET log") > 0);
    signal(&child, "-INT");
    let step = runner.finish(child);
    assert_eq!(step.code, 130, "{step:?}");
    let output = fs::read_to_string(runner.file_command("output")).unwrap();
    assert_eq!(output, "k=v\n");
    assert_eq!(fs::read(workspace.join("made")).unwrap(), b"by it\n");
    assert_eq!(runner.api.names("pods"), [RUNNER]);
}

#[test]
fn without_a_job_an_action_works_on_the_runners_workspace() {
    let runner = Runner::without_a_volume();
    let workspace = runner.work().join("repo/repo");
    fs::write(workspace.join("input"), "from the runner\n").unwrap();
    let pods = runner.volume("x");
    let script = format!(
        "cd {}/*-step-*/github/workspace; cat input; echo made > output",
        pods.parent().unwrap().display()
    );
    let action = runner.call(
        "run_container_step",
        &json!({"image": "alpine", "entryPoint": "sh", "entryPointArgs": ["-c", quote(&script)],
                "workingDirectory": "/"}),
    );
    assert_eq!(
        (action.code, action.log.as_str()),
        (0, "from the runner\n"),
        "{action:?}"
    );
    assert_eq!(fs::read(workspace.join("output")).unwrap(), b"made\n");
    assert_eq!(runner.api.names("pods"), [RUNNER]);
}

#[test]
fn a_cancelled_step_ends_in_time_with_its_log_and_its_file_commands() {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    let output = runner.inside("output");
    let request = runner.script_request("echo k=v > \"$GITHUB_OUTPUT\"; echo started; sleep 60");
    let child = runner.start(&request, &[]);
    until("it runs", || {
        fs::read(&output).is_ok_and(|text| !text.is_empty())
    });
    let start = Instant::now();
    signal(&child, "-INT");
    let step = runner.finish(child);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_ne!(step.code, 0);
    assert_eq!(step.log, "started\n");
    assert_eq!(
        fs::read_to_string(runner.file_command("output")).unwrap(),
        "k=v\n"
    );
}

#[test]
fn the_step_of_a_killed_hook_ends_before_the_next_begins() {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    let pid = runner.volume(JOB_POD).join("pid");
    let request = runner.script_request(&format!("echo $$ > {}; sleep 60", pid.display()));
    let child = runner.start(&request, &[]);
    until("it runs", || {
        fs::read(&pid).is_ok_and(|text| !text.is_empty())
    });
    signal(&child, "-KILL");
    runner.finish(child);
    let script = format!(
        "kill -0 $(cat {}) 2>/dev/null && echo alive; echo next",
        pid.display()
    );
    let next = runner.script(&script);
    assert_eq!((next.code, next.log.as_str()), (0, "next\n"), "{next:?}");
}

/// Runs a script of the job with this setting.
fn script_under(runner: &Runner, sync: &str, script: &str) -> crate::runner::Outcome {
    let request = runner.script_request(script);
    runner.finish(runner.start(&request, &[("ARC_HOOK_WORKSPACE_SYNC", sync)]))
}

#[test]
fn the_setting_says_what_of_the_workspace_comes_back() {
    const KNOWN: [&str; 5] = [
        ".git/HEAD",
        ".git/config",
        ".gitignore",
        "ignored.o",
        "src/a.c",
    ];
    for (sync, expected) in [
        ("tracked", &KNOWN[1..3]),
        ("all", &KNOWN[..4]),
        ("none", &[]),
    ] {
        let runner = Runner::without_a_volume();
        let workspace = runner.work().join("repo/repo");
        assert_eq!(runner.prepare(&[]).code, 0);
        let script = format!(
            "cd {}; mkdir -p .git src; echo x > .git/HEAD; echo x > .git/config; \
             echo '*.o' > .gitignore; echo x > ignored.o; echo x > src/a.c; ln -s src link; \
             echo k=v > \"$GITHUB_OUTPUT\"",
            runner.volume(JOB_POD).join("w/repo/repo").display()
        );
        let step = script_under(&runner, sync, &script);
        assert_eq!(step.code, 0, "{sync} {step:?}");
        let came: Vec<&str> = KNOWN
            .into_iter()
            .filter(|file| workspace.join(file).exists())
            .collect();
        let mut expected = expected.to_vec();
        expected.extend((sync != "none").then_some("src/a.c"));
        assert_eq!(came, expected, "{sync}");
        assert!(workspace.join("link").symlink_metadata().is_err(), "{sync}");
        let output = fs::read_to_string(runner.file_command("output")).unwrap();
        assert_eq!(output, "k=v\n", "file commands come in any case: {sync}");

        // The job's own files stay with it, whatever the runner has.
        let step = script_under(&runner, sync, "test -n \"$FROM_JOB\"");
        assert_eq!((step.code, step.log.as_str()), (0, ""), "{sync} {step:?}");
        let own = runner.volume(JOB_POD).join("w/repo/repo");
        assert!(KNOWN.iter().all(|file| own.join(file).exists()), "{sync}");
        assert!(own.join("link").is_symlink(), "{sync}");
    }
}

#[test]
fn what_exceeds_a_limit_is_named_and_the_rest_comes() {
    let runner = Runner::without_a_volume();
    let workspace = runner.work().join("repo/repo");
    assert_eq!(runner.prepare(&[]).code, 0);
    let own = runner.volume(JOB_POD).join("w/repo/repo");
    let script = format!(
        "cd {}; mkdir 'with blank'; truncate -s 101M 'with blank/large'; echo x > small",
        own.display()
    );
    let step = runner.script(&script);
    assert_eq!(step.code, 0, "{step:?}");
    assert!(
        step.log
            .contains("`with blank/large` stays in the job's pod: it is larger than 100 MiB"),
        "{step:?}"
    );
    assert!(workspace.join("small").exists());
    assert!(!workspace.join("with blank/large").exists());
    assert!(own.join("with blank/large").exists());
    let step = runner.script("true");
    assert_eq!((step.code, step.log.as_str()), (0, ""), "it is told once");

    // Half of a file command would be a lie.
    for (size, reason) in [("101M", "larger than 100 MiB"), ("65M", "more than the")] {
        let script = format!("truncate -s {size} \"$GITHUB_OUTPUT\"; echo said");
        let step = runner.script(&script);
        assert_ne!(step.code, 0, "{size} {step:?}");
        assert!(step.log.starts_with("said\n"), "{size} {step:?}");
        assert!(
            step.log.contains("`output_0000`") && step.log.contains(reason),
            "{size} {step:?}"
        );
        let output = fs::metadata(runner.file_command("output")).unwrap();
        assert_eq!(output.len(), 0, "{size}");
    }
}

#[test]
fn a_step_that_changes_nothing_sends_nothing_and_leaves_the_manifest_alone() {
    let runner = Runner::without_a_volume();
    assert_eq!(runner.prepare(&[]).code, 0);
    let script = format!(
        "cd {}; echo x > made",
        runner.volume(JOB_POD).join("w/repo/repo").display()
    );
    assert_eq!(runner.script(&script).code, 0);
    let manifests = [
        runner.memory().join("manifest"),
        runner.volume(JOB_POD).join("spool/manifest"),
    ];
    let before = manifests.each_ref().map(|path| fs::read(path).unwrap());
    assert_eq!(before[0], before[1]);
    assert_eq!(runner.script("true").code, 0);
    let after = manifests.each_ref().map(|path| fs::read(path).unwrap());
    assert_eq!(before, after);
}

/// The most memory that a hook process had resident, in KiB, as far as that was seen.
fn peak(child: &std::process::Child) -> u64 {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    // A process that has ended has no memory to tell of.
    while let Some(now) = fs::read_to_string(&path).ok().and_then(|status| {
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    }) {
        peak = now;
        std::thread::sleep(Duration::from_millis(2));
    }
    peak
}

#[test]
fn the_hooks_memory_does_not_grow_with_what_is_copied() {
    let peaks = [(1_u64, 10), (16, 3000)].map(|(megabytes, files)| {
        let runner = Runner::without_a_volume();
        let workspace = runner.work().join("repo/repo");
        let bytes = vec![b'x'; 1 << 20];
        let mut large = fs::File::create(workspace.join("large")).unwrap();
        for _ in 0..megabytes {
            std::io::Write::write_all(&mut large, &bytes).unwrap();
        }
        fs::create_dir(workspace.join("many")).unwrap();
        for number in 0..files {
            fs::write(workspace.join(format!("many/{number}")), "").unwrap();
        }
        let request = runner.request("prepare_job", &crate::runner::job(&[]));
        let child = runner.start(&request, &[]);
        let prepared = peak(&child);
        assert_eq!(runner.finish(child).code, 0);
        let child = runner.start(&runner.script_request("true"), &[]);
        let stepped = peak(&child);
        let step = runner.finish(child);
        assert_eq!((step.code, step.log.as_str()), (0, ""), "{step:?}");
        let there = runner.volume(JOB_POD).join("w/repo/repo/large");
        assert_eq!(fs::metadata(there).unwrap().len(), megabytes << 20);
        [prepared, stepped]
    });
    for (few, many) in peaks[0].into_iter().zip(peaks[1]) {
        assert!(few > 0 && many < few + 4096, "{peaks:?} KiB");
    }
}
