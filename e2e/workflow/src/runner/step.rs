//! What one step asks of the hook.

use anyhow::{Context, bail};
use indexmap::IndexMap;
use serde_json::Value;

use super::context::{JobState, Scope};
use super::environment;
use super::guid::guid;
use super::layout::{Layout, PathMap};
use super::request::{
    HookContainer, ScriptStep, quote_container_arguments, split_container_arguments,
    split_script_arguments,
};
use super::unit::{Action, Stage, Unit};
use crate::action::{Metadata, Runs, Source, read_metadata};
use crate::expression::interpolate;
use crate::job::{Job, Step, Variables};

/// A request, ready but for the response file and the state.
#[derive(Debug)]
pub struct Prepared {
    /// The hook's command.
    pub command: &'static str,
    /// Its arguments.
    pub args: Value,
}

/// Makes requests for one job.
#[derive(Debug)]
pub struct Preparer<'a> {
    /// The job.
    pub job: &'a Job,
    /// Its directories.
    pub layout: &'a Layout,
    /// Its memory.
    pub state: &'a JobState,
}

impl Preparer<'_> {
    /// The job's environment with the step's over it.
    pub fn step_env(&self, step: &Step, github: &Variables) -> anyhow::Result<Variables> {
        let mut env = self.state.memory().env.clone();
        for (name, value) in &step.env {
            let value = interpolate(value, &self.scope(github, &env, &Variables::new()))?;
            env.insert(name.clone(), value);
        }
        Ok(env)
    }

    /// What expressions can see.
    #[must_use]
    pub fn scope<'s>(
        &'s self,
        github: &'s Variables,
        env: &'s Variables,
        inputs: &'s Variables,
    ) -> Scope<'s> {
        Scope {
            state: self.state,
            github,
            env,
            inputs,
            secrets: &self.job.secrets,
        }
    }

    /// The request for `unit`.
    pub fn prepare(
        &self,
        unit: &Unit<'_>,
        env: Variables,
        github: &Variables,
    ) -> anyhow::Result<Prepared> {
        if let Some(script) = &unit.step.run {
            return self.script(unit, script, env, github);
        }
        let mut action = unit.action.clone().context("the step has no action")?;
        if let Source::Local(_) = action.source {
            action.metadata = Some(read_metadata(&action.directory)?);
        }
        let inputs = self.inputs(unit, action.metadata.as_ref(), &env, github)?;
        match &action.metadata {
            None => self.container(unit, &action, &Runs::default(), env, inputs, github),
            Some(metadata) if metadata.runs.using == "docker" => {
                self.container(unit, &action, &metadata.runs, env, inputs, github)
            }
            Some(metadata) if metadata.runs.using.starts_with("node") => {
                self.javascript(unit, &action, &metadata.runs, env, inputs, github)
            }
            Some(metadata) => bail!(
                "the driver has no actions that use `{}`",
                metadata.runs.using
            ),
        }
    }

    fn script(
        &self,
        unit: &Unit<'_>,
        script: &str,
        env: Variables,
        github: &Variables,
    ) -> anyhow::Result<Prepared> {
        let scope = self.scope(github, &env, &env);
        let script = interpolate(script, &scope)?.replace("\r\n", "\n");
        let shell = unit.step.shell.as_deref().unwrap_or("sh");
        let (program, format, extension) = match shell {
            "sh" => ("sh", "-e {0}", "sh"),
            "bash" => ("bash", "--noprofile --norc -e -o pipefail {0}", "sh"),
            "python" => ("python", "{0}", "py"),
            other => match other.split_once(' ') {
                Some((program, format)) if format.contains("{0}") => (program, format, "sh"),
                _ => bail!("`shell` is not one of the known ones and has no `{{0}}`: {other}"),
            },
        };
        let path = self.layout.temp.join(format!("{}.{extension}", guid()));
        std::fs::write(&path, script)
            .with_context(|| format!("failed to write `{}`", path.display()))?;
        let paths = self.layout.job_paths();
        let path = paths.translate(&path.to_string_lossy());
        let workspace = self.layout.workspace.to_string_lossy();
        let directory = match &unit.step.working_directory {
            Some(directory) if directory.starts_with('/') => directory.clone(),
            Some(directory) => format!("{workspace}/{}", directory.trim_start_matches("./")),
            None => workspace.into_owned(),
        };
        self.script_step(
            program,
            &format.replace("{0}", &path),
            env,
            github,
            &paths.translate(&directory),
        )
    }

    fn javascript(
        &self,
        unit: &Unit<'_>,
        action: &Action,
        runs: &Runs,
        mut env: Variables,
        inputs: Variables,
        github: &Variables,
    ) -> anyhow::Result<Prepared> {
        let file = match unit.stage {
            Stage::Pre => &runs.pre,
            Stage::Main => &runs.main,
            Stage::Post => &runs.post,
        };
        let file = file.as_ref().context("the action has no such script")?;
        let target = action.directory.join(file);
        anyhow::ensure!(target.is_file(), "File not found: '{}'", target.display());
        add_inputs(&mut env, inputs);
        add_runtime(&mut env);
        Self::add_saved(unit, &mut env);
        let alpine = self.state.memory().is_alpine;
        let suffix = if alpine { "_alpine" } else { "" };
        let paths = self.layout.job_paths();
        self.script_step(
            &format!("/__e/{}{suffix}/bin/node", runs.using),
            &paths.translate(&target.to_string_lossy()),
            env,
            github,
            &paths.translate(&self.layout.workspace.to_string_lossy()),
        )
    }

    fn script_step(
        &self,
        entry_point: &str,
        arguments: &str,
        mut env: Variables,
        github: &Variables,
        working_directory: &str,
    ) -> anyhow::Result<Prepared> {
        self.add_contexts(&mut env, github);
        let args = ScriptStep {
            entry_point: entry_point.to_owned(),
            entry_point_args: split_script_arguments(arguments),
            environment_variables: translated(env, &self.layout.job_paths()),
            prepend_path: self.state.prepended(),
            working_directory: working_directory.to_owned(),
        };
        Ok(Prepared {
            command: "run_script_step",
            args: serde_json::to_value(args)?,
        })
    }

    fn container(
        &self,
        unit: &Unit<'_>,
        action: &Action,
        runs: &Runs,
        mut env: Variables,
        inputs: Variables,
        github: &Variables,
    ) -> anyhow::Result<Prepared> {
        let mut container = HookContainer::action(self.layout);
        match (&action.source, &runs.image) {
            (Source::Image(image), _) => container.image = Some(image.clone()),
            (_, Some(image)) => {
                if let Some(image) = image.strip_prefix("docker://") {
                    container.image = Some(image.to_owned());
                } else {
                    let file = action.directory.join(image);
                    anyhow::ensure!(file.is_file(), "File not found: '{}'", file.display());
                    container.dockerfile = Some(file.to_string_lossy().into_owned());
                }
            }
            (_, None) => bail!("the action has no `image`"),
        }
        container.entry_point = match unit.stage {
            Stage::Pre => runs.pre_entrypoint.clone(),
            Stage::Main => runs
                .entrypoint
                .clone()
                .or_else(|| input(&inputs, "entrypoint")),
            Stage::Post => runs.post_entrypoint.clone(),
        };
        let scope = self.scope(github, &env, &inputs);
        let arguments = match &runs.args {
            Some(arguments) => quote_container_arguments(
                &arguments
                    .iter()
                    .map(|argument| interpolate(argument, &scope))
                    .collect::<Result<Vec<_>, _>>()?,
            ),
            None => input(&inputs, "args").unwrap_or_default(),
        };
        container.entry_point_args = split_container_arguments(&arguments);
        let own = evaluated(&runs.env, &scope)?;
        for (name, value) in own {
            env.entry(name).or_insert(value);
        }
        add_inputs(&mut env, inputs);
        add_runtime(&mut env);
        Self::add_saved(unit, &mut env);
        env.insert(
            "HOME".to_owned(),
            self.layout.home.to_string_lossy().into_owned(),
        );
        self.add_contexts(&mut env, github);
        container.environment_variables = translated(env, &self.layout.action_paths());
        Ok(Prepared {
            command: "run_container_step",
            args: serde_json::to_value(container)?,
        })
    }

    fn inputs(
        &self,
        unit: &Unit<'_>,
        metadata: Option<&Metadata>,
        env: &Variables,
        github: &Variables,
    ) -> anyhow::Result<Variables> {
        let none = Variables::new();
        let scope = self.scope(github, env, &none);
        let mut inputs = Variables::new();
        for (name, declared) in metadata.iter().flat_map(|metadata| &metadata.inputs) {
            if let Some(default) = &declared.default {
                inputs.insert(name.clone(), interpolate(default, &scope)?);
            }
        }
        for (name, value) in &unit.step.with {
            inputs.insert(name.clone(), interpolate(value, &scope)?);
        }
        Ok(inputs)
    }

    fn add_contexts(&self, env: &mut Variables, github: &Variables) {
        env.extend(github.clone());
        env.extend(environment::runner(self.layout));
    }

    fn add_saved(unit: &Unit<'_>, env: &mut Variables) {
        let saved = unit
            .saved
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, value) in saved.iter() {
            env.insert(format!("STATE_{name}"), value.clone());
        }
    }
}

fn evaluated(map: &IndexMap<String, String>, scope: &Scope<'_>) -> anyhow::Result<Variables> {
    map.iter()
        .map(|(name, value)| Ok((name.clone(), interpolate(value, scope)?)))
        .collect()
}

/// Names of inputs have no case.
fn input(inputs: &Variables, name: &str) -> Option<String> {
    inputs
        .iter()
        .find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty())
        .map(|(_, value)| value.clone())
}

/// Values as the container has to see them.
fn translated(env: Variables, paths: &PathMap) -> Variables {
    env.into_iter()
        .map(|(name, value)| (name, paths.translate(&value)))
        .collect()
}

fn add_inputs(env: &mut Variables, inputs: Variables) {
    for (name, value) in inputs {
        let name = name.replace(' ', "_").to_uppercase();
        env.insert(format!("INPUT_{name}"), value);
    }
}

/// What actions need to talk to GitHub; the values are made up.
fn add_runtime(env: &mut Variables) {
    for (name, value) in [
        ("ACTIONS_RUNTIME_URL", "https://pipelines.example.invalid/"),
        ("ACTIONS_RUNTIME_TOKEN", "runtime-token-of-the-test-job"),
        ("ACTIONS_CACHE_URL", "https://cache.example.invalid/"),
        ("ACTIONS_RESULTS_URL", "https://results.example.invalid/"),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
}
