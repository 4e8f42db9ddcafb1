//! An object's next change, where the Role lets us be told.

use futures_util::TryStreamExt as _;
use kube::api::{WatchEvent, WatchParams};

use super::attempt::failure;
use super::{Cluster, ClusterError, Known};

/// How long the server keeps one request open, in seconds.
const OPEN: u32 = 60;

/// What a watch brought.
#[derive(Debug)]
pub enum Change<K> {
    /// The object as it is now.
    Changed(Box<K>),
    /// It was deleted.
    Gone,
    /// Nothing in this time; ask.
    None,
}

impl Cluster {
    /// Waits for the first change of an object after `version`, its `resourceVersion`.
    ///
    /// Each change is a request of its own: nothing is lost between two, since each names where
    /// the last one stood, and what is awaited here changes a handful of times.
    pub async fn changed<K: Known>(
        &self,
        name: &str,
        version: &str,
    ) -> Result<Change<K>, ClusterError> {
        let api = self.api::<K>();
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
            Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                Ok(Change::Changed(Box::new(object)))
            }
            Ok(Some(WatchEvent::Deleted(_))) => Ok(Change::Gone),
            Ok(_) => Ok(Change::None),
            Err(error) => {
                let act = self.act("watch", K::RESOURCE, name);
                Err(failure(act, Some(error), start.elapsed()))
            }
        }
    }
}
