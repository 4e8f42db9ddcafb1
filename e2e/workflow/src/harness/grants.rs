//! Shipped Roles, for the account of the runner pods.

use anyhow::Context;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::cluster::{Cluster, Role as Account};

/// Grants the one for caches; Role and binding are called `name`.
pub async fn caches(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    shipped(cluster, "cache-rbac.yaml", name, Account::Shipped).await
}

/// Grants the one for kept jobs to the runners of this Role.
pub async fn retained(cluster: &Cluster, name: &str, to: Account) -> anyhow::Result<()> {
    shipped(cluster, "retain-rbac.yaml", name, to).await
}

async fn shipped(cluster: &Cluster, file: &str, name: &str, to: Account) -> anyhow::Result<()> {
    let path = cluster.paths.template(file);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    printed(cluster, &text, name, to).await
}

/// Grants the Role of these manifests, as `arc-hook rbac` prints them.
pub async fn printed(
    cluster: &Cluster,
    manifests: &str,
    name: &str,
    to: Account,
) -> anyhow::Result<()> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifests)?;
    for mut object in objects {
        object["metadata"]["name"] = json!(name);
        match object["kind"].as_str() {
            Some("Role") => {
                let role: Role = serde_json::from_value(object)?;
                cluster.apply(&role).await?;
            }
            Some("RoleBinding") => {
                object["roleRef"]["name"] = json!(name);
                object["subjects"][0]["name"] = json!(to.account());
                let binding: RoleBinding = serde_json::from_value(object)?;
                cluster.apply(&binding).await?;
            }
            // The account is there.
            _ => {}
        }
    }
    Ok(())
}

/// Grants every runner of the namespace to see its node.
pub async fn nodes(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let path = cluster.paths.template("node-rbac.yaml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    let [mut role, mut binding]: [Value; 2] = serde_saphyr::from_multiple(&text)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("`{}` is not a role and its binding", path.display()))?;
    role["metadata"]["name"] = json!(name);
    binding["metadata"]["name"] = json!(name);
    binding["roleRef"]["name"] = json!(name);
    binding["subjects"] = [Account::Shipped, Account::NoVolume]
        .map(|account| {
            json!({"kind": "ServiceAccount", "name": account.account(),
                   "namespace": cluster.namespace()})
        })
        .into_iter()
        .collect();
    let force = PatchParams::apply("arc-hook-e2e").force();
    Api::<ClusterRole>::all(cluster.client.clone())
        .patch(name, &force, &Patch::Apply(&role))
        .await?;
    Api::<ClusterRoleBinding>::all(cluster.client.clone())
        .patch(name, &force, &Patch::Apply(&binding))
        .await?;
    Ok(())
}

/// Takes that back.
pub async fn revoke_nodes(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let now = DeleteParams::default();
    let bindings = Api::<ClusterRoleBinding>::all(cluster.client.clone());
    let roles = Api::<ClusterRole>::all(cluster.client.clone());
    let (binding, role) = (
        bindings.delete(name, &now).await,
        roles.delete(name, &now).await,
    );
    binding?;
    role?;
    Ok(())
}

/// Takes it back.
pub async fn revoke(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let now = DeleteParams::default();
    cluster.api::<RoleBinding>().delete(name, &now).await?;
    cluster.api::<Role>().delete(name, &now).await?;
    Ok(())
}
