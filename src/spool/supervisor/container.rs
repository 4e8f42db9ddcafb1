//! What the supervisor finds in the container it starts in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::super::{Libc, Nonce, PROTOCOL, Ready};

/// Files of an image are read up to this size; a larger one is not what it claims to be.
const LIMIT: u64 = 1024 * 1024;

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
            .map(|path| (path.display().to_string(), is_writable(path)))
            .collect::<BTreeMap<_, _>>(),
    }
}

fn read(path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)
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
        std::fs::read_dir(root.join(directory))
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
    fn an_image_with_both_loaders_runs_glibc_programs() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(libc(root.path()), Libc::None);
        std::fs::create_dir(root.path().join("lib")).unwrap();
        std::fs::write(root.path().join("lib/ld-musl-x86_64.so.1"), "").unwrap();
        assert_eq!(libc(root.path()), Libc::Musl);
        std::fs::create_dir(root.path().join("lib64")).unwrap();
        std::fs::write(root.path().join("lib64/ld-linux-x86-64.so.2"), "").unwrap();
        assert_eq!(libc(root.path()), Libc::Glibc);
    }
}
