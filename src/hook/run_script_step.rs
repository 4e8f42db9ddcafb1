//! `run_script_step`: a `run:` or JavaScript step in the job's container.
//!
//! Nothing here talks to the API server, unless the supervisor falls silent.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::api::Api;
use super::liveness::PodLiveness;
use super::remote::Remote;
use super::retention;
use super::step::{StepRun, Way};
use crate::config::Config;
use crate::pod::{externals, names};
use crate::protocol::ScriptStep;
use crate::record::{Externals, JobRecord, Memory};
use crate::spool::signals::Signals;
use crate::spool::{JobTree, StepRequest};

/// How long a step waits for the runner's programs: a few hundred megabytes on a slow volume.
const EXTERNALS_TIMEOUT: Duration = Duration::from_mins(10);

/// Runs the step and returns its exit code.
///
/// # Errors
/// There is no job container, or the step's end is not known.
pub fn run(config: &Config, step: ScriptStep, signals: &Signals) -> anyhow::Result<u8> {
    let memory = Memory::of(&config.paths.state, &names::job_pod(&config.pod_name));
    // A job whose container never said who it is was never ready: its `prepare_job` was killed.
    let ready = memory.job()?.filter(|job| job.user.is_some());
    let job = ready.context(
        "run the step: the job has no container, because `prepare_job` failed or was cancelled; \
         the cause stands in the log of \"Initialize containers\"",
    )?;
    memory.note_begin("run_script_step");
    let request = request(&job, memory.path()?, step)?;
    let externals =
        !job.externals_mounted && Path::new(&request.argv[0]).starts_with(externals::MOUNT);
    let mut liveness = PodLiveness::new(&job.namespace, &job.pod, &job.nonce);
    let step = retention::Step::of(&job, &request);
    if job.copied {
        let api = Api::connect(Some(&job.namespace))?;
        let remote = Remote::of_job(&api, config, &memory, &job);
        let run = StepRun {
            config,
            memory: &memory,
            way: Way::Copied {
                remote: &remote,
                externals,
            },
            request,
            forced_user: job.forced_user,
            last_words: job.retain.is_some(),
        };
        let code = run.run(signals, &mut liveness);
        memory.note_outcome("run_script_step", *code.as_ref().unwrap_or(&1));
        step.note(config, &memory, &code, signals);
        return code;
    }
    let tree = JobTree::open(&config.paths, &job.nonce, job.foreign_user)
        .context("open the job's directory on the work volume")?;
    if externals && let Some(code) = await_externals(&memory, signals)? {
        return Ok(code);
    }
    let spool = tree.spool()?;
    let run = StepRun {
        config,
        memory: &memory,
        way: Way::Shared {
            files: &tree,
            spool,
        },
        request,
        forced_user: job.forced_user,
        last_words: job.retain.is_some(),
    };
    let code = run.run(signals, &mut liveness);
    memory.note_outcome("run_script_step", *code.as_ref().unwrap_or(&1));
    step.note(config, &memory, &code, signals);
    code
}

/// What the supervisor is told: arguments as `docker exec` would get them, the job's environment
/// overlaid by the step's, and `PATH` entries, those of this job's steps first.
fn request(job: &JobRecord, path: Vec<String>, step: ScriptStep) -> anyhow::Result<StepRequest> {
    let argv = arguments(&step.entry_point, &step.entry_point_args)?;
    if argv.is_empty() {
        bail!("run the step: field `args.entryPoint` is empty");
    }
    let mut environment = job.environment.clone();
    environment.extend(step.environment_variables);
    let mut entries = path;
    entries.extend(step.prepend_path);
    Ok(StepRequest {
        argv,
        environment,
        path: entries,
        directory: step.working_directory.or(job.working_directory.clone()),
        alone: 0,
    })
}

/// Puts the arguments together again: the runner splits them at every blank and keeps the quotes
/// (actions/runner 2.336.0, `ContainerHookManager.cs`, `HookInput.cs`).
pub(crate) fn arguments(program: &str, arguments: &[String]) -> anyhow::Result<Vec<String>> {
    let line = std::iter::once(program)
        .chain(arguments.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ");
    shell_words::split(&line).with_context(|| {
        format!("split the arguments of `{program}`: a quote is opened and never closed")
    })
}

fn await_externals(memory: &Memory, signals: &Signals) -> anyhow::Result<Option<u8>> {
    let deadline = Instant::now() + EXTERNALS_TIMEOUT;
    loop {
        match memory.externals()? {
            Externals::Complete => return Ok(None),
            Externals::Failed(reason) => bail!(
                "run a JavaScript action: the runner's `externals` could not be copied to the \
                 work volume: {reason}"
            ),
            Externals::Copying => {}
        }
        if let Some(signal) = signals.received() {
            return Ok(Some(128 + signal));
        }
        if Instant::now() >= deadline {
            bail!(
                "run a JavaScript action: the runner's `externals` were not copied to the work \
                 volume within {} s; is the volume slow or full?",
                EXTERNALS_TIMEOUT.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Environment;
    use crate::spool::Nonce;

    fn job() -> JobRecord {
        JobRecord {
            nonce: Nonce::random().unwrap(),
            pod: "runner-workflow".to_owned(),
            namespace: "ci".to_owned(),
            environment: Environment::from([
                ("HOME".to_owned(), "/github/home".to_owned()),
                ("A".to_owned(), "job".to_owned()),
            ]),
            working_directory: Some("/__w/r/r".to_owned()),
            foreign_user: false,
            copied: false,
            externals_mounted: false,
            user: Some((1001, 1001)),
            forced_user: None,
            address: None,
            host_names: Vec::new(),
            caches: Vec::new(),
            retain: None,
        }
    }

    fn split(program: &str, list: &[&str]) -> Vec<String> {
        let list: Vec<String> = list.iter().map(|&a| a.to_owned()).collect();
        arguments(program, &list).unwrap()
    }

    #[test]
    fn arguments_are_split_as_docker_exec_would_get_them() {
        assert_eq!(
            split("bash", &["--noprofile", "-e", "/__w/_temp/a.sh"]),
            ["bash", "--noprofile", "-e", "/__w/_temp/a.sh"]
        );
        assert_eq!(
            split("pwsh", &["-command", "\".", "'/__w/_temp/a.ps1'\""]),
            ["pwsh", "-command", ". '/__w/_temp/a.ps1'"]
        );
        assert_eq!(
            split("/bin/x", &["\"a\"", "\"b", "c\""]),
            ["/bin/x", "a", "b c"]
        );
        assert_eq!(split("sh", &["-c", "", "x"]), ["sh", "-c", "x"]);
        assert_eq!(split("echo", &["$HOME"]), ["echo", "$HOME"]);
    }

    #[test]
    fn the_steps_environment_wins_over_the_jobs() {
        let step = ScriptStep {
            entry_point: "sh".to_owned(),
            environment_variables: Environment::from([("A".to_owned(), "step".to_owned())]),
            prepend_path: vec!["/from/runner".to_owned()],
            ..ScriptStep::default()
        };
        let request = request(&job(), vec!["/from/step".to_owned()], step).unwrap();
        assert_eq!(request.environment["A"], "step");
        assert_eq!(request.environment["HOME"], "/github/home");
        assert_eq!(request.path, ["/from/step", "/from/runner"]);
        assert_eq!(request.directory.as_deref(), Some("/__w/r/r"));
    }

    #[test]
    fn an_unclosed_quote_names_the_program() {
        let error = arguments("bash", &["\"x".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("`bash`"), "{error}");
    }
}
