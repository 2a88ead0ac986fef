//! Reference-counted 4 KiB pages from slabs, with a free list per thread.
//!
//! A slab is 2 MiB, aligned to its size; its first page holds the reference counts of the others,
//! so a page pointer alone finds its count. Like `Arc`, a page can be changed only while one
//! reference to it exists.

use std::alloc::{Layout, alloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
/// Bytes in a slab: one huge page, so that the kernel may back it by one.
const SLAB_BYTES: usize = 2 << 20;
/// Free pages a thread keeps to itself: 2 MiB, about one deep queue of 4 KiB commands.
const CACHE_PAGES: usize = 512;
/// Free pages that stay resident for the next burst (64 MiB); beyond it they go back to the kernel.
const WARM_PAGES: usize = 16_384;

/// A reference to a page. Cloning shares it.
pub struct PageRef(NonNull<u8>);

// SAFETY: the reference count is atomic and the bytes can be written only through a unique
// reference, as with `Arc<[u8; 4096]>`.
unsafe impl Send for PageRef {}
// SAFETY: as above; `&PageRef` gives `&[u8]` or another reference only.
unsafe impl Sync for PageRef {}

/// Free pages that no thread has cached. `cold` ones were given back to the kernel and read zero.
struct Spare {
    warm: Vec<usize>,
    cold: Vec<usize>,
}

static SPARE: Mutex<Spare> = Mutex::new(Spare {
    warm: Vec::new(),
    cold: Vec::new(),
});
static SLABS: AtomicUsize = AtomicUsize::new(0);

struct Cache(Vec<usize>);

impl Drop for Cache {
    fn drop(&mut self) {
        give_back(&self.0);
    }
}

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache(Vec::new())) };
}

fn spare() -> MutexGuard<'static, Spare> {
    SPARE.lock().expect("no holder of the spare list panics")
}

/// Bytes of all slabs made so far, in use or not.
pub fn pool_bytes() -> usize {
    SLABS.load(Ordering::Relaxed) * SLAB_BYTES
}

fn give_back(pages: &[usize]) {
    let mut spare = spare();
    for &page in pages {
        if spare.warm.len() < WARM_PAGES {
            spare.warm.push(page);
            continue;
        }
        // SAFETY: the page is free, so nobody reads or writes these 4096 bytes of our own
        // mapping; afterwards they read as zeroes.
        unsafe { libc::madvise(page as *mut libc::c_void, PAGE_BYTES, libc::MADV_DONTNEED) };
        spare.cold.push(page);
    }
}

fn refill(cache: &mut Vec<usize>) {
    let mut spare = spare();
    let wanted = CACHE_PAGES / 2;
    let warm = spare.warm.len();
    cache.extend(spare.warm.drain(warm.saturating_sub(wanted)..));
    if cache.is_empty() {
        let cold = spare.cold.len();
        cache.extend(spare.cold.drain(cold.saturating_sub(wanted)..));
    }
    if cache.is_empty() {
        let layout = Layout::from_size_align(SLAB_BYTES, SLAB_BYTES).expect("a power of two");
        // SAFETY: the layout has a non-zero size.
        let slab = unsafe { alloc(layout) };
        if slab.is_null() {
            handle_alloc_error(layout);
        }
        // One huge page takes one entry of the TLB for the counts and all pages; random reads of a
        // memory volume are bound by such misses. The kernel may refuse, and nothing depends on it.
        // SAFETY: the slab is ours, and its first touch comes after.
        unsafe {
            libc::madvise(slab.cast(), SLAB_BYTES, libc::MADV_HUGEPAGE);
            slab.write_bytes(0, SLAB_BYTES);
        }
        SLABS.fetch_add(1, Ordering::Relaxed);
        cache.extend(
            (1..SLAB_BYTES / PAGE_BYTES)
                .rev()
                .map(|i| slab as usize + i * PAGE_BYTES),
        );
    }
}

fn take() -> NonNull<u8> {
    let page = CACHE.try_with(|cache| {
        let pages = &mut cache.borrow_mut().0;
        if pages.is_empty() {
            refill(pages);
        }
        pages.pop().expect("refill brings at least one")
    });
    let page = page.unwrap_or_else(|_| {
        // The thread is ending and its cache is gone.
        let mut pages = Vec::new();
        refill(&mut pages);
        let one = pages.pop().expect("refill brings at least one");
        give_back(&pages);
        one
    });
    NonNull::new(page as *mut u8).expect("slabs are not at address zero")
}

fn put(page: usize) {
    let kept = CACHE.try_with(|cache| {
        let pages = &mut cache.borrow_mut().0;
        pages.push(page);
        if pages.len() > CACHE_PAGES {
            give_back(&pages.split_off(CACHE_PAGES / 2));
        }
    });
    if kept.is_err() {
        give_back(&[page]);
    }
}

impl PageRef {
    /// A page of its own, with whatever bytes its last user left.
    pub fn alloc() -> Self {
        let page = Self(take());
        page.count().store(1, Ordering::Relaxed);
        page
    }

    /// A page of its own, all zeroes.
    pub fn zeroed() -> Self {
        let mut page = Self::alloc();
        page.get_mut().expect("a fresh page is unique").fill(0);
        page
    }

    fn count(&self) -> &AtomicU32 {
        let address = self.0.as_ptr() as usize;
        let index = address % SLAB_BYTES / PAGE_BYTES;
        let slab = self.0.as_ptr().wrapping_sub(address % SLAB_BYTES);
        // SAFETY: the first page of the slab holds one `u32` per page, 512 x 4 <= 4096 bytes;
        // slabs are never freed, were zeroed when made, and counts are only used as atomics.
        unsafe { &*slab.cast::<AtomicU32>().add(index) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the page is 4096 initialised bytes (slabs start zeroed) that nobody can write
        // while this reference exists: writing needs a unique one, mutably borrowed.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), PAGE_BYTES) }
    }

    /// The bytes for writing, if this is the only reference.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        if !self.is_unique() {
            return None;
        }
        // SAFETY: one reference exists, and it is mutably borrowed for as long as the slice lives.
        Some(unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), PAGE_BYTES) })
    }

    /// True if no other reference exists.
    pub fn is_unique(&self) -> bool {
        self.count().load(Ordering::Acquire) == 1
    }

    pub(super) fn pointer(&self) -> NonNull<u8> {
        self.0
    }

    fn into_address(self) -> usize {
        let address = self.0.as_ptr() as usize;
        std::mem::forget(self);
        address
    }

    /// # Safety
    /// `address` comes from [`PageRef::into_address`], and each such address is used once.
    unsafe fn from_address(address: usize) -> Option<Self> {
        NonNull::new(address as *mut u8).map(Self)
    }
}

impl Clone for PageRef {
    fn clone(&self) -> Self {
        let before = self.count().fetch_add(1, Ordering::Relaxed);
        assert!(
            before < u32::MAX / 2,
            "a page has two thousand million references"
        );
        Self(self.0)
    }
}

impl Drop for PageRef {
    fn drop(&mut self) {
        if self.count().fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            put(self.0.as_ptr() as usize);
        }
    }
}

impl std::fmt::Debug for PageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageRef({:p})", self.0)
    }
}

/// A place for one page that many threads read and replace: a memory volume is an array of them.
///
/// The lowest bit of the address is a lock, held for the time of a reference count or of one
/// partial update.
#[derive(Default)]
pub struct PageSlot(AtomicUsize);

const LOCKED: usize = 1;

impl PageSlot {
    /// An empty place.
    pub const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn lock(&self) -> usize {
        loop {
            let seen = self.0.load(Ordering::Relaxed);
            if seen & LOCKED == 0
                && self
                    .0
                    .compare_exchange_weak(
                        seen,
                        seen | LOCKED,
                        Ordering::Acquire,
                        Ordering::Relaxed,
                    )
                    .is_ok()
            {
                return seen;
            }
            std::hint::spin_loop();
        }
    }

    fn unlock(&self, address: usize) {
        debug_assert_eq!(address & LOCKED, 0, "pages are aligned");
        self.0.store(address, Ordering::Release);
    }

    /// Another reference to the page that is here.
    pub fn load(&self) -> Option<PageRef> {
        if self.0.load(Ordering::Acquire) == 0 {
            return None;
        }
        let address = self.lock();
        // SAFETY: the slot owns the address; the copy made here is forgotten again below, so the
        // slot's own reference stays where it is.
        let page = unsafe { PageRef::from_address(address) };
        let copy = page.clone();
        std::mem::forget(page);
        self.unlock(address);
        copy
    }

    /// Puts a page here and gives back the one that was.
    pub fn swap(&self, page: Option<PageRef>) -> Option<PageRef> {
        let old = self.lock();
        self.unlock(page.map_or(0, PageRef::into_address));
        // SAFETY: the slot owned the address and has just let go of it.
        unsafe { PageRef::from_address(old) }
    }

    /// Changes the bytes of the page that is here, as one step for all other users of the slot.
    /// Readers that hold the old page keep it as it was. An empty place starts as zeroes; true if
    /// it was one.
    pub fn update(&self, change: impl FnOnce(&mut [u8])) -> bool {
        let old = self.lock();
        self.change(old, change);
        old == 0
    }

    /// The same, but an empty place stays empty.
    pub fn update_if_any(&self, change: impl FnOnce(&mut [u8])) {
        match self.lock() {
            0 => self.unlock(0),
            old => self.change(old, change),
        }
    }

    /// Changes the page that was here when the slot was locked, and unlocks it.
    fn change(&self, old: usize, change: impl FnOnce(&mut [u8])) {
        // SAFETY: the slot owns the address, and is not unlocked before it owns a new one.
        let mut page = match unsafe { PageRef::from_address(old) } {
            None => PageRef::zeroed(),
            Some(page) if page.is_unique() => page,
            Some(shared) => {
                let mut copy = PageRef::alloc();
                copy.get_mut()
                    .expect("a fresh page is unique")
                    .copy_from_slice(shared.bytes());
                copy
            }
        };
        change(
            page.get_mut()
                .expect("the page is fresh, or unique and its slot locked"),
        );
        self.unlock(page.into_address());
    }

    /// True if nothing is here.
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl Drop for PageSlot {
    fn drop(&mut self) {
        drop(self.swap(None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_page_cannot_be_changed() {
        let mut one = PageRef::zeroed();
        let two = one.clone();
        assert!(one.get_mut().is_none());
        drop(two);
        one.get_mut().unwrap()[5] = 9;
        assert_eq!(one.bytes()[5], 9);
    }

    #[test]
    fn a_reader_keeps_the_page_it_has() {
        let slot = PageSlot::new();
        slot.update(|bytes| bytes[0] = 1);
        let before = slot.load().unwrap();
        slot.update(|bytes| bytes[0] = 2);
        assert_eq!((before.bytes()[0], slot.load().unwrap().bytes()[0]), (1, 2));
        assert!(slot.swap(None).is_some());
        assert!(slot.is_empty() && slot.load().is_none());
        slot.update_if_any(|_| panic!("nothing is here"));
        assert!(slot.is_empty() && slot.update(|bytes| bytes[1] = 3));
        slot.update_if_any(|bytes| bytes[1] += 1);
        assert!(!slot.update(|bytes| bytes[1] += 1));
        assert_eq!(slot.load().unwrap().bytes()[..2], [0, 5]);
    }

    #[test]
    fn threads_that_update_one_slot_lose_nothing() {
        let slot = PageSlot::new();
        std::thread::scope(|scope| {
            for t in 0..4 {
                let slot = &slot;
                scope.spawn(move || {
                    for _ in 0..1000 {
                        slot.update(|bytes| bytes[t] = bytes[t].wrapping_add(1));
                        let page = slot.load().unwrap();
                        assert_eq!(page.bytes()[100], 0);
                    }
                });
            }
        });
        let page = slot.load().unwrap();
        assert_eq!(page.bytes()[..4], [(1000 % 256) as u8; 4]);
    }

    #[test]
    fn freed_pages_are_used_again() {
        let before: Vec<PageRef> = (0..100_000).map(|_| PageRef::alloc()).collect();
        let bytes = pool_bytes();
        drop(before);
        let after: Vec<PageRef> = (0..90_000).map(|_| PageRef::alloc()).collect();
        assert!(
            pool_bytes() <= bytes + 64 * SLAB_BYTES,
            "{} {bytes}",
            pool_bytes()
        );
        drop(after);
    }
}
