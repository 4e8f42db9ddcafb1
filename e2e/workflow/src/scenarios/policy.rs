//! What the shipped admission policy keeps the runners' account from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hyper::{Method, Request};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Acting, Stage};
use crate::harness::cluster::Cluster;
use crate::harness::runner::{Options, Runner};

/// Here the account has every right that a Role can give, so that the policy alone says no.
const NAMESPACE: &str = "arc-confined";
/// The Role, and its binding.
const EVERYTHING: &str = "everything";
/// Ends of paths by which one speaks with a pod.
const CONNECTIONS: [&str; 4] = ["/exec", "/attach", "/portforward", "/proxy"];
/// How long the API server may take to compile a policy that has changed.
const IN_FORCE: Duration = Duration::from_secs(20);

/// The account of a runner pod can do what a job needs, whatever its Role allows, and nothing that reaches
/// beyond it.
pub fn confined_account(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let template = "conan-zfs.yaml";
        let cluster = stage.cluster.beside(NAMESPACE, json!({}), template).await?;
        grant_everything(&cluster).await?;
        let runner = Runner::start(&cluster, &Options::default()).await?;
        let tried = async {
            let other = Runner::start(&cluster, &Options::default()).await?;
            let tried = try_all(&cluster, &runner, &other).await;
            other.discard().await?;
            tried
        };
        let tried = tried.await;
        runner.discard().await?;
        tried
    })
}

async fn try_all(cluster: &Cluster, runner: &Runner, other: &Runner) -> anyhow::Result<()> {
    let confined = Confined::new(cluster, runner, other).await?;
    confined.try_all().await
}

async fn grant_everything(cluster: &Cluster) -> anyhow::Result<()> {
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": EVERYTHING},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
    }))?;
    cluster.apply(&role).await?;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": EVERYTHING},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": EVERYTHING},
        "subjects": [{"kind": "ServiceAccount", "name": cluster.service_account()}],
    }))?;
    cluster.apply(&binding).await
}

/// What `requests.yaml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Requests {
    scene: Vec<Value>,
    allowed: Vec<Asked>,
    denied: Vec<Asked>,
}

/// One request, and what comes of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    what: String,
    request: String,
    #[serde(default)]
    body: Value,
    /// Words of the rule that denies it.
    #[serde(default)]
    words: String,
    /// Words of a refusal that only what was admitted meets.
    answer: Option<String>,
}

/// A pod that goes beyond, from `beyond.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beyond {
    what: String,
    words: String,
    pod: Value,
}

/// Two runners, whose jobs' pods are there, too.
struct Confined<'a> {
    cluster: &'a Cluster,
    runner: Pod,
    account: Client,
    /// Placeholders of the tables.
    words: Vec<(&'static str, String)>,
}

impl<'a> Confined<'a> {
    async fn new(cluster: &'a Cluster, runner: &Runner, other: &Runner) -> anyhow::Result<Self> {
        let (own, foreign) = (runner.pod().await?, other.pod().await?);
        let job = job_pod(cluster, runner, &own).await?;
        let foreign_job = job_pod(cluster, other, &foreign).await?;
        let account = cluster.acting_as_account(Some(&own)).await?;
        let uid = |pod: &Pod| pod.uid().unwrap_or_default();
        Ok(Self {
            cluster,
            account,
            // The longer one first.
            words: vec![
                ("$OTHER_JOB_UID", uid(&foreign_job)),
                ("$OTHER_UID", uid(&foreign)),
                ("$OTHER", other.name.clone()),
                ("$JOB_UID", uid(&job)),
                ("$UID", uid(&own)),
                ("$RUNNER", runner.name.clone()),
            ],
            runner: own,
        })
    }

    async fn try_all(&self) -> anyhow::Result<()> {
        let plain = pod(&self.runner.name_any(), &self.runner, "confined");
        let creation = |what: &str, pod: Value, words: &str| Asked {
            what: what.to_owned(),
            request: "POST api/v1 pods".to_owned(),
            body: pod,
            words: words.to_owned(),
            answer: None,
        };
        self.await_policy().await?;
        self.allowed(&creation("a pod", plain.clone(), "")).await?;
        let beyond: Vec<Beyond> = self.table(include_str!("beyond.yaml"))?;
        for Beyond { what, words, pod } in &beyond {
            let mut asked = plain.clone();
            merge(&mut asked, pod);
            self.denied(&self.account, &creation(what, asked, words))
                .await?;
        }
        // The same by a token of the account that was made for no pod.
        let stray = self.cluster.acting_as_account(None).await?;
        let of_another = creation("a pod of another's runner", plain, "must be owned by");
        self.denied(&stray, &of_another).await?;

        let requests: Requests = self.table(include_str!("requests.yaml"))?;
        for object in &requests.scene {
            self.make(object).await?;
        }
        let tried = self.try_requests(&requests).await;
        for object in &requests.scene {
            self.remove(object).await?;
        }
        tried
    }

    async fn try_requests(&self, requests: &Requests) -> anyhow::Result<()> {
        for asked in &requests.allowed {
            self.allowed(asked).await?;
        }
        for asked in &requests.denied {
            self.denied(&self.account, asked).await?;
        }
        Ok(())
    }

    fn table<T: serde::de::DeserializeOwned>(&self, text: &str) -> anyhow::Result<T> {
        let mut text = text.to_owned();
        for (word, meaning) in &self.words {
            text = text.replace(word, meaning);
        }
        Ok(serde_saphyr::from_str(&text)?)
    }

    /// An earlier version of the policy may still be in force, which knows of no config map.
    async fn await_policy(&self) -> anyhow::Result<()> {
        let asked = Asked {
            what: "a ConfigMap".to_owned(),
            request: "POST api/v1 configmaps".to_owned(),
            body: json!({"metadata": {"name": "confined"}}),
            words: "no other ConfigMap".to_owned(),
            answer: None,
        };
        let start = Instant::now();
        while let Err(error) = self.denied(&self.account, &asked).await {
            ensure!(start.elapsed() < IN_FORCE, "{error:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn allowed(&self, asked: &Asked) -> anyhow::Result<()> {
        let Asked { what, answer, .. } = asked;
        match (self.ask(&self.account, asked).await, answer) {
            (Ok(_), None) => Ok(()),
            (Err(kube::Error::Api(status)), Some(words)) if status.message.contains(words) => {
                Ok(())
            }
            (answered, _) => bail!("{what}, which a job needs: {answered:?}"),
        }
    }

    async fn denied(&self, account: &Client, asked: &Asked) -> anyhow::Result<()> {
        let Asked { what, words, .. } = asked;
        match self.ask(account, asked).await {
            Ok(_) => bail!("{what} was allowed"),
            Err(kube::Error::Api(status)) => {
                let message = &status.message;
                let by_policy = message.contains("ValidatingAdmissionPolicy 'arc-hook-");
                ensure!(
                    by_policy && message.contains(words.as_str()),
                    "{what}: another denial than `{words}`: {message}"
                );
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("{what}: no answer")),
        }
    }

    /// Asks for what is not done: it is a rehearsal, or its pod runs nowhere.
    async fn ask(&self, account: &Client, asked: &Asked) -> kube::Result<String> {
        let mut words = asked.request.split(' ');
        let (method, api, path) = (words.next(), words.next(), words.next());
        let path = path.unwrap_or_default();
        // A connection cannot be rehearsed; the pods that are there run nowhere.
        let connects = CONNECTIONS.iter().any(|end| path.ends_with(end));
        let how = if connects {
            "command=true&stdout=true"
        } else {
            "dryRun=All"
        };
        let uri = format!(
            "/{}/namespaces/{}/{path}?{how}",
            api.unwrap_or_default(),
            self.cluster.namespace(),
        );
        let method = method.and_then(|method| method.parse().ok());
        let method: Method = method.unwrap_or_default();
        send(account, method, &uri, "", &asked.body).await
    }

    async fn make(&self, object: &Value) -> anyhow::Result<()> {
        let path = self.path(object);
        let uri = format!("{path}?fieldManager=arc-hook-e2e&force=true");
        let made = send(&self.cluster.client, Method::PATCH, &uri, "apply", object).await;
        made.with_context(|| format!("failed to make {path}"))?;
        Ok(())
    }

    async fn remove(&self, object: &Value) -> anyhow::Result<()> {
        let path = self.path(object);
        let uri = format!("{path}?gracePeriodSeconds=0");
        match send(&self.cluster.client, Method::DELETE, &uri, "", &Value::Null).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            gone => gone
                .map(drop)
                .with_context(|| format!("failed to delete {path}")),
        }
    }

    fn path(&self, object: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!(
            "/api/v1/namespaces/{}/{}s/{}",
            self.cluster.namespace(),
            text(&object["kind"]).to_lowercase(),
            text(&object["metadata"]["name"])
        )
    }
}

/// Sends a request; a patch is a strategic one unless `patch` says otherwise.
async fn send(
    client: &Client,
    method: Method,
    uri: &str,
    patch: &str,
    body: &Value,
) -> kube::Result<String> {
    let kind = match (&method, patch) {
        (&Method::PATCH, "apply") => "application/apply-patch+yaml",
        (&Method::PATCH, _) => "application/strategic-merge-patch+json",
        _ => "application/json",
    };
    let bytes = match body {
        Value::Null => Vec::new(),
        body => serde_json::to_vec(body).map_err(kube::Error::SerdeError)?,
    };
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("Content-Type", kind);
    let request = request.body(bytes).map_err(kube::Error::HttpError)?;
    client.request_text(request).await
}

/// The pod that the hook of a runner would make, which no scheduler places.
async fn job_pod(cluster: &Cluster, runner: &Runner, owner: &Pod) -> anyhow::Result<Pod> {
    let mut job = pod(&runner.name, owner, &runner.job_pod());
    job["spec"]["schedulerName"] = json!("nobody");
    job["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    let job: Pod = serde_json::from_value(job)?;
    cluster.apply(&job).await?;
    Ok(cluster.api::<Pod>().get(&runner.job_pod()).await?)
}

/// A pod that a runner may create.
fn pod(runner: &str, owner: &Pod, name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "labels": {"runner-pod": runner},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": runner, "uid": owner.uid()},
            ],
        },
        "spec": {"automountServiceAccountToken": false,
                 "containers": [{"name": "job", "image": "alpine"}]},
    })
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
