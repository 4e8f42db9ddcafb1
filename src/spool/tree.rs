//! The directories of one pod on the work volume, made before the pod is.
//!
//! Every source of a subPath and every mount point is made here; what is missing the container
//! runtime would make as root's. No source lies in a directory that the job can write, because
//! the kubelet resolves links below the volume's root when it mounts a subPath
//! (kubernetes v1.36, `pkg/volume/util/subpath/subpath_linux.go`): a job could have the next pod
//! mount the runner's own `_temp`. This is why `/__w/<repo>` comes from `runner_workspace` and
//! only the workspace in it from the runner's tree.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::directory::{Directory, FileError};
use super::{ENTRY, Nonce, STEPS, StepRequest};
use crate::config::RunnerPaths;
use crate::pod::{OWN_GITHUB, OWN_WORK};

/// Directory of everything below the work directory that is the hook's.
pub const ROOT: &str = ".arc-hook";
/// The binary's name in `hook/`, and under `/__hook` in the pod.
pub const BINARY: &str = "arc-hook";
/// Where the pod sees `hook/`.
pub const HOOK_MOUNT: &str = "/__hook";
/// Where directories are made that are to lie apart from each other.
const APART: &str = ".apart";
/// Where the pod sees `spool/`.
pub const SPOOL_MOUNT: &str = "/__hook/spool";

/// The directories of one pod.
#[derive(Debug)]
pub struct JobTree {
    root: Directory,
    nonce: Nonce,
    foreign_user: bool,
}

impl JobTree {
    /// Makes the tree and the runner's directories that the pod mounts.
    ///
    /// With `foreign_user` the pod runs as another user than this process, and the directories
    /// that it writes are open to all: their parent has an unguessable name, and no other pod
    /// mounts it. `lender` has this program already: to link it takes a tenth of what it takes to
    /// copy it.
    pub fn create(
        paths: &RunnerPaths,
        nonce: &Nonce,
        foreign_user: bool,
        lender: Option<&Self>,
    ) -> anyhow::Result<Self> {
        let work = Directory::open(&paths.work)?;
        for path in [&paths.workspace, &paths.work.join("_actions"), &paths.tools] {
            if let Ok(below) = path.strip_prefix(&paths.work) {
                make_below(&work, below, foreign_user)?;
            }
        }
        let tree = Self {
            root: work.make(ROOT, 0o755)?.make(nonce.as_str(), 0o755)?,
            nonce: nonce.clone(),
            foreign_user,
        };
        let open = tree.directory_mode();
        let hook = tree.root.make("hook", 0o755)?;
        hook.make("spool", 0o755)?;
        tree.root.make("spool", open)?.make(STEPS, open)?;
        tree.root
            .make("temp", open)?
            .make("_runner_file_commands", open)?;
        for name in ["home", "file_commands"] {
            tree.root.make(name, open)?;
        }
        for name in ["workflow", "externals"] {
            tree.root.make(name, 0o755)?;
        }
        let runner_workspace = tree.root.make("runner_workspace", open)?;
        if let Some(name) = paths.workspace.file_name().and_then(|name| name.to_str()) {
            runner_workspace.make(name, open)?;
        }
        if !lender.is_some_and(|lender| lender.lend_binary(&hook)) {
            place_binary(&hook)?;
        }
        Ok(tree)
    }

    /// Opens a tree that `prepare_job` made.
    pub fn open(paths: &RunnerPaths, nonce: &Nonce, foreign_user: bool) -> Result<Self, FileError> {
        let root = Directory::open(&paths.work)?
            .descend(ROOT)?
            .descend(nonce.as_str())?;
        Ok(Self {
            root,
            nonce: nonce.clone(),
            foreign_user,
        })
    }

    /// Links this program into another tree's `hook/`; no pod can write to either. Not every file
    /// system has links.
    fn lend_binary(&self, hook: &Directory) -> bool {
        let own = self.root.descend("hook");
        own.is_ok_and(|own| own.link(BINARY, hook).is_ok())
    }

    /// Removes one tree. Fine when it is gone.
    pub fn remove(paths: &RunnerPaths, nonce: &Nonce) -> Result<(), FileError> {
        match Directory::open(&paths.work)?.descend(ROOT) {
            Ok(root) => root.remove_tree(nonce.as_str()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes every tree: what an earlier job of this runner left, when none is running.
    pub fn remove_all(paths: &RunnerPaths) -> Result<(), FileError> {
        Directory::open(&paths.work)?.remove_tree(ROOT)
    }

    /// Removes every tree but one: that of a job that is kept.
    pub fn remove_others(paths: &RunnerPaths, spared: &Nonce) -> Result<(), FileError> {
        let root = Directory::open(&paths.work)?.descend(ROOT)?;
        for name in root.names()? {
            if name != spared.as_str() {
                root.remove_tree(&name)?;
            }
        }
        Ok(())
    }

    /// The name of the tree.
    #[must_use]
    pub fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The spool.
    pub fn spool(&self) -> Result<Directory, FileError> {
        self.root.descend("spool")
    }

    /// What the pod sees as `/__w/_temp`.
    pub fn temp(&self) -> Result<Directory, FileError> {
        self.root.descend("temp")
    }

    /// What the pod sees as `/github/workflow`, read-only.
    pub fn workflow(&self) -> Result<Directory, FileError> {
        self.root.descend("workflow")
    }

    /// What the pod sees as `/__w/_temp/_runner_file_commands` and `/github/file_commands`.
    pub fn file_commands(&self) -> Result<Directory, FileError> {
        self.root.descend("file_commands")
    }

    /// Path of what the pod sees as `/__e`.
    #[must_use]
    pub fn externals(&self) -> PathBuf {
        self.root.path().join("externals")
    }

    /// Whether the pod runs as another user than the hook.
    #[must_use]
    pub fn foreign_user(&self) -> bool {
        self.foreign_user
    }

    /// Mode of a directory that both sides write.
    #[must_use]
    pub fn directory_mode(&self) -> u32 {
        if self.foreign_user { 0o777 } else { 0o755 }
    }

    /// Mode of a file that both sides write.
    #[must_use]
    pub fn file_mode(&self) -> u32 {
        if self.foreign_user { 0o666 } else { 0o644 }
    }

    /// Leaves the command of the template, which the supervisor runs beside the steps.
    pub fn set_entry(&self, request: &StepRequest) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(request).context("encode the template's command")?;
        let mode = if self.foreign_user { 0o644 } else { 0o600 };
        self.spool()?.record(ENTRY, &bytes, mode)?;
        Ok(())
    }
}

/// Makes the directories of a volume that only one pod has: the job gets them whole, since nothing
/// of the runner's lies beside them. With `open` another user than this one writes there.
pub fn make_own(root: &Path, open: bool, directories: &[PathBuf]) -> anyhow::Result<()> {
    let mode = if open { 0o777 } else { 0o755 };
    let root = Directory::open(root)?;
    let hook = root.make("hook", 0o755)?;
    hook.make("spool", 0o755)?;
    root.make("spool", mode)?.make(STEPS, mode)?;
    make_apart(&root, "externals", 0o755)?;
    let work = make_apart(&root, OWN_WORK, mode)?;
    work.make("_temp", mode)?
        .make("_runner_file_commands", mode)?;
    for name in ["_actions", "_tool"] {
        work.make(name, mode)?;
    }
    for directory in directories {
        let mut at = work.again()?;
        for part in directory {
            at = at.make(part, mode)?;
        }
    }
    let github = make_apart(&root, OWN_GITHUB, mode)?;
    for name in [
        "home",
        "workflow",
        "file_commands",
        "runner_temp",
        "workspace",
    ] {
        github.make(name, mode)?;
    }
    place_binary(&hook)
}

/// Makes a directory that will hold many files, on ext4 in a part of the disk that is drawn by lot.
///
/// A node removes as many pods as it starts, and puts the volume of the next one where that of the
/// last one was. There ext4 takes no inode that was freed in the last minutes, but looks at each of
/// them again for each file that is made (`recently_deleted`, `fs/ext4/ialloc.c`): half a
/// millisecond for a file in place of 20 µs, whoever makes it.
fn make_apart(root: &Directory, name: &str, mode: u32) -> anyhow::Result<Directory> {
    if !root.has(name) {
        let lot = Nonce::random().context("make a name for a directory")?;
        let place = root.make(APART, 0o700)?;
        // A directory stays in its part of the disk when it moves.
        if place.scatter().is_ok() {
            place.make(lot.as_str(), 0o700)?;
            place.hand_over(lot.as_str(), root, name)?;
        }
        root.remove_empty(APART)?;
    }
    Ok(root.make(name, mode)?)
}

/// Makes a directory of the runner's own; the last component is what the pod mounts.
fn make_below(root: &Directory, path: &Path, foreign_user: bool) -> Result<(), FileError> {
    let mut parent: Option<Directory> = None;
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        let name = component.as_os_str();
        let above = parent.as_ref().unwrap_or(root);
        let next = if foreign_user && components.peek().is_none() {
            above.make(name, 0o777)?
        } else {
            above.ensure(name, 0o755)?
        };
        parent = Some(next);
    }
    Ok(())
}

/// Copies this very binary to where the pod mounts it.
fn place_binary(hook: &Directory) -> anyhow::Result<()> {
    // Not `current_exe`: its text is a name, and this is a handle on what runs.
    let mut from = std::fs::File::open("/proc/self/exe").context("open this program itself")?;
    let mut to = hook.create(BINARY, 0o755)?;
    io::copy(&mut from, &mut to).with_context(|| {
        format!(
            "copy this program to `{}`: is the work volume full?",
            hook.path().join(BINARY).display()
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_lies_apart_is_like_any_other() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::open(root.path()).unwrap();
        // The second time as after a restart of the container that makes it.
        for _ in 0..2 {
            make_apart(&directory, "w", 0o777)
                .unwrap()
                .make("inside", 0o755)
                .unwrap();
            assert_eq!(directory.names().unwrap(), ["w"]);
            let mode = rustix::fs::fstat(directory.descend("w").unwrap()).unwrap();
            assert_eq!(mode.st_mode & 0o777, 0o777);
        }
        assert!(root.path().join("w/inside").is_dir());
    }
}
