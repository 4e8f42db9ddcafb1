//! arc-hook's verbs, as an administrator calls them on this machine.

use std::process::Stdio;

use anyhow::{Context, ensure};

use super::cluster::Cluster;

/// What a verb prints; its words on failure.
pub async fn call(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
    let program = cluster
        .paths
        .project
        .join("target/x86_64-unknown-linux-musl/dist/arc-hook");
    // Behind `--` stands a Job's command.
    let end = arguments.iter().position(|one| *one == "--");
    let (head, tail) = arguments.split_at(end.unwrap_or(arguments.len()));
    let output = tokio::process::Command::new(&program)
        .args(head)
        .args(["-n", cluster.namespace()])
        .args(tail)
        .env("KUBECONFIG", cluster.paths.kubeconfig())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
