//! What is measured, and what is asked of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};

use super::Bench;
use super::agent::{Measured, Order, megabytes};
use super::floor::{self, Floor, Status};
use super::hook::USER;
use super::seat::{PROGRAM, Seat};
use super::table::{Budget, Judged, Row};
use crate::harness::audit::Mark;
use crate::harness::cluster::Role;
use crate::harness::process;

/// Of cheap steps there are more samples.
const STEPS_PER_RUN: usize = 5;
/// Long logs move many gigabytes, and vary little.
const LONG_LOGS: usize = 3;
const SMALL_LOG: u64 = 10 << 20;
const LARGE_LOG: u64 = 1 << 30;
/// A log that fills the spool while nobody reads for so long.
const STALLED_LOG: u64 = 256 << 20;
const STALL_MS: u64 = 2000;
/// The supervisor's idleness is watched for so long.
const IDLE: Duration = Duration::from_secs(20);

const KUBELET: &str = "the kubelet looks for mounts every 300 ms, so a few ms cost all or nothing";
const ASKING: &str = "without the right to watch, a pod is asked for every 250 ms";
pub(super) const SCHEDULING: &str =
    "three processes take turns on cores that the whole cluster shares";
const CACHES: &str = "CPU time grows when others use the caches";
const COPIES: &str = "four copies and three processes, on as many cores as the machine has";

/// RSS and CPU of one command's hook processes, with what bash alone takes as floor.
fn hook_rows(command: &str, bash: &Measured, calls: &[Measured]) -> [Row; 2] {
    let floor = |value: f64| vec![value; calls.len()];
    [
        Row::over(
            format!("{command}: peak RSS"),
            "MB",
            floor(bash.rss_mb),
            calls.iter().map(|call| call.rss_mb).collect(),
        )
        .judged(Judged::Largest)
        .within(Budget::most(12.0)),
        Row::over(
            format!("{command}: CPU"),
            "ms",
            floor(bash.cpu_ms),
            calls.iter().map(|call| call.cpu_ms).collect(),
        )
        .judged(Judged::Ours)
        .within(Budget::most(15.0).slack(2.0, CACHES)),
    ]
}

pub(super) fn walls(calls: &[Measured]) -> Vec<f64> {
    calls.iter().map(|call| call.wall_ms).collect()
}

impl Bench<'_> {
    /// `prepare_job` and `cleanup_job`, with and without a service, in a runner of that Role.
    pub(super) async fn jobs(&mut self, role: Role) -> anyhow::Result<()> {
        let (whose, budget) = match role {
            // It is told when the pod is ready.
            Role::Shipped => ("", Budget::most(100.0).slack(2.0, KUBELET)),
            // It must ask, four times a second while only the API server can tell.
            _ => (", ARC's own Role", Budget::most(100.0).slack(4.0, ASKING)),
        };
        let mut cleanups = Vec::new();
        let mut prepares = Vec::new();
        let bash = self.hook.bash().await?;
        for services in [&[][..], &["redis:latest"]] {
            let (floor, calls) = self.prepares(services, &mut cleanups).await?;
            let service = if services.is_empty() {
                ""
            } else {
                ", with a redis service"
            };
            let what = format!("prepare_job{service}{whose}");
            self.tell(Row::over(what, "ms", floor, walls(&calls)).within(budget));
            prepares.extend(calls);
        }
        let cleanup = format!("cleanup_job{whose}");
        self.tell(Row::ours(&cleanup, "ms", walls(&cleanups)));
        for row in hook_rows(&format!("prepare_job{whose}"), &bash, &prepares) {
            self.tell(row);
        }
        for row in hook_rows(&cleanup, &bash, &cleanups) {
            self.tell(row);
        }
        Ok(())
    }

    async fn prepares(
        &mut self,
        services: &[&str],
        cleanups: &mut Vec<Measured>,
    ) -> anyhow::Result<(Vec<f64>, Vec<Measured>)> {
        // The first call warms caches and gives the floor its shape.
        self.hook.prepare_job(services).await?;
        let pod = self.job_pod().await?;
        let nonces = self.hook.nonces()?;
        let [nonce] = &nonces[..] else {
            bail!("the job has not one directory, but {}", nonces.len());
        };
        let mut floor = Floor::of(self.pods(), pod, self.hook.work(), nonce, nonce)?;
        self.end_job().await?;
        let status = (!services.is_empty()).then_some(floor::all_ready as Status);
        let (mut floors, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            floors.push(floor.measure(status).await?.start);
            calls.push(self.hook.prepare_job(services).await?);
            cleanups.push(self.end_job().await?);
        }
        Ok((floors, calls))
    }

    /// Script steps, what they cost the API server, and container actions.
    pub(super) async fn steps(&mut self) -> anyhow::Result<()> {
        let mut job = self.job_seat().await?;
        let bash = self.hook.bash().await?;
        let user = self.cluster.user(Role::default());
        let script = "true\n";
        job.write("/tmp/floor.sh", script)?;
        let floor = Order {
            argv: ["/bin/sh", "-e", "/tmp/floor.sh"]
                .map(str::to_owned)
                .to_vec(),
            ..Order::default()
        };
        self.hook.run_script_step(script, 0).await?;
        let mark = Mark::here(&self.cluster.paths.audit_log())
            .context("the API server keeps no audit log")?;
        let (mut floors, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..self.runs * STEPS_PER_RUN {
            floors.push(job.succeed(&floor).await?.wall_ms);
            calls.push(self.hook.run_script_step(script, 0).await?);
        }
        let requests = mark.requests_of(&user)?.len();
        self.tell(
            Row::over("run_script_step", "ms", floors, walls(&calls))
                .within(Budget::most(15.0).slack(2.0, SCHEDULING)),
        );
        let told = u32::try_from(requests)?;
        self.tell(
            Row::ours(
                format!("API requests of {} script steps", calls.len()),
                "",
                vec![f64::from(told)],
            )
            .within(Budget::most(0.0)),
        );
        for row in hook_rows("run_script_step", &bash, &calls) {
            self.tell(row);
        }
        self.actions(&bash).await
    }

    async fn actions(&mut self, bash: &Measured) -> anyhow::Result<()> {
        let program = "/bin/true";
        let jobs = self.hook.nonces()?;
        let (pod, nonce) = self.action_pod(program, &jobs).await?;
        // Its tree is gone by now; the job's has all that such a pod mounts.
        let mut floor = Floor::of(self.pods(), pod, self.hook.work(), &nonce, &jobs[0])?;
        let (mut floors, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            // Not to the end of a pod that runs the program itself: the API server tells that a
            // second later, and would be an easy floor.
            floors.push(floor.measure(None).await?.start);
            calls.push(self.hook.run_container_step(program).await?);
            self.no_actions().await?;
        }
        self.tell(
            Row::over("run_container_step", "ms", floors, walls(&calls))
                .within(Budget::most(150.0).slack(2.0, KUBELET)),
        );
        for row in hook_rows("run_container_step", bash, &calls) {
            self.tell(row);
        }
        Ok(())
    }

    /// Runs an action, and returns its pod as created with the nonce of its tree.
    async fn action_pod(
        &mut self,
        program: &str,
        jobs: &[String],
    ) -> anyhow::Result<(Pod, String)> {
        use futures_util::TryStreamExt as _;
        let pods = self.pods();
        let label = format!("runner-pod={}", self.hook.runner.name);
        let watch = WatchParams::default().labels(&label);
        let mut events = std::pin::pin!(pods.watch(&watch, "0").await?);
        let job = self.hook.runner.job_pod();
        let seen = async {
            while let Some(event) = events.try_next().await? {
                match event {
                    WatchEvent::Added(pod) if pod.metadata.name.as_ref() != Some(&job) => {
                        return Ok(pod);
                    }
                    _ => {}
                }
            }
            bail!("the watch of pods ended")
        };
        let (ran, pod) = tokio::join!(self.hook.run_container_step(program), seen);
        ran?;
        let pod: Pod = pod?;
        let nonce = nonces(&pod)
            .into_iter()
            .find(|nonce| !jobs.contains(nonce))
            .context("the action's pod mounts no directory of its own")?;
        self.no_actions().await?;
        Ok((pod, nonce))
    }

    /// Waits until no pod of an action is left.
    async fn no_actions(&self) -> anyhow::Result<()> {
        let pods = self.pods();
        let label = format!("runner-pod={}", self.hook.runner.name);
        let job = self.hook.runner.job_pod();
        for pod in pods.list(&ListParams::default().labels(&label)).await? {
            let name = pod.metadata.name.unwrap_or_default();
            if name != job {
                floor::gone(&pods, &name).await?;
            }
        }
        Ok(())
    }

    /// Long logs: memory, speed, and what they take of the volume.
    pub(super) async fn logs(&mut self) -> anyhow::Result<()> {
        let mut job = self.job_seat().await?;
        let flood = |bytes: u64| format!("{PROGRAM} flood {bytes}\n");
        let order = Order {
            argv: [PROGRAM, "flood", &LARGE_LOG.to_string()]
                .map(str::to_owned)
                .to_vec(),
            ..Order::default()
        };
        let speed = |call: &Measured| megabytes(call.bytes) / (call.wall_ms / 1e3);
        let (mut floors, mut speeds) = (Vec::new(), Vec::new());
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for _ in 0..self.runs.min(LONG_LOGS) {
            let call = self.hook.run_script_step(&flood(SMALL_LOG), 0).await?;
            whole(&call, SMALL_LOG)?;
            small.push(call.rss_mb);
            floors.push(speed(&job.succeed(&order).await?));
            let call = self.hook.run_script_step(&flood(LARGE_LOG), 0).await?;
            whole(&call, LARGE_LOG)?;
            speeds.push(speed(&call));
            large.push(call.rss_mb);
        }
        let row = Row::over("log of 1 GB (floor: one pipe)", "MB/s", floors, speeds);
        self.tell(
            row.judged(Judged::Ours)
                .within(Budget::least(300.0).slack(1.5, COPIES)),
        );
        self.tell(
            Row::over("RSS at a log of 1 GB (floor: 10 MB)", "MB", small, large)
                .within(Budget::most(1.0)),
        );
        let most = self.stalled_log(&flood(STALLED_LOG)).await?;
        self.tell(
            Row::ours(
                "spool of a log that nobody reads",
                "MB",
                vec![megabytes(most)],
            )
            .within(Budget::most(64.0)),
        );
        Ok(())
    }

    /// The most bytes that a step's log took of the volume while it was not read for a while.
    async fn stalled_log(&mut self, script: &str) -> anyhow::Result<u64> {
        let nonces = self.hook.nonces()?;
        let tree = self.hook.work().join(".arc-hook").join(&nonces[0]);
        let steps = tree.join("spool/steps");
        let mut most = 0;
        let mut step = std::pin::pin!(self.hook.run_script_step(script, STALL_MS));
        loop {
            tokio::select! {
                call = &mut step => {
                    whole(&call?, STALLED_LOG)?;
                    return Ok(most);
                }
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    most = most.max(on_disk(&steps));
                }
            }
        }
    }

    /// The supervisor between steps.
    pub(super) async fn idle(&mut self) -> anyhow::Result<()> {
        let pid = self.supervisor().await?;
        // What the last step left to tidy up.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = cpu(pid)?;
        tokio::time::sleep(IDLE).await;
        let used = cpu(pid)?.saturating_sub(before);
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .context("failed to read the supervisor's memory")?;
        let rss = field(&text, "Rss:").context("the kernel tells no Rss")?;
        self.tell(
            Row::ours("supervisor idle: RSS", "MB", vec![megabytes(rss * 1024)])
                .within(Budget::most(4.0)),
        );
        self.tell(
            Row::ours(
                "supervisor idle: CPU",
                "%",
                vec![used.as_secs_f64() / IDLE.as_secs_f64() * 100.0],
            )
            .within(Budget::most(0.1).slack(2.0, CACHES)),
        );
        Ok(())
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        self.cluster.api()
    }

    pub(super) async fn job_pod(&self) -> anyhow::Result<Pod> {
        Ok(self.pods().get(&self.hook.runner.job_pod()).await?)
    }

    async fn supervisor(&self) -> anyhow::Result<u32> {
        let uid = self.job_pod().await?.metadata.uid.unwrap_or_default();
        process::find(&uid, "arc-hook").context("the job's pod has no supervisor")
    }

    pub(super) async fn job_seat(&self) -> anyhow::Result<Seat> {
        Seat::take(self.supervisor().await?, USER)
    }

    /// `cleanup_job`, and waits until the job's pod is gone.
    pub(super) async fn end_job(&mut self) -> anyhow::Result<Measured> {
        let call = self.hook.cleanup_job().await?;
        floor::gone(&self.pods(), &self.hook.runner.job_pod()).await?;
        Ok(call)
    }
}

fn whole(call: &Measured, bytes: u64) -> anyhow::Result<()> {
    if call.bytes != bytes {
        bail!("{} of {bytes} bytes of a log arrived", call.bytes);
    }
    Ok(())
}

/// Names of the hook's trees that a pod mounts.
fn nonces(pod: &Pod) -> Vec<String> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mounts = containers.flat_map(|container| container.volume_mounts.iter().flatten());
    let paths = mounts.filter_map(|mount| mount.sub_path.as_deref());
    paths
        .filter_map(|path| path.split(".arc-hook/").nth(1)?.split('/').next())
        .map(str::to_owned)
        .collect()
}

/// What the logs of all steps take of the volume.
fn on_disk(steps: &Path) -> u64 {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    entries(steps)
        .flat_map(|step| entries(&step.path()).collect::<Vec<_>>())
        .filter_map(|file| file.metadata().ok())
        .filter(fs::Metadata::is_file)
        // The unit of st_blocks, whatever the file system's own is.
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}

/// CPU time of a process, all its threads, to the nanosecond.
fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the supervisor is gone")?;
    let mut total = 0;
    for task in tasks.flatten() {
        // A thread that ends meanwhile was not idle, and its time is lost.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().unwrap_or_default();
        total += first.parse::<u64>().unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}

/// A number behind a label.
pub(super) fn field(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_tables_are_read() {
        let text = "0-1 ---p 0 00:00 0 [rollup]\nRss:                1234 kB\nPss: 7 kB\n";
        assert_eq!(field(text, "Rss:"), Some(1234));
        assert_eq!(field(text, "Swap:"), None);
        let own = cpu(std::process::id()).unwrap();
        assert!(own > Duration::ZERO);
    }

    #[test]
    fn a_spool_is_measured_by_what_it_takes_of_the_disk() {
        let temp = tempfile::tempdir().unwrap();
        let step = temp.path().join("a");
        fs::create_dir(&step).unwrap();
        assert_eq!(on_disk(temp.path()), 0);
        fs::write(step.join("log.0"), vec![b'x'; 100_000]).unwrap();
        fs::File::create(step.join("log.1"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let size = on_disk(temp.path());
        assert!((100_000..200_000).contains(&size), "{size}");
        assert_eq!(on_disk(&temp.path().join("absent")), 0);
    }

    #[test]
    fn the_trees_of_a_pod_are_known_by_its_mounts() {
        let pod = serde_json::json!({"spec": {"containers": [{"name": "job", "volumeMounts": [
            {"name": "work", "mountPath": "/a", "subPath": ".arc-hook/n1/hook"},
            {"name": "work", "mountPath": "/b", "subPath": "x/.arc-hook/n2/temp"},
            {"name": "work", "mountPath": "/c", "subPath": "repo/repo"},
            {"name": "work", "mountPath": "/d"},
        ]}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(nonces(&pod), ["n1", "n2"]);
    }
}
