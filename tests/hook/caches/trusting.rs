//! Who may promote, and that nothing within a job's reach has a say in it.

use serde_json::{Value, json};

use super::{Caching, MAIN, said};
use crate::runner::job;

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
