//! Failed jobs that are kept: as they were but for their secrets, bounded, and open to people.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Acting, Stage, judge};
use crate::harness::grants;
use crate::harness::private::PrivateRegistry;
use crate::harness::process;
use crate::harness::runner::{Options, Outcome, Runner};
use crate::harness::terminal::Terminal;
use crate::runner::guid::guid;

/// How many jobs fail at once, and how many of them are kept.
const AT_ONCE: usize = 10;
const AT_MOST: usize = 5;
/// Name of the additional Role.
const ROLE: &str = "arc-hook-retained";
/// How long something that is on its way may take.
const SOON: Duration = Duration::from_secs(90);
const GLANCE: Duration = Duration::from_millis(100);

/// The shipped template, the shipped Role, and what is left of them.
struct Keeping<'a> {
    stage: &'a Stage,
    template: String,
    before: BTreeSet<String>,
}

impl<'a> Keeping<'a> {
    /// With these annotations in place of the template's own, or beside them.
    async fn new(stage: &'a Stage, annotations: &[(&str, &str)]) -> anyhow::Result<Self> {
        grants::retained(&stage.cluster, ROLE).await?;
        let map = stage.cluster.template_map("conan-retain.yaml")?;
        let text = map.data.unwrap_or_default().into_values().next();
        let mut template: Value = serde_saphyr::from_str(&text.context("no template")?)?;
        for (name, value) in annotations {
            template["metadata"]["annotations"][format!("arc-hook/{name}")] = json!(value);
        }
        Ok(Self {
            stage,
            template: template.to_string(),
            before: stage.cluster.inventory().await?,
        })
    }

    fn options(&self) -> Options {
        Options::of_template(self.template.clone())
    }

    /// Runs a job, and takes its runner away as ARC does.
    async fn run(&self, job: &Value) -> anyhow::Result<(Outcome, String)> {
        let runner = Runner::start(&self.stage.cluster, &self.options()).await?;
        let (name, pod) = (runner.name.clone(), runner.job_pod());
        let outcome = async {
            runner.submit(&job.to_string())?;
            runner.finish(&mut |_| ()).await
        };
        let outcome = outcome.await;
        self.stage.keep(runner.log());
        runner.discard().await?;
        let outcome = outcome?;
        judge(&outcome)?;
        let pods = self.stage.cluster.api::<Pod>();
        await_that("the runner pod is gone", async || {
            Ok(pods.get_opt(&name).await?.is_none())
        })
        .await?;
        Ok((outcome, pod))
    }

    /// `arc-hook` on this machine, as on someone's laptop.
    fn laptop(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program()?);
        command
            .args(words)
            .args(["--namespace", self.stage.cluster.namespace()])
            .env("KUBECONFIG", self.stage.cluster.paths.kubeconfig())
            .kill_on_drop(true);
        Ok(command)
    }

    /// What it prints; its exit code must be this.
    async fn told(&self, code: i32, words: &[&str]) -> anyhow::Result<String> {
        let output = self.laptop(words)?.output().await?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code),
            "`arc-hook {}` ended with {}: {out}{errors}",
            words.join(" "),
            output.status
        );
        Ok(out)
    }

    /// What a program in a kept job prints.
    async fn inside(&self, id: &str, script: &str) -> anyhow::Result<String> {
        let mut command = self.laptop(&["retained", "enter", id])?;
        let output = command.args(["--", "sh", "-ec", script]).output().await?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{script}: {}: {out}{errors}",
            output.status
        );
        Ok(out)
    }

    /// The kept jobs.
    async fn listed(&self) -> anyhow::Result<Vec<Value>> {
        let text = self
            .told(0, &["retained", "list", "--output", "json"])
            .await?;
        let listed: Value = serde_json::from_str(&text)?;
        Ok(listed["retained"].as_array().cloned().unwrap_or_default())
    }

    /// Deletes what is kept, and the rights.
    async fn remove(self) -> anyhow::Result<()> {
        let cluster = &self.stage.cluster;
        self.told(0, &["retained", "delete", "--all"]).await?;
        let parameters = DeleteParams::default();
        let ledger = cluster.api::<ConfigMap>();
        if !self.before.contains("ConfigMap/arc-hook-retained") {
            let _ = ledger.delete("arc-hook-retained", &parameters).await;
        }
        grants::revoke(cluster, ROLE).await?;
        cluster.await_nothing_left(&self.before).await
    }
}

fn program() -> anyhow::Result<PathBuf> {
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("this program has no directory")?;
    Ok(programs.join("../dist/arc-hook"))
}

async fn await_that(
    what: &str,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while !holds().await? {
        ensure!(start.elapsed() < SOON, "waited in vain until {what}");
        tokio::time::sleep(GLANCE).await;
    }
    Ok(())
}

/// The id in the line that ends the log of a kept job.
fn way_in(outcome: &Outcome) -> anyhow::Result<String> {
    let line = outcome
        .log
        .lines()
        .rev()
        .find(|line| line.contains("arc-hook retained enter "))
        .context("the log does not say how to enter the job")?;
    let words = line.split("retained enter ").nth(1).unwrap_or_default();
    let id = words.split(' ').next().unwrap_or_default();
    Ok(id.to_owned())
}

/// A scenario with kept jobs, which are removed however it ends.
macro_rules! keeping {
    ($stage:ident, $annotations:expr, $act:expr) => {
        Box::pin(async move {
            let keeping = Keeping::new(&$stage, &$annotations).await?;
            let result = $act(&keeping).await;
            let removed = keeping.remove().await;
            result?;
            removed
        })
    };
}

/// Secrets are planted wherever a workflow has some. The failed job stays as its step left it, but for what
/// the log says was scrubbed; nowhere of it is a secret; and it goes when its time is up.
pub fn as_it_was(stage: Arc<Stage>) -> Acting {
    keeping!(stage, [("retain-ttl", "15s")], as_it_was_with)
}

/// A checksum of all files below a directory but those that are scrubbed. A cache that Conan has used has
/// a database of log-ins.
const SUMS: &str = "sums() { (cd $1 && find . -type f ! -path ./.git/config ! -path ./.git-credentials \
    ! -path ./.conan.db \
    | sort | xargs -r sha256sum | sha256sum | cut -c-64); }";

async fn as_it_was_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let planted = format!("PLANTED-{}", guid());
    let [registry, ..] = PrivateRegistry::ALL;
    let job = json!({
        "name": "Kept as it was",
        "env": {"JOB_SECRET": format!("{planted}-job")},
        "container": {"image": registry.image("alpine"), "credentials": registry.credentials(),
                      "env": {"CONTAINER_SECRET": format!("{planted}-container")}},
        "services": {"cache": {"image": "redis:latest",
                               "env": {"SERVICE_SECRET": format!("{planted}-service")}}},
        "steps": [
            {"name": "an action has one", "uses": "docker://alpine:latest",
             "env": {"ACTION_SECRET": format!("{planted}-action")},
             "with": {"entrypoint": "/bin/sh", "args": "-c \"echo made > by-action\""}},
            {"name": "works", "run": format!(
                "mkdir -p .git src $HOME/.cache /CONAN_HOME/p; echo main > src/main.c; echo x > $HOME/.cache/x\n\
                 printf '[core]\\n[http \"https://github.com/\"]\\n\\textraheader = {planted}-git\\n' > .git/config\n\
                 echo https://{planted}@github.com > $HOME/.git-credentials; echo lib > /CONAN_HOME/p/lib\n\
                 echo result > $RUNNER_TEMP/result.xml; echo NAME={planted}-env >> $GITHUB_ENV\n\
                 sleep 900 > /dev/null 2>&1 &")},
            {"name": "fails", "env": {"STEP_SECRET": format!("{planted}-step")}, "run": format!(
                "{SUMS}; echo sums $(sums .) $(sums $HOME) $(sums /CONAN_HOME); : {planted}-script; exit 3"),
             "driver": {"exit": 3}},
        ],
        "driver": {"conclusion": "failure"},
    });
    let (outcome, pod) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    for told in [
        "Scrubbed: processes 1,",
        "cleaned | /__w/demo/demo/.git/config",
        "removed | /github/home/.git-credentials",
    ] {
        ensure!(outcome.log.contains(told), "the log does not say `{told}`");
    }
    let cluster = &keeping.stage.cluster;
    let found = cluster
        .api::<Pod>()
        .get(&pod)
        .await
        .context("the job's pod went")?;
    ensure!(
        found.metadata.deletion_timestamp.is_none(),
        "the job's pod goes"
    );
    let text = serde_json::to_string(&found)?;
    ensure!(
        !text.contains(&planted),
        "the pod's object holds a planted secret"
    );
    search(
        found.metadata.uid.as_deref().unwrap_or_default(),
        &planted,
        &registry.password(),
    )?;
    for secret in cluster.api::<Secret>().list(&ListParams::default()).await? {
        let name = secret.name_any();
        let stays = keeping.before.contains(&format!("Secret/{name}"));
        ensure!(stays, "secret `{name}` is left");
    }
    let now = keeping
        .inside(
            &id,
            &format!(
                "{SUMS}; echo sums $(sums .) $(sums $HOME) $(sums /CONAN_HOME); cat by-action \
             $RUNNER_TEMP/result.xml; env; cat .git/config"
            ),
        )
        .await?;
    let sums = |text: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with("sums "));
        lines.find(|line| !line.contains('$')).map(str::to_owned)
    };
    ensure!(
        sums(&now).is_some() && sums(&now) == sums(&outcome.log),
        "files changed: {now}"
    );
    for there in [
        "made\n",
        "result\n",
        "GITHUB_REPOSITORY=octo/demo",
        "CONAN_HOME=/CONAN_HOME",
        "[core]",
    ] {
        ensure!(now.contains(there), "`{there}` is not there: {now}");
    }
    ensure!(!now.contains(&planted), "who enters sees a secret: {now}");
    let pods = cluster.api::<Pod>();
    await_that("the job's time is up", async || {
        keeping.told(0, &["gc"]).await?;
        Ok(pods.get_opt(&pod).await?.is_none())
    })
    .await?;
    ensure!(keeping.listed().await?.is_empty(), "it is still listed");
    Ok(())
}

/// Looks for secrets in every process of a pod, and in the files that they see.
fn search(uid: &str, planted: &str, password: &str) -> anyhow::Result<()> {
    let processes = process::all(uid);
    ensure!(!processes.is_empty(), "the pod has no process");
    let mut supervisor = None;
    for pid in processes {
        for file in ["environ", "cmdline"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            ensure!(
                !text.contains(planted),
                "{file} of process {pid} holds a secret: {text}"
            );
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.starts_with(b"/__hook/arc-hook\0supervise") {
            supervisor = Some(pid);
        }
    }
    let root = process::root(supervisor.context("the supervisor does not run")?);
    for place in ["__w", "__hook/spool", "github", "CONAN_HOME", "tmp"] {
        for secret in [planted, password] {
            let found = holding(&root.join(place), secret.as_bytes());
            ensure!(found.is_empty(), "{found:?} hold a secret");
        }
    }
    Ok(())
}

/// Regular files below a directory that hold a text. No link is followed.
fn holding(directory: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            found.extend(holding(&entry.path(), text));
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// A shell in a terminal, whose size and whose Ctrl-C arrive; and the failed step runs again, with success
/// once its cause is mended.
pub fn entered(stage: Arc<Stage>) -> Acting {
    keeping!(stage, [("retain-script", "true")], entered_with)
}

async fn entered_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let job = json!({
        "name": "Entered",
        "container": {"image": "alpine:latest", "env": {"TOKEN": "s3cr3t-of-the-job"}},
        "steps": [{"id": "build", "run":
            "echo the token is $TOKEN\ntest -e mended || { echo broken; exit 3; }\necho repaired >> $GITHUB_OUTPUT\n\
             cat $GITHUB_OUTPUT", "driver": {"exit": 3}}],
        "driver": {"conclusion": "failure"},
    });
    let (outcome, _) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    let listed = keeping.listed().await?;
    ensure!(
        listed.len() == 1 && listed[0]["step"] == "build" && listed[0]["exit"] == 3,
        "{listed:?}"
    );
    let table = keeping.told(0, &["retained", "list"]).await?;
    ensure!(
        table.contains(&id) && table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    let logs = keeping.told(0, &["retained", "logs", &id]).await?;
    ensure!(
        logs.contains("the token is ***") && logs.contains("broken"),
        "{logs}"
    );
    keeping
        .told(3, &["retained", "enter", &id, "--rerun"])
        .await?;

    let mut terminal = Terminal::open(&keeping.laptop(&["retained", "enter", &id])?, 91, 37)?;
    // The echo of what is typed must not be taken for an answer.
    terminal.type_in("stty size; echo dir=$PWD sha=${GITHUB_SHA:+known} $((6*7))\n")?;
    terminal.expect("37 91").await?;
    terminal.expect("dir=/__w/demo/demo sha=known 42").await?;
    terminal.resize(120, 50).await?;
    terminal.type_in("stty size; echo sized$((1+1))\n")?;
    terminal.expect("50 120").await?;
    terminal.expect("sized2").await?;
    terminal.type_in("echo slee$((0))ping; sleep 100; echo woke$((1))\n")?;
    terminal.expect("slee0ping").await?;
    terminal.type_in("\u{3}")?;
    terminal.type_in("echo after$((2))\n")?;
    terminal.expect("after2").await?;
    terminal.type_in("touch mended; exit 7\n")?;
    let code = terminal.ended().await?;
    ensure!(code == Some(7), "the shell's exit code is {code:?}");

    let again = keeping
        .told(0, &["retained", "enter", &id, "--rerun"])
        .await?;
    ensure!(again.contains("repaired"), "{again}");
    let extended = keeping.told(2, &["retained", "extend", &id, "30d"]).await;
    extended.context("a job can be kept beyond its bound")?;
    keeping.told(0, &["retained", "extend", &id, "5h"]).await?;
    Ok(())
}

/// A cancelled job is kept where the template says so, and not otherwise.
pub fn cancelled(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        for (wanted, annotations) in [(1, vec![("retain-cancelled", "true")]), (0, Vec::new())] {
            let keeping = Keeping::new(&stage, &annotations).await?;
            let result = cancelled_with(&keeping, wanted).await;
            let removed = keeping.remove().await;
            result?;
            removed?;
        }
        Ok(())
    })
}

async fn cancelled_with(keeping: &Keeping<'_>, wanted: usize) -> anyhow::Result<()> {
    let job = json!({
        "name": "Cancelled",
        "container": {"image": "alpine:latest"},
        "steps": [{"run": "echo ready; sleep 60",
                   "driver": {"cancel-job": {"line": "ready"}, "fails": true}}],
        "driver": {"conclusion": "cancelled"},
    });
    keeping.run(&job).await?;
    let listed = keeping.listed().await?;
    ensure!(
        listed.len() == wanted,
        "{} jobs are kept: {listed:?}",
        listed.len()
    );
    ensure!(
        listed
            .iter()
            .all(|one| one["reason"] == "the job was cancelled"),
        "{listed:?}"
    );
    Ok(())
}

/// Of a job whose volumes alone are kept nothing runs until someone enters.
pub fn volumes(stage: Arc<Stage>) -> Acting {
    keeping!(stage, [("retain-mode", "volumes")], volumes_with)
}

async fn volumes_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let job = json!({
        "name": "Volumes",
        "container": {"image": "alpine:latest"},
        "steps": [{"run": "echo built > output; echo lib > /CONAN_HOME/lib; exit 3", "driver": {"exit": 3}}],
        "driver": {"conclusion": "failure"},
    });
    let (outcome, pod) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    let pods = keeping.stage.cluster.api::<Pod>();
    await_that("the job's pod is gone", async || {
        Ok(pods.get_opt(&pod).await?.is_none())
    })
    .await?;
    let seen = keeping
        .inside(
            &id,
            "pwd; cat output /CONAN_HOME/lib; echo more >> output; id -u",
        )
        .await?;
    ensure!(seen == "/__w/demo/demo\nbuilt\nlib\n1001\n", "{seen}");
    let twin = format!("arc-hook-retained-{id}");
    await_that("the equal pod is gone", async || {
        Ok(pods.get_opt(&twin).await?.is_none())
    })
    .await?;
    let seen = keeping.inside(&id, "cat output").await?;
    ensure!(seen == "built\nmore\n", "{seen}");
    let claims = keeping.stage.cluster.api::<PersistentVolumeClaim>();
    keeping.told(0, &["retained", "delete", &id]).await?;
    await_that("its claims are gone", async || {
        let kept = ListParams::default().labels("arc-hook/retained");
        Ok(claims.list(&kept).await?.items.is_empty())
    })
    .await
}

/// Of many jobs that fail at once exactly as many are kept as may be.
pub fn bounds(stage: Arc<Stage>) -> Acting {
    keeping!(stage, [], async |keeping: &Keeping<'_>| bounds_with(
        keeping, AT_ONCE
    )
    .await)
}

async fn bounds_with(keeping: &Keeping<'_>, at_once: usize) -> anyhow::Result<()> {
    let cluster = &keeping.stage.cluster;
    let options = keeping.options();
    let started = (0..at_once).map(|_| Runner::start(cluster, &options));
    let runners = try_join_all(started).await?;
    let raced = async {
        let job = json!({
            "name": "At once",
            "container": {"image": "alpine:latest"},
            "steps": [{"run": "echo ready; until [ -e go ]; do sleep 0.1; done; exit 3",
                       "driver": {"exit": 3}}],
            "driver": {"conclusion": "failure"},
        });
        for runner in &runners {
            runner.submit(&job.to_string())?;
        }
        try_join_all(runners.iter().map(|runner| runner.await_log("ready"))).await?;
        for runner in &runners {
            std::fs::write(runner.path("/home/runner/_work/demo/demo/go"), "")?;
        }
        let mut outcomes = Vec::new();
        for runner in &runners {
            outcomes.push(runner.finish(&mut |_| ()).await?);
        }
        anyhow::Ok(outcomes)
    };
    let outcomes = raced.await;
    let logs: Vec<String> = runners.iter().map(Runner::log).collect();
    keeping.stage.keep(logs.join("\n"));
    for runner in runners {
        runner.discard().await?;
    }
    for outcome in outcomes? {
        judge(&outcome)?;
    }
    let listed: BTreeSet<String> = keeping
        .listed()
        .await?
        .iter()
        .filter_map(|one| one["pod"].as_str().map(str::to_owned))
        .collect();
    ensure!(
        listed.len() == AT_MOST,
        "{} jobs are listed: {listed:?}",
        listed.len()
    );
    let pods = cluster.api::<Pod>();
    let kept = ListParams::default().labels("arc-hook/retained");
    let mut there = BTreeSet::new();
    let start = Instant::now();
    while start.elapsed() < SOON {
        let found = pods.list(&kept).await?;
        there = found.iter().map(ResourceExt::name_any).collect();
        if there == listed {
            return Ok(());
        }
        tokio::time::sleep(GLANCE).await;
    }
    bail!("pods {there:?} are there, and the ledger names {listed:?}")
}
