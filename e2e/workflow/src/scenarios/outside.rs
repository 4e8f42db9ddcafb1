//! The hook outside of a pod, as on a laptop.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tokio::process::Command;

use super::{Acting, Stage};
use crate::harness::process;
use crate::report::Report;
use crate::runner::guid::guid;

/// What a container of the claim's holder is called on the node.
const HOLDER: &str = "sleep";
/// How long all of it may take, so that what it made can still be removed.
const LONGEST: Duration = Duration::from_secs(80);

/// With a kubeconfig, and no runner pod of its name, a job comes through.
pub fn of_a_pod(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let name = format!("laptop-{}", &guid()[..8]);
        let before = stage.cluster.inventory().await?;
        let result = tokio::time::timeout(LONGEST, run(&stage, &name)).await;
        let now = DeleteParams::default().grace_period(0);
        let _ = stage.cluster.api::<Pod>().delete(&name, &now).await;
        let claims = stage.cluster.api::<PersistentVolumeClaim>();
        let _ = claims.delete(&format!("{name}-work"), &now).await;
        result.with_context(|| format!("the job did not end within {LONGEST:?}"))??;
        // Without an owner, too, `cleanup_job` leaves nothing.
        stage.cluster.await_nothing_left(&before).await
    })
}

async fn run(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let uid = hold_claim(stage, name).await?;
    let holder = loop {
        match process::find(&uid, HOLDER) {
            Some(pid) => break pid,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    // The node's own way to the volume; the directory above it is this runner's.
    let root = process::root(holder).join("home/runner");
    let namespace = stage.cluster.namespace();
    let job = json!({
        "name": "Outside of a pod",
        "container": {"image": "alpine:latest"},
        "steps": [{
            "id": "step", "name": "a step",
            "run": "echo in ${HOSTNAME:-$(hostname)}; echo x > made; echo out=put >> $GITHUB_OUTPUT",
            "driver": {
                "expect": [format!("in {name}-runner-workflow")],
                "outputs": {"out": "put"},
                "after": ["test \"$(cat $WORKSPACE/made)\" = x"],
            },
        }, {
            "name": "a container action", "uses": "docker://alpine:latest",
            "with": {"entrypoint": "/bin/sh", "args": "-c \"cat made; exit 3\""},
            "continue-on-error": true,
            "driver": {"exit": 3, "expect": ["x"]},
        }],
        "driver": {"prepare-job": {
            "expect": [format!("there is no pod `{name}-runner` in namespace `{namespace}`: this hook runs outside of a pod")],
        }},
    });
    let report = drive(stage, name, &root, &job.to_string()).await?;
    ensure!(report.failures.is_empty(), report.failures.join("\n"));
    Ok(())
}

/// Makes the claim of the work volume, and a pod in which the node mounts it; returns its uid.
async fn hold_claim(stage: &Stage, name: &str) -> anyhow::Result<String> {
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": format!("{name}-work")},
        "spec": {
            "storageClassName": "local-path", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "256Mi"}},
        },
    }))?;
    let parameters = PostParams::default();
    let claims = stage.cluster.api::<PersistentVolumeClaim>();
    claims.create(&parameters, &claim).await?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "holder", "image": "alpine:latest", "command": [HOLDER, "600"],
                "volumeMounts": [{"name": "work", "mountPath": "/home/runner/_work"}],
            }],
            "volumes": [{
                "name": "work", "persistentVolumeClaim": {"claimName": format!("{name}-work")},
            }],
        },
    }))?;
    let pod = stage.cluster.api::<Pod>().create(&parameters, &pod).await?;
    pod.metadata.uid.context("the pod has no uid")
}

/// Plays a runner on this machine.
async fn drive(stage: &Stage, name: &str, root: &Path, job: &str) -> anyhow::Result<Report> {
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("this program has no directory")?;
    let directory = tempfile::tempdir()?;
    let place = |file: &str| directory.path().join(file);
    let hook = programs.join("../dist/arc-hook");
    std::fs::write(place("index.sh"), format!("exec {}\n", hook.display()))?;
    std::fs::set_permissions(place("index.sh"), PermissionsExt::from_mode(0o755))?;
    std::fs::write(place("job.yaml"), job)?;
    // What the step finds at /__e; no step here needs node.
    std::fs::create_dir_all(root.join("externals"))?;
    let output = Command::new(programs.join("runner-worker"))
        .args(["--quiet", "--once"])
        .arg(place("job.yaml"))
        .arg("--root")
        .arg(root)
        .env("ACTIONS_RUNNER_CONTAINER_HOOKS", place("index.sh"))
        .env("ACTIONS_RUNNER_POD_NAME", format!("{name}-runner"))
        .env("ACTIONS_RUNNER_CLAIM_NAME", format!("{name}-work"))
        .env(
            "ACTIONS_RUNNER_KUBERNETES_NAMESPACE",
            stage.cluster.namespace(),
        )
        .env("KUBECONFIG", stage.cluster.paths.kubeconfig())
        .kill_on_drop(true)
        .output()
        .await?;
    stage.keep(std::fs::read_to_string(place("job.log")).unwrap_or_default());
    let Ok(report) = std::fs::read_to_string(place("report.json")) else {
        bail!(
            "the driver made no report: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    Ok(serde_json::from_str(&report)?)
}
