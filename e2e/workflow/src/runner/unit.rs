//! A unit of a job's work: a step, or the pre or post part of its action.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;

use super::layout::Layout;
use crate::action::{Metadata, Runs, Source, read_metadata};
use crate::job::{Step, Variables};

/// Which part of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the job's steps.
    Pre,
    /// In its place.
    Main,
    /// After the job's steps.
    Post,
}

/// One unit of work: a step, or the pre or post part of its action.
#[derive(Clone, Debug)]
pub struct Unit<'a> {
    /// The step.
    pub step: &'a Step,
    /// Which part of it.
    pub stage: Stage,
    /// Display name.
    pub name: String,
    /// Name in the `steps` context.
    pub id: String,
    /// The action behind `uses:`.
    pub action: Option<Action>,
    /// What the action's parts told each other through `GITHUB_STATE`.
    pub saved: Arc<Mutex<Variables>>,
}

/// An action and where it lies.
#[derive(Clone, Debug)]
pub struct Action {
    /// What `uses:` named.
    pub source: Source,
    /// Its directory on the runner.
    pub directory: PathBuf,
    /// `action.yml`; an image has none.
    pub metadata: Option<Metadata>,
}

impl Action {
    /// Finds the action of `uses:`; a local one is read when its step runs.
    pub fn resolve(uses: &str, layout: &Layout) -> anyhow::Result<Self> {
        let source = Source::parse(uses)?;
        let directory = source.directory(&layout.actions, &layout.workspace);
        let metadata = match source {
            Source::Repository { .. } => Some(read_metadata(&directory)?),
            _ => None,
        };
        Ok(Self {
            source,
            directory,
            metadata,
        })
    }
}

impl<'a> Unit<'a> {
    /// The main part of the step at `index`.
    pub fn main(step: &'a Step, index: usize, layout: &Layout) -> anyhow::Result<Self> {
        let name = step
            .name
            .clone()
            .or_else(|| step.uses.as_ref().map(|uses| format!("Run {uses}")))
            .or_else(|| {
                let first = step.run.as_ref()?.trim().lines().next()?;
                Some(format!("Run {first}"))
            })
            .unwrap_or_else(|| "Wait for background steps".to_owned());
        let action = step
            .uses
            .as_deref()
            .map(|uses| Action::resolve(uses, layout))
            .transpose()
            .with_context(|| format!("step `{name}`"))?;
        Ok(Self {
            step,
            stage: Stage::Main,
            id: step.id.clone().unwrap_or_else(|| format!("__step_{index}")),
            name,
            action,
            saved: Arc::default(),
        })
    }

    /// The pre or post part of the same action, when it has one.
    #[must_use]
    pub fn part(&self, stage: Stage) -> Option<Self> {
        let local = self.local_runs(stage);
        let runs = local.as_ref().or_else(|| self.runs())?;
        let present = match stage {
            Stage::Pre => runs.pre.is_some() || runs.pre_entrypoint.is_some(),
            Stage::Main => true,
            Stage::Post => runs.post.is_some() || runs.post_entrypoint.is_some(),
        };
        present.then(|| Self {
            stage,
            name: match stage {
                Stage::Pre => format!("Pre {}", self.name),
                Stage::Main => self.name.clone(),
                Stage::Post => format!("Post {}", self.name),
            },
            ..self.clone()
        })
    }

    /// The condition of this part.
    #[must_use]
    pub fn condition(&self) -> Option<&str> {
        let always = Some("always()");
        match self.stage {
            Stage::Main => self.step.condition.as_deref(),
            Stage::Pre => self
                .runs()
                .and_then(|runs| runs.pre_if.as_deref())
                .or(always),
            Stage::Post => self
                .runs()
                .and_then(|runs| runs.post_if.as_deref())
                .or(always),
        }
    }

    /// A local action is there once its step has run, and has no `pre`.
    fn local_runs(&self, stage: Stage) -> Option<Runs> {
        let action = self.action.as_ref()?;
        let is_local = matches!(action.source, Source::Local(_));
        if !is_local || stage != Stage::Post {
            return None;
        }
        read_metadata(&action.directory).ok().map(|read| read.runs)
    }

    fn runs(&self) -> Option<&Runs> {
        let metadata = self.action.as_ref()?.metadata.as_ref()?;
        Some(&metadata.runs)
    }

    /// The details that GitHub shows first, folded.
    #[must_use]
    pub fn details(&self) -> Vec<String> {
        let step = self.step;
        let mut lines = vec![format!("##[group]{}", self.title())];
        if let Some(script) = &step.run {
            lines.extend(script.lines().map(str::to_owned));
            lines.push(format!(
                "shell: {}",
                step.shell.as_deref().unwrap_or("sh -e {0}")
            ));
        }
        for (title, map) in [("with:", &step.with), ("env:", &step.env)] {
            if !map.is_empty() {
                lines.push(title.to_owned());
                lines.extend(map.iter().map(|(name, value)| format!("  {name}: {value}")));
            }
        }
        lines.push("##[endgroup]".to_owned());
        lines
    }

    fn title(&self) -> String {
        let first = self
            .step
            .run
            .as_deref()
            .and_then(|run| run.trim().lines().next());
        let what = first.or(self.step.uses.as_deref()).unwrap_or_default();
        format!("Run {what}")
    }

    /// `GITHUB_ACTION` and its like.
    pub fn describe(&self, github: &mut Variables) {
        let mut set = |name: &str, value: String| {
            github.insert(name.to_owned(), value);
        };
        set("GITHUB_ACTION", self.id.clone());
        set("GITHUB_ACTION_REPOSITORY", String::new());
        set("GITHUB_ACTION_REF", String::new());
        let Some(action) = &self.action else {
            return;
        };
        match &action.source {
            Source::Repository {
                repository,
                reference,
                ..
            } => {
                set("GITHUB_ACTION_REPOSITORY", repository.clone());
                set("GITHUB_ACTION_REF", reference.clone());
                set(
                    "GITHUB_ACTION_PATH",
                    action.directory.to_string_lossy().into_owned(),
                );
            }
            Source::Local(_) => set(
                "GITHUB_ACTION_PATH",
                action.directory.to_string_lossy().into_owned(),
            ),
            Source::Image(_) => {}
        }
    }
}
