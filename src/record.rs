//! What the hook remembers from one call to the next: on the runner's side, where no job reaches.
//!
//! The runner hands a `state` from call to call, but its file lies where a job can write, and a
//! failing call cannot change it (actions/runner 2.336.0, `ContainerHookManager.cs`). So nothing of
//! it is believed; what counts lies in a directory of its own per job pod, readable by the
//! runner's user alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::cache::CacheRecord;
use crate::protocol::Environment;
use crate::retain::{Failure, RetainRecord};
use crate::spool::{Nonce, StepRequest};

const JOB: &str = "job.json";
const PATHS: &str = "path.json";
const OUTCOMES: &str = "outcomes.jsonl";
const EXTERNALS: &str = "externals";
const EVENT: &str = "event";
const FILES: &str = "files.lock";
const STEPS: &str = "steps";
const FAILURE: &str = "failure.json";
const LAST_WORDS: &str = "last-words";

/// A job as `prepare_job` left it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Name of the job's directory on the work volume.
    pub nonce: Nonce,
    /// The job's pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The job's own environment: `container.env` and what the runner adds. It holds secrets.
    pub environment: Environment,
    /// Directory of steps that name none.
    pub working_directory: Option<String>,
    /// The pod runs as another user than the hook, so both sides need open modes.
    pub foreign_user: bool,
    /// The pod shares no volume with the runner: files are copied.
    #[serde(default)]
    pub copied: bool,
    /// The runner's programs are mounted out of its image, and need not be waited for.
    #[serde(default)]
    pub externals_mounted: bool,
    /// User and group of the job's container, once it has said so.
    pub user: Option<(u32, u32)>,
    /// That user, when it is not left to the image.
    #[serde(default)]
    pub forced_user: Option<ForcedUser>,
    /// Address of the job's pod, when it has services: container actions reach them there.
    #[serde(default)]
    pub address: Option<String>,
    /// Names of the services.
    #[serde(default)]
    pub host_names: Vec<String>,
    /// The job's caches.
    #[serde(default)]
    pub caches: Vec<CacheRecord>,
    /// How it is kept, if it can be.
    #[serde(default)]
    pub retain: Option<RetainRecord>,
}

/// A user whom the job's container was given, whatever its image says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcedUser {
    /// User id.
    pub uid: u32,
    /// What chose it.
    pub by: ForcedBy,
    /// Whether it has an entry in the container's `/etc/passwd`.
    pub named: bool,
}

/// What chose a job's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForcedBy {
    /// The annotation `arc-hook/run-as`.
    Annotation,
    /// `runAsUser` of the template, or `--user` of the workflow.
    Specification,
}

/// The directory of one job's memory.
#[derive(Debug, Clone)]
pub struct Memory {
    directory: PathBuf,
}

/// Whether node and the runner's other programs have arrived in the job's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Externals {
    /// Still being copied, or never begun.
    Copying,
    /// Complete.
    Complete,
    /// The copy failed, and why.
    Failed(String),
}

impl Memory {
    /// The memory of the job whose pod has that name.
    #[must_use]
    pub fn of(state: &Path, job_pod: &str) -> Self {
        Self {
            directory: state.join(job_pod),
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory, for a command that no `prepare_job` came before.
    pub fn begin(&self) -> anyhow::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .with_context(|| self.failed("make the directory"))
    }

    /// Remembers the job, and makes the directory.
    pub fn save(&self, job: &JobRecord) -> anyhow::Result<()> {
        self.begin()?;
        let text = serde_json::to_vec(job).context("encode the job's record")?;
        let temporary = self.directory.join(".job.new");
        private(
            OpenOptions::new().write(true).create(true).truncate(true),
            &temporary,
        )
        .and_then(|mut file| file.write_all(&text))
        .and_then(|()| std::fs::rename(&temporary, self.directory.join(JOB)))
        .with_context(|| self.failed("write the job's record in"))
    }

    /// The job, if `prepare_job` got that far.
    pub fn job(&self) -> anyhow::Result<Option<JobRecord>> {
        let Some(text) = self.read(JOB)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| self.failed("parse the job's record in"))
    }

    /// Forgets everything. Fine when there is nothing.
    pub fn remove(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.failed("remove"))
            }
            _ => Ok(()),
        }
    }

    /// Directories that steps put in front of `PATH`, most recent first.
    pub fn path(&self) -> anyhow::Result<Vec<String>> {
        let Some(text) = self.read(PATHS)?.filter(|text| !text.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut entries: Vec<String> =
            serde_json::from_slice(&text).with_context(|| self.failed("parse the path list in"))?;
        entries.reverse();
        Ok(entries)
    }

    /// Adds directories as the runner would: one that is there already moves to the front.
    ///
    /// Background steps end at the same time, so the list is changed under a lock.
    pub fn add_path(&self, added: &[String]) -> anyhow::Result<()> {
        if added.is_empty() {
            return Ok(());
        }
        let change = || -> io::Result<()> {
            let mut file = private(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false),
                &self.directory.join(PATHS),
            )?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            let mut entries: Vec<String> = if text.is_empty() {
                Vec::new()
            } else {
                serde_json::from_slice(&text)?
            };
            for entry in added {
                entries.retain(|known| known != entry);
                entries.push(entry.clone());
            }
            let text = serde_json::to_vec(&entries)?;
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
            file.write_all(&text)?;
            file.set_len(text.len() as u64)
        };
        change().with_context(|| self.failed("write the path list in"))
    }

    /// Notes that a step begins. One that never ends has failed: its hook was killed.
    pub fn note_begin(&self, command: &str) {
        self.note_line(&format!("{{\"command\":\"{command}\"}}\n"));
    }

    /// Notes how a command ended. Best effort: a full disk must not hide the step's own end.
    pub fn note_outcome(&self, command: &str, exit: u8) {
        self.note_line(&format!("{{\"command\":\"{command}\",\"exit\":{exit}}}\n"));
    }

    /// Whether every step that began has ended with 0.
    pub fn all_good(&self) -> anyhow::Result<bool> {
        #[derive(Deserialize)]
        struct Outcome {
            exit: Option<u8>,
        }
        let text = self.read(OUTCOMES)?.unwrap_or_default();
        let mut running = 0_u64;
        for line in text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            match serde_json::from_slice(line) {
                Ok(Outcome { exit: None }) => running += 1,
                Ok(Outcome { exit: Some(0) }) if running > 0 => running -= 1,
                _ => return Ok(false),
            }
        }
        Ok(running == 0)
    }

    fn note_line(&self, line: &str) {
        let _ = private(
            OpenOptions::new().append(true).create(true),
            &self.directory.join(OUTCOMES),
        )
        .and_then(|mut file| file.write_all(line.as_bytes()));
    }

    /// The step by whose end the job failed, as far as one was noted.
    pub fn failure(&self) -> anyhow::Result<Option<Failure>> {
        let Some(text) = self.read(FAILURE)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| self.failed("parse the failed step in"))
    }

    /// Notes the step by whose end the job failed, in place of an earlier one. Best effort.
    pub fn note_failure(&self, failure: &Failure) {
        if let Ok(text) = serde_json::to_vec(failure) {
            self.put(FAILURE, &text);
        }
    }

    /// The end of the log of the step that ended last.
    #[must_use]
    pub fn last_words(&self) -> Vec<u8> {
        self.read(LAST_WORDS).ok().flatten().unwrap_or_default()
    }

    /// Notes the end of a step's log. Best effort.
    pub fn note_last_words(&self, words: &[u8]) {
        self.put(LAST_WORDS, words);
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let _ = private(
            OpenOptions::new().write(true).create(true).truncate(true),
            &self.directory.join(name),
        )
        .and_then(|mut file| file.write_all(bytes));
    }

    /// Where the copy of the runner's programs stands.
    pub fn externals(&self) -> anyhow::Result<Externals> {
        Ok(match self.read(EXTERNALS)? {
            None => Externals::Copying,
            Some(text) if text.is_empty() => Externals::Complete,
            Some(text) => Externals::Failed(String::from_utf8_lossy(&text).into_owned()),
        })
    }

    /// Notes how the copy of the runner's programs ended.
    pub fn note_externals(&self, failure: Option<&str>) -> io::Result<()> {
        let temporary = self.directory.join(".externals.new");
        private(
            OpenOptions::new().write(true).create(true).truncate(true),
            &temporary,
        )?
        .write_all(failure.unwrap_or_default().as_bytes())?;
        std::fs::rename(temporary, self.directory.join(EXTERNALS))
    }

    /// Whether `event` (a description of event.json) differs from what was last remembered.
    pub fn event_changed(&self, event: &str) -> anyhow::Result<bool> {
        Ok(self
            .read(EVENT)?
            .is_none_or(|known| known != event.as_bytes()))
    }

    /// Remembers the event.json that the job has.
    pub fn note_event(&self, event: &str) -> anyhow::Result<()> {
        private(
            OpenOptions::new().write(true).create(true).truncate(true),
            &self.directory.join(EVENT),
        )
        .and_then(|mut file| file.write_all(event.as_bytes()))
        .with_context(|| self.failed("write a note in"))
    }

    /// Writes the template's command where only this user can read it, to be sent from there.
    pub fn write_entry(&self, entry: &StepRequest) -> anyhow::Result<PathBuf> {
        let path = self.directory.join("entry.json");
        let text = serde_json::to_vec(entry).context("encode the template's command")?;
        private(
            OpenOptions::new().write(true).create(true).truncate(true),
            &path,
        )
        .and_then(|mut file| file.write_all(&text))
        .with_context(|| self.failed("write the template's command in"))?;
        Ok(path)
    }

    /// Only one process at a time changes what both sides are known to have. `None` while another
    /// does.
    pub fn lock_files(&self) -> anyhow::Result<Option<File>> {
        let file = private(
            OpenOptions::new().write(true).create(true).truncate(false),
            &self.directory.join(FILES),
        )
        .with_context(|| self.failed("lock the manifest in"))?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(locked.is_ok().then_some(file))
    }

    /// Notes that this process waits for a step, for as long as the file is held.
    pub fn hold_step(&self, step: &Nonce) -> anyhow::Result<File> {
        let held = || -> io::Result<File> {
            let directory = self.directory.join(STEPS);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)?;
            let file = private(
                OpenOptions::new().write(true).create(true).truncate(false),
                &directory.join(step.as_str()),
            )?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            Ok(file)
        };
        held().with_context(|| self.failed("note the step in"))
    }

    /// Forgets a step that has ended.
    pub fn forget_step(&self, step: &Nonce) {
        let _ = std::fs::remove_file(self.directory.join(STEPS).join(step.as_str()));
    }

    /// Steps that a process of this runner waited for which is dead.
    #[must_use]
    pub fn orphaned_steps(&self) -> Vec<Nonce> {
        let entries = std::fs::read_dir(self.directory.join(STEPS));
        entries
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                File::open(entry.path()).is_ok_and(|file| {
                    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                })
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        match std::fs::read(self.directory.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| self.failed("read from")),
        }
    }

    fn failed(&self, verb: &str) -> String {
        format!("{verb} `{}`", self.directory.display())
    }
}

fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> (tempfile::TempDir, Memory) {
        let state = tempfile::tempdir().unwrap();
        let memory = Memory::of(state.path(), "runner-1-workflow");
        memory
            .save(&JobRecord {
                nonce: Nonce::random().unwrap(),
                pod: "runner-1-workflow".to_owned(),
                namespace: "ci".to_owned(),
                environment: Environment::from([("TOKEN".to_owned(), "secret".to_owned())]),
                working_directory: None,
                foreign_user: false,
                copied: false,
                externals_mounted: false,
                user: None,
                forced_user: None,
                address: None,
                host_names: Vec::new(),
                caches: Vec::new(),
                retain: None,
            })
            .unwrap();
        (state, memory)
    }

    #[test]
    fn only_the_runners_user_can_read_what_is_remembered() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_state, memory) = memory();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(memory.directory()), 0o700);
        assert_eq!(mode(&memory.directory().join(JOB)), 0o600);
    }

    #[test]
    fn a_path_added_again_moves_to_the_front() {
        let (_state, memory) = memory();
        memory
            .add_path(&["/a".to_owned(), "/b".to_owned()])
            .unwrap();
        memory
            .add_path(&["/c".to_owned(), "/a".to_owned()])
            .unwrap();
        assert_eq!(memory.path().unwrap(), ["/a", "/c", "/b"]);
    }

    #[test]
    fn a_job_is_good_when_each_step_that_began_ended_well() {
        let good = |notes: &[Option<u8>]| {
            let (_state, memory) = memory();
            for note in notes {
                match note {
                    None => memory.note_begin("run_script_step"),
                    Some(exit) => memory.note_outcome("run_script_step", *exit),
                }
            }
            memory.all_good().unwrap()
        };
        assert!(good(&[]));
        assert!(good(&[None, Some(0), None, None, Some(0), Some(0)]));
        assert!(!good(&[None, Some(0), None]));
        assert!(!good(&[None, Some(1), None, Some(0)]));
        assert!(!good(&[Some(0)]));
    }

    #[test]
    fn a_note_that_cannot_be_read_is_no_good_one() {
        let (_state, memory) = memory();
        memory.note_begin("run_script_step");
        std::fs::write(memory.directory().join(OUTCOMES), "{\"command\":\"run").unwrap();
        assert!(!memory.all_good().unwrap());
    }

    #[test]
    fn what_was_never_prepared_is_absent_and_can_be_removed() {
        let state = tempfile::tempdir().unwrap();
        let memory = Memory::of(state.path(), "none");
        assert!(memory.job().unwrap().is_none());
        assert_eq!(memory.path().unwrap(), Vec::<String>::new());
        memory.remove().unwrap();
    }
}
