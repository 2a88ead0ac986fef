//! Whole block devices as volumes, for back ends that find them by other ways than a path from the
//! user: with the device's own blocks and size.

use super::open::{Opened, Which, device_bytes};
use super::volume::AioVolume;
use blk::{Geometry, Identity, Volume};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Opens a block device for reading and writing, for nobody else as long as it is open: the kernel
/// refuses one that is mounted, whose partitions are, or that is held by somebody else. It may
/// wait for the device.
///
/// # Errors
/// The kernel's reason, EBUSY for a device in use; or the device does not suit.
pub(crate) fn open_device(path: &Path, identity: Identity) -> io::Result<AioVolume> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.file_type().is_block_device() {
        return Err(io::Error::other("it is no block device"));
    }
    let opened = Opened::device(file, meta.rdev())?;
    let block_bytes = opened.sector_bytes;
    if !matches!(block_bytes, 512 | 4096) {
        let text = format!("it has blocks of {block_bytes} bytes, neither 512 nor 4096");
        return Err(io::Error::other(text));
    }
    let blocks = opened.bytes / u64::from(block_bytes);
    if blocks == 0 {
        return Err(io::Error::other("it has no blocks that the kernel can use"));
    }
    let geometry = Geometry {
        identity,
        write_cache: true,
        thin: opened.thin,
        ..Geometry::new(block_bytes, blocks)
    };
    let alignment = opened.go_direct(block_bytes);
    let path = path.display().to_string();
    Ok(AioVolume::new(geometry, opened, alignment, path))
}

/// The same for a regular file with blocks of 512 bytes, which may be open more than once.
#[cfg(test)]
pub(crate) fn open_file(path: &Path, identity: Identity) -> io::Result<AioVolume> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let path = path.display().to_string();
    let opened = super::open::describe(&path, file).map_err(io::Error::other)?;
    let geometry = Geometry {
        identity,
        write_cache: true,
        thin: opened.thin,
        ..Geometry::new(512, opened.bytes / 512)
    };
    Ok(AioVolume::new(geometry, opened, None, path))
}

impl AioVolume {
    /// The number of the block device, if it stands on one.
    pub(crate) fn device_number(&self) -> Option<u64> {
        match self.which {
            Which::Device(number) => Some(number),
            Which::File(..) => None,
        }
    }

    /// Whether it is certain that no I/O can reach it any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.shared.faults.backing().is_gone(&self.file)
    }

    /// Whether completed writes may still be in a volatile cache of the device.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.shared.unflushed.any()
    }

    /// Has flushes and writes with FUA fail from the start, for the reason given: writes that were
    /// completed on this device before may be lost.
    pub(crate) fn distrust(&self, why: String) {
        self.shared.faults.distrust(why);
    }

    /// The same open file as a new volume: with the size that a device has now, and without the
    /// faults so far, as if it had been opened again. Two openings of a device at once would not
    /// be possible.
    ///
    /// # Errors
    /// The device does not tell its size, or has none.
    pub(crate) fn renewed(&self) -> io::Result<Self> {
        let now = self.geometry();
        let bytes = match self.which {
            Which::Device(_) => device_bytes(&self.file)?,
            Which::File(..) => self.file.metadata()?.len(),
        };
        let blocks = bytes / u64::from(now.block_bytes);
        if blocks == 0 {
            return Err(io::Error::other("it has no blocks any more"));
        }
        let geometry = Geometry { blocks, ..now };
        let opened = Opened {
            file: self.file.clone(),
            which: self.which,
            backing: self.shared.faults.backing().clone(),
            bytes,
            sector_bytes: now.block_bytes,
            thin: now.thin,
        };
        let path = self.path.clone();
        let mut renewed = Self::new(geometry, opened, self.shared.alignment, path);
        if let Some(shared) = Arc::get_mut(&mut renewed.shared) {
            // The cache of the device is still the same one.
            shared.unflushed = self.shared.unflushed.clone();
        }
        Ok(renewed)
    }
}
