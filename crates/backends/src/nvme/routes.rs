//! [`Routes`]: which paths lead to which namespace now. Shared with all rails, never changed:
//! a change is a new one.

use super::association::{Association, Shape, Times};
use blk::Stats;
use std::sync::Arc;
use wire::nvme::log::AnaState;

/// Names a path of one remote controller.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct PathId(pub(super) u32);

/// Names a namespace of one remote controller, for as long as the server runs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Handle(pub(super) u32);

/// How the path of an I/O is chosen among equally good ones.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Policy {
    /// The first that works, until it is lost.
    #[default]
    Failover,
    /// The one with the fewest commands in flight, in turn where they are equal.
    LeastDepth,
    /// One after the other, past those whose queue is full.
    RoundRobin,
}

/// A path that serves.
#[derive(Clone)]
pub(super) struct LivePath {
    pub(super) id: PathId,
    /// The number of its association.
    pub(super) epoch: u64,
    pub(super) association: Arc<Association>,
    /// What the path did.
    pub(super) stats: Arc<Stats>,
}

/// A namespace as a path shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) path: PathId,
    pub(super) nsid: u32,
    pub(super) state: AnaState,
}

/// How to reach a namespace.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) handle: Handle,
    pub(super) shape: Shape,
    /// All paths that showed it last, lost ones too; empty once the array has it no more.
    pub(super) ways: Vec<Way>,
}

/// See the file's head.
#[derive(Clone, Default)]
pub(super) struct Routes {
    pub(super) policy: Policy,
    /// How long things may take.
    pub(super) times: Times,
    /// In the order in which they were made.
    pub(super) paths: Vec<LivePath>,
    /// In order of their handles.
    pub(super) namespaces: Vec<Route>,
    /// No path has served for longer than I/O waits: nothing is to wait any more.
    pub(super) hopeless: bool,
}

impl Routes {
    /// The route to a namespace.
    pub(super) fn to(&self, handle: Handle) -> Option<&Route> {
        let at = self.namespaces.binary_search_by_key(&handle, |r| r.handle);
        at.ok().map(|at| &self.namespaces[at])
    }

    /// A path, while it serves.
    pub(super) fn path(&self, id: PathId) -> Option<&LivePath> {
        self.paths.iter().find(|path| path.id == id)
    }
}
