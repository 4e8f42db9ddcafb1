//! One hook process: its pipes, its signals and its end.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};
use wait4::{ResourceUsage, Wait4};

use super::log::{StepLog, Stream};
use super::signals::{Action, Schedule};

/// The runner stops reading so long after the process ended, even when
/// something still holds the pipes.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a hook process ended.
#[derive(Debug)]
pub struct Exit {
    /// As the runner sees it: 128 + n for signal n.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Until both pipes were at their end.
    pub wall: Duration,
    /// What it used.
    pub usage: ResourceUsage,
    /// The pipes were still open when the patience was over.
    pub held_pipes: bool,
}

/// What happens around a running hook.
pub struct Surroundings<'a> {
    /// Signals to come.
    pub schedule: Schedule,
    /// Whether the step must be cut now.
    pub cut: &'a dyn Fn() -> bool,
    /// Cancels the job.
    pub cancel_job: &'a dyn Fn(),
}

/// Runs `command` with `input` on its standard input until it ends.
///
/// One thread polls both pipes; at each wakeup standard error is read before
/// standard output, as the runner does. So a hook that writes to both in
/// turn sees its lines out of order here too.
pub fn run(
    command: &mut Command,
    input: &[u8],
    log: &mut StepLog<'_>,
    surroundings: &mut Surroundings<'_>,
) -> io::Result<Exit> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut pipes = Pipes {
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
        input,
        buffer: vec![0; 256 << 10],
    };
    pipes.set_nonblocking()?;
    let exited = pump(&child, &mut pipes, log, surroundings)?;
    let wall = start.elapsed();
    let held_pipes = pipes.stdout.is_some() || pipes.stderr.is_some();
    log.end(Stream::Stderr);
    log.end(Stream::Stdout);
    debug_assert!(exited.elapsed() <= wall);
    let ended = child.wait4()?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&ended.status);
    Ok(Exit {
        code: ended
            .status
            .code()
            .or_else(|| signal.map(|signal| 128 + signal))
            .unwrap_or(-1),
        signal,
        wall,
        usage: ended.rusage,
        held_pipes,
    })
}

struct Pipes<'a> {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    input: &'a [u8],
    buffer: Vec<u8>,
}

/// Moves bytes until the process has ended and its pipes too; returns the
/// moment of its end.
fn pump(
    child: &Child,
    pipes: &mut Pipes<'_>,
    log: &mut StepLog<'_>,
    surroundings: &mut Surroundings<'_>,
) -> io::Result<Instant> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut exited: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let open = pipes.stdout.is_some() || pipes.stderr.is_some();
        if let Some(moment) = exited
            && (!open || now >= moment + PATIENCE)
        {
            return Ok(moment);
        }
        let schedule = &mut surroundings.schedule;
        if exited.is_none() {
            if (surroundings.cut)() {
                schedule.cancel(now);
            }
            for action in schedule.due(now, &|number| log.seen(number)) {
                match action {
                    // It has not been waited for: its id cannot be another's.
                    Action::Send(signal) => kill_process(pid, signal)?,
                    Action::CancelJob => (surroundings.cancel_job)(),
                    Action::Cancel => schedule.cancel(now),
                }
            }
        }
        let idle = surroundings.schedule.idle(now);
        let ready = pipes.wait(exited.is_none().then_some(&pidfd), idle)?;
        if ready && exited.is_none() {
            exited = Some(Instant::now());
        }
        pipes.write_input();
        pipes.read_output(log)?;
    }
}

impl Pipes<'_> {
    fn set_nonblocking(&self) -> io::Result<()> {
        if let Some(stdin) = &self.stdin {
            rustix::io::ioctl_fionbio(stdin, true)?;
        }
        if let Some(stdout) = &self.stdout {
            rustix::io::ioctl_fionbio(stdout, true)?;
        }
        if let Some(stderr) = &self.stderr {
            rustix::io::ioctl_fionbio(stderr, true)?;
        }
        Ok(())
    }

    /// Waits for something to do; true when the process behind `pidfd` ended.
    fn wait(&self, pidfd: Option<&std::os::fd::OwnedFd>, idle: Duration) -> io::Result<bool> {
        let mut descriptors = Vec::with_capacity(4);
        if let Some(pidfd) = pidfd {
            descriptors.push(PollFd::new(pidfd, PollFlags::IN));
        }
        if let Some(stdin) = &self.stdin {
            descriptors.push(PollFd::new(stdin, PollFlags::OUT));
        }
        if let Some(stdout) = &self.stdout {
            descriptors.push(PollFd::new(stdout, PollFlags::IN));
        }
        if let Some(stderr) = &self.stderr {
            descriptors.push(PollFd::new(stderr, PollFlags::IN));
        }
        let timeout = Timespec {
            tv_sec: idle.as_secs().cast_signed(),
            tv_nsec: i64::from(idle.subsec_nanos()),
        };
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(pidfd.is_some()
            && descriptors
                .first()
                .is_some_and(|descriptor| !descriptor.revents().is_empty()))
    }

    fn write_input(&mut self) {
        let Some(stdin) = &mut self.stdin else {
            return;
        };
        while !self.input.is_empty() {
            match stdin.write(self.input) {
                Ok(written) => self.input = &self.input[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The hook does not read; how it ends is what counts.
                Err(_) => break,
            }
        }
        self.stdin = None;
    }

    fn read_output(&mut self, log: &mut StepLog<'_>) -> io::Result<()> {
        if drain(&mut self.stderr, &mut self.buffer, |bytes| {
            log.read(Stream::Stderr, bytes);
        })? {
            self.stderr = None;
        }
        if drain(&mut self.stdout, &mut self.buffer, |bytes| {
            log.read(Stream::Stdout, bytes);
        })? {
            self.stdout = None;
        }
        Ok(())
    }
}

/// Reads once what there is; true at the end of the pipe.
fn drain<P: Read + AsFd>(
    pipe: &mut Option<P>,
    buffer: &mut [u8],
    mut sink: impl FnMut(&[u8]),
) -> io::Result<bool> {
    let Some(pipe) = pipe else {
        return Ok(false);
    };
    match pipe.read(buffer) {
        Ok(0) => Ok(true),
        Ok(length) => {
            sink(&buffer[..length]);
            Ok(false)
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::JobState;
    use super::super::job_log::JobLog;
    use super::*;
    use crate::directive::{Directives, SignalDirective, SignalName, When};

    fn run_script(script: &str, input: &[u8], directives: &Directives) -> (Exit, String) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let job_log = JobLog::create(&path, false).unwrap();
        let state = JobState::default();
        let mut log = StepLog::new(&job_log, &state, "", false);
        let schedule = Schedule::new(directives, None, Instant::now(), &mut |text| {
            log.watch(text)
        });
        let exit = run(
            Command::new("sh").args(["-c", script]),
            input,
            &mut log,
            &mut Surroundings {
                schedule,
                cut: &|| false,
                cancel_job: &|| {},
            },
        )
        .unwrap();
        log.close();
        (exit, std::fs::read_to_string(&path).unwrap())
    }

    #[test]
    fn input_output_and_exit_code_pass_through() {
        let input = vec![b'x'; 300_000];
        let (exit, log) = run_script(
            "wc -c; echo err >&2; exit 7",
            &input,
            &Directives::default(),
        );
        assert_eq!((exit.code, exit.signal), (7, None));
        assert!(log.contains("300000") && log.contains("err"), "{log}");
        assert!(exit.usage.maxrss > 0);
    }

    #[test]
    fn a_hook_that_reads_nothing_is_no_error() {
        let (exit, _) = run_script("exit 0", &vec![b'x'; 300_000], &Directives::default());
        assert_eq!(exit.code, 0);
    }

    #[test]
    fn a_signal_comes_after_its_line() {
        let directives = Directives {
            signals: vec![SignalDirective {
                send: SignalName::Term,
                when: When {
                    line: Some("ready".to_owned()),
                    ..When::default()
                },
            }],
            ..Directives::default()
        };
        let script = "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
        let (exit, log) = run_script(script, b"", &directives);
        assert_eq!(exit.code, 3);
        assert_eq!(log, "ready\ngot\n");
    }

    #[test]
    fn a_signal_s_death_is_told() {
        let (exit, _) = run_script("kill -9 $$", b"", &Directives::default());
        assert_eq!((exit.code, exit.signal), (137, Some(9)));
    }
}
