//! The world: threads, reactors, timers, rings and sockets. The only crate below the programs that
//! reads clocks or starts threads.

mod actor;
mod errand;
mod lookup;
mod net;
mod reactor;
mod sys;
mod timers;
mod world;

pub use actor::{Actor, ActorId, Cx, Next};
pub use errand::Errand;
pub use lookup::Lookup;
pub use net::{Connecting, Listener, Recv, Sent, Stream};
pub use reactor::{Backend, Options, Reactor, Reactors, current, now};
pub use world::{Keep, KeepDone, Latch, World};
