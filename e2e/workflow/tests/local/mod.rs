//! A runner in a directory of this machine, with a hook of `examples/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use arc_hook_e2e::report::Report;

/// A runner's directory, and beside it what no job should reach.
pub struct Runner {
    directory: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

/// What came of a job.
pub struct Outcome {
    pub report: Report,
    pub log: String,
}

impl Runner {
    /// With the hook called so.
    pub fn with(hook: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runner = Self {
            directory,
            variables: Vec::new(),
        };
        std::fs::create_dir_all(runner.root()).unwrap();
        std::fs::create_dir_all(runner.beside("cluster")).unwrap();
        let program = std::env::current_exe().unwrap();
        let examples = program.ancestors().nth(2).unwrap().join("examples");
        let text = format!("exec {}\n", examples.join(hook).display());
        std::fs::write(runner.beside("index.sh"), text).unwrap();
        runner
    }

    /// The same with a variable in its container.
    #[allow(dead_code, reason = "not every test has one")]
    pub fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// `/home/runner`.
    pub fn root(&self) -> PathBuf {
        self.beside("runner")
    }

    /// What lies beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The driver on this job.
    pub fn worker(&self, job: &str) -> Command {
        std::fs::write(self.beside("job.yaml"), job).unwrap();
        let mut worker = Command::new(env!("CARGO_BIN_EXE_runner-worker"));
        worker
            .args(["--quiet", "--once"])
            .arg(self.beside("job.yaml"))
            .arg("--root")
            .arg(self.root())
            .current_dir(self.root())
            .env("ACTIONS_RUNNER_CONTAINER_HOOKS", self.beside("index.sh"))
            .env("NAIVE_CLUSTER", self.beside("cluster"))
            .env_remove("ACTIONS_ALLOW_UNSECURE_COMMANDS")
            .envs(self.variables.iter().cloned());
        worker
    }

    /// Runs a job to its end.
    pub fn run(&self, job: &str) -> Outcome {
        let output = self.worker(job).output().unwrap();
        self.outcome()
            .unwrap_or_else(|| panic!("no report: {output:?}"))
    }

    /// What came of the job that ran.
    pub fn outcome(&self) -> Option<Outcome> {
        let report = std::fs::read_to_string(self.beside("report.json")).ok()?;
        Some(Outcome {
            report: serde_json::from_str(&report).unwrap(),
            log: std::fs::read_to_string(self.beside("job.log")).unwrap(),
        })
    }
}

/// A file of `e2e/jobs/`.
#[allow(dead_code, reason = "not every test reads one")]
pub fn job(name: &str) -> serde_json::Value {
    let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jobs");
    let text = std::fs::read_to_string(jobs.join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}
