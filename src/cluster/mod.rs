//! The one place that talks to the API server.
//!
//! Every call is bounded in time, tried again where that helps (`retry`), and fails with an
//! error that names verb, object and remedy. Creating is idempotent: an answer that was lost on
//! its way makes the second attempt meet the first one's object, which is recognised by the nonce
//! in its annotations. Deleting something that is gone is success.

mod attempt;
mod change;
mod error;
mod evidence;
mod exec;
mod log;
mod retry;
mod review;
mod shell;
mod snapshot;
mod volume;
mod watch;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use attempt::Past;
#[cfg(test)]
pub(crate) use attempt::refused;
pub use error::{Act, ClusterError};
pub use exec::Exec;
pub use log::{CopyError, LogEnd, LogPosition, LogSource};
pub(crate) use retry::{jitter, pause_after};
pub use shell::{Said, Shell, Size, send};
pub use snapshot::{GROUP, SnapshotStatus, VolumeSnapshot, VolumeSnapshotClass};
pub use watch::Change;

use crate::explain::Attempt;

/// Present on everything the hook creates, with a value no other call has. A name that is taken by
/// an object with this very annotation is taken by ourselves.
pub use crate::pod::NONCE_ANNOTATION as NONCE;

/// A TCP and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call is tried again unless its caller says otherwise.
const PATIENCE: Duration = Duration::from_mins(2);

/// A connection to the API server, and the namespace of everything.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    patience: Duration,
    tell: fn(&str),
    past: Arc<Mutex<Past>>,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// What came of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is on its way.
    Begun,
    /// There was nothing to delete, or another object has taken the name since.
    Absent,
}

/// The resources that the hook handles, in the words of a Role.
pub trait Known:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
    /// The plural, as a Role names it.
    const RESOURCE: &'static str;
}

impl Known for Pod {
    const RESOURCE: &'static str = "pods";
}
impl Known for Secret {
    const RESOURCE: &'static str = "secrets";
}
impl Known for PersistentVolumeClaim {
    const RESOURCE: &'static str = "persistentvolumeclaims";
}
impl Known for Event {
    const RESOURCE: &'static str = "events";
}

impl Cluster {
    /// Finds the API server: `KUBECONFIG` or `~/.kube/config` on a laptop, the service account in
    /// a pod. `namespace` wins over what these say. Sends nothing yet.
    pub async fn connect(namespace: Option<&str>) -> Result<Self, ClusterError> {
        Self::connect_as(namespace, None).await
    }

    /// As [`Self::connect`], acting as a service account of the namespace, which takes the right
    /// to `impersonate` it.
    pub async fn connect_as(
        namespace: Option<&str>,
        account: Option<&str>,
    ) -> Result<Self, ClusterError> {
        let mut config = Config::infer()
            .await
            .map_err(|error| ClusterError::Connect(error.to_string()))?;
        if let Some(account) = account {
            let namespace = namespace.unwrap_or(&config.default_namespace);
            // Kubernetes adds the groups of a service account by itself.
            let user = format!("system:serviceaccount:{namespace}:{account}")
                .parse()
                .map_err(|error| {
                    ClusterError::Connect(format!("no service account is called so: {error}"))
                })?;
            let name = "impersonate-user".parse();
            let name = name.map_err(|error| ClusterError::Connect(format!("{error}")))?;
            config.headers.push((name, user));
        }
        Self::from_config(config, namespace)
    }

    /// As [`Self::connect`], with a configuration that is known.
    pub fn from_config(mut config: Config, namespace: Option<&str>) -> Result<Self, ClusterError> {
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // `retry` knows what a lost answer to a creation means; kube's own layer does not.
        config.default_retry = false;
        let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
        let client =
            Client::try_from(config).map_err(|error| ClusterError::Connect(error.to_string()))?;
        Ok(Self {
            client,
            namespace,
            patience: PATIENCE,
            tell: |_| {},
            past: Arc::default(),
        })
    }

    /// The same connection with another limit for the time a call is tried again.
    #[must_use]
    pub fn patient(&self, patience: Duration) -> Self {
        Self {
            patience,
            ..self.clone()
        }
    }

    /// The same connection, which tries no call for longer than that.
    #[must_use]
    pub fn at_most(&self, limit: Duration) -> Self {
        self.patient(self.patience.min(limit))
    }

    /// The same connection, which says through `tell` what is still being tried.
    #[must_use]
    pub fn telling(&self, tell: fn(&str)) -> Self {
        Self {
            tell,
            ..self.clone()
        }
    }

    /// The namespace of everything.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn api<K: Known>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn act(&self, verb: &'static str, resource: &'static str, name: &str) -> Act {
        Act {
            attempt: Attempt {
                verb,
                resource,
                namespace: self.namespace.clone(),
            },
            name: name.to_owned(),
        }
    }

    /// Reads an object; `None` when it is not there.
    pub async fn get<K: Known>(&self, name: &str) -> Result<Option<K>, ClusterError> {
        let api = self.api::<K>();
        self.attempt(self.act("get", K::RESOURCE, name), || api.get_opt(name))
            .await
    }

    /// Lists the objects with a label.
    pub async fn labelled<K: Known>(
        &self,
        label: &str,
        value: &str,
    ) -> Result<Vec<K>, ClusterError> {
        let api = self.api::<K>();
        let parameters = ListParams::default().labels(&format!("{label}={value}"));
        let list = self
            .attempt(self.act("list", K::RESOURCE, value), || {
                api.list(&parameters)
            })
            .await?;
        Ok(list.items)
    }

    /// Creates an object, with `nonce` among its annotations. When the name is taken by one with
    /// the same nonce, an earlier attempt has succeeded and that object is returned.
    pub async fn create<K: Known>(
        &self,
        object: &impl Serialize,
        nonce: &str,
    ) -> Result<K, ClusterError> {
        let (act, created) = self
            .post::<K>(object, nonce, &PostParams::default())
            .await?;
        if let Some(created) = created {
            return Ok(created);
        }
        match self.get::<K>(&act.name).await? {
            Some(found) if has_nonce(&found, nonce) => Ok(found),
            _ => Err(ClusterError::Taken { act }),
        }
    }

    /// Has the API server judge an object as [`Self::create`] would send it, and make nothing.
    pub async fn dry_run<K: Known>(
        &self,
        object: &impl Serialize,
        nonce: &str,
    ) -> Result<(), ClusterError> {
        let parameters = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        // A name is looked up last of all, so an object whose name is taken has passed too.
        self.post::<K>(object, nonce, &parameters).await.map(drop)
    }

    /// Sends an object that is new; `None` when its name is taken.
    async fn post<K: Known>(
        &self,
        object: &impl Serialize,
        nonce: &str,
        parameters: &PostParams,
    ) -> Result<(Act, Option<K>), ClusterError> {
        let mut act = self.act("create", K::RESOURCE, "");
        let object = manifest(object, nonce).map_err(|error| ClusterError::Malformed {
            act: act.clone(),
            cause: error.to_string(),
        })?;
        if let Some(name) = object["metadata"]["name"].as_str() {
            name.clone_into(&mut act.name);
        }
        let body = object.to_string().into_bytes();
        let created = self
            .attempt(act.clone(), || async {
                let mut request = Request::new(K::url_path(&(), Some(&self.namespace)))
                    .create(parameters, body.clone())
                    .map_err(kube::Error::BuildRequest)?;
                // Without it the API server drops misspelt fields and says nothing.
                let strict = format!("{}fieldValidation=Strict", query_start(request.uri()));
                if let Ok(uri) = strict.parse() {
                    *request.uri_mut() = uri;
                }
                match self.client.request::<K>(request).await {
                    Ok(created) => Ok(Some(created)),
                    Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await?;
        Ok((act, created))
    }

    /// Deletes the object that has this uid (any, when `None`). `grace` in seconds; pods get that
    /// long between SIGTERM and SIGKILL, and with 0 the object vanishes before its processes do.
    pub async fn delete<K: Known>(
        &self,
        name: &str,
        uid: Option<&str>,
        grace: Option<u32>,
    ) -> Result<Deletion, ClusterError> {
        let api = self.api::<K>();
        let mut parameters = DeleteParams::background();
        parameters.grace_period_seconds = grace;
        parameters.preconditions = uid.map(|uid| Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let deleted = self
            .attempt(self.act("delete", K::RESOURCE, name), || async {
                match api.delete(name, &parameters).await {
                    Ok(_) => Ok(Deletion::Begun),
                    Err(kube::Error::Api(status))
                        if status.code == 404 || retry::precondition(&status) =>
                    {
                        Ok(Deletion::Absent)
                    }
                    Err(error) => Err(error),
                }
            })
            .await?;
        Ok(deleted)
    }

    /// Waits until the pod with this uid is gone; `false` when the time is up first.
    pub async fn gone(
        &self,
        name: &str,
        uid: Option<&str>,
        within: Duration,
    ) -> Result<bool, ClusterError> {
        let begin = Instant::now();
        loop {
            match self.get::<Pod>(name).await? {
                Some(pod) if uid.is_none() || pod.metadata.uid.as_deref() == uid => {}
                _ => return Ok(true),
            }
            let pause = pause_after(begin.elapsed());
            if begin.elapsed() + pause > within {
                return Ok(false);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// An object as it is sent: with `nonce` among its annotations.
pub fn manifest(object: &impl Serialize, nonce: &str) -> serde_json::Result<Value> {
    let mut object = serde_json::to_value(object)?;
    object["metadata"]["annotations"][NONCE] = Value::from(nonce);
    Ok(object)
}

/// `uri?` or `uri?a=b&`, ready for another parameter.
fn query_start(uri: &impl std::fmt::Display) -> String {
    let mut text = uri.to_string();
    match text.find('?') {
        None => text.push('?'),
        Some(at) if at + 1 == text.len() || text.ends_with('&') => {}
        Some(_) => text.push('&'),
    }
    text
}

/// Whether this object was made by the call with that nonce, and is not about to go.
pub fn has_nonce<K: Known>(found: &K, nonce: &str) -> bool {
    let meta = found.meta();
    let annotations = meta.annotations.as_ref();
    meta.deletion_timestamp.is_none()
        && annotations
            .and_then(|all| all.get(NONCE))
            .map(String::as_str)
            == Some(nonce)
}
