//! What must not stay in a kept job is taken out from inside, by a step of its own: it runs as the job's
//! user, to whom the files belong, and beneath the supervisor, from where every process of the job is seen.
//!
//! It ends the job's processes, whose environments hold secrets, and removes what the runner and its
//! actions are known to leave: scripts, file commands, `event.json`, git's extra headers, log-ins of
//! tools. What the job wrote elsewhere is the job's own, and stays as the failed step left it.
//!
//! Files are used beneath directory handles, no link is followed, and what is looked at is bounded.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{checkouts, tokens};
use crate::spool::directory::{Directory, FileError};
use crate::spool::supervisor::end_beneath;

/// How long the processes have to be gone; they are killed at once.
const END: Duration = Duration::from_secs(5);
/// Largest configuration file that is cleaned; a larger one is removed.
const FILE_LIMIT: u64 = 1024 * 1024;
/// So many of each kind are named.
const NAMED: usize = 50;

/// Log-ins that tools leave in a home directory.
const LOGINS: [&str; 12] = [
    ".git-credentials",
    ".config/git/credentials",
    ".netrc",
    ".docker/config.json",
    ".config/containers/auth.json",
    ".config/gh/hosts.yml",
    ".config/gcloud/application_default_credentials.json",
    ".aws/credentials",
    ".kube/config",
    ".cargo/credentials.toml",
    ".cargo/credentials",
    ".pypirc",
];
/// The same of Conan, in its home.
const CONAN: [&str; 3] = [
    "credentials.json",
    ".conan.db",
    "artifactory_credentials.json",
];
/// Files of git that may hold a token.
const GIT: [&str; 2] = [".gitconfig", ".config/git/config"];

/// Ends the job's processes and removes its secrets
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ScrubArgs {
    /// A directory for temporary files of the runner; may be repeated
    #[arg(long)]
    pub temp: Vec<PathBuf>,
    /// A directory whose content goes; may be repeated
    #[arg(long)]
    pub empty: Vec<PathBuf>,
    /// The home directory
    #[arg(long)]
    pub home: Option<PathBuf>,
    /// The workspace
    #[arg(long)]
    pub workspace: Option<PathBuf>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many processes were ended.
    pub ended: usize,
    /// How many would not end, or may not be ended by this user.
    pub left: usize,
    /// What was removed.
    pub removed: Vec<String>,
    /// What was cleaned of tokens.
    pub cleaned: Vec<String>,
    /// What could be neither.
    pub failed: Vec<String>,
    /// How many more there were of these.
    pub more: usize,
    /// The workspace is larger than what was looked at.
    pub partly: bool,
}

impl ScrubArgs {
    /// The arguments by which this program is called with these.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["scrub".to_owned()];
        let mut add = |flag: &str, path: &Path| {
            words.extend([flag.to_owned(), path.display().to_string()]);
        };
        for path in &self.temp {
            add("--temp", path);
        }
        for path in &self.empty {
            add("--empty", path);
        }
        if let Some(path) = &self.home {
            add("--home", path);
        }
        if let Some(path) = &self.workspace {
            add("--workspace", path);
        }
        words
    }

    /// Does it, and tells on standard output.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut report = Report::default();
        let supervisor = rustix::process::getppid().context("find the supervisor")?;
        (report.ended, report.left) = end_beneath(supervisor, END);
        self.files(
            &mut report,
            std::env::var_os("CONAN_HOME").map(PathBuf::from),
        );
        let text = serde_json::to_vec(&report).context("encode the report")?;
        let mut out = std::io::stdout();
        out.write_all(&text).and_then(|()| out.flush())?;
        Ok(())
    }

    /// Removes and cleans files.
    pub fn files(&self, report: &mut Report, conan: Option<PathBuf>) {
        for path in &self.temp {
            if let Ok(temp) = Directory::open(path) {
                for name in temp.names().unwrap_or_default() {
                    if is_of_the_runner(&name) {
                        report.remove(&temp, &name);
                    }
                }
                report.clean(&temp, ".npmrc", tokens::npm);
            }
        }
        for path in &self.empty {
            if let Ok(directory) = Directory::open(path) {
                for name in directory.names().unwrap_or_default() {
                    report.remove(&directory, &name);
                }
            }
        }
        if let Some(home) = self
            .home
            .as_deref()
            .and_then(|path| Directory::open(path).ok())
        {
            for path in LOGINS {
                report.beneath(&home, path, Report::remove);
            }
            for path in GIT {
                report.beneath(&home, path, |report, at, name| {
                    report.clean(at, name, tokens::git);
                });
            }
            report.clean(&home, ".npmrc", tokens::npm);
        }
        let conan = conan.filter(|path| path.is_absolute());
        if let Some(conan) = conan.and_then(|path| Directory::open(&path).ok()) {
            for name in CONAN {
                report.remove(&conan, name);
            }
        }
        if let Some(root) = self
            .workspace
            .as_deref()
            .and_then(|path| Directory::open(path).ok())
        {
            for name in root.names().unwrap_or_default() {
                if is_of_the_runner(&name) {
                    report.remove(&root, &name);
                }
            }
            report.clean(&root, ".npmrc", tokens::npm);
            report.partly |= !checkouts::clean(report, &root);
        }
    }
}

/// Scripts of steps, and credentials that well-known actions leave in a directory of the runner's.
fn is_of_the_runner(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["git-credentials-", "gha-creds-", ".docker", "docker_login_"];
    let is_guid = name.len() >= 36
        && name.is_char_boundary(36)
        && name[..36].char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
        && (name.len() == 36 || name.as_bytes()[36] == b'.');
    is_guid || name == ".netrc" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

pub(super) fn descend(root: &Directory, path: &[String]) -> Option<Directory> {
    let mut at = root.again().ok()?;
    for name in path {
        at = at.descend(name).ok()?;
    }
    Some(at)
}

impl Report {
    /// Whether nothing is left that should have gone.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.left == 0 && self.failed.is_empty() && !self.partly
    }

    fn note(list: &mut Vec<String>, more: &mut usize, directory: &Directory, name: &str) {
        if list.len() < NAMED {
            list.push(directory.path().join(name).display().to_string());
        } else {
            *more += 1;
        }
    }

    fn beneath(
        &mut self,
        root: &Directory,
        path: &str,
        act: impl FnOnce(&mut Self, &Directory, &str),
    ) {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let above: Vec<String> = above
            .split('/')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        if let Some(directory) = descend(root, &above) {
            act(self, &directory, name);
        }
    }

    fn remove(&mut self, directory: &Directory, name: &str) {
        if !directory.has(name) {
            return;
        }
        // A directory is no file, and a file no directory; which it is does not matter.
        let removed = directory
            .remove(name)
            .or_else(|_| directory.remove_tree(name));
        match removed {
            Ok(()) => Self::note(&mut self.removed, &mut self.more, directory, name),
            // What cannot be written by this user was not written by its job; the hook sees to it.
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {}
            Err(_) => Self::note(&mut self.failed, &mut self.more, directory, name),
        }
    }

    /// Takes the tokens out of a file, which is removed when that cannot be done.
    pub(super) fn clean(
        &mut self,
        directory: &Directory,
        name: &str,
        of: fn(&str) -> Option<String>,
    ) {
        match cleaned(directory, name, of) {
            Ok(false) => {}
            Ok(true) => Self::note(&mut self.cleaned, &mut self.more, directory, name),
            Err(_) => self.remove(directory, name),
        }
    }
}

fn cleaned(
    directory: &Directory,
    name: &str,
    of: fn(&str) -> Option<String>,
) -> Result<bool, FileError> {
    let Some(file) = directory.file(name)? else {
        return Ok(false);
    };
    let mode = file.metadata().map_or(0o644, |data| data.mode() & 0o777);
    let Some(bytes) = directory.read(name, FILE_LIMIT)? else {
        return Ok(false);
    };
    let Some(clean) = of(&String::from_utf8_lossy(&bytes)) else {
        return Ok(false);
    };
    directory.record(name, clean.as_bytes(), mode)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const HEADER: &str = "[http \"https://github.com/\"]\n\textraheader = AUTHORIZATION: s3cret\n";

    struct Job {
        root: tempfile::TempDir,
    }

    impl Job {
        fn new() -> Self {
            let job = Self {
                root: tempfile::tempdir().unwrap(),
            };
            for directory in ["temp/_runner_file_commands", "home", "ws"] {
                fs::create_dir_all(job.path(directory)).unwrap();
            }
            job
        }

        fn path(&self, path: &str) -> PathBuf {
            self.root.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.path(path)).unwrap()
        }

        fn scrub(&self) -> Report {
            let mut report = Report::default();
            let args = ScrubArgs {
                temp: vec![self.path("temp"), self.path("absent")],
                empty: vec![self.path("temp/_runner_file_commands")],
                home: Some(self.path("home")),
                workspace: Some(self.path("ws")),
            };
            args.files(&mut report, Some(self.path("conan")));
            report
        }
    }

    #[test]
    fn scripts_file_commands_and_log_ins_go_and_the_jobs_own_files_stay() {
        let job = Job::new();
        let gone = [
            "temp/0f9a1b2c-0123-4567-89ab-0123456789ab.sh",
            "temp/git-credentials-0f9a1b2c.config",
            "temp/_runner_file_commands/set_env_0f9a",
            "home/.git-credentials",
            "home/.docker/config.json",
            "home/.config/gh/hosts.yml",
            "ws/gha-creds-0123456789abcdef.json",
            "conan/credentials.json",
        ];
        let stays = [
            "temp/report.xml",
            "temp/build/0f9a.o",
            "home/.cache/x",
            "ws/src/main.c",
            "ws/.github/x.yml",
            "conan/p/b/pkg",
        ];
        for path in gone.iter().chain(&stays) {
            job.write(path, "s3cret");
        }
        let report = job.scrub();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.removed.len(), gone.len(), "{report:?}");
        for path in gone {
            assert!(!job.path(path).exists(), "{path}");
        }
        for path in stays {
            assert_eq!(job.read(path), "s3cret", "{path}");
        }
    }

    #[test]
    fn headers_of_every_checkout_go_and_all_else_of_git_stays() {
        let job = Job::new();
        let checkouts = [
            "ws/.git",
            "ws/dep/lib/.git",
            "ws/.git/modules/a/b",
            "ws/.git/modules/c/modules/d",
        ];
        for checkout in checkouts {
            job.write(
                &format!("{checkout}/config"),
                &format!("[core]\n{HEADER}[x]\n"),
            );
            job.write(&format!("{checkout}/HEAD"), "ref: refs/heads/main\n");
        }
        job.write("home/.gitconfig", HEADER);
        let report = job.scrub();
        assert_eq!(report.cleaned.len(), checkouts.len() + 1, "{report:?}");
        for checkout in checkouts {
            let config = job.read(&format!("{checkout}/config"));
            assert_eq!(
                config, "[core]\n[http \"https://github.com/\"]\n[x]\n",
                "{checkout}"
            );
            assert_eq!(
                job.read(&format!("{checkout}/HEAD")),
                "ref: refs/heads/main\n"
            );
        }
        assert_eq!(
            job.scrub(),
            Report::default(),
            "a second time there is nothing to do"
        );
    }

    #[test]
    fn a_planted_link_leads_nowhere() {
        let job = Job::new();
        job.write("outside/config", HEADER);
        job.write("outside/victim", "whole");
        symlink(job.path("outside"), job.path("ws/.git")).unwrap();
        fs::create_dir_all(job.path("ws/dep/.git")).unwrap();
        symlink(job.path("outside/config"), job.path("ws/dep/.git/config")).unwrap();
        symlink(job.path("outside"), job.path("home/.docker")).unwrap();
        symlink(job.path("outside/victim"), job.path("home/.netrc")).unwrap();
        job.scrub();
        assert_eq!(job.read("outside/config"), HEADER);
        assert_eq!(job.read("outside/victim"), "whole");
        assert!(!job.path("home/.netrc").is_symlink());
    }

    #[test]
    fn a_configuration_that_cannot_be_cleaned_is_removed() {
        let job = Job::new();
        job.write(
            "ws/.git/config",
            &"x".repeat(usize::try_from(FILE_LIMIT).unwrap() + 1),
        );
        let report = job.scrub();
        assert_eq!(report.removed.len(), 1, "{report:?}");
        assert!(!job.path("ws/.git/config").exists());
    }
}
