//! The measuring end: a process inside a container that starts programs there
//! and tells what they took.
//!
//! It lies in the container only while it is measured and costs the measured
//! program nothing: clocks are read beside `spawn` and `wait4`, output is
//! counted and thrown away.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wait4::Wait4;

/// The size of the buffer that output is read into.
const BUFFER: usize = 256 << 10;
/// So much of the end of the output is handed back.
const TAIL: usize = 2000;
/// A line of the output of [`flood`], its end included.
const LINE: usize = 100;

/// A program to start.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Order {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Its directory.
    pub directory: String,
    /// What it reads on standard input.
    pub input: String,
    /// How long its output is left unread.
    pub stall_ms: u64,
}

/// What it took.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Measured {
    /// Exit code, -1 after a signal.
    pub exit: i32,
    /// From before it was started until it was reaped.
    pub wall_ms: f64,
    /// CPU time, user and kernel.
    pub cpu_ms: f64,
    /// Peak resident set, never below this process's own: the kernel counts
    /// the moment between fork and exec.
    pub rss_mb: f64,
    /// Bytes of its output, both streams.
    pub bytes: u64,
    /// The end of it.
    pub tail: String,
}

/// Takes orders from standard input, one JSON object a line, until its end.
pub fn serve() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        // An order that cannot be followed is an answer, not the end.
        let answer = measure(&order).map_err(|error| format!("{:?}: {error}", order.argv));
        serde_json::to_writer(&mut out, &answer)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

fn measure(order: &Order) -> io::Result<Measured> {
    let (mut output, input) = io::pipe()?;
    let (program, arguments) = order
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("no program"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&order.env)
        .stdin(Stdio::piped())
        .stdout(input.try_clone()?)
        .stderr(input);
    if !order.directory.is_empty() {
        command.current_dir(&order.directory);
    }
    let start = Instant::now();
    let mut child = command.spawn()?;
    // It holds the pipe's other end, whose last copy must be the child's.
    drop(command);
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read is no failure of the measurement.
        let _ = stdin.write_all(order.input.as_bytes());
    }
    std::thread::sleep(Duration::from_millis(order.stall_ms));
    let mut buffer = vec![0; BUFFER];
    let mut tail = VecDeque::new();
    let mut bytes = 0;
    loop {
        match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                bytes += count as u64;
                tail.extend(&buffer[count.saturating_sub(TAIL)..count]);
                tail.drain(..tail.len().saturating_sub(TAIL));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let ended = child.wait4()?;
    let wall = start.elapsed();
    let usage = ended.rusage;
    Ok(Measured {
        exit: ended.status.code().unwrap_or(-1),
        wall_ms: milliseconds(wall),
        cpu_ms: milliseconds(usage.utime + usage.stime),
        rss_mb: megabytes(usage.maxrss),
        bytes,
        tail: String::from_utf8_lossy(&Vec::from(tail)).into_owned(),
    })
}

/// A duration as the tables show it.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Bytes as the tables show them; a MB is 1024 x 1024 of them.
#[must_use]
#[allow(clippy::cast_precision_loss)] // Sizes far below 2^53.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Writes so many bytes of log lines to standard output, as fast as they are taken.
pub fn flood(bytes: u64) -> anyhow::Result<()> {
    // Not `Stdout`, which looks for line ends.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut line = [b'x'; LINE];
    line[LINE - 1] = b'\n';
    let block = line.repeat((64 << 10) / LINE);
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        out.write_all(&block[..now])?;
        left -= now as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Order {
        Order {
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            directory: "/".to_owned(),
            input: "given\n".to_owned(),
            ..Order::default()
        }
    }

    #[test]
    fn a_program_is_measured_and_its_output_counted() {
        let script = "read line; echo \"$line $A\"; pwd >&2; exit 3";
        let measured = measure(&shell(script)).unwrap();
        assert_eq!(measured.tail, "given 1\n/\n");
        assert_eq!((measured.exit, measured.bytes), (3, 10));
        assert!(measured.wall_ms > 0.0 && measured.rss_mb > 0.0);
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let script = "i=0; while [ $i -lt 2000 ]; do echo $i-----; i=$((i+1)); done";
        let measured = measure(&shell(script)).unwrap();
        assert!(measured.tail.ends_with("1999-----\n"));
        assert_eq!(measured.tail.len(), TAIL);
    }

    #[test]
    fn a_stalled_reader_makes_the_program_wait() {
        let order = Order {
            stall_ms: 50,
            ..shell("head -c 1000000 /dev/zero")
        };
        let measured = measure(&order).unwrap();
        assert_eq!(measured.bytes, 1_000_000);
        assert!(measured.wall_ms >= 50.0);
    }
}
