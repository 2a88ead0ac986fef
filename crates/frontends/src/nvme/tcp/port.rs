//! A listening socket. Subsystems share it: the host says in Connect which one it wants.

use super::connection::Connection;
use crate::nvme::target::Target;
use crate::nvme::users::{Pass, Users};
use api::error::{Error, Result};
use blk::{Home, Nanos};
use engine::{Actor, Cx, Listener, Next};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::Waker;

/// Connections on one port: 1024 hosts with two queues each, and below the usual limit of open
/// files.
const CONNECTIONS_MAX: usize = 4096;
/// Connections accepted in one go, so that a flood of them does not starve the others here.
const ACCEPT_BATCH: usize = 64;
/// How long to wait before accepting goes on after the system ran out of something.
const ACCEPT_PAUSE: Nanos = Nanos::from_millis(100);

/// See the file's head.
pub(crate) struct Port {
    address: SocketAddr,
    number: u16,
    /// The acceptor and all connections.
    pub(crate) users: Arc<Users>,
    /// Listeners that share it.
    listeners: AtomicUsize,
    closing: AtomicBool,
}

impl Port {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// PORTID in the discovery log.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Whether its connections have to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }
}

/// The port of an address, opened unless it is open already. Each call is to be matched by one of
/// [`close_port`].
///
/// # Errors
/// `FAILED_PRECONDITION` if the address cannot be listened at, with the reason.
pub(crate) async fn open_port(target: &Arc<Target>, address: SocketAddr) -> Result<Arc<Port>> {
    loop {
        let gone = {
            let mut directory = target.directory();
            match directory.ports.get(&address) {
                Some(port) if !port.is_closing() => {
                    port.listeners.fetch_add(1, SeqCst);
                    return Ok(port.clone());
                }
                Some(port) => port.users.gone(),
                None => {
                    let socket = Listener::bind(address).map_err(|e| cannot(address, &e))?;
                    let port = start(target, address, socket);
                    directory.ports.insert(address, port.clone());
                    return Ok(port);
                }
            }
        };
        gone.await;
        forget(target, address);
    }
}

fn cannot(address: SocketAddr, error: &std::io::Error) -> Error {
    let why = match error.kind() {
        ErrorKind::AddrInUse => "another program listens there; choose another port or stop it",
        ErrorKind::AddrNotAvailable => "no interface of this machine has the address",
        ErrorKind::PermissionDenied => {
            "ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE)"
        }
        _ => "the system refused",
    };
    Error::precondition(format!("cannot listen at {address}: {why} ({error})"))
        .at("nvme_controller.spec.fabrics_id")
}

fn start(target: &Arc<Target>, address: SocketAddr, socket: Listener) -> Arc<Port> {
    /// Numbers ports over the life of the process.
    static NUMBER: AtomicU16 = AtomicU16::new(1);
    let port = Arc::new(Port {
        address,
        number: NUMBER.fetch_add(1, SeqCst),
        users: Arc::default(),
        listeners: AtomicUsize::new(1),
        closing: AtomicBool::new(false),
    });
    // Holds the port's place until the acceptor has its own waker.
    let pass = port.users.enter(Waker::noop().clone(), [0; 16]);
    let (own, target_) = (port.clone(), Arc::downgrade(target));
    target.least_loaded().spawn(move || {
        let actor = Acceptor {
            socket: Some(socket),
            port: own,
            target: target_,
            pass: Some(pass),
        };
        Box::new(actor)
    });
    tracing::info!(%address, "listening for NVMe/TCP");
    port
}

/// Lets go of a port; the last one to do so waits until socket and connections are closed.
pub(crate) async fn close_port(target: &Arc<Target>, port: &Arc<Port>) {
    {
        let _directory = target.directory();
        if port.listeners.fetch_sub(1, SeqCst) > 1 {
            return;
        }
        port.closing.store(true, SeqCst);
    }
    port.users.wake();
    port.users.gone().await;
    forget(target, port.address);
}

/// Forgets a port that has closed, unless it is open anew.
fn forget(target: &Target, address: SocketAddr) {
    let mut directory = target.directory();
    if directory
        .ports
        .get(&address)
        .is_some_and(|port| port.is_closing())
    {
        directory.ports.remove(&address);
    }
}

struct Acceptor {
    socket: Option<Listener>,
    port: Arc<Port>,
    /// Weak, or target and port would keep each other alive.
    target: Weak<Target>,
    pass: Option<Pass>,
}

impl Acceptor {
    fn gone(&mut self) -> Next {
        // The socket is closed before whoever waits for that is told.
        self.socket = None;
        self.pass = None;
        Next::Gone
    }

    /// Accepts what waits. Tells when to go on.
    fn accept(&self, socket: &Listener, target: &Arc<Target>, now: Nanos) -> Next {
        for _ in 0..ACCEPT_BATCH {
            match socket.accept() {
                Ok(None) => return Next::Idle(None),
                Ok(Some(stream)) if self.port.users.count() > CONNECTIONS_MAX => {
                    // Closing it at once is the only answer there is before ICReq.
                    tracing::warn!(peer = %stream.peer(), "too many connections");
                }
                Ok(Some(stream)) => {
                    let (port, own) = (self.port.clone(), target.clone());
                    target
                        .least_loaded()
                        .spawn(move || Box::new(Connection::new(own, port, stream)));
                }
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                Err(error) => {
                    tracing::warn!(%error, address = %self.port.address, "cannot accept");
                    return Next::Idle(Some(now + ACCEPT_PAUSE));
                }
            }
        }
        Next::Busy
    }
}

impl Actor for Acceptor {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.pass = Some(self.port.users.enter(cx.waker(), [0; 16]));
        if let Some(socket) = &self.socket {
            use std::os::fd::AsFd;
            if let Err(error) = cx.watch(socket.as_fd()) {
                tracing::error!(%error, "cannot watch a listening socket");
            }
        }
        self.run(cx)
    }

    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        let Some(target) = self.target.upgrade() else {
            return self.gone();
        };
        if self.port.is_closing() {
            if let Some(socket) = &self.socket {
                use std::os::fd::AsFd;
                cx.unwatch(socket.as_fd());
            }
            return self.gone();
        }
        // Hosts wait in the backlog until every stored namespace is back.
        if !target.restored.is_open_or_wake(&cx.waker()) {
            return Next::Idle(None);
        }
        match &self.socket {
            Some(socket) => self.accept(socket, &target, cx.now()),
            None => Next::Gone,
        }
    }
}
