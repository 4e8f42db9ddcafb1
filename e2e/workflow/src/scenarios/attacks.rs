//! What a hostile job tries beyond its own files.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Event, Pod, PodSpec, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;

use super::{Acting, Stage};
use crate::attacks::{Attack, Origin, Table};
use crate::harness::runner::{Options, Runner};
use crate::runner::guid::guid;

/// None of the attacks that a hook would let through which trusts the job leads anywhere, be it
/// from a step, from a process that one left behind, from a container action or from a service.
pub fn contained(stage: Arc<Stage>, origin: Origin) -> Acting {
    Box::pin(async move {
        let table = Table::read()?;
        let attacks: Vec<&Attack> = table.attacks_from(origin).collect();
        let job = table.job(origin, &attacks).to_string();
        // Each action would wait for a cache of its own, longer than an attack may hold it up.
        let options = Options::of_template("metadata: {annotations: {arc-hook/run-as: runner}}\n");
        stage.run_job(&job, &options).await?;
        Ok(())
    })
}

/// A state that names another's pod neither runs steps there nor deletes it.
pub fn forged_state(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let victim = format!("victim-{}", &guid()[..8]);
        let pods = stage.cluster.api::<Pod>();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": victim},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "job", "image": "alpine:latest", "command": ["sleep", "600"]}],
            },
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
        let job = stage.read("forged-state.yaml")?.replace("VICTIM", &victim);
        let result = stage.run_job(&job, &Options::default()).await;
        let found = pods.get_opt(&victim).await?;
        let now = DeleteParams::default().grace_period(0);
        let _ = pods.delete(&victim, &now).await;
        result?;
        let alive = found.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
        ensure!(alive, "the pod that the forged state named was deleted");
        Ok(())
    })
}

/// Secrets of job, service and action stand in no pod, in no event, and not
/// in the supervisor's environment.
pub fn planted_secrets(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let planted = format!("PLANTED-{}", guid());
        let job = stage
            .read("planted-secrets.yaml")?
            .replace("PLANTED", &planted);
        let looks = async |runner: &Runner| {
            let go = runner.path("/home/runner/_work/demo/demo/go");
            runner.await_log("waiting").await?;
            search(&stage, runner, &planted).await?;
            std::fs::write(&go, "")?;
            runner.await_log("in the action").await?;
            search(&stage, runner, &planted).await?;
            std::fs::write(&go, "")?;
            runner.await_log("in-the-plain-action").await?;
            search(&stage, runner, &planted).await
        };
        stage.run_beside(&job, &Options::default(), looks).await?;
        Ok(())
    })
}

async fn search(stage: &Stage, runner: &Runner, planted: &str) -> anyhow::Result<()> {
    let pods = runner.job_pods().await?;
    ensure!(!pods.is_empty(), "the job has no pod");
    for pod in &pods {
        let text = serde_json::to_string(pod)?;
        ensure!(
            !text.contains(planted),
            "pod `{}` holds a planted secret",
            pod.name_any()
        );
    }
    let events = stage.cluster.api::<Event>();
    let events = serde_json::to_string(&events.list(&ListParams::default()).await?.items)?;
    ensure!(!events.contains(planted), "an event holds a planted secret");
    // Secrets are their place, as long as they go with the runner.
    for secret in stage
        .cluster
        .api::<Secret>()
        .list(&ListParams::default())
        .await?
    {
        let ours = secret
            .labels()
            .get("runner-pod")
            .is_some_and(|label| *label == runner.name);
        let owner = secret
            .owner_references()
            .first()
            .map(|owner| owner.name.as_str());
        ensure!(
            !ours || owner == Some(runner.name.as_str()),
            "secret `{}` has no owner",
            secret.name_any()
        );
    }
    Ok(())
}

/// Neither a job nor a service nor an action can reach the account, the
/// work volume's root or the runner's own files.
pub fn out_of_reach(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let look = "ls /var/run/secrets/kubernetes.io 2>/dev/null && exit 1; \
            for f in /__w/.arc-hook /__w/_temp/_runner_hook_responses /home/runner/run.sh; do \
            [ ! -e $f ] || { echo found $f; exit 1; }; done; echo nothing found";
        let job = json!({
            "name": "Out of reach",
            "container": {"image": "alpine:latest"},
            "services": {"cache": {"image": "redis:latest"}},
            "steps": [
                {"name": "from the job", "run": format!(
                    "{look}; ls -la /__w /__w/_temp /__hook; touch /__hook/arc-hook 2>/dev/null && exit 1; \
                     touch /__e/x 2>/dev/null && exit 1; touch /github/workflow/x 2>/dev/null && exit 1; echo read-only"),
                 "driver": {"expect": ["nothing found", "read-only"]}},
                {"name": "from an action", "uses": "docker://alpine:latest",
                 "with": {"entrypoint": "/bin/sh", "args": format!("-c \"{look}\"").replace("$f", "\\$f")},
                 "driver": {"expect": ["nothing found"]}},
                {"name": "holds the pod", "run": "echo ready; until [ -e go ]; do sleep 0.1; done"},
            ],
        });
        let looks = async |runner: &Runner| {
            runner.await_log("ready").await?;
            let pods = stage.cluster.api::<Pod>();
            let pod = pods.get(&runner.job_pod()).await?;
            confined(&pod.spec.context("the job pod has no spec")?)?;
            std::fs::write(runner.path("/home/runner/_work/demo/demo/go"), "")?;
            Ok(())
        };
        stage
            .run_beside(&job.to_string(), &Options::default(), looks)
            .await?;
        Ok(())
    })
}

/// Checks a job pod's account, node and mounts.
fn confined(spec: &PodSpec) -> anyhow::Result<()> {
    ensure!(
        spec.automount_service_account_token == Some(false),
        "the job pod mounts a service account token"
    );
    ensure!(spec.affinity.is_some(), "the job pod has no affinity");
    for container in &spec.containers {
        for mount in container.volume_mounts.iter().flatten() {
            let whole = mount.name == "work" && mount.sub_path.is_none();
            ensure!(!whole, "`{}` mounts the work volume's root", container.name);
            let of_service = container.name != "job" && mount.mount_path.starts_with("/__w");
            ensure!(
                !of_service,
                "service `{}` mounts {}",
                container.name,
                mount.mount_path
            );
        }
    }
    Ok(())
}
