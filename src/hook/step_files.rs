//! The files that cross the wall between the runner and the job, one step at a time.
//!
//! The job never sees the runner's own `_temp`. Before a step the hook copies in what the step
//! names: its script, `event.json`, its file commands; after it, also after a failure or a
//! cancel, the file commands come back. `GITHUB_PATH` does not: the runner would look up `bash`
//! for the next hook call in these directories, on its own file system.

use std::cell::Cell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::{Config, FileCommands};
use crate::record::Memory;
use crate::spool::directory::Directory;
use crate::spool::{JobTree, Nonce};

/// Most that one file command may say. What is larger fails the step: half of it would be a lie.
const FILE_COMMAND_LIMIT: u64 = 64 * 1024 * 1024;
/// Where the job container sees `temp`.
const CONTAINER_TEMP: &str = "/__w/_temp/";
const BUFFER: usize = 64 * 1024;

/// The files of one step.
#[derive(Debug)]
pub struct StepFiles<'a> {
    commands: &'a FileCommands,
    temp: Directory,
    file_commands: Directory,
    scripts: Vec<String>,
}

impl<'a> StepFiles<'a> {
    /// Copies in what the step needs: files of the runner's `_temp` that `arguments` name,
    /// `event.json` when it changed, and the file commands.
    pub fn copy_in(
        config: &'a Config,
        memory: &Memory,
        tree: &JobTree,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let files = Self {
            commands: &config.file_commands,
            temp: tree.temp()?,
            file_commands: tree.file_commands()?,
            scripts: scripts(arguments),
        };
        for name in &files.scripts {
            let from = config.paths.temp.join(name);
            // An argument may just look like one; then the step itself will say what it misses.
            if !from.is_file() {
                continue;
            }
            copy_to(&from, &files.temp, name, tree.file_mode())?;
        }
        copy_event(config, memory, tree)?;
        for (path, name) in files.named() {
            match path {
                path if path.is_file() => {
                    copy_to(path, &files.file_commands, name, tree.file_mode())?;
                }
                _ => drop(files.file_commands.replace(name, tree.file_mode())?),
            }
        }
        Ok(files)
    }

    /// Copies the file commands out, and returns the `PATH` entries, which stay with the hook.
    pub fn copy_out(self) -> anyhow::Result<Vec<String>> {
        let mut failure = None;
        for path in &self.commands.others {
            let Some(name) = file_name(path) else {
                continue;
            };
            // One bad file must not take the others along.
            if let Err(error) = self.copy_command_out(path, name) {
                failure.get_or_insert(error);
            }
        }
        let entries = match self.commands.path.as_deref().and_then(file_name) {
            Some(name) => self.path_entries(name),
            None => Ok(Vec::new()),
        };
        for (_, name) in self.named() {
            let _ = self.file_commands.remove(name);
        }
        for name in &self.scripts {
            let _ = self.temp.remove(name);
        }
        match failure {
            Some(error) => Err(error),
            None => entries,
        }
    }

    fn named(&self) -> impl Iterator<Item = (&Path, &str)> {
        named(self.commands)
    }

    fn copy_command_out(&self, to: &Path, name: &str) -> anyhow::Result<()> {
        // The runner takes a missing file for an empty one.
        let Some(mut from) = self.file_commands.file(name)? else {
            return Ok(());
        };
        let size = from.metadata().with_context(|| examined(name))?.len();
        if size > FILE_COMMAND_LIMIT {
            bail!(
                "copy the file command `{name}` to the runner: it is {size} bytes, more than the \
                 {FILE_COMMAND_LIMIT} that are allowed; pass large values as artifacts"
            );
        }
        let mut to = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(to)
            .with_context(|| format!("open the runner's file command `{}`", to.display()))?;
        let copied = copy(&mut (&mut from).take(FILE_COMMAND_LIMIT + 1), &mut to)
            .with_context(|| format!("copy the file command `{name}` to the runner"))?;
        if copied < size || copied > FILE_COMMAND_LIMIT {
            bail!(
                "copy the file command `{name}` to the runner: it changed from {size} to {copied} \
                 bytes while it was read; a process of the job still writes to it"
            );
        }
        Ok(())
    }

    fn path_entries(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let bytes = self.file_commands.read(name, FILE_COMMAND_LIMIT)?;
        Ok(path_entries(&bytes.unwrap_or_default()))
    }
}

/// File commands as they come back from a pod that shares no volume: kept apart until all are there.
#[derive(Debug)]
pub struct Returned<'a> {
    commands: &'a FileCommands,
    directory: PathBuf,
    complete: Cell<bool>,
}

impl<'a> Returned<'a> {
    /// Makes a directory for them in the hook's memory.
    pub fn begin(config: &'a Config, memory: &Path, step: &Nonce) -> anyhow::Result<Self> {
        Self::of(&config.file_commands, memory, step)
    }

    /// None are awaited.
    pub fn nothing(memory: &Path, name: &Nonce) -> anyhow::Result<Self> {
        static NONE: FileCommands = FileCommands {
            path: None,
            others: Vec::new(),
        };
        Self::of(&NONE, memory, name)
    }

    fn of(commands: &'a FileCommands, memory: &Path, step: &Nonce) -> anyhow::Result<Self> {
        let directory = memory.join(format!("returned-{step}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("make the directory `{}`", directory.display()))?;
        Ok(Self {
            commands,
            directory,
            complete: Cell::new(false),
        })
    }

    /// Names and places of the runner's files.
    pub fn commands(&self) -> impl Iterator<Item = (&str, &Path)> {
        named(self.commands).map(|(path, name)| (name, path))
    }

    /// The runner's files with their paths in archives.
    pub fn sent(&self) -> Vec<(String, PathBuf)> {
        self.commands()
            .map(|(name, path)| (format!("commands/{name}"), path.to_owned()))
            .collect()
    }

    /// Where they come to.
    pub fn directory(&self) -> anyhow::Result<Directory> {
        Ok(Directory::open(&self.directory)?)
    }

    /// All are there.
    pub fn complete(&self) {
        self.complete.set(true);
    }

    /// Hands them over to the runner, if all are there, and returns the `PATH` entries.
    pub fn hand_over(self) -> anyhow::Result<Vec<String>> {
        let handed = if self.complete.get() {
            StepFiles {
                commands: self.commands,
                temp: self.directory()?,
                file_commands: self.directory()?,
                scripts: Vec::new(),
            }
            .copy_out()
        } else {
            Ok(Vec::new())
        };
        let _ = std::fs::remove_dir_all(&self.directory);
        handed
    }
}

/// File commands with their names.
fn named(commands: &FileCommands) -> impl Iterator<Item = (&Path, &str)> {
    commands
        .others
        .iter()
        .chain(&commands.path)
        .filter_map(|path| Some((path.as_path(), file_name(path)?)))
}

fn examined(name: &str) -> String {
    format!("examine the file command `{name}`")
}

/// Lines of `GITHUB_PATH`, as .NET's `File.ReadAllLines` splits them.
fn path_entries(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    text.split(['\n', '\r'])
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Names directly below `/__w/_temp` that the arguments mention, also within quotes
/// (`pwsh -command ". '/__w/_temp/x.ps1'"`).
pub(super) fn scripts(arguments: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for argument in arguments {
        for rest in argument.split(CONTAINER_TEMP).skip(1) {
            let name: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
                .collect();
            if !name.is_empty() && !name.starts_with('.') && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Gives the job the event as the runner has it now; it is written anew at each action step.
fn copy_event(config: &Config, memory: &Memory, tree: &JobTree) -> anyhow::Result<()> {
    let Ok(metadata) = std::fs::metadata(&config.event) else {
        return Ok(());
    };
    let stamp = format!(
        "{} {}.{:09} {}",
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ino()
    );
    if memory.event_changed(&stamp)? {
        let workflow = tree.workflow()?;
        // Two background steps may copy it at once: each appears whole.
        let temporary = format!(".event.{}", std::process::id());
        copy_to(&config.event, &workflow, &temporary, 0o644)?;
        workflow.rename(&temporary, "event.json")?;
        memory.note_event(&stamp)?;
    }
    Ok(())
}

fn copy_to(from: &Path, to: &Directory, name: &str, mode: u32) -> anyhow::Result<()> {
    let mut source =
        File::open(from).with_context(|| format!("open the runner's `{}`", from.display()))?;
    let mut target = to.replace(name, mode)?;
    copy(&mut source, &mut target).with_context(|| {
        format!(
            "copy `{}` to the job: is the work volume full?",
            from.display()
        )
    })?;
    Ok(())
}

/// [`io::copy`] with a buffer of our own: the memory of a step does not depend on its files.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_found_in_arguments_with_and_without_quotes() {
        let found = |arguments: &[&str]| {
            scripts(&arguments.iter().map(|&a| a.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(found(&["-e", "/__w/_temp/ab-1.sh"]), ["ab-1.sh"]);
        assert_eq!(
            found(&["-command", "\".", "'/__w/_temp/ab-1.ps1'\""]),
            ["ab-1.ps1"]
        );
        assert_eq!(found(&["/__w/_temp/../../x"]), Vec::<String>::new());
        assert_eq!(
            found(&["/__w/_temp/_runner_hook_responses/x.json"]),
            ["_runner_hook_responses"],
            "a directory is no file, so it is not copied"
        );
        assert_eq!(found(&["-c", "echo hi"]), Vec::<String>::new());
    }

    #[test]
    fn path_entries_are_the_lines_that_are_not_empty() {
        assert_eq!(
            path_entries(b"\xef\xbb\xbf/a\r\n\r\n/b c\n/d"),
            ["/a", "/b c", "/d"]
        );
        assert_eq!(path_entries(b""), Vec::<String>::new());
        assert_eq!(path_entries(b"/a\r/b:c"), ["/a", "/b:c"]);
    }
}
