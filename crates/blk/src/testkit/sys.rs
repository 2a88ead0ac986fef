//! The one system call that the simulated home needs and the standard library lacks.
#![allow(unsafe_code)]

use std::io;

/// `fallocate(2)`.
pub(super) fn fallocate(fd: i32, mode: i32, offset: i64, len: i64) -> io::Result<()> {
    // SAFETY: takes numbers only; the caller's descriptor is open for as long as its `File` lives.
    match unsafe { libc::fallocate(fd, mode, offset, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
