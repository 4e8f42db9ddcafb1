//! Processes that outlive the job: the runner finds them by a variable in
//! their environment and kills them.

use std::fs;

/// Ids of other processes that carry `RUNNER_TRACKING_ID=<id>`.
#[must_use]
pub fn find(tracking_id: &str) -> Vec<u32> {
    let wanted = format!("RUNNER_TRACKING_ID={tracking_id}");
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            // Other users' processes cannot be read, and are not ours.
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
                environment
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == wanted.as_bytes())
            })
        })
        .collect()
}
