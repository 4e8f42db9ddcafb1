//! What the API server says of whoever asks it: rights, time, version.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    SelfSubjectRulesReview, SelfSubjectRulesReviewSpec, SubjectRulesReviewStatus,
};
use k8s_openapi::apimachinery::pkg::version::Info;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::Api;
use kube::api::PostParams;
use kube::client::Body;
use kube::core::Request;

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
