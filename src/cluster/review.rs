//! What the API server says of whoever asks it, and of what lies around the runners: rights, time,
//! version, and objects that only `arc-hook doctor` looks at.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectRulesReviewStatus,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, PersistentVolume};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::version::Info;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::Api;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::core::Request;
use serde::de::DeserializeOwned;

use super::{Cluster, ClusterError};

impl Cluster {
    /// Every rule that applies to us in the namespace, as far as the server can tell: authorizers
    /// other than RBAC may keep theirs to themselves (`incomplete`).
    pub async fn rules(&self) -> Result<SubjectRulesReviewStatus, ClusterError> {
        let review = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec {
                namespace: Some(self.namespace.clone()),
            },
            ..Default::default()
        };
        let api: Api<SelfSubjectRulesReview> = Api::all(self.client.clone());
        let act = self.act("create", "selfsubjectrulesreviews", &self.namespace);
        let parameters = PostParams::default();
        let answer = self
            .attempt(act, || api.create(&parameters, &review))
            .await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Whether we may do this in the namespace. `resource` is as a Role names it, `pods/log`.
    pub async fn may(&self, group: &str, resource: &str, verb: &str) -> Result<bool, ClusterError> {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (resource, None),
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(self.namespace.clone()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource,
                    verb: Some(verb.to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let act = self.act("create", "selfsubjectaccessreviews", resource);
        let parameters = PostParams::default();
        let answer = self
            .attempt(act, || api.create(&parameters, &review))
            .await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// The server's version.
    pub async fn version(&self) -> Result<Info, ClusterError> {
        let act = self.act("get", "version", "");
        self.attempt(act, || self.client.apiserver_version()).await
    }

    /// The namespace of everything; `None` when it does not exist.
    pub async fn namespace_object(&self) -> Result<Option<Namespace>, ClusterError> {
        self.wide("namespaces", &self.namespace).await
    }

    /// A node.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, ClusterError> {
        self.wide("nodes", name).await
    }

    /// A storage class.
    pub async fn storage_class(&self, name: &str) -> Result<Option<StorageClass>, ClusterError> {
        self.wide("storageclasses", name).await
    }

    /// A volume.
    pub async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError> {
        self.wide("persistentvolumes", name).await
    }

    /// Names of the admission policies that are there and have a binding that denies.
    pub async fn denying_policies(&self) -> Result<BTreeSet<String>, ClusterError> {
        let (policies, bindings) = tokio::try_join!(
            self.all::<ValidatingAdmissionPolicy>("validatingadmissionpolicies"),
            self.all::<ValidatingAdmissionPolicyBinding>("validatingadmissionpolicybindings"),
        )?;
        let bound: BTreeSet<String> = bindings
            .into_iter()
            .map(|binding| binding.spec)
            .filter(|spec| spec.validation_actions.iter().any(|one| one == "Deny"))
            .map(|spec| spec.policy_name)
            .collect();
        let there = policies.into_iter().filter_map(|one| one.metadata.name);
        Ok(there.filter(|name| bound.contains(name)).collect())
    }

    /// A `ConfigMap` of the namespace.
    pub async fn config_map(&self, name: &str) -> Result<Option<ConfigMap>, ClusterError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        self.attempt(self.act("get", "configmaps", name), || api.get_opt(name))
            .await
    }

    /// Reads an object that lies in no namespace.
    async fn wide<K>(&self, resource: &'static str, name: &str) -> Result<Option<K>, ClusterError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        self.attempt(self.act("get", resource, name), || api.get_opt(name))
            .await
    }

    /// Lists what lies in no namespace.
    async fn all<K>(&self, resource: &'static str) -> Result<Vec<K>, ClusterError>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let parameters = ListParams::default();
        let list = self
            .attempt(self.act("list", resource, "the cluster"), || {
                api.list(&parameters)
            })
            .await?;
        Ok(list.items)
    }

    /// What time it is for the server, in whole seconds; `None` when it does not say (a proxy may
    /// answer in its place).
    pub async fn clock(&self) -> Result<Option<Timestamp>, ClusterError> {
        let act = self.act("get", "version", "");
        let answer = self
            .attempt(act, || async {
                let request = Request::new("")
                    .get("version", &kube::api::GetParams::default())
                    .map_err(kube::Error::BuildRequest)?;
                self.client.send(request.map(Body::from)).await
            })
            .await?;
        let date = answer.headers().get("date");
        let date = date.and_then(|date| date.to_str().ok());
        Ok(date
            .and_then(|date| rfc2822::parse(date).ok())
            .map(|date| date.timestamp()))
    }
}
