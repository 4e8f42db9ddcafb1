//! The runner: its directories, its environment, and the way it calls the hook.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake_api::{BINARY, FakeApi};

/// Name of the runner's pod.
pub const RUNNER: &str = "runner-1";
/// Name of its job's pod.
pub const JOB_POD: &str = "runner-1-workflow";

/// A runner with its work volume, and an API server that knows its pod.
pub struct Runner {
    root: tempfile::TempDir,
    /// Name of its pod.
    name: String,
    /// The API server.
    pub api: Arc<FakeApi>,
}

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub log: String,
    /// Standard error.
    pub errors: String,
    /// What the response file holds.
    pub response: Value,
}

impl Runner {
    /// A runner in a pod that shares its work volume by a claim.
    pub fn new() -> Self {
        let runner = Self::outside_a_pod();
        runner.appear("uid-of-runner");
        runner
    }

    /// Another runner in the same cluster.
    pub fn beside(other: &Self, name: &str) -> Self {
        let runner = Self::lay_out(name, Some(&other.api));
        runner.appear(&format!("uid-of-{name}"));
        runner
    }

    /// Its pod is there.
    fn appear(&self, uid: &str) {
        let work = self.work().display().to_string();
        self.api.put(
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": self.name, "namespace": "ci", "uid": uid},
                "spec": {
                    "nodeName": "node-1",
                    "containers": [{
                        "name": "runner", "image": "ghcr.io/actions/actions-runner:latest",
                        "volumeMounts": [{"name": "work", "mountPath": work}]
                    }],
                    "volumes": [{"name": "work", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]
                }
            }),
        );
    }

    /// A runner in a pod without a claim, as ARC's mode `kubernetes-novolume` makes it.
    pub fn without_a_volume() -> Self {
        let runner = Self::outside_a_pod();
        runner.api.put(
            "pods",
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": RUNNER, "namespace": "ci", "uid": "uid-of-runner"},
                "spec": {
                    "nodeName": "node-1",
                    "containers": [{
                        "name": "runner", "image": "ghcr.io/actions/actions-runner:latest"
                    }]
                }
            }),
        );
        runner
    }

    /// The volume of a pod that has one of its own.
    pub fn volume(&self, pod: &str) -> PathBuf {
        self.api.state().own_volume(pod)
    }

    /// A runner whose pod the API server does not know.
    pub fn outside_a_pod() -> Self {
        Self::lay_out(RUNNER, None)
    }

    fn lay_out(name: &str, api: Option<&Arc<FakeApi>>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("_work");
        fs::create_dir_all(work.join("_temp/_runner_file_commands")).unwrap();
        fs::create_dir_all(work.join("repo/repo")).unwrap();
        fs::create_dir_all(root.path().join("externals/node20/bin")).unwrap();
        fs::write(root.path().join("externals/node20/bin/node"), "node").unwrap();
        let api = match api {
            None => Arc::new(FakeApi::start(&work)),
            Some(api) => {
                api.share(&work);
                Arc::clone(api)
            }
        };
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ci"}}],
            "clusters": [{"name": "c", "cluster": {"server": api.url}}],
            "users": [{"name": "u", "user": {}}]
        });
        fs::write(root.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self {
            root,
            name: name.to_owned(),
            api,
        }
    }

    /// The work directory.
    pub fn work(&self) -> PathBuf {
        self.root.path().join("_work")
    }

    /// Where the API server is found.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.path().join("kubeconfig")
    }

    /// Where the hook remembers the job.
    pub fn memory(&self) -> PathBuf {
        let job = format!("{}-workflow", self.name);
        self.root.path().join(".arc-hook").join(job)
    }

    /// The directories of pods on the work volume.
    pub fn trees(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.work().join(".arc-hook"));
        let entries = entries.into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// A file of the runner's own, outside of the work volume.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The runner's file for a file command.
    pub fn file_command(&self, kind: &str) -> PathBuf {
        self.work()
            .join("_temp/_runner_file_commands")
            .join(format!("{kind}_0000"))
    }

    /// Where a process of the job sees that file: containers are processes of this machine here.
    pub fn inside(&self, kind: &str) -> PathBuf {
        let own = self.volume(JOB_POD);
        if own.exists() {
            let below = format!("w/_temp/_runner_file_commands/{kind}_0000");
            return own.join(below);
        }
        self.trees()[0]
            .join("file_commands")
            .join(format!("{kind}_0000"))
    }

    fn response(&self) -> PathBuf {
        self.work().join("_temp/response.json")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.root.path())
            .env("KUBECONFIG", self.kubeconfig())
            .env("ACTIONS_RUNNER_POD_NAME", &self.name)
            .env("ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS", "60")
            .env("RUNNER_TEMP", self.work().join("_temp"))
            .env("RUNNER_TRACKING_ID", "github_0000")
            .env("GITHUB_WORKSPACE", self.work().join("repo/repo"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for kind in ["path", "output"] {
            let file = self.file_command(kind);
            fs::write(&file, "").unwrap();
            command.env(format!("GITHUB_{}", kind.to_uppercase()), file);
        }
        command
    }

    /// Starts a call with this on standard input.
    pub fn start(&self, input: &str, with: &[(&str, &str)]) -> Child {
        let mut command = self.command();
        command.envs(with.iter().copied());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A hook that refuses the request may not read it.
        let _ = stdin.write_all(input.as_bytes());
        child
    }

    /// Waits for the end of a call.
    pub fn finish(&self, child: Child) -> Outcome {
        use std::os::unix::process::ExitStatusExt as _;
        let output = child.wait_with_output().unwrap();
        let response = fs::read_to_string(self.response()).unwrap_or_default();
        Outcome {
            code: output
                .status
                .code()
                .unwrap_or_else(|| -output.status.signal().unwrap_or_default()),
            log: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            response: serde_json::from_str(&response).unwrap_or_default(),
        }
    }

    /// The request, as the runner writes it.
    pub fn request(&self, command: &str, args: &Value) -> String {
        fs::write(self.response(), "").unwrap();
        let request = json!({"command": command, "responseFile": self.response(), "args": args,
                             "state": {"forged": true}});
        format!("{request}\n")
    }

    /// A whole call.
    pub fn call(&self, command: &str, args: &Value) -> Outcome {
        self.call_with(command, args, &[])
    }

    /// A whole call with more in its environment.
    pub fn call_with(&self, command: &str, args: &Value, with: &[(&str, &str)]) -> Outcome {
        let request = self.request(command, args);
        self.finish(self.start(&request, with))
    }

    /// `prepare_job` with a job container and these services.
    pub fn prepare(&self, services: &[Value]) -> Outcome {
        self.call("prepare_job", &job(services))
    }

    /// A script step of the job.
    pub fn script(&self, script: &str) -> Outcome {
        let request = self.script_request(script);
        self.finish(self.start(&request, &[]))
    }

    /// The request for a script step of the job.
    pub fn script_request(&self, script: &str) -> String {
        let output = self.inside("output").display().to_string();
        self.request(
            "run_script_step",
            &json!({
                "entryPoint": "sh", "entryPointArgs": ["-e", "-c", quote(script)],
                "environmentVariables": {"GITHUB_OUTPUT": output},
                "prependPath": [], "workingDirectory": self.work()
            }),
        )
    }
}

/// Arguments as the runner splits them are joined and split again by the rules of a shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Arguments of `prepare_job`.
pub fn job(services: &[Value]) -> Value {
    json!({
        "container": {
            "image": "gcc:12", "workingDirectory": "/__w/repo/repo", "registry": null,
            "environmentVariables": {"HOME": "/github/home", "FROM_JOB": "s3cret of the job"},
            "portMappings": ["8080:80"], "systemMountVolumes": [], "userMountVolumes": []
        },
        "services": services
    })
}

/// A service, as the runner describes it.
pub fn service(image: &str) -> Value {
    json!({"image": image, "environmentVariables": {"PASSWORD": "s3cret of the service"},
           "portMappings": ["6379:6379"], "createOptions": null})
}

/// Waits for something to become true.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal to a process.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(sent.success());
}

/// Every file below a directory whose content holds the text.
pub fn holding(root: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(holding(&path, text));
        // A step's bell is a FIFO, which is never read to its end.
        } else if path.is_file()
            && fs::read(&path)
                .is_ok_and(|bytes| memchr::memmem::find(&bytes, text.as_bytes()).is_some())
        {
            found.push(path);
        }
    }
    found
}
