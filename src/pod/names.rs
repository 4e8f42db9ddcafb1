//! Names of the objects, equal to those of the official hooks wherever theirs are valid.

/// Key of the label by which ARC finds what it must delete with the runner.
///
/// actions/actions-runner-controller, `ephemeralrunner_controller.go`: pods and secrets labelled
/// `runner-pod=<runner>` go with it.
pub const RUNNER_POD_LABEL: &str = "runner-pod";

/// The container that steps run in, in job and action pods alike.
pub const JOB_CONTAINER: &str = "job";

/// Name of the job's pod.
#[must_use]
pub fn job_pod(pod_name: &str) -> String {
    format!("{}-workflow", cut(pod_name, 54))
}

/// Name of a container action's pod; `random` are 8 characters.
#[must_use]
pub fn step_pod(pod_name: &str, random: &str) -> String {
    format!("{}-step-{random}", cut(pod_name, 49))
}

/// Name of a secret; `random` are 8 characters.
#[must_use]
pub fn secret(pod_name: &str, random: &str) -> String {
    format!("{}-secret-{random}", cut(pod_name, 47))
}

/// Value of the label [`RUNNER_POD_LABEL`].
#[must_use]
pub fn label(pod_name: &str) -> String {
    pod_name.to_owned()
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}
