//! What goes in and what comes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::runner::RunnerPod;
use super::template::Template;
use crate::config::Config;
use crate::protocol::Environment;

/// A numeric user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// Everything that a pod is built from besides the request.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The hook's configuration.
    pub config: &'a Config,
    /// The runner's pod; absent when the hook runs outside one.
    pub runner: Option<&'a RunnerPod>,
    /// The platform engineer's template.
    pub template: &'a Template,
    /// The new pod's nonce, 32 hexadecimal characters. Names that need to be unique are derived
    /// from it.
    pub nonce: &'a str,
    /// User and group of the hook process, which are the runner's.
    pub identity: Identity,
    /// Where this program is in the runner's image.
    pub program: &'a Path,
}

/// What a container action's pod must know about the job's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// The job pod's nonce: its directories are mounted into the action's pod.
    pub nonce: String,
    /// The user that the job container really runs as, from its `ready.json`.
    pub user: Identity,
    /// The job pod's address, by which its services are reached; absent when unknown.
    pub address: Option<String>,
    /// [`Plan::host_names`] of the job.
    pub host_names: Vec<String>,
}

/// Who the container runs as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum User {
    /// As the hook process, the runner's user.
    Runner(Identity),
    /// As the image says; known only from `ready.json`.
    #[default]
    Image,
    /// As annotation, template or option says.
    Fixed {
        /// User id.
        uid: u32,
        /// Group id; the image's when absent.
        gid: Option<u32>,
    },
}

/// A service container of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name of the container in the pod.
    pub container: String,
    /// Image as the workflow wrote it.
    pub image: String,
    /// Container port to the port at which the job reaches it.
    pub ports: BTreeMap<String, String>,
    /// How long after its start Kubernetes ends it unless it became healthy; absent without a health
    /// check.
    pub health: Option<Duration>,
}

/// A pod to be created, with what belongs to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The pod's name.
    pub name: String,
    /// The pod as it is to be sent, with `fieldValidation=Strict`: keys that our types lack are
    /// still in it.
    pub pod: Value,
    /// Secrets that the pod refers to; they bear the label and the owner of the pod.
    pub secrets: Vec<Secret>,
    /// Who the container `job` runs as.
    pub user: User,
    /// The pod has a volume of its own, and files are copied.
    pub copied: bool,
    /// The runner's programs are copied, not mounted out of its image.
    pub copies_externals: bool,
    /// Whether the container `job` runs under our supervisor. A container action without a known
    /// entry point does not.
    pub supervised: bool,
    /// Environment of the container, which the hook keeps and hands to each step. It never stands
    /// in the pod. Empty for a container that is not supervised: its environment is in a Secret.
    pub environment: Environment,
    /// What the template, `--entrypoint` or the request want run in the container `job`: a child
    /// of the supervisor, not in its place. Empty for none.
    pub companion: Vec<String>,
    /// Directory of the container, from the request or `--workdir`.
    pub working_directory: Option<String>,
    /// The job image as the workflow wrote it.
    pub image: String,
    /// Ports of the job container, as in [`Service::ports`].
    pub ports: BTreeMap<String, String>,
    /// Services in the order of the request.
    pub services: Vec<Service>,
    /// Names by which the services are reached, besides `localhost`.
    pub host_names: Vec<String>,
    /// Directories relative to the runner's work directory that `volumes:` asks for. Before the pod
    /// is created each must exist and no part of it may be a link, since the kubelet follows links
    /// within a volume.
    pub directories: Vec<PathBuf>,
    /// What the log must say before the pod is created.
    pub warnings: Vec<String>,
}
