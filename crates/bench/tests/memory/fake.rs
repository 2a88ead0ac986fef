//! A small NVMe/TCP target in memory, honest or not: the peer of the tests of this crate.

use blk::{Gather, IoBuf, Nanos};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use wire::nvme::cmds::{AdminCmd, PropertySize};
use wire::nvme::features::FeatureId;
use wire::nvme::identify::{
    BlockFormat, Cns, IDENTIFY_LEN, IdentifyController, IdentifyNamespace, active_namespaces,
};
use wire::nvme::property::{self, Capabilities, ControllerStatus};
use wire::nvme::{Cqe, FabricsCmd, IoCmd, IoOp, Nqn, Rw, Sqe, Status};
use wire::nvme_tcp::{Command, Controller, Event, Limits};

/// What the target does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Says that the n-th write is done, and forgets it.
    Lose(u64),
    /// Stores the n-th write one I/O further on.
    Misplace(u64),
    /// Stores the first half of the n-th write only.
    Tear(u64),
    /// Fails the n-th read.
    Fail(u64),
    /// Closes the connection instead of answering the n-th read.
    Hang(u64),
}

/// A target with one namespace.
pub(crate) struct Fake {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    block_bytes: usize,
    metadata_bytes: usize,
    memory: Mutex<Vec<u8>>,
    fault: Fault,
    reads: AtomicU64,
    writes: AtomicU64,
}

/// The NQN that every fake answers to.
pub(crate) fn nqn() -> Nqn {
    Nqn::parse("nqn.2024-01.org.example:fake").unwrap()
}

impl Fake {
    /// Starts one. Its threads end with the connections.
    pub(crate) fn start(
        blocks: usize,
        block_bytes: usize,
        metadata_bytes: usize,
        fault: Fault,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            block_bytes,
            metadata_bytes,
            memory: Mutex::new(vec![0; blocks * (block_bytes + metadata_bytes)]),
            fault,
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        });
        let of_listener = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&of_listener);
                thread::spawn(move || Connection::new(shared).serve(stream.unwrap()));
            }
        });
        Self { address, shared }
    }

    /// I/Os that arrived: reads and writes.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.shared.reads), get(&self.shared.writes))
    }
}

struct Connection {
    shared: Arc<Shared>,
    controller: Controller,
    admin: bool,
    enabled: bool,
    shut_down: bool,
}

impl Connection {
    fn new(shared: Arc<Shared>) -> Self {
        let controller = Controller::new(Limits::default(), Nanos(0));
        Self {
            shared,
            controller,
            admin: true,
            enabled: false,
            shut_down: false,
        }
    }

    fn serve(mut self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut buf = vec![0; 1 << 20];
        loop {
            let Ok(n) = stream.read(&mut buf) else { return };
            if n == 0 {
                return;
            }
            self.controller
                .receive(&buf[..n], Nanos(0))
                .expect("hosts keep to the protocol");
            while let Some(event) = self.controller.next_event() {
                match event {
                    Event::Ready(_) => {}
                    Event::Command(command) => {
                        if !self.command(&command) {
                            return;
                        }
                    }
                    Event::Refused { slot, status, .. } => {
                        self.controller.respond(slot, Cqe::new(0, 0, status));
                    }
                    Event::Closed(_) => return,
                }
            }
            let mut out = Gather::new();
            self.controller.transmit(&mut out);
            if stream.write_all(&out.to_vec()).is_err() {
                return;
            }
        }
    }

    /// False to close the connection.
    fn command(&mut self, command: &Command) -> bool {
        let slot = command.slot;
        let good = Cqe::new(0, 0, Status::SUCCESS);
        let answer = if FabricsCmd::is(&command.sqe) {
            self.fabrics(&command.sqe)
                .map(|value| (good.with_result(value), IoBuf::empty()))
        } else if self.admin {
            self.admin_command(&command.sqe)
                .map(|(dw0, page)| (good.with_dw0(dw0), IoBuf::from_slice(&page)))
        } else {
            match self.io(command) {
                Some(answer) => answer.map(|data| (good, data)),
                None => return false,
            }
        };
        match answer {
            Ok((cqe, data)) => self.controller.respond_data(slot, data, cqe),
            Err(status) => self.controller.respond(slot, Cqe::new(0, 0, status)),
        }
        true
    }

    fn fabrics(&mut self, sqe: &Sqe) -> Result<u64, Status> {
        match FabricsCmd::parse(sqe)? {
            FabricsCmd::Connect(connect) => {
                self.admin = connect.qid == 0;
                self.controller
                    .set_sq_flow_control(!connect.no_sq_flow_control);
                Ok(7)
            }
            FabricsCmd::PropertyGet {
                offset: property::CAP,
                size: PropertySize::Eight,
            } => {
                let mut cap = Capabilities::from_bits(0);
                (cap.queue_entries_max, cap.command_sets) = (129, 1);
                Ok(cap.bits())
            }
            FabricsCmd::PropertyGet {
                offset: property::CSTS,
                ..
            } => {
                let mut csts = ControllerStatus::default();
                csts.set(ControllerStatus::READY, self.enabled);
                csts.set(ControllerStatus::SHUTDOWN_COMPLETE, self.shut_down);
                Ok(u64::from(csts.bits()))
            }
            FabricsCmd::PropertySet {
                offset: property::CC,
                value,
                ..
            } => {
                let cc = property::Configuration::from_bits(value as u32);
                (self.enabled, self.shut_down) = (cc.enable, cc.shutdown > 0);
                Ok(0)
            }
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    fn admin_command(&self, sqe: &Sqe) -> Result<(u32, Vec<u8>), Status> {
        match AdminCmd::parse(sqe)? {
            AdminCmd::Identify(id) if id.cns == Cns::Controller as u8 => {
                // 256 KiB per command; 8 KiB in a capsule.
                let page = IdentifyController {
                    mdts: 6,
                    ioccsz: ((64 + 8192) / 16).into(),
                    ..Default::default()
                };
                Ok((0, page.bytes().to_vec()))
            }
            AdminCmd::Identify(id) if id.cns == Cns::ActiveNamespaces as u8 => {
                Ok((0, active_namespaces([1], id.nsid)))
            }
            AdminCmd::Identify(id) if id.cns == Cns::Namespace as u8 && id.nsid == 1 => {
                Ok((0, self.namespace().bytes().to_vec()))
            }
            AdminCmd::Identify(_) => Ok((0, vec![0; IDENTIFY_LEN])),
            AdminCmd::SetFeatures(f, _) if f.fid == FeatureId::NumberOfQueues as u8 => {
                // Four queues of each sort.
                Ok((0x0003_0003, Vec::new()))
            }
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    fn namespace(&self) -> IdentifyNamespace {
        let shared = &self.shared;
        let stride = shared.block_bytes + shared.metadata_bytes;
        let blocks = (shared.memory.lock().unwrap().len() / stride) as u64;
        let mut page = IdentifyNamespace {
            nsze: blocks.into(),
            ncap: blocks.into(),
            flbas: if shared.metadata_bytes > 0 { 1 << 4 } else { 0 },
            ..Default::default()
        };
        page.lbaf[0] = BlockFormat {
            metadata: (shared.metadata_bytes as u16).into(),
            block_shift: shared.block_bytes.trailing_zeros() as u8,
            performance: 0,
        };
        page
    }

    /// `None` to close the connection.
    fn io(&self, command: &Command) -> Option<Result<IoBuf, Status>> {
        let op = match IoCmd::parse(&command.sqe) {
            Ok(command) => command.op,
            Err(status) => return Some(Err(status)),
        };
        let shared = &self.shared;
        let stride = shared.block_bytes + shared.metadata_bytes;
        let range = |rw: &Rw| {
            let start = rw.slba as usize * stride;
            start..start + rw.blocks as usize * stride
        };
        let mut memory = shared.memory.lock().unwrap();
        Some(match op {
            IoOp::Read(rw) if range(&rw).end <= memory.len() => {
                let n = shared.reads.fetch_add(1, Ordering::Relaxed) + 1;
                match shared.fault {
                    Fault::Fail(at) if at == n => Err(Status::INTERNAL_ERROR),
                    Fault::Hang(at) if at == n => return None,
                    _ => Ok(IoBuf::from_slice(&memory[range(&rw)])),
                }
            }
            IoOp::Write(rw) if range(&rw).end <= memory.len() => {
                let n = shared.writes.fetch_add(1, Ordering::Relaxed) + 1;
                let data = command.data.to_vec();
                let mut place = range(&rw);
                let mut data = &data[..];
                match shared.fault {
                    Fault::Lose(at) if at == n => return Some(Ok(IoBuf::empty())),
                    Fault::Misplace(at) if at == n => {
                        let len = place.len();
                        place = (place.start + len) % memory.len()..0;
                        place.end = place.start + len;
                    }
                    Fault::Tear(at) if at == n => {
                        data = &data[..data.len() / 2];
                        place.end = place.start + data.len();
                    }
                    _ => {}
                }
                memory[place].copy_from_slice(data);
                Ok(IoBuf::empty())
            }
            IoOp::WriteZeroes(rw) if range(&rw).end <= memory.len() => {
                memory[range(&rw)].fill(0);
                Ok(IoBuf::empty())
            }
            IoOp::Flush => Ok(IoBuf::empty()),
            IoOp::Read(_) | IoOp::Write(_) | IoOp::WriteZeroes(_) => {
                Err(Status::LBA_OUT_OF_RANGE.dnr())
            }
            _ => Err(Status::INVALID_OPCODE.dnr()),
        })
    }
}
