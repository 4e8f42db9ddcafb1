//! How the runner finds `bash`.

use std::path::{Path, PathBuf};

/// Looks `command` up in the job's `GITHUB_PATH` entries (most recent first)
/// and then in PATH, on the runner's own file system. Only existence counts:
/// a file that cannot be executed hides a good one behind it.
///
/// A relative entry counts from the runner's own directory, and what is found there is started by
/// its full path, as .NET's `Process.Start` would.
///
/// The runner joins both lists as if they were path components, so that the
/// last entry and the first of PATH are glued together; an attacker can plant
/// for either reading, and both are tried here.
#[must_use]
pub fn which(command: &str, prepended: &[String], path: &str) -> Option<PathBuf> {
    let joined = prepended.join(":");
    let glued = match (joined.rsplit(':').next(), path.split(':').next()) {
        (Some(last), Some(first)) if !joined.is_empty() => {
            format!("{last}/{}", first.trim_start_matches('/'))
        }
        _ => String::new(),
    };
    joined
        .split(':')
        .chain([glued.as_str()])
        .chain(path.split(':'))
        .filter(|directory| !directory.is_empty())
        .filter_map(|directory| std::path::absolute(Path::new(directory).join(command)).ok())
        // A dangling link is passed over, a directory is no file.
        .find(|candidate| candidate.metadata().is_ok_and(|found| !found.is_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn plant(directory: &Path, name: &str) -> String {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join(name), "").unwrap();
        directory.to_str().unwrap().to_owned()
    }

    #[test]
    fn entries_of_the_job_come_first_even_without_the_exec_bit() {
        let temp = tempfile::tempdir().unwrap();
        let system = plant(&temp.path().join("usr"), "bash");
        let planted = plant(&temp.path().join("planted"), "bash");
        let found = |prepended: &[String]| which("bash", prepended, &format!("/nowhere:{system}"));
        assert_eq!(found(&[]), Some(Path::new(&system).join("bash")));
        assert_eq!(
            found(std::slice::from_ref(&planted)),
            Some(Path::new(&planted).join("bash"))
        );
        assert_eq!(
            found(&[format!("/none:{planted}")]),
            Some(Path::new(&planted).join("bash"))
        );
    }

    #[test]
    fn the_last_entry_is_glued_to_path() {
        let temp = tempfile::tempdir().unwrap();
        plant(&temp.path().join("planted/usr/bin"), "bash");
        let entry = temp.path().join("planted").to_str().unwrap().to_owned();
        assert!(
            which("bash", &[entry], "/usr/bin")
                .unwrap()
                .starts_with(temp.path())
        );
    }

    #[test]
    fn a_relative_entry_counts_from_the_runner_s_directory() {
        let here = std::env::current_dir().unwrap();
        let found = which("Cargo.toml", &["../workflow".to_owned()], "").unwrap();
        assert_eq!(found, here.join("../workflow/Cargo.toml"));
    }

    #[test]
    fn directories_and_dangling_links_are_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        let one = temp.path().join("one");
        let two = temp.path().join("two");
        fs::create_dir_all(one.join("bash")).unwrap();
        fs::create_dir_all(&two).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", two.join("bash")).unwrap();
        let path = format!("{}:{}", one.display(), two.display());
        assert_eq!(which("bash", &[], &path), None);
    }
}
