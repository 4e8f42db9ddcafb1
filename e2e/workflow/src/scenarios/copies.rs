//! A job pod that shares no volume with its runner.

use std::sync::Arc;

use super::{Acting, Stage};
use crate::harness::runner::Options;

/// Files go both ways, and steps end as they end.
pub fn nothing_shared(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let options = Options {
            variables: vec![("ARC_HOOK_WORK".to_owned(), "copy".to_owned())],
            ..Options::default()
        };
        stage.run_job(&stage.read("copied.yaml")?, &options).await?;
        Ok(())
    })
}
