//! An agent in a container: a program that is put there from the node.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::agent::{Measured, Order};
use crate::harness::process;

/// The program, beside this one.
const AGENT: &str = "bench-agent";
/// Where it lies in the container.
pub const PROGRAM: &str = "/tmp/arc-hook-bench";

/// A container that programs are started and measured in.
pub struct Seat {
    pid: u32,
    user: u32,
    /// The environment of the container's own process.
    pub env: BTreeMap<String, String>,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    // Ends with its standard input.
    _agent: Child,
}

impl Seat {
    /// Starts an agent as `user` in the namespaces of the process `pid`.
    pub fn take(pid: u32, user: u32) -> anyhow::Result<Self> {
        let environ = fs::read(format!("/proc/{pid}/environ"))
            .with_context(|| format!("failed to read the environment of process {pid}"))?;
        let env = variables(&String::from_utf8_lossy(&environ));
        let place = inside(pid, PROGRAM);
        fs::create_dir_all(place.parent().unwrap_or(&place))
            .and_then(|()| fs::copy(std::env::current_exe()?.with_file_name(AGENT), &place))
            .and_then(|_| fs::set_permissions(&place, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("failed to put an agent at `{}`", place.display()))?;
        let mut agent = Command::new("nsenter")
            .arg("--target")
            .arg(pid.to_string())
            .args(["--mount", "--uts", "--ipc", "--net", "--pid"])
            .arg(format!("--setuid={user}"))
            .arg(format!("--setgid={user}"))
            .args(["--", PROGRAM, "serve"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("failed to start `nsenter`")?;
        let (Some(input), Some(output)) = (agent.stdin.take(), agent.stdout.take()) else {
            bail!("the agent has no pipes");
        };
        Ok(Self {
            pid,
            user,
            env,
            input,
            answers: BufReader::new(output).lines(),
            _agent: agent,
        })
    }

    /// Starts a program, and waits for its end.
    pub async fn measure(&mut self, order: &Order) -> anyhow::Result<Measured> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.input.write_all(&line).await?;
        let answer = self
            .answers
            .next_line()
            .await?
            .context("the agent ended, and with it perhaps its container")?;
        serde_json::from_str::<Result<Measured, String>>(&answer)?
            .map_err(|error| anyhow::anyhow!("failed to measure {error}"))
    }

    /// Like [`Seat::measure`], for a program that must succeed.
    pub async fn succeed(&mut self, order: &Order) -> anyhow::Result<Measured> {
        let measured = self.measure(order).await?;
        if measured.exit != 0 {
            bail!(
                "{:?} ended with {}: {}",
                order.argv,
                measured.exit,
                measured.tail
            );
        }
        Ok(measured)
    }

    /// A path of the container, as this machine can reach it.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        inside(self.pid, path)
    }

    /// Writes a file that the agent's user owns.
    pub fn write(&self, path: impl AsRef<Path>, text: &str) -> anyhow::Result<()> {
        let path = self.path(path);
        fs::write(&path, text)
            .and_then(|()| chown(&path, Some(self.user), Some(self.user)))
            .with_context(|| format!("failed to write `{}`", path.display()))
    }
}

fn inside(pid: u32, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    process::root(pid).join(path.strip_prefix("/").unwrap_or(path))
}

/// What the kernel shows of a process's environment.
fn variables(environ: &str) -> BTreeMap<String, String> {
    environ
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_the_kernel_shows_it() {
        let env = variables("A=1\0B=x=y\nz\0\0broken\0C=\0");
        assert_eq!(env.len(), 3);
        assert_eq!(env["B"], "x=y\nz");
        assert_eq!(env["C"], "");
    }

    #[test]
    fn paths_of_a_container_lie_below_its_root() {
        assert_eq!(inside(7, "/a/b"), Path::new("/proc/7/root/a/b"));
    }
}
