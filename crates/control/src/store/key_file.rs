//! The key file: the one secret that everything else is sealed with, outside the store.

use api::error::{Error, Result};
use aws_lc_rs::rand;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use zeroize::Zeroizing;

use crate::keys::KEY_BYTES;
use crate::page::{hex, unhex};

/// Permission bits that others than the owner must not have.
const OTHERS: u32 = 0o077;

/// Reads the key file: 64 hexadecimal digits, or 32 bytes. With `make`, one that is not there is
/// made, with a random key, readable by its owner only.
///
/// # Errors
/// FAILED_PRECONDITION, with the way out, when it is absent, readable by others, or malformed.
pub fn read_key_file(path: &Path, make: bool) -> Result<Zeroizing<[u8; KEY_BYTES]>> {
    let shown = path.display();
    let failed = |what: &str, e: std::io::Error| {
        Error::precondition(format!("the key file {shown} cannot be {what} ({e})")).caused_by(e)
    };
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(e) if e.kind() == ErrorKind::NotFound && make => {
            return match create(path) {
                Ok(key) => Ok(key),
                // Somebody else made it in the meantime; theirs is the one that stays.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => read_key_file(path, false),
                Err(e) => Err(failed("made", e)),
            };
        }
        Err(e) => return Err(failed("read", e)),
    };
    let mode = fs::metadata(path)
        .map_err(|e| failed("read", e))?
        .permissions()
        .mode();
    if mode & OTHERS != 0 {
        return Err(Error::precondition(format!(
            "the key file {shown} can be used by others than its owner: run chmod 600 {shown}"
        )));
    }
    parse(&bytes).ok_or_else(|| {
        Error::precondition(format!(
            "the key file {shown} must hold 64 hexadecimal digits or 32 bytes, and holds {} bytes",
            bytes.len()
        ))
    })
}

fn parse(bytes: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(bytes) {
        return Some(Zeroizing::new(raw));
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let bytes = Zeroizing::new(unhex(text)?);
    <[u8; KEY_BYTES]>::try_from(bytes.as_slice())
        .ok()
        .map(Zeroizing::new)
}

/// Makes a key file, unless there is one: that is `AlreadyExists`.
fn create(path: &Path) -> std::io::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(&mut *key).map_err(|_| std::io::Error::other("no random numbers"))?;
    let text = Zeroizing::new(format!("{}\n", hex(&*key)));
    // A half-written key file would lock everything sealed later, so it appears whole or not; and a
    // link, unlike a rename, never takes the place of a key that another process made meanwhile.
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    let made = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&fresh, path));
    fs::remove_file(&fresh)?;
    made?;
    super::sealed::sync_dir(dir)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/key");
        assert!(read_key_file(&path, false).is_err());
        let key = read_key_file(&path, true).unwrap();
        assert_eq!(read_key_file(&path, true).unwrap(), key);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_key_that_was_made_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = create(&path).unwrap();
        let again = create(&path).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        assert_eq!(read_key_file(&path, true).unwrap(), key);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        read_key_file(&path, true).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_key_file(&path, true).unwrap_err();
        assert!(error.message.contains("chmod 600"), "{error}");
    }

    #[test]
    fn raw_bytes_are_a_key_too_and_anything_else_is_not() {
        assert!(parse(&[0xfe; 32]).is_some());
        assert!(parse(&[0xfe; 31]).is_none());
        assert!(parse(&[b'a'; 64]).is_some());
        assert!(parse(&[b'a'; 62]).is_none());
        assert!(parse(&[b'x'; 64]).is_none());
        assert!(parse(b"").is_none());
    }
}
