//! A blocking NVMe/TCP host for tests: queues over real sockets.

use blk::{Gather, IoBuf, Nanos};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use wire::nvme::Status;
use wire::nvme::cmds::{Connect, Features, GetLog, Identify, PropertySize};
use wire::nvme::fabrics::{ConnectData, Connected};
use wire::nvme::features::Select;
use wire::nvme::identify::{IdentifyController, IdentifyNamespace};
use wire::nvme::property::{CC, CSTS};
use wire::nvme::{AdminCmd, CNTLID_DYNAMIC, Cqe, FabricsCmd, Fuse, IoCmd, IoOp, Nqn, Rw, Sqe};
use wire::nvme_tcp::{Completed, Digests, Host, HostConfig, HostEvent, Payload};

/// Nothing here takes this long; a test that waits longer has found a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who connects, and how.
#[derive(Clone)]
pub struct Who {
    pub hostnqn: String,
    pub hostid: [u8; 16],
    pub digests: Digests,
    pub entries: u32,
    pub no_sq_flow_control: bool,
    pub kato_ms: u32,
    pub in_capsule_bytes: u32,
}

impl Default for Who {
    fn default() -> Self {
        Self {
            hostnqn: super::HOST.to_owned(),
            hostid: [0x11; 16],
            digests: Digests::default(),
            entries: 128,
            no_sq_flow_control: false,
            kato_ms: 0,
            in_capsule_bytes: 8192,
        }
    }
}

impl Who {
    /// Another host.
    pub fn other() -> Self {
        Self {
            hostnqn: super::OTHER_HOST.to_owned(),
            hostid: [0x22; 16],
            ..Self::default()
        }
    }
}

/// One connection.
pub struct Queue {
    pub stream: TcpStream,
    pub host: Host,
    pub cntlid: u16,
    out: Gather,
    done: Vec<Completed>,
    pub closed: bool,
}

fn now() -> Nanos {
    engine::now()
}

impl Queue {
    /// Initialises a connection without Connect.
    pub fn open(address: SocketAddr, who: &Who) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let config = HostConfig {
            queue_depth: (who.entries - 1) as u16,
            digests: who.digests,
            in_capsule_bytes: who.in_capsule_bytes,
            ..HostConfig::default()
        };
        let (host, out) = (Host::new(config, now()), Gather::new());
        let mut queue = Self {
            stream,
            host,
            cntlid: 0,
            out,
            done: Vec::new(),
            closed: false,
        };
        let start = Instant::now();
        while !queue.closed && !queue.host.can_submit() {
            assert!(start.elapsed() < PATIENCE, "no ICResp");
            queue.turn();
        }
        queue
    }

    /// Connects a queue; the refusal if there is one.
    pub fn connect(
        address: SocketAddr,
        subsystem: &str,
        who: &Who,
        qid: u16,
        cntlid: u16,
    ) -> Result<Self, Cqe> {
        let mut queue = Self::open(address, who);
        let sqe = FabricsCmd::Connect(Connect {
            record_format: 0,
            qid,
            queue_entries: who.entries,
            priority: 0,
            no_sq_flow_control: who.no_sq_flow_control,
            kato_ms: who.kato_ms,
        })
        .to_sqe();
        let (subsystem, host) = (subsystem.parse::<Nqn>(), who.hostnqn.parse::<Nqn>());
        let data = ConnectData::new(who.hostid, cntlid, &subsystem.unwrap(), &host.unwrap());
        let payload = Payload::ToController(IoBuf::from_slice(data.bytes()));
        let done = queue.run(sqe, payload);
        if !done.cqe.status().is_success() {
            return Err(done.cqe);
        }
        queue.cntlid = Connected::from_dw0(done.cqe.dw0.get()).cntlid;
        Ok(queue)
    }

    /// Sends what is queued and receives once.
    pub fn turn(&mut self) {
        self.host.transmit(&mut self.out);
        let bytes = self.out.to_vec();
        if !bytes.is_empty() {
            self.out.advance(bytes.len());
            if self.stream.write_all(&bytes).is_err() {
                self.close();
                return;
            }
        }
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.close(),
            Ok(n) => {
                self.host.receive(&buffer[..n], now()).unwrap();
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => self.close(),
        }
        self.collect();
    }

    fn close(&mut self) {
        self.host.close();
        self.collect();
        self.closed = true;
    }

    fn collect(&mut self) {
        while let Some(event) = self.host.next_event() {
            match event {
                HostEvent::Completed(completed) => self.done.push(completed),
                HostEvent::Closed(_) => self.closed = true,
                HostEvent::Ready(_) => {}
            }
        }
    }

    /// Submits without waiting.
    pub fn submit(&mut self, sqe: Sqe, payload: Payload) -> u16 {
        let cid = self.host.submit(sqe, payload).unwrap();
        self.host.transmit(&mut self.out);
        let bytes = self.out.to_vec();
        self.out.advance(bytes.len());
        let _ = self.stream.write_all(&bytes);
        cid
    }

    /// Waits for a command.
    pub fn wait(&mut self, cid: u16) -> Completed {
        let start = Instant::now();
        loop {
            if let Some(at) = self.done.iter().position(|one| one.cid == cid) {
                return self.done.remove(at);
            }
            assert!(
                !self.closed,
                "the connection ended before command {cid} completed"
            );
            assert!(start.elapsed() < PATIENCE, "command {cid} never completed");
            self.turn();
        }
    }

    /// Waits for all commands in flight; returns how they ended.
    pub fn wait_all(&mut self) -> Vec<Status> {
        let start = Instant::now();
        while self.host.in_flight() > 0 {
            assert!(start.elapsed() < PATIENCE, "commands never completed");
            self.turn();
        }
        self.done.drain(..).map(|one| one.cqe.status()).collect()
    }

    /// Whether a command completes within a time in which it would if it could.
    pub fn completes(&mut self, cid: u16) -> bool {
        for _ in 0..10 {
            self.turn();
            if self.done.iter().any(|one| one.cid == cid) {
                return true;
            }
        }
        false
    }

    /// Waits until the other end closes.
    pub fn wait_closed(&mut self) {
        let start = Instant::now();
        while !self.closed {
            assert!(start.elapsed() < PATIENCE, "the connection stays open");
            self.turn();
        }
    }

    pub fn run(&mut self, sqe: Sqe, payload: Payload) -> Completed {
        let cid = self.submit(sqe, payload);
        self.wait(cid)
    }

    pub fn io(&mut self, nsid: u32, op: IoOp, payload: Payload) -> Completed {
        self.run(
            IoCmd {
                nsid,
                fuse: Fuse::Normal,
                op,
            }
            .to_sqe(),
            payload,
        )
    }

    pub fn read(&mut self, nsid: u32, slba: u64, blocks: u32, bytes: usize) -> Completed {
        self.io(
            nsid,
            IoOp::Read(Rw::new(slba, blocks)),
            Payload::ToHost(IoBuf::alloc(bytes)),
        )
    }

    pub fn write(&mut self, nsid: u32, slba: u64, blocks: u32, data: &[u8]) -> Status {
        let payload = Payload::ToController(IoBuf::from_slice(data));
        self.io(nsid, IoOp::Write(Rw::new(slba, blocks)), payload)
            .cqe
            .status()
    }

    pub fn property(&mut self, offset: u32) -> u64 {
        let size = PropertySize::Four;
        let done = self.run(
            FabricsCmd::PropertyGet { size, offset }.to_sqe(),
            Payload::None,
        );
        assert!(done.cqe.status().is_success());
        done.cqe.result()
    }

    /// Reads CSTS until it is as wanted.
    pub fn wait_status(&mut self, wanted: u64) {
        let start = Instant::now();
        while self.property(CSTS) != wanted {
            assert!(start.elapsed() < PATIENCE, "CSTS never became {wanted:#b}");
        }
    }

    pub fn set_cc(&mut self, value: u64) {
        let set = FabricsCmd::PropertySet {
            size: PropertySize::Four,
            offset: CC,
            value,
        };
        assert!(
            self.run(set.to_sqe(), Payload::None)
                .cqe
                .status()
                .is_success()
        );
    }

    pub fn admin(&mut self, command: AdminCmd, len: usize) -> Completed {
        let payload = if len > 0 {
            Payload::ToHost(IoBuf::alloc(len))
        } else {
            Payload::None
        };
        self.run(command.to_sqe(), payload)
    }

    pub fn identify(&mut self, cns: u8, nsid: u32) -> Result<Vec<u8>, Status> {
        let (cntid, cns_specific, csi, uuid_index) = (0, 0, 0, 0);
        let id = Identify {
            nsid,
            cns,
            cntid,
            cns_specific,
            csi,
            uuid_index,
        };
        let done = self.admin(AdminCmd::Identify(id), 4096);
        if done.cqe.status().is_success() {
            Ok(done.data.to_vec())
        } else {
            Err(done.cqe.status())
        }
    }

    pub fn identify_controller(&mut self) -> IdentifyController {
        IdentifyController::from_prefix(&self.identify(1, 0).unwrap()).unwrap()
    }

    pub fn identify_namespace(&mut self, nsid: u32) -> IdentifyNamespace {
        IdentifyNamespace::from_prefix(&self.identify(0, nsid).unwrap()).unwrap()
    }

    pub fn log_at(&mut self, lid: u8, offset: u64, len: usize) -> Result<Vec<u8>, Status> {
        let log = GetLog {
            nsid: 0,
            lid,
            lsp: 0,
            retain_event: false,
            len: len as u64,
            offset,
            lsi: 0,
            by_index: false,
            csi: 0,
            uuid_index: 0,
        };
        let done = self.admin(AdminCmd::GetLogPage(log), len);
        if done.cqe.status().is_success() {
            Ok(done.data.to_vec())
        } else {
            Err(done.cqe.status())
        }
    }

    pub fn log(&mut self, lid: u8, len: usize) -> Vec<u8> {
        self.log_at(lid, 0, len).unwrap()
    }

    pub fn get_feature(&mut self, fid: u8, nsid: u32, cdw11: u32, len: usize) -> Completed {
        let feature = Features {
            nsid,
            fid,
            cdw11,
            cdw12: 0,
            cdw13: 0,
        };
        self.admin(AdminCmd::GetFeatures(feature, Select::Current), len)
    }

    pub fn set_feature(&mut self, fid: u8, nsid: u32, cdw11: u32) -> Completed {
        let feature = Features {
            nsid,
            fid,
            cdw11,
            cdw12: 0,
            cdw13: 0,
        };
        self.admin(AdminCmd::SetFeatures(feature, false), 0)
    }

    /// Asks for an event; the answer is to be waited for.
    pub fn ask_event(&mut self) -> u16 {
        self.submit(AdminCmd::AsyncEventRequest.to_sqe(), Payload::None)
    }
}

/// A host with its admin queue.
pub struct Session {
    pub address: SocketAddr,
    pub subsystem: String,
    pub who: Who,
    pub admin: Queue,
}

impl Session {
    /// Connects and enables the controller.
    pub fn connect(address: SocketAddr, subsystem: &str, who: Who) -> Result<Self, Cqe> {
        let mut admin = Queue::connect(address, subsystem, &who, 0, CNTLID_DYNAMIC)?;
        admin.set_cc(0x0046_0001);
        assert_eq!(admin.property(CSTS), 1);
        Ok(Self {
            address,
            subsystem: subsystem.to_owned(),
            who,
            admin,
        })
    }

    /// A host of the usual test subsystem.
    pub fn to(address: SocketAddr) -> Self {
        Self::connect(address, super::NQN, Who::default()).unwrap()
    }

    /// An I/O queue.
    pub fn io(&self, qid: u16) -> Queue {
        self.try_io(qid).unwrap()
    }

    pub fn try_io(&self, qid: u16) -> Result<Queue, Cqe> {
        Queue::connect(
            self.address,
            &self.subsystem,
            &self.who,
            qid,
            self.admin.cntlid,
        )
    }
}
