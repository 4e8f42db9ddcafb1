//! What the containers of a job bring to the pod that they share.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostAlias, Volume};

use super::grant::Granted;
use super::options::Options;
use super::volumes::UserVolumes;

/// The address at which the containers of one pod reach each other.
const LOCAL: &str = "127.0.0.1";

/// Collected while the containers are built.
#[derive(Debug, Default)]
pub struct Shared {
    /// Volumes, each once.
    pub volumes: Vec<Volume>,
    /// See [`super::Plan::directories`].
    pub directories: Vec<PathBuf>,
    /// What the log must say.
    pub warnings: Vec<String>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// Names by which services are reached.
    pub host_names: Vec<String>,
    /// `--add-host`.
    hosts: Vec<(String, String)>,
}

impl Shared {
    /// Adds volumes, of which those of one name are one.
    pub fn add_volumes(&mut self, volumes: impl IntoIterator<Item = Volume>) {
        for volume in volumes {
            if !self.volumes.iter().any(|known| known.name == volume.name) {
                self.volumes.push(volume);
            }
        }
    }

    /// Adds what a container's `volumes:` and `options:` brought.
    pub fn add(&mut self, user: &UserVolumes, options: &Options, granted: Granted) {
        self.add_volumes(user.volumes.iter().cloned());
        self.directories.extend(user.directories.iter().cloned());
        self.add_volumes(granted.volumes);
        self.warnings.extend(granted.warnings);
        self.labels.extend(options.labels.iter().cloned());
        self.hosts.extend(options.hosts.iter().cloned());
    }

    /// Adds a name for a service. `localhost` is one already.
    pub fn add_host_name(&mut self, name: &str) {
        if name != "localhost" && !self.host_names.iter().any(|known| known == name) {
            self.host_names.push(name.to_owned());
        }
    }

    /// The pod's `hostAliases`.
    #[must_use]
    pub fn host_aliases(&self) -> Option<Vec<HostAlias>> {
        let mut aliases: Vec<HostAlias> = Vec::new();
        let local = self.host_names.iter().map(|name| (name.as_str(), LOCAL));
        let hosts = self
            .hosts
            .iter()
            .map(|(name, ip)| (name.as_str(), ip.as_str()));
        for (name, ip) in local.chain(hosts) {
            match aliases.iter_mut().find(|alias| alias.ip == ip) {
                Some(alias) => alias
                    .hostnames
                    .get_or_insert_default()
                    .push(name.to_owned()),
                None => aliases.push(HostAlias {
                    ip: ip.to_owned(),
                    hostnames: Some(vec![name.to_owned()]),
                }),
            }
        }
        (!aliases.is_empty()).then_some(aliases)
    }
}
