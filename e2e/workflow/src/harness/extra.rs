//! Parts of the test cluster that are there only while a scenario wants them.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};

use super::paths::Paths;

/// Something that a script starts and stops; it is stopped when this is dropped, whatever happened
/// meanwhile, for later scenarios would meet it.
#[derive(Debug)]
pub struct Extra {
    script: PathBuf,
    runs: bool,
}

impl Extra {
    /// The second node, `node-2`, with storage of its own.
    pub async fn node(paths: &Paths) -> anyhow::Result<Self> {
        Self::start(paths.script("cluster/node")).await
    }

    /// `VolumeSnapshot`s of the ZFS driver's volumes.
    pub async fn snapshots(paths: &Paths) -> anyhow::Result<Self> {
        Self::start(paths.script("storage/snapshots")).await
    }

    async fn start(script: PathBuf) -> anyhow::Result<Self> {
        // Half started counts too.
        let extra = Self { script, runs: true };
        extra.act("start").await?;
        Ok(extra)
    }

    /// Stops it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.act("stop").await?;
        self.runs = false;
        Ok(())
    }

    async fn act(&self, verb: &str) -> anyhow::Result<()> {
        let output = tokio::process::Command::new(&self.script)
            .arg(verb)
            .stdin(Stdio::null())
            .output()
            .await
            .with_context(|| format!("failed to run `{}`", self.script.display()))?;
        ensure!(
            output.status.success(),
            "`{} {verb}` failed: {}",
            self.script.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        if self.runs {
            let _ = std::process::Command::new(&self.script)
                .arg("stop")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}
