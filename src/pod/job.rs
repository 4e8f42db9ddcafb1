//! The pod of a job.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::error::SpecError;
use super::grant::{self, Grantee};
use super::merge::Target;
use super::names::{self, JOB_CONTAINER};
use super::options::Options;
use super::plan::{Inputs, Plan, User};
use super::secrets::Secrets;
use super::services::Services;
use super::shared::Shared;
use super::volumes::{Sources, UserVolumes};
use super::{arguments, manifest, ports, user};
use crate::protocol::{self, PrepareJob};

/// What to call the container in messages.
const TOLD: &str = "the job container";

/// The job's pod.
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
            container: TOLD.to_owned(),
        })?;
    let settings = inputs.template.settings();
    let sources = Sources::new(inputs)?;
    let options = Options::parse(container.create_options.as_deref(), TOLD)?;
    let ports = ports::parse(&container.port_mappings, TOLD)?;
    let target = Target {
        container: JOB_CONTAINER.to_owned(),
        extensions: vec![JOB_CONTAINER.to_owned()],
    };
    let mut secrets = Secrets::new(
        &inputs.config.pod_name,
        inputs.nonce,
        manifest::metadata(inputs),
    );
    let pull_secrets: Vec<String> = std::iter::once(container)
        .chain(&request.services)
        .filter_map(|container| secrets.registry(container.registry.as_ref()))
        .collect();
    let mut shared = Shared::default();
    shared.add_volumes(sources.of_job());
    let user = user_of(inputs, &options, &mut shared.warnings)?;
    let job = job_container(inputs, &sources, &options, &mut shared, container, &target)?;
    let services = Services::build(
        inputs,
        &sources,
        &mut secrets,
        &mut shared,
        &request.services,
    )?;
    let name = names::job_pod(&inputs.config.pod_name);
    let spec = PodSpec {
        host_aliases: shared.host_aliases(),
        hostname: options.hostname.clone(),
        image_pull_secrets: manifest::pull_secrets(inputs, pull_secrets),
        containers: std::iter::once(Container {
            image: Some(image.clone()),
            ports: ports::manifest(&ports, settings.host_ports),
            ..job
        })
        .chain(services.containers)
        .collect(),
        volumes: Some(shared.volumes),
        ..Default::default()
    };
    let mut pod = manifest::pod(inputs, &sources, &name, spec);
    manifest::passwd(inputs, &sources, inputs.nonce, user, &mut pod);
    manifest::fill(inputs, &sources, user, &shared.directories, true, &mut pod);
    let targets = [vec![target], services.targets].concat();
    let merged = manifest::merge(inputs, &pod, &targets)?;
    let mut pod = merged.pod;
    grant::annotate(&mut pod, &shared.labels);
    manifest::check_volumes(&mut pod);
    manifest::finish(inputs, &mut pod, user.uid(), user.gid(), user.fs_group())?;

    let mut warnings = shared.warnings;
    warnings.extend(sources.warning(inputs));
    let companion = companion(
        container
            .entry_point
            .as_deref()
            .or(options.entry_point.as_deref()),
        &container.entry_point_args,
        merged.command,
        merged.arguments,
        &mut warnings,
    )?;
    warnings.extend(merged.warnings);
    // Docker puts what `env:` says after the options, so it counts.
    let mut environment = options.environment;
    environment.extend(container.environment_variables.clone());
    Ok(Plan {
        name,
        pod,
        secrets: secrets.finish()?,
        user,
        copied: sources.copied(),
        copies_externals: sources.copies_externals(),
        supervised: true,
        environment,
        companion,
        working_directory: options
            .working_directory
            .or_else(|| container.working_directory.clone()),
        image,
        ports: ports::reachable(&ports, settings.host_ports),
        services: services.facts,
        host_names: shared.host_names,
        directories: shared.directories,
        warnings,
    })
}

/// The container that steps run in, but for image and ports.
fn job_container(
    inputs: &Inputs<'_>,
    sources: &Sources,
    options: &Options,
    shared: &mut Shared,
    request: &protocol::Container,
    target: &Target,
) -> Result<Container, SpecError> {
    let mounts = sources.job(inputs.nonce);
    let volumes = UserVolumes::of(
        sources,
        inputs,
        JOB_CONTAINER,
        &request.user_mount_volumes,
        &mounts,
    )?;
    let mut container = Container {
        working_dir: options
            .working_directory
            .clone()
            .or_else(|| request.working_directory.clone()),
        volume_mounts: Some([mounts, volumes.mounts.clone()].concat()),
        ..manifest::supervised(inputs.nonce)
    };
    let to = Grantee {
        name: JOB_CONTAINER,
        extensions: &target.extensions,
        told: TOLD,
    };
    let granted = to.grant(inputs, options, &mut container)?;
    shared.add(&volumes, options, granted);
    if options.health.is_some() {
        shared.warnings.push(format!(
            "{TOLD}: `--health-cmd` has no effect: its steps run as soon as it does"
        ));
    }
    if !options.aliases.is_empty() {
        shared.warnings.push(format!(
            "{TOLD}: `--network-alias` has no effect: nothing outside of the pod knows its names"
        ));
    }
    Ok(container)
}

/// The user of the job, for whom `--user` counts where the template allows it.
fn user_of(
    inputs: &Inputs<'_>,
    options: &Options,
    warnings: &mut Vec<String>,
) -> Result<User, SpecError> {
    let allowed = inputs.template.settings().allow_user_option;
    if options.user.is_some() && !allowed {
        warnings.push(user::not_allowed(TOLD));
    }
    let wanted = if allowed {
        options.user_numbers(TOLD)?
    } else {
        None
    };
    Ok(User::resolve(inputs, wanted, warnings))
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
