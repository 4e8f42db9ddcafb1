//! `arc-hook doctor` on a set-up that is right, and on one with faults.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use super::policy::merge;
use super::{Acting, Stage};
use crate::harness::cluster::{self, TEMPLATE_MAP};
use crate::harness::runner::{Options, Runner};

/// Where faults are planted: no job runs there.
const PLANTED: &str = "doctor-e2e";
const RUNNER: &str = "examined";
/// The account of hook-templates/rbac.yaml.
const ACCOUNT: &str = "arc-hook-runner";
const MANAGER: &str = "arc-hook-e2e";
/// How long the storage driver may take for the parent, and the namespace to go.
const PATIENCE: Duration = Duration::from_mins(1);

/// A fault of `doctor.yaml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fault {
    what: String,
    check: String,
    variables: BTreeMap<String, String>,
    runner: Value,
    replace: Option<(String, String)>,
    template: Option<String>,
    rules: Option<Value>,
    labels: BTreeMap<String, String>,
    objects: Vec<DynamicObject>,
}

/// What the test bed installs is found right, from a laptop and from within the runner pod.
pub fn right_set_up(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        for role in [cluster::Role::Shipped, cluster::Role::NoVolume] {
            let options = Options {
                role,
                ..Options::default()
            };
            let runner = Runner::start(&stage.cluster, &options).await?;
            let examined = examine_both(&stage, &runner).await;
            runner.remove().await?;
            examined.with_context(|| format!("{role:?}"))?;
        }
        Ok(())
    })
}

async fn examine_both(stage: &Stage, runner: &Runner) -> anyhow::Result<()> {
    let namespace = stage.cluster.namespace();
    let (code, told) = doctor(stage, namespace, &runner.name).await?;
    ensure!(code == Some(0), "from a laptop: {code:?} {told:#}");
    let unknown = told["checks"].as_array().into_iter().flatten();
    let unknown: Vec<&Value> = unknown
        .filter(|check| check["verdict"] == "unknown")
        .collect();
    ensure!(unknown.is_empty(), "a laptop does not see: {unknown:?}");

    let mut within = Command::new(stage.cluster.paths.script("kubectl"));
    within.args(["exec", "-n", namespace, &runner.name, "-c", "runner", "--"]);
    within.args([
        "/home/runner/arc-hook/arc-hook",
        "doctor",
        "--output",
        "json",
    ]);
    let (code, told) = json_of(within).await?;
    ensure!(code == Some(0), "from within: {code:?} {told:#}");
    let rights = verdict(&told, "rights/present").map(|check| check["verdict"].clone());
    ensure!(rights == Some(json!("pass")), "from within: {told:#}");
    Ok(())
}

/// Each fault is found, by its check, with its remedy.
pub fn planted_faults(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let planted = Planted {
            client: stage.cluster.client.clone(),
            stage: stage.clone(),
        };
        let found = planted.all().await;
        planted.remove().await?;
        found
    })
}

struct Planted {
    client: Client,
    stage: Arc<Stage>,
}

impl Planted {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), PLANTED)
    }

    async fn all(&self) -> anyhow::Result<()> {
        self.install().await?;
        let (code, told) = self.examine(&Fault::default()).await?;
        ensure!(code == Some(0), "without a fault: {code:?} {told:#}");
        let faults: Vec<Fault> = serde_saphyr::from_str(include_str!("doctor.yaml"))?;
        let mut log = Vec::new();
        let mut missed = Vec::new();
        for fault in &faults {
            let (code, told) = self.examine(fault).await?;
            let found = verdict(&told, &fault.check);
            log.push(format!("{}: {found:?}", fault.what));
            let code_of = |found: &Value| match found["verdict"].as_str() {
                Some("fail") => Some(2),
                Some("warn") => Some(1),
                _ => None,
            };
            let ends = found.and_then(code_of);
            if ends.is_none() || ends > code || found.is_none_or(|found| found["remedy"].is_null())
            {
                missed.push(format!("{}: {code:?} {found:?}", fault.what));
            }
        }
        self.stage.keep(log.join("\n"));
        ensure!(faults.len() >= 20, "only {} faults", faults.len());
        ensure!(missed.is_empty(), "not found: {}", missed.join("\n"));
        Ok(())
    }

    /// What the README says to apply.
    async fn install(&self) -> anyhow::Result<()> {
        self.remove().await?;
        let namespace =
            json!({"metadata": {"name": PLANTED, "labels": {"arc-hook/confine": "true"}}});
        Api::<Namespace>::all(self.client.clone())
            .create(&PostParams::default(), &serde_json::from_value(namespace)?)
            .await?;
        for file in ["rbac.yaml", "conan-zfs.yaml", "openebs-zfs.yaml"] {
            let text = std::fs::read_to_string(self.stage.cluster.paths.template(file))?;
            let objects: Vec<DynamicObject> = serde_saphyr::from_multiple(&text)?;
            for object in objects {
                self.apply(&object).await?;
            }
        }
        let parents = self.api::<PersistentVolumeClaim>();
        let bound = async {
            loop {
                let parent = parents.get("gcc12-toolchain-main").await?;
                if parent.status.and_then(|status| status.phase).as_deref() == Some("Bound") {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let bound = tokio::time::timeout(PATIENCE, bound).await;
        bound.context("the parent was not bound")?
    }

    async fn apply(&self, object: &DynamicObject) -> anyhow::Result<()> {
        let types = object.types.clone().context("an object without a kind")?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let api: Api<DynamicObject> = if types.kind == "StorageClass" {
            Api::all_with(self.client.clone(), &kind)
        } else {
            Api::namespaced_with(self.client.clone(), PLANTED, &kind)
        };
        let mut object = object.clone();
        if types.kind == "RoleBinding" {
            object.data["subjects"][0]["namespace"] = json!(PLANTED);
        }
        let name = object.name_any();
        api.patch(
            &name,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(&object),
        )
        .await
        .with_context(|| format!("failed to apply {} `{name}`", types.kind))?;
        Ok(())
    }

    /// Plants a fault, has the doctor look, and takes it away.
    async fn examine(&self, fault: &Fault) -> anyhow::Result<(Option<i32>, Value)> {
        for object in &fault.objects {
            self.apply(object).await?;
        }
        self.plant_template(fault).await?;
        self.plant_rules(fault).await?;
        let pods = self.api::<Pod>();
        pods.create(&PostParams::default(), &self.pod(fault)?)
            .await
            .with_context(|| format!("{}: failed to create the runner pod", fault.what))?;
        self.label(&json!(fault.labels)).await?;
        let told = doctor(&self.stage, PLANTED, RUNNER).await;
        let undone = fault.labels.keys().map(|label| {
            let usual = (label == "arc-hook/confine").then_some("true");
            (label.clone(), json!(usual))
        });
        self.label(&Value::Object(undone.collect())).await?;
        pods.delete(RUNNER, &DeleteParams::default().grace_period(0))
            .await?;
        told
    }

    async fn label(&self, labels: &Value) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        Api::<Namespace>::all(self.client.clone())
            .patch(PLANTED, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    async fn plant_template(&self, fault: &Fault) -> anyhow::Result<()> {
        let map = self.stage.cluster.template_map("conan-zfs.yaml")?;
        let mut text = map
            .data
            .unwrap_or_default()
            .remove("content")
            .unwrap_or_default();
        if let Some((from, to)) = &fault.replace {
            ensure!(
                text.contains(from),
                "{}: no `{from}` in the template",
                fault.what
            );
            text = text.replace(from, to);
        }
        let text = fault.template.as_ref().unwrap_or(&text);
        let patch = Patch::Merge(json!({"data": {"content": text}}));
        let maps = self.api::<ConfigMap>();
        maps.patch(TEMPLATE_MAP, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    async fn plant_rules(&self, fault: &Fault) -> anyhow::Result<()> {
        let shipped = std::fs::read_to_string(self.stage.cluster.paths.template("rbac.yaml"))?;
        let shipped: Vec<Value> = serde_saphyr::from_multiple(&shipped)?;
        let rules = fault.rules.as_ref().unwrap_or(&shipped[1]["rules"]);
        let patch = Patch::Merge(json!({"rules": rules}));
        self.api::<Role>()
            .patch(ACCOUNT, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// A runner pod that no node ever gets.
    fn pod(&self, fault: &Fault) -> anyhow::Result<Pod> {
        let mut values = self.stage.cluster.values_of(cluster::Role::Shipped).clone();
        for (name, value) in &fault.variables {
            values.set_variable(name, value)?;
        }
        let pod = values.runner_pod(RUNNER, ACCOUNT)?;
        let mut pod = serde_json::to_value(pod)?;
        pod["spec"]["schedulingGates"] = json!([{"name": "arc-hook-e2e/never"}]);
        if !fault.variables.contains_key("ACTIONS_RUNNER_POD_NAME") {
            merge(&mut pod, &fault.runner);
            return Ok(serde_json::from_value(pod)?);
        }
        // The chart's own comes last, and would win.
        let env = pod["spec"]["containers"][0]["env"].as_array_mut();
        let env = env.context("a runner without variables")?;
        env.retain(|one| one["name"] != "ACTIONS_RUNNER_POD_NAME" || one["value"].is_string());
        Ok(serde_json::from_value(pod)?)
    }

    async fn remove(&self) -> anyhow::Result<()> {
        let classes: Api<k8s_openapi::api::storage::v1::StorageClass> =
            Api::all(self.client.clone());
        for name in ["doctor-empty", "doctor-waits"] {
            let _ = classes.delete(name, &DeleteParams::default()).await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let gone = async {
            loop {
                match namespaces.delete(PLANTED, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => return anyhow::Ok(()),
                    Err(kube::Error::Api(status)) if status.code != 409 => bail!("{status}"),
                    _ => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        };
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        gone.context("the namespace of the faults did not go")?
    }
}

/// Runs the doctor as on a laptop: its exit code and what it told.
async fn doctor(stage: &Stage, namespace: &str, pod: &str) -> anyhow::Result<(Option<i32>, Value)> {
    let paths = &stage.cluster.paths;
    let binary = paths
        .project
        .join("target/x86_64-unknown-linux-musl/dist/arc-hook");
    let mut command = Command::new(binary);
    command.args(["doctor", "--output", "json", "--namespace", namespace]);
    command.args(["--runner-pod", pod]);
    command.env("KUBECONFIG", paths.kubeconfig());
    json_of(command).await
}

async fn json_of(mut command: Command) -> anyhow::Result<(Option<i32>, Value)> {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let told = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "no JSON from the doctor: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok((output.status.code(), told))
}

/// The worst check of a name.
fn verdict<'t>(told: &'t Value, name: &str) -> Option<&'t Value> {
    let checks = told["checks"].as_array().into_iter().flatten();
    checks
        .filter(|check| check["name"] == name)
        .max_by_key(|check| match check["verdict"].as_str() {
            Some("fail") => 2,
            Some("warn") => 1,
            _ => 0,
        })
}
