//! Every environment variable that the hook reads, read once, here.
//!
//! The runner passes its own environment and an allow-list of `GITHUB_*` and `RUNNER_*` with
//! runner paths; a workflow's `env:` never reaches the hook (actions/runner 2.336.0,
//! `src/Runner.Worker/Handlers/ScriptHandler.cs`, `GitHubContext.cs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::github::Github;
use crate::transport::frame::Selection;

/// How long `prepare_job` waits for the pod unless told otherwise, as the official hooks do.
pub const DEFAULT_PREPARE_TIMEOUT: Duration = Duration::from_mins(10);

/// A variable that is missing or malformed, with the remedy.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ConfigError {
    /// The variable is absent or empty.
    #[error("read the configuration: `{name}` is not set; {remedy}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The variable has a value that means nothing.
    #[error("read the configuration: `{name}` is `{value}`; {remedy}")]
    Malformed {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
        /// What to do.
        remedy: &'static str,
    },
}

/// How the job pod comes by the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum WorkVolume {
    /// Shared when the runner pod mounts a claim at its work directory that a second pod can
    /// mount too, else copied.
    #[default]
    Auto,
    /// The work volume is mounted into the job pod.
    Shared,
    /// What changed is copied before and after each step.
    Copy,
}

/// How strongly job pods are tied to the runner's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// Only that node: a `ReadWriteOnce` work volume allows no other.
    #[default]
    Required,
    /// That node where it has room.
    Preferred,
    /// Any node: for `ReadWriteMany` work volumes.
    None,
}

/// How jobs come by the runner's programs, node and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Externals {
    /// Mounted where the runner's node is known to be able to, else copied.
    #[default]
    Auto,
    /// The runner's image is mounted as a volume.
    Image,
    /// Copied beside the starting job.
    Copy,
}

/// Where the runner keeps its files, on the runner's own file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerPaths {
    /// The work directory, `/home/runner/_work`.
    pub work: PathBuf,
    /// `_work/_temp`.
    pub temp: PathBuf,
    /// The tool cache, `_work/_tool` unless configured elsewhere.
    pub tools: PathBuf,
    /// `GITHUB_WORKSPACE`: `_work/<repo>/<repo>`.
    pub workspace: PathBuf,
    /// Node and other programs that steps need, `/home/runner/externals`.
    pub externals: PathBuf,
    /// What the hook remembers between calls, where no job can reach it.
    pub state: PathBuf,
}

impl RunnerPaths {
    fn read(get: &impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let require = |name: &'static str, remedy: &'static str| {
            get(name).ok_or(ConfigError::Missing { name, remedy })
        };
        let temp = PathBuf::from(require(
            "RUNNER_TEMP",
            "the runner sets it; this program is called by the runner, not by hand",
        )?);
        let work = temp
            .parent()
            .filter(|parent| parent.is_absolute() && *parent != Path::new("/"))
            .ok_or_else(|| ConfigError::Malformed {
                name: "RUNNER_TEMP",
                value: temp.display().to_string(),
                remedy: "it must be an absolute path below the runner's work directory",
            })?
            .to_owned();
        let workspace = PathBuf::from(require(
            "GITHUB_WORKSPACE",
            "the runner sets it; this program is called by the runner, not by hand",
        )?);
        let root = work.parent().unwrap_or(Path::new("/")).to_owned();
        let paths = Self {
            tools: get("RUNNER_TOOL_CACHE").map_or_else(|| work.join("_tool"), PathBuf::from),
            externals: root.join("externals"),
            state: get("ARC_HOOK_STATE").map_or_else(|| root.join(".arc-hook"), PathBuf::from),
            workspace,
            temp,
            work,
        };
        if paths.state.starts_with(&paths.work) {
            return Err(ConfigError::Malformed {
                name: "ARC_HOOK_STATE",
                value: paths.state.display().to_string(),
                remedy: "it must lie outside the work directory, where no job can write",
            });
        }
        Ok(paths)
    }

    /// The runner's diagnostic logs.
    #[must_use]
    pub fn diagnostics(&self) -> PathBuf {
        self.work.with_file_name("_diag")
    }

    /// The path below the work directory of the repository's folder and of the workspace in it:
    /// `("<repo>", "<repo>/<repo>")` as the runner lays them out.
    #[must_use]
    pub fn workspace_below_work(&self) -> Option<&Path> {
        self.workspace.strip_prefix(&self.work).ok()
    }
}

/// The files by which a step hands values back, as runner paths. `None` outside a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileCommands {
    /// `GITHUB_PATH`: kept from the runner, which would look up `bash` there.
    pub path: Option<PathBuf>,
    /// All others: outputs, environment, state, summary, artifacts.
    pub others: Vec<PathBuf>,
}

/// The hook's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `ACTIONS_RUNNER_POD_NAME`.
    pub pod_name: String,
    /// `ACTIONS_RUNNER_KUBERNETES_NAMESPACE`; otherwise the kubeconfig's or the service account's.
    pub namespace: Option<String>,
    /// `ACTIONS_RUNNER_CLAIM_NAME`; otherwise the claim found in the runner pod, then
    /// `<pod>-work`.
    pub claim_name: Option<String>,
    /// `ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE`.
    pub template: Option<PathBuf>,
    /// `ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS`.
    pub prepare_timeout: Duration,
    /// `ACTIONS_RUNNER_IMAGE`; otherwise the image of the runner pod.
    pub runner_image: Option<String>,
    /// `ARC_HOOK_WORK`.
    pub work_volume: WorkVolume,
    /// `ARC_HOOK_WORKSPACE_SYNC`: which files of the workspace come back to a runner that shares no
    /// volume with its jobs.
    pub workspace_sync: Selection,
    /// `ARC_HOOK_AFFINITY`.
    pub affinity: Affinity,
    /// `ARC_HOOK_EXTERNALS`.
    pub externals: Externals,
    /// Directories of the runner.
    pub paths: RunnerPaths,
    /// The step's file commands.
    pub file_commands: FileCommands,
    /// Which job this is.
    pub github: Github,
    /// `GITHUB_EVENT_PATH`, or where the runner writes it by default.
    pub event: PathBuf,
    /// `ARC_HOOK_LOG`: targets and levels, as `arc_hook=debug,kube_client=warn`; `debug` of this
    /// program when only `RUNNER_DEBUG` is `1`.
    pub log: Option<String>,
    /// `ARC_HOOK_METRICS_FILE`: where calls are summed up for Prometheus.
    pub metrics: Option<PathBuf>,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_EXPORTER_OTLP_ENDPOINT` with `/v1/traces`
    /// behind it (OpenTelemetry specification 1.50, "OTLP exporter"): where spans are sent.
    pub spans: Option<String>,
    /// `ACTIONS_ALLOW_UNSECURE_COMMANDS` is true for the whole runner.
    pub allow_unsecure_commands: bool,
    /// Values that were understood only in part; printed by every command.
    pub warnings: Vec<String>,
}

/// True for what the runner takes for true (.NET's `bool.TryParse`).
#[must_use]
pub fn is_true(value: &str) -> bool {
    value.trim().eq_ignore_ascii_case("true")
}

impl Config {
    /// Reads the process's environment.
    pub fn from_process() -> Result<Self, ConfigError> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads variables through `lookup`.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let require = |name: &'static str, remedy: &'static str| {
            get(name).ok_or(ConfigError::Missing { name, remedy })
        };
        let mut warnings = Vec::new();

        let pod_name = require(
            "ACTIONS_RUNNER_POD_NAME",
            "set it in the runner's container from the field `metadata.name`, \
             as containerMode `kubernetes` of ARC does",
        )?;
        let paths = RunnerPaths::read(&get)?;

        let prepare_timeout = match get("ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS") {
            None => DEFAULT_PREPARE_TIMEOUT,
            Some(text) => match text.trim().parse::<u64>() {
                Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
                _ => {
                    // The official hooks go on with the default, so a move must not break here.
                    warnings.push(format!(
                        "`ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS` is `{text}`, not a positive \
                         number of seconds; {} s are used",
                        DEFAULT_PREPARE_TIMEOUT.as_secs()
                    ));
                    DEFAULT_PREPARE_TIMEOUT
                }
            },
        };
        let work_volume = work_volume(&get)?;
        let workspace_sync = workspace_sync(&get)?;
        let affinity = affinity(&get)?;
        let externals = externals(&get)?;
        let metrics = path("ARC_HOOK_METRICS_FILE");
        if let Some(file) = metrics.iter().find(|file| file.starts_with(&paths.work)) {
            return Err(ConfigError::Malformed {
                name: "ARC_HOOK_METRICS_FILE",
                value: file.display().to_string(),
                remedy: "it must lie outside the work directory, where no job can write",
            });
        }
        let spans = get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            let base = get("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some(format!("{}/v1/traces", base.trim_end_matches('/')))
        });
        let event = path("GITHUB_EVENT_PATH")
            .unwrap_or_else(|| paths.temp.join("_github_workflow/event.json"));
        let file_commands = FileCommands {
            path: path("GITHUB_PATH"),
            others: [
                "GITHUB_ENV",
                "GITHUB_OUTPUT",
                "GITHUB_STATE",
                "GITHUB_STEP_SUMMARY",
                "GITHUB_ARTIFACTS",
                "GITHUB_ARTIFACTS_LIST",
            ]
            .into_iter()
            .filter_map(path)
            .collect(),
        };
        Ok(Self {
            pod_name,
            namespace: get("ACTIONS_RUNNER_KUBERNETES_NAMESPACE"),
            claim_name: get("ACTIONS_RUNNER_CLAIM_NAME"),
            template: path("ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE"),
            prepare_timeout,
            runner_image: get("ACTIONS_RUNNER_IMAGE"),
            work_volume,
            workspace_sync,
            affinity,
            externals,
            paths,
            file_commands,
            github: Github::read(&get),
            event,
            log: get("ARC_HOOK_LOG").or_else(|| {
                (get("RUNNER_DEBUG").as_deref() == Some("1")).then(|| "arc_hook=debug".to_owned())
            }),
            metrics,
            spans,
            allow_unsecure_commands: get("ACTIONS_ALLOW_UNSECURE_COMMANDS")
                .is_some_and(|value| is_true(&value)),
            warnings,
        })
    }
}

fn work_volume(get: &impl Fn(&str) -> Option<String>) -> Result<WorkVolume, ConfigError> {
    const NAME: &str = "ARC_HOOK_WORK";
    let remedy = "use `auto`, `shared` or `copy`";
    choice(NAME, get(NAME), remedy, |text| match text {
        "auto" => Some(WorkVolume::Auto),
        "shared" => Some(WorkVolume::Shared),
        "copy" => Some(WorkVolume::Copy),
        _ => None,
    })
}

fn affinity(get: &impl Fn(&str) -> Option<String>) -> Result<Affinity, ConfigError> {
    const NAME: &str = "ARC_HOOK_AFFINITY";
    let remedy = "use `required`, `preferred` or `none`";
    choice(NAME, get(NAME), remedy, |text| match text {
        "required" => Some(Affinity::Required),
        "preferred" => Some(Affinity::Preferred),
        "none" => Some(Affinity::None),
        _ => None,
    })
}

fn externals(get: &impl Fn(&str) -> Option<String>) -> Result<Externals, ConfigError> {
    const NAME: &str = "ARC_HOOK_EXTERNALS";
    let remedy = "use `auto`, `image` or `copy`";
    choice(NAME, get(NAME), remedy, |text| match text {
        "auto" => Some(Externals::Auto),
        "image" => Some(Externals::Image),
        "copy" => Some(Externals::Copy),
        _ => None,
    })
}

fn workspace_sync(get: &impl Fn(&str) -> Option<String>) -> Result<Selection, ConfigError> {
    const NAME: &str = "ARC_HOOK_WORKSPACE_SYNC";
    let remedy = "use `tracked`, `all` or `none`";
    choice(NAME, get(NAME), remedy, |text| match text {
        "tracked" => Some(Selection::Tracked),
        "all" => Some(Selection::All),
        "none" => Some(Selection::None),
        _ => None,
    })
}

fn choice<T: Default>(
    name: &'static str,
    value: Option<String>,
    remedy: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    let Some(value) = value else {
        return Ok(T::default());
    };
    parse(value.trim()).ok_or(ConfigError::Malformed {
        name,
        value,
        remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut all = vec![
            ("ACTIONS_RUNNER_POD_NAME", "runner-1"),
            ("RUNNER_TEMP", "/home/runner/_work/_temp"),
            ("GITHUB_WORKSPACE", "/home/runner/_work/r/r"),
        ];
        all.extend(more);
        Config::read(|name| {
            let found = all.iter().rev().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_runners_own_layout_is_the_default() {
        let config = read(&[]).unwrap();
        assert_eq!(config.paths.work, Path::new("/home/runner/_work"));
        assert_eq!(config.paths.tools, Path::new("/home/runner/_work/_tool"));
        assert_eq!(config.paths.externals, Path::new("/home/runner/externals"));
        assert_eq!(config.paths.state, Path::new("/home/runner/.arc-hook"));
        assert_eq!(config.prepare_timeout, DEFAULT_PREPARE_TIMEOUT);
        assert_eq!(config.work_volume, WorkVolume::Auto);
        assert_eq!(config.affinity, Affinity::Required);
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_missing_or_malformed_variable_is_named_with_its_remedy() {
        for (name, value) in [
            ("ACTIONS_RUNNER_POD_NAME", ""),
            ("RUNNER_TEMP", " "),
            ("RUNNER_TEMP", "/_temp"),
            ("RUNNER_TEMP", "relative/_temp"),
            ("GITHUB_WORKSPACE", ""),
            ("ARC_HOOK_WORK", "fast"),
            ("ARC_HOOK_AFFINITY", "yes"),
            ("ARC_HOOK_EXTERNALS", "mount"),
            ("ARC_HOOK_WORKSPACE_SYNC", "everything"),
            ("ARC_HOOK_STATE", "/home/runner/_work/state"),
            ("ARC_HOOK_METRICS_FILE", "/home/runner/_work/a.prom"),
        ] {
            let message = read(&[(name, value)]).unwrap_err().to_string();
            assert!(message.contains(&format!("`{name}`")), "{message}");
            assert!(message.contains("; "), "no remedy: {message}");
        }
    }

    #[test]
    fn a_bad_timeout_is_a_warning_as_with_the_official_hooks() {
        const NAME: &str = "ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS";
        assert_eq!(
            read(&[(NAME, "30")]).unwrap().prepare_timeout,
            Duration::from_secs(30)
        );
        for bad in ["0", "-1", "ten"] {
            let config = read(&[(NAME, bad)]).unwrap();
            assert_eq!(config.prepare_timeout, DEFAULT_PREPARE_TIMEOUT);
            assert!(config.warnings[0].contains(bad), "{:?}", config.warnings);
        }
    }
}
