//! A hook that trusts the job, for the proof that attacks on the runner are
//! real: it believes `state`, names what it says, writes every variable into
//! pod specs, keeps records where the job can reach them, and reads and
//! removes them by their paths.
//!
//! Its pods are files in `NAIVE_CLUSTER`, its containers are processes of
//! this machine, in which the container's paths stand for the runner's own,
//! as on a work volume that everything mounts whole.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helper")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

fn main() -> ExitCode {
    let input: Value = serde_json::from_reader(std::io::stdin()).unwrap();
    let hook = Naive::new(&input);
    let code = match input["command"].as_str().unwrap() {
        "prepare_job" => hook.prepare_job(),
        "run_script_step" => hook.run_script_step(),
        "run_container_step" => hook.run_container_step(),
        _ => hook.cleanup_job(),
    };
    ExitCode::from(code)
}

struct Naive<'a> {
    input: &'a Value,
    /// The runner's root, `_work` and `_temp`.
    root: PathBuf,
    work: PathBuf,
    temp: PathBuf,
    cluster: PathBuf,
}

impl<'a> Naive<'a> {
    fn new(input: &'a Value) -> Self {
        let temp = PathBuf::from(std::env::var_os("RUNNER_TEMP").unwrap());
        let work = temp.parent().unwrap().to_owned();
        Self {
            input,
            root: work.parent().unwrap().to_owned(),
            work,
            temp,
            cluster: PathBuf::from(std::env::var_os("NAIVE_CLUSTER").unwrap()),
        }
    }

    fn prepare_job(&self) -> u8 {
        let args = &self.input["args"];
        self.create_pod("runner-workflow", args);
        fs::create_dir_all(self.cluster.join("shm")).unwrap();
        let services = args["services"].as_array().unwrap();
        for service in services {
            if let Some(mut command) = self.container(service) {
                command.stdin(std::process::Stdio::null());
                command.stdout(std::process::Stdio::null());
                command.stderr(std::process::Stdio::null());
                // The driver ends it, as the runner would.
                #[allow(clippy::zombie_processes, reason = "it outlives this call")]
                command.spawn().unwrap();
            }
        }
        let services: Vec<Value> = services.iter().map(|_| json!({"ports": {}})).collect();
        let response = json!({
            "isAlpine": false,
            "state": {"jobPod": "runner-workflow"},
            "context": {"services": services},
        });
        let path = self.input["responseFile"].as_str().unwrap();
        fs::write(path, response.to_string()).unwrap();
        0
    }

    fn run_script_step(&self) -> u8 {
        let args = &self.input["args"];
        let mut command = Command::new(args["entryPoint"].as_str().unwrap());
        for argument in args["entryPointArgs"].as_array().unwrap() {
            let path = self.here(argument.as_str().unwrap());
            if let Ok(script) = fs::read_to_string(&path) {
                fs::write(&path, self.here(&script)).unwrap();
            }
            command.arg(path);
        }
        if let Ok(spec) = fs::read(self.cluster.join(self.job_pod()))
            && let Ok(spec) = serde_json::from_slice::<Value>(&spec)
        {
            self.set_environment(&mut command, &spec["container"]);
        }
        self.set_environment(&mut command, args);
        command.env("HOSTNAME", self.job_pod());
        command.current_dir(self.here(args["workingDirectory"].as_str().unwrap()));
        self.run(command)
    }

    fn run_container_step(&self) -> u8 {
        let args = &self.input["args"];
        let pod = format!("runner-step-{}", std::process::id());
        self.create_pod(&pod, args);
        let Some(mut command) = self.container(args) else {
            return 0;
        };
        command.env("HOSTNAME", pod);
        self.run(command)
    }

    fn cleanup_job(&self) -> u8 {
        // Whatever is called so.
        let _ = fs::remove_file(self.cluster.join(self.job_pod()));
        0
    }

    fn job_pod(&self) -> &str {
        self.input["state"]["jobPod"].as_str().unwrap()
    }

    fn create_pod(&self, name: &str, spec: &Value) {
        fs::write(self.cluster.join(name), spec.to_string()).unwrap();
        // Beside it, what stays of pods that are gone.
        let history = self.cluster.join(format!("{name}.history"));
        fs::write(history, spec.to_string()).unwrap();
    }

    /// A container with an entry point that this machine has too.
    fn container(&self, described: &Value) -> Option<Command> {
        let entry_point = described["entryPoint"].as_str()?;
        if !Path::new(entry_point).exists() {
            return None;
        }
        let arguments: Vec<&str> = described["entryPointArgs"]
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let mut command = Command::new(entry_point);
        command.args(shell_words::split(&self.here(&arguments.join(" "))).ok()?);
        self.set_environment(&mut command, described);
        command.current_dir(self.here("/github/workspace"));
        Some(command)
    }

    fn set_environment(&self, command: &mut Command, described: &Value) {
        let variables = described["environmentVariables"].as_object();
        for (name, value) in variables.into_iter().flatten() {
            command.env(name, self.here(value.as_str().unwrap()));
        }
    }

    /// Runs a step by way of a spool on the work volume.
    fn run(&self, mut command: Command) -> u8 {
        let records = self
            .spool()
            .join("steps")
            .join(std::process::id().to_string());
        fs::create_dir_all(&records).unwrap();
        let (log, exit) = (records.join("log.0"), records.join("exit.json"));
        // In the pod:
        let output = File::create(&log).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let code = command.status().unwrap().code().unwrap_or(137);
        if let Ok(mut record) = File::create_new(&exit) {
            record
                .write_all(json!({"code": code}).to_string().as_bytes())
                .unwrap();
        }
        // In the runner:
        let log = fs::read(&log).unwrap_or_default();
        std::io::stdout().write_all(&log).unwrap();
        let code = fs::read(&exit)
            .ok()
            .and_then(|record| serde_json::from_slice::<Value>(&record).ok())
            .and_then(|record| record["code"].as_u64());
        for entry in fs::read_dir(&records).into_iter().flatten().flatten() {
            let _ = fs::remove_file(entry.path());
        }
        code.map_or(1, |code| u8::try_from(code).unwrap_or(1))
    }

    fn spool(&self) -> PathBuf {
        self.work.join(".arc-hook/naive/spool")
    }

    /// Text of the job, with the paths of its containers turned into the runner's.
    fn here(&self, text: &str) -> String {
        let workspace = std::env::var("GITHUB_WORKSPACE").unwrap();
        let places = [
            (
                "/github/file_commands",
                self.temp.join("_runner_file_commands"),
            ),
            ("/github/runner_temp", self.temp.clone()),
            ("/github/home", self.temp.join("_github_home")),
            ("/github/workflow", self.temp.join("_github_workflow")),
            ("/github/workspace", PathBuf::from(workspace)),
            ("/__hook/spool", self.spool()),
            ("/__w", self.work.clone()),
            ("/dev/shm", self.cluster.join("shm")),
            ("/home/runner", self.root.clone()),
        ];
        places.iter().fold(text.to_owned(), |text, (place, here)| {
            text.replace(place, &here.to_string_lossy())
        })
    }
}
