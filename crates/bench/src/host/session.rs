//! [`Session`]: a controller of a subsystem, made and used one command at a time.

use blk::IoBuf;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wire::nvme::cmds::{AdminCmd, Connect, Features, Identify, PropertySize};
use wire::nvme::fabrics::{ConnectData, Connected};
use wire::nvme::features::FeatureId;
use wire::nvme::identify::{Cns, IDENTIFY_LEN, IdentifyController, IdentifyNamespace, parse_list};
use wire::nvme::property::{self, Capabilities, Configuration, ControllerStatus};
use wire::nvme::{CNTLID_DYNAMIC, Cqe, FabricsCmd, Fuse, IoCmd, IoOp, Nqn, Rw, Sqe};
use wire::nvme_tcp::{Digests, HostConfig, Payload};

use super::{HostError, Link};

/// Entries of the admin queue, as Linux hosts ask for.
const ADMIN_ENTRIES: u16 = 32;
/// Most data of one command when the controller sets no limit: what one of our buffers may hold.
const DATA_MAX: usize = 1 << 20;
/// CC with entry sizes of 64 and 16 bytes, as fabrics fix them.
const ENTRY_SIZES: (u8, u8) = (6, 4);
/// How often CSTS is read while a controller becomes ready.
const READY_POLL: Duration = Duration::from_millis(10);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who the host says it is; a random name if absent.
    pub hostnqn: Option<Nqn>,
    /// HOSTID; random if absent.
    pub hostid: Option<[u8; 16]>,
    /// I/O queues.
    pub queues: u16,
    /// Commands in flight on each I/O queue.
    pub depth: u16,
    /// Digests to ask for.
    pub digests: Digests,
    /// Keep the submission queue flow control that a host may do without.
    pub sq_flow_control: bool,
    /// How long a command may take.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hostnqn: None,
            hostid: None,
            queues: 1,
            depth: 128,
            digests: Digests::default(),
            sq_flow_control: false,
            timeout: Duration::from_secs(10),
        }
    }
}

/// A random host: its name and identifier, with one UUID in both.
pub fn random_host() -> (Nqn, [u8; 16]) {
    // Every RandomState has keys of its own from the system's random source.
    let word = |i: u64| RandomState::new().hash_one(i);
    let mut id = (u128::from(word(0)) << 64 | u128::from(word(1))).to_be_bytes();
    // Version 4, variant 1 (RFC 9562, 5.4).
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    (Nqn::from_uuid(&id), id)
}

/// A namespace, as far as reading and writing it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Namespace {
    /// NSID.
    pub nsid: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of a block without metadata.
    pub block_bytes: u32,
    /// Metadata that follow each block on the wire, in bytes.
    pub metadata_bytes: u32,
}

impl Namespace {
    /// Bytes of a block on the wire.
    pub fn stride(&self) -> usize {
        self.block_bytes as usize + self.metadata_bytes as usize
    }
}

/// A controller with its queues.
#[derive(Debug)]
pub struct Session {
    address: SocketAddr,
    subnqn: Nqn,
    hostnqn: Nqn,
    hostid: [u8; 16],
    options: Options,
    admin: Link,
    io: Vec<Link>,
    controller: Box<IdentifyController>,
    cntlid: u16,
}

impl Session {
    /// Connects to a subsystem, enables a controller and makes its I/O queues.
    ///
    /// # Errors
    /// Nobody listens, the subsystem refuses the host, or the controller does not get ready.
    pub fn connect(address: SocketAddr, subnqn: &Nqn, options: Options) -> Result<Self, HostError> {
        let (random_nqn, random_id) = random_host();
        let config = HostConfig {
            queue_depth: ADMIN_ENTRIES - 1,
            digests: options.digests,
            ..HostConfig::default()
        };
        let mut session = Self {
            admin: Link::open(address, config, options.timeout)?,
            address,
            subnqn: subnqn.clone(),
            hostnqn: options.hostnqn.clone().unwrap_or(random_nqn),
            hostid: options.hostid.unwrap_or(random_id),
            options,
            io: Vec::new(),
            controller: Box::default(),
            cntlid: CNTLID_DYNAMIC,
        };
        session.make_controller()?;
        session.make_queues()?;
        Ok(session)
    }

    /// Connect on the admin queue, then enable and identify (NVMe Base 2.1, 3.5.1).
    fn make_controller(&mut self) -> Result<(), HostError> {
        let data = self.connect_data();
        let connect = self.connect_command(0, u32::from(ADMIN_ENTRIES));
        let timeout = self.options.timeout;
        let cqe = fabrics(&mut self.admin, "Connect", connect, data, timeout)?;
        self.cntlid = Connected::from_dw0(cqe.dw0.get()).cntlid;
        self.set_configuration(Configuration {
            enable: true,
            io_sqe_size: ENTRY_SIZES.0,
            io_cqe_size: ENTRY_SIZES.1,
            ..Configuration::default()
        })?;
        self.wait_for(ControllerStatus::READY, "enabling the controller")?;
        let page = self.identify(Cns::Controller, 0)?;
        let identified = IdentifyController::from_prefix(&page)
            .map_err(|e| HostError::Protocol(format!("identify controller: {e}")))?;
        *self.controller = identified;
        Ok(())
    }

    fn connect_data(&self) -> IoBuf {
        let data = ConnectData::new(self.hostid, self.cntlid, &self.subnqn, &self.hostnqn);
        IoBuf::from_slice(data.bytes())
    }

    fn connect_command(&self, qid: u16, queue_entries: u32) -> FabricsCmd {
        FabricsCmd::Connect(Connect {
            record_format: 0,
            qid,
            queue_entries,
            priority: 0,
            no_sq_flow_control: qid > 0 && !self.options.sq_flow_control,
            kato_ms: 0,
        })
    }

    fn make_queues(&mut self) -> Result<(), HostError> {
        let (queues, depth) = (self.options.queues, self.options.depth.max(1));
        if queues == 0 {
            return Ok(());
        }
        let granted = self.request_queues(queues)?;
        if granted < queues {
            let text = format!("the controller grants {granted} I/O queues, not {queues}");
            return Err(HostError::Invalid(text));
        }
        let limit = self.capabilities()?.queue_entries_max;
        // A queue of n entries holds n - 1 commands (NVMe Base 2.1, 3.3.1.2).
        let entries = u32::from(depth) + 1;
        if entries > limit {
            let text = format!(
                "the controller's queues hold {} commands, not {depth}",
                limit - 1
            );
            return Err(HostError::Invalid(text));
        }
        let config = HostConfig {
            queue_depth: depth,
            digests: self.options.digests,
            in_capsule_bytes: self.controller.in_capsule_data() as u32,
            ..HostConfig::default()
        };
        for qid in 1..=queues {
            let mut link = Link::open(self.address, config, self.options.timeout)?;
            let connect = self.connect_command(qid, entries);
            let what = format!("Connect of I/O queue {qid}");
            fabrics(
                &mut link,
                &what,
                connect,
                self.connect_data(),
                self.options.timeout,
            )?;
            self.io.push(link);
        }
        Ok(())
    }

    /// Set Features, Number of Queues (NVMe Base 2.1, 5.1.25.1.5).
    fn request_queues(&mut self, queues: u16) -> Result<u16, HostError> {
        let wanted = u32::from(queues) - 1;
        let features = Features {
            nsid: 0,
            fid: FeatureId::NumberOfQueues as u8,
            cdw11: wanted << 16 | wanted,
            cdw12: 0,
            cdw13: 0,
        };
        let sqe = AdminCmd::SetFeatures(features, false).to_sqe();
        let (cqe, _) = self.admin("Set Features, Number of Queues", sqe, Payload::None)?;
        let granted = cqe.dw0.get();
        Ok((granted & 0xffff)
            .min(granted >> 16)
            .saturating_add(1)
            .min(0xffff) as u16)
    }

    /// CAP.
    ///
    /// # Errors
    /// The controller refuses or does not answer.
    pub fn capabilities(&mut self) -> Result<Capabilities, HostError> {
        self.property(property::CAP, PropertySize::Eight)
            .map(Capabilities::from_bits)
    }

    /// Reads a property.
    ///
    /// # Errors
    /// The controller refuses or does not answer.
    pub fn property(&mut self, offset: u32, size: PropertySize) -> Result<u64, HostError> {
        let command = FabricsCmd::PropertyGet { size, offset };
        let timeout = self.options.timeout;
        let empty = IoBuf::empty();
        Ok(fabrics(&mut self.admin, "Property Get", command, empty, timeout)?.result())
    }

    /// Writes CC.
    ///
    /// # Errors
    /// The controller refuses or does not answer.
    pub fn set_configuration(&mut self, cc: Configuration) -> Result<(), HostError> {
        let (size, offset) = (PropertySize::Four, property::CC);
        let command = FabricsCmd::PropertySet {
            size,
            offset,
            value: u64::from(cc.bits()),
        };
        let timeout = self.options.timeout;
        fabrics(
            &mut self.admin,
            "Property Set",
            command,
            IoBuf::empty(),
            timeout,
        )
        .map(|_| ())
    }

    fn wait_for(&mut self, wanted: ControllerStatus, what: &str) -> Result<(), HostError> {
        let begun = Instant::now();
        loop {
            let bits = self.property(property::CSTS, PropertySize::Four)? as u32;
            let csts = ControllerStatus::from_bits_truncate(bits);
            if csts.contains(wanted) {
                return Ok(());
            }
            if csts.contains(ControllerStatus::FATAL) {
                return Err(HostError::Invalid(format!(
                    "{what}: the controller has failed"
                )));
            }
            if begun.elapsed() >= self.options.timeout {
                let after = self.options.timeout;
                return Err(HostError::Timeout {
                    what: what.to_owned(),
                    after,
                });
            }
            std::thread::sleep(READY_POLL);
        }
    }

    /// What the controller said about itself.
    pub fn controller(&self) -> &IdentifyController {
        &self.controller
    }

    /// CNTLID.
    pub fn cntlid(&self) -> u16 {
        self.cntlid
    }

    /// Who this host says it is.
    pub fn hostnqn(&self) -> &Nqn {
        &self.hostnqn
    }

    /// Most data of one command, in bytes.
    pub fn data_max(&self) -> usize {
        self.controller.data_max().unwrap_or(DATA_MAX).min(DATA_MAX)
    }

    /// Does an admin command; returns its completion, and the data of one that reads.
    ///
    /// # Errors
    /// The status is not success, or the connection fails.
    pub fn admin(
        &mut self,
        what: &str,
        sqe: Sqe,
        payload: Payload,
    ) -> Result<(Cqe, Vec<u8>), HostError> {
        checked(&mut self.admin, what, sqe, payload, self.options.timeout)
    }

    /// Does an I/O command on queue `queue`, counted from 0; returns its completion and data.
    ///
    /// # Errors
    /// The status is not success, or the connection fails, or there is no such queue.
    pub fn io(
        &mut self,
        queue: usize,
        what: &str,
        sqe: Sqe,
        payload: Payload,
    ) -> Result<(Cqe, Vec<u8>), HostError> {
        let timeout = self.options.timeout;
        let link = self.io.get_mut(queue).ok_or_else(|| {
            HostError::Invalid(format!("{what}: the session has no I/O queue {queue}"))
        })?;
        checked(link, what, sqe, payload, timeout)
    }

    /// Reads an identify page.
    ///
    /// # Errors
    /// As for [`Session::admin`].
    pub fn identify(&mut self, cns: Cns, nsid: u32) -> Result<Vec<u8>, HostError> {
        let identify = Identify {
            nsid,
            cns: cns as u8,
            cntid: 0,
            cns_specific: 0,
            csi: 0,
            uuid_index: 0,
        };
        let sqe = AdminCmd::Identify(identify).to_sqe();
        let what = format!("Identify {cns:?}");
        let (_, page) = self.admin(&what, sqe, Payload::ToHost(IoBuf::alloc(IDENTIFY_LEN)))?;
        if page.len() < IDENTIFY_LEN {
            let text = format!("{what}: {} bytes came, not {IDENTIFY_LEN}", page.len());
            return Err(HostError::Protocol(text));
        }
        Ok(page)
    }

    /// The active namespaces, up to the 1024 that one page holds.
    ///
    /// # Errors
    /// As for [`Session::admin`].
    pub fn namespaces(&mut self) -> Result<Vec<u32>, HostError> {
        Ok(parse_list(&self.identify(Cns::ActiveNamespaces, 0)?).collect())
    }

    /// Size and format of a namespace.
    ///
    /// # Errors
    /// As for [`Session::admin`], and if there is no such namespace or its format is unusable.
    pub fn namespace(&mut self, nsid: u32) -> Result<Namespace, HostError> {
        let page = self.identify(Cns::Namespace, nsid)?;
        let id = IdentifyNamespace::from_prefix(&page)
            .map_err(|e| HostError::Protocol(format!("identify namespace: {e}")))?;
        let unusable = |why: &str| HostError::Invalid(format!("namespace {nsid} {why}"));
        if id.nsze.get() == 0 {
            return Err(unusable("does not exist or has no blocks"));
        }
        let block_bytes = id
            .block_size()
            .ok_or_else(|| unusable("has no valid block size"))?;
        let metadata_bytes = u32::from(id.format().metadata.get());
        if metadata_bytes > 0 && !id.metadata_interleaved() {
            return Err(unusable(
                "has metadata in a buffer of their own, which fabrics lack",
            ));
        }
        Ok(Namespace {
            nsid,
            blocks: id.nsze.get(),
            block_bytes,
            metadata_bytes,
        })
    }

    /// Reads blocks, metadata interleaved; splits what is larger than one command may be.
    ///
    /// # Errors
    /// As for [`Session::io`].
    pub fn read(&mut self, ns: &Namespace, lba: u64, blocks: u32) -> Result<Vec<u8>, HostError> {
        let mut all = Vec::with_capacity(blocks as usize * ns.stride());
        for (at, n) in self.pieces(ns, blocks) {
            let op = IoOp::Read(Rw::new(lba + u64::from(at), n));
            let buf = IoBuf::alloc(n as usize * ns.stride());
            let (_, data) = self.io(0, "Read", io_sqe(ns.nsid, op), Payload::ToHost(buf))?;
            all.extend(data);
        }
        Ok(all)
    }

    /// Writes blocks, metadata interleaved; splits what is larger than one command may be.
    ///
    /// # Errors
    /// As for [`Session::io`], and if `data` is not a whole number of blocks.
    pub fn write(&mut self, ns: &Namespace, lba: u64, data: &[u8]) -> Result<(), HostError> {
        if data.is_empty() || !data.len().is_multiple_of(ns.stride()) {
            let text = format!(
                "{} bytes are not whole blocks of {}",
                data.len(),
                ns.stride()
            );
            return Err(HostError::Invalid(text));
        }
        for (at, n) in self.pieces(ns, (data.len() / ns.stride()) as u32) {
            let op = IoOp::Write(Rw::new(lba + u64::from(at), n));
            let from = at as usize * ns.stride();
            let buf = IoBuf::from_slice(&data[from..from + n as usize * ns.stride()]);
            self.io(0, "Write", io_sqe(ns.nsid, op), Payload::ToController(buf))?;
        }
        Ok(())
    }

    /// Cuts a range into what one command may move: offset and length in blocks.
    fn pieces(&self, ns: &Namespace, blocks: u32) -> Vec<(u32, u32)> {
        let most = (self.data_max() / ns.stride()).clamp(1, 65_536) as u32;
        let starts = (0..blocks).step_by(most as usize);
        starts.map(|at| (at, most.min(blocks - at))).collect()
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// As for [`Session::io`].
    pub fn flush(&mut self, ns: &Namespace) -> Result<(), HostError> {
        self.io(0, "Flush", io_sqe(ns.nsid, IoOp::Flush), Payload::None)
            .map(|_| ())
    }

    /// Writes zeroes without sending them.
    ///
    /// # Errors
    /// As for [`Session::io`].
    pub fn write_zeroes(&mut self, ns: &Namespace, lba: u64, blocks: u32) -> Result<(), HostError> {
        let op = IoOp::WriteZeroes(Rw::new(lba, blocks));
        self.io(0, "Write Zeroes", io_sqe(ns.nsid, op), Payload::None)
            .map(|_| ())
    }

    /// Shuts the controller down in an orderly way and closes all connections.
    ///
    /// # Errors
    /// The controller does not follow; the connections are closed all the same.
    pub fn close(mut self) -> Result<(), HostError> {
        self.io.clear();
        self.set_configuration(Configuration {
            enable: true,
            shutdown: 1,
            io_sqe_size: ENTRY_SIZES.0,
            io_cqe_size: ENTRY_SIZES.1,
            ..Configuration::default()
        })?;
        self.wait_for(
            ControllerStatus::SHUTDOWN_COMPLETE,
            "shutting the controller down",
        )
    }

    /// Takes the I/O queues out, for callers that drive them themselves.
    pub fn take_queues(&mut self) -> Vec<Link> {
        std::mem::take(&mut self.io)
    }
}

/// The entry of an I/O command.
pub(crate) fn io_sqe(nsid: u32, op: IoOp) -> Sqe {
    IoCmd {
        nsid,
        fuse: Fuse::Normal,
        op,
    }
    .to_sqe()
}

fn fabrics(
    link: &mut Link,
    what: &str,
    command: FabricsCmd,
    data: IoBuf,
    timeout: Duration,
) -> Result<Cqe, HostError> {
    let payload = if data.is_empty() {
        Payload::None
    } else {
        Payload::ToController(data)
    };
    let done = link.call(what, command.to_sqe(), payload, timeout)?;
    if done.cqe.status().is_success() {
        return Ok(done.cqe);
    }
    let (status, dw0) = (done.cqe.status(), done.cqe.dw0.get());
    Err(HostError::Refused {
        what: what.to_owned(),
        status,
        fabrics: true,
        dw0,
    })
}

fn checked(
    link: &mut Link,
    what: &str,
    sqe: Sqe,
    payload: Payload,
    timeout: Duration,
) -> Result<(Cqe, Vec<u8>), HostError> {
    let done = link.call(what, sqe, payload, timeout)?;
    let status = done.cqe.status();
    if status.is_success() {
        return Ok((done.cqe, done.data.to_vec()));
    }
    let dw0 = done.cqe.dw0.get();
    Err(HostError::Refused {
        what: what.to_owned(),
        status,
        fabrics: false,
        dw0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_random_host_is_another() {
        let (one, id) = random_host();
        let (other, _) = random_host();
        assert_ne!(one, other);
        assert!(one.as_str().starts_with("nqn.2014-08.org.nvmexpress:uuid:"));
        assert_eq!((id[6] >> 4, id[8] >> 6), (4, 2));
        assert_eq!(Nqn::parse(one.as_str()), Ok(one));
    }
}
