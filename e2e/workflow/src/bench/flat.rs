//! Jobs that share no volume with their runner: what hook and relay have resident stays the same,
//! whatever is copied.

use std::cell::Cell;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;

use super::Bench;
use super::agent::{Measured, megabytes, milliseconds};
use super::copies::{FILES, in_shell};
use super::measures::field;
use super::table::{Budget, Row};
use crate::harness::process;

const SMALL: u64 = 10 << 20;
const LARGE: u64 = 2 << 30;
/// Files that go up and come down, and how many are in one directory: its names are in memory.
const MANY: usize = 100_000;
const EACH: usize = 1000;
/// How often a relay's memory is looked at.
const GLANCE: Duration = Duration::from_millis(10);

impl Bench<'_> {
    /// What hook and relay have resident, of a runner without a volume.
    pub(super) async fn flatness(&mut self) -> anyhow::Result<()> {
        self.copying(async |bench, _| {
            bench.large_files().await?;
            bench.many_files().await
        })
        .await
    }

    /// Neither the hook's memory nor the relay's grows with the size of what is copied.
    async fn large_files(&mut self) -> anyhow::Result<()> {
        let mut hooks = [Vec::new(), Vec::new()];
        let mut relays = [Vec::new(), Vec::new()];
        for (at, bytes) in [SMALL, LARGE].into_iter().enumerate() {
            let shell = format!(
                "rm -rf {FILES}; mkdir -p {FILES}; head -c {bytes} /dev/zero > {FILES}/large"
            );
            in_shell(&mut self.hook.seat, &shell).await?;
            let (call, relay) = self.prepare_watched().await?;
            hooks[at].push(call.rss_mb);
            relays[at].push(relay);
            if bytes == LARGE {
                let speed = megabytes(bytes) / (call.wall_ms / 1e3);
                self.tell(Row::ours(
                    "prepare_job, a file of 2 GB",
                    "MB/s",
                    vec![speed],
                ));
            }
            self.end_job().await?;
        }
        in_shell(&mut self.hook.seat, &format!("rm -rf {FILES}")).await?;
        let what = "RSS at a file of 2 GB (floor: 10 MB)";
        self.flat(what, hooks, relays);
        Ok(())
    }

    /// Nor with their number, up and down.
    async fn many_files(&mut self) -> anyhow::Result<()> {
        let mut hooks = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        let mut relays = hooks.clone();
        for (at, directories) in [1, MANY / EACH].into_iter().enumerate() {
            let made = |above: &str| {
                format!(
                    "for d in $(seq {directories}); do mkdir -p {above}/$d; \
                     (cd {above}/$d; seq {EACH} | xargs touch); done"
                )
            };
            in_shell(&mut self.hook.seat, &made(FILES)).await?;
            let (call, relay) = self.prepare_watched().await?;
            hooks[0][at].push(call.rss_mb);
            relays[0][at].push(relay);
            let script = format!("rm -r files; {}\n", made("back"));
            let mark = Instant::now();
            let (call, relay) = self.step_watched(&script).await?;
            let took = milliseconds(mark.elapsed());
            hooks[1][at].push(call.rss_mb);
            relays[1][at].push(relay);
            let count = format!(
                "cd {}; test ! -e files; find back -type f | wc -l | grep -qx {}",
                "/home/runner/_work/demo/demo",
                directories * EACH
            );
            in_shell(&mut self.hook.seat, &count)
                .await
                .context("not all files came, or not all went")?;
            if directories > 1 {
                let what = format!("step that makes {MANY} files and removes as many");
                self.tell(Row::ours(what, "ms", vec![took]));
            }
            self.end_job().await?;
            let clear = "rm -rf /home/runner/_work/demo/demo/back";
            in_shell(&mut self.hook.seat, clear).await?;
        }
        let [up, down] = hooks;
        let [up_there, down_there] = relays;
        let what = format!("RSS at {MANY} files up (floor: {EACH})");
        self.flat(&what, up, up_there);
        let what = format!("RSS at {MANY} files down (floor: {EACH})");
        self.flat(&what, down, down_there);
        Ok(())
    }

    /// What the hook and the relay have resident at little, and at much.
    fn flat(&mut self, what: &str, hook: [Vec<f64>; 2], relay: [Vec<f64>; 2]) {
        for (whose, [small, large]) in [("", hook), (", relay", relay)] {
            let row = Row::over(format!("{what}{whose}"), "MB", small, large);
            self.tell(row.within(Budget::most(1.0)));
        }
    }

    /// `prepare_job`, and the most that its relay had resident, in MB.
    async fn prepare_watched(&mut self) -> anyhow::Result<(Measured, f64)> {
        let (pods, name, peak) = (self.pods(), self.hook.runner.job_pod(), Cell::new(f64::NAN));
        tokio::select! {
            call = self.hook.prepare_job(&[]) => Ok((call?, peak.get())),
            () = watch(&pods, &name, &peak) => bail!("the watch of the relay ended"),
        }
    }

    /// The same of a step.
    async fn step_watched(&mut self, script: &str) -> anyhow::Result<(Measured, f64)> {
        let (pods, name, peak) = (self.pods(), self.hook.runner.job_pod(), Cell::new(f64::NAN));
        tokio::select! {
            call = self.hook.run_script_step(script, 0) => Ok((call?, peak.get())),
            () = watch(&pods, &name, &peak) => bail!("the watch of the relay ended"),
        }
    }
}

/// Notes the most that a pod's relay has resident, in MB, for ever.
async fn watch(pods: &Api<Pod>, name: &str, peak: &Cell<f64>) {
    loop {
        // A pod that is not there yet has no relay either.
        if let Ok(pod) = pods.get(name).await {
            let uid = pod.metadata.uid.unwrap_or_default();
            let relay = process::find_with(&uid, "arc-hook", "relay");
            while let Some(resident) = relay.and_then(resident) {
                peak.set(peak.get().max(resident));
                tokio::time::sleep(GLANCE).await;
            }
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// The most that a process had resident, in MB, unless it is gone.
fn resident(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(megabytes(field(&status, "VmHWM:")? * 1024))
}
