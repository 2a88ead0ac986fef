//! Vectored, non-blocking receive and send.

use blk::{Gather, IoBuf};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Pieces of one call: 128 KiB of 4 KiB pages with their headers, twice over.
const PIECES: usize = 72;

/// Calls until the answer is not "interrupted".
fn checked(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()).map_err(|_| io::Error::last_os_error()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Reads into `direct` (a buffer, an offset and a length) first, and what comes after it into
/// `rest`.
pub(crate) fn recv(
    fd: BorrowedFd<'_>,
    direct: Option<(&mut IoBuf, usize, usize)>,
    rest: &mut [u8],
) -> io::Result<usize> {
    let Some((buf, offset, len)) = direct else {
        // SAFETY: the pointer and length are those of a slice that is mutably borrowed.
        return checked(|| unsafe {
            libc::recv(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), 0)
        });
    };
    let none = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let (mut pieces, mut count, mut left) = ([none; PIECES], 0, len);
    buf.pieces_mut(offset, |base, len| {
        if count < PIECES - 1 && left > 0 {
            pieces[count] = libc::iovec {
                iov_base: base.cast(),
                iov_len: len.min(left),
            };
            left -= len.min(left);
            count += 1;
        }
    });
    if left == 0 {
        pieces[count] = libc::iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: rest.len(),
        };
        count += 1;
    }
    // SAFETY: each piece is memory that is mutably borrowed for this call: `rest`, and an
    // exclusive buffer (`pieces_mut` asserts it).
    checked(|| unsafe { libc::readv(fd.as_raw_fd(), pieces.as_ptr(), count as i32) })
}

/// Sends as much as the socket takes from the front of `gather`.
pub(crate) fn send(fd: BorrowedFd<'_>, gather: &Gather) -> io::Result<usize> {
    let none = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let (mut pieces, mut count) = ([none; PIECES], 0);
    gather.pieces(PIECES, |base, len| {
        pieces[count] = libc::iovec {
            iov_base: base.cast_mut().cast(),
            iov_len: len,
        };
        count += 1;
    });
    // SAFETY: an all-zero `msghdr` is valid: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = count;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the pieces are memory that `gather` keeps alive and unchanged during this call, and
    // the kernel only reads them.
    checked(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
}
