//! The actor around a [`Path`]: orders, the search for the array's address, and the socket.

use super::association::Loss;
use super::path::{Condition, Path};
use super::remote::{Order, Remote, SharedPath};
use super::routes::PathId;
use super::session::{News, Wish};
use super::socket::{Received, Socket};
use blk::{Home, Nanos};
use engine::{Actor, Cx, Lookup, Next};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// See the file's head.
pub(super) struct PathActor {
    remote: Arc<Remote>,
    id: PathId,
    shared: Arc<SharedPath>,
    path: Path,
    lookup: Option<Lookup>,
    socket: Option<Socket>,
    stopping: bool,
}

impl PathActor {
    pub(super) fn new(
        remote: Arc<Remote>,
        id: PathId,
        shared: Arc<SharedPath>,
        wish: Wish,
    ) -> Self {
        // Every RandomState has keys of its own from the system's random source.
        let seed = RandomState::new().hash_one(id);
        Self {
            remote,
            id,
            shared,
            path: Path::new(wish, seed, engine::now()),
            lookup: None,
            socket: None,
            stopping: false,
        }
    }

    fn orders(&mut self, now: Nanos) {
        for order in self.shared.mail.take() {
            match order {
                Order::Lost(epoch, loss) => self.path.lost(epoch, loss),
                Order::Tune(times) => self.path.set_times(times, now),
                Order::CheckAna => self.path.check_ana(),
                Order::Reset(wish) => {
                    if let Some(wish) = wish {
                        self.path.set_wish(wish);
                    }
                    self.path.reset(now);
                }
                Order::Stop if self.stopping => {}
                Order::Stop => {
                    self.stopping = true;
                    // No new I/O comes while the controller shuts down.
                    self.remote.forget_path(self.id);
                    self.path.stop(now);
                }
            }
        }
    }

    /// Goes on towards an open socket.
    fn connect(&mut self, now: Nanos, cx: &mut Cx<'_>) {
        if self.path.wants_open() {
            let place = &self.shared.place;
            match Lookup::start(&place.host, place.port, cx.waker()) {
                Ok(lookup) => self.lookup = Some(lookup),
                Err(error) => self.path.open_failed(error.to_string(), now),
            }
        }
        if let Some(found) = self.lookup.as_mut().and_then(Lookup::poll) {
            self.lookup = None;
            if let Err(why) = self.found(found, cx) {
                self.path.open_failed(why, now);
            }
        }
        let connected = self
            .socket
            .as_mut()
            .map(|socket| socket.connect(self.path.times().keep_alive));
        match connected {
            Some(Ok(true)) => self.path.opened(now),
            Some(Err(error)) => {
                self.close(cx);
                self.path
                    .open_failed(format!("it cannot be connected: {error}"), now);
            }
            Some(Ok(false)) | None => {}
        }
    }

    fn found(
        &mut self,
        found: std::io::Result<Vec<SocketAddr>>,
        cx: &mut Cx<'_>,
    ) -> Result<(), String> {
        let place = &self.shared.place;
        let all = found.map_err(|e| format!("{:?} has no address: {e}", place.host))?;
        let address = all
            .into_iter()
            .find(|address| address.is_ipv6() == place.ipv6);
        let family = if place.ipv6 { "IPv6" } else { "IPv4" };
        let address = address.ok_or_else(|| format!("{:?} has no {family} address", place.host))?;
        *self.shared.address.lock().expect("no holder panics") = Some(address);
        let socket = Socket::open(place, address, 0, cx);
        self.socket = Some(socket.map_err(|e| format!("it cannot be connected: {e}"))?);
        Ok(())
    }

    fn close(&mut self, cx: &mut Cx<'_>) {
        if let Some(socket) = self.socket.take() {
            socket.close(cx);
        }
    }

    /// True if there may be more to receive.
    fn receive(&mut self, now: Nanos) -> bool {
        let Some(socket) = &mut self.socket else {
            return false;
        };
        let Some(link) = self.path.link() else {
            return false;
        };
        match socket.receive(Some(link), now) {
            Received::All => false,
            Received::Part => true,
            Received::Over(loss) => {
                self.path.closed(loss);
                false
            }
        }
    }

    fn work(&mut self, now: Nanos, cx: &mut Cx<'_>) {
        for news in self.path.work(now) {
            let (id, epoch) = (self.id, self.path.epoch());
            match news {
                News::Ready(made) => {
                    let array = &self.shared.place.host;
                    tracing::info!(array, cntlid = made.cntlid, "path up");
                    self.shared
                        .reconnects
                        .store(self.path.reconnects(), Ordering::Relaxed);
                    self.remote
                        .change(|table| table.ready(id, epoch, made, now));
                    self.remote.forget_unused();
                    self.shared.tried.open();
                }
                News::Namespaces(found) => {
                    self.remote.change(|table| table.found(id, found, now));
                    self.remote.forget_unused();
                }
                News::Ana(groups) => self.remote.change(|table| table.ana(id, groups, now)),
                News::Lost(Loss { why, .. }) => {
                    let array = &self.shared.place.host;
                    match self.stopping {
                        true => tracing::info!(array, why, "path removed"),
                        false => tracing::warn!(array, why, "path lost"),
                    }
                    self.close(cx);
                    self.remote.change(|table| table.lost(id, why, now));
                }
            }
        }
        // An attempt that failed before there was an association.
        if self.path.link().is_none()
            && let Condition::Lost(why) = self.path.condition()
        {
            let (id, why) = (self.id, why.clone());
            let old = self.remote.condition(id);
            if old != Some(Condition::Lost(why.clone())) {
                self.remote.change(|table| table.lost(id, why, now));
            }
            self.shared.tried.open();
        }
    }

    fn send(&mut self) {
        let Some(link) = self.path.link() else {
            return;
        };
        if let Some(socket) = &mut self.socket
            && let Err(loss) = socket.send(link)
        {
            self.path.closed(loss);
        }
    }

    /// Whether it was to stop and has; then all is closed.
    fn has_ended(&mut self, cx: &mut Cx<'_>) -> bool {
        let ended = self.stopping && self.path.link().is_none();
        if ended {
            self.close(cx);
            self.shared.tried.open();
            self.shared.ended.open();
        }
        ended
    }

    fn deadline(&self) -> Option<Nanos> {
        let table = self.remote.deadline();
        [self.path.deadline(), table].into_iter().flatten().min()
    }
}

impl Actor for PathActor {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.shared.mail.begin(cx.waker());
        self.run(cx)
    }

    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        let now = cx.now();
        self.orders(now);
        // Before anything is connected again.
        if self.has_ended(cx) {
            return Next::Gone;
        }
        if self.remote.deadline().is_some_and(|at| at <= now) {
            self.remote.change(|table| table.expire(now));
        }
        self.connect(now, cx);
        let more = self.receive(now);
        self.work(now, cx);
        self.connect(now, cx);
        self.send();
        self.work(now, cx);
        if self.has_ended(cx) {
            return Next::Gone;
        }
        match more {
            true => Next::Busy,
            false => Next::Idle(self.deadline()),
        }
    }
}
