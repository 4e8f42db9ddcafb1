//! Repositories of git in the workspace of a job that is to be kept: their configurations may hold tokens.

use std::collections::VecDeque;

use rustix::fs::FileType;

use super::scrub::{Report, descend};
use super::tokens;
use crate::spool::directory::Directory;

/// So many entries of the workspace are looked at for checkouts.
const ENTRIES: usize = 1_000_000;
/// So deep below the workspace a checkout is looked for.
const DEPTH: usize = 6;

/// Cleans every checkout below the workspace, nearest first. `false` when there was more to look at.
pub(super) fn clean(report: &mut Report, root: &Directory) -> bool {
    let mut queue = VecDeque::from([Vec::<String>::new()]);
    let mut left = ENTRIES;
    while let Some(path) = queue.pop_front() {
        let Some(directory) = descend(root, &path) else {
            continue;
        };
        for name in directories(&directory, &mut left) {
            if name == ".git" {
                if let Ok(git) = directory.descend(&name) {
                    repository(report, &git, &mut left, DEPTH);
                }
            } else if path.len() < DEPTH {
                let mut below = path.clone();
                below.push(name);
                queue.push_back(below);
            }
        }
        if left == 0 {
            return false;
        }
    }
    true
}

/// Cleans the configuration of a repository, and of those in it: submodules and work trees.
fn repository(report: &mut Report, git: &Directory, left: &mut usize, depth: usize) {
    for name in ["config", "config.worktree"] {
        report.clean(git, name, tokens::git);
    }
    for name in ["modules", "worktrees"] {
        if let Ok(inner) = git.descend(name) {
            inner_repositories(report, &inner, left, depth);
        }
    }
}

fn inner_repositories(report: &mut Report, at: &Directory, left: &mut usize, depth: usize) {
    if depth == 0 {
        return;
    }
    for name in directories(at, left) {
        let Ok(inner) = at.descend(&name) else {
            continue;
        };
        if inner.has("config") || inner.has("config.worktree") || inner.has("HEAD") {
            repository(report, &inner, left, depth - 1);
        } else {
            // A submodule's name may hold slashes.
            inner_repositories(report, &inner, left, depth - 1);
        }
    }
}

/// Names of the directories in one, not of links to some.
fn directories(directory: &Directory, left: &mut usize) -> Vec<String> {
    let Ok(entries) = rustix::fs::Dir::read_from(directory) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for entry in entries.flatten() {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let kind = entry.file_type();
        if let (FileType::Directory | FileType::Unknown, Ok(name)) =
            (kind, entry.file_name().to_str())
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    names
}
