//! A prepared job whose container is this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use arc_hook::config::RunnerPaths;
use arc_hook::record::{ForcedUser, JobRecord, Memory};
use arc_hook::spool::{JobTree, Nonce};
use serde_json::json;

pub const BINARY: &str = env!("CARGO_BIN_EXE_arc-hook");
const FILE_COMMANDS: [&str; 5] = ["path", "output", "env", "state", "step_summary"];
/// How long a condition is awaited.
const PATIENCE: Duration = Duration::from_mins(1);

/// A prepared job whose container is this machine.
pub struct Job {
    pub root: tempfile::TempDir,
    pub paths: RunnerPaths,
    pub tree: PathBuf,
    supervisor: Child,
}

impl Job {
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// A job whose user is taken for one that was chosen for it.
    pub fn start_as(forced_user: Option<ForcedUser>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("_work");
        let paths = RunnerPaths {
            temp: work.join("_temp"),
            tools: work.join("_tool"),
            workspace: work.join("repo/repo"),
            externals: root.path().join("externals"),
            state: root.path().join(".arc-hook"),
            work,
        };
        fs::create_dir_all(paths.temp.join("_runner_file_commands")).unwrap();
        let nonce = Nonce::random().unwrap();
        JobTree::create(&paths, &nonce, false, None).unwrap();
        Memory::of(&paths.state, "runner-workflow")
            .save(&JobRecord {
                nonce: nonce.clone(),
                pod: "runner-workflow".to_owned(),
                namespace: "ci".to_owned(),
                environment: BTreeMap::from([("FROM_JOB".to_owned(), "job value".to_owned())]),
                working_directory: None,
                foreign_user: false,
                copied: false,
                externals_mounted: false,
                user: Some((0, 0)),
                forced_user,
                address: None,
                host_names: Vec::new(),
                caches: Vec::new(),
                retain: None,
            })
            .unwrap();
        let tree = paths.work.join(".arc-hook").join(nonce.as_str());
        let supervisor = Command::new(BINARY)
            .arg("supervise")
            .arg(tree.join("spool"))
            .args(["--nonce", nonce.as_str()])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("FROM_IMAGE", "image value")
            .spawn()
            .unwrap();
        let job = Self {
            root,
            paths,
            tree,
            supervisor,
        };
        wait_until("the supervisor is ready", || {
            job.tree.join("spool/ready.json").exists()
        });
        job
    }

    pub fn file_command(&self, kind: &str) -> PathBuf {
        self.paths
            .temp
            .join("_runner_file_commands")
            .join(format!("{kind}_0000-1111"))
    }

    /// Where the job's processes see a file command.
    pub fn inside(&self, kind: &str) -> PathBuf {
        self.tree
            .join("file_commands")
            .join(format!("{kind}_0000-1111"))
    }

    pub fn hook(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("ACTIONS_RUNNER_POD_NAME", "runner")
            .env("RUNNER_TEMP", &self.paths.temp)
            .env("GITHUB_WORKSPACE", &self.paths.workspace)
            .env("KUBECONFIG", self.root.path().join("absent"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn request(&self, script: &str, environment: &BTreeMap<String, String>) -> String {
        let mut all = environment.clone();
        for kind in FILE_COMMANDS {
            all.insert(
                format!("GITHUB_{}", kind.to_uppercase()),
                self.inside(kind).display().to_string(),
            );
        }
        // Scripts reach a container through the mount of `_temp`; here the file itself is named.
        let file = self
            .root
            .path()
            .join(format!("{}.sh", Nonce::random().unwrap()));
        fs::write(&file, script).unwrap();
        json!({
            "command": "run_script_step", "responseFile": null, "state": null,
            "args": {
                "entryPoint": "sh", "entryPointArgs": ["-e", file],
                "environmentVariables": all, "prependPath": [],
                "workingDirectory": self.root.path(),
            },
        })
        .to_string()
    }

    pub fn begin(&self, script: &str) -> Child {
        self.begin_with(script, &BTreeMap::new())
    }

    pub fn begin_with(&self, script: &str, environment: &BTreeMap<String, String>) -> Child {
        let mut command = self.hook();
        for kind in FILE_COMMANDS {
            fs::write(self.file_command(kind), "").unwrap();
            command.env(
                format!("GITHUB_{}", kind.to_uppercase()),
                self.file_command(kind),
            );
        }
        let mut child = command.spawn().unwrap();
        let request = self.request(script, environment);
        writeln!(child.stdin.take().unwrap(), "{request}").unwrap();
        child
    }

    /// A step without file commands: those of [`Self::begin`] have one name for all steps, where
    /// the runner gives each its own.
    pub fn begin_bare(&self, script: &str) -> Child {
        let mut child = self.hook().spawn().unwrap();
        let request = self.request(script, &BTreeMap::new());
        writeln!(child.stdin.take().unwrap(), "{request}").unwrap();
        child
    }

    pub fn run(&self, script: &str) -> Output {
        self.begin(script).wait_with_output().unwrap()
    }

    pub fn steps_left(&self) -> usize {
        fs::read_dir(self.tree.join("spool/steps")).unwrap().count()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        signal(&self.supervisor, rustix::process::Signal::TERM);
        let _ = self.supervisor.wait();
    }
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn is_alive(pid_file: &Path) -> bool {
    let Ok(pid) = fs::read_to_string(pid_file) else {
        return false;
    };
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
