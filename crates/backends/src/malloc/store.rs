//! The memory of a volume, seen as blocks: whole pages change hands, and no block is ever torn.

use super::pages::Pages;
use blk::{Budget, IoBuf, PAGE_BYTES, PageRef, PageSlot, Spent};
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

/// Bytes of blocks that are read or written under one lock, where locks are needed: few enough
/// to be short, many enough that a 1 MiB transfer takes few of them.
const GROUP_BYTES: u64 = 64 << 10;
/// Locks of a volume; groups share them by number, and this many rarely meet.
const LOCKS: usize = 64;

/// Sparse memory in blocks of `stride` bytes.
///
/// A page is replaced or changed in one step, so blocks that lie within a page need nothing else.
/// Blocks that straddle pages (larger than a page, or with metadata) take a lock for their group.
pub(super) struct Store {
    pages: Pages,
    stride: u64,
    locks: Option<Box<[RwLock<()>]>>,
}

/// The pieces of a byte range, page by page.
fn parts(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    const PAGE: u64 = PAGE_BYTES as u64;
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let (page, from) = (at / PAGE, (at % PAGE) as usize);
        let to = (from as u64 + (range.end - at)).min(PAGE) as usize;
        at += (to - from) as u64;
        Some((page, from..to))
    })
}

impl Store {
    /// Empty memory for blocks of `stride` bytes, which counts against `budget`.
    pub(super) fn new(stride: u32, budget: &'static Budget) -> Self {
        let straddles = !PAGE_BYTES.is_multiple_of(stride as usize);
        let locks = || (0..LOCKS).map(|_| RwLock::new(())).collect();
        Self {
            pages: Pages::new(budget),
            stride: u64::from(stride),
            locks: straddles.then(locks),
        }
    }

    fn blocks_per_group(&self) -> u64 {
        if self.locks.is_some() {
            (GROUP_BYTES / self.stride).max(1)
        } else {
            u64::MAX
        }
    }

    /// Blocks of the range, cut where groups end.
    fn groups(&self, blocks: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let size = self.blocks_per_group();
        let mut at = blocks.start;
        std::iter::from_fn(move || {
            let start = at;
            at = (start / size)
                .saturating_add(1)
                .saturating_mul(size)
                .min(blocks.end);
            (start < blocks.end).then_some(start..at)
        })
    }

    fn bytes(&self, blocks: &Range<u64>) -> Range<u64> {
        blocks.start * self.stride..blocks.end * self.stride
    }

    fn lock(&self, block: u64) -> Option<&RwLock<()>> {
        let group = block / self.blocks_per_group();
        self.locks
            .as_ref()
            .map(|locks| &locks[group as usize % LOCKS])
    }

    /// Runs `act` while nobody changes the blocks of the group.
    fn reading(&self, group: &Range<u64>, act: impl FnOnce(Range<u64>)) {
        // The lock protects no data of its own, so there is nothing a panic could have left odd.
        let lock = self.lock(group.start);
        let held = lock.map(|lock| lock.read().unwrap_or_else(PoisonError::into_inner));
        act(self.bytes(group));
        drop(held);
    }

    /// Runs `act` while nobody reads or changes the blocks of the group.
    fn writing<T>(&self, group: &Range<u64>, act: impl FnOnce(Range<u64>) -> T) -> T {
        let lock = self.lock(group.start);
        let held = lock.map(|lock| lock.write().unwrap_or_else(PoisonError::into_inner));
        let answer = act(self.bytes(group));
        drop(held);
        answer
    }

    fn page(&self, page: u64) -> Option<PageRef> {
        self.pages.slot(page).ok().and_then(PageSlot::load)
    }

    /// The blocks, without a copy: the buffer shares the pages, which never change any more.
    pub(super) fn share(&self, blocks: Range<u64>) -> IoBuf {
        let mut out = IoBuf::empty();
        for group in self.groups(blocks) {
            self.reading(&group, |bytes| {
                for (page, part) in parts(bytes) {
                    match self.page(page) {
                        Some(page) => out.push_page(page, part),
                        None => out.push_zeroes(part.len()),
                    }
                }
            });
        }
        out
    }

    /// Copies the blocks into `out`, which must be exclusive and as long as they are.
    pub(super) fn fill(&self, blocks: Range<u64>, out: &mut IoBuf) {
        let shared = self.share(blocks);
        let mut source = source(&shared);
        for to in out.slices_mut() {
            source.copy(to.expect("the caller checked that the buffer is exclusive"));
        }
    }

    /// Stores `buf` in the blocks, which it must fill. Whole pages of it are kept as they are.
    ///
    /// # Errors
    /// The budget is spent, and nothing was stored. Pages that are there already cost nothing.
    pub(super) fn write(&self, blocks: Range<u64>, buf: &IoBuf) -> Result<(), Spent> {
        let there = |page| self.pages.slot(page).is_ok_and(|slot| !slot.is_empty());
        let taken = parts(self.bytes(&blocks))
            .filter(|(page, _)| !there(*page))
            .count() as u64;
        self.pages.take(taken)?;
        let (mut source, mut kept) = (source(buf), 0);
        for group in self.groups(blocks) {
            self.writing(&group, |bytes| {
                for (page, part) in parts(bytes) {
                    kept += u64::from(self.write_part(page, part, &mut source));
                }
            });
        }
        self.pages.settle(taken, kept);
        Ok(())
    }

    /// What the memory counts against.
    pub(super) fn budget(&self) -> &'static Budget {
        self.pages.budget()
    }

    /// True if the place of the page was empty.
    fn write_part<'a>(
        &self,
        page: u64,
        part: Range<usize>,
        source: &mut Source<'a, impl Iterator<Item = &'a [u8]>>,
    ) -> bool {
        let slot = self.pages.slot_or_make(page);
        if part.len() < PAGE_BYTES {
            return slot.update(|bytes| source.copy(&mut bytes[part]));
        }
        let page = source.take_page().unwrap_or_else(|| {
            let mut page = PageRef::alloc();
            source.copy(page.get_mut().expect("a fresh page is unique"));
            page
        });
        slot.swap(Some(page)).is_none()
    }

    /// Makes blocks of the range read as zeroes, from the first on, and gives whole pages back.
    /// Stops after about `budget` pages of work and returns the first block that is left.
    pub(super) fn clear(&self, blocks: Range<u64>, budget: usize) -> u64 {
        let (mut at, mut left) = (blocks.start, budget);
        let chunk = (GROUP_BYTES / self.stride).max(1);
        while at < blocks.end && left > 0 {
            left -= 1;
            let first = at * self.stride / PAGE_BYTES as u64;
            if let Err(page) = self.pages.slot(first) {
                // All up to that page is empty; the block that straddles it begins before it.
                let block = page * PAGE_BYTES as u64 / self.stride;
                if block > at {
                    at = block;
                    continue;
                }
            }
            let end = (at / chunk + 1) * chunk;
            let group = at..end.min(blocks.end);
            let (mut seen, mut freed) = (0, 0);
            self.writing(&group, |bytes| {
                for (page, part) in parts(bytes) {
                    seen += 1;
                    freed += u64::from(self.clear_part(page, part));
                }
            });
            self.pages.settle(freed, 0);
            left = left.saturating_sub(seen);
            at = group.end;
        }
        at
    }

    /// True if a page was given back.
    fn clear_part(&self, page: u64, part: Range<usize>) -> bool {
        let Ok(slot) = self.pages.slot(page) else {
            return false;
        };
        if part.len() == PAGE_BYTES {
            return slot.swap(None).is_some();
        }
        slot.update_if_any(|bytes| bytes[part].fill(0));
        false
    }

    /// Pages that hold memory.
    #[cfg(test)]
    pub(super) fn resident(&self) -> u64 {
        self.pages
            .resident(super::pages::BYTES_MAX / PAGE_BYTES as u64)
    }
}

/// Reads a buffer from its beginning to its end.
struct Source<'a, I> {
    buf: &'a IoBuf,
    /// The segments after the current one.
    segments: I,
    /// Number of the current segment.
    index: usize,
    /// What is left of the current segment.
    rest: &'a [u8],
}

/// A reader of `buf`.
fn source(buf: &IoBuf) -> Source<'_, impl Iterator<Item = &[u8]>> {
    let mut segments = buf.slices();
    let rest = segments.next().unwrap_or_default();
    Source {
        buf,
        segments,
        index: 0,
        rest,
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Source<'a, I> {
    fn advance(&mut self, by: usize) {
        self.rest = &self.rest[by..];
        while self.rest.is_empty() {
            let Some(next) = self.segments.next() else {
                return;
            };
            (self.rest, self.index) = (next, self.index + 1);
        }
    }

    /// The next page of bytes as the page that it is, if it is one.
    fn take_page(&mut self) -> Option<PageRef> {
        if self.rest.len() != PAGE_BYTES {
            return None;
        }
        let page = self.buf.whole_page(self.index)?;
        self.advance(PAGE_BYTES);
        Some(page)
    }

    /// Copies the next bytes.
    ///
    /// # Panics
    /// If fewer are left than `out` is long.
    fn copy(&mut self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            let part = self.rest.len().min(out.len() - filled);
            assert!(part > 0, "the buffer is as long as its blocks");
            out[filled..filled + part].copy_from_slice(&self.rest[..part]);
            filled += part;
            self.advance(part);
        }
    }
}
