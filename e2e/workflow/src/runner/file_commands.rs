//! The files through which a step sets outputs, variables and more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::guid::guid;
use super::plain::{self, PlainError};

/// Largest summary that GitHub accepts.
const LARGEST_SUMMARY: usize = 1 << 20;

/// Variable and prefix of every file.
const FILES: [(&str, &str); 7] = [
    ("GITHUB_PATH", "add_path"),
    ("GITHUB_ENV", "set_env"),
    ("GITHUB_STEP_SUMMARY", "step_summary"),
    ("GITHUB_STATE", "save_state"),
    ("GITHUB_OUTPUT", "set_output"),
    ("GITHUB_ARTIFACTS", "artifacts"),
    ("GITHUB_ARTIFACTS_LIST", "artifacts_list"),
];

/// The files of one step.
#[derive(Debug)]
pub struct FileCommands {
    directory: PathBuf,
    suffix: String,
}

/// What a step wrote into its files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// `GITHUB_PATH`.
    pub path: Vec<String>,
    /// `GITHUB_ENV`.
    pub env: Vec<(String, String)>,
    /// `GITHUB_OUTPUT`.
    pub outputs: Vec<(String, String)>,
    /// `GITHUB_STATE`.
    pub state: Vec<(String, String)>,
    /// `GITHUB_STEP_SUMMARY`.
    pub summary: String,
    /// What made the runner fail the step.
    pub errors: Vec<String>,
    /// At which of them the runner would have waited for ever.
    pub waits: Vec<String>,
}

impl FileCommands {
    /// Creates empty files.
    pub fn create(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let files = Self {
            directory: directory.to_owned(),
            suffix: guid(),
        };
        for (_, prefix) in FILES {
            fs::write(files.path(prefix), "")?;
        }
        Ok(files)
    }

    /// The variables that name them, with the runner's own paths.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, String)> {
        FILES
            .into_iter()
            .map(|(name, prefix)| (name, self.path(prefix).to_string_lossy().into_owned()))
    }

    /// Reads what the step left in them.
    #[must_use]
    pub fn read(&self) -> Effects {
        let mut effects = Effects::default();
        let mut errors = Vec::new();
        let mut waits = Vec::new();
        let mut text = |prefix: &str, name: &str| match self.text(prefix) {
            Ok(text) => text,
            Err(PlainError::Fifo) => {
                waits.push(format!("file command '{name}': {}", PlainError::Fifo));
                String::new()
            }
            Err(error) => {
                errors.push(format!(
                    "Unable to process file command '{name}' successfully: {error}"
                ));
                String::new()
            }
        };
        effects.path = entries(&text("add_path", "path"));
        let [env, outputs, state] = [
            ("set_env", "env"),
            ("set_output", "output"),
            ("save_state", "state"),
        ]
        .map(|(prefix, name)| (name, text(prefix, name)));
        effects.summary = text("step_summary", "step_summary");
        for ((name, text), target) in [
            (env, &mut effects.env),
            (outputs, &mut effects.outputs),
            (state, &mut effects.state),
        ] {
            match pairs(&text) {
                Ok(found) => *target = found,
                Err(error) => errors.push(format!(
                    "Unable to process file command '{name}' successfully: {error}"
                )),
            }
        }
        if effects.summary.len() > LARGEST_SUMMARY {
            errors.push(format!(
                "$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of 1024k, got {}k",
                effects.summary.len() >> 10
            ));
            effects.summary.clear();
        }
        effects.errors = errors;
        effects.waits = waits;
        effects
    }

    /// Removes the files, as the runner does when the next step gets its own.
    pub fn remove(&self) {
        for (_, prefix) in FILES {
            // The job may have put anything there; it goes with `_temp`.
            let _ = fs::remove_file(self.path(prefix));
        }
    }

    fn path(&self, prefix: &str) -> PathBuf {
        self.directory.join(format!("{prefix}_{}", self.suffix))
    }

    fn text(&self, prefix: &str) -> Result<String, PlainError> {
        let bytes = plain::read(&self.path(prefix))?.unwrap_or_default();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// Lines of `GITHUB_PATH`; unlike the other files, CR ends a line here.
fn entries(text: &str) -> Vec<String> {
    text.split(['\n', '\r'])
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `name=value` and `name<<delimiter` blocks.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some(line) = take_line(&mut rest) {
        if line.is_empty() {
            continue;
        }
        let equals = line.find('=');
        let heredoc = line.find("<<");
        match (equals, heredoc) {
            (Some(equals), heredoc) if heredoc.is_none_or(|heredoc| equals < heredoc) => {
                let (name, value) = (&line[..equals], &line[equals + 1..]);
                if name.is_empty() {
                    return Err(format!("Invalid format '{line}'. Name must not be empty"));
                }
                pairs.push((name.to_owned(), value.to_owned()));
            }
            (_, Some(heredoc)) => {
                let (name, delimiter) = (&line[..heredoc], &line[heredoc + 2..]);
                if name.is_empty() || delimiter.is_empty() {
                    return Err(format!(
                        "Invalid format '{line}'. Name must not be empty and delimiter must not be empty"
                    ));
                }
                let start = rest;
                let mut length = 0;
                loop {
                    let before = start.len() - rest.len();
                    let Some(line) = take_line(&mut rest) else {
                        return Err(format!(
                            "Invalid value. Matching delimiter not found '{delimiter}'"
                        ));
                    };
                    if line == delimiter {
                        break;
                    }
                    length = before + line.len();
                }
                pairs.push((name.to_owned(), start[..length].to_owned()));
            }
            _ => return Err(format!("Invalid format '{line}'")),
        }
    }
    Ok(pairs)
}

fn take_line<'a>(rest: &mut &'a str) -> Option<&'a str> {
    if rest.is_empty() {
        return None;
    }
    let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
    *rest = after;
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn both_forms_of_values_are_read() {
        let text = "a=1\n\nb=x=<<y\nc<<END\none\n\ntwo\nEND\nd<<E\nE\ne=ü \"q\"\r\nlast=";
        assert_eq!(
            pairs(text).unwrap(),
            owned(&[
                ("a", "1"),
                ("b", "x=<<y"),
                ("c", "one\n\ntwo"),
                ("d", ""),
                ("e", "ü \"q\"\r"),
                ("last", "")
            ])
        );
    }

    #[test]
    fn invalid_lines_are_refused() {
        for text in ["plain", "=x", "<<E\nE", "a<<\n", "a<<END\nnever ends"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_carriage_return_ends_a_path_entry() {
        assert_eq!(entries("/a\r/b\n\n/c:d\r\n"), ["/a", "/b", "/c:d"]);
    }

    #[test]
    fn missing_files_are_fine_and_devices_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let files = FileCommands::create(temp.path()).unwrap();
        let variables: Vec<_> = files.variables().collect();
        assert_eq!(variables.len(), 7);
        fs::remove_file(&variables[0].1).unwrap();
        fs::write(&variables[4].1, "x=1\n").unwrap();
        assert_eq!(
            files.read(),
            Effects {
                outputs: owned(&[("x", "1")]),
                ..Effects::default()
            }
        );
        fs::remove_file(&variables[1].1).unwrap();
        std::os::unix::fs::symlink("/dev/null", &variables[1].1).unwrap();
        assert_eq!(files.read().errors.len(), 1);
        assert_eq!(files.read().waits.len(), 0);
    }
}
