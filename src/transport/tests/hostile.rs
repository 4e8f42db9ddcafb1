//! Archives of a job that means harm, taken in on the runner's side.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::super::changes::{LIMITS, Limits};
use super::super::entry::{Entry, Kind};
use super::super::extract::ExtractError;
use super::{Sides, take};

/// Holes and what follows them.
type Pieces<'p> = &'p [(u64, &'p [u8])];

/// An archive of entries, whatever they are, each with its content.
fn archive(entries: &[(Entry, Pieces<'_>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (entry, pieces) in entries {
        entry.encode(&mut bytes);
        for (hole, piece) in *pieces {
            bytes.extend(hole.to_le_bytes());
            bytes.extend(u32::try_from(piece.len()).unwrap().to_le_bytes());
            bytes.extend(*piece);
        }
    }
    Entry::bare(Kind::End, Vec::new()).encode(&mut bytes);
    bytes
}

fn file(path: &str, size: u64) -> Entry {
    Entry {
        size,
        mode: 0o644,
        ..Entry::bare(Kind::File, path.as_bytes().to_vec())
    }
}

fn refusal(archive: &[u8], to: &Path) -> String {
    match take(archive, to, LIMITS, None) {
        Err(ExtractError::Refused(reason)) => reason,
        other => panic!("it was taken: {other:?}"),
    }
}

#[test]
fn paths_that_lead_out_are_refused() {
    let sides = Sides::new();
    let target = sides.path("runner/w");
    for path in [
        "w/../escaped",
        "/etc/escaped",
        "w//x",
        "w/./x",
        "..",
        "w/a/../../../x",
    ] {
        let bytes = archive(&[(file(path, 1), &[(0, b"x"), (0, b"")])]);
        assert!(refusal(&bytes, &target).contains("the path"), "{path}");
    }
    for path in ["other/x", "w", "v/x"] {
        let bytes = archive(&[(file(path, 1), &[(0, b"x"), (0, b"")])]);
        refusal(&bytes, &target);
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_link_is_neither_made_nor_followed() {
    let sides = Sides::new();
    let target = sides.path("runner/w");
    let link = Entry::bare(Kind::Link, b"w/link".to_vec());
    let bytes = archive(&[(Entry { size: 4, ..link }, &[(0, b"/etc"), (0, b"")])]);
    assert!(refusal(&bytes, &target).contains("link"));
    // One that is there, for whatever reason, leads nowhere.
    fs::create_dir(sides.path("outside")).unwrap();
    fs::write(sides.path("outside/victim"), "whole").unwrap();
    symlink(sides.path("outside"), target.join("dir")).unwrap();
    let bytes = archive(&[(file("w/dir/victim", 1), &[(0, b"x"), (0, b"")])]);
    assert!(take(&bytes, &target, LIMITS, None).is_err());
    let gone = Entry::bare(Kind::Gone, b"w/dir/victim".to_vec());
    take(&archive(&[(gone, &[])]), &target, LIMITS, None).unwrap();
    symlink(sides.path("outside/victim"), target.join("file")).unwrap();
    let bytes = archive(&[(file("w/file", 1), &[(0, b"x"), (0, b"")])]);
    take(&bytes, &target, LIMITS, None).unwrap();
    assert_eq!(fs::read(sides.path("outside/victim")).unwrap(), b"whole");
    assert_eq!(fs::read(target.join("file")).unwrap(), b"x");
}

#[test]
fn there_is_no_way_to_say_device_or_hard_link() {
    let sides = Sides::new();
    for kind in 0..=u8::MAX {
        let mut bytes = archive(&[(file("w/x", 0), &[(0, b"")])]);
        bytes[0] = kind;
        let _ = take(&bytes, &sides.path("runner/w"), LIMITS, None);
    }
    for entry in fs::read_dir(sides.path("runner/w")).unwrap() {
        let kind = entry.unwrap().file_type().unwrap();
        assert!(kind.is_file() || kind.is_dir(), "{kind:?}");
    }
}

#[test]
fn more_bytes_or_files_than_agreed_are_refused_before_they_are_written() {
    let sides = Sides::new();
    let target = sides.path("runner/w");
    let limits = Limits {
        file: 100,
        total: 150,
        entries: 3,
    };
    let refused = |entries: &[(Entry, Pieces<'_>)]| {
        let error = take(&archive(entries), &target, limits, None).unwrap_err();
        assert!(matches!(error, ExtractError::Refused(_)), "{error}");
    };
    refused(&[(file("w/large", 101), &[])]);
    refused(&[(file("w/says-less", 1), &[(0, b"and sends more"), (0, b"")])]);
    refused(&[(file("w/hole", 10), &[(1 << 40, b"x"), (0, b"")])]);
    refused(&[(file("w/around", 10), &[(u64::MAX - 1, b"xyz"), (0, b"")])]);
    let hundred: &[(u64, &[u8])] = &[(0, &[b'x'; 100]), (0, b"")];
    refused(&[(file("w/a", 100), hundred), (file("w/b", 100), hundred)]);
    let empty: &[(u64, &[u8])] = &[(0, b"")];
    refused(&[
        (file("w/1", 0), empty),
        (file("w/2", 0), empty),
        (file("w/3", 0), empty),
        (file("w/4", 0), empty),
    ]);
    let mut huge = archive(&[(file("w/piece", 5), &[])]);
    huge.truncate(huge.len() - 27);
    huge.extend(0_u64.to_le_bytes());
    huge.extend(u32::MAX.to_le_bytes());
    assert!(take(&huge, &target, limits, None).is_err());
}

#[test]
fn set_id_bits_do_not_cross() {
    use std::os::unix::fs::PermissionsExt as _;
    let sides = Sides::new();
    let mut entry = file("w/x", 0);
    entry.mode = 0o6777;
    let bytes = archive(&[(entry, &[(0, b"")])]);
    take(&bytes, &sides.path("runner/w"), LIMITS, None).unwrap();
    let mode = fs::metadata(sides.path("runner/w/x"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o777);
}

#[test]
fn an_archive_that_is_cut_anywhere_leads_nowhere_else() {
    let sides = Sides::new();
    fs::create_dir(sides.path("pod/w/dir")).unwrap();
    fs::write(sides.path("pod/w/dir/file"), "content").unwrap();
    let whole = sides.archive("pod", super::super::frame::Selection::All, LIMITS);
    for end in 0..whole.len() {
        let target = sides.path("runner/w");
        assert!(take(&whole[..end], &target, LIMITS, None).is_err(), "{end}");
    }
}
