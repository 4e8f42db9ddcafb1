//! Deaths on demand: a process dies at a named point, as by a SIGKILL from outside, when
//! `ARC_HOOK_FAULT` names it. Debug builds only; what is shipped has nothing of it.

/// The points, in the order of a promotion.
pub const POINTS: [&str; 8] = [
    "claim-created",
    "pod-deleted",
    "pod-gone",
    "sealed",
    "verified",
    "swapped",
    "unlisted",
    "lost",
];

/// Dies here if told to.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    debug_assert!(POINTS.contains(&name), "{name}");
    if std::env::var("ARC_HOOK_FAULT").is_ok_and(|wanted| wanted == name) {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Goes on.
#[cfg(not(debug_assertions))]
pub fn point(_: &str) {}
