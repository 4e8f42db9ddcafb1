//! Sizes: many variables, long logs, a full volume.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::{Acting, Stage};
use crate::harness::runner::{Options, Runner};

/// Plain variables, beside the difficult ones.
const VARIABLES: usize = 3000;
/// The long log.
const LOG_BYTES: u64 = 2 << 30;
/// Peak resident set that a hook process may have: 12 MB.
const LARGEST_RSS_KB: u64 = 12_000_000 / 1024;

/// Values that shells, JSON and careless quoting change.
fn difficult() -> Vec<(&'static str, String)> {
    vec![
        ("LINES", "one\ntwo\n\nfour".to_owned()),
        ("ENDS", "ends with a newline\n".to_owned()),
        (
            "QUOTES",
            r#"it's "quoted" `twice` \"and\" 'thrice'"#.to_owned(),
        ),
        ("DOLLAR", "$HOME ${PATH} $(exit 1) $$ !! %s %25".to_owned()),
        ("BACKSLASH", r"a\nb\\c\ ".to_owned()),
        (
            "UNICODE",
            "Grüße, 世界, \u{1F980}, e\u{301}\u{200B}".to_owned(),
        ),
        ("BLANKS", "  two before, two after  ".to_owned()),
        ("TAB", "a\tb\rc".to_owned()),
        ("EMPTY", String::new()),
        ("EQUALS", "a=b=c".to_owned()),
        ("COMMAND", "::error::not a command".to_owned()),
        ("LONG", "x".repeat(100_000)),
    ]
}

/// 3,000 variables and difficult values.
pub fn environment(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let mut step = Map::new();
        for number in 0..VARIABLES {
            step.insert(format!("PLAIN_{number}"), json!(format!("value {number}")));
        }
        let mut job = Map::new();
        let mut script = format!("test $(env | grep -c '^PLAIN_.*=value ') = {VARIABLES}\n");
        for (index, (name, value)) in difficult().into_iter().enumerate() {
            let hash = hexadecimal(Sha256::digest(&value).as_slice());
            let _ = writeln!(
                script,
                "test \"$(printf %s \"${name}\" | sha256sum)\" = '{hash}  -' || {{ echo {name} differs; exit 1; }}"
            );
            let target = if index % 2 == 0 { &mut step } else { &mut job };
            target.insert(name.to_owned(), json!(value));
        }
        let main = "const e = process.env;\
            if (e['WITH-HYPHEN'] !== 'a' || e['WITH.DOT'] !== 'b' || e['INPUT_WITH-HYPHEN'] !== 'c d') process.exit(3);\
            console.log('odd names arrive')";
        let description = json!({
            "name": "Variables",
            "container": {"image": "alpine:latest"},
            "env": job,
            "actions": {"octo/names@v1": {
                "action.yml": "runs: {using: node20, main: index.js}",
                "index.js": main,
            }},
            "steps": [
                {"name": "many and difficult ones", "run": script, "env": step},
                {"name": "in an action of its own container", "uses": "docker://alpine:latest", "env": step,
                 "with": {"entrypoint": "/bin/sh", "args": "-c \"env | grep -c '^PLAIN_'\""},
                 "driver": {"expect": [VARIABLES.to_string()]}},
                {"name": "with odd names", "uses": "octo/names@v1", "with": {"with-hyphen": "c d"},
                 "env": {"WITH-HYPHEN": "a", "WITH.DOT": "b"},
                 "driver": {"expect": ["odd names arrive"]}},
            ],
        });
        // Node needs the gnu C library, which the busybox image lacks.
        let mut with_node = description.clone();
        with_node["container"]["image"] = json!("gcc-conan:12");
        stage
            .run_job(&with_node.to_string(), &Options::default())
            .await?;
        Ok(())
    })
}

/// A log of 2 GB from a small work volume.
pub fn long_log(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        const LINE: &str = "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXY\n";
        let mut hash = Sha256::new();
        let block = LINE.repeat(1 << 14);
        for _ in 0..LOG_BYTES / block.len() as u64 {
            hash.update(&block);
        }
        let job = json!({
            "name": "A long log",
            "container": {"image": "alpine:latest"},
            "steps": [{
                "name": "prints 2 GB",
                "run": format!("echo BEGIN; yes '{}' | head -c {LOG_BYTES}; echo END", LINE.trim_end()),
                "driver": {
                    "digest": {
                        "from": "BEGIN", "to": "END", "bytes": LOG_BYTES,
                        "sha256": hexadecimal(hash.finalize().as_slice()),
                    },
                    "max-rss-kb": LARGEST_RSS_KB,
                },
            }],
        });
        stage.run_job(&job.to_string(), &Options::default()).await?;
        Ok(())
    })
}

/// A step fills the work volume.
pub fn full_volume(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let job = json!({
            "name": "A full work volume",
            "container": {"image": "alpine:latest"},
            "steps": [
                {"name": "fills it", "run": "dd if=/dev/zero of=fill bs=1M || dd if=/dev/zero of=rest bs=1 || echo more",
                 "driver": {"fails": true, "max-ms": 60_000}},
            ],
            "driver": {"conclusion": "failure"},
        });
        let options = Options {
            work_size: Some("640Mi".to_owned()),
            ..Options::default()
        };
        let outcome = stage.run_job(&job.to_string(), &options).await?;
        let named = ["no space left", "is full", "disk full"];
        let log = outcome.log.to_lowercase();
        // What `dd` says of it does not count.
        let told = log.lines().filter(|line| !line.starts_with("dd:"));
        let told = told
            .filter(|line| named.iter().any(|text| line.contains(text)))
            .count();
        ensure!(told > 0, "no error says that the volume is full");
        Ok(())
    })
}

/// The spool of a job that nobody reads for a while stays small.
pub fn back_pressure(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let job = json!({
            "name": "A log that nobody reads",
            "container": {"image": "alpine:latest"},
            "steps": [{
                "name": "prints for ever",
                "run": "echo ready; yes",
                "driver": {
                    "signals": [
                        {"send": "STOP", "when": {"line": "ready"}},
                        {"send": "CONT", "when": {"line": "ready", "after-ms": 6000}},
                    ],
                    "cancel": {"line": "ready", "after-ms": 6500},
                    "fails": true,
                    "max-ms": 30_000,
                },
            }],
            "driver": {"conclusion": "failure"},
        });
        let mut spool = 0;
        let read = async |runner: &Runner| {
            runner.await_log("ready").await?;
            tokio::time::sleep(Duration::from_secs(4)).await;
            spool = size(&runner.path("/home/runner/_work/.arc-hook"));
            Ok(())
        };
        stage
            .run_beside(&job.to_string(), &Options::default(), read)
            .await?;
        let limit = 64 << 20;
        ensure!(
            spool > 0 && spool <= limit,
            "{spool} bytes of spool, at most {limit} were expected"
        );
        Ok(())
    })
}

/// Bytes of the log segments below a directory.
fn size(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            Ok(kind)
                if kind.is_file() && entry.file_name().to_string_lossy().starts_with("log.") =>
            {
                entry.metadata().map_or(0, |metadata| metadata.len())
            }
            _ => 0,
        })
        .sum()
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A job that has neither a container nor services, on a runner that takes such jobs.
pub fn without_container(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        // The chart's default, `true`, refuses it before any hook is called.
        let variable = ("ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER", "false");
        let options = Options {
            variables: vec![(variable.0.to_owned(), variable.1.to_owned())],
            ..Options::default()
        };
        let job = stage.read("no-container.yaml")?;
        stage.run_job(&job, &options).await?;
        Ok(())
    })
}
