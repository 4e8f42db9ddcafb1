//! Problem matchers, as far as one line of a log tells a problem: the runner reads them, and looks
//! for the files that they name, on its own file system
//! (actions/runner 2.336.0, `IssueMatcher.cs`, `OutputManager.cs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use regex::Regex;
use serde::Deserialize;

use super::layout::{Layout, PathMap};

/// The matchers of a job.
#[derive(Debug, Default)]
pub struct Matchers {
    registered: Mutex<Vec<Matcher>>,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    workspace: PathBuf,
    paths: PathMap,
    repository: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    problem_matcher: Vec<Described>,
}

#[derive(Debug, Deserialize)]
struct Described {
    owner: String,
    #[serde(default)]
    severity: Option<String>,
    pattern: [Pattern; 1],
}

#[derive(Clone, Debug, Deserialize)]
struct Pattern {
    regexp: String,
    #[serde(default)]
    file: Option<usize>,
    #[serde(default)]
    line: Option<usize>,
    message: usize,
}

#[derive(Debug)]
struct Matcher {
    owner: String,
    severity: String,
    regexp: Regex,
    pattern: Pattern,
}

impl Matchers {
    /// For a job in these directories.
    #[must_use]
    pub fn new(layout: &Layout, repository: &str) -> Self {
        Self {
            registered: Mutex::default(),
            place: Some(Place {
                workspace: layout.workspace.clone(),
                paths: layout.job_paths(),
                repository: repository.to_owned(),
            }),
        }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.registered().is_empty()
    }

    fn registered(&self) -> std::sync::MutexGuard<'_, Vec<Matcher>> {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `add-matcher`: reads the file where the runner has it.
    ///
    /// # Errors
    /// It is not there, or says something that this cannot read.
    pub fn add(&self, path: &str) -> Result<(), String> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let path = place.on_the_runner(path);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("the matcher `{}`: {error}", path.display()))?;
        let file: File = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let mut registered = self.registered();
        for Described {
            owner,
            severity,
            pattern: [pattern],
        } in file.problem_matcher
        {
            registered.retain(|known| known.owner != owner);
            registered.push(Matcher {
                regexp: Regex::new(&pattern.regexp).map_err(|error| error.to_string())?,
                severity: severity.unwrap_or_else(|| "error".to_owned()),
                owner,
                pattern,
            });
        }
        Ok(())
    }

    /// `remove-matcher`.
    pub fn remove(&self, owner: &str) {
        self.registered().retain(|known| known.owner != owner);
    }

    /// Severity and annotation of a line that tells a problem. A file that the runner does not have
    /// in a clone of the job's repository is left out.
    #[must_use]
    pub fn find(&self, line: &str) -> Option<(String, String)> {
        let registered = self.registered();
        let place = self.place.as_ref()?;
        registered.iter().find_map(|matcher| {
            let groups = matcher.regexp.captures(line)?;
            let group = |index: Option<usize>| groups.get(index?).map(|found| found.as_str());
            let file = group(matcher.pattern.file).and_then(|path| place.of_repository(path));
            let at = match (file, group(matcher.pattern.line)) {
                (Some(file), Some(line)) => format!(" file={file} line={line}"),
                (Some(file), None) => format!(" file={file}"),
                (None, _) => String::new(),
            };
            let message = group(Some(matcher.pattern.message)).unwrap_or_default();
            let severity = matcher.severity.clone();
            let annotation = format!("{severity}{at}: {message}");
            Some((severity, annotation))
        })
    }
}

impl Place {
    fn on_the_runner(&self, path: &str) -> PathBuf {
        self.workspace.join(self.paths.to_host(path))
    }

    /// The path of a file in the repository that it belongs to, which must be the job's.
    fn of_repository(&self, path: &str) -> Option<String> {
        let path = self.on_the_runner(path);
        if !path.is_file() {
            return None;
        }
        let root = path
            .ancestors()
            .skip(1)
            .find(|above| above.join(".git/config").is_file())?;
        let config = fs::read_to_string(root.join(".git/config")).ok()?;
        let url = format!("https://github.com/{}", self.repository);
        let named = config.lines().any(|line| {
            let value = line.trim().strip_prefix("url = ");
            value.is_some_and(|value| value.eq_ignore_ascii_case(&url))
        });
        let below: &Path = path.strip_prefix(root).ok()?;
        named.then(|| below.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_file_when_the_runner_has_it_in_the_job_s_repository() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), "demo");
        let matchers = Matchers::new(&layout, "octo/demo");
        let workspace = &layout.workspace;
        fs::create_dir_all(workspace.join(".git")).unwrap();
        let described = r#"{"problemMatcher": [{"owner": "gcc", "pattern": [
            {"regexp": "^(.+):(\\d+): (.+)$", "file": 1, "line": 2, "message": 3}]}]}"#;
        fs::write(workspace.join("gcc.json"), described).unwrap();
        assert!(matchers.add("nothing.json").is_err());
        matchers.add("/__w/demo/demo/gcc.json").unwrap();
        fs::write(workspace.join("a.c"), "").unwrap();
        let annotation = |line| matchers.find(line).map(|(_, annotation)| annotation);
        assert_eq!(annotation("a.c:3: bad").unwrap(), "error: bad");
        let config = "[remote \"origin\"]\n\turl = https://github.com/octo/demo\n";
        fs::write(workspace.join(".git/config"), config).unwrap();
        assert_eq!(
            annotation("a.c:3: bad").unwrap(),
            "error file=a.c line=3: bad"
        );
        assert_eq!(annotation("b.c:3: bad").unwrap(), "error: bad");
        assert_eq!(
            annotation("/__w/demo/demo/a.c:4: bad").unwrap(),
            "error file=a.c line=4: bad"
        );
        assert_eq!(annotation("nothing here"), None);
        matchers.remove("gcc");
        assert!(!matchers.any());
    }
}
