//! Connect: which host wants which queue of which subsystem, and may it? (NVMe Base 2.1, 6.3)

use super::controller::{Controller, QUEUE_ENTRIES_MAX};
use super::io::IoQueue;
use super::queue::Inbox;
use super::target::{Association, Limits, Listener, QueueError, Subsystem, Target};
use super::tcp::Port;
use super::users::Pass;
use blk::{IoBuf, Nanos};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use wire::nvme::cmds::Connect;
use wire::nvme::fabrics::{ConnectData, Connected, InvalidParameter};
use wire::nvme::{CNTLID_DYNAMIC, Nqn, Status};

/// A queue that was made, and what keeps it in the lists of those who may have to wake it.
pub(crate) struct Made {
    pub(crate) queue: Queue,
    /// DW0 of the response.
    pub(crate) result: u32,
    pub(crate) passes: Vec<Pass>,
}

/// What a connection is.
pub(crate) enum Queue {
    /// An admin queue, with its controller.
    Admin(Box<Controller>),
    /// An I/O queue.
    Io(Box<IoQueue>),
}

/// Why there is no queue: the status and DW0 of the response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refused {
    pub(crate) status: Status,
    pub(crate) result: u32,
}

impl From<InvalidParameter> for Refused {
    fn from(parameter: InvalidParameter) -> Self {
        Self {
            status: Status::CONNECT_INVALID_PARAMETERS.dnr(),
            result: parameter.dw0(),
        }
    }
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, result: 0 }
    }
}

/// Where a Connect came from.
pub(crate) struct Place<'a> {
    pub(crate) target: &'a Arc<Target>,
    pub(crate) port: &'a Arc<Port>,
    /// The address of ours that the host connected to.
    pub(crate) via: SocketAddr,
    pub(crate) inbox: &'a Arc<Inbox>,
    pub(crate) waker: Waker,
    pub(crate) now: Nanos,
}

/// Who connects to what.
struct Wish {
    data: ConnectData,
    subsystem: Nqn,
    host: Nqn,
}

fn check(connect: &Connect, data: &IoBuf) -> Result<Wish, Refused> {
    if connect.record_format != 0 {
        return Err(Status::INCOMPATIBLE_FORMAT.dnr().into());
    }
    if data.len() != ConnectData::SIZE {
        return Err(Status::SGL_LENGTH_INVALID.dnr().into());
    }
    // A queue of one entry is always empty or full, which is the same (NVMe Base 2.1, 3.3.1.1).
    if !(2..=QUEUE_ENTRIES_MAX).contains(&connect.queue_entries) {
        return Err(InvalidParameter::QUEUE_SIZE.into());
    }
    let short = |_| Status::SGL_LENGTH_INVALID.dnr();
    let data = ConnectData::from_prefix(&data.to_vec()).map_err(short)?;
    let subsystem = data.subsystem().map_err(|_| InvalidParameter::SUBSYSTEM)?;
    let host = data.host().map_err(|_| InvalidParameter::HOST)?;
    Ok(Wish {
        data,
        subsystem,
        host,
    })
}

/// Makes the queue that a Connect asks for.
pub(crate) fn connect(place: &Place<'_>, connect: &Connect, data: &IoBuf) -> Result<Made, Refused> {
    let wish = check(connect, data)?;
    if wish.subsystem.is_discovery() {
        return discovery(place, connect, &wish);
    }
    let subsystem = place.target.subsystem_of(&wish.subsystem);
    let subsystem = subsystem.ok_or(InvalidParameter::SUBSYSTEM)?;
    let listener = {
        let ways = subsystem.ways();
        let here = |listener: &&Arc<Listener>| Arc::ptr_eq(&listener.port, place.port);
        ways.listeners.values().find(here).cloned()
    };
    let listener = listener
        .filter(|one| !one.is_closing())
        .ok_or(InvalidParameter::SUBSYSTEM)?;
    if connect.qid == 0 {
        admin(place, connect, wish, &subsystem, &listener)
    } else {
        io(place, connect, &wish, &subsystem, &listener)
    }
}

fn admin(
    place: &Place<'_>,
    connect: &Connect,
    wish: Wish,
    subsystem: &Arc<Subsystem>,
    listener: &Arc<Listener>,
) -> Result<Made, Refused> {
    // Controllers are made for each association (the dynamic model); none waits to be named.
    if wish.data.cntlid.get() != CNTLID_DYNAMIC {
        return Err(InvalidParameter::CONTROLLER_ID.into());
    }
    let host = wish.host.clone();
    let made = subsystem.associate(listener, wish.data.hostid, wish.host);
    let association = made.map_err(|status| {
        tracing::info!(subsystem = %wish.subsystem, %host, ?status, "no controller for a host");
        let named = status.is(Status::CONNECT_INVALID_HOST);
        let result = if named {
            InvalidParameter::HOST.dw0()
        } else {
            0
        };
        Refused { status, result }
    })?;
    tracing::info!(
        subsystem = %wish.subsystem, host = %association.hostnqn, cntlid = association.cntlid,
        listener = listener.name, "host connected"
    );
    Ok(with_controller(place, connect, &association))
}

fn discovery(place: &Place<'_>, connect: &Connect, wish: &Wish) -> Result<Made, Refused> {
    if connect.qid != 0 {
        return Err(InvalidParameter::QUEUE_ID.into());
    }
    if wish.data.cntlid.get() != CNTLID_DYNAMIC {
        return Err(InvalidParameter::CONTROLLER_ID.into());
    }
    let cntlid = place.target.discovery.next_cntlid();
    let limits = Limits {
        queues: 0,
        namespaces: 0,
    };
    let (id, host) = (wish.data.hostid, wish.host.clone());
    let association = Association::new(cntlid, id, host, None, limits);
    let mut made = with_controller(place, connect, &association);
    made.passes
        .push(place.target.discovery.users.enter(place.waker.clone(), id));
    Ok(made)
}

fn with_controller(place: &Place<'_>, connect: &Connect, association: &Arc<Association>) -> Made {
    let passes = passes(place, association);
    let (target, inbox) = (place.target.clone(), place.inbox.clone());
    let controller = Controller::new(
        target,
        association.clone(),
        inbox,
        place.via,
        connect.kato_ms,
        place.now,
    );
    let connected = Connected {
        cntlid: association.cntlid,
        authentication: false,
    };
    Made {
        queue: Queue::Admin(Box::new(controller)),
        result: connected.dw0(),
        passes,
    }
}

fn io(
    place: &Place<'_>,
    connect: &Connect,
    wish: &Wish,
    subsystem: &Arc<Subsystem>,
    listener: &Arc<Listener>,
) -> Result<Made, Refused> {
    let cntlid = wish.data.cntlid.get();
    let association = subsystem.ways().associations.get(&cntlid).cloned();
    let association = association.filter(|one| !one.is_closing());
    let association = association.ok_or(InvalidParameter::CONTROLLER_ID)?;
    let same_way = association
        .way
        .as_ref()
        .is_some_and(|(_, other)| Arc::ptr_eq(other, listener));
    if !same_way || association.hostnqn != wish.host {
        return Err(InvalidParameter::CONTROLLER_ID.into());
    }
    if association.host != wish.data.hostid {
        return Err(InvalidParameter::HOST_ID.into());
    }
    let ticket = association
        .open_queue(connect.qid)
        .map_err(|error| match error {
            QueueError::TooMany => Refused::from(InvalidParameter::QUEUE_ID),
            QueueError::Taken | QueueError::Disabled => {
                Refused::from(Status::COMMAND_SEQUENCE.dnr())
            }
        })?;
    let passes = passes(place, &association);
    let queue = IoQueue::new(ticket, place.inbox.clone());
    let connected = Connected {
        cntlid,
        authentication: false,
    };
    Ok(Made {
        queue: Queue::Io(Box::new(queue)),
        result: connected.dw0(),
        passes,
    })
}

/// Enters the connection where it may have to be found.
fn passes(place: &Place<'_>, association: &Arc<Association>) -> Vec<Pass> {
    let mut passes = vec![
        association
            .users
            .enter(place.waker.clone(), association.host),
    ];
    if let Some((_, listener)) = &association.way {
        passes.push(listener.users.enter(place.waker.clone(), association.host));
    }
    passes
}
