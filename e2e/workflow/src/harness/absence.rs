//! A daemon of the cluster that is taken away for a while.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};

/// Brings the daemon back when dropped, whatever happened meanwhile.
#[derive(Debug)]
pub struct Absence {
    script: PathBuf,
    ended: bool,
}

impl Absence {
    /// Kills the daemon of which `script` knows how to `stop` and to `start` it.
    pub async fn begin(script: PathBuf) -> anyhow::Result<Self> {
        let absence = Self {
            script,
            ended: false,
        };
        act(&absence.script, "stop").await?;
        Ok(absence)
    }

    /// Starts it, and waits until it serves.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.ended = true;
        act(&self.script, "start").await
    }
}

impl Drop for Absence {
    fn drop(&mut self) {
        if !self.ended {
            // Whatever comes later would fail for a reason that is not its own.
            let _ = std::process::Command::new(&self.script)
                .arg("start")
                .status();
        }
    }
}

async fn act(script: &Path, verb: &str) -> anyhow::Result<()> {
    let output = tokio::process::Command::new(script)
        .arg(verb)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("failed to run `{}`", script.display()))?;
    ensure!(
        output.status.success(),
        "`{} {verb}` failed: {}",
        script.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
