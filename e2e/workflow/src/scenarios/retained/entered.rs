//! Someone enters a kept job.

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{Acting, Keeping, Stage, keeping, way_in};
use crate::harness::terminal::Terminal;

/// A shell in a terminal, whose size and whose Ctrl-C arrive; and the failed step runs again, with success
/// once its cause is mended.
pub fn through_a_terminal(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        keeping(
            &stage,
            &[("retain-script", "true")],
            through_a_terminal_with,
        )
        .await
    })
}

async fn through_a_terminal_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
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

/// An image without a shell: that is said, with what can be done instead, and that can be done.
pub fn without_a_shell(stage: Arc<Stage>) -> Acting {
    Box::pin(
        async move { keeping(&stage, &[("retain-script", "true")], without_a_shell_with).await },
    )
}

async fn without_a_shell_with(keeping: &Keeping<'_>) -> anyhow::Result<()> {
    let job = json!({
        "name": "Entered without a shell",
        "container": {"image": "scratch-step:latest"},
        "steps": [{"shell": "scratch-step --out again --exit 9 {0}", "run": "unused",
                   "driver": {"exit": 9, "expect": ["again"]}}],
        "driver": {"conclusion": "failure"},
    });
    let (outcome, _) = keeping.run(&job).await?;
    let id = way_in(&outcome)?;
    let enter = ["retained", "enter", id.as_str()];
    let output = keeping.laptop(&enter)?.output().await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2)
            && told.contains("the job's image has none")
            && told.contains("--rerun")
            && told.contains("-- PROGRAM"),
        "{}: {told}",
        output.status
    );
    let mut terminal = Terminal::open(&keeping.laptop(&enter)?, 80, 24)?;
    terminal.expect("the job's image has none").await?;
    let code = terminal.ended().await?;
    ensure!(code == Some(2), "in a terminal the exit code is {code:?}");

    let again = keeping
        .told(9, &[&enter[..], &["--rerun"]].concat())
        .await?;
    ensure!(again.contains("again"), "{again}");
    let mut program = keeping.laptop(&enter)?;
    program.args([
        "--",
        "scratch-step",
        "--cwd",
        "--ids",
        "--env",
        "GITHUB_REPOSITORY",
    ]);
    let output = program.output().await?;
    let out = String::from_utf8_lossy(&output.stdout);
    for there in [
        "cwd=/__w/demo/demo",
        "uid=1001 gid=1001",
        "GITHUB_REPOSITORY=octo/demo",
    ] {
        ensure!(out.contains(there), "`{there}` is not there: {output:?}");
    }
    Ok(())
}
