//! Service containers: beside the job in its pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, SecurityContext};

use super::error::SpecError;
use super::grant::{self, Grantee};
use super::merge::Target;
use super::options::{Health, Options};
use super::plan::{Inputs, Service};
use super::secrets::Secrets;
use super::shared::Shared;
use super::volumes::{Sources, UserVolumes};
use super::{arguments, manifest, names, ports, user};
use crate::protocol;

/// The services of a job.
#[derive(Debug, Default)]
pub struct Services {
    /// Their containers.
    pub containers: Vec<Container>,
    /// What the workflow learns of them.
    pub facts: Vec<Service>,
    /// What of the template is laid over them.
    pub targets: Vec<Target>,
}

impl Services {
    /// Builds the containers, in the order of the request.
    pub fn build(
        inputs: &Inputs<'_>,
        sources: &Sources,
        secrets: &mut Secrets<'_>,
        shared: &mut Shared,
        requested: &[protocol::Container],
    ) -> Result<Self, SpecError> {
        let images: Vec<&str> = requested
            .iter()
            .enumerate()
            .map(|(index, service)| {
                service
                    .image
                    .as_deref()
                    .filter(|image| !image.trim().is_empty())
                    .ok_or_else(|| SpecError::NoImage {
                        container: format!("service {}", index + 1),
                    })
            })
            .collect::<Result<_, _>>()?;
        let names = names::services(&images, &taken_names(inputs))?;
        for name in &names {
            shared.add_host_name(&name.container);
        }
        let mut result = Self::default();
        for ((service, name), image) in requested.iter().zip(&names).zip(images) {
            shared.add_host_name(&name.image);
            let mut extensions = vec!["default".to_owned(), name.image.clone()];
            if name.container != name.image {
                extensions.push(name.container.clone());
            }
            let build = Build {
                inputs,
                name: &name.container,
                told: format!("service `{}`", name.container),
                target: Target {
                    container: name.container.clone(),
                    extensions,
                },
            };
            let (container, fact) = build.container(sources, secrets, shared, service, image)?;
            result.containers.push(container);
            result.facts.push(fact);
            result.targets.push(build.target);
        }
        Ok(result)
    }
}

/// One service while it is being built.
struct Build<'a> {
    inputs: &'a Inputs<'a>,
    name: &'a str,
    told: String,
    target: Target,
}

impl Build<'_> {
    fn container(
        &self,
        sources: &Sources,
        secrets: &mut Secrets<'_>,
        shared: &mut Shared,
        service: &protocol::Container,
        image: &str,
    ) -> Result<(Container, Service), SpecError> {
        let settings = self.inputs.template.settings();
        let options = Options::parse(service.create_options.as_deref(), &self.told)?;
        let ports = ports::parse(&service.port_mappings, &self.told)?;
        let volumes = UserVolumes::of(
            sources,
            self.inputs,
            self.name,
            &service.user_mount_volumes,
            &[],
        )?;
        // Docker puts what `env:` says after the options, so it counts.
        let mut environment = options.environment.clone();
        environment.extend(service.environment_variables.clone());
        let env = secrets.environment(self.name, &environment)?;
        let entry_point = service
            .entry_point
            .clone()
            .filter(|entry_point| !entry_point.is_empty())
            .or_else(|| options.entry_point.clone());
        let arguments = arguments::split(&service.entry_point_args, &self.told)?;
        let probes = options.health.as_ref().map(grant::probes);
        let (startup, readiness) = probes.map_or((None, None), |(startup, readiness)| {
            (Some(startup), Some(readiness))
        });
        let mut container = Container {
            image: Some(image.to_owned()),
            command: entry_point.map(|entry_point| arguments::literal(vec![entry_point])),
            args: (!arguments.is_empty()).then(|| arguments::literal(arguments)),
            working_dir: options
                .working_directory
                .clone()
                .or_else(|| service.working_directory.clone()),
            ports: ports::manifest(&ports, settings.host_ports),
            readiness_probe: readiness,
            security_context: self.user(&options, shared)?,
            startup_probe: startup,
            volume_mounts: (!volumes.mounts.is_empty()).then(|| volumes.mounts.clone()),
            ..manifest::container(self.name, env)
        };
        let to = Grantee {
            name: self.name,
            extensions: &self.target.extensions,
            told: &self.told,
        };
        let granted = to.grant(self.inputs, &options, &mut container)?;
        shared.add(&volumes, &options, granted);
        // A pod has one host name. One that a service wants for itself is at least found.
        for name in options.aliases.iter().chain(&options.hostname) {
            shared.add_host_name(name);
        }
        let fact = Service {
            container: self.name.to_owned(),
            image: image.to_owned(),
            ports: ports::reachable(&ports, settings.host_ports),
            health: options.health.as_ref().map(Health::deadline),
        };
        Ok((container, fact))
    }

    /// Services run as their images say: databases insist on their own users.
    fn user(
        &self,
        options: &Options,
        shared: &mut Shared,
    ) -> Result<Option<SecurityContext>, SpecError> {
        if options.user.is_none() {
            return Ok(None);
        }
        if !self.inputs.template.settings().allow_user_option {
            shared.warnings.push(user::not_allowed(&self.told));
            return Ok(None);
        }
        let numbers = options.user_numbers(&self.told)?;
        Ok(numbers.map(|(uid, gid)| SecurityContext {
            run_as_user: Some(uid.into()),
            run_as_group: gid.map(Into::into),
            ..Default::default()
        }))
    }
}

/// Names that no service may have: of our containers, of the template's, and `default`, since
/// `$default` means all of them.
fn taken_names(inputs: &Inputs<'_>) -> BTreeSet<String> {
    let template = inputs.template;
    [names::JOB_CONTAINER, manifest::PASSWD_CONTAINER, "default"]
        .into_iter()
        .chain(
            template
                .containers("containers")
                .chain(template.containers("initContainers"))
                .map(|(name, _)| name),
        )
        .map(str::to_owned)
        .collect()
}
