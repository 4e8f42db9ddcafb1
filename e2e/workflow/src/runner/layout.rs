//! The runner's directories, and what they are called inside containers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::job::Job;

/// The runner's directories for one job.
#[derive(Clone, Debug)]
pub struct Layout {
    /// `/home/runner`.
    pub root: PathBuf,
    /// `_work`.
    pub work: PathBuf,
    /// `_work/_temp`.
    pub temp: PathBuf,
    /// `_work/_actions`.
    pub actions: PathBuf,
    /// The tool cache.
    pub tools: PathBuf,
    /// `externals`.
    pub externals: PathBuf,
    /// `_temp/_github_home`.
    pub home: PathBuf,
    /// `_temp/_github_workflow`.
    pub workflow: PathBuf,
    /// `_temp/_runner_file_commands`.
    pub file_commands: PathBuf,
    /// `_temp/_runner_hook_responses`.
    pub responses: PathBuf,
    /// `_work/<repo>`.
    pub runner_workspace: PathBuf,
    /// `_work/<repo>/<repo>`.
    pub workspace: PathBuf,
    /// `_diag`.
    pub diagnostics: PathBuf,
}

impl Layout {
    /// The directories below `root` for a job in the repository `name`.
    #[must_use]
    pub fn new(root: &Path, name: &str) -> Self {
        let work = root.join("_work");
        let temp = work.join("_temp");
        let tools = [
            "RUNNER_TOOL_CACHE",
            "RUNNER_TOOLSDIRECTORY",
            "AGENT_TOOLSDIRECTORY",
        ]
        .into_iter()
        .find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
        .map_or_else(|| work.join("_tool"), PathBuf::from);
        Self {
            root: root.to_owned(),
            actions: work.join("_actions"),
            tools,
            externals: root.join("externals"),
            home: temp.join("_github_home"),
            workflow: temp.join("_github_workflow"),
            file_commands: temp.join("_runner_file_commands"),
            responses: temp.join("_runner_hook_responses"),
            runner_workspace: work.join(name),
            workspace: work.join(name).join(name),
            diagnostics: root.join("_diag"),
            temp,
            work,
        }
    }

    /// Makes the directories, with an empty `_temp`, and writes the actions
    /// that the runner would have downloaded.
    pub fn create(&self, job: &Job) -> anyhow::Result<()> {
        self.wipe_temp()
            .with_context(|| format!("failed to empty `{}`", self.temp.display()))?;
        let directories = [
            &self.actions,
            &self.tools,
            &self.home,
            &self.workflow,
            &self.file_commands,
            &self.responses,
            &self.workspace,
            &self.diagnostics,
            &self.work.join("_PipelineMapping").join(&job.repository),
        ];
        for directory in directories {
            fs::create_dir_all(directory)
                .with_context(|| format!("failed to make `{}`", directory.display()))?;
        }
        for (action, files) in &job.actions {
            let source = crate::action::Source::parse(action)?;
            let directory = source.directory(&self.actions, &self.workspace);
            for (name, content) in files {
                let path = directory.join(name);
                let parent = path.parent().unwrap_or(&directory);
                fs::create_dir_all(parent)
                    .and_then(|()| fs::write(&path, content))
                    .with_context(|| format!("failed to write `{}`", path.display()))?;
            }
        }
        Ok(())
    }

    /// Removes everything in `_temp`, as the runner does before and after a
    /// job.
    pub fn wipe_temp(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(&self.temp)
    }

    /// What the job container calls these directories.
    #[must_use]
    pub fn job_paths(&self) -> PathMap {
        let mut map = PathMap::default();
        map.add(&self.home, "/github/home");
        map.add(&self.workflow, "/github/workflow");
        if !self.tools.starts_with(&self.work) {
            map.add(&self.tools, "/__t");
        }
        map.add(&self.work, "/__w");
        map.add(&self.externals, "/__e");
        map
    }

    /// What the container of a container action calls them.
    #[must_use]
    pub fn action_paths(&self) -> PathMap {
        let mut map = PathMap::default();
        map.add(&self.home, "/github/home");
        map.add(&self.workflow, "/github/workflow");
        map.add(&self.file_commands, "/github/file_commands");
        map.add(&self.temp, "/github/runner_temp");
        map.add(&self.workspace, "/github/workspace");
        map
    }
}

/// Host directories and their names in a container; the first match counts.
#[derive(Clone, Debug, Default)]
pub struct PathMap {
    pairs: Vec<(String, String)>,
}

impl PathMap {
    fn add(&mut self, host: &Path, container: &str) {
        self.pairs
            .push((host.to_string_lossy().into_owned(), container.to_owned()));
    }

    /// Where the runner has what a container calls `path`; anything else stays as it is.
    #[must_use]
    pub fn to_host(&self, path: &str) -> String {
        for (host, container) in &self.pairs {
            if let Some(rest) = path.strip_prefix(container.as_str())
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return format!("{host}{rest}");
            }
        }
        path.to_owned()
    }

    /// Translates a value that equals a known directory or lies in it. A list
    /// of paths, or a path inside other text, stays as it is.
    #[must_use]
    pub fn translate(&self, value: &str) -> String {
        for (host, container) in &self.pairs {
            if let Some(rest) = value.strip_prefix(host.as_str())
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return format!("{container}{rest}");
            }
        }
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let mut layout = Layout::new(Path::new("/home/runner"), "demo");
        layout.tools = layout.work.join("_tool");
        layout
    }

    #[test]
    fn values_are_translated_for_the_job_container() {
        let map = layout().job_paths();
        for (host, container) in [
            ("/home/runner/_work/demo/demo", "/__w/demo/demo"),
            ("/home/runner/_work/_temp", "/__w/_temp"),
            ("/home/runner/_work/_tool", "/__w/_tool"),
            ("/home/runner/_work/_temp/_github_home", "/github/home"),
            (
                "/home/runner/_work/_temp/_github_workflow/event.json",
                "/github/workflow/event.json",
            ),
            ("/home/runner/externals/node20", "/__e/node20"),
            ("/home/runner/_workshop", "/home/runner/_workshop"),
            (
                "/home/runner/_work/a:/home/runner/_work/b",
                "/__w/a:/home/runner/_work/b",
            ),
            ("x /home/runner/_work", "x /home/runner/_work"),
        ] {
            assert_eq!(map.translate(host), container);
        }
    }

    #[test]
    fn values_are_translated_for_a_container_action() {
        let map = layout().action_paths();
        for (host, container) in [
            ("/home/runner/_work/demo/demo/x", "/github/workspace/x"),
            ("/home/runner/_work/_temp", "/github/runner_temp"),
            (
                "/home/runner/_work/_temp/_runner_file_commands/set_env_1",
                "/github/file_commands/set_env_1",
            ),
            ("/home/runner/_work/_tool", "/home/runner/_work/_tool"),
        ] {
            assert_eq!(map.translate(host), container);
        }
    }

    #[test]
    fn a_tool_cache_elsewhere_has_its_own_mount() {
        let mut layout = layout();
        layout.tools = PathBuf::from("/opt/tools");
        assert_eq!(layout.job_paths().translate("/opt/tools/go"), "/__t/go");
    }
}
