//! A wire that can be cut: a TCP proxy inside a private network.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::net::Net;

/// How often a connection without traffic looks whether the wire has changed.
const LOOK: Duration = Duration::from_millis(5);

const WHOLE: u8 = 0;
const SILENT: u8 = 1;
const RESET: u8 = 2;
const OVER: u8 = 3;

/// Forwards connections to one address, until the wire is cut. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wires: Arc<Mutex<Vec<Arc<AtomicU8>>>>,
    /// What becomes of connections that come now.
    mode: Arc<AtomicU8>,
}

impl Proxy {
    /// Listens at `at` and forwards to `to`, both inside `net`.
    ///
    /// # Panics
    /// The address is taken.
    #[must_use]
    pub fn start(net: &Net, at: SocketAddr, to: SocketAddr) -> Self {
        let wires = Arc::<Mutex<Vec<_>>>::default();
        let mode = Arc::new(AtomicU8::new(WHOLE));
        let (all, of_new) = (wires.clone(), mode.clone());
        // Its threads are inside because the one is that starts them.
        net.inside(move || {
            let listener = TcpListener::bind(at).expect("the address is free");
            thread::spawn(move || serve(&listener, to, &all, &of_new));
        });
        Self {
            address: at,
            wires,
            mode,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through any more, and nobody is told.
    pub fn silence(&self) {
        self.mode.store(SILENT, Ordering::SeqCst);
        self.set_all(SILENT);
    }

    /// Every connection is reset at both ends; new ones are served.
    pub fn reset(&self) {
        self.set_all(RESET);
    }

    /// New connections are served again; those that were cut stay so.
    pub fn restore(&self) {
        self.mode.store(WHOLE, Ordering::SeqCst);
    }

    fn set_all(&self, mode: u8) {
        let wires = self.wires.lock().expect("no holder panics");
        wires
            .iter()
            .for_each(|wire| wire.store(mode, Ordering::SeqCst));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.store(OVER, Ordering::SeqCst);
        self.set_all(RESET);
    }
}

fn serve(
    listener: &TcpListener,
    to: SocketAddr,
    wires: &Mutex<Vec<Arc<AtomicU8>>>,
    mode: &AtomicU8,
) {
    listener
        .set_nonblocking(true)
        .expect("a listener can be nonblocking");
    loop {
        let accepted = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if mode.load(Ordering::SeqCst) == OVER => return,
            Err(_) => {
                thread::sleep(LOOK);
                continue;
            }
        };
        let Ok(onward) = TcpStream::connect(to) else {
            continue;
        };
        let wire = Arc::new(AtomicU8::new(mode.load(Ordering::SeqCst)));
        wires.lock().expect("no holder panics").push(wire.clone());
        // One descriptor each, so that dropping the last handle closes, and with no linger resets.
        let ends = [accepted, onward].map(|stream| {
            prepare(&stream).expect("a connected socket takes options");
            Arc::new(stream)
        });
        let [here, there] = ends;
        for (from, to) in [(here.clone(), there.clone()), (there, here)] {
            let wire = wire.clone();
            thread::spawn(move || {
                forward(&from, &to, &wire);
                // Without one direction the other is of no use.
                wire.store(RESET, Ordering::SeqCst);
            });
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    Ok(set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn forward(mut from: &TcpStream, mut to: &TcpStream, wire: &AtomicU8) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = from.read(&mut buffer);
        match (wire.load(Ordering::SeqCst), read) {
            (RESET, _) => return,
            // Nor does it get through that somebody has closed.
            (SILENT, Ok(0)) => thread::sleep(LOOK),
            (_, Ok(0)) => return,
            // What arrives is lost.
            (SILENT, Ok(_)) => {}
            (_, Ok(len)) => {
                if to.write_all(&buffer[..len]).is_err() {
                    return;
                }
            }
            (_, Err(e))
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            (_, Err(_)) => return,
        }
    }
}
