//! From the scale set's values to a runner pod: what ARC's chart
//! gha-runner-scale-set 0.14 makes of them in its two Kubernetes modes.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The values, as far as the chart's Kubernetes modes read them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Values {
    container_mode: ContainerMode,
    template: PodTemplate,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerMode {
    #[serde(rename = "type")]
    mode: Mode,
    #[serde(default)]
    kubernetes_mode_work_volume_claim: Value,
    #[serde(default)]
    kubernetes_mode_additional_role_rules: Vec<PolicyRule>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodTemplate {
    spec: Map<String, Value>,
}

/// How runner and job come by each other's files.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// They share a volume.
    Kubernetes,
    /// They share none.
    KubernetesNovolume,
}

impl Values {
    /// Parses the text of a values file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let values: Self = serde_saphyr::from_str(text)?;
        let container = &values.container_mode;
        anyhow::ensure!(
            container.kubernetes_mode_work_volume_claim.is_object()
                == (container.mode == Mode::Kubernetes),
            "`kubernetesModeWorkVolumeClaim` belongs to `kubernetes`, not to {:?}",
            container.mode
        );
        Ok(values)
    }

    /// What the chart sets unless the values do.
    fn default_variables(&self, image: &Value) -> Vec<(&'static str, Value)> {
        let hooks = |path: &str| ("ACTIONS_RUNNER_CONTAINER_HOOKS", json!(path));
        let required = ("ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER", json!("true"));
        match self.container_mode.mode {
            Mode::Kubernetes => vec![hooks("/home/runner/k8s/index.js"), required],
            Mode::KubernetesNovolume => vec![
                hooks("/home/runner/k8s-novolume/index.js"),
                required,
                ("ACTIONS_RUNNER_IMAGE", image.clone()),
            ],
        }
    }

    /// Size of the work volume, for a test that wants it smaller.
    pub fn set_work_size(&mut self, size: &str) {
        self.container_mode.kubernetes_mode_work_volume_claim["resources"] =
            json!({"requests": {"storage": size}});
    }

    /// Ties the runner pod to a node, as a scale set's `nodeSelector` does.
    pub fn set_node(&mut self, node: &str) {
        self.template.spec.insert(
            "nodeSelector".to_owned(),
            json!({"kubernetes.io/hostname": node}),
        );
    }

    /// The image of the runner's container.
    pub fn runner_image(&self) -> anyhow::Result<String> {
        let mut spec = self.template.spec.clone();
        let image = runner_container(&mut spec)?["image"].as_str();
        Ok(image
            .context("the runner's container has no image")?
            .to_owned())
    }

    /// Replaces the name of every `ConfigMap` volume called `from`.
    pub fn rename_config_map(&mut self, from: &str, to: &str) {
        let volumes = self
            .template
            .spec
            .get_mut("volumes")
            .and_then(Value::as_array_mut);
        for volume in volumes.into_iter().flatten() {
            if volume["configMap"]["name"] == from {
                volume["configMap"]["name"] = json!(to);
            }
        }
    }

    /// Gives the runner pod a pull secret.
    pub fn add_pull_secret(&mut self, name: &str) -> anyhow::Result<()> {
        let secrets = self
            .template
            .spec
            .entry("imagePullSecrets")
            .or_insert_with(|| json!([]));
        let secrets = secrets.as_array_mut();
        secrets
            .context("`imagePullSecrets` is not a list")?
            .push(json!({"name": name}));
        Ok(())
    }

    /// Sets a variable of the runner's container.
    pub fn set_variable(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        let runner = runner_container(&mut self.template.spec)?;
        let env = list(runner, "env")?;
        env.retain(|variable| variable["name"] != name);
        env.push(json!({"name": name, "value": value}));
        Ok(())
    }

    /// The runner pod that ARC would create.
    pub fn runner_pod(&self, name: &str, service_account: &str) -> anyhow::Result<Pod> {
        let mut spec = self.template.spec.clone();
        let runner = runner_container(&mut spec)?;
        let variables = self.default_variables(&runner["image"]);
        let env = list(runner, "env")?;
        for (name, value) in variables {
            if !env.iter().any(|variable| variable["name"] == name) {
                env.push(json!({"name": name, "value": value}));
            }
        }
        env.push(json!({
            "name": "ACTIONS_RUNNER_POD_NAME",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
        }));
        if self.container_mode.mode == Mode::Kubernetes {
            self.add_work(&mut spec)?;
        }
        spec.insert("restartPolicy".to_owned(), json!("Never"));
        spec.entry("serviceAccountName")
            .or_insert_with(|| json!(service_account));
        let pod = json!({
            "metadata": {
                "name": name,
                "labels": {
                    "actions.github.com/scale-set-name": "conan-zfs",
                    "actions-ephemeral-runner": "True",
                },
            },
            "spec": spec,
        });
        serde_json::from_value(pod).context("the values make no valid pod")
    }

    /// The work volume, unless the values bring one.
    fn add_work(&self, spec: &mut Map<String, Value>) -> anyhow::Result<()> {
        let mounts = list(runner_container(spec)?, "volumeMounts")?;
        if !mounts.iter().any(|mount| mount["name"] == "work") {
            mounts.push(json!({"name": "work", "mountPath": "/home/runner/_work"}));
        }
        let root = spec.entry("volumes").or_insert_with(|| json!([]));
        let volumes = root.as_array_mut().context("`volumes` is not a list")?;
        if !volumes.iter().any(|volume| volume["name"] == "work") {
            let claim = &self.container_mode.kubernetes_mode_work_volume_claim;
            volumes.push(json!({
                "name": "work",
                "ephemeral": {"volumeClaimTemplate": {"spec": claim}},
            }));
        }
        Ok(())
    }

    /// The rules of the Role that the chart makes.
    #[must_use]
    pub fn role_rules(&self) -> Vec<PolicyRule> {
        let mut rules = stock_rules(self.container_mode.mode);
        rules.extend(
            self.container_mode
                .kubernetes_mode_additional_role_rules
                .clone(),
        );
        rules
    }
}

/// The rules that the chart makes of empty values.
#[must_use]
pub fn stock_rules(mode: Mode) -> Vec<PolicyRule> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let mut rules = vec![
        rule("", "pods", &["get", "list", "create", "delete"]),
        rule("", "pods/exec", &["get", "create"]),
        rule("", "pods/log", &["get", "list", "watch"]),
        rule("", "secrets", &["get", "list", "create", "delete"]),
    ];
    if mode == Mode::Kubernetes {
        let jobs = rule("batch", "jobs", &["get", "list", "create", "delete"]);
        rules.push(jobs);
    }
    rules
}

fn runner_container(spec: &mut Map<String, Value>) -> anyhow::Result<&mut Value> {
    spec.get_mut("containers")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .find(|container| container["name"] == "runner")
        .context("the values have no container `runner`")
}

fn list<'a>(container: &'a mut Value, key: &str) -> anyhow::Result<&'a mut Vec<Value>> {
    let container = container
        .as_object_mut()
        .context("a container is not a mapping")?;
    container
        .entry(key)
        .or_insert_with(|| json!([]))
        .as_array_mut()
        .with_context(|| format!("`{key}` is not a list"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::paths::Paths;

    fn shipped() -> Values {
        let path = Paths::new().template("arc-values.yaml");
        Values::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn the_shipped_values_make_the_pod_that_the_chart_would() {
        let pod = shipped().runner_pod("demo-runner", "account").unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(spec.service_account_name.as_deref(), Some("account"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
        let runner = &spec.containers[0];
        let names: Vec<&str> = runner
            .env
            .iter()
            .flatten()
            .map(|variable| variable.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "ACTIONS_RUNNER_CONTAINER_HOOKS",
                "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE",
                "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER",
                "ACTIONS_RUNNER_POD_NAME"
            ]
        );
        let mounts: Vec<&str> = runner
            .volume_mounts
            .iter()
            .flatten()
            .map(|mount| mount.mount_path.as_str())
            .collect();
        assert_eq!(mounts, ["/home/runner/pod-template", "/home/runner/_work"]);
        let volumes = spec.volumes.unwrap();
        assert!(volumes[1].ephemeral.is_some() && volumes[1].name == "work");
    }

    #[test]
    fn without_a_volume_the_pod_has_nothing_at_its_work_directory() {
        let path = Paths::new().template("arc-values-novolume.yaml");
        let values = Values::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        let pod = serde_json::to_value(values.runner_pod("a", "b").unwrap()).unwrap();
        let runner = &pod["spec"]["containers"][0];
        let image = runner["env"].as_array().unwrap().iter();
        let image: Vec<&Value> = image
            .filter(|variable| variable["name"] == "ACTIONS_RUNNER_IMAGE")
            .map(|variable| &variable["value"])
            .collect();
        assert_eq!(image, [&runner["image"]]);
        assert!(!pod.to_string().contains("work"), "{pod}");
        let rules = serde_json::to_string(&values.role_rules()).unwrap();
        assert!(!rules.contains("jobs"), "{rules}");
    }

    #[test]
    fn the_role_is_arc_s_with_the_values_rules() {
        let rules = shipped().role_rules();
        assert_eq!(rules.len(), 7);
        assert!(
            rules
                .iter()
                .all(|rule| !rule.verbs.iter().any(|verb| verb == "*"))
        );
    }

    #[test]
    fn a_test_can_change_size_and_template() {
        let mut values = shipped();
        values.set_work_size("64Mi");
        values.rename_config_map("github-arc-container-hooks", "other");
        values.set_variable("EXTRA", "1").unwrap();
        values.add_pull_secret("registry").unwrap();
        let pod = serde_json::to_value(values.runner_pod("a", "b").unwrap()).unwrap();
        assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "registry");
        let volumes = &pod["spec"]["volumes"];
        assert_eq!(volumes[0]["configMap"]["name"], "other");
        let claim = &volumes[1]["ephemeral"]["volumeClaimTemplate"]["spec"];
        assert_eq!(claim["resources"]["requests"]["storage"], "64Mi");
    }
}
