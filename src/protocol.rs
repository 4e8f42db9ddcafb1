//! The runner's side of the conversation: one JSON line in, one JSON file out.
//!
//! Shapes follow actions/runner 2.336.0, `src/Runner.Worker/Container/ContainerHooks/HookInput.cs`,
//! `HookResponse.cs` and `ContainerHookManager.cs`. Three habits of that runner shape the types:
//! every key is written but may be `null`; new keys appear without notice; `prependPath` was one
//! string up to 2.293 and is a list since 2.300.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Variables by name, as they cross the wire. Values may be empty, multi-line, or anything.
pub type Environment = BTreeMap<String, String>;

/// What the runner asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The command and its arguments.
    pub command: Command,
    /// The file the runner reads after exit code 0. It exists, empty, before the call.
    pub response_file: Option<PathBuf>,
}

/// The four commands of the container-hook protocol.
///
/// The runner's `state` has no place here: its file lies where a job can write, so nothing that
/// it says may be believed. What a later command must know is kept by the hook itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Create the job's pod.
    PrepareJob(PrepareJob),
    /// Run a `run:` or JavaScript step in the job's container.
    RunScriptStep(ScriptStep),
    /// Run a container action in a pod of its own.
    RunContainerStep(Container),
    /// Remove what the job left.
    CleanupJob,
}

impl Command {
    /// The runner's name for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PrepareJob(_) => "prepare_job",
            Self::RunScriptStep(_) => "run_script_step",
            Self::RunContainerStep(_) => "run_container_step",
            Self::CleanupJob => "cleanup_job",
        }
    }
}

/// Arguments of `prepare_job`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareJob {
    /// The job's container; absent when the job has services only.
    #[serde(default)]
    pub container: Option<Container>,
    /// Service containers in the order of the workflow.
    #[serde(default, deserialize_with = "null_as_default")]
    pub services: Vec<Container>,
}

/// Arguments of `run_script_step`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScriptStep {
    /// The program, a bare name or a container path.
    #[serde(default, deserialize_with = "null_as_default")]
    pub entry_point: String,
    /// The arguments as the runner split them: at blanks, quotes kept as characters.
    #[serde(default, deserialize_with = "null_as_default")]
    pub entry_point_args: Vec<String>,
    /// The step's environment, container paths already in place.
    #[serde(default, deserialize_with = "null_as_default")]
    pub environment_variables: Environment,
    /// Directories for the front of `PATH`, most recent first.
    #[serde(default, deserialize_with = "one_or_many")]
    pub prepend_path: Vec<String>,
    /// The step's directory in the container.
    #[serde(default)]
    pub working_directory: Option<String>,
}

/// A container as the workflow describes it: the job's, a service's, or an action's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Image reference, without `docker://`; absent for actions that come with a Dockerfile.
    #[serde(default)]
    pub image: Option<String>,
    /// Path of a Dockerfile on the runner.
    #[serde(default)]
    pub dockerfile: Option<String>,
    /// Entry point that replaces the image's.
    #[serde(default)]
    pub entry_point: Option<String>,
    /// Arguments, split as in [`ScriptStep::entry_point_args`].
    #[serde(default, deserialize_with = "null_as_default")]
    pub entry_point_args: Vec<String>,
    /// The container's directory.
    #[serde(default)]
    pub working_directory: Option<String>,
    /// `options:` of the workflow, raw.
    #[serde(default)]
    pub create_options: Option<String>,
    /// Environment of the container.
    #[serde(default, deserialize_with = "null_as_default")]
    pub environment_variables: Environment,
    /// `ports:` of the workflow, raw: `[host:]container[/protocol]`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub port_mappings: Vec<String>,
    /// Credentials of the image's registry.
    #[serde(default)]
    pub registry: Option<Registry>,
    /// Mounts that the runner asks for itself. Only their targets are used: the sources are paths
    /// of the runner's file system, and the hook knows these from its own environment.
    #[serde(default, deserialize_with = "null_as_default")]
    pub system_mount_volumes: Vec<Mount>,
    /// `volumes:` of the workflow.
    #[serde(default, deserialize_with = "null_as_default")]
    pub user_mount_volumes: Vec<Mount>,
}

/// Credentials of an image registry.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registry {
    /// User name.
    #[serde(default)]
    pub username: Option<String>,
    /// Password or token.
    #[serde(default)]
    pub password: Option<String>,
    /// Host of the registry; empty for Docker Hub.
    #[serde(default)]
    pub server_url: Option<String>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("server_url", &self.server_url)
            .finish_non_exhaustive()
    }
}

/// One volume of a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The text of the workflow.
    #[serde(default)]
    pub user_provided_value: Option<String>,
    /// Source on the runner, or a volume's name.
    #[serde(default)]
    pub source_volume_path: Option<String>,
    /// Where the container sees it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub target_volume_path: String,
    /// True only for `:ro`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub read_only: bool,
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMany;
    impl<'de> de::Visitor<'de> for OneOrMany {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string or a list of strings")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
        fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
            Ok(if value.is_empty() {
                Vec::new()
            } else {
                vec![value.to_owned()]
            })
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = seq.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(OneOrMany)
}

/// Why a request could not be understood. Nothing has been done when it is returned.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Standard input held no line.
    #[error("read the request: standard input is empty; the runner sends one line of JSON")]
    Empty,
    /// Standard input broke.
    #[error("read the request from standard input: {0}")]
    Read(io::Error),
    /// Not JSON, or a field of the wrong type.
    #[error("parse the request: {field}{cause}")]
    Json {
        /// The field's path, with the words around it; empty where nothing is known.
        field: String,
        /// The parser's words.
        cause: serde_json::Error,
    },
    /// A command this hook does not have.
    #[error(
        "Command not recognized: `{0}`; this hook knows prepare_job, run_script_step, \
         run_container_step and cleanup_job"
    )]
    UnknownCommand(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    response_file: Option<PathBuf>,
}

/// The same object, read once its command tells what the arguments are.
#[derive(Deserialize)]
struct Arguments<T> {
    args: Option<T>,
}

impl Request {
    /// Parses what the runner wrote to standard input.
    ///
    /// Blank lines around the request are ignored: the official hooks take the last line and
    /// break on a trailing blank one.
    pub fn parse(input: &str) -> Result<Self, RequestError> {
        if input.trim().is_empty() {
            return Err(RequestError::Empty);
        }
        let mut json = serde_json::Deserializer::from_str(input);
        let envelope: Envelope = serde_path_to_error::deserialize(&mut json).map_err(at)?;
        json.end().map_err(|cause| RequestError::Json {
            field: String::new(),
            cause,
        })?;
        let name = envelope.command.unwrap_or_default();
        let command = match name.as_str() {
            "prepare_job" => Command::PrepareJob(arguments(input)?),
            "run_script_step" => Command::RunScriptStep(arguments(input)?),
            "run_container_step" => Command::RunContainerStep(arguments(input)?),
            "cleanup_job" => Command::CleanupJob,
            _ => return Err(RequestError::UnknownCommand(name)),
        };
        Ok(Self {
            command,
            response_file: envelope.response_file,
        })
    }
}

fn arguments<T: de::DeserializeOwned + Default>(input: &str) -> Result<T, RequestError> {
    let mut json = serde_json::Deserializer::from_str(input);
    let arguments: Arguments<T> = serde_path_to_error::deserialize(&mut json).map_err(at)?;
    Ok(arguments.args.unwrap_or_default())
}

fn at(error: serde_path_to_error::Error<serde_json::Error>) -> RequestError {
    let path = error.path().to_string();
    let field = match path.as_str() {
        "." => String::new(),
        path => format!("field `{path}`: "),
    };
    RequestError::Json {
        field,
        cause: error.into_inner(),
    }
}

/// What `prepare_job` answers. The runner reads `state` only after exit code 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// Handed back with every later command; informational, never believed.
    pub state: State,
    /// What the workflow sees as `job.container` and `job.services`.
    pub context: Context,
    /// Whether JavaScript actions need the musl build of node. The runner demands it whenever the
    /// job has a container.
    pub is_alpine: bool,
}

/// The hook's state in the runner's keeping.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Name of the job's pod, for people who read the runner's diagnostic log.
    pub job_pod: String,
}

/// What the workflow may refer to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Context {
    /// `job.container`; the runner throws when it is present without a job container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerContext>,
    /// `job.services`, in the request's order. Absent when empty: an explicit null makes the
    /// runner throw.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ContainerContext>,
}

/// One container as the workflow sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ContainerContext {
    /// The pod's and container's name, for `job.container.id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The image, as the official hooks answer it.
    pub image: String,
    /// Container port to reachable port. Must be present, even empty, or the runner throws.
    pub ports: BTreeMap<String, String>,
}

impl Response {
    /// Appends the response to the file that the runner made for it.
    ///
    /// # Errors
    /// The file is missing or cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        use anyhow::Context as _;
        let mut text = serde_json::to_string(self).context("encode the response")?;
        text.push('\n');
        std::fs::OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| {
                format!(
                    "write the response file `{}`: the runner creates it before each call",
                    path.display()
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(value: &serde_json::Value) -> Request {
        Request::parse(&value.to_string()).unwrap()
    }

    /// A job container as actions/runner 2.336.0 writes it: every key, nulls included.
    fn container() -> serde_json::Value {
        json!({
            "image": "gcc:12", "dockerfile": null, "entryPoint": null, "entryPointArgs": [],
            "workingDirectory": "/__w/r/r", "createOptions": null,
            "environmentVariables": {"HOME": "/github/home", "EMPTY": ""},
            "portMappings": ["8080:80"],
            "registry": {"username": "u", "password": "s3cr3t", "serverUrl": "ghcr.io"},
            "systemMountVolumes": [{"userProvidedValue": null, "sourceVolumePath": "/home/runner/_work",
                "targetVolumePath": "/__w", "readOnly": false}],
            "userMountVolumes": [],
        })
    }

    #[test]
    fn nulls_missing_fields_and_unknown_fields_mean_the_same() {
        let all = parse(
            &json!({"command": "prepare_job", "responseFile": "/r.json", "state": null,
            "args": {"container": container(), "services": [], "future": {"key": 1}}, "later": 1}),
        );
        let Command::PrepareJob(job) = all.command else {
            panic!("not prepare_job")
        };
        let job_container = job.container.unwrap();
        assert_eq!(job_container.image.as_deref(), Some("gcc:12"));
        assert_eq!(job_container.environment_variables["EMPTY"], "");
        assert_eq!(all.response_file.as_deref(), Some(Path::new("/r.json")));

        let nulls = json!({"command": "prepare_job", "args": {"container": {
            "image": null, "entryPointArgs": null, "environmentVariables": null, "registry": null,
            "portMappings": null, "systemMountVolumes": null, "userMountVolumes": null},
            "services": null}});
        let missing = json!({"command": "prepare_job", "args": {"container": {}}});
        assert_eq!(parse(&nulls), parse(&missing));
        let bare = json!({"command": "cleanup_job", "args": null});
        assert_eq!(parse(&bare), parse(&json!({"command": "cleanup_job"})));
    }

    #[test]
    fn prepend_path_is_a_list_or_one_string() {
        let path = |value: serde_json::Value| {
            let request = json!({"command": "run_script_step", "args": {"prependPath": value}});
            match parse(&request).command {
                Command::RunScriptStep(step) => step.prepend_path,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(path(json!(["/a", "/b"])), ["/a", "/b"]);
        assert_eq!(path(json!("/a:/b")), ["/a:/b"]);
        assert_eq!(path(json!(null)), Vec::<String>::new());
        assert_eq!(path(json!("")), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_field_is_named_with_its_path() {
        let message = |text: &str| Request::parse(text).unwrap_err().to_string();
        let request = json!({"command": "prepare_job", "args": {"container": container(),
            "services": [{"image": "redis"}, {"image": 7}]}});
        let shown = message(&request.to_string());
        assert!(shown.contains("field `args.services[1].image`"), "{shown}");
        let shown =
            message("{\"command\": \"prepare_job\",\n\"args\": {\"container\": {\"image\": 5}}}");
        assert!(shown.ends_with("at line 2 column 33"), "{shown}");
        let shown = message(r#"{"command": 1}"#);
        assert!(shown.contains("field `command`"), "{shown}");
        assert!(message("{").starts_with("parse the request: "));
        assert!(message(" \n").contains("standard input is empty"));
        assert!(message(r#"{"command": "make_tea"}"#).contains("`make_tea`"));
    }

    #[test]
    fn a_registrys_password_is_not_in_debug_output() {
        let request = json!({"command": "run_container_step", "args": container()});
        assert!(!format!("{:?}", parse(&request)).contains("s3cr3t"));
    }

    #[test]
    fn a_response_has_what_the_runner_demands_and_no_explicit_null() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let response = Response {
            context: Context {
                container: Some(ContainerContext::default()),
                services: Vec::new(),
            },
            ..Response::default()
        };
        response.write(file.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "{\"state\":{\"jobPod\":\"\"},\"context\":{\"container\":{\"image\":\"\",\"ports\":{}}},\
             \"isAlpine\":false}\n"
        );
        let error = Response::default()
            .write(Path::new("/absent/x"))
            .unwrap_err();
        assert!(error.to_string().contains("/absent/x"));
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(input in ".{0,200}") {
            let _ = Request::parse(&input);
        }

        #[test]
        fn environments_cross_unchanged(
            environment in proptest::collection::btree_map(".{0,20}", ".{0,40}", 0..10)
        ) {
            let request = json!({"command": "run_script_step",
                "args": {"environmentVariables": environment}});
            match parse(&request).command {
                Command::RunScriptStep(step) => {
                    prop_assert_eq!(step.environment_variables, environment);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
