//! One queue's way into one namespace.

use crate::nvme::reservation::Access;
use crate::nvme::target::{Association, Namespace};
use crate::nvme::users::{HostId, Pass};
use blk::{Counters, Geometry, Home, Lane};
use std::sync::Arc;
use std::task::Waker;
use wire::nvme::Status;

/// A lane, and copies of what every command has to look at.
pub(super) struct OpenLane {
    pub(super) namespace: Arc<Namespace>,
    pub(super) lane: Box<dyn Lane>,
    pub(super) geometry: Geometry,
    /// What commands are answered instead of being executed: the ANA state forbids them.
    pub(super) refusal: Option<Status>,
    pub(super) counters: Arc<Counters>,
    /// I/Os inside the lane.
    pub(super) in_flight: u32,
    /// Commands inside the namespace's gate.
    pub(super) writers: u32,
    /// A fence waits until nothing is in flight here: new commands wait too.
    pub(super) fenced: bool,
    access: Access,
    access_version: u64,
    pass: Pass,
}

impl OpenLane {
    /// Opens a lane for the host of `association`.
    ///
    /// # Errors
    /// The status for a namespace that cannot be used now.
    pub(super) fn open(
        association: &Association,
        nsid: u32,
        home: &mut dyn Home,
    ) -> Result<Self, Status> {
        let namespace = association.namespace(nsid);
        let namespace = namespace.ok_or(Status::INVALID_NAMESPACE.dnr())?;
        let pass = enter(&namespace, home.waker(), association.host)?;
        let volume = namespace.volume.clone().ok_or(Status::ANA_INACCESSIBLE)?;
        let counters = namespace.stats.open();
        if let Some((subsystem, listener)) = &association.way {
            subsystem.stats.adopt(counters.clone());
            listener.stats.adopt(counters.clone());
        }
        let (geometry, access_version) = (volume.geometry(), namespace.desk.version());
        Ok(Self {
            access: allowed(&namespace, &association.host),
            access_version,
            geometry,
            refusal: association.ana(&namespace).refusal(),
            lane: volume.open_lane(home),
            namespace,
            counters,
            in_flight: 0,
            writers: 0,
            fenced: false,
            pass,
        })
    }

    /// Takes over what has changed. False if the namespace is going.
    pub(super) fn refresh(&mut self, association: &Association) -> bool {
        if let Some(geometry) = self.namespace.geometry() {
            self.geometry = geometry;
        }
        self.refusal = association.ana(&self.namespace).refusal();
        !self.namespace.is_closing()
    }

    /// What the host may do with the namespace now.
    #[inline]
    pub(super) fn access(&mut self, association: &Association) -> Access {
        let version = self.namespace.desk.version();
        if version != self.access_version {
            self.access = allowed(&self.namespace, &association.host);
            self.access_version = version;
        }
        self.access
    }

    /// Looks whether a fence waits for this lane, and lets it pass if nothing is in flight.
    pub(super) fn look_for_fence(&mut self) {
        self.fenced = self.pass.is_fenced();
        self.pass_fence();
    }

    /// Lets a fence pass if nothing is in flight any more.
    pub(super) fn pass_fence(&mut self) {
        if self.fenced && self.in_flight == 0 {
            self.pass.passed();
            self.fenced = false;
        }
    }

    /// A command that was let in through the gate has ended.
    #[inline]
    pub(super) fn leave_gate(&mut self) {
        self.writers -= 1;
        self.namespace.gate.leave();
    }
}

/// What a host may do with a namespace.
fn allowed(namespace: &Namespace, host: &HostId) -> Access {
    match namespace.has_reservations() {
        true => namespace.desk.access(host),
        false => Access::FULL,
    }
}

/// Becomes a user of a namespace.
fn enter(namespace: &Namespace, waker: Waker, host: HostId) -> Result<Pass, Status> {
    let pass = namespace.users.enter(waker, host);
    if namespace.is_closing() {
        // Another with another volume may be about to take its place: the host shall ask again,
        // and learns by that if it is deleted.
        return Err(Status::NAMESPACE_NOT_READY);
    }
    Ok(pass)
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        self.counters.close();
        for _ in 0..self.writers {
            self.namespace.gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::reservation::Desk;
    use engine::{Keep, KeepDone};
    use std::sync::Weak;
    use std::sync::atomic::AtomicBool;

    struct Nothing;

    impl Keep for Nothing {
        fn get(&self, _: &str) -> Option<Vec<u8>> {
            None
        }
        fn put(&self, _: &str, _: Option<Vec<u8>>, done: KeepDone) {
            done(Ok(()));
        }
    }

    #[test]
    fn a_namespace_whose_volume_is_being_replaced_is_to_be_asked_again() {
        let namespace = Namespace {
            nsid: 1,
            name: String::new(),
            volume: None,
            gate: Arc::default(),
            identity: blk::Identity::default(),
            stats: Arc::default(),
            desk: Desk::open(Arc::new(Nothing), String::new()),
            users: Arc::default(),
            before: Vec::new(),
            remembered: None,
            subsystem: Weak::new(),
            closing: AtomicBool::new(false),
        };
        let enter = || enter(&namespace, Waker::noop().clone(), [1; 16]);
        let pass = enter().expect("it is there");
        namespace.close();
        let Err(status) = enter() else {
            panic!("it is going")
        };
        assert!(status.is(Status::NAMESPACE_NOT_READY) && !status.is_dnr());
        drop(pass);
        assert_eq!(namespace.users.count(), 0, "who was refused is no user");
    }
}
