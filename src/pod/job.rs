//! The pod of a job.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::error::SpecError;
use super::manifest;
use super::merge::Target;
use super::names::{self, JOB_CONTAINER};
use super::plan::{Inputs, Plan, User};
use super::secrets::Secrets;
use super::services::Services;
use super::volumes::{Sources, UserVolumes};
use super::{arguments, ports};
use crate::protocol::PrepareJob;

/// The job's pod, in shared mode.
pub fn job(inputs: &Inputs<'_>, request: &PrepareJob) -> Result<Plan, SpecError> {
    let container = request
        .container
        .as_ref()
        .ok_or(SpecError::NoJobContainer)?;
    let image = container
        .image
        .clone()
        .filter(|image| !image.trim().is_empty())
        .ok_or_else(|| SpecError::NoImage {
            container: "the job container".to_owned(),
        })?;
    let settings = inputs.template.settings();
    let sources = Sources::new(inputs)?;
    let mut warnings = Vec::new();
    let mut secrets = Secrets::new(
        &inputs.config.pod_name,
        inputs.nonce,
        manifest::metadata(inputs),
    );
    let pull_secrets: Vec<String> = std::iter::once(container)
        .chain(&request.services)
        .filter_map(|container| secrets.registry(container.registry.as_ref()))
        .collect();
    let services = Services::build(inputs, &sources, &mut secrets, &request.services)?;
    let user = User::resolve(inputs, None, &mut warnings);
    let ports = ports::parse(&container.port_mappings, "the job container")?;

    let own = UserVolumes::of(
        &sources,
        inputs,
        JOB_CONTAINER,
        &container.user_mount_volumes,
        &sources.job(inputs.nonce),
    )?;
    let mut volumes = sources.volumes(true);
    for volume in own.volumes.iter().chain(&services.volumes) {
        if !volumes.iter().any(|known| known.name == volume.name) {
            volumes.push(volume.clone());
        }
    }
    let job = Container {
        image: Some(image.clone()),
        working_dir: container.working_directory.clone(),
        ports: ports::manifest(&ports, settings.host_ports),
        volume_mounts: Some([sources.job(inputs.nonce), own.mounts].concat()),
        ..manifest::supervised(inputs.nonce)
    };
    let name = names::job_pod(&inputs.config.pod_name);
    let pod = manifest::pod(
        inputs,
        &name,
        PodSpec {
            host_aliases: services.host_aliases(),
            image_pull_secrets: manifest::pull_secrets(inputs, pull_secrets),
            containers: std::iter::once(job).chain(services.containers).collect(),
            volumes: Some(volumes),
            ..Default::default()
        },
    );
    let mut targets = vec![Target {
        container: JOB_CONTAINER.to_owned(),
        extensions: vec![JOB_CONTAINER.to_owned()],
    }];
    targets.extend(services.targets);
    let merged = manifest::merge(inputs, &pod, &targets)?;
    let mut pod = merged.pod;
    manifest::finish(inputs, &mut pod, user.uid(), user.gid(), user.fs_group())?;

    let companion = companion(
        container.entry_point.as_deref(),
        &container.entry_point_args,
        merged.command,
        merged.arguments,
        &mut warnings,
    )?;
    warnings.extend(merged.warnings);
    Ok(Plan {
        name,
        pod,
        secrets: secrets.finish()?,
        user,
        supervised: true,
        environment: container.environment_variables.clone(),
        companion,
        working_directory: container.working_directory.clone(),
        image,
        ports: ports::reachable(&ports, settings.host_ports),
        services: services.facts,
        host_names: services.host_names,
        directories: own
            .directories
            .into_iter()
            .chain(services.directories)
            .collect(),
        warnings,
    })
}

/// What is to run beside the supervisor: the template's `command` and `args`, else the request's
/// entry point. Without a command the arguments would be those of the image's own entry point,
/// which nobody can know from outside.
pub(super) fn companion(
    entry_point: Option<&str>,
    entry_point_args: &[String],
    command: Vec<String>,
    arguments: Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>, SpecError> {
    if !command.is_empty() {
        return Ok(command.into_iter().chain(arguments).collect());
    }
    if !arguments.is_empty() {
        warnings.push(
            "template: `args` of `$job` without `command` has no effect: the entry point of the \
             image does not run in a job container; add `command`"
                .to_owned(),
        );
    }
    let Some(entry_point) = entry_point.filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut argv = vec![entry_point.to_owned()];
    argv.extend(arguments::split(entry_point_args, "the job container")?);
    Ok(argv)
}
