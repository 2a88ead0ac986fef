//! [`Scan`]: the search for namespaces: the list, then each one's data and identifiers.

use crate::nvme::association::{Found, Key, Shape};
use blk::{Geometry, Identity};
use std::collections::VecDeque;
use wire::nvme::identify::{Descriptor, IdentifyNamespace, nsfeat, parse_descriptors, parse_list};
use wire::nvme::{NSID_ALL, Nqn};

/// NSIDs on one page of a list.
const LIST_LEN: usize = 1024;
/// Namespaces of one array, at most: each costs two commands and some memory.
pub(in crate::nvme) const NAMESPACES_MAX: usize = 4096;
/// The largest volume: a signed 64-bit byte count.
const BYTES_MAX: u64 = i64::MAX as u64;

/// What to ask for next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// The active namespaces after this one.
    List(u32),
    /// The data of this one.
    Namespace(u32),
    /// Its identifiers.
    Descriptors(u32),
    /// Nothing: these are all.
    Complete(Vec<Found>),
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Scan {
    left: VecDeque<u32>,
    /// Namespaces that were looked at.
    looked: usize,
    /// Whether the list may go on after the last of `left`.
    more_after: Option<u32>,
    /// What is known of the one being looked at.
    current: Option<(u32, Box<IdentifyNamespace>, bool)>,
    found: Vec<Found>,
}

impl Scan {
    /// Takes a page of the list of namespaces after `after`; 0 begins a new scan.
    ///
    /// # Errors
    /// The list is wrong.
    pub(super) fn list(&mut self, after: u32, page: Option<&[u8]>) -> Result<Next, String> {
        if after == 0 {
            *self = Self::default();
        }
        let all: Vec<u32> = parse_list(page.unwrap_or_default()).collect();
        let mut last = after;
        for &nsid in &all {
            if nsid <= last || nsid == NSID_ALL {
                return Err(format!("the list of namespaces names {nsid} after {last}"));
            }
            last = nsid;
        }
        self.more_after = (all.len() == LIST_LEN).then_some(last);
        self.left.extend(all);
        Ok(self.next())
    }

    /// Takes the data of a namespace; `None` if the array has none any more.
    ///
    /// # Errors
    /// Never so far; in step with the others.
    pub(super) fn namespace(
        &mut self,
        nsid: u32,
        page: Option<&[u8]>,
        cache: bool,
    ) -> Result<Next, String> {
        let data = page.and_then(|page| IdentifyNamespace::from_prefix(page).ok());
        Ok(match data {
            // An inactive namespace is all zeroes (NVMe Base 2.1, 5.1.13.2.1).
            Some(data) if data != IdentifyNamespace::default() => {
                self.current = Some((nsid, Box::new(data), cache));
                Next::Descriptors(nsid)
            }
            _ => self.next(),
        })
    }

    /// Takes the identifiers of the namespace being looked at; `None` if there are none.
    ///
    /// # Errors
    /// The list of identifiers is wrong.
    pub(super) fn descriptors(&mut self, page: Option<&[u8]>, nqn: &Nqn) -> Result<Next, String> {
        let Some((nsid, data, cache)) = self.current.take() else {
            return Ok(self.next());
        };
        let list = page.map(parse_descriptors).transpose();
        let list = list.map_err(|e| format!("the identifiers of namespace {nsid}: {e}"))?;
        let identity = identity(&data, &list.unwrap_or_default());
        let key = Key::new(&identity, nqn, nsid);
        if let Some(twin) = self.found.iter_mut().find(|found| found.key == key) {
            // Nobody knows which of them is meant, so neither is used.
            let why = format!(
                "namespaces {} and {nsid} have the same identifiers",
                twin.nsid
            );
            twin.shape = Err(why);
            return Ok(self.next());
        }
        self.found.push(Found {
            nsid,
            key,
            shape: shape(&data, identity, cache),
            ana_group: data.anagrpid.get(),
        });
        Ok(self.next())
    }

    fn next(&mut self) -> Next {
        if self.looked < NAMESPACES_MAX {
            if let Some(nsid) = self.left.pop_front() {
                self.looked += 1;
                return Next::Namespace(nsid);
            }
            if let Some(after) = self.more_after.take() {
                return Next::List(after);
            }
        }
        self.left.clear();
        Next::Complete(std::mem::take(&mut self.found))
    }
}

/// The identifiers of a namespace, from the list of them and from its data.
fn identity(data: &IdentifyNamespace, list: &[Descriptor]) -> Identity {
    let mut identity = Identity {
        uuid: [0; 16],
        nguid: data.nguid,
        eui64: data.eui64,
    };
    for descriptor in list {
        match *descriptor {
            Descriptor::Uuid(uuid) => identity.uuid = uuid,
            Descriptor::Nguid(nguid) => identity.nguid = nguid,
            Descriptor::Eui64(eui64) => identity.eui64 = eui64,
            Descriptor::CommandSet(_) => {}
        }
    }
    identity
}

fn shape(data: &IdentifyNamespace, identity: Identity, cache: bool) -> Result<Shape, String> {
    let block_bytes = data.block_size().filter(|&bytes| bytes <= 65_536);
    let block_bytes = block_bytes.ok_or("its block size is none that can be used")?;
    let metadata_bytes = u32::from(data.format().metadata.get());
    if metadata_bytes > 0 && !data.metadata_interleaved() {
        return Err("its metadata travel in a buffer of their own, which fabrics lack".to_owned());
    }
    let blocks = data.nsze.get();
    if blocks == 0 {
        return Err("it has no blocks".to_owned());
    }
    let stride = u64::from(block_bytes + metadata_bytes);
    if blocks
        .checked_mul(stride)
        .is_none_or(|bytes| bytes > BYTES_MAX)
    {
        return Err(format!(
            "its size of {blocks} blocks is more than can be addressed"
        ));
    }
    // Without the bit, units of the controller apply; of those we promise the least.
    let atomic = match data.nsfeat & nsfeat::ATOMIC_UNITS {
        0 => 0,
        _ => u32::from(data.nawupf.get()),
    };
    Ok(Shape {
        geometry: Geometry {
            metadata_bytes,
            identity,
            atomic_blocks: atomic + 1,
            write_cache: cache,
            thin: true,
            shared: true,
            optimal_blocks: u32::from(data.noiob.get()),
            ..Geometry::new(block_bytes, blocks)
        },
        boundary_blocks: u32::from(data.noiob.get()),
        deallocated_zeroes: data.dlfeat & 7 == 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::nvme::identify::{active_namespaces, descriptors};

    fn data(blocks: u64, shift: u8) -> Vec<u8> {
        let mut data = IdentifyNamespace {
            nsze: blocks.into(),
            ..IdentifyNamespace::default()
        };
        data.lbaf[0].block_shift = shift;
        data.bytes().to_vec()
    }

    fn nqn() -> Nqn {
        Nqn::parse("nqn.2026-01.org.example:array").unwrap()
    }

    fn uuid(n: u8) -> Vec<u8> {
        descriptors(&[Descriptor::Uuid([n; 16])])
    }

    #[test]
    fn every_namespace_of_the_list_is_looked_at_and_one_that_went_is_left_out() {
        let mut scan = Scan::default();
        let page = active_namespaces([1, 2, 9], 0);
        assert_eq!(scan.list(0, Some(&page)), Ok(Next::Namespace(1)));
        let next = scan.namespace(1, Some(&data(100, 12)), true);
        assert_eq!(next, Ok(Next::Descriptors(1)));
        assert_eq!(
            scan.descriptors(Some(&uuid(1)), &nqn()),
            Ok(Next::Namespace(2))
        );
        assert_eq!(scan.namespace(2, None, true), Ok(Next::Namespace(9)));
        assert_eq!(
            scan.namespace(9, Some(&data(7, 9)), true),
            Ok(Next::Descriptors(9))
        );
        let Ok(Next::Complete(found)) = scan.descriptors(None, &nqn()) else {
            panic!("the scan goes on");
        };
        let nsids: Vec<u32> = found.iter().map(|found| found.nsid).collect();
        assert_eq!(nsids, [1, 9]);
        let shape = found[0].shape.clone().unwrap();
        assert_eq!(
            (shape.geometry.blocks, shape.geometry.block_bytes),
            (100, 4096)
        );
        assert_eq!(found[1].key, Key::Numbered(nqn().as_str().to_owned(), 9));
    }

    #[test]
    fn a_full_page_is_followed_by_the_next() {
        let mut scan = Scan::default();
        let page = active_namespaces(1..=1024, 0);
        scan.list(0, Some(&page)).unwrap();
        let mut next = Next::Namespace(1);
        for nsid in 1..=1024 {
            assert_eq!(next, Next::Namespace(nsid));
            next = scan.namespace(nsid, None, false).unwrap();
        }
        assert_eq!(next, Next::List(1024));
    }

    #[test]
    fn lists_and_identifiers_that_cannot_be_are_refused() {
        let mut scan = Scan::default();
        let mut page = active_namespaces([5, 7], 0);
        page[4..8].copy_from_slice(&3_u32.to_le_bytes());
        assert!(scan.list(0, Some(&page)).unwrap_err().contains("3 after 5"));

        let page = active_namespaces([5, NSID_ALL], 0);
        assert!(scan.list(0, Some(&page)).is_err());
        assert!(scan.list(0, Some(&active_namespaces([1], 0))).is_ok());
        scan.namespace(1, Some(&data(1, 12)), false).unwrap();
        assert!(scan.descriptors(Some(&[3, 15, 0, 0]), &nqn()).is_err());
    }

    #[test]
    fn of_namespaces_with_the_same_identifiers_none_is_used() {
        let mut scan = Scan::default();
        scan.list(0, Some(&active_namespaces(1..=4, 0))).unwrap();
        for nsid in 1..=4 {
            scan.namespace(nsid, Some(&data(1, 12)), false).unwrap();
            let next = scan.descriptors(Some(&uuid(if nsid == 2 { 2 } else { 1 })), &nqn());
            let Ok(Next::Complete(found)) = next else {
                continue;
            };
            assert_eq!((found[0].nsid, found[1].nsid, found.len()), (1, 2, 2));
            assert!(found[0].shape.is_err() && found[1].shape.is_ok());
        }
    }

    #[test]
    fn a_list_without_end_ends() {
        let mut scan = Scan::default();
        let (mut next, mut looked) = (Next::List(0), 0);
        loop {
            next = match next {
                Next::List(after) => {
                    let page = active_namespaces(after + 1..after + 2000, after);
                    scan.list(after, Some(&page)).unwrap()
                }
                Next::Namespace(nsid) => {
                    looked += 1;
                    scan.namespace(nsid, None, false).unwrap()
                }
                Next::Descriptors(_) => panic!("there is no namespace"),
                Next::Complete(found) => break assert!(found.is_empty()),
            };
        }
        assert_eq!(looked, NAMESPACES_MAX);
    }

    #[test]
    fn others_may_use_what_an_array_shows() {
        let bytes = data(8, 12);
        let data = IdentifyNamespace::from_prefix(&bytes).unwrap();
        let shape = shape(&data, Identity::default(), false).unwrap();
        assert!(shape.geometry.shared);
    }

    #[test]
    fn a_namespace_that_cannot_be_used_says_why() {
        for (blocks, shift, why) in [
            (0, 12, "no blocks"),
            (1, 8, "block size"),
            (1, 17, "block size"),
            (u64::MAX, 9, "size"),
        ] {
            let bytes = data(blocks, shift);
            let data = IdentifyNamespace::from_prefix(&bytes).unwrap();
            let error = shape(&data, Identity::default(), false).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
