//! One sealed file for each secret, so that erasing one erases it.

use aws_lc_rs::rand;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

use super::Seal;
use crate::keys::{Keys, NONCE_BYTES};

/// Ending of a file that is being written.
const FRESH: &str = "new";

/// The folder of sealed files.
pub(super) struct SealedFiles {
    dir: PathBuf,
}

impl SealedFiles {
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// Seals secrets, durably.
    pub(super) fn seal(&self, keys: &Keys, secrets: &[Seal]) -> io::Result<()> {
        for Seal { file, secret } in secrets {
            let mut nonce = [0; NONCE_BYTES];
            rand::fill(&mut nonce).map_err(|_| io::Error::other("no random numbers"))?;
            let path = self.dir.join(file);
            let fresh = path.with_extension(FRESH);
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut out = options.open(&fresh)?;
            out.write_all(&keys.seal(file, nonce, secret))?;
            out.sync_all()?;
            fs::rename(&fresh, &path)?;
        }
        if secrets.is_empty() {
            Ok(())
        } else {
            sync_dir(&self.dir)
        }
    }

    /// The secret in a file, if it is there and was sealed by us.
    pub(super) fn open_secret(&self, keys: &Keys, file: &str) -> Option<Zeroizing<Vec<u8>>> {
        let sealed = fs::read(self.dir.join(file)).ok()?;
        keys.open(file, &sealed)
    }

    /// Erases files: overwrites what they hold, as far as the medium lets one, and removes them.
    pub(super) fn erase(&self, files: &[String]) -> io::Result<()> {
        for file in files {
            let path = self.dir.join(file);
            match OpenOptions::new().write(true).open(&path) {
                Ok(mut out) => {
                    let bytes = out.metadata()?.len() as usize;
                    out.write_all(&vec![0; bytes])?;
                    out.sync_all()?;
                    fs::remove_file(&path)?;
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if files.is_empty() {
            Ok(())
        } else {
            sync_dir(&self.dir)
        }
    }

    /// Erases every file that no record names: what a crash left between a file and its record.
    pub(super) fn sweep(&self, wanted: &BTreeSet<String>) -> io::Result<()> {
        let mut stray = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if entry.file_type()?.is_file() && !wanted.contains(name) {
                stray.push(name.to_owned());
            }
        }
        self.erase(&stray)
    }
}

/// Makes new and removed names of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(file: &str) -> Seal {
        Seal {
            file: file.to_owned(),
            secret: Zeroizing::new(b"secret".to_vec()),
        }
    }

    #[test]
    fn a_secret_is_sealed_opened_and_erased() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::derive(&[5; 32]);
        let files = SealedFiles::open(dir.path().join("keys")).unwrap();
        files.seal(&keys, &[seal("aa"), seal("bb")]).unwrap();
        assert_eq!(
            files.open_secret(&keys, "aa").unwrap().as_slice(),
            b"secret"
        );
        assert!(files.open_secret(&Keys::derive(&[6; 32]), "aa").is_none());
        files.erase(&["aa".to_owned(), "never".to_owned()]).unwrap();
        assert!(files.open_secret(&keys, "aa").is_none());
        assert!(files.open_secret(&keys, "bb").is_some());
    }

    #[test]
    fn strays_are_swept_and_the_wanted_stay() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::derive(&[5; 32]);
        let files = SealedFiles::open(dir.path().to_owned()).unwrap();
        files.seal(&keys, &[seal("aa"), seal("bb")]).unwrap();
        fs::write(dir.path().join("cc.new"), b"torn").unwrap();
        files.sweep(&BTreeSet::from(["aa".to_owned()])).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert!(files.open_secret(&keys, "aa").is_some());
    }
}
