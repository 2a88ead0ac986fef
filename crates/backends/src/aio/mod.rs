//! Aio volumes: data in a file or on a block device of this machine.

mod device;
mod errno;
mod fault;
mod lane;
mod open;
mod unflushed;
mod volume;

use crate::checks;
use crate::volumes::{Kind, Volumes};
use api::error::{Error, Result};
use api::handler::{Handlers, Health, Install, Job};
use api::storage::v1::AioVolume as Spec;
use blk::{Geometry, Identity};
use open::{Claims, Opened};
use uuid::Uuid;

pub(crate) use device::open_device;
#[cfg(test)]
pub(crate) use device::open_file;
pub(crate) use volume::AioVolume;

const BLOCK_SIZE: &str = "aio_volume.block_size";
const BLOCKS_COUNT: &str = "aio_volume.blocks_count";
const UUID: &str = "aio_volume.uuid";
const FILENAME: &str = "aio_volume.filename";

/// The block size of a file whose user names none; a device brings its own.
const BLOCK_BYTES_DEFAULT: u32 = 512;
/// The largest file that a signed 64-bit offset reaches.
const BYTES_MAX: u64 = i64::MAX as u64;

/// Installs the handler.
pub(crate) struct Aio;

impl<W> Install<W> for Aio {
    fn install(&self, _: &W, handlers: &mut Handlers) -> Result<()> {
        handlers.add(Volumes::new(Files::default()))
    }
}

/// The volumes in files.
#[derive(Default)]
struct Files {
    claims: Claims,
}

/// The block size asked for, if any.
fn block_bytes(spec: &Spec) -> Result<Option<u32>> {
    match spec.block_size {
        0 => Ok(None),
        512 | 4096 => Ok(Some(spec.block_size as u32)),
        other => {
            let text = format!("{other} is not a block size of a file volume; take 512 or 4096");
            Err(Error::invalid(BLOCK_SIZE, text))
        }
    }
}

/// The number of blocks asked for, if any.
fn blocks(spec: &Spec, block_bytes: u32) -> Result<Option<u64>> {
    match spec.blocks_count {
        0 => Ok(None),
        count => checks::blocks(BLOCKS_COUNT, count, block_bytes, BYTES_MAX).map(Some),
    }
}

/// What a change leads to.
fn merged(old: &Spec, new: &Spec) -> Result<Spec> {
    checks::kept(FILENAME, &old.filename, &new.filename)?;
    checks::kept(BLOCK_SIZE, &old.block_size, &new.block_size)?;
    let now = checks::uuid(UUID, &old.uuid)?.unwrap_or_default();
    checks::kept_uuid(UUID, now, &new.uuid)?;
    let blocks_count = checks::grown(BLOCKS_COUNT, old.blocks_count, new.blocks_count)?;
    Ok(Spec {
        blocks_count,
        ..old.clone()
    })
}

/// The block size to use in what was opened.
fn fitting_block(spec: &Spec, opened: &Opened) -> Result<u32> {
    let sector = opened.sector_bytes;
    let wanted = block_bytes(spec)?.unwrap_or(sector.max(BLOCK_BYTES_DEFAULT));
    if !matches!(wanted, 512 | 4096) || wanted < sector {
        let text = format!(
            "{BLOCK_SIZE}: the device {} has blocks of {sector} bytes, which a volume with blocks \
             of {wanted} cannot stand on",
            spec.filename
        );
        return Err(Error::precondition(text).at(BLOCK_SIZE));
    }
    Ok(wanted)
}

/// The number of blocks to offer of what was opened.
fn fitting_blocks(spec: &Spec, opened: &Opened, block_bytes: u32) -> Result<u64> {
    let there = opened.bytes / u64::from(block_bytes);
    match blocks(spec, block_bytes)? {
        None if there == 0 => {
            let text = format!(
                "{FILENAME}: {} has {} bytes, less than one block of {block_bytes}",
                spec.filename, opened.bytes
            );
            Err(Error::precondition(text).at(FILENAME))
        }
        // A tail shorter than a block is left alone.
        None => Ok(there),
        Some(wanted) if wanted <= there => Ok(wanted),
        Some(wanted) => {
            let text = format!(
                "{BLOCKS_COUNT}: {wanted} blocks of {block_bytes} bytes do not fit {}, which has \
                 {} bytes; leave {BLOCKS_COUNT} out to use what is there",
                spec.filename, opened.bytes
            );
            Err(Error::precondition(text).at(BLOCKS_COUNT))
        }
    }
}

impl Kind for Files {
    type Spec = Spec;
    type Volume = AioVolume;

    fn admit(&self, new: &Spec, old: Option<&Spec>) -> Result<()> {
        checks::uuid(UUID, &new.uuid)?;
        let whole = match old {
            None => new.clone(),
            Some(old) => merged(old, new)?,
        };
        open::check_path(&whole.filename)?;
        let block_bytes = block_bytes(&whole)?.unwrap_or(BLOCK_BYTES_DEFAULT);
        blocks(&whole, block_bytes).map(|_| ())
    }

    /// The size and the identity are stored as found and chosen here, so that a file which has
    /// become shorter is noticed at the next start, and the volume is the same one to hosts.
    fn open(&self, job: &Job, mut spec: Spec) -> Result<(AioVolume, Spec)> {
        let wish = block_bytes(&spec)?.unwrap_or(BLOCK_BYTES_DEFAULT);
        let create = blocks(&spec, wish)?.map(|blocks| blocks * u64::from(wish));
        let create = create.filter(|_| !job.replay);
        let opened = self
            .claims
            .open(&spec.filename, create, job.name.as_str())?;
        let block_bytes = fitting_block(&spec, &opened)?;
        let blocks = fitting_blocks(&spec, &opened, block_bytes)?;
        let uuid = checks::uuid(UUID, &spec.uuid)?;
        if uuid.is_none() {
            spec.uuid = Uuid::new_v4().to_string();
        }
        let uuid = checks::uuid(UUID, &spec.uuid)?
            .unwrap_or_default()
            .into_bytes();
        spec.block_size = i64::from(block_bytes);
        spec.blocks_count = blocks as i64;
        let geometry = Geometry {
            identity: Identity {
                uuid,
                ..Identity::default()
            },
            write_cache: true,
            thin: opened.thin,
            ..Geometry::new(block_bytes, blocks)
        };
        let alignment = opened.go_direct(block_bytes);
        if alignment.is_none() {
            tracing::info!(
                path = spec.filename,
                "no direct I/O here; using the page cache"
            );
        }
        let path = spec.filename.clone();
        Ok((AioVolume::new(geometry, opened, alignment, path), spec))
    }

    fn change(&self, volume: &AioVolume, old: Spec, new: &Spec) -> Result<Spec> {
        volume.look_again();
        let spec = merged(&old, new)?;
        let block_bytes = block_bytes(&spec)?.unwrap_or(BLOCK_BYTES_DEFAULT);
        volume.grow(blocks(&spec, block_bytes)?.unwrap_or(0))?;
        Ok(spec)
    }

    fn health(&self, volume: &AioVolume) -> Health {
        volume.health()
    }
}

#[cfg(test)]
mod tests;
