//! The test cluster, as its administrator and as ARC see it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::{self as rbac, PolicyRule};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::paths::Paths;
use super::values::{Mode, Values, stock_rules};
use crate::job::Job;

/// The namespace of the scale set.
const NAMESPACE: &str = "arc-runners";
/// The template of the scale set.
const TEMPLATE: &str = "conan-zfs.yaml";
/// The class of the caches, and the parent that the template clones.
const PARENT: &str = "openebs-zfs.yaml";
/// In every namespace, a moment after it was made.
const ROOT_CERTIFICATES: &str = "kube-root-ca.crt";
/// The `ConfigMap` that the values mount as hook template.
pub const TEMPLATE_MAP: &str = "github-arc-container-hooks";
/// Carried by runner pods.
const RUNNER_LABEL: &str = "actions-ephemeral-runner=True";
/// Writes of the harness.
const MANAGER: &str = "arc-hook-e2e";
/// How long things may take to go. After an outage of the API server its
/// clients come back within half a minute each, one after another.
const REMOVAL: Duration = Duration::from_mins(3);
const GLANCE: Duration = Duration::from_millis(100);

/// A kind of object that lives in a namespace.
pub trait Object:
    kube::Resource<Scope = NamespaceResourceScope, DynamicType: Default>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
{
}

impl<K> Object for K where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType: Default>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
{
}

/// Held by whoever runs jobs on the cluster: two at once would sweep each
/// other's pods away, and find them left behind.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until nobody else runs jobs.
    pub fn take(paths: &Paths) -> anyhow::Result<Self> {
        let path = paths.state.join("scenarios.lock");
        let lock = File::create(&path)
            .with_context(|| format!("failed to create `{}`", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("waiting for another run on the test cluster ...");
            flock(&lock, FlockOperation::LockExclusive)?;
        }
        Ok(Self { _lock: lock })
    }
}

/// What a runner's account may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// What the shipped values give: ARC's rights, and to watch pods and to list events.
    #[default]
    Shipped,
    /// What ARC's chart gives by itself.
    Stock,
    /// The same but for `create` of `secrets`.
    Lacking,
    /// What the shipped values give whose runners share no volume with their jobs.
    NoVolume,
}

impl Role {
    const ALL: [Self; 4] = [Self::Shipped, Self::Stock, Self::Lacking, Self::NoVolume];

    /// What the chart calls account, role and binding.
    #[must_use]
    pub fn account(self) -> &'static str {
        match self {
            Self::Shipped => "conan-zfs-gha-rs-kube-mode",
            Self::Stock => "stock-gha-rs-kube-mode",
            Self::Lacking => "lacking-gha-rs-kube-mode",
            Self::NoVolume => "novolume-gha-rs-kube-mode",
        }
    }

    fn rules(self, cluster: &Cluster) -> Vec<PolicyRule> {
        match self {
            Self::Shipped | Self::NoVolume => cluster.values_of(self).role_rules(),
            Self::Stock => stock_rules(Mode::Kubernetes),
            Self::Lacking => {
                let mut rules = stock_rules(Mode::Kubernetes);
                for rule in &mut rules {
                    if rule.resources.as_deref() == Some(&["secrets".to_owned()]) {
                        rule.verbs.retain(|verb| verb != "create");
                    }
                }
                rules
            }
        }
    }
}

/// The cluster, with a scale set installed.
#[derive(Clone)]
pub struct Cluster {
    /// Where its things are.
    pub paths: Paths,
    /// The administrator's client.
    pub client: Client,
    values: Values,
    without_volume: Values,
    namespace: String,
}

impl Cluster {
    /// Connects, and installs the scale set from `hook-templates/`.
    pub async fn connect(paths: Paths) -> anyhow::Result<Self> {
        Self::lane(paths, 0).await
    }

    /// The same with a namespace and a parent of caches for each number, so that jobs of
    /// different lanes do not meet. Number 0 is the namespace that people use.
    pub async fn lane(paths: Paths, number: usize) -> anyhow::Result<Self> {
        let kubeconfig = paths.kubeconfig();
        let config = Kubeconfig::read_from(&kubeconfig)
            .context("the test cluster is down; `e2e/up` starts it")?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let values = |file: &str| {
            let path = paths.template(file);
            std::fs::read_to_string(&path)
                .map_err(anyhow::Error::from)
                .and_then(|text| Values::parse(&text))
                .with_context(|| format!("failed to read `{}`", path.display()))
        };
        let cluster = Self {
            client: Client::try_from(config)?,
            values: values("arc-values.yaml")?,
            without_volume: values("arc-values-novolume.yaml")?,
            paths,
            namespace: NAMESPACE.to_owned(),
        };
        if number == 0 {
            cluster.sweep().await?;
            cluster.install(TEMPLATE).await?;
            return Ok(cluster);
        }
        let namespace = format!("{NAMESPACE}-{number}");
        let lane = cluster.beside(&namespace, json!({}), TEMPLATE).await?;
        lane.make_parent().await?;
        Ok(lane)
    }

    /// The parent that the template clones, empty.
    async fn make_parent(&self) -> anyhow::Result<()> {
        let path = self.paths.template(PARENT);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("failed to parse `{}`", path.display()))?;
        for object in objects {
            if object["kind"] == "PersistentVolumeClaim" {
                let parent: PersistentVolumeClaim = serde_json::from_value(object)?;
                self.apply(&parent).await?;
                self.await_bound(&parent.name_any()).await?;
            }
        }
        Ok(())
    }

    /// Waits until a claim has a volume.
    async fn await_bound(&self, claim: &str) -> anyhow::Result<()> {
        let claims = self.api::<PersistentVolumeClaim>();
        let start = Instant::now();
        loop {
            let status = claims.get(claim).await?.status.unwrap_or_default();
            if status.phase.as_deref() == Some("Bound") {
                return Ok(());
            }
            if start.elapsed() > REMOVAL {
                bail!("claim `{claim}` has no volume: {status:?}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The same with a scale set in another namespace, which has these labels,
    /// and with a hook template of its own. The namespace goes with the
    /// cluster.
    pub async fn beside(
        &self,
        namespace: &str,
        labels: Value,
        template: &str,
    ) -> anyhow::Result<Self> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": labels},
        });
        Api::<Namespace>::all(self.client.clone())
            .patch(
                namespace,
                &PatchParams::apply(MANAGER).force(),
                &Patch::Apply(object),
            )
            .await
            .with_context(|| format!("failed to make namespace `{namespace}`"))?;
        let cluster = Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        };
        let certificates = cluster.api::<ConfigMap>();
        // Pods wait for it, and it is nothing that a job left behind.
        while certificates.get_opt(ROOT_CERTIFICATES).await?.is_none() {
            tokio::time::sleep(GLANCE).await;
        }
        cluster.sweep().await?;
        cluster.install(template).await?;
        Ok(cluster)
    }

    /// The values of the scale set whose account has this role.
    #[must_use]
    pub fn values_of(&self, role: Role) -> &Values {
        match role {
            Role::NoVolume => &self.without_volume,
            Role::Shipped | Role::Stock | Role::Lacking => &self.values,
        }
    }

    /// The namespace of this scale set.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What `helm install` and the README's `kubectl apply` make.
    async fn install(&self, template: &str) -> anyhow::Result<()> {
        for role in Role::ALL {
            let name = role.account();
            let metadata = json!({"name": name});
            let account: ServiceAccount = serde_json::from_value(json!({"metadata": metadata}))?;
            let rules = role.rules(self);
            let role: rbac::Role =
                serde_json::from_value(json!({"metadata": metadata, "rules": rules}))?;
            let binding: rbac::RoleBinding = serde_json::from_value(json!({
                "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                "subjects": [{
                    "kind": "ServiceAccount", "name": name, "namespace": self.namespace,
                }],
            }))?;
            self.apply(&account).await?;
            self.apply(&role).await?;
            self.apply(&binding).await?;
        }
        self.apply(&self.template_map(template)?).await?;
        self.confine().await
    }

    /// The `ConfigMap` of a hook template that is handed out.
    pub fn template_map(&self, file: &str) -> anyhow::Result<ConfigMap> {
        let path = self.paths.template(file);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        let map: ConfigMap = serde_saphyr::from_str(&text)
            .with_context(|| format!("failed to parse `{}`", path.display()))?;
        anyhow::ensure!(
            map.metadata.name.as_deref() == Some(TEMPLATE_MAP),
            "`{}` does not make the ConfigMap {TEMPLATE_MAP}",
            path.display()
        );
        Ok(map)
    }

    /// The hook template that a job asks for.
    pub fn template_of(&self, job: &Job) -> anyhow::Result<Option<String>> {
        let Some(template) = &job.driver.template else {
            return Ok(None);
        };
        if template.contains('\n') {
            return Ok(Some(template.clone()));
        }
        let content = self.template_map(template)?.data.unwrap_or_default();
        Ok(content.into_values().next())
    }

    /// The account of the runner pods that the shipped values make.
    #[must_use]
    pub fn service_account(&self) -> &'static str {
        Role::Shipped.account()
    }

    /// The user that the API server knows the runner pods of this Role by.
    #[must_use]
    pub fn user(&self, role: Role) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.namespace,
            role.account()
        )
    }

    /// Objects of one kind in the scale set's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes or changes an object.
    pub async fn apply<K: Object>(&self, object: &K) -> anyhow::Result<()> {
        let name = object.name_any();
        let mut value = serde_json::to_value(object)?;
        let dynamic = K::DynamicType::default();
        value["apiVersion"] = json!(K::api_version(&dynamic));
        value["kind"] = json!(K::kind(&dynamic));
        self.api::<K>()
            .patch(
                &name,
                &PatchParams::apply(MANAGER).force(),
                &Patch::Apply(value),
            )
            .await
            .with_context(|| format!("failed to apply {} `{name}`", K::kind(&dynamic)))?;
        Ok(())
    }

    /// What ARC's finalizer does: everything with the runner's label goes,
    /// then the runner pod, whose ephemeral claims follow it.
    pub async fn delete_runner(&self, runner: &str) -> anyhow::Result<()> {
        let linked = ListParams::default().labels(&format!("runner-pod={runner}"));
        let parameters = DeleteParams::default();
        self.api::<Pod>()
            .delete_collection(&parameters, &linked)
            .await
            .context("failed to delete the job's pods")?;
        self.api::<Secret>()
            .delete_collection(&parameters, &linked)
            .await
            .context("failed to delete the job's secrets")?;
        // Nothing in a runner pod is worth a grace period here.
        let now = DeleteParams::default().grace_period(1);
        match self.api::<Pod>().delete(runner, &now).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).context("failed to delete the runner pod"),
        }
    }

    /// Deletes every runner pod and what belongs to it: an earlier run was
    /// killed, or a scenario ran into its deadline.
    pub async fn sweep(&self) -> anyhow::Result<()> {
        let runners = ListParams::default().labels(RUNNER_LABEL);
        for runner in self.api::<Pod>().list(&runners).await? {
            self.delete_runner(&runner.name_any()).await?;
        }
        Ok(())
    }

    /// All that jobs could leave in the namespace, as `Kind/name`.
    pub async fn inventory(&self) -> anyhow::Result<BTreeSet<String>> {
        let all = ListParams::default();
        let mut names = BTreeSet::new();
        for pod in self.api::<Pod>().list(&all).await? {
            names.insert(format!("Pod/{}", pod.name_any()));
        }
        for secret in self.api::<Secret>().list(&all).await? {
            names.insert(format!("Secret/{}", secret.name_any()));
        }
        for claim in self.api::<PersistentVolumeClaim>().list(&all).await? {
            names.insert(format!("PersistentVolumeClaim/{}", claim.name_any()));
        }
        for map in self.api::<ConfigMap>().list(&all).await? {
            names.insert(format!("ConfigMap/{}", map.name_any()));
        }
        Ok(names)
    }

    /// Waits until nothing is there that was not in `before`.
    pub async fn await_nothing_left(&self, before: &BTreeSet<String>) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let left: Vec<String> = self
                .inventory()
                .await?
                .difference(before)
                .cloned()
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            if start.elapsed() > REMOVAL {
                bail!("left behind: {}", left.join(", "));
            }
            tokio::time::sleep(GLANCE).await;
        }
    }
}
