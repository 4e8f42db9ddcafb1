//! What the shipped admission policy keeps the runners' account from.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Acting, Stage};
use crate::harness::cluster::Object;
use crate::harness::policy::rehearsal;
use crate::harness::runner::{Options, Runner};

/// The account of a runner pod can create what a job needs, and nothing that reaches beyond it.
pub fn confined_account(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let runner = Runner::start(&stage.cluster, &Options::default()).await?;
        let tried = try_all(&stage, &runner).await;
        runner.remove().await?;
        tried
    })
}

async fn try_all(stage: &Stage, runner: &Runner) -> anyhow::Result<()> {
    let pod = runner.pod().await?;
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let account = stage.cluster.acting_as_account(Some(&pod)).await?;
    let metadata = json!({
        "name": "confined", "labels": {"runner-pod": runner.name},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": runner.name, "uid": uid}],
    });
    let plain = json!({
        "metadata": metadata,
        "spec": {"automountServiceAccountToken": false,
                 "containers": [{"name": "job", "image": "alpine"}]},
    });
    allowed::<Pod>(&account, &plain).await?;
    let beyond: Vec<Beyond> = serde_saphyr::from_str(include_str!("beyond.yaml"))?;
    for Beyond { what, words, pod } in &beyond {
        let mut asked = plain.clone();
        merge(&mut asked, pod);
        denied::<Pod>(&account, &asked, what, words).await?;
    }

    let secret = json!({"metadata": metadata, "type": "Opaque"});
    allowed::<Secret>(&account, &secret).await?;
    let mut token = secret.clone();
    token["type"] = json!("kubernetes.io/service-account-token");
    token["metadata"]["annotations"] =
        json!({"kubernetes.io/service-account.name": stage.cluster.service_account()});
    denied::<Secret>(&account, &token, "a token", "must be of type").await?;
    let mut loose = secret;
    loose["metadata"]["labels"] = json!({});
    denied::<Secret>(
        &account,
        &loose,
        "a Secret without label",
        "lacks the label",
    )
    .await?;

    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": plain["spec"]["containers"]}});
    let job = json!({"metadata": metadata, "spec": {"template": template}});
    denied::<Job>(&account, &job, "a Job", "and nothing else").await?;

    // The same by a token of the account that was made for no pod.
    let stray = stage.cluster.acting_as_account(None).await?;
    denied::<Pod>(
        &stray,
        &plain,
        "a pod for another's runner",
        "must be owned by",
    )
    .await
}

/// What goes beyond, from `beyond.yaml`.
#[derive(Debug, Deserialize)]
struct Beyond {
    what: String,
    words: String,
    pod: Value,
}

/// RFC 7396.
pub(super) fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        if !patch.is_null() {
            into.clone_from(patch);
        }
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().map(|object| object.remove(key));
        } else {
            merge(&mut into[key], value);
        }
    }
}

async fn create<K: Object>(account: &Client, object: &Value) -> anyhow::Result<kube::Result<K>> {
    let object: K = serde_json::from_value(object.clone())?;
    let api: Api<K> = Api::default_namespaced(account.clone());
    Ok(api.create(&rehearsal(), &object).await)
}

async fn allowed<K: Object>(account: &Client, object: &Value) -> anyhow::Result<()> {
    create::<K>(account, object)
        .await?
        .context("what every job needs is denied")?;
    Ok(())
}

async fn denied<K: Object>(
    account: &Client,
    object: &Value,
    what: &str,
    words: &str,
) -> anyhow::Result<()> {
    match create::<K>(account, object).await? {
        Ok(_) => bail!("{what} was allowed"),
        Err(kube::Error::Api(status)) => {
            let message = &status.message;
            let by_policy = message.contains("ValidatingAdmissionPolicy 'arc-hook-");
            ensure!(
                by_policy && message.contains(words),
                "{what}: another denial than `{words}`: {message}"
            );
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("{what}: no answer")),
    }
}
