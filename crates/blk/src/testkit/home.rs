//! The simulated home: file operations happen at once, on the calling thread.

use super::sys;
use crate::{FileDone, FileIo, FileOp, FileQueue, Home, IoBuf};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::task::Waker;

/// A home without a reactor. File operations complete in order, synchronously; a test can make
/// the n-th of them fail.
#[derive(Clone, Default)]
pub struct SimHome {
    /// Fail every file operation from this one on (counted from 0) with `EIO`.
    pub fail_files_from: Option<u64>,
}

impl Home for SimHome {
    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }

    fn open_file(&mut self, file: Arc<File>) -> io::Result<Box<dyn FileQueue>> {
        let fail_from = self.fail_files_from.unwrap_or(u64::MAX);
        Ok(Box::new(SimFile {
            file,
            done: Vec::new(),
            count: 0,
            fail_from,
        }))
    }

    fn keep(&self) -> Box<dyn Home> {
        Box::new(self.clone())
    }
}

struct SimFile {
    file: Arc<File>,
    done: Vec<FileDone>,
    count: u64,
    fail_from: u64,
}

fn read(file: &File, offset: u64, buf: &mut IoBuf) -> io::Result<usize> {
    let mut bytes = vec![0; buf.len()];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    buf.copy_from(0, &bytes[..filled]);
    Ok(filled)
}

fn clear(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<usize> {
    let (offset, len) = (offset.cast_signed(), len.cast_signed());
    sys::fallocate(file.as_raw_fd(), mode, offset, len).map(|()| 0)
}

impl FileQueue for SimFile {
    fn submit(&mut self, io: FileIo) {
        let FileIo {
            op,
            offset,
            mut buf,
            token,
        } = io;
        let number = self.count;
        self.count += 1;
        let file = &self.file;
        let keep = libc::FALLOC_FL_KEEP_SIZE;
        let result = if number >= self.fail_from {
            Err(io::Error::from_raw_os_error(libc::EIO))
        } else {
            match op {
                FileOp::Read => read(file, offset, &mut buf),
                FileOp::Write { durable } => file
                    .write_all_at(&buf.to_vec(), offset)
                    .and_then(|()| if durable { file.sync_data() } else { Ok(()) })
                    .map(|()| buf.len()),
                FileOp::Sync => file.sync_data().map(|()| 0),
                FileOp::Punch { len } => {
                    clear(file, libc::FALLOC_FL_PUNCH_HOLE | keep, offset, len)
                }
                FileOp::Zero { len } => clear(file, libc::FALLOC_FL_ZERO_RANGE | keep, offset, len),
            }
        };
        let result = result.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO));
        self.done.push(FileDone { token, buf, result });
    }

    fn poll(&mut self, done: &mut Vec<FileDone>) {
        done.append(&mut self.done);
    }
}
