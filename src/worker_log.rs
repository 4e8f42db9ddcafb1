//! The diagnostic log of the runner's Worker: what the runner tells nobody else.
//!
//! It lies in `_diag` beside `_work`, on the runner's own file system, where no job can write. Its
//! format is not documented, so whatever is not as expected means that nothing is known
//! (actions/runner 2.293 to 2.336: `HostTraceListener.cs`, `Worker.cs`, `StepsRunner.cs`):
//!
//! - a file per Worker, `Worker_<yyyyMMdd-HHmmss>-utc.log`, and another each 8 MiB;
//! - an entry begins with `[2026-01-01 00:00:00Z INFO Worker] `, the source's name last;
//! - the Worker's first long entry is `Job message:` and the message as indented JSON, secrets
//!   masked, written before anything of the job is evaluated;
//! - after each step `StepsRunner` writes `Current state: job state = 'Failed'`, empty while all
//!   is well.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Most that is read of one file, which is cut at 8 MiB but for its last entry.
const LIMIT: u64 = 64 * 1024 * 1024;
/// Most files that are looked through, from the newest.
const FILES: usize = 20;

/// Where a pull request comes from, and which run says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// Repository of the run.
    pub repository: String,
    /// Number of the run.
    pub run: String,
    /// Repository that the pull request is for.
    pub base: String,
    /// Repository of its branch; absent when that is gone.
    pub head: Option<String>,
}

/// How the job stands, after its last step so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// No step that counts has failed.
    Good,
    /// It will end as a failure.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// What the job message says of the pull request; `None` when there is none, or nothing is known.
#[must_use]
pub fn pull_request(directory: &Path) -> Option<PullRequest> {
    let github = newest_first(directory)
        .iter()
        .find_map(|path| job_message(path))?
        .context_data?
        .github;
    let text = |path: &[&str]| lookup(&github, path)?.as_str().map(str::to_owned);
    lookup(&github, &["event", "pull_request"]).filter(|found| found.is_object())?;
    Some(PullRequest {
        repository: text(&["repository"])?,
        run: text(&["run_id"])?,
        base: text(&["event", "pull_request", "base", "repo", "full_name"])?,
        head: text(&["event", "pull_request", "head", "repo", "full_name"]),
    })
}

/// How the job stands; `None` when nothing is known.
#[must_use]
pub fn job_state(directory: &Path) -> Option<JobState> {
    newest_first(directory)
        .iter()
        .find_map(|path| last_state(path))
}

/// The Worker's files. Their names sort by time.
fn newest_first(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("Worker_") && name.ends_with("-utc.log")
        })
        .map(|entry| entry.path())
        .collect();
    files.sort_unstable_by(|one, other| other.cmp(one));
    files.truncate(FILES);
    files
}

fn open(path: &Path) -> Option<BufReader<std::io::Take<File>>> {
    let no_links = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(no_links.bits().cast_signed())
        .open(path)
        .ok()?;
    file.metadata().ok()?.is_file().then_some(())?;
    Some(BufReader::new(file.take(LIMIT)))
}

/// The text of an entry's first line, if `source` wrote it.
fn entry<'a>(line: &'a str, source: &str) -> Option<&'a str> {
    let (header, text) = line.strip_prefix('[')?.split_once("] ")?;
    let time = header.strip_suffix(source)?.strip_suffix(" INFO ")?;
    let is_time = time.len() == "2026-01-01 00:00:00Z".len()
        && time.ends_with('Z')
        && time
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"-: Z".contains(&byte));
    is_time.then_some(text)
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "contextData")]
    context_data: Option<ContextData>,
}

#[derive(Deserialize)]
struct ContextData {
    #[serde(default)]
    github: Value,
}

/// The first job message of a file: a later one would not be the Worker's own.
fn job_message(path: &Path) -> Option<Message> {
    let mut reader = open(path)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&line);
        if entry(text.trim_end(), "Worker").is_some_and(|text| text == "Job message:") {
            break;
        }
    }
    let mut stream = serde_json::Deserializer::from_reader(reader).into_iter::<Message>();
    stream.next()?.ok()
}

fn last_state(path: &Path) -> Option<JobState> {
    const STATE: &str = "Current state: job state = '";
    let mut reader = open(path)?;
    let mut last = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return last;
        }
        let text = String::from_utf8_lossy(&line);
        let state = entry(text.trim_end(), "StepsRunner")
            .and_then(|text| text.strip_prefix(STATE)?.strip_suffix('\''));
        last = match state {
            Some("" | "Succeeded" | "SucceededWithIssues") => Some(JobState::Good),
            Some("Canceled") => Some(JobState::Cancelled),
            // `Failed`, `Abandoned`, and what a later runner may add.
            Some(_) => Some(JobState::Failed),
            None => last,
        };
    }
}

/// A value of the context's wire format: a mapping is `{"t": 2, "d": [{"k": …, "v": …}]}`
/// (actions/runner, `PipelineContextDataJsonConverter.cs`).
fn lookup<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| {
        let pairs = value.get("d")?.as_array()?;
        let pair = pairs.iter().find(|pair| pair["k"] == *name)?;
        pair.get("v")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(pairs: &[(&str, Value)]) -> Value {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| json!({"k": k, "v": v})).collect();
        json!({"t": 2, "d": pairs})
    }

    fn message(head: &Value) -> String {
        let repo = |name: Value| map(&[("repo", map(&[("full_name", name)]))]);
        let head = if head.is_null() {
            map(&[("repo", Value::Null)])
        } else {
            repo(head.clone())
        };
        let pull_request = map(&[("head", head), ("base", repo(json!("octo/demo")))]);
        let github = map(&[
            ("repository", json!("octo/demo")),
            ("run_id", json!("42")),
            ("event", map(&[("pull_request", pull_request)])),
        ]);
        let message = json!({
            "messageType": "PipelineAgentJobRequest",
            "jobDisplayName": "[2026-01-01 00:00:00Z INFO Worker] Job message:\n {}",
            "contextData": {"github": github, "matrix": null},
        });
        let message = serde_json::to_string_pretty(&message).unwrap();
        format!(
            "[2026-01-01 00:00:00Z INFO HostContext] Well known directory 'Bin': 'x'\n\
             [2026-01-01 00:00:01Z INFO Worker] Job message:\n {message}\n\
             [2026-01-01 00:00:01Z INFO Worker] Listening for cancel message from the channel.\n"
        )
    }

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    const FIRST: &str = "Worker_20260101-000000-utc.log";
    const SECOND: &str = "Worker_20260101-000500-utc.log";

    #[test]
    fn a_pull_request_tells_where_it_comes_from() {
        for (head, expected) in [
            (json!("octo/demo"), Some("octo/demo")),
            (json!("mallory/demo"), Some("mallory/demo")),
            (Value::Null, None),
        ] {
            let diagnostics = directory(&[(FIRST, &message(&head))]);
            let found = pull_request(diagnostics.path()).unwrap();
            assert_eq!(found.head.as_deref(), expected);
            assert_eq!(
                (found.run.as_str(), found.base.as_str()),
                ("42", "octo/demo")
            );
        }
    }

    #[test]
    fn the_newest_file_with_a_message_and_its_first_message_count() {
        let mut text = message(&json!("mallory/demo"));
        text.push_str(&message(&json!("octo/demo")));
        let old = message(&json!("octo/old"));
        let page = "[2026-01-01 00:05:00Z INFO StepsRunner] Processing step\n";
        let diagnostics = directory(&[
            ("Worker_20250101-000000-utc.log", &old),
            (FIRST, &text),
            (SECOND, page),
            ("Runner_20270101-000000-utc.log", &old),
        ]);
        let found = pull_request(diagnostics.path()).unwrap();
        assert_eq!(found.head.as_deref(), Some("mallory/demo"));
    }

    #[test]
    fn what_is_not_as_expected_says_nothing() {
        let real = message(&json!("octo/demo"));
        for text in [
            String::new(),
            real.replace("INFO Worker]", "INFO ActionRunner]"),
            real.replace(
                "[2026-01-01 00:00:01Z INFO",
                "step says [2026-01-01 00:00:01Z INFO",
            ),
            real.replace("contextData", "context"),
            real[..real.len() / 2].to_owned(),
            real.replace("pull_request", "issue"),
        ] {
            let diagnostics = directory(&[(FIRST, &text)]);
            assert_eq!(pull_request(diagnostics.path()), None, "{text}");
        }
        assert_eq!(pull_request(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_link_is_not_followed() {
        let elsewhere = directory(&[("log", &message(&json!("octo/demo")))]);
        let diagnostics = directory(&[]);
        let link = diagnostics.path().join(FIRST);
        std::os::unix::fs::symlink(elsewhere.path().join("log"), link).unwrap();
        assert_eq!(pull_request(diagnostics.path()), None);
    }

    #[test]
    fn the_last_state_of_the_job_counts() {
        let state = |states: &[&str]| {
            let lines: Vec<_> = states
                .iter()
                .map(|state| {
                    format!(
                        "[2026-01-01 00:00:00Z INFO StepsRunner] Current state: job state = \
                         '{state}'\n"
                    )
                })
                .collect();
            let diagnostics = directory(&[(FIRST, &lines.concat()), (SECOND, "no state here\n")]);
            job_state(diagnostics.path())
        };
        assert_eq!(state(&[]), None);
        assert_eq!(state(&["", ""]), Some(JobState::Good));
        assert_eq!(state(&["", "Failed"]), Some(JobState::Failed));
        assert_eq!(state(&["", "Canceled"]), Some(JobState::Cancelled));
        assert_eq!(state(&["Failed", "Tomorrow"]), Some(JobState::Failed));
    }
}
