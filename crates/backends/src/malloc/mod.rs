//! Malloc volumes: memory that grows as it is written, and is empty after a restart.

mod pages;
mod store;
mod volume;

use crate::checks;
use crate::volumes::{Kind, Volumes};
use api::error::{Error, Result};
use api::handler::{Handlers, Install, Job};
use api::storage::v1::MallocVolume as Spec;
use blk::{Geometry, Identity, PAGE_BYTES, Volume as _};
use uuid::Uuid;
use volume::MallocVolume;

const BLOCK_SIZE: &str = "malloc_volume.block_size";
const BLOCKS_COUNT: &str = "malloc_volume.blocks_count";
const METADATA_SIZE: &str = "malloc_volume.metadata_size";
const UUID: &str = "malloc_volume.uuid";

/// Most bytes of metadata per block. Real formats have 8, 16 or 64; the bound keeps a block with
/// its metadata within one page more than the block alone.
const METADATA_BYTES_MAX: i64 = PAGE_BYTES as i64;

/// Installs the handler.
pub(crate) struct Malloc;

impl<W> Install<W> for Malloc {
    fn install(&self, _: &W, handlers: &mut Handlers) -> Result<()> {
        handlers.add(Volumes::new(Self))
    }
}

/// Everything but the identity.
fn geometry(spec: &Spec) -> Result<Geometry> {
    let block_bytes = checks::block_bytes(BLOCK_SIZE, spec.block_size)?;
    if !(0..=METADATA_BYTES_MAX).contains(&spec.metadata_size) {
        let text = format!(
            "{} bytes of metadata per block; take 0 to {METADATA_BYTES_MAX}, usually 8, 16 or 64",
            spec.metadata_size
        );
        return Err(Error::invalid(METADATA_SIZE, text));
    }
    let metadata_bytes = spec.metadata_size as u32;
    let stride = block_bytes + metadata_bytes;
    let blocks = checks::blocks(BLOCKS_COUNT, spec.blocks_count, stride, pages::BYTES_MAX)?;
    // Blocks that share a page are best written a page at a time: such writes are not copied.
    let optimal_blocks = if metadata_bytes == 0 {
        PAGE_BYTES as u32 / block_bytes
    } else {
        0
    };
    Ok(Geometry {
        metadata_bytes,
        optimal_blocks,
        thin: true,
        ..Geometry::new(block_bytes, blocks)
    })
}

/// What a change leads to, for a volume whose identity is `now`.
fn merged(old: &Spec, now: Uuid, new: &Spec) -> Result<Spec> {
    checks::kept(BLOCK_SIZE, &old.block_size, &new.block_size)?;
    checks::kept(METADATA_SIZE, &old.metadata_size, &new.metadata_size)?;
    checks::kept_uuid(UUID, now, &new.uuid)?;
    let blocks_count = checks::grown(BLOCKS_COUNT, old.blocks_count, new.blocks_count)?;
    Ok(Spec {
        blocks_count,
        ..old.clone()
    })
}

fn identity(volume: &MallocVolume) -> Uuid {
    Uuid::from_bytes(volume.geometry().identity.uuid)
}

impl Kind for Malloc {
    type Spec = Spec;
    type Volume = MallocVolume;

    fn admit(&self, new: &Spec, old: Option<&Spec>) -> Result<()> {
        let given = checks::uuid(UUID, &new.uuid)?;
        let Some(old) = old else {
            return geometry(new).map(|_| ());
        };
        // An identity that the server chose is known to the volume alone, and compared there.
        let now = checks::uuid(UUID, &old.uuid)?.or(given).unwrap_or_default();
        geometry(&merged(old, now, new)?).map(|_| ())
    }

    /// The memory of the last process is gone, so a replay brings the volume back empty, under a
    /// new identity unless the user fixed it: a host that knew the old one must not take the new
    /// one for it. That is why an identity chosen here is shown but never stored.
    fn open(&self, job: &Job, spec: Spec) -> Result<(MallocVolume, Spec)> {
        let uuid = checks::uuid(UUID, &spec.uuid)?.unwrap_or_else(Uuid::new_v4);
        let identity = Identity {
            uuid: uuid.into_bytes(),
            ..Identity::default()
        };
        let geometry = Geometry {
            identity,
            ..geometry(&spec)?
        };
        if job.replay {
            tracing::warn!(
                volume = job.name.as_str(),
                %uuid,
                "a memory volume comes back empty after a restart"
            );
        }
        Ok((MallocVolume::new(geometry), spec))
    }

    fn change(&self, volume: &MallocVolume, old: Spec, new: &Spec) -> Result<Spec> {
        let spec = merged(&old, identity(volume), new)?;
        volume.grow(geometry(&spec)?.blocks);
        Ok(spec)
    }

    fn show(&self, volume: &MallocVolume, resource: &mut Spec) {
        if resource.uuid.is_empty() {
            resource.uuid = identity(volume).to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block_on, job, replay};
    use api::Code;
    use api::handler::Handler;
    use blk::testkit::{SimHome, run};
    use blk::{Io, IoBuf, Lba, Op};

    const NAME: &str = "mallocVolumes/m";

    fn spec(block_size: i64, blocks_count: i64, metadata_size: i64) -> Spec {
        Spec {
            block_size,
            blocks_count,
            metadata_size,
            ..Spec::default()
        }
    }

    fn shown(handler: &Volumes<Malloc>, stored: &Spec) -> Spec {
        let mut resource = stored.clone();
        handler.observe(&job(NAME).name, &mut resource);
        resource
    }

    #[test]
    fn growing_keeps_the_data_and_anything_else_is_refused() {
        let handler = Volumes::new(Malloc);
        let made = block_on(handler.create(job(NAME), spec(512, 64, 8))).unwrap();
        let volume = handler.volume(&job(NAME).name).unwrap();
        let mut lane = volume.open_lane(&mut SimHome::default());
        let io = Io::new(Op::Write, Lba(63), 1, IoBuf::from_slice(&[9; 520]), 0);
        assert_eq!(run(&mut *lane, io).result, Ok(()));
        let update = |new| block_on(handler.update(job(NAME), made.clone(), new));
        for (new, field) in [
            (spec(4096, 64, 8), BLOCK_SIZE),
            (spec(512, 64, 16), METADATA_SIZE),
            (spec(512, 63, 8), BLOCKS_COUNT),
            (
                Spec {
                    uuid: "1".repeat(32),
                    ..spec(512, 64, 8)
                },
                UUID,
            ),
        ] {
            let error = update(new).unwrap_err();
            assert_eq!(error.code, Code::FailedPrecondition);
            assert_eq!(error.field.as_deref(), Some(field));
        }
        assert_eq!(update(spec(0, 128, 0)).unwrap().blocks_count, 128);
        let io = Io::new(Op::Read, Lba(63), 1, IoBuf::empty(), 0);
        assert_eq!(run(&mut *lane, io).buf.to_vec(), [9; 520]);
        assert_eq!(volume.geometry().blocks, 128);
    }

    #[test]
    fn a_chosen_identity_is_shown_and_lasts_as_long_as_the_data() {
        let first = Volumes::new(Malloc);
        let stored = block_on(first.create(job(NAME), spec(4096, 64, 0))).unwrap();
        let seen = shown(&first, &stored);
        assert_eq!(seen.uuid.len(), 36);
        // Writing back what was read is no change.
        let again = block_on(first.update(job(NAME), stored.clone(), seen.clone())).unwrap();
        assert_eq!(again, stored);

        let second = Volumes::new(Malloc);
        block_on(second.create(replay(NAME), stored.clone())).unwrap();
        assert_ne!(shown(&second, &stored).uuid, seen.uuid);
    }

    #[test]
    fn a_fixed_identity_survives_a_restart_as_it_was_given() {
        let fixed = Spec {
            uuid: "AB".repeat(16),
            ..spec(4096, 64, 0)
        };
        for job in [job(NAME), replay(NAME)] {
            let handler = Volumes::new(Malloc);
            let stored = block_on(handler.create(job.clone(), fixed.clone())).unwrap();
            assert_eq!(shown(&handler, &stored), fixed);
            let geometry = handler.volume(&job.name).unwrap().geometry();
            assert_eq!(geometry.identity.uuid, [0xab; 16]);
        }
    }

    #[test]
    fn sizes_have_limits() {
        let admit = |spec: Spec| Malloc.admit(&spec, None).map_err(|e| e.field.unwrap());
        assert_eq!(admit(spec(4096, 1 << 28, 0)), Ok(()));
        assert_eq!(admit(spec(4096, 1 << 32, 0)), Ok(()));
        assert_eq!(
            admit(spec(4096, (1 << 32) + 1, 0)),
            Err(BLOCKS_COUNT.to_owned())
        );
        assert_eq!(admit(spec(4096, 1 << 32, 8)), Err(BLOCKS_COUNT.to_owned()));
        assert_eq!(admit(spec(512, 1, 4096)), Ok(()));
        assert_eq!(admit(spec(512, 1, 4097)), Err(METADATA_SIZE.to_owned()));
        assert_eq!(admit(spec(512, 1, -1)), Err(METADATA_SIZE.to_owned()));
        assert_eq!(admit(spec(520, 1, 0)), Err(BLOCK_SIZE.to_owned()));
    }
}
