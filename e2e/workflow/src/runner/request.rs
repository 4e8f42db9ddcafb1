//! The JSON that the runner writes to a hook: every key present, nulls
//! written, one line.

use serde::Serialize;
use serde_json::Value;

use super::layout::{Layout, PathMap};
use crate::job::{Container, Variables};

/// One request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// `prepare_job`, `run_script_step`, `run_container_step`, `cleanup_job`.
    pub command: &'a str,
    /// Where the answer goes.
    pub response_file: &'a str,
    /// The command's arguments.
    pub args: &'a Value,
    /// What an earlier call wanted to be kept.
    pub state: &'a Option<Value>,
}

/// Arguments of `prepare_job`.
#[derive(Debug, Serialize)]
pub struct PrepareJob {
    /// The job container.
    pub container: Option<HookContainer>,
    /// The services.
    pub services: Vec<HookContainer>,
}

/// Arguments of `run_script_step`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScriptStep {
    /// Program.
    pub entry_point: String,
    /// Its arguments, split at blanks.
    pub entry_point_args: Vec<String>,
    /// The step's environment.
    pub environment_variables: Variables,
    /// `GITHUB_PATH` entries, most recent first.
    pub prepend_path: Vec<String>,
    /// Directory inside the container.
    pub working_directory: String,
}

/// A container, as the runner describes it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookContainer {
    /// Image.
    pub image: Option<String>,
    /// Path of a Dockerfile on the runner.
    pub dockerfile: Option<String>,
    /// Arguments.
    pub entry_point_args: Vec<String>,
    /// Entry point.
    pub entry_point: Option<String>,
    /// Directory.
    pub working_directory: Option<String>,
    /// `options:`.
    pub create_options: Option<String>,
    /// Credentials.
    pub registry: Option<Registry>,
    /// Environment.
    pub environment_variables: Variables,
    /// Ports, as in the workflow.
    pub port_mappings: Vec<String>,
    /// The runner's own mounts.
    pub system_mount_volumes: Vec<Mount>,
    /// `volumes:`.
    pub user_mount_volumes: Vec<Mount>,
}

/// Credentials of a registry.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Registry {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// Host part of the image, empty for Docker Hub.
    pub server_url: String,
}

/// A mount.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// As in the workflow.
    pub user_provided_value: Option<String>,
    /// Path in the runner container, or a volume's name.
    pub source_volume_path: Option<String>,
    /// Path in the container.
    pub target_volume_path: String,
    /// Read-only.
    pub read_only: bool,
}

impl HookContainer {
    /// The job container.
    #[must_use]
    pub fn job(container: &Container, layout: &Layout) -> Self {
        let mut described = Self::described(container);
        let paths = layout.job_paths();
        described.working_directory = Some(translated(&paths, &layout.workspace));
        described
            .environment_variables
            .insert("HOME".to_owned(), "/github/home".to_owned());
        described.system_mount_volumes = vec![
            Mount::system("/var/run/docker.sock", "/var/run/docker.sock"),
            Mount::system(layout.work.to_string_lossy(), "/__w"),
            Mount {
                read_only: true,
                ..Mount::system(layout.externals.to_string_lossy(), "/__e")
            },
            Mount::system(layout.temp.to_string_lossy(), "/__w/_temp"),
            Mount::system(layout.actions.to_string_lossy(), "/__w/_actions"),
            Mount::system(
                layout.tools.to_string_lossy(),
                translated(&paths, &layout.tools),
            ),
            Mount::system(layout.home.to_string_lossy(), "/github/home"),
            Mount::system(layout.workflow.to_string_lossy(), "/github/workflow"),
        ];
        described
    }

    /// A service.
    #[must_use]
    pub fn service(container: &Container) -> Self {
        Self {
            entry_point: container.entrypoint.clone(),
            entry_point_args: split_container_arguments(
                container.command.as_deref().unwrap_or_default(),
            ),
            ..Self::described(container)
        }
    }

    /// The container of a container action.
    #[must_use]
    pub fn action(layout: &Layout) -> Self {
        Self {
            working_directory: Some("/github/workspace".to_owned()),
            system_mount_volumes: vec![
                Mount::system("/var/run/docker.sock", "/var/run/docker.sock"),
                Mount::system(layout.temp.to_string_lossy(), "/github/runner_temp"),
                Mount::system(layout.home.to_string_lossy(), "/github/home"),
                Mount::system(layout.workflow.to_string_lossy(), "/github/workflow"),
                Mount::system(
                    layout.file_commands.to_string_lossy(),
                    "/github/file_commands",
                ),
                Mount::system(layout.workspace.to_string_lossy(), "/github/workspace"),
            ],
            ..Self::default()
        }
    }

    fn described(container: &Container) -> Self {
        let image = container
            .image
            .strip_prefix("docker://")
            .unwrap_or(&container.image);
        let mut port_mappings: Vec<String> = Vec::new();
        for port in &container.ports {
            if !port_mappings.contains(port) {
                port_mappings.push(port.clone());
            }
        }
        Self {
            image: Some(image.to_owned()),
            create_options: container.options.clone(),
            registry: container
                .credentials
                .as_ref()
                .filter(|credentials| !credentials.username.is_empty())
                .map(|credentials| Registry {
                    username: credentials.username.clone(),
                    password: credentials.password.clone(),
                    server_url: registry_host(image),
                }),
            environment_variables: container.env.clone(),
            port_mappings,
            user_mount_volumes: container
                .volumes
                .iter()
                .map(|text| Mount::user(text))
                .collect(),
            ..Self::default()
        }
    }
}

impl Mount {
    fn system(source: impl Into<String>, target: impl Into<String>) -> Self {
        Self {
            user_provided_value: None,
            source_volume_path: Some(source.into()),
            target_volume_path: target.into(),
            read_only: false,
        }
    }

    fn user(text: &str) -> Self {
        let parts: Vec<&str> = text.split(':').collect();
        let read_only = |part: &str| part.eq_ignore_ascii_case("ro");
        let (source, target, ro) = match parts[..] {
            [source, target, mode, ..] => (Some(source), target, read_only(mode)),
            [target, mode] if read_only(mode) => (None, target, true),
            [source, target] => (Some(source), target, false),
            _ => (None, text, false),
        };
        Self {
            user_provided_value: Some(text.to_owned()),
            source_volume_path: source.map(str::to_owned),
            target_volume_path: target.to_owned(),
            read_only: ro,
        }
    }
}

/// Splits a script step's arguments: at each blank, and what is empty stays.
#[must_use]
pub fn split_script_arguments(arguments: &str) -> Vec<String> {
    arguments
        .split(' ')
        .map(|part| part.trim().to_owned())
        .collect()
}

/// Splits a container action's arguments: at each blank, and what is empty
/// goes, so that two blanks inside one argument become one.
#[must_use]
pub fn split_container_arguments(arguments: &str) -> Vec<String> {
    arguments
        .split(' ')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The text that the runner makes of an action's `args:` before it is split.
#[must_use]
pub fn quote_container_arguments(arguments: &[String]) -> String {
    arguments.iter().fold(String::new(), |text, argument| {
        text + " \"" + &argument.replace('"', "\\\"") + "\""
    })
}

fn registry_host(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.to_owned(),
        _ => String::new(),
    }
}

fn translated(paths: &PathMap, path: &std::path::Path) -> String {
    paths.translate(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn script_arguments_keep_what_is_empty() {
        assert_eq!(
            split_script_arguments("-e /__w/_temp/a.sh"),
            ["-e", "/__w/_temp/a.sh"]
        );
        assert_eq!(split_script_arguments("a  b\n \tc"), ["a", "", "b", "c"]);
        assert_eq!(
            split_script_arguments("-command \". 'x y'\""),
            ["-command", "\".", "'x", "y'\""]
        );
        assert_eq!(split_script_arguments(""), [""]);
    }

    #[test]
    fn container_arguments_are_quoted_and_then_cut() {
        let text = quote_container_arguments(&["a".to_owned(), "b  c".to_owned(), String::new()]);
        assert_eq!(text, " \"a\" \"b  c\" \"\"");
        assert_eq!(
            split_container_arguments(&text),
            ["\"a\"", "\"b", "c\"", "\"\""]
        );
        assert_eq!(
            quote_container_arguments(&["say \"hi\" $x \\".to_owned()]),
            " \"say \\\"hi\\\" $x \\\""
        );
    }

    #[test]
    fn volumes_are_read_as_the_runner_does() {
        let mount = |text| {
            let mount = Mount::user(text);
            (
                mount.source_volume_path,
                mount.target_volume_path,
                mount.read_only,
            )
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(mount("a:/b:RO"), (some("a"), "/b".to_owned(), true));
        assert_eq!(mount("a:/b:rw"), (some("a"), "/b".to_owned(), false));
        assert_eq!(mount("/b:ro"), (None, "/b".to_owned(), true));
        assert_eq!(mount("a:/b"), (some("a"), "/b".to_owned(), false));
        assert_eq!(mount("/b"), (None, "/b".to_owned(), false));
    }

    #[test]
    fn every_key_is_written_with_its_null() {
        let layout = Layout::new(Path::new("/home/runner"), "demo");
        let container = Container {
            image: "docker://ghcr.io/a/b:1".to_owned(),
            credentials: Some(crate::job::Credentials {
                username: "u".to_owned(),
                password: "p".to_owned(),
            }),
            ports: vec!["80".to_owned(), "80".to_owned()],
            ..Container::default()
        };
        let value = serde_json::to_value(PrepareJob {
            container: Some(HookContainer::job(&container, &layout)),
            services: vec![HookContainer::service(&Container {
                image: "redis".to_owned(),
                ..Container::default()
            })],
        })
        .unwrap();
        let job = &value["container"];
        assert_eq!(job["image"], "ghcr.io/a/b:1");
        assert_eq!(job["registry"]["serverUrl"], "ghcr.io");
        assert_eq!(job["portMappings"].as_array().unwrap().len(), 1);
        assert_eq!(job["systemMountVolumes"].as_array().unwrap().len(), 8);
        assert_eq!(job["systemMountVolumes"][2]["readOnly"], true);
        assert_eq!(job["workingDirectory"], "/__w/demo/demo");
        assert_eq!(job["environmentVariables"]["HOME"], "/github/home");
        let service = value["services"][0].as_object().unwrap();
        assert_eq!(service.len(), 11);
        assert!(service["entryPoint"].is_null() && service["registry"].is_null());
        assert_eq!(service["systemMountVolumes"].as_array().unwrap().len(), 0);
    }
}
