//! Service containers: beside the job in its pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, HostAlias, Volume};

use super::arguments;
use super::error::SpecError;
use super::manifest;
use super::merge::Target;
use super::names;
use super::plan::{Inputs, Service};
use super::ports;
use super::secrets::Secrets;
use super::volumes::{Sources, UserVolumes};
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
    /// Names by which they are reached.
    pub host_names: Vec<String>,
    /// Volumes that `volumes:` asks for.
    pub volumes: Vec<Volume>,
    /// See [`super::Plan::directories`].
    pub directories: Vec<std::path::PathBuf>,
}

impl Services {
    /// Builds the containers, in the order of the request.
    pub fn build(
        inputs: &Inputs<'_>,
        sources: &Sources,
        secrets: &mut Secrets<'_>,
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
        let mut result = Self::default();
        for ((service, name), image) in requested.iter().zip(&names).zip(images) {
            result.add(inputs, sources, secrets, service, name, image)?;
        }
        let bases = names.iter().map(|name| name.image.clone());
        let containers = names.iter().map(|name| name.container.clone());
        result.host_names = super::secrets::distinct(containers.chain(bases))
            .into_iter()
            .filter(|name| name != "localhost")
            .collect();
        Ok(result)
    }

    fn add(
        &mut self,
        inputs: &Inputs<'_>,
        sources: &Sources,
        secrets: &mut Secrets<'_>,
        service: &protocol::Container,
        name: &names::ServiceName,
        image: &str,
    ) -> Result<(), SpecError> {
        let settings = inputs.template.settings();
        let told = format!("service `{}`", name.container);
        let ports = ports::parse(&service.port_mappings, &told)?;
        let command = service
            .entry_point
            .clone()
            .filter(|entry_point| !entry_point.is_empty())
            .map(|entry_point| arguments::literal(vec![entry_point]));
        let arguments = arguments::split(&service.entry_point_args, &told)?;
        let user = UserVolumes::of(
            sources,
            inputs,
            &name.container,
            &service.user_mount_volumes,
            &[],
        )?;
        let env = secrets.environment(&name.container, &service.environment_variables)?;
        self.containers.push(Container {
            image: Some(image.to_owned()),
            command,
            args: (!arguments.is_empty()).then(|| arguments::literal(arguments)),
            working_dir: service.working_directory.clone(),
            ports: ports::manifest(&ports, settings.host_ports),
            volume_mounts: (!user.mounts.is_empty()).then_some(user.mounts),
            ..manifest::container(&name.container, env)
        });
        for volume in user.volumes {
            if !self.volumes.iter().any(|known| known.name == volume.name) {
                self.volumes.push(volume);
            }
        }
        self.directories.extend(user.directories);
        let mut extensions = vec!["default".to_owned(), name.image.clone()];
        if name.container != name.image {
            extensions.push(name.container.clone());
        }
        self.targets.push(Target {
            container: name.container.clone(),
            extensions,
        });
        self.facts.push(Service {
            container: name.container.clone(),
            image: image.to_owned(),
            ports: ports::reachable(&ports, settings.host_ports),
            health: None,
        });
        Ok(())
    }

    /// The pod's names for the services, which all are at its own address.
    #[must_use]
    pub fn host_aliases(&self) -> Option<Vec<HostAlias>> {
        (!self.host_names.is_empty()).then(|| {
            vec![HostAlias {
                ip: "127.0.0.1".to_owned(),
                hostnames: Some(self.host_names.clone()),
            }]
        })
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
