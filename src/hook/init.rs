//! What a job needs beside its pod, done by a process of its own.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use rustix::event::{PollFd, PollFlags};

use super::passwd;
use crate::record::Memory;
use crate::spool::directory::Directory;
use crate::spool::signals::Signals;
use crate::spool::{READY, tree};
use crate::transport::relay::EXTERNALS;

/// Lies in a volume from when it is filled until someone has seen that.
const FILLED: &str = "filled";
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How long it may lie there. A kubelet that is busy may be late to look.
const TAKEN: Duration = Duration::from_mins(1);

/// What to prepare.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Init {
    /// Copies the runner's programs to the job's directory, and notes how that ended
    Externals {
        /// The runner's `externals`
        #[arg(long)]
        from: PathBuf,
        /// The directory that the job sees as `/__e`
        #[arg(long)]
        to: PathBuf,
        /// The hook's state directory
        #[arg(long)]
        state: PathBuf,
        /// Name of the job's pod
        #[arg(long)]
        job_pod: String,
    },
    /// Makes the directories of a pod's own volume, and puts this program there
    Volume {
        /// Where the volume is
        #[arg(long)]
        to: PathBuf,
        /// Another user than this one writes there
        #[arg(long)]
        open: bool,
        /// `init await` is waiting for it: stay until it has learnt of it
        #[arg(long)]
        awaited: bool,
        /// The runner's `externals`: copy them too, afterwards
        #[arg(long)]
        externals: Option<PathBuf>,
        /// Directories below the work directory
        directories: Vec<PathBuf>,
    },
    /// Fills the claim that a kept job's files are copied to, and stays while they come
    Kept {
        /// Where the claim is
        #[arg(long)]
        to: PathBuf,
        /// The runner's `externals`: copy them too
        #[arg(long)]
        externals: Option<PathBuf>,
        /// The workspace below the work directory
        workspace: PathBuf,
    },
    /// Waits until a pod's own volume has its directories and this program
    Await {
        /// Where the volume is
        #[arg(long)]
        to: PathBuf,
    },
    /// Copies the runner's programs to a pod's own volume, and leaves word of how that ended
    Programs {
        /// The runner's `externals`
        #[arg(long)]
        externals: PathBuf,
        /// Where the volume is
        #[arg(long)]
        to: PathBuf,
    },
    /// Writes `passwd` and `group` of this image with an entry for the job's user
    Passwd {
        /// The user, as UID or UID:GID
        #[arg(long)]
        user: String,
        /// The directory to write to
        #[arg(long)]
        to: PathBuf,
    },
}

impl Init {
    /// Does it.
    ///
    /// # Errors
    /// Not even the failure could be noted, or a file could not be written.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Externals {
                from,
                to,
                state,
                job_pod,
            } => externals(&from, &to, &Memory::of(&state, &job_pod)),
            Self::Volume {
                to,
                open,
                awaited,
                externals,
                directories,
            } => {
                tree::make_own(&to, open, &directories)?;
                if awaited {
                    Directory::open(&to)?.record(FILLED, b"", 0o644)?;
                }
                if let Some(from) = externals {
                    programs(&from, &to)?;
                }
                if awaited {
                    stay(&to.join(FILLED));
                }
                Ok(())
            }
            Self::Kept {
                to,
                externals,
                workspace,
            } => keep(&to, externals.as_deref(), workspace),
            Self::Await { to } => await_volume(&to.join(FILLED)),
            Self::Programs { externals, to } => programs(&externals, &to),
            Self::Passwd { user, to } => passwd::write(&user, &to),
        }
    }
}

fn externals(from: &Path, to: &Path, memory: &Memory) -> anyhow::Result<()> {
    // It outlives the hook process that started it, so it leaves its session and with it the
    // signals of the runner's process group.
    let _ = rustix::process::setsid();
    let copied = copy_tree(from, to);
    let failure = copied.err().map(|error| format!("{error:#}"));
    memory
        .note_externals(failure.as_deref())
        .context("note how the copy of the runner's programs ended")
}

fn keep(to: &Path, externals: Option<&Path>, workspace: PathBuf) -> anyhow::Result<()> {
    let end = Signals::catch().context("wait for the pod's end")?;
    tree::make_own(to, false, &[workspace])?;
    if let Some(from) = externals {
        programs(from, to)?;
    }
    // A relay begins when it finds this, as that of a supervisor.
    Directory::open(&to.join("spool"))?.record(READY, b"{}", 0o600)?;
    while end.received().is_none() {
        let mut waits = [PollFd::new(&end, PollFlags::IN)];
        match rustix::event::poll(&mut waits, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the pod's end"),
        }
    }
    Ok(())
}

/// Stays until the one that waits for the volume has taken the mark away: it runs in this very
/// container, and would be killed with it.
fn stay(mark: &Path) {
    let end = Instant::now() + TAKEN;
    while mark.exists() && Instant::now() < end {
        std::thread::sleep(LOOK);
    }
}

fn await_volume(mark: &Path) -> anyhow::Result<()> {
    while !mark.exists() {
        std::thread::sleep(LOOK);
    }
    fs::remove_file(mark).context("take away the mark of a filled volume")
}

fn programs(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied = copy_tree(from, &to.join("externals"));
    let failure = copied.err().map(|error| format!("{error:#}"));
    Directory::open(&to.join("hook"))?
        .record(EXTERNALS, failure.unwrap_or_default().as_bytes(), 0o644)
        .context("note how the copy of the runner's programs ended")
}

/// Copies a directory of the runner's image: directories, files with their modes, and links as
/// links. The target is new and nobody else's yet.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copy = |verb: &str, path: &Path| format!("{verb} `{}`", path.display());
    for entry in fs::read_dir(from).with_context(|| copy("list", from))? {
        let entry = entry.with_context(|| copy("list", from))?;
        let source = entry.path();
        let target = to.join(entry.file_name());
        let kind = entry
            .file_type()
            .with_context(|| copy("examine", &source))?;
        if kind.is_dir() {
            match fs::create_dir(&target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| copy("make", &target));
                }
                _ => {}
            }
            fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
                .with_context(|| copy("set the mode of", &target))?;
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            let destination = fs::read_link(&source).with_context(|| copy("read", &source))?;
            std::os::unix::fs::symlink(destination, &target)
                .with_context(|| copy("make", &target))?;
        } else {
            fs::copy(&source, &target).with_context(|| copy("copy to", &target))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("node20/bin")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("node20/bin/node"), "program").unwrap();
        fs::set_permissions(
            from.join("node20/bin/node"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        std::os::unix::fs::symlink("node20", from.join("node")).unwrap();
        copy_tree(&from, &to).unwrap();
        let node = to.join("node/bin/node");
        assert_eq!(fs::read(&node).unwrap(), b"program");
        assert_eq!(
            fs::metadata(&node).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(fs::read_link(to.join("node")).unwrap(), Path::new("node20"));
    }
}
