//! The same job under ARC's own Role and under the one of the shipped values.

use std::sync::Arc;

use anyhow::ensure;
use serde_json::json;

use super::{Acting, Stage};
use crate::harness::audit::Request;
use crate::harness::cluster::Role;
use crate::harness::runner::Options;

/// With the right to watch `prepare_job` is told, without it asks, and says nothing of it.
pub fn both(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let job = json!({
            "name": "Under a Role",
            "container": {"image": "alpine:latest"},
            "services": {"cache": {
                "image": "redis:latest", "env": {"A": "b"},
                "options": "--health-cmd \"redis-cli ping\" --health-interval 1s",
            }},
            "steps": [
                {"name": "a step", "run": "echo hello", "driver": {"expect": ["hello"]}},
                {"name": "an action", "uses": "docker://alpine:latest",
                 "with": {"entrypoint": "/bin/true"}, "driver": {"forbid": ["##[warning]"]}},
            ],
            "driver": {
                "prepare-job": {"forbid": ["##[warning]", "##[error]", "lacks", "orbidden"]},
                "cleanup-job": {"forbid": ["##[warning]", "##[error]"]},
            },
        });
        for role in [Role::Stock, Role::Shipped] {
            let options = Options {
                role,
                ..Options::default()
            };
            let outcome = stage.run_job(&job.to_string(), &options).await?;
            let requests = outcome.requests.unwrap_or_default();
            let [asked, told, refused, of_node]: [usize; 4] = [
                count(&requests, |request| {
                    request.verb == "get" && request.uri.contains("-workflow")
                }),
                count(&requests, |request| {
                    request.verb == "watch" && request.status.code == 200
                }),
                count(&requests, |request| {
                    request.status.code == 403 && !request.uri.contains("/nodes/")
                }),
                count(&requests, |request| request.uri.contains("/nodes/")),
            ];
            // One look at the node, which neither may see, and no word of it.
            ensure!(of_node == 1, "the node was asked for {of_node} times");
            let verdict = match role {
                // A refusal each of job and action tells that nothing can be watched, and one more
                // that there are no events of a slow one.
                Role::Stock => told == 0 && (1..=4).contains(&refused) && asked > 0,
                _ => told > 0 && refused == 0,
            };
            ensure!(
                verdict,
                "under {role:?} the job pod was asked for {asked} times, {told} watches were granted \
                 and {refused} requests refused"
            );
        }
        Ok(())
    })
}

fn count(requests: &[Request], is: impl Fn(&Request) -> bool) -> usize {
    requests.iter().filter(|request| is(request)).count()
}
