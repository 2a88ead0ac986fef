//! [`BadArray`]: an NVMe/TCP array with a thread per connection that does what the test says, also
//! what no array may do.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use wire::nvme::aer::{AsyncEvent, EventMask};
use wire::nvme::cmds::{GetLog, Identify};
use wire::nvme::identify::{
    Cns, ControllerType, Descriptor, IDENTIFY_LEN, IdentifyController, IdentifyNamespace,
    active_namespaces, descriptors,
};
use wire::nvme::log::{AnaGroup, AnaState, LogId, ana};
use wire::nvme::property::{self, Capabilities, Configuration, ControllerStatus};
use wire::nvme::{AdminCmd, Cqe, FabricsCmd, IoCmd, IoOp, Sqe, Status};
use wire::nvme_tcp::bits::{CapsuleCmd, IcReq, TermReq};
use wire::nvme_tcp::{Digests, PduType};

use super::pdu::{data, ic_resp, pdu, r2t, response, with_digests};

/// The array's subsystem.
pub(super) const NQN: &str = "nqn.2026-01.org.example:bad-array";
/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// Blocks of a namespace.
pub(super) const BLOCKS: u64 = 64;
/// CNTLID of every controller.
const CNTLID: u16 = 7;

/// Where in a conversation the array goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum At {
    /// ICResp of the admin queue.
    Init,
    /// ICResp of an I/O queue.
    QueueInit,
    /// Connect of the admin queue.
    Connect,
    /// Connect of an I/O queue.
    QueueConnect,
    /// Property Get of CAP.
    Capabilities,
    /// Property Get of CSTS.
    ControllerStatus,
    /// Identify Controller.
    Controller,
    /// Set Features, Number of Queues.
    Queues,
    /// The ANA log page.
    Ana,
    /// The active namespaces.
    List,
    /// Identify Namespace of namespace 1.
    Namespace,
    /// The identifiers of namespace 1.
    Descriptors,
    /// A read.
    Read,
    /// A write.
    Write,
}

/// What it does instead of answering as it should.
#[derive(Clone, Copy)]
pub(super) enum Lie {
    /// Fails the command.
    Status(Status),
    /// Answers with this result.
    Result(u64),
    /// Sends other data.
    Data(fn(&mut Vec<u8>)),
    /// Sends these bytes.
    Bytes(fn(&Asked) -> Vec<u8>),
    /// Flips a bit of this byte of the answer.
    Flip(usize),
    /// Says nothing more on this connection.
    Silence,
    /// Sends half of the answer, and nothing more on this connection.
    Half,
    /// Sends half of the answer, and closes the connection.
    Cut,
    /// Sends half of the answer, and nothing more on any connection.
    Freeze,
}

/// A command that is to be answered, with the right answer.
pub(super) struct Asked {
    pub(super) cid: u16,
    /// Bytes that it writes.
    pub(super) len: u32,
    /// The data to send to the host.
    pub(super) data: Vec<u8>,
    cqe: Cqe,
}

/// A namespace as it is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) nsid: u32,
    /// Every byte of its UUID.
    pub(super) uuid: u8,
    pub(super) blocks: u64,
    /// Block size as a power of two.
    pub(super) shift: u8,
}

struct Script {
    lie: Option<(At, Lie)>,
    shown: Vec<Shown>,
}

/// A request for events that waits, and where its answer goes.
type EventRequest = (Out, Digests, u16);

/// The sending side of a connection; events are sent by other threads than its own.
type Out = Arc<Mutex<TcpStream>>;

struct Shared {
    script: Mutex<Script>,
    memory: Arc<Mutex<Vec<u8>>>,
    /// FES of each H2CTermReq.
    terms: Mutex<Vec<u16>>,
    /// Shutdowns asked for by CC.SHN.
    shutdowns: AtomicUsize,
    /// Lies told.
    told: AtomicUsize,
    /// Admin queues that are connected.
    admins: AtomicUsize,
    events: Mutex<Vec<EventRequest>>,
    sockets: Mutex<Vec<TcpStream>>,
    /// Nothing is said any more.
    frozen: AtomicBool,
    over: AtomicBool,
}

/// See the file's head.
pub(super) struct BadArray {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl BadArray {
    /// An array that behaves, with namespaces 1 and 2, whose blocks each hold their own number.
    pub(super) fn start() -> Self {
        let bytes = (0..BLOCKS as usize * BLOCK).map(|at| (at / BLOCK) as u8 + 1);
        Self::with(Arc::new(Mutex::new(bytes.collect())))
    }

    /// Another array that shows the same namespaces.
    pub(super) fn twin(&self) -> Self {
        Self::with(self.shared.memory.clone())
    }

    fn with(memory: Arc<Mutex<Vec<u8>>>) -> Self {
        let shown = |nsid, uuid| Shown {
            nsid,
            uuid,
            blocks: BLOCKS,
            shift: 9,
        };
        let shared = Arc::new(Shared {
            script: Mutex::new(Script {
                lie: None,
                shown: vec![shown(1, 0x11), shown(2, 0x22)],
            }),
            memory,
            terms: Mutex::default(),
            shutdowns: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            admins: AtomicUsize::new(0),
            events: Mutex::default(),
            sockets: Mutex::default(),
            frozen: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let of = shared.clone();
        std::thread::spawn(move || listen(&listener, &of));
        Self { shared, address }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lies from now on, every time.
    pub(super) fn lie(&self, at: At, lie: Lie) {
        self.shared.script.lock().unwrap().lie = Some((at, lie));
    }

    /// Behaves from now on.
    pub(super) fn behave(&self) {
        self.shared.script.lock().unwrap().lie = None;
        self.shared.frozen.store(false, Ordering::SeqCst);
    }

    /// Changes what namespaces it shows.
    pub(super) fn show(&self, change: impl FnOnce(&mut Vec<Shown>)) {
        change(&mut self.shared.script.lock().unwrap().shown);
    }

    /// Tells hosts of an event; false while none waits for one.
    pub(super) fn tell(&self, event: AsyncEvent) -> bool {
        let waiting = std::mem::take(&mut *self.shared.events.lock().unwrap());
        let told = !waiting.is_empty();
        for (out, digests, cid) in waiting {
            let cqe = Cqe::new(cid, 0, Status::SUCCESS).with_result(u64::from(event.dw0()));
            let bytes = with_digests(&response(cqe), digests);
            // The host may be gone.
            let _ = out.lock().unwrap().write_all(&bytes);
        }
        told
    }

    /// FES of each H2CTermReq that came.
    pub(super) fn terms(&self) -> Vec<u16> {
        self.shared.terms.lock().unwrap().clone()
    }

    /// Shutdowns asked for by CC.SHN.
    pub(super) fn shutdowns(&self) -> usize {
        self.shared.shutdowns.load(Ordering::SeqCst)
    }

    /// Lies told.
    pub(super) fn told(&self) -> usize {
        self.shared.told.load(Ordering::SeqCst)
    }

    /// Closes all connections.
    pub(super) fn hang_up(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for BadArray {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.hang_up();
        let _ = TcpStream::connect(self.address);
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for socket in listener.incoming() {
        let Ok(socket) = socket else { return };
        if shared.over.load(Ordering::SeqCst) {
            return;
        }
        let clone = socket.try_clone().unwrap();
        shared.sockets.lock().unwrap().push(clone);
        let shared = shared.clone();
        std::thread::spawn(move || {
            let mut conn = Conn {
                out: Arc::new(Mutex::new(socket.try_clone().unwrap())),
                shared,
                digests: Digests::default(),
                is_admin: false,
                is_silent: false,
                enabled: false,
                is_shut: false,
                writes: HashMap::new(),
            };
            let mut socket = socket;
            // However it ends, the host sees its connection closed.
            let _ = conn.serve(&mut socket);
            conn.end();
            let _ = socket.shutdown(Shutdown::Both);
        });
    }
}

/// One connection.
struct Conn {
    shared: Arc<Shared>,
    out: Out,
    digests: Digests,
    is_admin: bool,
    is_silent: bool,
    enabled: bool,
    is_shut: bool,
    /// Writes whose data are on their way, by CID: where to, and what has come.
    writes: HashMap<u16, (usize, u32, Vec<u8>)>,
}

fn read_pdu(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 8];
    socket.read_exact(&mut bytes)?;
    let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    bytes.resize(len as usize, 0);
    socket.read_exact(&mut bytes[8..])?;
    Ok(bytes)
}

fn closed<T>() -> io::Result<T> {
    Err(io::ErrorKind::ConnectionAborted.into())
}

impl Conn {
    fn serve(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        loop {
            let pdu = read_pdu(socket)?;
            if pdu[0] == PduType::H2cTermReq as u8 {
                let request = TermReq::from_prefix(&pdu).unwrap();
                self.shared.terms.lock().unwrap().push(request.fes.get());
                return Ok(());
            }
            if self.is_silent || self.shared.frozen.load(Ordering::SeqCst) {
                continue;
            }
            let data = match pdu[3] {
                0 => &[],
                at => &pdu[usize::from(at)..pdu.len() - 4 * usize::from(self.digests.data)],
            };
            match PduType::from_u8(pdu[0]) {
                Some(PduType::IcReq) => self.init(&pdu)?,
                Some(PduType::CapsuleCmd) => {
                    let sqe = CapsuleCmd::from_prefix(&pdu).unwrap().sqe;
                    self.command(&sqe, data)?;
                }
                Some(PduType::H2cData) => self.written(&pdu, data)?,
                _ => return closed(),
            }
        }
    }

    fn end(&self) {
        if self.is_admin {
            self.shared.admins.fetch_sub(1, Ordering::SeqCst);
        }
        let mut events = self.shared.events.lock().unwrap();
        events.retain(|(out, ..)| !Arc::ptr_eq(out, &self.out));
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.out.lock().unwrap().write_all(bytes)
    }

    fn init(&mut self, bytes: &[u8]) -> io::Result<()> {
        let request = IcReq::from_prefix(bytes).unwrap();
        let at = match self.shared.admins.load(Ordering::SeqCst) {
            0 => At::Init,
            _ => At::QueueInit,
        };
        let right = ic_resp(request.dgst);
        self.say(at, &Asked::plain(0), &right)?;
        self.digests = Digests::from_bits(request.dgst);
        Ok(())
    }

    /// Sends the right answer, or what the script has in its place.
    fn say(&mut self, at: At, asked: &Asked, right: &[u8]) -> io::Result<()> {
        let lie = self.shared.script.lock().unwrap().lie;
        let Some((_, lie)) = lie.filter(|(one, _)| *one == at) else {
            return self.send(right);
        };
        self.shared.told.fetch_add(1, Ordering::SeqCst);
        let half = &right[..right.len() / 2];
        match lie {
            Lie::Status(status) => {
                let cqe = Cqe::new(asked.cid, 0, status);
                self.send(&with_digests(&response(cqe), self.digests))
            }
            Lie::Result(result) => {
                let cqe = asked.cqe.with_result(result);
                self.send(&with_digests(&response(cqe), self.digests))
            }
            Lie::Data(edit) => {
                let mut bytes = asked.data.clone();
                edit(&mut bytes);
                self.send(&self.answer(&bytes, asked.cqe))
            }
            Lie::Bytes(make) => self.send(&make(asked)),
            Lie::Flip(byte) => {
                let mut bytes = right.to_vec();
                bytes[byte] ^= 0x10;
                self.send(&bytes)
            }
            Lie::Silence => {
                self.is_silent = true;
                Ok(())
            }
            Lie::Half => {
                self.is_silent = true;
                self.send(half)
            }
            Lie::Cut => {
                self.send(half)?;
                closed()
            }
            Lie::Freeze => {
                self.shared.frozen.store(true, Ordering::SeqCst);
                self.send(half)
            }
        }
    }

    fn answer(&self, bytes: &[u8], cqe: Cqe) -> Vec<u8> {
        let mut all = Vec::new();
        if !bytes.is_empty() {
            all = with_digests(&data(cqe.cid.get(), 0, bytes), self.digests);
        }
        all.extend(with_digests(&response(cqe), self.digests));
        all
    }

    /// Answers a command, with the truth unless the script says otherwise.
    fn reply(&mut self, at: Option<At>, asked: &Asked) -> io::Result<()> {
        let right = self.answer(&asked.data, asked.cqe);
        match at {
            Some(at) => self.say(at, asked, &right),
            None => self.send(&right),
        }
    }

    fn command(&mut self, sqe: &Sqe, bytes: &[u8]) -> io::Result<()> {
        let cid = sqe.cid();
        if FabricsCmd::is(sqe) {
            let (at, asked) = self.fabrics(FabricsCmd::parse(sqe).unwrap(), cid);
            return self.reply(at, &asked);
        }
        if self.is_admin {
            return self.admin(&AdminCmd::parse(sqe).unwrap(), cid);
        }
        self.io(&IoCmd::parse(sqe).unwrap().op, cid, bytes)
    }

    fn fabrics(&mut self, command: FabricsCmd, cid: u16) -> (Option<At>, Asked) {
        let with = |result: u64| Asked {
            cqe: Cqe::new(cid, 0, Status::SUCCESS).with_result(result),
            ..Asked::plain(cid)
        };
        match command {
            FabricsCmd::Connect(connect) if connect.qid == 0 => {
                self.is_admin = true;
                self.shared.admins.fetch_add(1, Ordering::SeqCst);
                (Some(At::Connect), with(u64::from(CNTLID)))
            }
            FabricsCmd::Connect(_) => (Some(At::QueueConnect), with(u64::from(CNTLID))),
            FabricsCmd::PropertyGet { offset, .. } if offset == property::CAP => {
                let capabilities = Capabilities {
                    queue_entries_max: 128,
                    ready_timeout_500ms: 2,
                    command_sets: 1,
                    subsystem_reset: false,
                    ready_modes: 0,
                };
                (Some(At::Capabilities), with(capabilities.bits()))
            }
            FabricsCmd::PropertyGet { .. } => {
                let mut status = ControllerStatus::empty();
                status.set(ControllerStatus::READY, self.enabled);
                status.set(ControllerStatus::SHUTDOWN_COMPLETE, self.is_shut);
                (Some(At::ControllerStatus), with(u64::from(status.bits())))
            }
            FabricsCmd::PropertySet { value, .. } => {
                let configuration = Configuration::from_bits(value as u32);
                self.enabled = configuration.enable;
                self.is_shut = configuration.shutdown != 0;
                self.shared
                    .shutdowns
                    .fetch_add(usize::from(self.is_shut), Ordering::SeqCst);
                (None, with(0))
            }
            _ => (None, with(0)),
        }
    }

    fn admin(&mut self, command: &AdminCmd, cid: u16) -> io::Result<()> {
        let mut asked = Asked::plain(cid);
        let at = match command {
            AdminCmd::AsyncEventRequest => {
                let request = (self.out.clone(), self.digests, cid);
                self.shared.events.lock().unwrap().push(request);
                return Ok(());
            }
            AdminCmd::SetFeatures(features, _) if features.fid == 7 => {
                asked.cqe = asked.cqe.with_result(u64::from(features.cdw11));
                Some(At::Queues)
            }
            AdminCmd::GetLogPage(log) => {
                asked.data = log_page(log);
                (log.lid == LogId::Ana as u8).then_some(At::Ana)
            }
            AdminCmd::Identify(identify) => {
                let (at, page) = self.identify(identify);
                asked.data = page;
                at
            }
            _ => None,
        };
        self.reply(at, &asked)
    }

    fn identify(&self, identify: &Identify) -> (Option<At>, Vec<u8>) {
        let shown = self.shared.script.lock().unwrap().shown.clone();
        let one = shown.iter().find(|one| one.nsid == identify.nsid);
        let first = |at| (identify.nsid == 1).then_some(at);
        match (Cns::from_u8(identify.cns), one) {
            (Some(Cns::Controller), _) => (Some(At::Controller), identify_controller()),
            (Some(Cns::ActiveNamespaces), _) => {
                let all = shown.iter().map(|one| one.nsid);
                (Some(At::List), active_namespaces(all, identify.nsid))
            }
            (Some(Cns::Namespace), Some(one)) => {
                let mut page = IdentifyNamespace {
                    nsze: one.blocks.into(),
                    ncap: one.blocks.into(),
                    anagrpid: 1.into(),
                    ..IdentifyNamespace::default()
                };
                page.lbaf[0].block_shift = one.shift;
                (first(At::Namespace), page.bytes().to_vec())
            }
            (Some(Cns::Descriptors), Some(one)) => {
                let page = descriptors(&[Descriptor::Uuid([one.uuid; 16])]);
                (first(At::Descriptors), page)
            }
            _ => (None, vec![0; IDENTIFY_LEN]),
        }
    }

    fn io(&mut self, op: &IoOp, cid: u16, bytes: &[u8]) -> io::Result<()> {
        let mut asked = Asked::plain(cid);
        let at = match op {
            IoOp::Read(rw) => {
                let from = rw.slba as usize * BLOCK;
                let memory = self.shared.memory.lock().unwrap();
                asked.data = memory[from..from + rw.blocks as usize * BLOCK].to_vec();
                Some(At::Read)
            }
            IoOp::Write(rw) if bytes.is_empty() => {
                let (to, len) = (rw.slba as usize * BLOCK, rw.blocks * BLOCK as u32);
                asked.len = len;
                self.writes.insert(cid, (to, len, Vec::new()));
                let right = with_digests(&r2t(cid, 0, len), self.digests);
                return self.say(At::Write, &asked, &right);
            }
            _ => None,
        };
        self.reply(at, &asked)
    }

    /// Data that an R2T asked for.
    fn written(&mut self, pdu: &[u8], bytes: &[u8]) -> io::Result<()> {
        let cid = u16::from_le_bytes([pdu[8], pdu[9]]);
        let Some((to, len, mut have)) = self.writes.remove(&cid) else {
            return closed();
        };
        have.extend_from_slice(bytes);
        if have.len() < len as usize {
            self.writes.insert(cid, (to, len, have));
            return Ok(());
        }
        self.shared.memory.lock().unwrap()[to..to + have.len()].copy_from_slice(&have);
        self.reply(None, &Asked::plain(cid))
    }
}

impl Asked {
    fn plain(cid: u16) -> Self {
        Self {
            cid,
            len: 0,
            data: Vec::new(),
            cqe: Cqe::new(cid, 0, Status::SUCCESS),
        }
    }
}

fn identify_controller() -> Vec<u8> {
    let mut page = IdentifyController {
        cntlid: CNTLID.into(),
        cmic: 0b1010,
        oaes: (EventMask::ANA_CHANGE | EventMask::NAMESPACE_ATTRIBUTE)
            .bits()
            .into(),
        cntrltype: ControllerType::Io as u8,
        anacap: 0x1f,
        anagrpmax: 4.into(),
        nanagrpid: 4.into(),
        nn: 1024.into(),
        // No data in capsules: every write is asked for by an R2T.
        ioccsz: 4.into(),
        iorcsz: 1.into(),
        ..IdentifyController::default()
    };
    page.subnqn[..NQN.len()].copy_from_slice(NQN.as_bytes());
    page.bytes().to_vec()
}

/// An ANA group that is reached at its best.
pub(super) fn group(id: u32) -> AnaGroup {
    AnaGroup {
        id,
        change_count: 1,
        state: AnaState::Optimized,
        namespaces: Vec::new(),
    }
}

fn log_page(log: &GetLog) -> Vec<u8> {
    let mut page = match log.lid == LogId::Ana as u8 {
        true => ana(1, &[group(1), group(2)], true),
        false => Vec::new(),
    };
    page.resize(log.len as usize, 0);
    page
}

/// A PDU of 24 bytes of no known type.
pub(super) fn stranger(_: &Asked) -> Vec<u8> {
    let mut bytes = pdu(PduType::R2t, 0, &[], &[]);
    bytes[0] = 0x0a;
    bytes
}
