//! What the kernel says about the memory of this container.

use std::fs;

/// Version 2 of control groups, then version 1: the container's own group is mounted at its root.
const EVENTS: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];
/// Larger than any machine: version 1 writes it for no limit.
const NO_LIMIT: u64 = 1 << 60;

/// How many processes of the container the kernel has killed for want of memory; 0 where it does
/// not say.
pub fn kills() -> u64 {
    EVENTS
        .iter()
        .find_map(|path| count(&fs::read_to_string(path).ok()?))
        .unwrap_or(0)
}

/// How many bytes the container may use.
pub fn limit() -> Option<u64> {
    LIMITS
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
        .filter(|limit| *limit < NO_LIMIT)
}

fn count(events: &str) -> Option<u64> {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn kills_are_counted_in_both_versions_of_control_groups() {
        assert_eq!(count("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"), Some(2));
        assert_eq!(
            count("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            Some(1)
        );
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
