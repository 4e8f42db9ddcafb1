//! The one place that talks to the API server.
//!
//! Every call is bounded in time, tried again where that helps (`retry`), and fails with an
//! error that names verb, object and remedy. Creating is idempotent: an answer that was lost on
//! its way makes the second attempt meet the first one's object, which is recognised by the nonce
//! in its annotations. Deleting something that is gone is success.

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

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

pub use error::{Act, ClusterError};
pub use exec::Exec;
pub use log::{CopyError, LogEnd, LogPosition, LogSource};
use retry::{Backoff, Verdict};
pub(crate) use retry::{jitter, pause_after};
pub use shell::{Said, Shell, Size, send};
pub use snapshot::{GROUP, SnapshotStatus, VolumeSnapshot, VolumeSnapshotClass};
pub use watch::Change;

use crate::explain::{Attempt, refusal};

/// Present on everything the hook creates, with a value no other call has. A name that is taken by
/// an object with this very annotation is taken by ourselves.
pub use crate::pod::NONCE_ANNOTATION as NONCE;

/// A single request. The API server answers ordinary ones in milliseconds; admission webhooks may
/// take up to 30 s by their own limit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// A TCP and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call is tried again unless its caller says otherwise.
const PATIENCE: Duration = Duration::from_mins(2);
/// The same for what comes within moments or never.
const SOON: Duration = Duration::from_secs(5);
/// An API server that was away may need so long until it knows who may do what.
const STARTING: Duration = Duration::from_secs(15);
/// How often someone is told that a call is still being tried.
const TELL: Duration = Duration::from_secs(10);

/// A connection to the API server, and the namespace of everything.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    patience: Duration,
    tell: fn(&str),
    past: Arc<Mutex<Past>>,
}

/// What earlier calls have told of the API server.
#[derive(Debug, Default)]
struct Past {
    /// Verbs and resources that were allowed: they are the account's right, whatever is said later.
    allowed: BTreeSet<(&'static str, &'static str)>,
    /// When it did not answer, or not as it should.
    away: Option<Instant>,
}

impl Past {
    /// Whether a refusal would contradict what is known: because the same was allowed before, or because
    /// the API server was away a moment ago.
    fn doubts(&self, attempt: &Attempt) -> bool {
        self.allowed.contains(&(attempt.verb, attempt.resource))
            || self.away.is_some_and(|away| away.elapsed() < STARTING)
    }
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

    /// Has refusals of the next seconds doubted, for the account was allowed the same before: an API
    /// server that has just started refuses everything until it has read its Roles.
    pub fn may_have_been_away(&self) {
        self.past().away = Some(Instant::now());
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls, and calls again while that can help and patience lasts.
    async fn attempt<T, F>(&self, act: Act, mut call: impl FnMut() -> F) -> Result<T, ClusterError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let start = Instant::now();
        let end = start + self.patience;
        let mut told = start;
        let mut backoff = Backoff::new();
        loop {
            let limit = REQUEST_TIMEOUT.min(
                end.saturating_duration_since(Instant::now())
                    .max(CONNECT_TIMEOUT),
            );
            let answer = tokio::time::timeout(limit, call()).await;
            let (verdict, error) = match answer {
                Ok(Ok(value)) => {
                    let right = (act.attempt.verb, act.attempt.resource);
                    self.past().allowed.insert(right);
                    return Ok(value);
                }
                Ok(Err(error)) => {
                    let doubtful = self.past().doubts(&act.attempt);
                    (retry::of_error(&error, doubtful), Some(error))
                }
                Err(_) => (Verdict::Again(None), None),
            };
            if matches!(verdict, Verdict::Again(_)) {
                self.past().away = Some(Instant::now());
            }
            let (again, asked) = match verdict {
                Verdict::Again(asked) => (true, asked),
                Verdict::Soon => (start.elapsed() < SOON, None),
                Verdict::Final => (false, None),
            };
            if again {
                let pause = backoff.pause(asked);
                if Instant::now() + pause < end {
                    if told.elapsed() >= TELL {
                        told = Instant::now();
                        let error = error.as_ref().map(|error| retry::chain(error));
                        let error = error.as_deref().unwrap_or("no answer");
                        let left = (end - Instant::now()).as_secs();
                        (self.tell)(&format!(
                            "Cannot {act} yet: {error}; trying for another {left} s"
                        ));
                    }
                    tracing::debug!(%act, ?pause, error = ?error, "trying again");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            return Err(failure(act, error, start.elapsed()));
        }
    }
}

fn failure(act: Act, error: Option<kube::Error>, waited: Duration) -> ClusterError {
    match error {
        None => ClusterError::Unreachable {
            act,
            waited,
            cause: "requests are accepted and not answered".to_owned(),
        },
        Some(kube::Error::Api(status)) => ClusterError::Refused {
            explanation: Box::new(refusal(&act.attempt, &status)),
            code: status.code,
            act,
        },
        Some(error @ (kube::Error::Service(_) | kube::Error::HyperError(_))) => {
            ClusterError::Unreachable {
                act,
                waited,
                cause: retry::chain(&error),
            }
        }
        Some(error) => ClusterError::Malformed {
            act,
            cause: retry::chain(&error),
        },
    }
}

/// What an answer of this code and these words to a `get` of a pod is to a caller.
#[cfg(test)]
pub(crate) fn refused(code: u16, message: &str) -> ClusterError {
    let attempt = Attempt {
        verb: "get",
        resource: "pods",
        namespace: "ci".to_owned(),
    };
    let name = "p".to_owned();
    let status = kube::core::Status::failure(message, "").with_code(code);
    let error = kube::Error::Api(status.boxed());
    failure(Act { attempt, name }, Some(error), Duration::ZERO)
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
