//! The last act before a step's own program: a short-lived process that becomes it.
//!
//! It exists because a session, a working directory and a higher out-of-memory score are best
//! set by the process itself, and because its failures then stand in the step's own log.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::super::StepRequest;

/// Name and value of this variable mark every process of a step, wherever it moves to.
pub const MARKER: &str = "ARC_HOOK_STEP";
/// Where programs are looked up when neither image nor job say so (Docker's default).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much sooner the kernel takes a step than the supervisor when memory runs out.
const SCORE: i32 = 500;

/// What becomes the step's own program.
#[derive(Debug, Clone, clap::Args)]
pub struct ExecArgs {
    /// Directory to run in
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// Program and arguments
    #[arg(trailing_var_arg = true, required = true)]
    pub argv: Vec<OsString>,
}

/// Builds the command that leads to the step's program: the environment of this process (the
/// image's and the template's), overlaid by the request's.
pub fn command(request: &StepRequest, id: &str) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("exec");
    if let Some(directory) = &request.directory {
        command.arg("--directory").arg(directory);
    }
    command.arg("--").args(&request.argv);
    command.stdin(Stdio::null());
    for (name, value) in &request.environment {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the environment variable `{name}` cannot be passed to a program: its name must not be empty or contain `=`, and neither name nor value a NUL"
                ),
            ));
        }
        command.env(name, value);
    }
    let base = request
        .environment
        .get("PATH")
        .map(OsString::from)
        .or_else(|| std::env::var_os("PATH"))
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| DEFAULT_PATH.into());
    let mut path = OsString::new();
    for entry in &request.path {
        path.push(entry);
        path.push(":");
    }
    path.push(base);
    command.env("PATH", path);
    command.env(MARKER, id);
    Ok(command)
}

/// Becomes the program. Returns the exit code for when that fails: 127 when there is no such
/// program, 126 when it cannot run, as shells do.
#[must_use]
pub fn exec(args: &ExecArgs) -> u8 {
    // Already the leader of a session only if started by hand.
    let _ = rustix::process::setsid();
    raise_score();
    if let Some(directory) = &args.directory
        && let Err(error) = std::env::set_current_dir(directory)
    {
        eprintln!(
            "arc-hook: enter the working directory `{}`: {error}",
            directory.display()
        );
        return 126;
    }
    let Some((program, arguments)) = args.argv.split_first() else {
        return 126;
    };
    let error = Command::new(program).args(arguments).exec();
    let shown = program.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound if shown.contains('/') => {
            eprintln!(
                "arc-hook: run `{shown}`: {error}; the file is missing in the container's image, \
                 or the interpreter it names is"
            );
            127
        }
        io::ErrorKind::NotFound => {
            eprintln!(
                "arc-hook: run `{shown}`: not found in PATH; install it in the container's image \
                 or choose another `shell:`"
            );
            127
        }
        _ => {
            eprintln!("arc-hook: run `{shown}`: {error}");
            126
        }
    }
}

/// Lets the kernel take the step, not the supervisor, when memory runs out. Only raising is
/// allowed without privileges, and enough.
fn raise_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let Ok(text) = std::fs::read_to_string(FILE) else {
        return;
    };
    if let Ok(score) = text.trim().parse::<i32>() {
        let _ = std::fs::write(FILE, score.saturating_add(SCORE).min(1000).to_string());
    }
}
