//! What both sides have, on disk and in order, so that only what changed crosses.
//!
//! One manifest describes both sides, because a file keeps its time of modification when it
//! crosses. Each side keeps a copy and changes it by the archives that pass; the name of the copy
//! tells whether it is the same one. The runner's counts.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::entry::{Entries, Entry, Kind, order, printable};
use crate::spool::Nonce;

const NAME: &str = "manifest";
const ID: usize = 32;

/// A manifest in a directory.
#[derive(Debug, Clone)]
pub struct Manifest {
    path: PathBuf,
}

impl Manifest {
    /// The one in that directory; it need not be there yet.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        Self {
            path: directory.join(NAME),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, if it is there.
    pub fn id(&self) -> io::Result<Option<Nonce>> {
        let mut id = [0; ID];
        match File::open(&self.path).and_then(|mut file| file.read_exact(&mut id)) {
            Ok(()) => Ok(String::from_utf8_lossy(&id).parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its entries, in order; none when it is not there.
    pub fn entries(&self) -> io::Result<Entries<BufReader<File>>> {
        let file = match File::open(&self.path) {
            Ok(mut file) => {
                file.read_exact(&mut [0; ID])?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open("/dev/null")?,
            Err(error) => return Err(error),
        };
        Ok(Entries::new(BufReader::new(file)))
    }

    /// Begins a copy that is to be changed, and named `id` then. Without a change it stays as it is
    /// and keeps its name, unless it has none yet.
    pub fn change(&self, id: &Nonce) -> io::Result<Change> {
        let mut change = Change {
            manifest: self.clone(),
            id: id.clone(),
            copy: None,
            last: Vec::new(),
        };
        if self
            .id()?
            .is_none_or(|id| id.as_str().bytes().all(|byte| byte == b'0'))
        {
            change.begin()?;
        }
        Ok(change)
    }

    /// Takes over another side's, if it sends one.
    #[must_use]
    pub fn intake(&self) -> Intake<'_> {
        Intake {
            manifest: self,
            file: None,
        }
    }
}

fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// A manifest that is written anew, once anything is new.
#[derive(Debug)]
pub struct Change {
    manifest: Manifest,
    id: Nonce,
    copy: Option<Copy>,
    last: Vec<u8>,
}

/// What is written, and what of the old one is left.
#[derive(Debug)]
struct Copy {
    old: Entries<BufReader<File>>,
    pending: Option<Entry>,
    out: BufWriter<File>,
    temporary: PathBuf,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Change {
    fn begin(&mut self) -> io::Result<&mut Copy> {
        let copy = match self.copy.take() {
            Some(copy) => copy,
            None => Copy::of(&self.manifest, &self.id)?,
        };
        Ok(self.copy.insert(copy))
    }

    /// Takes in the next entry of an archive.
    ///
    /// # Errors
    /// It stands in no order with the ones before, or the disk is full.
    pub fn apply(&mut self, entry: &Entry) -> io::Result<()> {
        if !self.last.is_empty() && order(&self.last, &entry.path).is_ge() {
            let text = format!("`{}` is out of order", printable(&entry.path));
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.last.clone_from(&entry.path);
        let copy = self.begin()?;
        copy.until(Some(&entry.path))?;
        if entry.kind != Kind::Gone {
            copy.write(entry)?;
        }
        Ok(())
    }

    /// Ends it; it does not count yet.
    pub fn finish(self) -> io::Result<Changed> {
        let Some(mut copy) = self.copy else {
            return Ok(Changed::default());
        };
        copy.until(None)?;
        copy.out.flush()?;
        Ok(Changed {
            places: Some((copy.temporary, self.manifest.path)),
            bytes: copy.bytes,
        })
    }
}

impl Copy {
    fn of(manifest: &Manifest, id: &Nonce) -> io::Result<Self> {
        let temporary = manifest.path.with_extension(id.as_str());
        let mut out = BufWriter::new(private(&temporary)?);
        out.write_all(id.as_str().as_bytes())?;
        let mut old = manifest.entries()?;
        Ok(Self {
            pending: old.read()?,
            old,
            out,
            temporary,
            bytes: 0,
            buffer: Vec::new(),
        })
    }

    /// Copies what comes before `path`, and drops what was there.
    fn until(&mut self, path: Option<&[u8]>) -> io::Result<()> {
        while let Some(mut old) = self.pending.take() {
            let at = path.map_or(std::cmp::Ordering::Less, |path| order(&old.path, path));
            if at.is_gt() {
                self.pending = Some(old);
                break;
            }
            if at.is_lt() {
                self.write(&old)?;
            }
            self.pending = self.old.read_into(&mut old)?.then_some(old);
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.kind == Kind::File && entry.path.starts_with(b"workspace/") {
            self.bytes = self.bytes.saturating_add(entry.size);
        }
        self.buffer.clear();
        entry.encode(&mut self.buffer);
        self.out.write_all(&self.buffer)
    }
}

/// A changed manifest that does not count yet.
#[derive(Debug, Default)]
pub struct Changed {
    /// Where it is, and where it goes; nothing when nothing changed.
    places: Option<(PathBuf, PathBuf)>,
    /// Bytes of all regular files of the workspace in it; none when nothing changed.
    pub bytes: u64,
}

impl Changed {
    /// From now on it counts.
    pub fn commit(self) -> io::Result<()> {
        match self.places {
            Some((temporary, path)) => std::fs::rename(temporary, path),
            None => Ok(()),
        }
    }
}

/// Another side's manifest, which comes in pieces, or not at all.
#[derive(Debug)]
pub struct Intake<'m> {
    manifest: &'m Manifest,
    file: Option<File>,
}

impl Intake<'_> {
    /// Takes in a piece.
    pub fn take_in(&mut self, piece: &[u8]) -> io::Result<()> {
        let temporary = self.temporary();
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(private(&temporary)?),
        };
        file.write_all(piece)
    }

    /// All pieces have come: from now on they count, if there were any.
    pub fn complete(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some(_) => std::fs::rename(self.temporary(), &self.manifest.path),
            None => Ok(()),
        }
    }

    fn temporary(&self) -> PathBuf {
        self.manifest.path.with_extension("whole")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn file(path: &str, size: u64) -> Entry {
        Entry {
            size,
            ..Entry::bare(Kind::File, path.as_bytes().to_vec())
        }
    }

    fn change(manifest: &Manifest, entries: &[Entry]) -> u64 {
        let mut change = manifest.change(&Nonce::random().unwrap()).unwrap();
        for entry in entries {
            change.apply(entry).unwrap();
        }
        let changed = change.finish().unwrap();
        let bytes = changed.bytes;
        changed.commit().unwrap();
        bytes
    }

    fn all(manifest: &Manifest) -> Vec<(String, u64)> {
        let mut entries = manifest.entries().unwrap();
        let mut all = Vec::new();
        while let Some(entry) = entries.read().unwrap() {
            all.push((String::from_utf8(entry.path).unwrap(), entry.size));
        }
        all
    }

    proptest! {
        #[test]
        fn changes_of_a_manifest_are_those_of_a_map(
            rounds in proptest::collection::vec(
                proptest::collection::btree_map("workspace/[ab]{1,2}(/[ab.]x){0,2}", proptest::option::of(0_u64..100), 0..8), 1..6),
        ) {
            let root = tempfile::tempdir().unwrap();
            let manifest = Manifest::of(root.path());
            let mut model = BTreeMap::new();
            for round in rounds {
                let mut entries: Vec<Entry> = round.iter().map(|(path, size)| match size {
                    Some(size) => file(path, *size),
                    None => Entry::bare(Kind::Gone, path.as_bytes().to_vec()),
                }).collect();
                entries.sort_by(|one, other| order(&one.path, &other.path));
                let before = manifest.id().unwrap();
                let bytes = change(&manifest, &entries);
                let same = before.is_some() && before == manifest.id().unwrap();
                prop_assert_eq!(same, entries.is_empty() && before.is_some());
                for (path, size) in round {
                    match size {
                        Some(size) => model.insert(path, size),
                        None => model.remove(&path),
                    };
                }
                if !same {
                    prop_assert_eq!(bytes, model.values().sum::<u64>());
                }
                let mut expected: Vec<_> = model.clone().into_iter().collect();
                expected.sort_by(|one, other| order(one.0.as_bytes(), other.0.as_bytes()));
                prop_assert_eq!(all(&manifest), expected);
            }
        }
    }

    #[test]
    fn an_entry_out_of_order_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let mut change = Manifest::of(root.path())
            .change(&Nonce::random().unwrap())
            .unwrap();
        change.apply(&file("b", 1)).unwrap();
        for path in ["b", "a"] {
            assert!(change.apply(&file(path, 1)).is_err());
        }
    }

    #[test]
    fn a_change_that_is_not_committed_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let manifest = Manifest::of(root.path());
        assert_eq!(manifest.id().unwrap(), None);
        change(&manifest, &[file("a", 1)]);
        let id = manifest.id().unwrap().unwrap();
        let mut change = manifest.change(&Nonce::random().unwrap()).unwrap();
        change.apply(&file("b", 1)).unwrap();
        drop(change.finish().unwrap());
        assert_eq!(manifest.id().unwrap(), Some(id));
        assert_eq!(all(&manifest), [("a".to_owned(), 1)]);
    }
}
