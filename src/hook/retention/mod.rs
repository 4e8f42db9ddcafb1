//! The hook's part in keeping failed jobs: `prepare_job` settles whether a job may be kept, each failing
//! step is noted, and `cleanup_job` takes what is to be kept out of the runner's hands.

mod copy;
mod failed_step;
mod keep;
mod scrub;

use super::output;
use super::surroundings::Surroundings;
use crate::pod::Plan;
use crate::retain::RetainRecord;

pub use failed_step::Step;
pub use keep::{KeptJob, Retention};

/// Settles in `prepare_job` whether and how the job may be kept.
#[must_use]
pub fn settle(around: &Surroundings<'_>, plan: &Plan) -> Option<RetainRecord> {
    let mut policy = around.template.settings().retain.clone();
    // Outside of a pod nothing would take the job away, and nothing needs to be saved.
    let runner = around.runner.as_ref().filter(|_| policy.is_on())?;
    for told in policy.ask(&plan.environment) {
        output::warning(&told);
    }
    let volumes = plan.pod["spec"]["volumes"].as_array();
    let work = volumes
        .into_iter()
        .flatten()
        .find(|volume| volume["name"] == crate::pod::WORK)
        .and_then(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    policy.is_on().then(|| RetainRecord {
        policy,
        scale_set: runner.scale_set.clone().unwrap_or_default(),
        node: runner.node.clone(),
        work_claim: work.map(str::to_owned),
        image: around
            .config
            .runner_image
            .clone()
            .or_else(|| runner.image.clone()),
    })
}
