//! Which processes belong to a step, read from `/proc`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::exec::MARKER;

fn all() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Parent and session of a process that is not a zombie.
fn parent_and_session(pid: i32) -> Option<(i32, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold blanks and parentheses.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some((parent, session))
}

fn is_marked(pid: i32, marker: &[u8]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|&byte| byte == 0)
            .any(|entry| entry == marker)
    })
}

/// The processes of a step: of its session, or with its marker in the environment.
fn of_step(leader: Pid, id: &str) -> impl Iterator<Item = Pid> {
    let session_of_step = leader.as_raw_nonzero().get();
    let marker = format!("{MARKER}={id}").into_bytes();
    all().filter_map(move |pid| {
        let (_, session) = parent_and_session(pid)?;
        (session == session_of_step || is_marked(pid, &marker)).then(|| Pid::from_raw(pid))?
    })
}

/// Signals every process of a step. Returns whether there was one.
pub fn signal_step(leader: Pid, id: &str, signal: Signal) -> bool {
    let signalled = of_step(leader, id)
        .filter(|&pid| rustix::process::kill_process(pid, signal).is_ok())
        .count();
    signalled > 0
}

/// Whether a process of the step is left.
pub fn is_alive(leader: Pid, id: &str) -> bool {
    of_step(leader, id).next().is_some()
}

/// Every process beneath this one, at any depth.
pub fn others() -> Vec<Pid> {
    beneath(rustix::process::getpid())
}

/// Every process beneath another, at any depth.
fn beneath(root: Pid) -> Vec<Pid> {
    let parents: Vec<(i32, i32)> = all()
        .filter_map(|pid| Some((pid, parent_and_session(pid)?.0)))
        .collect();
    let mut family = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(c, _)| *c),
        );
        next += 1;
    }
    family
        .into_iter()
        .skip(1)
        .filter_map(Pid::from_raw)
        .collect()
}

/// Signals every process beneath this one.
pub fn signal_all(signal: Signal) {
    for pid in others() {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Kills every process beneath `root` but this one, and waits until they are gone. Returns how many were
/// killed, and how many are left: of another user, or stuck in the kernel.
#[must_use]
pub fn end_beneath(root: Pid, within: Duration) -> (usize, usize) {
    let own = rustix::process::getpid();
    let others = || beneath(root).into_iter().filter(|&pid| pid != own);
    let end = Instant::now() + within;
    let mut ended = HashSet::new();
    loop {
        // Stopped first of all, so that none gives birth to another while they are killed.
        for signal in [Signal::STOP, Signal::KILL] {
            for pid in others() {
                if rustix::process::kill_process(pid, signal).is_ok() {
                    ended.insert(pid);
                }
            }
        }
        let left = others().count();
        if left == 0 || Instant::now() >= end {
            return (ended.len(), left);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
