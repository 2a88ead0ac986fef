//! The minimal responder: the rate that messages of this size can be answered at, with nothing
//! behind it. What a target does per I/O beyond that is its own.
//!
//! It initialises a connection, and from then on answers every capsule of a fixed size with a
//! message of a fixed size, as many at once as have arrived: it parses nothing but the CID and,
//! where it has more data than one answer takes, the first block. By default it sends the same
//! data from a cache that stays warm; given as much memory as a volume has, it pays for fetching
//! the data as every target must.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use blk::IoBuf;
use wire::nvme_tcp::{HostConfig, PduType, bits};

use crate::cpu;
use crate::host::{HostError, Link, Options};
use crate::load::{self, Load, Progress, Report};

/// Bytes of a command capsule without data (NVMe TCP 1.1, 3.6.2.4).
const CAPSULE_BYTES: usize = 72;
/// Most data sent in a command capsule: what every controller takes (NVMe TCP 1.1, 3.3.2.1).
const IN_CAPSULE_MAX: usize = 8192;
/// Bytes of a C2HData header, and of a response capsule (NVMe TCP 1.1, 3.6.2.9 and 3.6.2.5).
const HEADER_BYTES: usize = 24;
/// Offset of the CID in a command capsule: behind the common header, in dword 0.
const CID_AT: usize = 10;
/// Offset of SLBA in a command capsule: behind the common header, in dwords 10 and 11.
const SLBA_AT: usize = 48;
/// Offset of CCCID in a C2HData header.
const CCCID_AT: usize = 8;
/// Offset of the CID in a response capsule.
const RESPONSE_CID_AT: usize = 20;
/// Answers sent by one system call, at most: half of the 1024 pieces the kernel takes.
const BATCH: usize = 512;
/// Bytes received by one system call, at most.
const RECEIVE_BYTES: usize = 1 << 20;

/// The sizes of requests and answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Data of one I/O, in bytes.
    pub io_bytes: usize,
    /// Requests carry the data, else the answers do.
    pub write: bool,
    /// Memory that answers are sent from, in bytes; one answer at least.
    pub memory_bytes: usize,
}

impl Shape {
    fn request_bytes(self) -> usize {
        CAPSULE_BYTES + if self.write { self.io_bytes } else { 0 }
    }

    /// The answer to CID 0, header only.
    fn header(self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let data = if self.write { 0 } else { self.io_bytes };
        let kind = if self.write {
            PduType::CapsuleResp
        } else {
            PduType::C2hData
        };
        header[0] = kind as u8;
        header[2] = HEADER_BYTES as u8;
        header[4..8].copy_from_slice(&((HEADER_BYTES + data) as u32).to_le_bytes());
        if !self.write {
            header[1] = bits::LAST_PDU | bits::SUCCESS;
            header[3] = HEADER_BYTES as u8;
            header[16..20].copy_from_slice(&(data as u32).to_le_bytes());
        }
        header
    }

    /// The data that answers are sent from, all of it written, so that none of it is one shared
    /// page.
    fn data(self) -> Arc<[IoBuf]> {
        if self.write {
            return Arc::default();
        }
        let answer = vec![0x5a; self.io_bytes];
        let count = (self.memory_bytes / self.io_bytes).max(1);
        (0..count).map(|_| IoBuf::from_slice(&answer)).collect()
    }

    fn cid_at(self) -> usize {
        if self.write {
            RESPONSE_CID_AT
        } else {
            CCCID_AT
        }
    }
}

/// A responder on a thread of its own.
#[derive(Debug)]
pub struct Responder {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Responder {
    /// Starts one on a free port of the loopback address, bound to a processor, for so many
    /// connections.
    ///
    /// # Errors
    /// The system has no port or no thread.
    pub fn start(shape: Shape, connections: usize, cpu: Option<usize>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("responder".to_owned())
            .spawn(move || {
                if let Some(cpu) = cpu {
                    cpu::bind(cpu).map_err(io::Error::other)?;
                }
                let data = shape.data();
                let mut all = Vec::new();
                while all.len() < connections && !seen.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => all.push(Connection::new(stream, shape, data.clone())?),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                        Err(e) => return Err(e),
                    }
                }
                while !seen.load(Ordering::Relaxed) && !all.is_empty() {
                    let mut gone = None;
                    for (i, connection) in all.iter_mut().enumerate() {
                        if !connection.serve()? {
                            gone = Some(i);
                        }
                    }
                    gone.map(|i| all.swap_remove(i));
                }
                Ok(())
            })?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    ///
    /// # Errors
    /// A socket failed while it ran.
    pub fn stop(mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the responder panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Connection {
    stream: TcpStream,
    shape: Shape,
    buf: Vec<u8>,
    filled: usize,
    headers: Vec<[u8; HEADER_BYTES]>,
    /// What answers carry, by the first block modulo their number; empty if they carry nothing.
    data: Arc<[IoBuf]>,
    /// Which of them each answer of the batch carries.
    chosen: Vec<usize>,
}

impl Connection {
    /// Answers the request to initialise, without waiting for the rest.
    fn new(mut stream: TcpStream, shape: Shape, data: Arc<[IoBuf]>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(false)?;
        let mut request = [0; bits::IcReq::SIZE];
        stream.read_exact(&mut request)?;
        let response = bits::IcResp {
            common: bits::CommonHeader {
                kind: PduType::IcResp as u8,
                hlen: bits::IcResp::SIZE as u8,
                plen: (bits::IcResp::SIZE as u32).into(),
                ..Default::default()
            },
            maxh2cdata: (1 << 20).into(),
            ..Default::default()
        };
        stream.write_all(response.bytes())?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            shape,
            buf: vec![0; RECEIVE_BYTES],
            filled: 0,
            headers: vec![shape.header(); BATCH],
            data,
            chosen: vec![0; BATCH],
        })
    }

    /// Answers what has arrived; false when the peer is gone.
    fn serve(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut self.buf[self.filled..]) {
            Ok(0) => return Ok(false),
            Ok(n) => self.filled += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => return Err(e),
        }
        let size = self.shape.request_bytes();
        let count = self.filled / size;
        let mut from = 0;
        while from < count {
            let batch = (count - from).min(BATCH);
            for (i, header) in self.headers[..batch].iter_mut().enumerate() {
                let at = (from + i) * size + CID_AT;
                let to = self.shape.cid_at();
                header[to..to + 2].copy_from_slice(&self.buf[at..at + 2]);
                if self.data.len() > 1 {
                    let slba = &self.buf[(from + i) * size + SLBA_AT..][..8];
                    let slba = u64::from_le_bytes(slba.try_into().expect("eight bytes"));
                    self.chosen[i] = (slba % self.data.len() as u64) as usize;
                }
            }
            if !self.answer(batch)? {
                return Ok(false);
            }
            from += batch;
        }
        self.buf.copy_within(count * size..self.filled, 0);
        self.filled -= count * size;
        Ok(true)
    }

    /// Sends the first `batch` answers; false when the peer is gone.
    fn answer(&mut self, batch: usize) -> io::Result<bool> {
        let mut slices = Vec::with_capacity(batch * 2);
        for (header, &chosen) in self.headers[..batch].iter().zip(&self.chosen) {
            slices.push(IoSlice::new(header));
            if let Some(data) = self.data.get(chosen) {
                slices.extend(data.slices().map(IoSlice::new));
            }
        }
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match self.stream.write_vectored(left) {
                Ok(n) => IoSlice::advance_slices(&mut left, n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(e)
                    if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
                {
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

/// Measures the rate of a load against a responder on processor `cpu` that answers from
/// `memory_bytes` of data.
///
/// # Errors
/// The load is of a sort the responder cannot answer, or a connection fails.
pub(crate) fn measure(
    load: &Load,
    host: &Options,
    cpu: Option<usize>,
    memory_bytes: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, HostError> {
    let shape = shape_of(load, memory_bytes)?;
    let failed = |source| HostError::Io {
        what: "the responder".to_owned(),
        source,
    };
    let responder = Responder::start(shape, usize::from(load.connections), cpu).map_err(failed)?;
    let config = HostConfig {
        queue_depth: load.depth,
        in_capsule_bytes: IN_CAPSULE_MAX as u32,
        ..HostConfig::default()
    };
    let threads = load.threads.min(load.connections).max(1);
    let mut links: Vec<Vec<Link>> = (0..threads).map(|_| Vec::new()).collect();
    for i in 0..load.connections {
        let link = Link::open(responder.address(), config, host.timeout)?;
        links[usize::from(i % threads)].push(link);
    }
    let area = load::bare_area(load.io_bytes as u32);
    let report = load::drive(load, area, links, host.timeout, progress)?;
    responder.stop().map_err(failed)?;
    Ok(Report {
        target: "minimal responder".to_owned(),
        ..report
    })
}

fn shape_of(load: &Load, memory_bytes: usize) -> Result<Shape, HostError> {
    let write = match load.read_percent {
        100 => false,
        0 if load.io_bytes <= IN_CAPSULE_MAX => true,
        0 => {
            let text = format!("the responder takes writes of at most {IN_CAPSULE_MAX} bytes");
            return Err(HostError::Invalid(text));
        }
        _ => {
            let text = "the responder answers reads or writes, not a mix";
            return Err(HostError::Invalid(text.to_owned()));
        }
    };
    if load.verify {
        return Err(HostError::Invalid(
            "the responder stores nothing to verify".to_owned(),
        ));
    }
    Ok(Shape {
        io_bytes: load.io_bytes,
        write,
        memory_bytes,
    })
}

/// The time between two looks of a comparison, to let the other side fall asleep.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);
