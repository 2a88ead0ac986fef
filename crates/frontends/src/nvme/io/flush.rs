//! Flushing every cache that the writes of a host may be in: at shutdown, and when the host does
//! without volatile caches from now on.

use super::lane::OpenLane;
use crate::nvme::target::Association;
use blk::{Done, Home, Io, Nanos};
use wire::nvme::Status;

/// Volumes flushed at once: enough to keep several disks busy, few enough that a subsystem of
/// thousands of namespaces does not open thousands of lanes for it.
const LANES_MAX: usize = 16;

/// One round of flushes, one for each namespace that has a volatile cache.
pub(crate) struct Flushes {
    /// NSIDs still to come.
    left: Vec<u32>,
    open: Vec<OpenLane>,
    /// The first failure.
    status: Status,
}

impl Flushes {
    /// A round over the namespaces that the host of `association` sees.
    pub(crate) fn new(association: &Association) -> Self {
        let all = association.namespaces();
        let cached = all.iter().filter(|namespace| {
            let volume = namespace.volume.as_ref();
            volume.is_some_and(|volume| volume.geometry().write_cache)
        });
        Self {
            left: cached.map(|namespace| namespace.nsid).collect(),
            open: Vec::new(),
            status: Status::SUCCESS,
        }
    }

    /// Goes on as far as it can; the status of the whole once it is over.
    pub(crate) fn run(
        &mut self,
        now: Nanos,
        association: &Association,
        home: &mut dyn Home,
    ) -> Option<Status> {
        let mut done: Vec<Done> = Vec::new();
        loop {
            self.begin(now, association, home);
            let before = self.open.len();
            self.open.retain_mut(|open| {
                open.lane.poll(now, &mut done);
                let Some(one) = done.pop() else { return true };
                if let Err(error) = one.result {
                    let nsid = open.namespace.nsid;
                    tracing::error!(nsid, %error, "a volume cannot be flushed");
                    self.status = super::status::of(one.op, error);
                }
                false
            });
            if self.open.len() == before {
                return self.open.is_empty().then_some(self.status);
            }
        }
    }

    fn begin(&mut self, now: Nanos, association: &Association, home: &mut dyn Home) {
        while self.open.len() < LANES_MAX
            && let Some(nsid) = self.left.pop()
        {
            match OpenLane::open(association, nsid, home) {
                Ok(mut open) => {
                    open.lane.submit(now, Io::flush(0));
                    self.open.push(open);
                }
                // It was deleted meanwhile.
                Err(status) if status.is(Status::INVALID_NAMESPACE) => {}
                Err(status) => self.status = status,
            }
        }
    }

    /// When to go on although nothing happened.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        let open = self.open.iter();
        open.filter_map(|open| open.lane.deadline()).min()
    }
}
