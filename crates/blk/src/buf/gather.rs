//! What a connection wants to send: headers copied into an arena, payload shared, in order.

use super::IoBuf;
use std::collections::VecDeque;

/// Arena blocks: large enough for hundreds of headers, so that one block serves a whole batch.
const ARENA_BYTES: usize = 16 << 10;

enum Part {
    /// So many bytes of the arena block at the front of the queue order.
    Bytes {
        block: usize,
        start: usize,
        len: usize,
    },
    Data(IoBuf),
}

/// An ordered list of bytes to send. Small headers are copied in; payload is shared.
#[derive(Default)]
pub struct Gather {
    parts: VecDeque<Part>,
    blocks: VecDeque<Vec<u8>>,
    /// Number of the block at the front; parts name blocks by number.
    first_block: usize,
    /// Bytes of the first part that are sent already.
    sent: usize,
    len: usize,
}

impl Gather {
    /// Nothing to send.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes left to send.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a copy of a header.
    ///
    /// # Panics
    /// If it is longer than 16 KiB: payload belongs into [`Gather::push_buf`].
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= ARENA_BYTES, "headers are small");
        if bytes.is_empty() {
            return;
        }
        if self
            .blocks
            .back()
            .is_none_or(|b| b.len() + bytes.len() > ARENA_BYTES)
        {
            self.blocks.push_back(Vec::with_capacity(ARENA_BYTES));
        }
        let block = self.first_block + self.blocks.len() - 1;
        let arena = self.blocks.back_mut().expect("just pushed");
        let start = arena.len();
        arena.extend_from_slice(bytes);
        self.len += bytes.len();
        match self.parts.back_mut() {
            Some(Part::Bytes {
                block: b,
                start: s,
                len,
            }) if *b == block && *s + *len == start => {
                *len += bytes.len();
            }
            _ => self.parts.push_back(Part::Bytes {
                block,
                start,
                len: bytes.len(),
            }),
        }
    }

    /// Adds payload without copying it.
    pub fn push_buf(&mut self, buf: IoBuf) {
        if !buf.is_empty() {
            self.len += buf.len();
            self.parts.push_back(Part::Data(buf));
        }
    }

    /// Address and length of up to `max` pieces from the front, for the kernel to read from. They
    /// hold until the next call of a method that changes the list.
    pub fn pieces(&self, max: usize, mut out: impl FnMut(*const u8, usize)) {
        let (mut left, mut skip) = (max, self.sent);
        for part in &self.parts {
            if left == 0 {
                return;
            }
            match part {
                Part::Bytes { block, start, len } => {
                    let bytes = &self.blocks[block - self.first_block][*start..*start + *len];
                    out(bytes[skip..].as_ptr(), len - skip);
                    left -= 1;
                }
                Part::Data(buf) => buf.pieces(skip, |start, len| {
                    if left > 0 {
                        out(start, len);
                        left -= 1;
                    }
                }),
            }
            skip = 0;
        }
    }

    /// Forgets the first `n` bytes: they are sent.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.len, "no more can be sent than there is");
        self.len -= n;
        self.sent += n;
        while let Some(front) = self.parts.front() {
            let len = match front {
                Part::Bytes { len, .. } => *len,
                Part::Data(buf) => buf.len(),
            };
            if self.sent < len {
                break;
            }
            self.sent -= len;
            self.parts.pop_front();
        }
        self.recycle();
    }

    /// Lets go of arena blocks that no part needs; the last one is kept for the next batch.
    fn recycle(&mut self) {
        let needed = self.parts.iter().find_map(|part| match part {
            Part::Bytes { block, .. } => Some(*block),
            Part::Data(_) => None,
        });
        let last = self.first_block + self.blocks.len();
        let keep = needed.unwrap_or(last.saturating_sub(1));
        while self.first_block < keep && self.blocks.len() > 1 {
            self.blocks.pop_front();
            self.first_block += 1;
        }
        if needed.is_none()
            && let Some(block) = self.blocks.back_mut()
        {
            block.clear();
        }
    }

    /// All bytes in one vector; for tests.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len + self.sent);
        for part in &self.parts {
            match part {
                Part::Bytes { block, start, len } => {
                    let arena = &self.blocks[block - self.first_block];
                    all.extend_from_slice(&arena[*start..*start + *len]);
                }
                Part::Data(buf) => all.extend(buf.slices().flatten()),
            }
        }
        all.drain(..self.sent);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_payload_keep_their_order_however_they_are_sent() {
        let mut gather = Gather::new();
        let mut wanted = Vec::new();
        for i in 0..3000_u32 {
            gather.push_bytes(&i.to_le_bytes());
            wanted.extend(i.to_le_bytes());
            if i % 3 == 0 {
                let data = vec![i as u8; 700];
                gather.push_buf(IoBuf::from_slice(&data));
                wanted.extend(data);
            }
        }
        let mut sent: Vec<u8> = Vec::new();
        let mut step = 1;
        while !gather.is_empty() {
            let n = step.min(gather.len());
            sent.extend(&gather.to_vec()[..n]);
            gather.advance(n);
            step = step * 5 % 9973;
        }
        assert!(sent == wanted);
        gather.push_bytes(b"again");
        assert_eq!(gather.to_vec(), b"again");
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        let mut gather = Gather::new();
        for _ in 0..10 {
            gather.push_bytes(b"head");
            gather.push_buf(IoBuf::zeroes(5000));
        }
        let mut pieces = Vec::new();
        gather.pieces(4, |_, len| pieces.push(len));
        assert_eq!(pieces, [4, 4096, 904, 4]);
    }
}
