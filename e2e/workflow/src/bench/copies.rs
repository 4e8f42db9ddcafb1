//! Jobs that share no volume with their runner: what copying costs beside sharing, beside one exec,
//! and beside a plain `tar` through one exec.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Bench;
use super::agent::{Measured, Order, megabytes, milliseconds};
use super::hook::Hook;
use super::measures::{SCHEDULING, walls};
use super::seat::{PROGRAM, Seat};
use super::table::{Budget, Judged, Row, median};
use crate::harness::audit::Mark;
use crate::harness::cluster::Role;

/// Files of a workspace, and bytes of each.
const COUNTS: [usize; 2] = [2000, 50_000];
const FILE: usize = 2048;
/// Long transfers are few, and vary little.
const LONG_RUNS: usize = 3;
const STEPS: usize = 15;
const LOG: u64 = 512 << 20;
/// Where the files are.
pub(super) const FILES: &str = "/home/runner/_work/demo/demo/files";
/// How long the copy of the runner's programs may take, beside which nothing is measured.
const EXTERNALS: Duration = Duration::from_mins(1);

const STARTING: &str = "a container more starts with such a pod";
const STREAMS: &str = "API server, kubelet and runtime carry each byte on the same cores";

impl Bench<'_> {
    /// `prepare_job`, script steps and logs of a runner without a volume.
    pub(super) async fn copies(&mut self) -> anyhow::Result<()> {
        self.copying(async |bench, sharing| {
            bench.streams().await?;
            for count in COUNTS {
                bench.prepares_with(sharing, count).await?;
            }
            Ok(())
        })
        .await
    }

    /// Measures with a runner that has no volume, beside the one that has.
    pub(super) async fn copying(
        &mut self,
        measure: impl AsyncFnOnce(&mut Self, &mut Hook) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let copying = Hook::start(&self.cluster, Role::NoVolume).await?;
        let mut sharing = std::mem::replace(&mut self.hook, copying);
        let measured = Box::pin(measure(self, &mut sharing)).await;
        let copying = std::mem::replace(&mut self.hook, sharing);
        let removed = copying.runner.remove().await;
        measured.and(removed)
    }

    /// With so many files in the workspace: `prepare_job`, then steps that change none of them.
    async fn prepares_with(&mut self, sharing: &mut Hook, count: usize) -> anyhow::Result<()> {
        let shell = format!(
            "rm -rf {FILES}; mkdir -p {FILES}; cd {FILES}; \
             head -c {} /dev/urandom | split -b {FILE} -a 4 -",
            count * FILE
        );
        for seat in [&mut self.hook.seat, &mut sharing.seat] {
            in_shell(seat, &shell).await?;
        }
        let many = count > COUNTS[0];
        let runs = if many { LONG_RUNS } else { self.runs };
        let (mut floors, mut tars) = (Vec::new(), Vec::new());
        let mut calls = Vec::new();
        for run in 0..runs {
            std::mem::swap(&mut self.hook, sharing);
            floors.push(self.hook.prepare_job(&[]).await?.wall_ms);
            self.end_job().await?;
            std::mem::swap(&mut self.hook, sharing);
            calls.push(self.hook.prepare_job(&[]).await?);
            self.externals_are_there().await?;
            tars.push(self.tar().await?);
            if run + 1 < runs {
                self.end_job().await?;
            }
        }
        let files = format!("{count} files of 2 KB");
        let prepare = Row::over(
            format!("prepare_job, {files} (floor: shared)"),
            "ms",
            floors.clone(),
            walls(&calls),
        );
        // The goal is for the smaller number.
        self.tell(if many {
            prepare
        } else {
            prepare.within(Budget::most(500.0).slack(2.0, STARTING))
        });
        let copied: Vec<f64> = calls
            .iter()
            .zip(&floors)
            .map(|(call, floor)| call.wall_ms - floor)
            .collect();
        self.tell(Row::over(
            format!("what exceeds it (floor: tar of {files})"),
            "ms",
            tars,
            copied,
        ));
        let memory = calls.iter().map(|call| call.rss_mb).collect();
        let row = Row::ours(format!("prepare_job, {files}: peak RSS"), "MB", memory);
        self.tell(row.judged(Judged::Largest));
        self.steps_with(&files, many).await?;
        self.end_job().await?;
        Ok(())
    }

    /// Steps that change nothing, beside one exec.
    async fn steps_with(&mut self, files: &str, many: bool) -> anyhow::Result<()> {
        let user = self.cluster.user(Role::NoVolume);
        self.hook.run_script_step("true\n", 0).await?;
        let mark = Mark::here(&self.cluster.paths.audit_log())
            .context("the API server keeps no audit log")?;
        let (mut floors, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..STEPS {
            floors.push(self.exec(&["/bin/true"], Stdio::null()).await?.0);
            calls.push(self.hook.run_script_step("true\n", 0).await?);
        }
        let requests = u32::try_from(mark.requests_of(&user)?.len())?;
        let row = Row::over(
            format!("script step, {files} (floor: one exec)"),
            "ms",
            floors,
            walls(&calls),
        );
        self.tell(if many {
            row
        } else {
            row.within(Budget::most(30.0).slack(2.0, SCHEDULING))
        });
        let goal = u32::try_from(calls.len())?;
        self.tell(
            Row::ours(
                format!("API requests of {goal} such steps"),
                "",
                vec![f64::from(requests)],
            )
            .within(Budget::most(f64::from(goal))),
        );
        let cpu = calls.iter().map(|call| call.cpu_ms).collect();
        self.tell(Row::ours(
            format!("script step, {files}: CPU of the hook"),
            "ms",
            cpu,
        ));
        Ok(())
    }

    /// The log of a step, beside the same bytes through a plain exec.
    async fn streams(&mut self) -> anyhow::Result<()> {
        self.hook.prepare_job(&[]).await?;
        self.externals_are_there().await?;
        let _agent: Seat = self.job_seat().await?;
        let flood = LOG.to_string();
        let speed = |milliseconds: f64| megabytes(LOG) / (milliseconds / 1e3);
        let (mut floors, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..LONG_RUNS {
            let (wall, bytes) = self.kubectl(&[PROGRAM, "flood", &flood]).await?;
            ensure!(bytes == LOG, "{bytes} of {LOG} bytes came through an exec");
            floors.push(speed(wall));
            let script = format!("{PROGRAM} flood {LOG}\n");
            let call = self.hook.run_script_step(&script, 0).await?;
            ensure!(call.bytes == LOG, "{} of {LOG} bytes of a log", call.bytes);
            ours.push(speed(call.wall_ms));
        }
        let ratio = median(&ours) / median(&floors) * 100.0;
        let (what, unit) = ("log of 512 MB (floor: plain exec)", "MB/s");
        self.tell(Row::over(what, unit, floors, ours).judged(Judged::Ours));
        self.tell(
            Row::ours("the same, of what a plain exec carries", "%", vec![ratio])
                .within(Budget::least(80.0).slack(1.5, STREAMS)),
        );
        self.end_job().await?;
        Ok(())
    }

    /// Waits until the container beside the job has copied the runner's programs.
    async fn externals_are_there(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let pod: Pod = self.job_pod().await?;
            let statuses = pod.status.and_then(|status| status.container_statuses);
            let ended = statuses.into_iter().flatten().any(|status| {
                let state = status.state.unwrap_or_default();
                status.name == "arc-hook-externals" && state.terminated.is_some()
            });
            if ended {
                return Ok(());
            }
            if start.elapsed() > EXTERNALS {
                bail!("the runner's programs are still being copied");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The files of the workspace through a plain `tar` and one exec.
    async fn tar(&self) -> anyhow::Result<f64> {
        let from = self.hook.seat.path(FILES);
        let place = "mkdir -p /__w/plain && tar xf - -C /__w/plain";
        let tar = Command::new("tar")
            .args(["cf", "-", "-C"])
            .arg(from)
            .arg(".")
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start `tar`")?;
        let output: Stdio = tar
            .stdout
            .context("tar has no output")?
            .try_into()
            .context("failed to hand on what tar writes")?;
        let (wall, _) = self.exec(&["/bin/sh", "-c", place], output).await?;
        let clear = ["/bin/sh", "-c", "rm -rf /__w/plain"];
        self.exec(&clear, Stdio::null()).await?;
        Ok(wall)
    }

    /// One exec in the job's container, over a client that is connected already.
    async fn exec(&self, command: &[&str], input: Stdio) -> anyhow::Result<(f64, u64)> {
        let mut source = Command::new("cat")
            .stdin(input)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start `cat`")?;
        let mut source = source.stdout.take().context("cat has no output")?;
        let parameters = AttachParams::default()
            .container("job")
            .stdin(true)
            .stdout(true)
            .stderr(false)
            .max_stdin_buf_size(256 * 1024);
        let start = Instant::now();
        let pods = self.pods();
        let name = self.hook.runner.job_pod();
        let mut process = pods.exec(&name, command.to_vec(), &parameters).await?;
        let (Some(mut stdin), Some(mut stdout), Some(status)) =
            (process.stdin(), process.stdout(), process.take_status())
        else {
            bail!("an exec without streams");
        };
        let feed = async {
            // A program that reads nothing ends before.
            let _ = tokio::io::copy(&mut source, &mut stdin).await;
            let _ = stdin.shutdown().await;
        };
        let mut sink = tokio::io::sink();
        let drain = tokio::io::copy(&mut stdout, &mut sink);
        let (status, (), drained) = tokio::join!(status, feed, drain);
        let wall = milliseconds(start.elapsed());
        let status = status.context("an exec ended without a status")?;
        ensure!(
            status.status.as_deref() == Some("Success"),
            "{command:?}: {status:?}"
        );
        Ok((wall, drained?))
    }

    /// One exec as people make it: its time, and the bytes that came.
    async fn kubectl(&self, command: &[&str]) -> anyhow::Result<(f64, u64)> {
        let start = Instant::now();
        let mut kubectl = Command::new(self.cluster.paths.script("kubectl"))
            .args(["exec", "-n", self.cluster.namespace(), "-c", "job"])
            .arg(self.hook.runner.job_pod())
            .arg("--")
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start `kubectl`")?;
        let mut output = kubectl.stdout.take().context("kubectl has no output")?;
        let bytes = tokio::io::copy(&mut output, &mut tokio::io::sink()).await?;
        let status = kubectl.wait().await?;
        ensure!(status.success(), "`kubectl exec` of {command:?}: {status}");
        Ok((milliseconds(start.elapsed()), bytes))
    }
}

pub(super) async fn in_shell(seat: &mut Seat, script: &str) -> anyhow::Result<Measured> {
    let argv = ["/bin/sh", "-ec", script].map(str::to_owned).to_vec();
    let order = Order {
        argv,
        directory: Path::new("/").display().to_string(),
        env: seat.env.clone(),
        ..Order::default()
    };
    seat.succeed(&order).await
}
