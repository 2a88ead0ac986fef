//! Finding, creating and opening the file or block device below a volume.
//!
//! These calls block, but only for what a file system needs to look up, size or sync one inode;
//! they run on the control plane.

use super::{BLOCKS_COUNT, FILENAME};
use api::error::{Code, Error, Result};
use rustix::fs::{AtFlags, StatxFlags};
use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

/// Longest path that Linux takes, without its closing zero.
const PATH_BYTES_MAX: usize = 4095;
/// What direct I/O needs where the kernel does not say (before Linux 6.1): a page, which is what
/// the buffers are made of, and no file system asks for more.
const MEMORY_ALIGN_GUESS: usize = 4096;

/// What direct I/O demands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Alignment {
    /// Of every address.
    pub(super) memory: usize,
    /// Of every offset and length.
    pub(super) offset: usize,
}

/// Which file it is, whatever path led to it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Which {
    /// A regular file, by device and inode.
    File(u64, u64),
    /// A block device, by number.
    Device(u64),
}

/// What a file stands on, as far as it can be watched without I/O.
#[derive(Clone, Debug)]
pub(super) struct Backing {
    is_device: bool,
    /// The folder in sysfs that goes when the block device does; `None` if there is none to see.
    node: Option<PathBuf>,
}

/// A file or block device that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: Arc<File>,
    pub(super) which: Which,
    pub(super) backing: Backing,
    /// Size in bytes.
    pub(super) bytes: u64,
    /// The smallest block that the device takes; 1 for regular files.
    pub(super) sector_bytes: u32,
    /// Whether a hole gives space back.
    pub(super) thin: bool,
}

/// Checks what can be said about a path without looking at it.
///
/// # Errors
/// INVALID_ARGUMENT.
pub(super) fn check_path(path: &str) -> Result<()> {
    let fault = match path {
        "" => "is required: the absolute path of a file or a block device",
        _ if path.len() > PATH_BYTES_MAX => "is longer than 4095 bytes, the most that Linux takes",
        _ if path.contains('\0') => "holds a zero byte, which no path can",
        _ if !path.starts_with('/') => "is not an absolute path; begin it with /",
        _ if path.ends_with('/') => "names a directory; name a file or a block device",
        _ => return Ok(()),
    };
    Err(Error::invalid(FILENAME, fault))
}

/// An I/O error at a path, as the client should see it.
fn failed(path: &str, what: &str, error: io::Error) -> Error {
    let code = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Code::NotFound,
        Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::EFBIG) => {
            Code::ResourceExhausted
        }
        Some(libc::EIO) => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    let advice = match error.raw_os_error() {
        Some(libc::EBUSY) => "; it is mounted or otherwise in use: unmount or release it first",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "; the server must be allowed to write it, and nobody may have it mounted"
        }
        _ => "",
    };
    let text = format!("{FILENAME}: cannot {what} {path}: {error}{advice}");
    Error::new(code, text).at(FILENAME).caused_by(error)
}

fn which(meta: &Metadata) -> Option<Which> {
    if meta.file_type().is_block_device() {
        Some(Which::Device(meta.rdev()))
    } else {
        meta.is_file().then(|| Which::File(meta.dev(), meta.ino()))
    }
}

/// Looks at the path, without opening it: opening a FIFO or a tape has effects.
fn look(path: &str) -> Result<Option<Metadata>> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path, "look at", e)),
    };
    if which(&meta).is_none() {
        let what = if meta.is_dir() {
            "a directory"
        } else {
            "neither a file nor a block device"
        };
        let text = format!("{FILENAME}: {path} is {what}; name a regular file or a block device");
        return Err(Error::precondition(text).at(FILENAME));
    }
    Ok(Some(meta))
}

/// Opens for reading and writing.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// Makes an empty regular file `bytes` long, which then reads as zeroes and takes no space yet.
/// Durable when it returns.
fn size(path: &str, file: &File, bytes: u64) -> Result<()> {
    file.set_len(bytes).map_err(|e| failed(path, "size", e))?;
    file.sync_all().map_err(|e| failed(path, "sync", e))?;
    let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| failed(path, "sync the folder of", e))
}

fn replaced(path: &str) -> Error {
    let text = format!("{FILENAME}: {path} was replaced while it was being opened");
    Error::new(Code::Aborted, text).at(FILENAME)
}

pub(super) fn describe(path: &str, file: File) -> Result<Opened> {
    let meta = file.metadata().map_err(|e| failed(path, "look at", e))?;
    let which = which(&meta).ok_or_else(|| replaced(path))?;
    let Which::Device(number) = which else {
        return Ok(Opened {
            file: Arc::new(file),
            which,
            backing: Backing::new(false, meta.dev()),
            bytes: meta.len(),
            sector_bytes: 1,
            thin: true,
        });
    };
    Opened::device(file, number).map_err(|e| failed(path, "ask for the size of", e))
}

/// Size of a block device. Does no I/O.
pub(super) fn device_bytes(file: &File) -> io::Result<u64> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)
}

/// What sysfs has of a block device.
fn node(number: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

impl Backing {
    /// What stands on the block device of this number. File systems without one (and containers
    /// without sysfs) show nothing to watch.
    fn new(is_device: bool, number: u64) -> Self {
        let node = Some(node(number)).filter(|node| node.exists());
        Self { is_device, node }
    }

    /// Whether it is certain that no I/O can reach it any more. Never waits for a disk or a
    /// server.
    pub(super) fn is_gone(&self, file: &File) -> bool {
        if self.node.as_ref().is_some_and(|node| !node.exists()) {
            return true;
        }
        if self.is_device {
            // The kernel sets the size of a disk to nothing when it goes.
            return device_bytes(file).is_ok_and(|bytes| bytes == 0);
        }
        // A file system that was shut down may refuse even this (XFS does).
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let seen = rustix::fs::statx(file, c"", flags, StatxFlags::SIZE);
        seen.is_err_and(|e| e == rustix::io::Errno::IO)
    }

    /// One that goes when this folder does, for tests.
    #[cfg(test)]
    pub(super) fn on(node: &Path) -> Self {
        Self {
            is_device: false,
            node: Some(node.to_owned()),
        }
    }
}

/// Whether a block device takes discards. What sysfs does not say is no.
fn discards(number: u64) -> bool {
    let base = node(number);
    // A partition has no queue of its own.
    let paths = ["queue", "../queue"].map(|queue| base.join(queue).join("discard_max_bytes"));
    let read = paths
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok());
    read.is_some_and(|text| text.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0))
}

impl Opened {
    /// A block device of this number, with the size and the blocks that it has now.
    pub(super) fn device(file: File, number: u64) -> io::Result<Self> {
        Ok(Self {
            which: Which::Device(number),
            backing: Backing::new(true, number),
            bytes: device_bytes(&file)?,
            sector_bytes: rustix::fs::ioctl_blksszget(&file)?,
            thin: discards(number),
            file: Arc::new(file),
        })
    }

    /// Turns direct I/O on, if blocks of `block_bytes` can be read and written that way: the page
    /// cache would only copy what hosts cache already.
    pub(super) fn go_direct(&self, block_bytes: u32) -> Option<Alignment> {
        let before = rustix::fs::fcntl_getfl(&self.file).ok()?;
        let direct = rustix::fs::OFlags::DIRECT;
        rustix::fs::fcntl_setfl(&self.file, before | direct).ok()?;
        let alignment = self.alignment(block_bytes);
        if alignment.is_none() {
            // It was set a moment ago, so it can be set back.
            rustix::fs::fcntl_setfl(&self.file, before).ok()?;
        }
        alignment
    }

    fn alignment(&self, block_bytes: u32) -> Option<Alignment> {
        let mask = StatxFlags::DIOALIGN;
        let statx = rustix::fs::statx(&self.file, c"", AtFlags::EMPTY_PATH, mask).ok();
        let told = statx.filter(|statx| statx.stx_mask & mask.bits() != 0);
        let alignment = match told {
            // Zeroes mean that this file has no direct I/O.
            Some(statx) if statx.stx_dio_offset_align == 0 => return None,
            Some(statx) => Alignment {
                memory: statx.stx_dio_mem_align.max(1) as usize,
                offset: statx.stx_dio_offset_align as usize,
            },
            None => Alignment {
                memory: MEMORY_ALIGN_GUESS,
                offset: block_bytes as usize,
            },
        };
        let fits = (block_bytes as usize).is_multiple_of(alignment.offset)
            && MEMORY_ALIGN_GUESS.is_multiple_of(alignment.memory);
        (fits && reads(&self.file, block_bytes)).then_some(alignment)
    }
}

/// Whether the first block can be read, into an aligned place.
pub(super) fn reads(file: &File, block_bytes: u32) -> bool {
    let mut buf = blk::IoBuf::alloc(block_bytes as usize);
    let first = buf.slices_mut().next().flatten();
    // A block larger than a page is read in pages: the alignment is a page or less.
    first.is_some_and(|page| file.read_at(page, 0).is_ok())
}

/// Makes a regular file longer, without taking space. Durable when it returns.
///
/// # Errors
/// FAILED_PRECONDITION for a device, or what the file system says.
pub(super) fn grow(file: &File, which: Which, path: &str, bytes: u64) -> Result<()> {
    let now = match which {
        Which::File(..) => file.metadata().map(|meta| meta.len()),
        Which::Device(_) => device_bytes(file),
    };
    let now = now.map_err(|e| failed(path, "ask for the size of", e))?;
    if bytes <= now {
        return Ok(());
    }
    if matches!(which, Which::Device(_)) {
        let text = format!(
            "{BLOCKS_COUNT}: the device {path} has {now} bytes, fewer than the {bytes} asked \
             for; enlarge the device first"
        );
        return Err(Error::precondition(text).at(BLOCKS_COUNT));
    }
    file.set_len(bytes)
        .map_err(|e| failed(path, "enlarge", e))?;
    file.sync_all().map_err(|e| failed(path, "sync", e))
}

/// The files that volumes of this process use, so that none is used twice.
///
/// A file is in use for as long as it is open: by its volume, by a lane, or by an operation that
/// the kernel still works on after both are gone.
#[derive(Default)]
pub(super) struct Claims(Mutex<Taken>);

/// Who has which file.
type Taken = BTreeMap<Which, (String, Weak<File>)>;

/// Checks that a file is free.
fn free(taken: &Taken, which: Which, path: &str) -> Result<()> {
    let Some((owner, _)) = taken.get(&which) else {
        return Ok(());
    };
    let text = format!("{FILENAME}: {path} is in use by {owner}; take another file");
    let mut error = Error::precondition(text).at(FILENAME);
    error.in_use_by.push(owner.clone());
    Err(error)
}

impl Claims {
    /// Opens the file or block device for reading and writing, and takes it for the volume `name`.
    /// If there is none, or an empty one, and `create_bytes` says how long it should be, it is
    /// made first.
    ///
    /// An empty file that exists is taken: it holds nothing that could be lost, and a crash in
    /// here leaves one behind.
    ///
    /// # Errors
    /// NOT_FOUND, or FAILED_PRECONDITION for what cannot be used or is used already.
    pub(super) fn open(&self, path: &str, create_bytes: Option<u64>, name: &str) -> Result<Opened> {
        // Held to the end: nobody else may find the same file empty, or free, meanwhile.
        let mut taken = self.0.lock().expect("no holder of the claims panics");
        taken.retain(|_, (_, file)| file.strong_count() > 0);
        let found = look(path)?;
        let mut options = options();
        match (&found, create_bytes) {
            (None, None) => {
                let text = format!(
                    "{FILENAME}: {path} does not exist; set {BLOCKS_COUNT} when creating the \
                     volume to have it made"
                );
                return Err(Error::new(Code::NotFound, text).at(FILENAME));
            }
            (None, Some(_)) => {
                options.create(true).truncate(false).mode(0o600);
            }
            (Some(meta), _) => {
                // Asked before a device is opened: the kernel would refuse a second time too, but
                // could not say who has it.
                let which = which(meta).ok_or_else(|| replaced(path))?;
                free(&taken, which, path)?;
                if matches!(which, Which::Device(_)) {
                    // The kernel refuses a device that is mounted or held by somebody else.
                    options.custom_flags(libc::O_EXCL);
                }
            }
        }
        let what = if found.is_none() { "create" } else { "open" };
        let file = options.open(path).map_err(|e| failed(path, what, e))?;
        let mut opened = describe(path, file)?;
        // What was opened may be another file than the one that was looked at.
        free(&taken, opened.which, path)?;
        if let (Which::File(..), 0, Some(bytes)) = (opened.which, opened.bytes, create_bytes) {
            size(path, &opened.file, bytes)?;
            opened.bytes = bytes;
        }
        let claim = (name.to_owned(), Arc::downgrade(&opened.file));
        taken.insert(opened.which, claim);
        Ok(opened)
    }
}
