//! `hashFiles()`: over the runner's own workspace, as the runner's helper does it
//! (actions/runner 2.336.0, `HashFilesFunction.cs`, `src/Misc/expressionFunc/hashFiles`).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::digest::hexadecimal;

/// The hash of the hashes of all files that match, in the order of their names; the empty text when
/// none does. A pattern that begins with `!` takes files out again.
pub fn hash_files(workspace: &Path, patterns: &[String]) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut any = false;
    let mut seen = |path: &Path, below: &str| -> anyhow::Result<()> {
        if !is_chosen(patterns, below) {
            return Ok(());
        }
        // A link counts as what it leads to.
        if !path.is_file() {
            return Ok(());
        }
        let mut file = fs::File::open(path)?;
        let mut one = Sha256::new();
        io::copy(&mut file, &mut HashWriter(&mut one))?;
        hash.update(one.finalize());
        any = true;
        Ok(())
    };
    walk(workspace, "", &mut seen).context("failed to hash files of the workspace")?;
    Ok(if any {
        hexadecimal(hash)
    } else {
        String::new()
    })
}

struct HashWriter<'h>(&'h mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does not descend into links to directories, as `hashFiles` does not.
fn walk(
    directory: &Path,
    below: &str,
    seen: &mut dyn FnMut(&Path, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut names: Vec<OsString> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    for name in names {
        let path = directory.join(&name);
        let name = name.to_string_lossy();
        let below = if below.is_empty() {
            name.into_owned()
        } else {
            format!("{below}/{name}")
        };
        if fs::symlink_metadata(&path)?.is_dir() {
            walk(&path, &below, seen)?;
        } else {
            seen(&path, &below)?;
        }
    }
    Ok(())
}

fn is_chosen(patterns: &[String], path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let mut chosen = false;
    for pattern in patterns.iter().flat_map(|pattern| pattern.lines()) {
        let pattern = pattern.trim();
        let (pattern, take) = match pattern.strip_prefix('!') {
            Some(pattern) => (pattern, false),
            None => (pattern, true),
        };
        let pattern: Vec<&str> = pattern.trim_start_matches("./").split('/').collect();
        // What is below a directory that matches does too.
        if (1..=parts.len()).any(|count| matches(&pattern, &parts[..count])) {
            chosen = take;
        }
    }
    chosen
}

fn matches(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            matches(rest, path)
                || path
                    .split_first()
                    .is_some_and(|(_, path)| matches(pattern, path))
        }
        (Some((part, pattern)), Some((name, path))) => {
            fits(part.as_bytes(), name.as_bytes()) && matches(pattern, path)
        }
        _ => false,
    }
}

/// `*` and `?` within one name.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            fits(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(_, name)| fits(pattern, name))
        }
        (Some((b'?', pattern)), Some((_, name))) => fits(pattern, name),
        (Some((one, pattern)), Some((other, name))) => one == other && fits(pattern, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_as_the_runner_s_do() {
        for (patterns, path, chosen) in [
            (&["**/*.lock"][..], "a/b/x.lock", true),
            (&["**/*.lock"], "x.lock", true),
            (&["*.lock"], "a/x.lock", false),
            (&["src"], "src/a/b.c", true),
            (&["**", "!**/*.o"], "src/a.o", false),
            (&["**", "!**/*.o"], "src/a.c", true),
            (&["a?c*"], "abcd", true),
        ] {
            let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(is_chosen(&patterns, path), chosen, "{patterns:?} {path}");
        }
    }

    #[test]
    fn the_hash_is_that_of_the_files_hashes_in_order() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/z"), "1").unwrap();
        fs::write(root.path().join("a.x"), "2").unwrap();
        let mut expected = Sha256::new();
        for content in ["1", "2"] {
            expected.update(Sha256::digest(content));
        }
        let all = ["**".to_owned()];
        assert_eq!(
            hash_files(root.path(), &all).unwrap(),
            hexadecimal(expected)
        );
        let none = ["*.none".to_owned()];
        assert_eq!(hash_files(root.path(), &none).unwrap(), "");
    }
}
