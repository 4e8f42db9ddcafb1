//! The pod of a container action.

use k8s_openapi::api::core::v1::{Container, HostAlias, PodSpec};

use super::arguments;
use super::error::SpecError;
use super::manifest;
use super::merge::Target;
use super::names::{self, JOB_CONTAINER};
use super::plan::{Inputs, JobFacts, Plan, User};
use super::secrets::Secrets;
use super::volumes::Sources;
use crate::protocol;

/// What to call the container in messages.
const TOLD: &str = "the container action";

/// The pod of a container action.
///
/// With an entry point it runs under the supervisor, so that output and exit code cross the work
/// volume as a job's do; without one, the image's own entry point runs as it is, since nobody can
/// know it from outside. The container is called `job` here too, and `$job` of the template counts
/// for both, as in the official hooks.
pub fn container_step(
    inputs: &Inputs<'_>,
    request: &protocol::Container,
    job: Option<&JobFacts>,
) -> Result<Plan, SpecError> {
    let image = image_of(request)?;
    let supervised = request
        .entry_point
        .as_deref()
        .is_some_and(|entry_point| !entry_point.trim().is_empty());
    let sources = Sources::new(inputs)?;
    let mut warnings = Vec::new();
    let mut secrets = Secrets::new(
        &inputs.config.pod_name,
        inputs.nonce,
        manifest::metadata(inputs),
    );
    let pull_secret = secrets.registry(request.registry.as_ref());
    let resolved = User::resolve(inputs, None, &mut warnings);
    let user = job.map_or(resolved, |job| match resolved {
        User::Runner(_) => User::Runner(job.user),
        _ => User::Fixed {
            uid: job.user.uid,
            gid: Some(job.user.gid),
        },
    });

    let directories = job.map_or(inputs.nonce, |job| &job.nonce);
    let action = sources.action(directories);
    let container = if supervised {
        Container {
            volume_mounts: Some([sources.supervisor(inputs.nonce), action].concat()),
            ..manifest::supervised(inputs.nonce)
        }
    } else {
        let env = secrets.environment(JOB_CONTAINER, &request.environment_variables)?;
        let args = arguments::split(&request.entry_point_args, TOLD)?;
        Container {
            args: (!args.is_empty()).then(|| arguments::literal(args)),
            volume_mounts: Some(action),
            ..manifest::container(JOB_CONTAINER, env)
        }
    };
    let container = Container {
        image: Some(image.clone()),
        working_dir: request.working_directory.clone(),
        ..container
    };

    let name = names::step_pod(
        &inputs.config.pod_name,
        &names::derived(inputs.nonce, "pod"),
    );
    let mut pod = manifest::pod(
        inputs,
        &sources,
        &name,
        PodSpec {
            host_aliases: job.and_then(services_of),
            image_pull_secrets: manifest::pull_secrets(inputs, pull_secret),
            containers: vec![container],
            volumes: Some(sources.volumes()),
            ..Default::default()
        },
    );
    if !supervised {
        manifest::surround(inputs, &sources, user, &mut pod);
    }
    manifest::passwd(inputs, &sources, directories, user, &mut pod);
    manifest::fill(inputs, &sources, user, &[], false, &mut pod);
    let targets = [Target {
        container: JOB_CONTAINER.to_owned(),
        extensions: vec![JOB_CONTAINER.to_owned()],
    }];
    // `command` and `args` of `$job` belong to the job's pod: here the action's own run.
    let merged = manifest::merge(inputs, &pod, &targets)?;
    let mut pod = merged.pod;
    manifest::finish(
        inputs,
        &mut pod,
        user.uid(),
        user.gid(),
        resolved.fs_group(),
    )?;
    warnings.extend(merged.warnings);
    if job.is_some() {
        // The job's pod was built from the same template, and its log has said them.
        warnings.clear();
    }
    Ok(Plan {
        name,
        pod,
        secrets: secrets.finish()?,
        user,
        copied: sources.copied(),
        supervised,
        environment: if supervised {
            request.environment_variables.clone()
        } else {
            protocol::Environment::new()
        },
        working_directory: request.working_directory.clone(),
        image,
        warnings,
        ..Default::default()
    })
}

/// The image; an action that has none, or wants what the runner's action never has, is refused.
fn image_of(request: &protocol::Container) -> Result<String, SpecError> {
    if let Some(mount) = request.user_mount_volumes.first() {
        return Err(SpecError::Volume {
            container: TOLD.to_owned(),
            volume: mount.target_volume_path.clone(),
            reason: "a container action has the runner's volumes only, as in Docker mode",
        });
    }
    match (&request.image, &request.dockerfile) {
        (Some(image), _) if !image.trim().is_empty() => Ok(image.clone()),
        (_, Some(dockerfile)) => Err(SpecError::Dockerfile(dockerfile.clone())),
        _ => Err(SpecError::NoImage {
            container: TOLD.to_owned(),
        }),
    }
}

/// The services live in the job's pod, so an action reaches them at its address.
fn services_of(job: &JobFacts) -> Option<Vec<HostAlias>> {
    let address = job.address.clone().filter(|_| !job.host_names.is_empty())?;
    Some(vec![HostAlias {
        ip: address,
        hostnames: Some(job.host_names.clone()),
    }])
}
