//! A sparse array of pages: a tree of tables in which only what was touched exists.

use blk::{Budget, PAGE_BYTES, PageSlot, Spent};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const PAGE: u64 = PAGE_BYTES as u64;

/// Entries in a table: a leaf of page slots then is one page itself, and covers 2 MiB.
const FANOUT: u64 = 512;
/// Pages below one entry of the first table: 512 GiB.
const ROOT_PAGES: u64 = FANOUT * FANOUT * FANOUT;
/// Entries of the first table. It is part of every volume, so it is small.
const ROOTS: usize = 32;

/// Bytes a memory volume can hold, metadata included: 16 TiB, more than the memory of any machine
/// it may run on.
pub(crate) const BYTES_MAX: u64 = ROOTS as u64 * ROOT_PAGES * PAGE_BYTES as u64;

type Leaf = [PageSlot; FANOUT as usize];
type Table<T> = [OnceLock<Box<T>>; FANOUT as usize];
type Root = Table<Table<Leaf>>;

/// A sparse array of pages that many threads read and write. Tables stay until it is dropped:
/// 0.2 % of the pages they once held. Tables and pages count against a budget.
pub(super) struct Pages {
    roots: [OnceLock<Box<Root>>; ROOTS],
    budget: &'static Budget,
    /// Bytes that this array has of the budget.
    held: AtomicU64,
}

fn index(page: u64, below: u64) -> usize {
    (page / below % FANOUT) as usize
}

/// The next multiple of `unit` above `page`.
fn next(page: u64, unit: u64) -> u64 {
    (page / unit + 1) * unit
}

impl Pages {
    /// No pages.
    pub(super) const fn new(budget: &'static Budget) -> Self {
        Self {
            roots: [const { OnceLock::new() }; ROOTS],
            budget,
            held: AtomicU64::new(0),
        }
    }

    /// Takes memory for so many pages.
    ///
    /// # Errors
    /// The budget is spent.
    pub(super) fn take(&self, pages: u64) -> Result<(), Spent> {
        if pages > 0 {
            self.budget.take(pages * PAGE)?;
            self.held.fetch_add(pages * PAGE, Relaxed);
        }
        Ok(())
    }

    /// Tells what became of pages that were taken: `kept` of them have a place now, which may be
    /// more if others cleared places meanwhile.
    pub(super) fn settle(&self, taken: u64, kept: u64) {
        if kept > taken {
            self.charge((kept - taken) * PAGE);
        } else if taken > kept {
            self.held.fetch_sub((taken - kept) * PAGE, Relaxed);
            self.budget.give((taken - kept) * PAGE);
        }
    }

    fn charge(&self, bytes: u64) {
        self.held.fetch_add(bytes, Relaxed);
        self.budget.charge(bytes);
    }

    /// What it counts against.
    pub(super) fn budget(&self) -> &'static Budget {
        self.budget
    }

    /// A table, made and counted.
    fn made<T>(&self, table: T) -> Box<T> {
        self.charge(size_of::<T>() as u64);
        Box::new(table)
    }

    /// The place of a page, or the first page number above it at which there may be one.
    ///
    /// # Panics
    /// If the page lies beyond [`BYTES_MAX`].
    pub(super) fn slot(&self, page: u64) -> Result<&PageSlot, u64> {
        let root = self.roots[(page / ROOT_PAGES) as usize].get();
        let root = root.ok_or_else(|| next(page, ROOT_PAGES))?;
        let table = root[index(page, FANOUT * FANOUT)].get();
        let table = table.ok_or_else(|| next(page, FANOUT * FANOUT))?;
        let leaf = table[index(page, FANOUT)]
            .get()
            .ok_or_else(|| next(page, FANOUT))?;
        Ok(&leaf[index(page, 1)])
    }

    /// The place of a page, with the tables on the way to it.
    ///
    /// # Panics
    /// If the page lies beyond [`BYTES_MAX`].
    pub(super) fn slot_or_make(&self, page: u64) -> &PageSlot {
        let root = self.roots[(page / ROOT_PAGES) as usize]
            .get_or_init(|| self.made([const { OnceLock::new() }; FANOUT as usize]));
        let table = root[index(page, FANOUT * FANOUT)]
            .get_or_init(|| self.made([const { OnceLock::new() }; FANOUT as usize]));
        let leaf = table[index(page, FANOUT)]
            .get_or_init(|| self.made([const { PageSlot::new() }; FANOUT as usize]));
        &leaf[index(page, 1)]
    }

    /// Pages that hold memory, below `end`.
    #[cfg(test)]
    pub(super) fn resident(&self, end: u64) -> u64 {
        let (mut page, mut count) = (0, 0);
        while page < end {
            match self.slot(page) {
                Ok(slot) => {
                    count += u64::from(!slot.is_empty());
                    page += 1;
                }
                Err(later) => page = later,
            }
        }
        count
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.budget.give(*self.held.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_pages_are_found_again_and_the_rest_is_skipped() {
        static BUDGET: Budget = Budget::new(0);
        let pages = Pages::new(&BUDGET);
        let last = BYTES_MAX / PAGE_BYTES as u64 - 1;
        for (page, mark) in [(0, 1), (511, 2), (ROOT_PAGES + 5, 3), (last, 4)] {
            pages.slot_or_make(page).update(|bytes| bytes[0] = mark);
        }
        for (page, mark) in [(0, 1), (511, 2), (ROOT_PAGES + 5, 3), (last, 4)] {
            let slot = pages.slot(page).unwrap();
            assert_eq!(slot.load().unwrap().bytes()[0], mark);
        }
        assert_eq!(pages.slot(512).err(), Some(1024));
        assert_eq!(pages.slot(FANOUT * FANOUT).err(), Some(2 * FANOUT * FANOUT));
        assert_eq!(pages.slot(2 * ROOT_PAGES + 7).err(), Some(3 * ROOT_PAGES));
        assert_eq!(pages.resident(last + 1), 4);
        // Four leaves of a page each, and above them three tables and three roots of two.
        assert_eq!(BUDGET.bytes_used(), (4 - 1 + 2 * 6) * PAGE);
        drop(pages);
        assert_eq!(BUDGET.bytes_used(), 0);
    }
}
