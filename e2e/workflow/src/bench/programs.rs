//! Node and the like, for JavaScript actions: copied beside the starting job, and mounted out of the
//! runner's image.

use anyhow::ensure;
use serde_json::json;

use super::Bench;
use super::table::Row;
use crate::harness::cluster::Role;
use crate::harness::extra::Extra;
use crate::harness::runner::{Options, Runner};

/// Its runtime can mount an image, the first one's cannot.
const NODE: &str = "node-2";

impl Bench<'_> {
    /// From the begin of a job to the end of its first JavaScript action, which does nothing.
    pub(super) async fn programs(&mut self) -> anyhow::Result<()> {
        let second = Extra::node(&self.cluster.paths).await?;
        let measured = self.both_ways().await;
        second.stop().await?;
        measured
    }

    async fn both_ways(&mut self) -> anyhow::Result<()> {
        for (role, volume) in [
            (Role::Shipped, "a shared volume"),
            (Role::NoVolume, "a volume of its own"),
        ] {
            // The images come to the node.
            self.first_action(role, "image").await?;
            let (mut copied, mut mounted) = (Vec::new(), Vec::new());
            for _ in 0..self.runs {
                copied.push(self.first_action(role, "copy").await?);
                mounted.push(self.first_action(role, "image").await?);
            }
            let what = format!("to the first action's end, node mounted over copied, {volume}");
            self.tell(Row::over(what, "ms", copied, mounted));
        }
        Ok(())
    }

    async fn first_action(&self, role: Role, externals: &str) -> anyhow::Result<f64> {
        let job = json!({
            "name": "One JavaScript action",
            "container": {"image": "gcc-conan:12"},
            "actions": {"octo/js@v1": {
                "action.yml": "runs: {using: node20, main: main.js}",
                "main.js": "",
            }},
            "steps": [{"uses": "octo/js@v1"}],
        });
        let options = Options {
            role,
            node: Some(NODE.to_owned()),
            variables: vec![("ARC_HOOK_EXTERNALS".to_owned(), externals.to_owned())],
            // Nothing that only one of the nodes has, and on the second also where no volume is shared.
            ..Options::of_template(format!(
                "metadata: {{annotations: {{arc-hook/run-as: runner}}}}\n\
                 spec: {{nodeSelector: {{kubernetes.io/hostname: {NODE}}}}}"
            ))
        };
        let runner = Runner::start(&self.cluster, &options).await?;
        let outcome = match runner.submit(&job.to_string()) {
            Ok(()) => runner.finish(&mut |_| ()).await,
            Err(error) => Err(error),
        };
        runner.discard().await?;
        let report = outcome?.report;
        ensure!(report.failures.is_empty(), "{:?}", report.failures);
        let calls = report.calls.iter();
        Ok(calls
            .filter(|call| call.command == "prepare_job" || call.command == "run_script_step")
            .map(|call| call.wall_ms)
            .sum())
    }
}
