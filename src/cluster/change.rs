//! Changes of objects that others may change at the same time.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use serde_json::Value;

use super::{Cluster, ClusterError, Deletion, Known, retry};

impl Known for ConfigMap {
    const RESOURCE: &'static str = "configmaps";
}
impl Known for Lease {
    const RESOURCE: &'static str = "leases";
}
impl Known for Job {
    const RESOURCE: &'static str = "jobs";
}

/// The object is not there, or not as the caller knew it.
fn is_stale(status: &Status) -> bool {
    status.code == 404 || status.code == 409
}

impl Cluster {
    /// Lists every object of a kind, or those with a label of any value.
    pub async fn list<K: Known>(&self, label: Option<&str>) -> Result<Vec<K>, ClusterError> {
        let api = self.api::<K>();
        let parameters = ListParams {
            label_selector: label.map(str::to_owned),
            ..ListParams::default()
        };
        let act = self.act("list", K::RESOURCE, label.unwrap_or("the namespace"));
        let list = self.attempt(act, || api.list(&parameters)).await?;
        Ok(list.items)
    }

    /// Creates an object; `None` when its name is taken. An answer that was lost on its way makes
    /// the second attempt meet the first one's object, so the caller looks at what is there.
    pub async fn create_new<K: Known>(&self, object: &K) -> Result<Option<K>, ClusterError> {
        let api = self.api::<K>();
        let parameters = PostParams::default();
        let name = object.meta().name.clone().unwrap_or_default();
        self.attempt(self.act("create", K::RESOURCE, &name), || async {
            match api.create(&parameters, object).await {
                Ok(created) => Ok(Some(created)),
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Replaces the object if it still has the `resourceVersion` of `object`; `None` when it has
    /// not, or is gone. A lost answer looks like that too, so the caller reads again.
    pub async fn replace<K: Known>(&self, object: &K) -> Result<Option<K>, ClusterError> {
        let api = self.api::<K>();
        let parameters = PostParams::default();
        let name = object.meta().name.clone().unwrap_or_default();
        self.attempt(self.act("update", K::RESOURCE, &name), || async {
            match api.replace(&name, &parameters, object).await {
                Ok(replaced) => Ok(Some(replaced)),
                Err(kube::Error::Api(status)) if is_stale(&status) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Lays a JSON merge patch over the object that has this uid; `None` when it is gone, or
    /// another has taken its name.
    pub async fn patch<K: Known>(
        &self,
        name: &str,
        uid: &str,
        patch: Value,
    ) -> Result<Option<K>, ClusterError> {
        self.lay_over(name, uid, patch, PatchParams::default())
            .await
    }

    /// Has the API server judge what [`Self::patch`] would do, and change nothing.
    pub async fn would_patch<K: Known>(
        &self,
        name: &str,
        uid: &str,
        patch: Value,
    ) -> Result<Option<K>, ClusterError> {
        let parameters = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        self.lay_over(name, uid, patch, parameters).await
    }

    async fn lay_over<K: Known>(
        &self,
        name: &str,
        uid: &str,
        mut patch: Value,
        parameters: PatchParams,
    ) -> Result<Option<K>, ClusterError> {
        let api = self.api::<K>();
        // A patch that would change the uid is a conflict.
        patch["metadata"]["uid"] = Value::from(uid);
        let patch = Patch::Merge(patch);
        self.attempt(self.act("patch", K::RESOURCE, name), || async {
            match api.patch(name, &parameters, &patch).await {
                Ok(patched) => Ok(Some(patched)),
                Err(kube::Error::Api(status)) if is_stale(&status) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Changes what the containers of a pod get of their node, in place.
    pub async fn resize(&self, name: &str, patch: Value) -> Result<(), ClusterError> {
        let api = self.api::<Pod>();
        let patch = Patch::Strategic(patch);
        let parameters = PatchParams::default();
        self.attempt(self.act("patch", "pods/resize", name), || {
            api.patch_subresource("resize", name, &parameters, &patch)
        })
        .await
        .map(drop)
    }

    /// Deletes the object if it is still exactly the one that was read.
    pub async fn delete_as_read<K: Known>(&self, object: &K) -> Result<Deletion, ClusterError> {
        let api = self.api::<K>();
        let meta = object.meta();
        let name = meta.name.clone().unwrap_or_default();
        let mut parameters = DeleteParams::background();
        parameters.preconditions = Some(Preconditions {
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
        });
        self.attempt(self.act("delete", K::RESOURCE, &name), || async {
            match api.delete(&name, &parameters).await {
                Ok(_) => Ok(Deletion::Begun),
                Err(kube::Error::Api(status))
                    if status.code == 404 || retry::precondition(&status) =>
                {
                    Ok(Deletion::Absent)
                }
                Err(error) => Err(error),
            }
        })
        .await
    }
}
