//! Files that the hook may not remove: a job that runs as another user leaves directories of that
//! user in its own. Only a process of the same user can remove what is in them, so the job's
//! supervisor is asked to, while it still runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::config::Config;
use crate::protocol::Environment;
use crate::record::JobRecord;
use crate::retain::inside::NotAlive;
use crate::spool::client::RunningStep;
use crate::spool::signals::Signals;
use crate::spool::tree::{BINARY, HOOK_MOUNT};
use crate::spool::{JobTree, StepRequest};

/// How long it may take. Processes of the job may hold it up; then its files stay until the work
/// volume goes.
const LIMIT: Duration = Duration::from_secs(10);

/// Removes what is in directories, as far as this process may
#[derive(Debug, Clone, clap::Args)]
pub struct SweepArgs {
    /// A path below them that stays as it is
    #[arg(long, value_name = "PATH")]
    keep: Option<PathBuf>,
    /// The directories, which stay themselves
    directories: Vec<PathBuf>,
}

impl SweepArgs {
    /// Does it. What cannot be removed stays.
    pub fn run(&self) {
        for directory in &self.directories {
            let _ = empty(directory, self.keep.as_deref());
        }
    }
}

fn empty(directory: &Path, keep: Option<&Path>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if keep == Some(path.as_path()) {
            continue;
        }
        // One that stays, for example a mount point, must not save the others.
        let _ = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
    Ok(())
}

/// Has the job's own user empty the job's directories. Best effort.
pub fn sweep(config: &Config, job: &JobRecord) {
    let Some(workspace) = config.paths.workspace_below_work() else {
        return;
    };
    let workspace = Path::new("/__w").join(workspace);
    let text = |path: &Path| path.display().to_string();
    let above = workspace.parent().unwrap_or(Path::new("/__w"));
    let request = StepRequest {
        argv: vec![
            format!("{HOOK_MOUNT}/{BINARY}"),
            "sweep".to_owned(),
            "--keep".to_owned(),
            text(&workspace),
            text(above),
            "/__w/_temp".to_owned(),
            "/github/home".to_owned(),
        ],
        environment: Environment::new(),
        path: Vec::new(),
        directory: Some("/".to_owned()),
        alone: 0,
    };
    let spool =
        JobTree::open(&config.paths, &job.nonce, job.foreign_user).and_then(|tree| tree.spool());
    let (Ok(spool), Ok(signals)) = (spool, Signals::catch_these(&[])) else {
        return;
    };
    let foreign_user = job.foreign_user;
    let (done, waited) = mpsc::channel();
    // A thread of its own, because nothing that a hostile job does may hold up the clean-up.
    std::thread::spawn(move || {
        let swept = RunningStep::submit(spool, &request, foreign_user)
            .and_then(|mut step| step.follow(&mut io::sink(), &signals, &mut NotAlive));
        let _ = done.send(swept.is_ok());
    });
    let _ = waited.recv_timeout(LIMIT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_but_the_directory_itself_and_what_is_to_be_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("repo/keep/this")).unwrap();
        fs::create_dir_all(path("repo/build/a/b")).unwrap();
        fs::write(path("repo/file"), "").unwrap();
        fs::create_dir(path("outside")).unwrap();
        std::os::unix::fs::symlink(path("outside"), path("repo/link")).unwrap();
        SweepArgs {
            keep: Some(path("repo/keep")),
            directories: vec![path("absent"), path("repo")],
        }
        .run();
        let left: Vec<_> = fs::read_dir(path("repo")).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(path("repo/keep/this").exists());
        assert!(path("outside").exists());
    }
}
