//! NVMe/TCP: sockets that listen, and the connections that hosts make to them.

mod connection;
mod port;

pub(crate) use port::{Port, close_port, open_port};
