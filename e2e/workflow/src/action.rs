//! What a step's `uses:` names: an action's metadata and where it lies.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use indexmap::IndexMap;
use serde::Deserialize;

/// `action.yml`, as far as a container hook is concerned.
#[derive(Clone, Debug, Deserialize)]
pub struct Metadata {
    /// Inputs and their defaults.
    #[serde(default)]
    pub inputs: IndexMap<String, Input>,
    /// What is run.
    pub runs: Runs,
}

/// One input.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Input {
    /// Value when the step gives none.
    #[serde(default)]
    pub default: Option<String>,
}

/// `runs:`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Runs {
    /// `node20`, `node24` or `docker`.
    pub using: String,
    /// Script files of a JavaScript action.
    #[serde(default)]
    pub pre: Option<String>,
    /// The action itself.
    #[serde(default)]
    pub main: Option<String>,
    /// After the job's steps.
    #[serde(default)]
    pub post: Option<String>,
    /// Condition of `pre` and `pre-entrypoint`.
    #[serde(default)]
    pub pre_if: Option<String>,
    /// Condition of `post` and `post-entrypoint`.
    #[serde(default)]
    pub post_if: Option<String>,
    /// `docker://image` or the path of a Dockerfile.
    #[serde(default)]
    pub image: Option<String>,
    /// Entry points of a container action.
    #[serde(default)]
    pub pre_entrypoint: Option<String>,
    /// The action itself.
    #[serde(default)]
    pub entrypoint: Option<String>,
    /// After the job's steps.
    #[serde(default)]
    pub post_entrypoint: Option<String>,
    /// Arguments; without this key the input `args` counts.
    #[serde(default)]
    pub args: Option<Vec<String>>,
    /// Environment of a container action.
    #[serde(default)]
    pub env: IndexMap<String, String>,
}

/// Where an action comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `docker://image`.
    Image(String),
    /// `./path` in the workspace.
    Local(String),
    /// `owner/repo[/path]@ref`.
    Repository {
        /// `owner/repo`.
        repository: String,
        /// Path inside it, maybe empty.
        path: String,
        /// Branch, tag or hash.
        reference: String,
    },
}

impl Source {
    /// Parses `uses:`.
    pub fn parse(uses: &str) -> anyhow::Result<Self> {
        if let Some(image) = uses.strip_prefix("docker://") {
            return Ok(Self::Image(image.to_owned()));
        }
        if uses.starts_with("./") || uses.starts_with(".\\") {
            return Ok(Self::Local(uses.to_owned()));
        }
        let Some((name, reference)) = uses.split_once('@') else {
            bail!("`uses` has no reference: {uses}");
        };
        let mut parts = name.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(owner), Some(repository), path) => Ok(Self::Repository {
                repository: format!("{owner}/{repository}"),
                path: path.unwrap_or_default().to_owned(),
                reference: reference.to_owned(),
            }),
            _ => bail!("`uses` is not `owner/repo@ref`: {uses}"),
        }
    }

    /// The action's directory on the runner's file system.
    #[must_use]
    pub fn directory(&self, actions: &Path, workspace: &Path) -> PathBuf {
        match self {
            Self::Image(_) => PathBuf::new(),
            Self::Local(path) => workspace.join(path),
            Self::Repository {
                repository,
                path,
                reference,
            } => actions.join(repository).join(reference).join(path),
        }
    }
}

/// Reads `action.yml` or `action.yaml` in `directory`.
pub fn read_metadata(directory: &Path) -> anyhow::Result<Metadata> {
    for name in ["action.yml", "action.yaml"] {
        let path = directory.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return serde_saphyr::from_str(&text)
                    .with_context(|| format!("failed to parse `{}`", path.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("failed to read `{}`", path.display()));
            }
        }
    }
    bail!("can't find 'action.yml' under '{}'", directory.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_uses_is_told_apart() {
        assert_eq!(
            Source::parse("docker://alpine:3").unwrap(),
            Source::Image("alpine:3".to_owned())
        );
        assert_eq!(
            Source::parse("o/r/deep/er@v1").unwrap(),
            Source::Repository {
                repository: "o/r".to_owned(),
                path: "deep/er".to_owned(),
                reference: "v1".to_owned()
            }
        );
        assert!(Source::parse("o/r").is_err());
        let directory = Source::parse("o/r/x@v1")
            .unwrap()
            .directory(Path::new("/a"), Path::new("/w"));
        assert_eq!(directory, Path::new("/a/o/r/v1/x"));
    }
}
