//! Script steps through the real binary: the hook as the runner calls it, and the supervisor as a
//! process beside it. No cluster, no API server: a script step needs neither.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod attacks;
mod job;
mod relay;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arc_hook::record::{ForcedBy, ForcedUser};
use arc_hook::spool::StepRequest;
use arc_hook::spool::client::{Liveness, RunningStep};
use arc_hook::spool::directory::Directory;
use arc_hook::spool::signals::Signals;
use serde_json::json;

use job::{BINARY, Job, is_alive, signal, text, wait_until};

#[test]
fn the_exit_code_of_a_step_is_the_exit_code_of_the_hook() {
    let job = Job::start();
    for code in [0, 1, 7, 137, 255] {
        let output = job.run(&format!("exit {code}"));
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(text(&output.stdout), "");
    }
    assert_eq!(job.run("kill -SEGV $$").status.code(), Some(139));
    assert_eq!(job.steps_left(), 0, "a collected step leaves nothing");
}

#[test]
fn stdout_and_stderr_arrive_in_the_order_in_which_they_were_written() {
    let job = Job::start();
    let output =
        job.run("i=0; while [ $i -lt 200 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done");
    let expected: Vec<String> = (0..200).map(|i| format!("out{i}\nerr{i}\n")).collect();
    assert_eq!(text(&output.stdout), expected.concat());
}

#[test]
fn a_step_sees_image_job_and_step_environment_with_any_value() {
    let job = Job::start();
    let mut environment: BTreeMap<String, String> = (0..3000)
        .map(|i| (format!("V{i}"), format!("value {i}")))
        .collect();
    let odd = "two\nlines 'single' \"double\" $HOME `id` \\ ünïcödé ";
    environment.insert("ODD".to_owned(), odd.to_owned());
    environment.insert("INPUT_FOO-BAR".to_owned(), "dash".to_owned());
    environment.insert("EMPTY".to_owned(), String::new());
    let script = "printf '%s|' \"$ODD\" \"$FROM_JOB\" \"$FROM_IMAGE\" \"$V2999\" \"${EMPTY-unset}\"; env | grep -c '^V[0-9]'; tr '\\0' '\\n' < /proc/$$/environ | grep '^INPUT_FOO-BAR'";
    let output = job
        .begin_with(script, &environment)
        .wait_with_output()
        .unwrap();
    assert_eq!(
        text(&output.stdout),
        format!("{odd}|job value|image value|value 2999||3000\nINPUT_FOO-BAR=dash\n")
    );
}

#[test]
fn a_value_too_large_for_any_program_is_named_as_the_cause() {
    let job = Job::start();
    let environment = BTreeMap::from([("HUGE".to_owned(), "x".repeat(200 * 1024))]);
    let output = job
        .begin_with("true", &environment)
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stdout).starts_with("::error::start the step: its arguments and"));
}

#[test]
fn a_missing_program_and_a_missing_directory_are_named_in_the_log() {
    let job = Job::start();
    let mut child = job.hook().spawn().unwrap();
    let request = json!({"command": "run_script_step", "args": {
        "entryPoint": "no-such-shell", "entryPointArgs": [], "environmentVariables": {}}});
    writeln!(child.stdin.take().unwrap(), "{request}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stdout).contains("run `no-such-shell`: not found in PATH"));

    let mut child = job.hook().spawn().unwrap();
    let request = json!({"command": "run_script_step", "args": {
        "entryPoint": "true", "workingDirectory": "/no/such/directory"}});
    writeln!(child.stdin.take().unwrap(), "{request}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stdout).contains("enter the working directory `/no/such/directory`"));
}

#[test]
fn file_commands_reach_the_runner_whether_the_step_passes_or_fails() {
    let job = Job::start();
    for code in [0, 3] {
        let output = job.run(&format!(
            "echo a=b >> $GITHUB_OUTPUT; echo E=1 >> $GITHUB_ENV; echo '# hi' >> $GITHUB_STEP_SUMMARY; exit {code}"
        ));
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(fs::read(job.file_command("output")).unwrap(), b"a=b\n");
        assert_eq!(fs::read(job.file_command("env")).unwrap(), b"E=1\n");
        assert_eq!(
            fs::read(job.file_command("step_summary")).unwrap(),
            b"# hi\n"
        );
        assert!(
            !job.inside("output").exists(),
            "the next step starts afresh"
        );
    }
}

#[test]
fn path_entries_are_withheld_from_the_runner_and_lead_the_next_steps_path() {
    let job = Job::start();
    for entry in ["/opt/a", "relative", "../up", "/x:/y"] {
        job.run(&format!("echo '{entry}' >> $GITHUB_PATH"));
        assert_eq!(fs::read(job.file_command("path")).unwrap(), b"", "{entry}");
    }
    let output = job.run("echo $PATH");
    assert_eq!(
        text(&output.stdout),
        "/x:/y:../up:relative:/opt/a:/usr/bin:/bin\n"
    );
}

#[test]
fn an_add_path_command_in_the_log_is_carried_by_the_hook_when_the_job_allows_it() {
    let job = Job::start();
    let allow = BTreeMap::from([(
        "ACTIONS_ALLOW_UNSECURE_COMMANDS".to_owned(),
        "true".to_owned(),
    )]);
    let output = job
        .begin_with("printf 'a\\r::add-path::/evil\\nb\\n'", &allow)
        .wait_with_output()
        .unwrap();
    assert_eq!(text(&output.stdout), "a\rb\n");
    assert!(text(&job.run("echo $PATH").stdout).starts_with("/evil:"));

    let output = job.run("echo ::add-path::/evil2");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).starts_with("::error::run the `add-path` command: it is disabled")
    );
}

#[test]
fn ten_background_steps_run_at_once_and_each_has_its_own_log_and_end() {
    let job = Job::start();
    let gate = job.root.path().join("gate");
    let steps: Vec<Child> = (0..10)
        .map(|i| {
            job.begin_bare(&format!(
                "echo begin{i}; : > {0}.{i}; while [ ! -e {0} ]; do sleep 0.02; done; echo end{i}; exit {i}",
                gate.display()
            ))
        })
        .collect();
    wait_until("all ten run", || {
        (0..10).all(|i| Path::new(&format!("{}.{i}", gate.display())).exists())
    });
    fs::write(&gate, "").unwrap();
    for (i, step) in (0..).zip(steps) {
        let output = step.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(i));
        assert_eq!(text(&output.stdout), format!("begin{i}\nend{i}\n"));
    }
}

#[test]
fn a_daemon_left_behind_neither_delays_the_step_nor_dies_with_it() {
    let job = Job::start();
    let pid = job.root.path().join("daemon");
    let output = job.run(&format!(
        "(while :; do echo noise; sleep 0.01; done) & echo $! > {}; echo done",
        pid.display()
    ));
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("done\n"));
    assert_eq!(job.run("echo next").stdout, b"next\n");
    assert!(is_alive(&pid));
}

#[test]
fn a_signal_ends_the_step_in_time_with_its_log_and_file_commands() {
    let job = Job::start();
    for (sent, code) in [
        (rustix::process::Signal::INT, 143),
        (rustix::process::Signal::TERM, 143),
    ] {
        let ready = job.root.path().join("ready");
        let step = job.begin(&format!(
            "echo before; echo k=v >> $GITHUB_OUTPUT; : > {}; sleep 1000",
            ready.display()
        ));
        wait_until("the step runs", || ready.exists());
        fs::remove_file(&ready).unwrap();
        signal(&step, sent);
        signal(&step, sent);
        let output = step.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(text(&output.stdout), "before\n");
        assert_eq!(fs::read(job.file_command("output")).unwrap(), b"k=v\n");
    }
}

#[test]
fn a_step_that_ignores_sigterm_is_killed_with_all_its_processes_before_the_runner_kills_the_hook() {
    let job = Job::start();
    let (shell, child) = (job.root.path().join("shell"), job.root.path().join("child"));
    let step = job.begin(&format!(
        "trap '' TERM INT; setsid sh -c 'trap \"\" TERM; echo $$ > {}; sleep 1000; sleep 1000' & echo $$ > {}; while :; do sleep 1000; done",
        child.display(),
        shell.display()
    ));
    wait_until("both run", || is_alive(&shell) && is_alive(&child));
    let started = Instant::now();
    signal(&step, rustix::process::Signal::INT);
    let output = step.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137));
    assert!(started.elapsed() < Duration::from_secs(10));
    wait_until("no process is left", || {
        !is_alive(&shell) && !is_alive(&child)
    });
}

#[test]
fn a_cancelled_step_that_exits_0_is_not_green() {
    let job = Job::start();
    let ready = job.root.path().join("ready");
    let step = job.begin(&format!(
        "trap 'echo tidy; exit 0' TERM; : > {}; while :; do sleep 0.02; done",
        ready.display()
    ));
    wait_until("the step runs", || ready.exists());
    signal(&step, rustix::process::Signal::INT);
    let output = step.wait_with_output().unwrap();
    assert!(text(&output.stdout).ends_with("tidy\n"));
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn a_killed_hooks_step_has_ended_before_the_next_step_begins() {
    let job = Job::start();
    let pid = job.root.path().join("pid");
    let step = job.begin(&format!(
        "echo $$ > {}; trap '' TERM; while :; do sleep 0.1; done",
        pid.display()
    ));
    wait_until("the step runs", || is_alive(&pid));
    signal(&step, rustix::process::Signal::KILL);
    step.wait_with_output().unwrap();
    let output = job.run(&format!(
        "kill -0 $(cat {}) 2>&1 && echo alive || echo dead",
        pid.display()
    ));
    assert!(
        text(&output.stdout).ends_with("dead\n"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn a_log_larger_than_the_spool_arrives_byte_for_byte_on_a_bounded_disk() {
    let job = Job::start();
    let mut child = job.begin("head -c 400000000 /dev/zero | tr '\\0' 'x'; echo; echo end");
    let mut out = child.stdout.take().unwrap();
    let mut counted = (0_u64, Vec::new());
    let mut buffer = vec![0; 1 << 16];
    let mut most_on_disk = 0;
    loop {
        use std::io::Read as _;
        let count = out.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        if counted.0 % (64 << 20) < count as u64 {
            // A slow reader lets the writer run into its bound.
            std::thread::sleep(Duration::from_millis(200));
            most_on_disk = most_on_disk.max(disk_use(&job.tree.join("spool")));
        }
        counted.0 += count as u64;
        counted.1 = buffer[..count].to_vec();
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(counted.0, 400_000_000 + 5);
    assert!(counted.1.ends_with(b"x\nend\n") || counted.1.ends_with(b"end\n"));
    assert!(
        most_on_disk <= 65 << 20,
        "{most_on_disk} bytes in the spool"
    );
}

fn disk_use(directory: &Path) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| {
        entries
            .flatten()
            .map(|entry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => disk_use(&entry.path()),
                Ok(metadata) => metadata.len(),
                Err(_) => 0,
            })
            .sum()
    })
}

#[test]
fn a_step_without_a_prepared_job_says_why() {
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(BINARY)
        .env_clear()
        .env("ACTIONS_RUNNER_POD_NAME", "runner")
        .env("RUNNER_TEMP", root.path().join("_work/_temp"))
        .env("GITHUB_WORKSPACE", root.path().join("_work/r/r"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(
        child.stdin.take().unwrap(),
        r#"{{"command":"run_script_step","args":{{"entryPoint":"sh"}}}}"#
    )
    .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("`prepare_job` failed or was cancelled"));
}

struct Alive;

impl Liveness for Alive {
    fn why_ended(&mut self) -> anyhow::Error {
        anyhow::Error::msg("it was told to end")
    }

    fn examine(&mut self, _silence: Duration) -> Option<anyhow::Error> {
        None
    }
}

/// A hook removes the claim of a collected step before its directory; the supervisor once took
/// such a directory for a new step and put a claim into it, which then could not be removed.
#[test]
fn a_finished_step_is_not_claimed_again_while_it_is_removed() {
    let job = Job::start();
    let spool = Directory::open(&job.tree.join("spool")).unwrap();
    let request = StepRequest {
        argv: vec!["true".to_owned()],
        environment: BTreeMap::new(),
        path: Vec::new(),
        directory: None,
        alone: 0,
    };
    let mut step = RunningStep::submit(spool, &request, false).unwrap();
    let signals = Signals::catch_these(&[]).unwrap();
    step.follow(&mut std::io::sink(), &signals, &mut Alive)
        .unwrap();
    let directory = fs::read_dir(job.tree.join("spool/steps"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::remove_file(directory.join("claimed")).unwrap();
    let beat = || fs::read(job.tree.join("spool/heartbeat")).unwrap();
    let before = beat();
    wait_until("the supervisor has looked again", || beat() != before);
    assert!(!directory.join("claimed").exists());
    step.collect();
    assert_eq!(job.steps_left(), 0);
}

#[test]
fn details_are_shown_on_request_and_never_as_commands() {
    let job = Job::start();
    let mut command = job.hook();
    let mut child = command.env("RUNNER_DEBUG", "1").spawn().unwrap();
    let request = job.request("echo fine", &BTreeMap::new());
    writeln!(child.stdin.take().unwrap(), "{request}").unwrap();
    let output = child.wait_with_output().unwrap();
    let log = text(&output.stdout);
    assert!(
        log.contains("arc-hook | DEBUG arc_hook::hook::step: step ended"),
        "{log}"
    );
    assert!(log.lines().any(|line| line == "fine"));
    assert!(!text(&job.run("echo fine").stdout).contains("DEBUG"));
}

#[test]
fn a_step_that_fails_for_its_user_ends_its_log_with_one_hint() {
    let job = Job::start_as(Some(ForcedUser {
        uid: 1001,
        by: ForcedBy::Annotation,
        named: true,
    }));
    let denied = "printf 'E: dpkg was denied, are you root?'";
    let output = job.run(&format!("{denied}; exit 100"));
    assert_eq!(output.status.code(), Some(100));
    let log = text(&output.stdout);
    let (printed, hint) = log.split_once('\n').unwrap();
    assert_eq!(printed, "E: dpkg was denied, are you root?");
    assert!(
        hint.starts_with("Hint: this step ran as user 1001 "),
        "{hint}"
    );
    assert_eq!(hint.lines().count(), 1, "{hint}");

    assert!(!text(&job.run(denied).stdout).contains("Hint"));
    assert!(!text(&job.run("echo no; exit 1").stdout).contains("Hint"));
    let earlier = job.run(&format!("{denied}; head -c 10000 /dev/zero; exit 1"));
    assert!(!text(&earlier.stdout).contains("Hint"));
    let ready = job.root.path().join("ready");
    let cancelled = job.begin(&format!("{denied}; : > {}; sleep 1000", ready.display()));
    wait_until("the step runs", || ready.exists());
    signal(&cancelled, rustix::process::Signal::INT);
    let cancelled = cancelled.wait_with_output().unwrap();
    assert!(!text(&cancelled.stdout).contains("Hint"));
}

#[test]
fn a_step_under_its_images_own_user_gets_no_hint() {
    let output = Job::start().run("echo 'Permission denied'; exit 1");
    assert_eq!(text(&output.stdout), "Permission denied\n");
}
