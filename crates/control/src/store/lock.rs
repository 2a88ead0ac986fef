//! One server for one state directory.

use api::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

/// Name of the lock file in the state directory. It stays; the kernel's lock on it is what counts.
const LOCK: &str = "lock";

/// Takes the state directory for this process until the file is closed.
///
/// # Errors
/// FAILED_PRECONDITION naming the process that has it, or that it cannot be written.
pub(super) fn take(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let shown = dir.display();
    let unwritable = |e: std::io::Error| {
        let text = format!(
            "the state directory {shown} cannot be written ({e}): give another one with --state-dir"
        );
        Error::precondition(text).caused_by(e)
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&path).map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The number is for people; without it the message is still right.
            let _ = file.read_to_string(&mut owner);
            let owner = match owner.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(Error::precondition(format!(
                "the state directory {shown} is in use by {owner}: stop it, or give another one \
                 with --state-dir"
            )));
        }
        Err(TryLockError::Error(e)) => return Err(unwritable(e)),
    }
    file.set_len(0).map_err(unwritable)?;
    file.rewind().map_err(unwritable)?;
    write!(file, "{}", std::process::id()).map_err(unwritable)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_told_which_process_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        let error = take(dir.path()).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(
            error.message.contains(&format!("in use by process {pid}")),
            "{error}"
        );
        drop(first);
        take(dir.path()).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_said_to_be_unwritable() {
        let error = take(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.message.contains("--state-dir"), "{error}");
    }
}
