//! The node's view of a pod: its processes and, through them, its files. It
//! works while the API server is away, and needs no change of the pod.

use std::fs;
use std::path::{Path, PathBuf};

/// Finds the process called `name` in the pod with this uid.
#[must_use]
pub fn find(pod_uid: &str, name: &str) -> Option<u32> {
    find_with(pod_uid, name, "")
}

/// The same with `word` in its command line.
#[must_use]
pub fn find_with(pod_uid: &str, name: &str, word: &str) -> Option<u32> {
    // The kernel cuts names at 15 bytes.
    let name = &name[..name.len().min(15)];
    of_pod(pod_uid).find(|pid| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        read("comm").is_ok_and(|comm| comm.trim_end() == name)
            && read("cmdline").is_ok_and(|line| line.contains(word))
    })
}

/// All processes of the pod with this uid.
#[must_use]
pub fn all(pod_uid: &str) -> Vec<u32> {
    of_pod(pod_uid).collect()
}

fn of_pod(pod_uid: &str) -> impl Iterator<Item = u32> {
    // systemd's cgroup driver writes underscores.
    let uids = [pod_uid.to_owned(), pod_uid.replace('-', "_")];
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(move |pid| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            groups.is_ok_and(|groups| uids.iter().any(|uid| groups.contains(uid)))
        })
}

/// The root directory of a process, as others can reach it.
#[must_use]
pub fn root(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root")
}
