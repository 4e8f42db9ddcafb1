//! What calls took: for Prometheus, and for whoever debugs a job.

use std::fs;

use serde_json::json;

use crate::runner::{Runner, job, quote};

#[test]
fn every_call_counts_in_the_file_for_prometheus_with_its_phases_and_its_outcome() {
    let runner = Runner::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("arc-hook.prom");
    let with = [("ARC_HOOK_METRICS_FILE", file.to_str().unwrap())];
    let args = job(&[]);
    assert_eq!(runner.call_with("prepare_job", &args, &with).code, 0);
    for script in ["true", "true", "exit 7"] {
        let request = runner.script_request(script);
        runner.finish(runner.start(&request, &with));
    }
    let action = json!({"image": "alpine", "entryPoint": "sh",
        "entryPointArgs": ["-c", quote("exit 3")], "workingDirectory": runner.work()});
    let outcome = runner.call_with("run_container_step", &action, &with);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    let late = runner.script_request("true");
    let cleaned = runner.call_with("cleanup_job", &json!({}), &with);
    assert_eq!(cleaned.log, "Removed: pods 1, secrets 0\n");
    assert_eq!(runner.finish(runner.start(&late, &with)).code, 1);

    let text = fs::read_to_string(&file).unwrap();
    for (command, outcome, count) in [
        ("prepare_job", "success", 1),
        ("run_script_step", "success", 2),
        ("run_script_step", "failure", 1),
        ("run_script_step", "error", 1),
        ("run_container_step", "failure", 1),
        ("cleanup_job", "success", 1),
    ] {
        let line = format!(
            "arc_hook_command_seconds_count{{command=\"{command}\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line}{text}");
    }
    for (command, phases) in [
        (
            "prepare_job",
            &[
                "surroundings read",
                "pod planned",
                "caches cloned",
                "pod created",
                "pod ready",
            ][..],
        ),
        (
            "run_script_step",
            &["files copied in", "step ended", "files copied out"],
        ),
        (
            "run_container_step",
            &[
                "pod planned",
                "pod created",
                "pod ready",
                "step ended",
                "cluster cleaned",
            ],
        ),
        ("cleanup_job", &["cluster cleaned", "directories removed"]),
    ] {
        for phase in phases {
            let name = format!("command=\"{command}\",phase=\"{phase}\"");
            assert!(text.contains(&name), "{name}\n{text}");
        }
    }
    // Whole at any moment, and nothing beside it but the lock.
    let mut names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    names.retain(|entry| entry.as_ref().unwrap().path() != file);
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_fails_no_step() {
    let runner = Runner::new();
    let with = [("ARC_HOOK_METRICS_FILE", "/no/such/directory/a.prom")];
    let prepared = runner.call_with("prepare_job", &job(&[]), &with);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    assert!(
        prepared
            .log
            .contains("::warning::add to `/no/such/directory/a.prom`"),
        "{prepared:?}"
    );
}

#[test]
fn who_debugs_a_job_gets_the_times_of_its_parts_as_a_group() {
    let runner = Runner::new();
    let with = [("RUNNER_DEBUG", "1")];
    let prepared = runner.call_with("prepare_job", &job(&[]), &with);
    let lines: Vec<&str> = prepared.log.lines().collect();
    let begin = lines
        .iter()
        .position(|line| line.starts_with("::group::arc-hook: prepare_job took "))
        .unwrap_or_else(|| panic!("{prepared:?}"));
    let phases: Vec<&str> = lines[begin + 1..]
        .iter()
        .take_while(|line| **line != "::endgroup::")
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(
        phases,
        [
            "surroundings read",
            "pod planned",
            "caches cloned",
            "pod created",
            "pod ready"
        ]
    );
    // Without it, one line each.
    let calm = runner.call("cleanup_job", &json!({}));
    assert_eq!(calm.log, "Removed: pods 1, secrets 0\n");
}
