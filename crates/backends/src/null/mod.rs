//! Null volumes: they read as zeroes and forget what is written.

mod volume;

use crate::checks;
use crate::volumes::{Kind, Volumes};
use api::error::Result;
use api::handler::{Handlers, Install, Job};
use api::storage::v1::NullVolume as Spec;
use blk::{Geometry, Identity};
use uuid::Uuid;
use volume::NullVolume;

const BLOCK_SIZE: &str = "null_volume.block_size";
const BLOCKS_COUNT: &str = "null_volume.blocks_count";
const UUID: &str = "null_volume.uuid";

/// The largest null volume, 1 EiB: hosts that count bytes or sectors in signed 64 bits still can.
const BYTES_MAX: u64 = 1 << 60;

/// Installs the handler.
pub(crate) struct Null;

impl<W> Install<W> for Null {
    fn install(&self, _: &W, handlers: &mut Handlers) -> Result<()> {
        handlers.add(Volumes::new(Self))
    }
}

fn geometry(spec: &Spec) -> Result<Geometry> {
    let block_bytes = checks::block_bytes(BLOCK_SIZE, spec.block_size)?;
    let blocks = checks::blocks(BLOCKS_COUNT, spec.blocks_count, block_bytes, BYTES_MAX)?;
    Ok(Geometry::new(block_bytes, blocks))
}

/// What a change leads to.
fn merged(old: &Spec, new: &Spec) -> Result<Spec> {
    checks::kept(BLOCK_SIZE, &old.block_size, &new.block_size)?;
    let now = checks::uuid(UUID, &old.uuid)?.unwrap_or_default();
    checks::kept_uuid(UUID, now, &new.uuid)?;
    let blocks_count = checks::grown(BLOCKS_COUNT, old.blocks_count, new.blocks_count)?;
    Ok(Spec {
        blocks_count,
        ..old.clone()
    })
}

impl Kind for Null {
    type Spec = Spec;
    type Volume = NullVolume;

    fn admit(&self, new: &Spec, old: Option<&Spec>) -> Result<()> {
        checks::uuid(UUID, &new.uuid)?;
        match old {
            None => geometry(new),
            Some(old) => geometry(&merged(old, new)?),
        }
        .map(|_| ())
    }

    fn open(&self, _: &Job, mut spec: Spec) -> Result<(NullVolume, Spec)> {
        let uuid = checks::uuid(UUID, &spec.uuid)?;
        if uuid.is_none() {
            spec.uuid = Uuid::new_v4().to_string();
        }
        let uuid = checks::uuid(UUID, &spec.uuid)?
            .unwrap_or_default()
            .into_bytes();
        let identity = Identity {
            uuid,
            ..Identity::default()
        };
        let geometry = Geometry {
            identity,
            thin: true,
            ..geometry(&spec)?
        };
        Ok((NullVolume::new(geometry), spec))
    }

    fn change(&self, volume: &NullVolume, old: Spec, new: &Spec) -> Result<Spec> {
        let spec = merged(&old, new)?;
        volume.grow(geometry(&spec)?.blocks);
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block_on, job};
    use api::Code;
    use api::handler::{Handler, Health};
    use blk::testkit::{SimHome, run};
    use blk::{Io, IoBuf, Lba, Op};

    fn spec(block_size: i64, blocks_count: i64) -> Spec {
        Spec {
            block_size,
            blocks_count,
            ..Spec::default()
        }
    }

    #[test]
    fn a_volume_is_made_counted_grown_and_deleted() {
        let handler = Volumes::new(Null);
        let name = job("nullVolumes/n").name;
        let made = block_on(handler.create(job("nullVolumes/n"), spec(512, 64))).unwrap();
        assert_eq!(made.uuid.len(), 36);
        let volume = handler.volume(&name).unwrap();
        let uuid = Uuid::from_bytes(volume.geometry().identity.uuid).to_string();
        assert_eq!(uuid, made.uuid);
        let mut lane = volume.open_lane(&mut SimHome::default());
        let read = Io::new(Op::Read, Lba(0), 4, IoBuf::empty(), 0);
        assert_eq!(run(&mut *lane, read).result, Ok(()));
        let observed = handler.observe(&name, &mut made.clone());
        assert_eq!(observed.health, Health::Online);
        assert_eq!(observed.stats.unwrap().op(Op::Read).bytes, 2048);

        let update = handler.update(job("nullVolumes/n"), made.clone(), spec(0, 128));
        let grown = block_on(update).unwrap();
        assert_eq!((grown.blocks_count, &grown.uuid), (128, &made.uuid));
        assert_eq!(
            (volume.geometry().blocks, volume.geometry().generation),
            (128, 1)
        );

        block_on(handler.delete(name.clone())).unwrap();
        block_on(handler.delete(name.clone())).unwrap();
        assert!(handler.volume(&name).is_none());
        assert!(matches!(
            handler.observe(&name, &mut grown.clone()).health,
            Health::Offline(_)
        ));
    }

    #[test]
    fn creating_again_changes_nothing() {
        let handler = Volumes::new(Null);
        let made = block_on(handler.create(job("nullVolumes/n"), spec(512, 64))).unwrap();
        let again = block_on(handler.create(job("nullVolumes/n"), spec(512, 64))).unwrap();
        let stored = block_on(handler.create(job("nullVolumes/n"), made.clone())).unwrap();
        assert_eq!((&again, &stored), (&made, &made));
    }

    #[test]
    fn wrong_fields_are_named() {
        let check = |new: &Spec, old: Option<&Spec>| {
            let error = Null.admit(new, old).unwrap_err();
            (error.code, error.field.unwrap())
        };
        let wrong = |field: &str| (Code::InvalidArgument, field.to_owned());
        assert_eq!(check(&spec(0, 64), None), wrong(BLOCK_SIZE));
        assert_eq!(check(&spec(512, -1), None), wrong(BLOCKS_COUNT));
        assert_eq!(check(&spec(512, i64::MAX), None), wrong(BLOCKS_COUNT));
        let bad = Spec {
            uuid: "x".to_owned(),
            ..spec(512, 64)
        };
        assert_eq!(check(&bad, None), wrong(UUID));
        let fixed = |field: &str| (Code::FailedPrecondition, field.to_owned());
        let old = Spec {
            uuid: "1".repeat(32),
            ..spec(512, 64)
        };
        assert_eq!(check(&spec(4096, 64), Some(&old)), fixed(BLOCK_SIZE));
        assert_eq!(check(&spec(512, 63), Some(&old)), fixed(BLOCKS_COUNT));
        let other = Spec {
            uuid: "2".repeat(32),
            ..spec(512, 64)
        };
        assert_eq!(check(&other, Some(&old)), fixed(UUID));
        assert_eq!(check(&spec(512, i64::MAX), Some(&old)), wrong(BLOCKS_COUNT));
        assert!(Null.admit(&spec(0, 0), Some(&old)).is_ok());
    }

    #[test]
    fn an_update_of_a_volume_that_is_not_open_opens_it() {
        let handler = Volumes::new(Null);
        let old = Spec {
            uuid: "1".repeat(32),
            ..spec(512, 64)
        };
        let now = block_on(handler.update(job("nullVolumes/n"), old, spec(512, 65))).unwrap();
        assert_eq!(now.blocks_count, 65);
        assert_eq!(
            handler
                .volume(&job("nullVolumes/n").name)
                .unwrap()
                .geometry()
                .blocks,
            65
        );
    }
}
