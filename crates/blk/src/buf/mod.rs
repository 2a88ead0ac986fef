//! Buffers: [`IoBuf`] is a short list of memory segments, each with an owner that keeps it alive.
//!
//! This folder is one of the few places where `unsafe` is allowed: it owns the memory that the
//! kernel and other threads read and write.
#![allow(unsafe_code)]

mod gather;
mod page;

pub use gather::Gather;
pub use page::{PAGE_BYTES, PageRef, PageSlot, pool_bytes};

use smallvec::SmallVec;
use std::ops::Range;
use std::ptr::NonNull;

static ZEROES: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Who keeps a segment's memory alive.
#[derive(Clone, Debug)]
enum Owner {
    /// A page of the pool.
    Page(PageRef),
    /// The program's own constant zeroes.
    Zeroes,
}

#[derive(Clone, Debug)]
struct Segment {
    start: NonNull<u8>,
    len: u32,
    owner: Owner,
}

// SAFETY: the owner is `Send + Sync` and keeps the bytes alive wherever the segment goes; the bytes
// are written only through unique pages.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared segment gives out `&[u8]` only.
unsafe impl Sync for Segment {}

impl Segment {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies inside what `owner` keeps alive, and is not written
        // while this borrow lasts: that needs `&mut IoBuf` or a unique page.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let Owner::Page(page) = &mut self.owner else {
            return None;
        };
        page.get_mut()?;
        // SAFETY: the page is unique (checked above) and its only reference is mutably borrowed
        // through `self`; the range lies inside it.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len as usize) })
    }
}

/// A list of memory segments that together are the data of one I/O. Cheap to share and to cut.
#[derive(Clone, Default)]
pub struct IoBuf {
    segments: SmallVec<[Segment; 1]>,
    len: usize,
}

impl IoBuf {
    /// No bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Fresh pages of the pool for `len` bytes, owned by nobody else, with old bytes in them.
    pub fn alloc(len: usize) -> Self {
        let mut segments = SmallVec::with_capacity(len.div_ceil(PAGE_BYTES));
        let mut left = len;
        while left > 0 {
            let part = left.min(PAGE_BYTES);
            segments.push(Self::page_segment(PageRef::alloc(), 0..part));
            left -= part;
        }
        Self { segments, len }
    }

    /// `len` zero bytes that share one constant page.
    pub fn zeroes(len: usize) -> Self {
        let mut all = Self::empty();
        while all.len < len {
            all.push_zeroes((len - all.len).min(PAGE_BYTES));
        }
        all
    }

    /// A copy of `bytes` in fresh pages.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::alloc(bytes.len());
        buf.copy_from(0, bytes);
        buf
    }

    /// A part of one page, shared.
    pub fn from_page(page: PageRef, range: Range<usize>) -> Self {
        let mut buf = Self::empty();
        buf.push_page(page, range);
        buf
    }

    fn page_segment(page: PageRef, range: Range<usize>) -> Segment {
        assert!(
            range.start <= range.end && range.end <= PAGE_BYTES,
            "the range lies in the page"
        );
        // SAFETY: `start` is at most one past the end of the page.
        let start = unsafe { page.pointer().add(range.start) };
        Segment {
            start,
            len: range.len() as u32,
            owner: Owner::Page(page),
        }
    }

    /// Adds a part of a page at the end.
    pub fn push_page(&mut self, page: PageRef, range: Range<usize>) {
        self.len += range.len();
        self.segments.push(Self::page_segment(page, range));
    }

    /// Adds up to a page of zeroes at the end.
    ///
    /// # Panics
    /// If `len` is more than [`PAGE_BYTES`].
    pub fn push_zeroes(&mut self, len: usize) {
        let bytes = &ZEROES[..len];
        let start = NonNull::from(bytes).cast::<u8>();
        self.segments.push(Segment {
            start,
            len: len as u32,
            owner: Owner::Zeroes,
        });
        self.len += len;
    }

    /// Adds another buffer at the end.
    pub fn append(&mut self, other: Self) {
        self.len += other.len;
        self.segments.extend(other.segments);
    }

    /// Bytes in all segments.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The segments as slices, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(Segment::bytes)
    }

    /// True if every byte can be written: the pages belong to this buffer alone.
    pub fn is_exclusive(&self) -> bool {
        self.segments
            .iter()
            .all(|s| matches!(&s.owner, Owner::Page(page) if page.is_unique()))
    }

    /// The segments for writing, in order; `None` stands for one that is shared.
    pub fn slices_mut(&mut self) -> impl Iterator<Item = Option<&mut [u8]>> {
        self.segments.iter_mut().map(Segment::bytes_mut)
    }

    /// The page behind segment `index`, if the segment is that whole page.
    pub fn whole_page(&self, index: usize) -> Option<PageRef> {
        let segment = self.segments.get(index)?;
        match &segment.owner {
            Owner::Page(page)
                if segment.len as usize == PAGE_BYTES && segment.start == page.pointer() =>
            {
                Some(page.clone())
            }
            _ => None,
        }
    }

    /// A part of the buffer that shares its memory.
    ///
    /// # Panics
    /// If the range lies outside the buffer.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "the range lies in the buffer"
        );
        let mut part = Self::empty();
        let mut at = 0;
        for segment in &self.segments {
            let len = segment.len as usize;
            let from = range.start.max(at);
            let to = range.end.min(at + len);
            if from < to {
                // SAFETY: `from - at` is less than the segment's length.
                let start = unsafe { segment.start.add(from - at) };
                let owner = segment.owner.clone();
                part.segments.push(Segment {
                    start,
                    len: (to - from) as u32,
                    owner,
                });
                part.len += to - from;
            }
            at += len;
        }
        part
    }

    /// Copies `out.len()` bytes from `offset` on.
    ///
    /// # Panics
    /// If they lie outside the buffer.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        assert!(
            offset + out.len() <= self.len,
            "the range lies in the buffer"
        );
        let (mut skip, mut filled) = (offset, 0);
        for bytes in self.slices() {
            if filled == out.len() {
                break;
            }
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let part = (bytes.len() - skip).min(out.len() - filled);
            out[filled..filled + part].copy_from_slice(&bytes[skip..skip + part]);
            (filled, skip) = (filled + part, 0);
        }
    }

    /// Copies `bytes` into the buffer from `offset` on.
    ///
    /// # Panics
    /// If they do not fit, or if a segment in the way is shared.
    pub fn copy_from(&mut self, offset: usize, bytes: &[u8]) {
        assert!(
            offset + bytes.len() <= self.len,
            "the range lies in the buffer"
        );
        let (mut skip, mut used) = (offset, 0);
        for segment in &mut self.segments {
            if used == bytes.len() {
                break;
            }
            let len = segment.len as usize;
            if skip >= len {
                skip -= len;
                continue;
            }
            let out = segment
                .bytes_mut()
                .expect("only exclusive buffers are written");
            let part = (len - skip).min(bytes.len() - used);
            out[skip..skip + part].copy_from_slice(&bytes[used..used + part]);
            (used, skip) = (used + part, 0);
        }
    }

    /// All bytes in one vector; for tests, logs and small control structures.
    pub fn to_vec(&self) -> Vec<u8> {
        self.slices().flatten().copied().collect()
    }

    /// Address and length of each piece of `offset..`, for the kernel to read from. The addresses
    /// hold for as long as a clone of this buffer lives.
    pub fn pieces(&self, offset: usize, mut out: impl FnMut(*const u8, usize)) {
        let mut skip = offset;
        for segment in &self.segments {
            let len = segment.len as usize;
            if skip >= len {
                skip -= len;
                continue;
            }
            out(segment.start.as_ptr().wrapping_add(skip), len - skip);
            skip = 0;
        }
    }

    /// Address and length of each piece of `offset..`, for the kernel to write to.
    ///
    /// # Panics
    /// If a segment is shared: the kernel must not change what others read.
    pub fn pieces_mut(&mut self, offset: usize, mut out: impl FnMut(*mut u8, usize)) {
        assert!(
            self.is_exclusive(),
            "the kernel writes exclusive buffers only"
        );
        self.pieces(offset, |start, len| out(start.cast_mut(), len));
    }
}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "IoBuf({} bytes in {} segments)",
            self.len,
            self.segments.len()
        )
    }
}

impl PartialEq for IoBuf {
    fn eq(&self, other: &Self) -> bool {
        if self.len != other.len {
            return false;
        }
        let (mut left, mut right) = (self.slices(), other.slices());
        let (mut a, mut b): (&[u8], &[u8]) = (&[], &[]);
        loop {
            // Both have the same length, so both end together.
            while a.is_empty() {
                let Some(next) = left.next() else { return true };
                a = next;
            }
            while b.is_empty() {
                let Some(next) = right.next() else {
                    return true;
                };
                b = next;
            }
            let part = a.len().min(b.len());
            if a[..part] != b[..part] {
                return false;
            }
            (a, b) = (&a[part..], &b[part..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    #[test]
    fn bytes_come_back_as_they_went_in() {
        let bytes = numbered(10_000);
        let buf = IoBuf::from_slice(&bytes);
        assert_eq!(buf.segment_count(), 3);
        assert_eq!(buf.to_vec(), bytes);
        let mut part = vec![0; 5000];
        buf.copy_to(3000, &mut part);
        assert_eq!(part, bytes[3000..8000]);
    }

    #[test]
    fn a_slice_shares_and_makes_the_whole_read_only() {
        let bytes = numbered(9000);
        let buf = IoBuf::from_slice(&bytes);
        let part = buf.slice(4000..8200);
        assert_eq!(part.to_vec(), bytes[4000..8200]);
        assert!(!buf.is_exclusive() && !part.is_exclusive());
        drop(part);
        assert!(buf.is_exclusive());
    }

    #[test]
    fn only_a_whole_page_can_be_taken() {
        let buf = IoBuf::alloc(PAGE_BYTES + 512);
        assert!(buf.whole_page(0).is_some());
        assert!(buf.whole_page(1).is_none() && buf.whole_page(2).is_none());
        assert!(buf.slice(1..PAGE_BYTES).whole_page(0).is_none());
        assert!(IoBuf::zeroes(PAGE_BYTES).whole_page(0).is_none());
    }

    #[test]
    #[should_panic(expected = "only exclusive buffers are written")]
    fn zeroes_cannot_be_overwritten() {
        IoBuf::zeroes(10).copy_from(0, &[1]);
    }

    #[test]
    fn appended_buffers_read_as_one() {
        let mut buf = IoBuf::from_slice(b"abc");
        buf.append(IoBuf::zeroes(2));
        buf.append(IoBuf::from_slice(b"d"));
        assert_eq!(buf.to_vec(), b"abc\0\0d");
        assert_eq!(buf, IoBuf::from_slice(b"abc\0\0d"));
    }
}
