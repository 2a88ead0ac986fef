//! Which connection a command goes to.

use super::conn::State;
use super::{Handle, PathId, Rail};
use crate::nvme::association::rank;
use crate::nvme::routes::{Policy, Way};
use blk::Nanos;

/// How long a way is left alone that the array refused: its ANA states are read again meanwhile,
/// but an array need not have news, and its log page need not say what its answers do.
const REFUSED_FOR: Nanos = Nanos::from_secs(1);

/// Ways that the array refused, until the routes change or some time has passed.
#[derive(Default)]
pub(super) struct Refused(Vec<(PathId, Handle, Nanos)>);

impl Refused {
    pub(super) fn add(&mut self, path: PathId, handle: Handle, now: Nanos) {
        if !self.holds(path, handle) {
            self.0.push((path, handle, now + REFUSED_FOR));
        }
    }

    pub(super) fn holds(&self, path: PathId, handle: Handle) -> bool {
        let is_it = |(p, h, _): &(PathId, Handle, Nanos)| (*p, *h) == (path, handle);
        self.0.iter().any(is_it)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn expire(&mut self, now: Nanos) {
        self.0.retain(|(.., until)| *until > now);
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.0.iter().map(|(.., until)| *until).min()
    }
}

impl Rail {
    /// Whether some path could take I/O for a namespace, if not now then when its queue has room.
    pub(super) fn is_reachable(&self, handle: Handle) -> bool {
        let ways = self.routes.to(handle).map_or(&[][..], |route| &route.ways);
        let serves = |way: &Way| {
            let mut conns = self.conns.iter();
            let ready = conns.any(|c| c.id.path == way.path && matches!(c.state, State::Ready));
            ready && rank(way.state).is_some() && !self.refused.holds(way.path, handle)
        };
        ways.iter().any(serves)
    }

    /// The best connection for a namespace that has room.
    pub(super) fn choose(&self, handle: Handle, ways: &[Way]) -> Option<(usize, Way)> {
        let mut best: Option<(u8, usize, usize, Way)> = None;
        let (turn, count) = (self.turn, self.conns.len());
        for step in 0..count {
            let at = match self.routes.policy {
                Policy::Failover => step,
                Policy::LeastDepth | Policy::RoundRobin => (turn + step) % count,
            };
            let conn = &self.conns[at];
            let Some(way) = ways.iter().find(|way| way.path == conn.id.path) else {
                continue;
            };
            let Some(rank) = rank(way.state) else {
                continue;
            };
            if !matches!(conn.state, State::Ready) || self.refused.holds(way.path, handle) {
                continue;
            }
            let depth = match self.routes.policy {
                Policy::LeastDepth => conn.in_flight,
                Policy::RoundRobin => usize::from(!conn.has_room()),
                // The path that is used keeps being used, even while its queue is full.
                Policy::Failover => 0,
            };
            if best.is_none_or(|(r, d, ..)| (rank, depth) < (r, d)) {
                best = Some((rank, depth, at, *way));
            }
        }
        let (_, _, at, way) = best?;
        self.conns[at].has_room().then_some((at, way))
    }

    /// Whether every path that should serve a namespace has refused to.
    pub(super) fn is_refused_everywhere(&self, handle: Handle) -> bool {
        let Some(route) = self.routes.to(handle) else {
            return false;
        };
        let mut good = route.ways.iter().filter(|way| rank(way.state).is_some());
        good.all(|way| self.refused.holds(way.path, handle))
    }
}
