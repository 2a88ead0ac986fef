//! What the kernel's error numbers mean to whoever sent the I/O.

use blk::IoError;

/// The reason behind an `errno` of a file operation.
pub(super) fn reason(errno: i32) -> IoError {
    match errno {
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => IoError::NoSpace,
        libc::EACCES | libc::EPERM | libc::EROFS | libc::EBADF | libc::EBADE => IoError::Denied,
        libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM | libc::ENOBUFS | libc::EMFILE => {
            IoError::Busy
        }
        libc::EOPNOTSUPP | libc::ENOSYS => IoError::Unsupported,
        libc::ECANCELED => IoError::Aborted,
        // The device, the file system or the file is gone, and with it what the descriptor meant.
        libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN | libc::ESTALE => IoError::Offline,
        // The device or the server of the file is out of reach.
        libc::ENOMEDIUM | libc::ETIMEDOUT | libc::ENOLINK | libc::EHOSTUNREACH | libc::ENOTCONN => {
            IoError::Transport
        }
        // EIO, ENODATA, EILSEQ, EREMOTEIO and whatever else a medium may say. EINVAL too: what is
        // sent is aligned, so only a file that was cut short can make it odd.
        _ => IoError::Medium,
    }
}

/// Whether a sync that ended so was not even tried. After any other failure the kernel may have
/// dropped what it could not write, and says so only once.
pub(super) fn not_tried(errno: i32) -> bool {
    matches!(errno, libc::EAGAIN | libc::EINTR | libc::ECANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_a_full_a_broken_and_a_lost_disk_differ() {
        assert_eq!(reason(libc::ENOSPC), IoError::NoSpace);
        assert_eq!(reason(libc::EIO), IoError::Medium);
        assert_eq!(reason(libc::ENODEV), IoError::Offline);
        assert_eq!(reason(libc::ETIMEDOUT), IoError::Transport);
        assert_eq!(reason(libc::EROFS), IoError::Denied);
        assert_eq!(reason(-1), IoError::Medium);
    }
}
