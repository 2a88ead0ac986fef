//! The store of a real server: `store.redb`, `keys/` and `lock` in the state directory.

use api::error::{Code, Error, Result};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sealed::{SealedFiles, sync_dir};
use super::{Batch, Loaded, Store, Write, lock};
use crate::keys::Keys;
use crate::record;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const KEEP: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keep");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Entry of `meta` by which a wrong key file is noticed.
const KEY_CHECK: &str = "key-check";
const FILE: &str = "store.redb";
const KEYS: &str = "keys";
/// Memory for cached pages: all records of a large server are a few MiB.
const CACHE_BYTES: usize = 8 << 20;

/// Opens the database file; tests bring one whose disk fails.
type Opener = Box<dyn Fn(&Path) -> std::result::Result<Database, redb::Error> + Send>;

/// A store in a state directory, for one process at a time.
pub struct DiskStore {
    dir: PathBuf,
    keys: Arc<Keys>,
    sealed: SealedFiles,
    opener: Opener,
    /// `None` after a failed commit: the database is opened afresh for the next one.
    database: Option<Database>,
    /// Held for its kernel lock.
    _lock: File,
}

impl DiskStore {
    /// Opens the store in `dir`, and makes both if they are not there.
    ///
    /// # Errors
    /// FAILED_PRECONDITION, with the way out: the directory cannot be written or is in use, the
    /// store is damaged, or was sealed with another key file.
    pub fn open(dir: &Path, keys: Arc<Keys>) -> Result<Self> {
        Self::open_with(dir, keys, Box::new(open_file))
    }

    fn open_with(dir: &Path, keys: Arc<Keys>, opener: Opener) -> Result<Self> {
        let shown = dir.display();
        let unwritable = |e: std::io::Error| {
            let text = format!(
                "the state directory {shown} cannot be written ({e}): give another one with \
                 --state-dir"
            );
            Error::precondition(text).caused_by(e)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(unwritable)?;
        let lock = lock::take(dir)?;
        let sealed = SealedFiles::open(dir.join(KEYS)).map_err(unwritable)?;
        let path = dir.join(FILE);
        let there = fs::exists(&path).map_err(unwritable)?;
        if !there {
            make(&path, &keys, &opener).map_err(|e| failed(dir, e))?;
        }
        let database = opener(&path).map_err(|e| damaged(&path, &e))?;
        let store = Self {
            dir: dir.to_owned(),
            keys,
            sealed,
            opener,
            database: Some(database),
            _lock: lock,
        };
        store.check_key().map_err(|e| damaged(&path, &e))?.then_some(()).ok_or_else(|| {
            Error::precondition(format!(
                "the store in {shown} was sealed with another key file: give the right one with \
                 --key-file"
            ))
        })?;
        Ok(store)
    }

    fn check_key(&self) -> std::result::Result<bool, redb::Error> {
        let database = self.database.as_ref().expect("it was opened just now");
        let table = database.begin_read()?.open_table(META)?;
        Ok(table
            .get(KEY_CHECK)?
            .is_some_and(|found| found.value() == self.keys.check()))
    }

    fn read(&self) -> std::result::Result<(Tables, Tables), redb::Error> {
        let database = self
            .database
            .as_ref()
            .expect("it is open until a commit fails");
        let read = database.begin_read()?;
        let mut tables = [Tables::new(), Tables::new()];
        for (definition, into) in [RECORDS, KEEP].into_iter().zip(&mut tables) {
            for entry in read.open_table(definition)?.iter()? {
                let (key, value) = entry?;
                into.insert(key.value().to_owned(), value.value().to_vec());
            }
        }
        let [records, keep] = tables;
        Ok((records, keep))
    }

    fn write(&mut self, writes: &[Write]) -> std::result::Result<(), redb::Error> {
        if self.database.is_none() {
            self.database = Some((self.opener)(&self.dir.join(FILE))?);
        }
        let database = self.database.as_ref().expect("it was opened just above");
        let transaction = database.begin_write()?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            let mut keep = transaction.open_table(KEEP)?;
            for write in writes {
                match write {
                    Write::Put { name, record } => drop(records.insert(&**name, &**record)?),
                    Write::Delete { name } => drop(records.remove(&**name)?),
                    Write::Keep {
                        key,
                        value: Some(v),
                    } => drop(keep.insert(&**key, &**v)?),
                    Write::Keep { key, value: None } => drop(keep.remove(&**key)?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

type Tables = BTreeMap<String, Vec<u8>>;

impl Store for DiskStore {
    fn load(&mut self) -> Result<Loaded> {
        let path = self.dir.join(FILE);
        let (records, keep) = self.read().map_err(|e| damaged(&path, &e))?;
        let open = |file: &str| self.sealed.open_secret(&self.keys, file);
        let mut wanted = BTreeSet::new();
        let mut resources = Vec::with_capacity(records.len());
        for (name, bytes) in records {
            let stored = record::read(&name, &bytes, &open)
                .map_err(|damage| Error::precondition(format!("{}: {damage}", path.display())))?;
            let forms = [Some(&stored.form), stored.next.as_ref()];
            wanted.extend(
                forms
                    .into_iter()
                    .flatten()
                    .flat_map(|f| &f.secrets)
                    .map(|s| s.file()),
            );
            resources.push(stored);
        }
        self.sealed
            .sweep(&wanted)
            .map_err(|e| failed(&self.dir, e.into()))?;
        Ok(Loaded { resources, keep })
    }

    fn commit(&mut self, batch: &Batch) -> Result<()> {
        let sealed = self.sealed.seal(&self.keys, &batch.seal);
        sealed.map_err(|e| failed(&self.dir, e.into()))?;
        if !batch.writes.is_empty()
            && let Err(error) = self.write(&batch.writes)
        {
            // The database refuses to go on after an error of its disk until it is opened anew.
            self.database = None;
            return Err(failed(&self.dir, error));
        }
        // The records no longer name these files; one that cannot be erased now is swept when
        // the store is opened the next time.
        let _ = self.sealed.erase(&batch.erase);
        Ok(())
    }
}

/// Makes an empty store beside its place and moves it there, so that a file that is there and
/// empty is always damage and never a store that was just being made.
fn make(path: &Path, keys: &Keys, opener: &Opener) -> std::result::Result<(), redb::Error> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    // `create` needs no opener's fault injection: nothing is lost if it fails.
    drop(Database::create(&fresh)?);
    let database = opener(&fresh)?;
    let transaction = database.begin_write()?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(KEEP)?;
    transaction
        .open_table(META)?
        .insert(KEY_CHECK, &keys.check()[..])?;
    transaction.commit()?;
    drop(database);
    fs::rename(&fresh, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))?;
    Ok(())
}

fn open_file(path: &Path) -> std::result::Result<Database, redb::Error> {
    // A full check on every open: what a damaged file would do later is worse than the
    // milliseconds that this takes.
    let mut builder = Database::builder();
    Ok(builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .open(path)?)
}

fn damaged(path: &Path, error: &redb::Error) -> Error {
    Error::precondition(format!(
        "the store {} cannot be read ({error}): restore it from a backup, or move it away to \
         start with nothing",
        path.display()
    ))
}

/// An error of the disk while the server runs.
fn failed(dir: &Path, error: redb::Error) -> Error {
    let shown = dir.display();
    match &error {
        redb::Error::Io(e) if is_full(e) => Error::new(
            Code::ResourceExhausted,
            format!("the disk of the state directory {shown} is full: free some space, then retry"),
        ),
        _ => Error::internal(format!(
            "the state directory {shown} cannot be written ({error})"
        )),
    }
    .caused_by(error)
}

fn is_full(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Seal;
    use redb::backends::FileBackend;
    use redb::{BackendError, StorageBackend};
    use std::fs::OpenOptions;
    use std::sync::atomic::{AtomicBool, Ordering};
    use zeroize::Zeroizing;

    fn keys() -> Arc<Keys> {
        Arc::new(Keys::derive(&[1; 32]))
    }

    fn keep(key: &str, value: &str) -> Batch {
        let value = Some(value.as_bytes().to_vec());
        let writes = vec![Write::Keep {
            key: key.to_owned(),
            value,
        }];
        Batch {
            writes,
            ..Default::default()
        }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(dir.path(), keys()).unwrap();
        store.commit(&keep("a", "1")).unwrap();
        store.commit(&keep("b", "2")).unwrap();
        drop(store);
        let mut store = DiskStore::open(dir.path(), keys()).unwrap();
        let keep = store.load().unwrap().keep;
        assert_eq!(keep.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(keep["b"], b"2");
    }

    #[test]
    fn another_key_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        drop(DiskStore::open(dir.path(), keys()).unwrap());
        let other = Arc::new(Keys::derive(&[2; 32]));
        let error = DiskStore::open(dir.path(), other).err().unwrap();
        assert!(error.message.contains("--key-file"), "{error}");
    }

    #[test]
    fn a_truncated_or_overwritten_store_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(dir.path(), keys()).unwrap();
        store.commit(&keep("a", "1")).unwrap();
        drop(store);
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let lengths = [
            0,
            1,
            100,
            4096,
            5000,
            8192,
            whole.len() / 2,
            whole.len() - 1,
        ];
        let cut = lengths.iter().map(|n| whole[..*n].to_vec());
        let zeroes = vec![0; whole.len()];
        let noise: Vec<u8> = (0..whole.len()).map(|i| (i * 31 % 251) as u8).collect();
        for damaged in cut.chain([zeroes, noise]) {
            fs::write(&path, &damaged).unwrap();
            let error = match DiskStore::open(dir.path(), keys()) {
                Err(error) => error,
                Ok(_) => panic!("{} of {} bytes were accepted", damaged.len(), whole.len()),
            };
            assert!(
                error.message.contains("restore it from a backup"),
                "{error}"
            );
            assert_eq!(fs::metadata(&path).unwrap().len() as usize, damaged.len());
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(
            DiskStore::open(dir.path(), keys())
                .unwrap()
                .load()
                .unwrap()
                .keep
                .len(),
            1
        );
    }

    #[test]
    fn a_bit_that_flipped_in_the_store_is_found_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(dir.path(), keys()).unwrap();
        store.commit(&keep("a", "0123456789")).unwrap();
        drop(store);
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let at = whole.windows(10).position(|w| w == b"0123456789").unwrap();
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&path, &flipped).unwrap();
        assert!(DiskStore::open(dir.path(), keys()).is_err());
    }

    /// A file whose disk is full while the switch is on.
    #[derive(Debug)]
    struct Full(FileBackend, Arc<AtomicBool>);

    impl Full {
        fn check(&self) -> std::result::Result<(), std::io::Error> {
            let full = self.1.load(Ordering::SeqCst);
            if full {
                Err(std::io::Error::from(ErrorKind::StorageFull))
            } else {
                Ok(())
            }
        }
    }

    impl StorageBackend for Full {
        fn len(&self) -> std::result::Result<u64, std::io::Error> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> std::result::Result<(), std::io::Error> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> std::result::Result<(), std::io::Error> {
            self.check()?;
            self.0.set_len(len)
        }
        fn sync_data(&self) -> std::result::Result<(), std::io::Error> {
            self.check()?;
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> std::result::Result<(), std::io::Error> {
            self.check()?;
            self.0.write(offset, data)
        }
        fn close(&self) -> std::result::Result<(), std::io::Error> {
            self.0.close()
        }
        fn try_lock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> std::result::Result<bool, BackendError> {
            self.0.try_lock_range(start, end)
        }
        fn unlock_range(
            &self,
            start: std::ops::Bound<u64>,
            end: std::ops::Bound<u64>,
        ) -> std::result::Result<(), BackendError> {
            self.0.unlock_range(start, end)
        }
    }

    #[test]
    fn a_full_disk_is_said_to_be_full_and_the_store_goes_on_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let full = Arc::new(AtomicBool::new(false));
        let switch = full.clone();
        let opener: Opener = Box::new(move |path| {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let backend = Full(FileBackend::new(file)?, switch.clone());
            Ok(Database::builder().create_with_backend(backend)?)
        });
        let mut store = DiskStore::open_with(dir.path(), keys(), opener).unwrap();
        store.commit(&keep("a", "1")).unwrap();
        full.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            let error = store.commit(&keep("b", "2")).unwrap_err();
            assert_eq!(error.code, Code::ResourceExhausted);
            assert!(error.message.contains("free some space"), "{error}");
        }
        full.store(false, Ordering::SeqCst);
        store.commit(&keep("c", "3")).unwrap();
        drop(store);
        let keep = DiskStore::open(dir.path(), keys())
            .unwrap()
            .load()
            .unwrap()
            .keep;
        assert_eq!(keep.keys().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn secrets_are_sealed_with_the_records_and_strays_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(dir.path(), keys()).unwrap();
        let seal = Seal {
            file: "ab".to_owned(),
            secret: Zeroizing::new(vec![1; 16]),
        };
        store
            .commit(&Batch {
                seal: vec![seal],
                ..Default::default()
            })
            .unwrap();
        assert!(dir.path().join("keys/ab").exists());
        drop(store);
        DiskStore::open(dir.path(), keys()).unwrap().load().unwrap();
        assert!(!dir.path().join("keys/ab").exists(), "no record names it");
    }
}
