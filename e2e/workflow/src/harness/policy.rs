//! The shipped admission policy, as an administrator installs it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, ResourceExt};
use serde_json::json;

use super::cluster::Cluster;

/// Writes of the harness.
const MANAGER: &str = "arc-hook-e2e";
/// The API server compiles a new policy within a second or two.
const IN_FORCE: Duration = Duration::from_secs(90);

impl Cluster {
    /// What `kubectl apply` and `kubectl label` of the policy's comment do; ends when it is in
    /// force.
    pub(super) async fn confine(&self) -> anyhow::Result<()> {
        let path = self.paths.template("admission-policy.yaml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        let objects: Vec<DynamicObject> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("failed to parse `{}`", path.display()))?;
        let force = PatchParams::apply(MANAGER).force();
        for object in objects {
            let types = object.types.clone().context("an object without a kind")?;
            let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
            let name = object.name_any();
            Api::<DynamicObject>::all_with(self.client.clone(), &kind)
                .patch(&name, &force, &Patch::Apply(&object))
                .await
                .with_context(|| format!("failed to apply {} `{name}`", types.kind))?;
        }
        let label = json!({"metadata": {"labels": {"arc-hook/confine": "true"}}});
        Api::<Namespace>::all(self.client.clone())
            .patch(
                self.namespace(),
                &PatchParams::default(),
                &Patch::Merge(label),
            )
            .await
            .context("failed to label the namespace")?;
        self.await_policy().await
    }

    async fn await_policy(&self) -> anyhow::Result<()> {
        let account = self.acting_as_account(None).await?;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "policy-probe"},
            // As the level `restricted` has it, which would refuse it first.
            "spec": {
                "securityContext": {
                    "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{"name": "job", "image": "alpine", "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                }}],
            },
        }))?;
        let start = Instant::now();
        loop {
            let tried = Api::<Pod>::namespaced(account.clone(), self.namespace())
                .create(&rehearsal(), &pod)
                .await;
            match tried {
                Err(kube::Error::Api(status))
                    if status.message.contains("ValidatingAdmissionPolicy") =>
                {
                    return Ok(());
                }
                _ if start.elapsed() > IN_FORCE => {
                    bail!("the admission policy is not in force after {IN_FORCE:?}: {tried:?}")
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// A client with a token of the runners' account, made for this runner pod or for none. Its
    /// namespace is the scale set's.
    pub async fn acting_as_account(&self, runner: Option<&Pod>) -> anyhow::Result<Client> {
        let accounts: Api<ServiceAccount> = self.api();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                bound_object_ref: runner.map(|pod| BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name_any()),
                    uid: pod.uid(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(self.service_account(), &PostParams::default(), &request)
            .await
            .context("failed to get a token of the runners' account")?;
        let token = answer.status.context("an answer without a token")?.token;
        let mut kubeconfig = Kubeconfig::read_from(self.paths.kubeconfig())?;
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(serde_json::from_value(json!({"token": token}))?);
        }
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        self.namespace().clone_into(&mut config.default_namespace);
        Ok(Client::try_from(config)?)
    }
}

/// A creation that passes all of admission and makes nothing.
#[must_use]
pub fn rehearsal() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}
