//! An entry in `/etc/passwd` for a user that the job's image does not know.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};

/// More than any image has; what lies there may be anything.
const LIMIT: u64 = 4 << 20;

/// The home that the runner gives to a job (actions/runner, `ContainerOperationProvider.cs`).
const HOME: &str = "/github/home";

/// Writes `passwd` and `group` of this image into a directory, with an entry for the user added
/// where they have none. `user` is `UID` or `UID:GID`.
///
/// # Errors
/// The user is no number, or a file cannot be read or written.
pub fn write(user: &str, to: &Path) -> anyhow::Result<()> {
    let (uid, gid) = match user.split_once(':') {
        Some((uid, gid)) => (uid.parse(), gid.parse()),
        None => (user.parse(), Ok(rustix::process::getegid().as_raw())),
    };
    let (Ok(uid), Ok(gid)) = (uid, gid) else {
        bail!("write the user's entry: `{user}` is neither UID nor UID:GID");
    };
    let passwd = with_user(read("/etc/passwd")?, uid, gid);
    let group = with_group(read("/etc/group")?, gid);
    for (name, content) in [("passwd", passwd), ("group", group)] {
        let path = to.join(name);
        fs::write(&path, content).with_context(|| format!("write `{}`", path.display()))?;
    }
    Ok(())
}

/// A file of the image; empty when the image has none.
fn read(path: &str) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(LIMIT)
            .read_to_end(&mut content)
            .with_context(|| format!("read `{path}` of the image"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error).with_context(|| format!("open `{path}` of the image")),
    };
    Ok(content)
}

fn with_user(passwd: Vec<u8>, uid: u32, gid: u32) -> Vec<u8> {
    let Some(name) = name_for(&passwd, uid) else {
        return passwd;
    };
    appended(passwd, &format!("{name}:x:{uid}:{gid}::{HOME}:/bin/sh"))
}

fn with_group(group: Vec<u8>, gid: u32) -> Vec<u8> {
    let Some(name) = name_for(&group, gid) else {
        return group;
    };
    appended(group, &format!("{name}:x:{gid}:"))
}

/// A name that is free, unless the id, the third field in either file, has an entry.
fn name_for(entries: &[u8], id: u32) -> Option<String> {
    let id = id.to_string();
    let mut taken = false;
    let name = "runner";
    for line in entries.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        taken |= fields.next() == Some(name.as_bytes());
        if fields.nth(1) == Some(id.as_bytes()) {
            return None;
        }
    }
    Some(if taken {
        format!("{name}-{id}")
    } else {
        name.to_owned()
    })
}

fn appended(mut entries: Vec<u8>, line: &str) -> Vec<u8> {
    if entries.last().is_some_and(|last| *last != b'\n') {
        entries.push(b'\n');
    }
    entries.extend_from_slice(line.as_bytes());
    entries.push(b'\n');
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwd(before: &str, uid: u32) -> String {
        String::from_utf8(with_user(before.into(), uid, 50)).unwrap()
    }

    #[test]
    fn a_user_that_the_image_does_not_know_is_added() {
        let root = "root:x:0:0:root:/root:/bin/sh";
        let added = "runner:x:1001:50::/github/home:/bin/sh\n";
        assert_eq!(passwd("", 1001), added);
        assert_eq!(passwd(root, 1001), format!("{root}\n{added}"));
        assert_eq!(
            passwd(&format!("{root}\n"), 1001),
            format!("{root}\n{added}")
        );
        assert_eq!(with_group(Vec::new(), 50), b"runner:x:50:\n");
    }

    #[test]
    fn a_user_that_the_image_knows_keeps_its_entry() {
        let node = "node:x:1000:1000::/home/node:/bin/bash\n";
        assert_eq!(passwd(node, 1000), node);
    }

    #[test]
    fn a_name_of_the_image_is_not_taken() {
        let other = "runner:x:7:7::/:/bin/sh\n";
        assert!(passwd(other, 1001).ends_with("\nrunner-1001:x:1001:50::/github/home:/bin/sh\n"));
    }

    #[test]
    fn both_files_are_written_and_anything_but_numbers_refused() {
        let to = tempfile::tempdir().unwrap();
        write("4242:4243", to.path()).unwrap();
        let passwd = fs::read_to_string(to.path().join("passwd")).unwrap();
        assert!(passwd.contains(":x:4242:4243::/github/home:"), "{passwd}");
        assert!(
            fs::read_to_string(to.path().join("group"))
                .unwrap()
                .contains(":x:4243:")
        );
        assert!(write("runner", to.path()).is_err());
        assert!(write("1:x", to.path()).is_err());
    }
}
