//! The volume that reads as zeroes and swallows what is written.

use crate::shape::Shape;
use blk::{Done, Geometry, Home, Io, IoBuf, IoError, Lane, Nanos, Op, Subscriber, Volume};
use std::sync::{Arc, Weak};

/// A volume without data: for measuring everything above it.
pub(crate) struct NullVolume {
    shape: Arc<Shape>,
}

impl NullVolume {
    /// A volume of this geometry.
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            shape: Arc::new(Shape::new(geometry)),
        }
    }

    /// Makes it longer.
    pub(crate) fn grow(&self, blocks: u64) {
        self.shape.grow(blocks);
    }
}

impl Volume for NullVolume {
    fn geometry(&self) -> Geometry {
        self.shape.geometry()
    }
    fn open_lane(&self, _: &mut dyn Home) -> Box<dyn Lane> {
        Box::new(NullLane {
            shape: self.shape.clone(),
            done: Vec::new(),
        })
    }
    fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.shape.subscribe(subscriber);
    }
}

struct NullLane {
    shape: Arc<Shape>,
    done: Vec<Done>,
}

impl NullLane {
    fn act(&self, io: &mut Io) -> Result<(), IoError> {
        let geometry = self.shape.geometry();
        geometry.admit(io)?;
        match io.op {
            Op::Read if io.buf.is_empty() => {
                io.buf = IoBuf::zeroes(geometry.transfer_bytes(io.blocks));
                Ok(())
            }
            Op::Read => {
                for part in io.buf.slices_mut() {
                    part.ok_or(IoError::Misaligned)?.fill(0);
                }
                Ok(())
            }
            Op::Compare if io.buf.slices().flatten().any(|&byte| byte != 0) => {
                Err(IoError::Miscompare)
            }
            _ => Ok(()),
        }
    }
}

impl Lane for NullLane {
    fn submit(&mut self, _: Nanos, mut io: Io) {
        let result = self.act(&mut io);
        self.done.push(io.finish(result));
    }

    fn poll(&mut self, _: Nanos, done: &mut Vec<Done>) {
        done.append(&mut self.done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blk::testkit::{Profile, SimHome, conformance, run};
    use blk::{Lba, PAGE_BYTES};

    fn volume() -> NullVolume {
        NullVolume::new(Geometry::new(512, 1 << 40))
    }

    #[test]
    fn it_conforms_except_that_it_forgets() {
        for block_bytes in [512, 4096, 65_536] {
            let geometry = Geometry::new(block_bytes, 10_000);
            let profile = Profile {
                keeps_data: false,
                ..Profile::default()
            };
            conformance(&mut || Arc::new(NullVolume::new(geometry)), profile);
        }
    }

    #[test]
    fn what_was_written_reads_as_zeroes() {
        let mut lane = volume().open_lane(&mut SimHome::default());
        let ones = IoBuf::from_slice(&[1; 1024]);
        assert!(
            run(&mut *lane, Io::new(Op::Write, Lba(5), 2, ones, 0))
                .result
                .is_ok()
        );
        let given = IoBuf::from_slice(&[1; 1024]);
        for buf in [given, IoBuf::empty()] {
            let done = run(&mut *lane, Io::new(Op::Read, Lba(5), 2, buf, 0));
            assert_eq!((done.result, done.buf.to_vec()), (Ok(()), vec![0; 1024]));
        }
    }

    #[test]
    fn it_compares_equal_to_zeroes_only() {
        let mut lane = volume().open_lane(&mut SimHome::default());
        let mut compare = |buf| run(&mut *lane, Io::new(Op::Compare, Lba(0), 8, buf, 0)).result;
        assert_eq!(compare(IoBuf::zeroes(PAGE_BYTES)), Ok(()));
        let mut bytes = vec![0; PAGE_BYTES];
        bytes[PAGE_BYTES - 1] = 1;
        assert_eq!(compare(IoBuf::from_slice(&bytes)), Err(IoError::Miscompare));
    }

    #[test]
    fn a_lane_that_is_open_sees_the_volume_grow() {
        let volume = NullVolume::new(Geometry::new(512, 8));
        let mut lane = volume.open_lane(&mut SimHome::default());
        let mut read = |lba| {
            run(
                &mut *lane,
                Io::new(Op::Read, Lba(lba), 1, IoBuf::empty(), 0),
            )
        };
        assert_eq!(read(8).result, Err(IoError::OutOfRange));
        volume.grow(9);
        assert_eq!(read(8).result, Ok(()));
        assert_eq!(read(9).result, Err(IoError::OutOfRange));
    }
}
