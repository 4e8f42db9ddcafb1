//! Which API server is asked, and as whom.

use clap::Args;

use crate::hook::api::Api;

/// Options of verbs that ask the API server: `KUBECONFIG` or `~/.kube/config` on a laptop, the
/// service account in a pod.
#[derive(Debug, Clone, Default, Args)]
pub struct Access {
    /// The runners' namespace; otherwise the kubeconfig's, or the pod's own
    #[arg(
        long,
        short,
        value_name = "NAME",
        env = "ACTIONS_RUNNER_KUBERNETES_NAMESPACE"
    )]
    pub namespace: Option<String>,

    /// The runners' service account; asking in its place takes the right to `impersonate` it
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<String>,
}

impl Access {
    /// A connection that acts as the service account, if one is named.
    pub fn connect(&self) -> anyhow::Result<Api> {
        Api::connect_as(self.namespace.as_deref(), self.service_account.as_deref())
    }
}
