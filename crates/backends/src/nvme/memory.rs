//! What is remembered of an array's namespaces, so that what stands on them has its size and its
//! identity before the array is reached again, and is not given another namespace in its place.

use super::association::{Key, Shape};
use blk::{Geometry, Identity};

/// A namespace as it was known last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Remembered {
    pub(super) key: Key,
    pub(super) id: String,
    pub(super) nsid: u32,
    pub(super) shape: Shape,
}

/// The first byte of what is kept: how the rest is to be read.
const FORM: u8 = 1;
/// Bytes that texts may have: an NQN has 223, and ids have fewer.
const TEXT_MAX: usize = 255;

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        let bytes = &text.as_bytes()[..text.len().min(TEXT_MAX)];
        self.0.push(bytes.len() as u8);
        self.bytes(bytes);
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let [len] = self.array()?;
        let (text, rest) = self.0.split_at_checked(usize::from(len))?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }
}

/// Namespaces as bytes to keep.
pub(super) fn write(all: &[Remembered]) -> Vec<u8> {
    let mut out = Writer(vec![FORM]);
    for one in all {
        let (subsystem, identity) = match &one.key {
            Key::Numbered(nqn, _) => (nqn.as_str(), Identity::default()),
            Key::Global(uuid, nguid, eui64) => {
                let (uuid, nguid, eui64) = (*uuid, *nguid, *eui64);
                let identity = Identity { uuid, nguid, eui64 };
                ("", identity)
            }
        };
        let geometry = &one.shape.geometry;
        out.text(&one.id);
        out.text(subsystem);
        out.bytes(&identity.uuid);
        out.bytes(&identity.nguid);
        out.bytes(&identity.eui64);
        out.bytes(&one.nsid.to_le_bytes());
        out.bytes(&geometry.block_bytes.to_le_bytes());
        out.bytes(&geometry.metadata_bytes.to_le_bytes());
        out.bytes(&geometry.blocks.to_le_bytes());
        out.bytes(&one.shape.boundary_blocks.to_le_bytes());
        let flags = u8::from(geometry.write_cache) | u8::from(one.shape.deallocated_zeroes) << 1;
        out.bytes(&[flags]);
    }
    out.0
}

/// The reverse of [`write`]; what cannot be read is forgotten.
pub(super) fn read(bytes: &[u8]) -> Vec<Remembered> {
    let Some((&FORM, rest)) = bytes.split_first() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    let mut reader = Reader(rest);
    while let Some(one) = one(&mut reader) {
        all.push(one);
    }
    all
}

fn one(reader: &mut Reader<'_>) -> Option<Remembered> {
    let (id, subsystem) = (reader.text()?, reader.text()?);
    let identity = Identity {
        uuid: reader.array()?,
        nguid: reader.array()?,
        eui64: reader.array()?,
    };
    let nsid = reader.u32()?;
    let (block_bytes, metadata_bytes) = (reader.u32()?, reader.u32()?);
    let blocks = u64::from_le_bytes(reader.array()?);
    let boundary_blocks = reader.u32()?;
    let [flags] = reader.array()?;
    let key = match identity == Identity::default() {
        true => Key::Numbered(subsystem, nsid),
        false => Key::Global(identity.uuid, identity.nguid, identity.eui64),
    };
    Some(Remembered {
        key,
        id,
        nsid,
        shape: Shape {
            geometry: Geometry {
                metadata_bytes,
                identity,
                write_cache: flags & 1 == 1,
                thin: true,
                shared: true,
                optimal_blocks: boundary_blocks,
                ..Geometry::new(block_bytes, blocks)
            },
            boundary_blocks,
            deallocated_zeroes: flags >> 1 & 1 == 1,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_is_cut_short_is_left_out() {
        let shape = Shape {
            geometry: Geometry {
                metadata_bytes: 8,
                identity: Identity {
                    uuid: [1; 16],
                    nguid: [2; 16],
                    eui64: [3; 8],
                },
                write_cache: true,
                thin: true,
                shared: true,
                optimal_blocks: 64,
                ..Geometry::new(4096, 1 << 40)
            },
            boundary_blocks: 64,
            deallocated_zeroes: true,
        };
        let all = [
            Remembered {
                key: Key::Global([1; 16], [2; 16], [3; 8]),
                id: "n1".to_owned(),
                nsid: 1,
                shape,
            },
            Remembered {
                key: Key::Numbered("nqn.2026-01.org.example:array".to_owned(), 7),
                id: "n7".to_owned(),
                nsid: 7,
                shape: Shape {
                    geometry: Geometry {
                        thin: true,
                        shared: true,
                        ..Geometry::new(512, 9)
                    },
                    boundary_blocks: 0,
                    deallocated_zeroes: false,
                },
            },
        ];
        let bytes = write(&all);
        assert_eq!(read(&bytes), all);
        assert_eq!(read(&bytes[..bytes.len() - 1]), all[..1]);
        assert!(read(&[]).is_empty() && read(&[9, 1, 2]).is_empty());
    }
}
