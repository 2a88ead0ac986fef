//! The receiving half both ends share: a byte stream cut into headers, padding, data and digests.

use blk::IoBuf;

use super::bits::CommonHeader;
use super::digest::{self, Crc32c, crc32c};
use super::pdu::{DIGEST_LEN, Fatal, FatalStatus, Rules, Shape};

/// Longest header with its digest: that of a command capsule is 76 bytes, initialisation has 128.
const HEAD_MAX: usize = 128;

/// Where in a PDU the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Pad,
    Data,
    Digest,
}

/// What became of a call that moves the stream along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More bytes of this PDU are to come.
    More,
    /// The PDU is complete.
    Complete {
        /// Whether the data digest was right; true without one.
        intact: bool,
    },
}

/// Cuts a byte stream into PDUs. The owner says where the data of each belong.
#[derive(Debug)]
pub(super) struct Framer {
    stage: Stage,
    head: [u8; HEAD_MAX],
    have: usize,
    shape: Option<Shape>,
    /// Padding or data still to come, in bytes.
    left: usize,
    /// FLAGS of the last PDU with data.
    flags: u8,
    /// Where in its buffer the next byte of data belongs.
    offset: usize,
    crc: Crc32c,
}

impl Framer {
    pub(super) const fn new() -> Self {
        Framer {
            stage: Stage::Header,
            head: [0; HEAD_MAX],
            have: 0,
            shape: None,
            left: 0,
            flags: 0,
            offset: 0,
            crc: Crc32c::new(),
        }
    }

    pub(super) fn in_header(&self) -> bool {
        self.stage == Stage::Header
    }

    /// The header bytes received so far, for a TermReq.
    pub(super) fn seen(&self) -> &[u8] {
        &self.head[..self.have]
    }

    /// The header of the PDU in hand.
    pub(super) fn head(&self) -> &[u8; HEAD_MAX] {
        &self.head
    }

    /// Takes header bytes from `bytes`; gives the shape of the PDU once its header is whole.
    #[inline]
    pub(super) fn header(
        &mut self,
        bytes: &mut &[u8],
        rules: &Rules,
    ) -> Result<Option<Shape>, Fatal> {
        let shape = match self.shape {
            Some(shape) => shape,
            None => {
                if !self.fill(bytes, CommonHeader::SIZE) {
                    return Ok(None);
                }
                let [kind, flags, hlen, pdo, ref plen @ ..] = self.head;
                let plen = [plen[0], plen[1], plen[2], plen[3]];
                let plen = u32::from_le_bytes(plen).into();
                let shape = rules.check(&CommonHeader {
                    kind,
                    flags,
                    hlen,
                    pdo,
                    plen,
                })?;
                *self.shape.insert(shape)
            }
        };
        if !self.fill(bytes, shape.head_len) {
            return Ok(None);
        }
        if shape.header_digest {
            self.check_header_digest(shape.head_len - DIGEST_LEN)?;
        }
        Ok(Some(shape))
    }

    /// Copies from `bytes` until `upto` bytes of header are here; says whether they are.
    #[inline]
    fn fill(&mut self, bytes: &mut &[u8], upto: usize) -> bool {
        let take = (upto - self.have).min(bytes.len());
        let (now, rest) = bytes.split_at(take);
        self.head[self.have..self.have + take].copy_from_slice(now);
        self.have += take;
        *bytes = rest;
        self.have == upto
    }

    fn check_header_digest(&self, len: usize) -> Result<(), Fatal> {
        let sent = &self.head[len..len + DIGEST_LEN];
        let sent = u32::from_le_bytes([sent[0], sent[1], sent[2], sent[3]]);
        if sent == crc32c(&self.head[..len]) {
            return Ok(());
        }
        Err(Fatal {
            status: FatalStatus::HeaderDigest,
            at: sent,
            why: "the header digest is wrong",
        })
    }

    /// The header is dealt with: its data, if any, come next and belong at `offset`.
    #[inline]
    pub(super) fn begin_data(&mut self, shape: &Shape, offset: usize) -> Progress {
        if shape.data_len == 0 {
            return self.complete(true);
        }
        self.offset = offset;
        self.flags = shape.flags;
        self.crc = Crc32c::new();
        if shape.pad > 0 {
            (self.stage, self.left) = (Stage::Pad, shape.pad);
        } else {
            (self.stage, self.left) = (Stage::Data, shape.data_len);
        }
        Progress::More
    }

    /// Takes padding, data and digest from `bytes`, data into `target` if there is one.
    #[inline]
    pub(super) fn body(&mut self, bytes: &mut &[u8], target: Option<&mut IoBuf>) -> Progress {
        let shape = self.shape.expect("a body follows a header");
        if self.stage == Stage::Pad {
            let take = self.left.min(bytes.len());
            *bytes = &bytes[take..];
            self.left -= take;
            if self.left > 0 {
                return Progress::More;
            }
            (self.stage, self.left) = (Stage::Data, shape.data_len);
        }
        if self.stage == Stage::Data {
            let take = self.left.min(bytes.len());
            let (now, rest) = bytes.split_at(take);
            *bytes = rest;
            if shape.data_digest {
                self.crc.update(now);
            }
            if let Some(buf) = target {
                buf.copy_from(self.offset, now);
            }
            self.advance(&shape, take);
        }
        match self.stage {
            Stage::Digest => self.digest(bytes),
            Stage::Header => Progress::Complete { intact: true },
            Stage::Pad | Stage::Data => Progress::More,
        }
    }

    /// `n` bytes of data are in place.
    #[inline]
    fn advance(&mut self, shape: &Shape, n: usize) {
        self.left -= n;
        self.offset += n;
        if self.left > 0 {
            return;
        }
        if shape.data_digest {
            // The digest is collected over the header, whose fields are no longer needed.
            (self.stage, self.have) = (Stage::Digest, 0);
        } else {
            self.complete(true);
        }
    }

    fn digest(&mut self, bytes: &mut &[u8]) -> Progress {
        if !self.fill(bytes, DIGEST_LEN) {
            return Progress::More;
        }
        let sent = u32::from_le_bytes([self.head[0], self.head[1], self.head[2], self.head[3]]);
        let intact = sent == self.crc.finish();
        self.complete(intact)
    }

    fn complete(&mut self, intact: bool) -> Progress {
        (self.stage, self.have, self.shape) = (Stage::Header, 0, None);
        Progress::Complete { intact }
    }

    /// Where the next bytes of the stream belong in the target buffer, if they are data.
    #[inline]
    pub(super) fn wanted(&self) -> Option<(usize, usize)> {
        (self.stage == Stage::Data).then_some((self.offset, self.left))
    }

    /// FLAGS of the PDU whose data were received last.
    #[inline]
    pub(super) fn flags_seen(&self) -> u8 {
        self.flags
    }

    /// Where in its buffer the data received last end, in bytes.
    #[inline]
    pub(super) fn offset_reached(&self) -> u32 {
        self.offset as u32
    }

    /// `n` bytes were put straight into `target`.
    pub(super) fn placed(&mut self, n: usize, target: &IoBuf) -> Progress {
        let shape = self.shape.expect("data follow a header");
        assert!(
            self.stage == Stage::Data && n <= self.left,
            "no more is placed than was asked for"
        );
        if shape.data_digest {
            digest::of_range(&mut self.crc, target, self.offset, self.offset + n);
        }
        self.advance(&shape, n);
        match self.stage {
            Stage::Header => Progress::Complete { intact: true },
            _ => Progress::More,
        }
    }
}
