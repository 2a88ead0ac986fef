//! [`DiscoveryActor`]: the socket and the time limit of an [`Exchange`].

use super::exchange::{Exchange, Page};
use crate::nvme::association::Names;
use crate::nvme::socket::{Place, Received, Socket};
use blk::{Home, Nanos};
use engine::{Actor, Cx, Latch, Lookup, Next};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// What has become of a visit.
#[derive(Default)]
pub(super) struct Outcome {
    result: Mutex<Option<Result<Page, String>>>,
    known: Latch,
}

impl Outcome {
    fn set(&self, result: Result<Page, String>) {
        *self.result.lock().expect("no holder panics") = Some(result);
        self.known.open();
    }

    /// Waits until it is known.
    pub(super) async fn get(&self) -> Result<Page, String> {
        self.known.opened().await;
        let result = self.result.lock().expect("no holder panics").take();
        result.unwrap_or_else(|| Err("the visit has ended".to_owned()))
    }
}

enum State {
    /// Its address is searched for.
    Lookup(Lookup),
    Connecting(Socket),
    Open(Socket, Box<Exchange>),
    Over,
}

/// See the file's head.
pub(super) struct DiscoveryActor {
    place: Place,
    names: Names,
    until: Nanos,
    state: State,
    outcome: Arc<Outcome>,
}

impl DiscoveryActor {
    /// A visit to `place` that gives up at `until`.
    pub(super) fn new(place: Place, names: Names, until: Nanos, outcome: Arc<Outcome>) -> Self {
        Self {
            place,
            names,
            until,
            state: State::Over,
            outcome,
        }
    }

    /// The address to connect to.
    fn address(&self, all: std::io::Result<Vec<SocketAddr>>) -> Result<SocketAddr, String> {
        let Place { host, ipv6, .. } = &self.place;
        let all = all.map_err(|e| format!("{host:?} has no address: {e}"))?;
        let address = all.into_iter().find(|address| address.is_ipv6() == *ipv6);
        let family = if *ipv6 { "IPv6" } else { "IPv4" };
        address.ok_or_else(|| format!("{host:?} has no {family} address"))
    }

    /// Goes on towards an open socket; true if it has come further.
    fn connect(&mut self, now: Nanos, cx: &mut Cx<'_>) -> Result<bool, String> {
        let failed = |e| format!("it cannot be connected: {e}");
        match &mut self.state {
            State::Lookup(lookup) => {
                let Some(found) = lookup.poll() else {
                    return Ok(false);
                };
                let address = self.address(found)?;
                let socket = Socket::open(&self.place, address, 0, cx).map_err(failed)?;
                self.state = State::Connecting(socket);
                Ok(true)
            }
            State::Connecting(socket) => {
                if !socket.connect(self.until.since(now)).map_err(failed)? {
                    return Ok(false);
                }
                let exchange = Box::new(Exchange::new(self.names.clone(), now));
                if let State::Connecting(socket) = std::mem::replace(&mut self.state, State::Over) {
                    self.state = State::Open(socket, exchange);
                }
                Ok(true)
            }
            State::Open(..) | State::Over => Ok(false),
        }
    }

    /// Goes on; true if there may be more to receive.
    fn step(&mut self, now: Nanos, cx: &mut Cx<'_>) -> Result<(Option<Page>, bool), String> {
        while self.connect(now, cx)? {}
        let State::Open(socket, exchange) = &mut self.state else {
            return Ok((None, false));
        };
        let received = socket.receive(Some(exchange.link()), now);
        let worked = exchange.work(now);
        // A controller that broke the protocol is told so.
        let sent = socket.send(exchange.link());
        match (worked, received) {
            (Ok(Some(page)), _) => Ok((Some(page), false)),
            (_, Received::Over(loss)) => Err(loss.why),
            (Err(why), _) => Err(why),
            (Ok(None), received) => {
                sent.map_err(|loss| loss.why)?;
                Ok((None, matches!(received, Received::Part)))
            }
        }
    }

    fn end(&mut self, result: Result<Page, String>, cx: &mut Cx<'_>) -> Next {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Connecting(socket) | State::Open(socket, _) => socket.close(cx),
            State::Lookup(_) | State::Over => {}
        }
        self.outcome.set(result);
        Next::Gone
    }

    /// What did not happen in time.
    fn late(&self) -> String {
        match &self.state {
            State::Lookup(_) => "its address is not found in time".to_owned(),
            State::Connecting(_) => "it does not take the connection in time".to_owned(),
            State::Open(_, exchange) => format!("no answer to {} in time", exchange.waits_for()),
            State::Over => "it has ended".to_owned(),
        }
    }
}

impl Actor for DiscoveryActor {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        match Lookup::start(&self.place.host, self.place.port, cx.waker()) {
            Ok(lookup) => {
                self.state = State::Lookup(lookup);
                self.run(cx)
            }
            Err(error) => self.end(Err(format!("its address cannot be searched: {error}")), cx),
        }
    }

    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        let now = cx.now();
        match self.step(now, cx) {
            Err(why) => return self.end(Err(why), cx),
            Ok((Some(page), _)) => return self.end(Ok(page), cx),
            Ok((None, _)) if now >= self.until => return self.end(Err(self.late()), cx),
            Ok((None, true)) => return Next::Busy,
            Ok((None, false)) => {}
        }
        let pause = match &self.state {
            State::Open(_, exchange) => exchange.deadline(),
            _ => None,
        };
        Next::Idle(Some(pause.map_or(self.until, |at| at.min(self.until))))
    }
}
