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
