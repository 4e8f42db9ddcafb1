//! A pod's next change, where the Role lets us be told.

use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};

use super::{Cluster, ClusterError, failure};

/// How long the server keeps one request open, in seconds.
const OPEN: u32 = 60;

/// What a watch brought.
#[derive(Debug)]
pub enum Change {
    /// The pod as it is now.
    Changed(Box<Pod>),
    /// It was deleted.
    Gone,
    /// Nothing in this time; ask.
    None,
}

impl Cluster {
    /// Waits for the first change of a pod after `version`, its `resourceVersion`.
    ///
    /// Each change is a request of its own: nothing is lost between two, since each names where
    /// the last one stood, and a pod changes a handful of times until it is ready.
    pub async fn changed(&self, name: &str, version: &str) -> Result<Change, ClusterError> {
        let api = self.api::<Pod>();
        let parameters = WatchParams::default()
            .fields(&format!("metadata.name={name}"))
            .timeout(OPEN)
            .disable_bookmarks();
        let start = tokio::time::Instant::now();
        let event = async {
            let stream = api.watch(&parameters, version).await?;
            std::pin::pin!(stream).try_next().await
        };
        match event.await {
            Ok(Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => {
                Ok(Change::Changed(Box::new(pod)))
            }
            Ok(Some(WatchEvent::Deleted(_))) => Ok(Change::Gone),
            Ok(_) => Ok(Change::None),
            Err(error) => {
                let act = self.act("watch", "pods", name);
                Err(failure(act, Some(error), start.elapsed()))
            }
        }
    }
}
