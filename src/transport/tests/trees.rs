//! Trees that cross, and cross again when they have changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::super::changes::{LIMITS, Limits, NO_LIMITS};
use super::super::entry::Reason;
use super::super::extract::Extractor;
use super::super::frame::Selection;
use super::Sides;
use crate::spool::directory::Directory;

/// Bytes of an archive in which nothing has changed.
const EMPTY: usize = 27;

/// Everything below a directory: kind and mode, and content or target.
fn picture(root: &Path) -> BTreeMap<OsString, (u32, Vec<u8>)> {
    fn add(root: &Path, path: &Path, all: &mut BTreeMap<OsString, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else if metadata.is_dir() {
                add(root, &path, all);
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let mode = if metadata.is_symlink() {
                0
            } else {
                metadata.mode()
            };
            let name = path.strip_prefix(root).unwrap().as_os_str().to_owned();
            all.insert(name, (mode, content));
        }
    }
    let mut all = BTreeMap::new();
    add(root, root, &mut all);
    all
}

#[derive(Debug, Clone)]
enum Act {
    Write(String, Vec<u8>, bool),
    Directory(String),
    Link(String, String),
    Remove(String),
}

fn act(root: &Path, act: &Act) {
    let place = |path: &str| {
        let path = root.join(path);
        let _ = fs::create_dir_all(path.parent().unwrap());
        if path.is_dir() && !path.is_symlink() {
            let _ = fs::remove_dir_all(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
        path
    };
    // What cannot be done, because a file stands where a directory should, is left.
    match act {
        Act::Write(path, bytes, executable) => {
            let path = place(path);
            if fs::write(&path, bytes).is_ok() {
                let mode = if *executable { 0o755 } else { 0o640 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        Act::Directory(path) => drop(fs::create_dir(place(path))),
        Act::Link(path, target) => drop(symlink(target, place(path))),
        Act::Remove(path) => drop(place(path)),
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let path = || "[ab](/[ab. ]{1,2}x){0,2}";
    let one = prop_oneof![
        4 => (path(), proptest::collection::vec(any::<u8>(), 0..50), any::<bool>())
            .prop_map(|(path, bytes, executable)| Act::Write(path, bytes, executable)),
        1 => path().prop_map(Act::Directory),
        1 => (path(), path()).prop_map(|(path, target)| Act::Link(path, target)),
        2 => path().prop_map(Act::Remove),
    ];
    proptest::collection::vec(one, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_pod_has_what_the_runner_has_after_every_crossing(
        rounds in proptest::collection::vec(acts(), 1..5),
    ) {
        let sides = Sides::new();
        for round in rounds {
            for one in &round {
                act(&sides.path("runner/w"), one);
            }
            sides.up();
            prop_assert_eq!(picture(&sides.path("runner/w")), picture(&sides.path("pod/w")));
            prop_assert_eq!(sides.up(), EMPTY, "nothing changed, and something crossed");
        }
    }

    #[test]
    fn the_runner_has_the_files_of_the_pod_after_every_crossing_but_none_of_its_links(
        rounds in proptest::collection::vec(acts(), 1..5),
    ) {
        let sides = Sides::new();
        for round in rounds {
            for one in &round {
                act(&sides.path("pod/w"), one);
            }
            sides.down();
            let mut pod = picture(&sides.path("pod/w"));
            pod.retain(|_, (mode, _)| *mode != 0);
            prop_assert_eq!(picture(&sides.path("runner/w")), pod);
            prop_assert_eq!(sides.down(), EMPTY, "nothing changed, and something crossed");
            prop_assert_eq!(sides.up(), EMPTY, "what came back went again");
        }
    }
}

/// Go keeps modules so. Root, as whom tests may run, could write to them all the same.
#[test]
fn a_directory_that_its_owner_may_not_write_to_is_open_until_all_of_it_has_come() {
    let sides = Sides::new();
    let from = sides.path("runner/w");
    fs::create_dir_all(from.join("mod/in")).unwrap();
    fs::write(from.join("mod/in/file"), "module").unwrap();
    fs::write(from.join("next"), "file").unwrap();
    let sealed = fs::Permissions::from_mode(0o555);
    fs::set_permissions(from.join("mod/in"), sealed.clone()).unwrap();
    fs::set_permissions(from.join("mod"), sealed).unwrap();
    let archive = sides.archive("runner", Selection::All, NO_LIMITS);
    let pod = sides.path("pod/w");
    let roots = vec![("w".to_owned(), Directory::open(&pod).unwrap())];
    let mut extractor = Extractor::new(roots, NO_LIMITS, None, &[]);
    let mode = |path: &str| fs::metadata(pod.join(path)).map(|one| one.mode() & 0o777);
    let mut seen = Vec::new();
    for byte in archive {
        extractor.feed(&[byte]).unwrap();
        let now = [mode("mod").ok(), mode("mod/in").ok()];
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    let (open, closed) = (Some(0o755), Some(0o555));
    let stages = [
        [None, None],
        [open, None],
        [open, open],
        [open, closed],
        [closed, closed],
    ];
    let ends = [seen.first(), seen.last()];
    assert_eq!(ends, [Some(&stages[0]), Some(&stages[4])], "{seen:?}");
    assert!(seen.contains(&stages[2]), "{seen:?}");
    assert_eq!(picture(&from), picture(&pod));
    // For whoever removes them and is not root.
    for root in [from, pod] {
        for path in ["mod", "mod/in"] {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

#[test]
fn odd_names_cross() {
    let sides = Sides::new();
    for name in [&b"a b"[..], b"line\nbreak", b"\xff\xfe", b"-rf", b"'\"$x"] {
        let path = sides
            .path("runner/w")
            .join(OsString::from_vec(name.to_vec()));
        fs::write(path, name).unwrap();
    }
    sides.up();
    assert_eq!(
        picture(&sides.path("runner/w")),
        picture(&sides.path("pod/w"))
    );
    assert_eq!(picture(&sides.path("pod/w")).len(), 5);
}

#[test]
fn holes_of_a_large_file_stay_holes() {
    const SIZE: u64 = 3 << 30;
    let sides = Sides::new();
    let mut file = fs::File::create(sides.path("runner/w/disk")).unwrap();
    file.write_all(b"begin").unwrap();
    file.seek(std::io::SeekFrom::Start(SIZE / 2)).unwrap();
    file.write_all(b"middle").unwrap();
    file.set_len(SIZE).unwrap();
    let crossed = sides.up();
    assert!(crossed < 1 << 20, "{crossed} bytes crossed");
    let metadata = fs::metadata(sides.path("pod/w/disk")).unwrap();
    assert_eq!(metadata.len(), SIZE);
    assert!(metadata.blocks() * 512 < 1 << 20);
    let mut copy = fs::File::open(sides.path("pod/w/disk")).unwrap();
    copy.seek(std::io::SeekFrom::Start(SIZE / 2)).unwrap();
    let mut middle = [0; 7];
    std::io::Read::read_exact(&mut copy, &mut middle).unwrap();
    assert_eq!(&middle, b"middle\0");
}

#[test]
fn files_that_share_an_inode_arrive_as_files_of_their_own() {
    let sides = Sides::new();
    fs::write(sides.path("runner/w/one"), "content").unwrap();
    fs::hard_link(sides.path("runner/w/one"), sides.path("runner/w/two")).unwrap();
    sides.up();
    assert_eq!(
        picture(&sides.path("runner/w")),
        picture(&sides.path("pod/w"))
    );
}

#[test]
fn a_file_that_git_ignores_stays_on_the_runner_as_it_was() {
    let sides = Sides::new();
    fs::write(sides.path("runner/w/.gitignore"), "*.o\n").unwrap();
    fs::write(sides.path("runner/w/a.o"), "old").unwrap();
    sides.up();
    fs::write(sides.path("pod/w/a.o"), "newer").unwrap();
    assert_eq!(sides.down(), EMPTY);
    assert_eq!(fs::read(sides.path("runner/w/a.o")).unwrap(), b"old");
    fs::remove_file(sides.path("pod/w/a.o")).unwrap();
    sides.down();
    assert!(
        !sides.path("runner/w/a.o").exists(),
        "a deletion counts all the same"
    );
}

#[test]
fn a_link_of_the_runners_own_stays_its_own() {
    let sides = Sides::new();
    symlink("file", sides.path("runner/w/link")).unwrap();
    sides.up();
    assert_eq!(sides.down(), EMPTY);
    assert!(sides.path("runner/w/link").is_symlink());
}

#[test]
fn what_exceeds_a_limit_is_named_and_an_older_copy_does_not_stay() {
    let sides = Sides::new();
    let limits = Limits {
        file: 10,
        total: 15,
        ..LIMITS
    };
    fs::write(sides.path("pod/w/a"), "0123456789").unwrap();
    fs::write(sides.path("pod/w/b"), "small").unwrap();
    let (_, left) = sides.cross("pod", "runner", Selection::Tracked, limits);
    assert_eq!(left.count, 0);
    fs::write(sides.path("pod/w/a"), "01234567890").unwrap();
    fs::write(sides.path("pod/w/c"), "0123456789").unwrap();
    fs::write(sides.path("pod/w/d"), "6 more").unwrap();
    let (_, left) = sides.cross("pod", "runner", Selection::Tracked, limits);
    let named: Vec<(&str, Reason)> = left
        .named
        .iter()
        .map(|(name, reason)| (name.as_str(), *reason))
        .collect();
    assert_eq!(named, [("w/a", Reason::TooLarge), ("w/d", Reason::TooMuch)]);
    assert_eq!(
        picture(&sides.path("runner/w"))
            .into_keys()
            .collect::<Vec<_>>(),
        ["b", "c"]
    );
}

#[test]
fn a_large_file_of_the_runners_own_stays_and_one_of_the_job_is_named_once() {
    let sides = Sides::new();
    let limits = Limits { file: 10, ..LIMITS };
    let down = || sides.cross("pod", "runner", Selection::Tracked, limits).1;
    fs::write(sides.path("runner/w/own"), "larger than ten").unwrap();
    sides.up();
    assert_eq!(down().count, 0);
    assert!(sides.path("runner/w/own").exists());
    fs::write(sides.path("pod/w/made"), "larger than ten, too").unwrap();
    assert_eq!(down().count, 1);
    assert_eq!((down().count, sides.up()), (0, EMPTY));
    assert!(sides.path("pod/w/made").exists(), "the runner never had it");
    fs::write(sides.path("pod/w/made"), "small").unwrap();
    assert_eq!(down().count, 0);
    assert_eq!(fs::read(sides.path("runner/w/made")).unwrap(), b"small");
}
