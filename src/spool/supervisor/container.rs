//! What the supervisor finds in the container it starts in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::super::{Libc, Nonce, PROTOCOL, Ready};

/// Files of an image are read up to this size; a larger one is not what it claims to be.
const LIMIT: u64 = 1024 * 1024;

/// So many entries of a checked directory are looked at: a job starts no later for a large one.
const ENTRIES: usize = 256;

/// Looks at user, image and mounts.
pub fn look(nonce: Nonce, check: &[PathBuf]) -> Ready {
    let uid = rustix::process::geteuid().as_raw();
    Ready {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nonce,
        uid,
        gid: rustix::process::getegid().as_raw(),
        user_name: read("/etc/passwd").and_then(|text| user_name(&text, uid)),
        os_id: read("/etc/os-release")
            .or_else(|| read("/usr/lib/os-release"))
            .and_then(|text| os_id(&text)),
        libc: libc(Path::new("/")),
        writable: check
            .iter()
            .flat_map(|path| writable(path, uid, is_writable))
            .collect(),
    }
}

/// Whether the user can write to a directory, and the first directory in it that is another's and
/// that it cannot write to: the top of a volume is handed over by the kubelet (`fsGroup`), what a
/// pod of root put below it is not.
fn writable(path: &Path, uid: u32, can_write: fn(&Path) -> bool) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::from([(path.display().to_string(), can_write(path))]);
    let foreign = fs::read_dir(path)
        .into_iter()
        .flatten()
        .take(ENTRIES)
        .flatten()
        // Of every ext4 file system, and nobody's business.
        .filter(|entry| entry.file_name() != "lost+found")
        .filter(|entry| {
            entry
                .metadata()
                .is_ok_and(|entry| entry.is_dir() && entry.uid() != uid)
        })
        .map(|entry| entry.path())
        .find(|path| !can_write(path));
    found.extend(foreign.map(|path| (path.display().to_string(), false)));
    found
}

fn read(path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path)
        .ok()?
        .take(LIMIT)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        Access::WRITE_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .is_ok()
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

fn os_id(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("ID="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// The loader tells the library: an image with both runs glibc programs.
fn libc(root: &Path) -> Libc {
    let has = |directory: &str, prefix: &str| {
        fs::read_dir(root.join(directory))
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
    };
    let glibc = ["lib", "lib64", "usr/lib64"]
        .iter()
        .any(|directory| has(directory, "ld-linux"));
    if glibc {
        Libc::Glibc
    } else if has("lib", "ld-musl-") {
        Libc::Musl
    } else {
        Libc::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_user_is_found_by_its_number_only() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbuild:x:1001:1001::/home/build:/bin/sh\n";
        assert_eq!(user_name(passwd, 1001).as_deref(), Some("build"));
        assert_eq!(user_name(passwd, 100), None);
        assert_eq!(user_name("1001\n::\n", 1001), None);
    }

    #[test]
    fn the_os_id_is_read_with_and_without_quotes() {
        let text = "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20\n";
        assert_eq!(os_id(text).as_deref(), Some("alpine"));
        assert_eq!(os_id("ID=\"rhel\"").as_deref(), Some("rhel"));
        assert_eq!(os_id("ID_LIKE=debian"), None);
    }

    #[test]
    fn of_a_volume_the_top_is_told_and_what_another_user_put_there() {
        let root = tempfile::tempdir().unwrap();
        for name in ["lost+found", "p"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("file"), "").unwrap();
        let own = rustix::process::geteuid().as_raw();
        let path = |name: &str| root.path().join(name).display().to_string();
        let top_only = |path: &Path| !path.ends_with("p");
        assert_eq!(
            writable(root.path(), own + 1, top_only),
            BTreeMap::from([
                (path("").trim_end_matches('/').to_owned(), true),
                (path("p"), false)
            ])
        );
        let of_the_user = writable(root.path(), own, top_only);
        assert_eq!(of_the_user.values().collect::<Vec<_>>(), [&true]);
        let missing = writable(&root.path().join("x"), own, is_writable);
        assert_eq!(missing.values().collect::<Vec<_>>(), [&false]);
    }

    #[test]
    fn an_image_with_both_loaders_runs_glibc_programs() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(libc(root.path()), Libc::None);
        fs::create_dir(root.path().join("lib")).unwrap();
        fs::write(root.path().join("lib/ld-musl-x86_64.so.1"), "").unwrap();
        assert_eq!(libc(root.path()), Libc::Musl);
        fs::create_dir(root.path().join("lib64")).unwrap();
        fs::write(root.path().join("lib64/ld-linux-x86-64.so.2"), "").unwrap();
        assert_eq!(libc(root.path()), Libc::Glibc);
    }
}
