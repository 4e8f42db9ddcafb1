//! What runs in a kept job's container for someone who enters it: a shell where the failed step ran, with
//! its environment as far as that was kept, or that step again.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use super::inside;
use super::record::Kept;
use crate::spool::directory::Directory;

/// Where the container sees the files that a step's arguments name.
const TEMP: &str = "/__w/_temp";
/// Shells, the most comfortable first.
const SHELLS: [&str; 5] = ["bash", "zsh", "sh", "ash", "dash"];
/// Where programs are looked up when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/busybox";

/// Opens a shell in a kept job, or runs its failed step again
#[derive(Debug, Clone, clap::Args)]
pub struct EnterArgs {
    /// Directory of the spool
    spool: PathBuf,
    /// Runs the failed step again
    #[arg(long)]
    rerun: bool,
    /// Prints the end of the failed step's log
    #[arg(long, conflicts_with = "rerun")]
    log: bool,
    /// A program to run in place of a shell
    #[arg(trailing_var_arg = true)]
    program: Vec<OsString>,
}

impl EnterArgs {
    /// Becomes the program.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let kept = inside::kept(&self.spool)?;
        if self.log {
            let log = kept.log.as_deref().unwrap_or_default();
            io::stdout().write_all(log.as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut command = self.command(&kept)?;
        command.envs(&kept.environment).env("PATH", path(&kept));
        if let Some(directory) = &kept.directory {
            match std::env::set_current_dir(directory) {
                Ok(()) => drop(command.env("PWD", directory)),
                Err(error) => eprintln!("arc-hook: enter `{directory}`: {error}"),
            }
        }
        let error = command.exec();
        let program = command.get_program().to_string_lossy().into_owned();
        eprintln!("arc-hook: run `{program}`: {error}");
        Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
            127
        } else {
            126
        }))
    }

    fn command(&self, kept: &Kept) -> anyhow::Result<Command> {
        if self.rerun {
            let Some(script) = &kept.script else {
                bail!(
                    "run the failed step again: its script was not kept; the template's annotation \
                     `arc-hook/retain-script: \"true\"` keeps it"
                );
            };
            restore(script, Path::new(TEMP))?;
            let (program, arguments) = script.argv.split_first().context("its command is empty")?;
            let mut command = Command::new(program);
            command.args(arguments);
            return Ok(command);
        }
        if let Some((program, arguments)) = self.program.split_first() {
            let mut command = Command::new(program);
            command.args(arguments);
            return Ok(command);
        }
        let path = path(kept);
        let found = SHELLS.iter().find_map(|shell| {
            std::env::split_paths(&path)
                .map(|at| at.join(shell))
                .find(|at| at.is_file())
        });
        found.map(Command::new).context(
            "open a shell: the job's image has none; `--rerun` runs its failed step again, and `-- \
             PROGRAM` a program that the image has",
        )
    }
}

/// Puts a step's script back where its arguments name it.
fn restore(script: &super::record::Script, temp: &Path) -> anyhow::Result<()> {
    for (name, text) in &script.files {
        Directory::open(temp)
            .and_then(|temp| temp.record(name, text.as_bytes(), 0o600))
            .context("write the failed step's script")?;
    }
    Ok(())
}

/// The step's `PATH`: its own entries, then its variable or the container's.
fn path(kept: &Kept) -> OsString {
    let own = kept.environment.get("PATH").map(OsString::from);
    let base = own
        .or_else(|| std::env::var_os("PATH"))
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| DEFAULT_PATH.into());
    let mut path = OsString::new();
    for entry in &kept.path {
        path.push(entry);
        path.push(":");
    }
    path.push(base);
    path
}
