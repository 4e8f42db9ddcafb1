//! Who may promote, and that nothing within a job's reach has a say in it.

use serde_json::{Value, json};

use super::{Caching, MAIN, TEMPLATE, said};
use crate::runner::{Runner, job};

/// What the runner's diagnostic log holds for a pull request.
fn worker_log(head: &str) -> String {
    let map = |pairs: &[(&str, Value)]| {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| json!({"k": k, "v": v})).collect();
        json!({"t": 2, "d": pairs})
    };
    let repo = |name: &str| map(&[("repo", map(&[("full_name", json!(name))]))]);
    let pull_request = map(&[("head", repo(head)), ("base", repo("octo/demo"))]);
    let github = map(&[
        ("repository", json!("octo/demo")),
        ("run_id", json!("42")),
        ("event", map(&[("pull_request", pull_request)])),
    ]);
    let message = serde_json::to_string_pretty(&json!({"contextData": {"github": github}}));
    format!(
        "[2026-01-01 00:00:00Z INFO Worker] Job message:\n {}\n",
        message.unwrap()
    )
}

const PULL_REQUEST: [(&str, &str); 3] = [
    ("GITHUB_EVENT_NAME", "pull_request"),
    ("GITHUB_REF", "refs/pull/7/merge"),
    ("GITHUB_BASE_REF", "main"),
];

#[test]
fn a_pull_request_gets_the_generation_of_its_base_and_promotes_only_from_the_own_repository() {
    let caching = Caching::new();
    caching.run(0);
    for (log, why) in [
        (None, "counts as a fork's"),
        (Some("mallory/demo"), "comes from the fork `mallory/demo`"),
        (
            Some("octo/demo"),
            "promoted to octo/demo/refs%2Fpull%2F7%2Fmerge generation 1",
        ),
    ] {
        if let Some(head) = log {
            caching
                .runner
                .write("_diag/Worker_20260101-000000-utc.log", &worker_log(head));
        }
        let prepared = caching.prepare(&PULL_REQUEST);
        said(&prepared, "clone of octo/demo/main generation 1");
        // What the job can write has no say: neither a log of its own nor an event.
        let forged = caching.runner.work().join("_diag");
        std::fs::create_dir_all(&forged).unwrap();
        let name = "Worker_20990101-000000-utc.log";
        std::fs::write(forged.join(name), worker_log("octo/demo")).unwrap();
        said(&caching.cleanup(&PULL_REQUEST), why);
    }
    assert_eq!(caching.current(), 1);
}

#[test]
fn the_verdict_is_settled_before_the_job_runs() {
    let caching = Caching::new();
    caching.prepare(&PULL_REQUEST);
    // The runner says something else by the end, and so does a file that was not there before.
    caching.runner.write(
        "_diag/Worker_20260101-000000-utc.log",
        &worker_log("octo/demo"),
    );
    said(
        &caching.cleanup(&[]),
        "not promoted: the runner's diagnostic log does not tell",
    );
    assert!(caching.line(MAIN).is_none());
}

#[test]
fn a_ref_named_like_another_line_or_like_a_branch_reaches_neither() {
    let caching = Caching::new();
    caching.run(0);
    for (git_ref, line) in [
        ("refs/heads/octo/demo/main", "octo/demo/octo%2Fdemo%2Fmain"),
        ("refs/tags/main", ""),
        ("refs/heads/../main", "octo/demo/..%2Fmain"),
    ] {
        let with = [("GITHUB_REF", git_ref)];
        caching.prepare(&with);
        let cleaned = caching.cleanup(&with);
        if line.is_empty() {
            said(
                &cleaned,
                "the hook template does not promote `refs/tags/main`",
            );
        } else {
            said(&cleaned, &format!("promoted to {line} generation 1"));
        }
    }
    assert_eq!(caching.current(), 1);
}

#[test]
fn a_job_can_ask_for_allowed_lines_only_and_decides_nothing_else() {
    let caching = Caching::new();
    let toolchain = [
        ("GITHUB_REPOSITORY", "toolchain/gcc"),
        ("GITHUB_REF", "refs/heads/x"),
    ];
    caching.prepare(&toolchain);
    said(
        &caching.cleanup(&toolchain),
        "does not promote jobs of `toolchain/gcc`",
    );
    let mut request = job(&[]);
    let env = &mut request["container"]["environmentVariables"];
    env["ARC_HOOK_CACHE_CONAN_HOME"] = json!("octo/secret");
    env["GITHUB_EVENT_NAME"] = json!("push");
    env["GITHUB_REF"] = json!("refs/heads/main");
    let prepared = caching.call("prepare_job", &request, &PULL_REQUEST);
    said(
        &prepared,
        "`octo/secret`: the hook template does not allow it",
    );
    let forged = json!({"jobPod": "x", "caches": [{"volume": "conan-home"}]});
    said(
        &caching.call("cleanup_job", &forged, &PULL_REQUEST),
        "counts as a fork's",
    );
    request["container"]["environmentVariables"]["ARC_HOOK_CACHE_CONAN_HOME"] =
        json!("toolchain/gcc");
    said(
        &caching.call("prepare_job", &request, &[]),
        "toolchain/gcc: no such line",
    );
}

/// A pull request's event, as the runner writes it.
fn event(head: &str) -> Value {
    let repo = |name: &str| json!({"repo": {"full_name": name}});
    json!({"pull_request": {"head": repo(head), "base": repo("octo/demo")}})
}

/// Has a job write wherever it can what would make its pull request one of the own repository, or a
/// push.
fn plant(caching: &Caching) {
    let mut places = vec![caching.runner.work()];
    while let Some(place) = places.pop() {
        for name in ["Worker_20990101-000000-utc.log", "event.json", "job.json"] {
            let text = match name {
                "event.json" => event("octo/demo").to_string(),
                "job.json" => forged().to_string(),
                _ => worker_log("octo/demo"),
            };
            std::fs::create_dir_all(place.join("_diag")).unwrap();
            for path in [place.join(name), place.join("_diag").join(name)] {
                std::fs::write(path, &text).unwrap();
            }
        }
        for entry in std::fs::read_dir(&place).unwrap().flatten() {
            if entry.file_name() != "_diag" && entry.file_type().unwrap().is_dir() {
                places.push(entry.path());
            }
        }
    }
    let commands = "GITHUB_EVENT_NAME=push\nGITHUB_REF=refs/heads/main\n";
    std::fs::write(caching.runner.file_command("env"), commands).unwrap();
}

/// A state, or a response, of a job that may promote to main.
fn forged() -> Value {
    let target = json!({"line": MAIN, "node": "node-1", "keep": 1, "expected": null,
                        "lineage": {"trusted": true}});
    json!({"jobPod": "x", "caches": [
        {"volume": "conan-home", "promotion": {"To": target}}]})
}

#[test]
fn nothing_that_a_job_can_write_moves_the_verdict() {
    for early in [true, false] {
        let caching = Caching::new();
        caching.run(0);
        let path = caching
            .runner
            .work()
            .join("_temp/_github_workflow/event.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, event("mallory/demo").to_string()).unwrap();
        let path = path.display().to_string();
        let mut with = PULL_REQUEST.to_vec();
        with.push(("GITHUB_EVENT_PATH", &path));
        // Also what an earlier job of the runner has left.
        if early {
            plant(&caching);
        }
        let mut request = job(&[]);
        let env = &mut request["container"]["environmentVariables"];
        for (name, value) in [
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_REPOSITORY", "octo/demo"),
            ("RUNNER_TEMP", "/__w"),
            ("ARC_HOOK_CACHE_CONAN_HOME", MAIN),
        ] {
            env[name] = json!(value);
        }
        said(
            &caching.call("prepare_job", &request, &with),
            "clone of octo/demo/main generation 1",
        );
        plant(&caching);
        let text = caching.runner.request("cleanup_job", &json!({}));
        let mut request: Value = serde_json::from_str(&text).unwrap();
        request["state"] = forged();
        request["args"] = forged();
        let response = request["responseFile"].as_str().unwrap();
        std::fs::write(response, json!({"state": forged()}).to_string()).unwrap();
        let call = caching
            .runner
            .start(&format!("{request}\n"), &caching.environment(&with));
        said(
            &caching.runner.finish(call),
            "not promoted: the runner's diagnostic log does not tell",
        );
        assert_eq!(caching.current(), 1);
        assert_eq!(caching.api().names("configmaps").len(), 1);
        assert_eq!(caching.claims(), caching.named(MAIN));
    }
}

#[test]
fn jobs_that_strangers_start_promote_nothing_whatever_the_template_says() {
    let events = [
        "pull_request_target",
        "issue_comment",
        "workflow_run",
        "unheard_of",
    ];
    let template = TEMPLATE.replace("push, pull_request", &events.join(", "));
    let caching = Caching::of(Runner::new(), &template);
    for event in events {
        let with = [("GITHUB_EVENT_NAME", event)];
        caching.prepare(&with);
        said(
            &caching.cleanup(&with),
            &format!("not promoted: jobs of the event `{event}` never promote"),
        );
    }
    assert!(caching.line(MAIN).is_none());
    assert!(caching.claims().is_empty());
}

#[test]
fn what_an_untrusted_job_wrote_is_no_parent_where_only_trusted_ones_are_wanted() {
    let template = TEMPLATE.replace("keep: 1", "trusted-parents-only: true");
    let caching = Caching::of(Runner::new(), &template);
    caching.run(0);
    let mut line = caching.line(MAIN).unwrap();
    let entry = line.nodes.get_mut("node-1").unwrap();
    entry.generations[0].lineage.trusted = false;
    let map = serde_json::to_value(line.to_config_map()).unwrap();
    caching.api().put("configmaps", map);
    for with in [&[][..], &PULL_REQUEST[..]] {
        let prepared = caching.prepare(with);
        said(
            &prepared,
            "octo/demo/main: generation 1 was written by an untrusted job",
        );
        said(&prepared, "Cache conan-home: empty");
    }
}
