//! Why no pod could be built: each names what was wrong, and what to do.

use thiserror::Error;

use super::template::Location;

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Not YAML. The parser's words name line and column.
    #[error("parse the hook template: {0}")]
    Yaml(String),
    /// YAML, but not a pod template.
    #[error("read the hook template{}: {what}; {remedy}", Place(*.at))]
    Shape {
        /// Where.
        at: Option<Location>,
        /// What was found.
        what: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// An annotation `arc-hook/...` with a value that means nothing.
    #[error("read the hook template{}: annotation `{name}` is `{value}`; {remedy}", Place(*.at))]
    Annotation {
        /// Where.
        at: Option<Location>,
        /// The annotation.
        name: String,
        /// What it says.
        value: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// An annotation `arc-hook/cache.<volume>` that cannot be followed.
    #[error("read the hook template{}: annotation `{name}`: {what}; {remedy}", Place(*.at))]
    Cache {
        /// Where.
        at: Option<Location>,
        /// The annotation.
        name: String,
        /// What was found.
        what: String,
        /// What to write instead.
        remedy: String,
    },
}

struct Place(Option<Location>);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(at) => write!(f, ", {at}"),
            None => Ok(()),
        }
    }
}

/// A request, template or configuration from which no pod can be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The job has services only. The first words are those of the official hooks.
    #[error("Job Container is required: the job has services only; add `container:` to it")]
    NoJobContainer,
    /// The container has no image.
    #[error("build the pod: {container} has no image; name one in the workflow")]
    NoImage {
        /// Which container.
        container: String,
    },
    /// A container action that comes with a Dockerfile.
    #[error(
        "Building container actions is not currently supported: the action comes with the \
         Dockerfile `{0}`; publish its image and use `docker://<image>`, or set `image:` in its \
         action.yml"
    )]
    Dockerfile(String),
    /// An image reference without a name in it. The words are those of the official hooks.
    #[error(
        "Image definition '{0}' is invalid: it has no name; write `name`, `name:tag` or `name@digest`"
    )]
    Image(String),
    /// A port that is none.
    #[error("build {container}: invalid container port: {port}; {remedy}")]
    Port {
        /// Which container.
        container: String,
        /// The text of the workflow.
        port: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// A volume that no pod may have.
    #[error("build {container}: volume `{volume}` is refused: {reason}")]
    Volume {
        /// Which container.
        container: String,
        /// The text of the workflow.
        volume: String,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// Arguments that no shell could split.
    #[error("build {container}: cannot split `{text}`: a quote is missing its other half")]
    Quotes {
        /// Which container.
        container: String,
        /// The text of the workflow.
        text: String,
    },
    /// The environment of the containers does not fit into a Secret.
    #[error(
        "build the pod: the environment of its containers has {size} bytes, and a Secret holds \
         {limit}; put large values into files"
    )]
    EnvironmentSize {
        /// Bytes there are.
        size: usize,
        /// Bytes there may be.
        limit: usize,
    },
    /// A variable that no container can have.
    #[error(
        "build {container}: its environment cannot hold `{name}`: names are printable ASCII \
         without `=`, values hold no NUL; change it in `env:`"
    )]
    EnvironmentName {
        /// Which container.
        container: String,
        /// The name.
        name: String,
    },
    /// The workspace does not lie in the work directory.
    #[error(
        "build the pod: GITHUB_WORKSPACE `{workspace}` does not lie below the runner's work \
         directory `{work}`; the runner sets both"
    )]
    Workspace {
        /// `GITHUB_WORKSPACE`.
        workspace: String,
        /// The work directory.
        work: String,
    },
    /// The runner's work directory is on no volume that a second pod can mount.
    #[error(
        "build the pod: the runner's work directory `{work}` lies on no claim that the job's pod \
         can mount; {remedy}"
    )]
    NoWorkClaim {
        /// The work directory.
        work: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Two containers share a volume and run as different users.
    #[error(
        "build the pod: container `{other}` of the template runs as user {other_uid} and shares \
         volume `{volume}` with container `job`, which runs as user {uid}; neither could change \
         the other's files: give both the same `runAsUser`, or take the volume from one"
    )]
    Users {
        /// The template's container.
        other: String,
        /// Its user.
        other_uid: i64,
        /// User of `job`.
        uid: i64,
        /// The volume both mount.
        volume: String,
    },
    /// An option of the workflow that is not granted.
    #[error("build {container}: `options:` has `{option}`: {reason}")]
    Option {
        /// Which container.
        container: String,
        /// The flag, with its value where that matters.
        option: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The template cannot be merged.
    #[error(transparent)]
    Template(#[from] TemplateError),
}
