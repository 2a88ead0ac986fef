//! Non-blocking TCP: listeners and streams for actors.

use crate::sys;
use blk::{Gather, IoBuf};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Silence after which the kernel asks whether the peer is still there, how often it asks again,
/// and how many answers may be missing: a host that vanished without a word, and whose protocol
/// has no keep-alive on, is found out after two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 6;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    local: SocketAddr,
}

impl Listener {
    /// Listens on an address. An IPv6 address takes IPv6 connections only.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        net::bind(&fd, &address)?;
        net::listen(&fd, BACKLOG)?;
        let local = address_of(net::getsockname(&fd)?)?;
        Ok(Self { fd, local })
    }

    /// The next waiting connection, if there is one.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match net::accept_with(&self.fd, flags) {
            Ok(fd) => Stream::new(fd).map(Some),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            // The peer gave up while it waited.
            Err(rustix::io::Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The address it listens on, with the port that was chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn address_of(any: net::SocketAddrAny) -> io::Result<SocketAddr> {
    SocketAddr::try_from(any).map_err(io::Error::from)
}

/// What a receive brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Recv {
    /// So many bytes in the direct place, and so many in the buffer.
    Bytes {
        /// Bytes at the place that was named.
        direct: usize,
        /// Bytes in the buffer.
        buf: usize,
    },
    /// Nothing is there now.
    WouldBlock,
    /// The peer has sent its last byte.
    Closed,
    /// The connection broke.
    Failed(io::ErrorKind),
}

/// What a send did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// Everything is in the kernel's hands.
    All,
    /// The socket is full; go on when it is writable.
    Blocked,
    /// The connection broke.
    Failed(io::ErrorKind),
}

/// A socket that is being connected. Watch it: it becomes writable when that has ended.
#[derive(Debug)]
pub struct Connecting(Option<OwnedFd>);

impl Connecting {
    /// The connection, once it is made; `None` before.
    ///
    /// # Errors
    /// It was refused, or nobody answers.
    pub fn finish(&mut self) -> io::Result<Option<Stream>> {
        let Some(fd) = &self.0 else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        sockopt::socket_error(fd)??;
        match net::getpeername(fd) {
            Ok(Some(_)) => self.0.take().map(Stream::new).transpose(),
            Ok(None) | Err(rustix::io::Errno::NOTCONN) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Connecting {
    /// # Panics
    /// After it was finished.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("it is not finished").as_fd()
    }
}

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    peer: SocketAddr,
    local: SocketAddr,
}

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        sockopt::set_tcp_nodelay(&fd, true)?;
        sockopt::set_socket_keepalive(&fd, true)?;
        sockopt::set_tcp_keepidle(&fd, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&fd, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&fd, KEEPALIVE_COUNT)?;
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let peer = address_of(net::getpeername(&fd)?.ok_or_else(gone)?)?;
        let local = address_of(net::getsockname(&fd)?)?;
        Ok(Self { fd, peer, local })
    }

    /// Begins to connect to an address, from a given one if `source` is set; its port may be 0.
    ///
    /// # Errors
    /// There is no such source address here, or no way to the destination.
    pub fn connect(to: SocketAddr, source: Option<SocketAddr>) -> io::Result<Connecting> {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = net::socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(source) = source {
            sockopt::set_socket_reuseaddr(&fd, true)?;
            net::bind(&fd, &source)?;
        }
        match net::connect(&fd, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(Connecting(Some(fd))),
            Err(e) => Err(e.into()),
        }
    }

    /// Breaks the connection once data that were sent are not acknowledged for so long.
    ///
    /// # Errors
    /// The system does not know this option.
    pub fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        let ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        Ok(sockopt::set_tcp_user_timeout(&self.fd, ms)?)
    }

    /// Sends no more: the peer learns that what it received was all.
    pub fn close_write(&self) {
        // It fails if the peer was faster.
        let _ = net::shutdown(&self.fd, net::Shutdown::Write);
    }

    /// Takes over a connected socket of the standard library.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Self::new(stream.into())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address the peer connected to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// One receive: into `direct` (buffer, offset, length) first, what follows into `buf`.
    pub fn recv(&mut self, direct: Option<(&mut IoBuf, usize, usize)>, buf: &mut [u8]) -> Recv {
        let wanted = direct.as_ref().map_or(0, |(_, _, len)| *len);
        match sys::recv(self.fd.as_fd(), direct, buf) {
            Ok(0) => Recv::Closed,
            Ok(n) => Recv::Bytes {
                direct: n.min(wanted),
                buf: n - n.min(wanted),
            },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Recv::WouldBlock,
            Err(e) => Recv::Failed(e.kind()),
        }
    }

    /// Sends from the front of `gather` until it is empty or the socket is full.
    pub fn send(&mut self, gather: &mut Gather) -> Sent {
        while !gather.is_empty() {
            match sys::send(self.fd.as_fd(), gather) {
                Ok(n) => gather.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Sent::Blocked,
                Err(e) => return Sent::Failed(e.kind()),
            }
        }
        Sent::All
    }
}

impl Drop for Stream {
    /// The kernel may hold the socket a little longer for a poll; the peer learns of the end now.
    fn drop(&mut self) {
        // It fails if the peer was faster.
        let _ = net::shutdown(&self.fd, net::Shutdown::Both);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
