//! [`Path`]: one way to an array over time: connected, lost, tried again.

use super::association::{Loss, Times};
use super::link::Link;
use super::session::{News, Session, Wish};
use blk::Nanos;

/// How a path is doing, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Condition {
    /// It is being connected for the first time.
    New,
    /// It serves.
    Live,
    /// It does not, for the reason given, and is tried again.
    Lost(String),
}

#[derive(Debug)]
enum State {
    /// Nothing is done until the time given.
    Waiting(Nanos),
    /// The owner opens a socket, at most until the time given.
    Opening(Nanos),
    /// A socket is open.
    Open(Box<Session>),
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Path {
    wish: Wish,
    state: State,
    /// Counts associations; what belongs to an old one is told apart by it.
    epoch: u64,
    /// The owner has not been asked yet to open a socket.
    must_open: bool,
    condition: Condition,
    /// Attempts since the path last served for a while.
    attempts: u32,
    /// Since when it serves.
    live_since: Nanos,
    /// State of the generator that spreads reconnections.
    random: u64,
    reconnects: u64,
}

impl Path {
    /// A path that connects at once. `seed` spreads its reconnections.
    pub(super) fn new(wish: Wish, seed: u64, now: Nanos) -> Self {
        Self {
            wish,
            state: State::Waiting(now),
            epoch: 0,
            must_open: false,
            condition: Condition::New,
            attempts: 0,
            live_since: now,
            random: seed | 1,
            reconnects: 0,
        }
    }

    /// How it is doing.
    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// The number of the present association, or of the last.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Associations made after the first.
    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// Whether the owner is to open a socket to the array now; it is asked once.
    pub(super) fn wants_open(&mut self) -> bool {
        std::mem::take(&mut self.must_open)
    }

    /// The socket that was asked for is open.
    pub(super) fn opened(&mut self, now: Nanos) {
        if matches!(self.state, State::Opening(_)) {
            self.state = State::Open(Box::new(Session::new(self.wish.clone(), now)));
        }
    }

    /// The socket cannot be opened.
    pub(super) fn open_failed(&mut self, why: String, now: Nanos) {
        if matches!(self.state, State::Opening(_)) {
            self.wait(why, now);
        }
    }

    /// The connection, while the owner is to keep a socket for it.
    pub(super) fn link(&mut self) -> Option<&mut Link> {
        match &mut self.state {
            State::Open(session) => Some(session.link()),
            State::Waiting(_) | State::Opening(_) => None,
        }
    }

    /// The socket is gone.
    pub(super) fn closed(&mut self, loss: Loss) {
        if let State::Open(session) = &mut self.state {
            session.closed(loss);
        }
    }

    /// An I/O was told by the array that access has changed.
    pub(super) fn check_ana(&mut self) {
        if let State::Open(session) = &mut self.state {
            session.check_ana();
        }
    }

    /// An I/O queue of association `epoch` is lost, and with it the association.
    pub(super) fn lost(&mut self, epoch: u64, loss: Loss) {
        if epoch == self.epoch {
            self.closed(loss);
        }
    }

    /// How long things may take.
    pub(super) fn times(&self) -> &Times {
        &self.wish.times
    }

    /// Takes other times: those that an association is made with count from the next one on.
    pub(super) fn set_times(&mut self, times: Times, now: Nanos) {
        self.wish.times = times;
        if let State::Waiting(until) = &mut self.state {
            *until = (*until).min(now + times.reconnect_max);
        }
    }

    /// Asks for something else from the next association on.
    pub(super) fn set_wish(&mut self, wish: Wish) {
        self.wish = wish;
    }

    /// Gives up the association, if there is one, and connects anew at once.
    pub(super) fn reset(&mut self, now: Nanos) {
        self.attempts = 0;
        match &mut self.state {
            State::Open(session) => session.closed(Loss::new("it was reset")),
            State::Waiting(until) => *until = now,
            State::Opening(_) => {}
        }
    }

    /// Shuts the controller down, if there is one. [`Path::link`] is none once that has ended.
    pub(super) fn stop(&mut self, now: Nanos) {
        if let State::Open(session) = &mut self.state {
            session.shut_down(now);
        }
    }

    /// Acts on what arrived and on the time; returns what the owner must know. After
    /// [`News::Lost`], [`Path::link`] is none until a socket was asked for and opened.
    pub(super) fn work(&mut self, now: Nanos) -> Vec<News> {
        match &mut self.state {
            State::Waiting(until) if *until <= now => {
                self.state = State::Opening(now + self.wish.times.admin);
                self.must_open = true;
                Vec::new()
            }
            State::Opening(until) if *until <= now => {
                self.wait(
                    "the array does not take the connection in time".to_owned(),
                    now,
                );
                Vec::new()
            }
            State::Waiting(_) | State::Opening(_) => Vec::new(),
            State::Open(session) => {
                let news = session.work(now);
                for one in &news {
                    match one {
                        News::Ready(_) => self.ready(now),
                        News::Lost(loss) => self.wait(loss.why.clone(), now),
                        News::Namespaces(_) | News::Ana(_) => {}
                    }
                }
                news
            }
        }
    }

    fn ready(&mut self, now: Nanos) {
        self.epoch += 1;
        if self.epoch > 1 {
            self.reconnects += 1;
        }
        self.live_since = now;
        self.condition = Condition::Live;
    }

    /// When [`Path::work`] has something to do although nothing arrived.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        match &self.state {
            // The owner has not looked yet.
            State::Opening(_) if self.must_open => Some(Nanos(0)),
            State::Waiting(until) | State::Opening(until) => Some(*until),
            State::Open(session) => session.deadline(),
        }
    }

    /// Pauses before the next attempt: longer each time, and by chance a little shorter, so that
    /// many hosts do not return to an array at the same moment.
    fn wait(&mut self, why: String, now: Nanos) {
        let times = &self.wish.times;
        // An array that lets us in and throws us out again is not tried without a pause.
        if self.condition == Condition::Live && now.since(self.live_since) > times.reconnect_max {
            self.attempts = 0;
        }
        let doubled = times
            .reconnect_min
            .0
            .saturating_mul(1 << self.attempts.min(32));
        // The first attempt after a path was lost is made at once.
        let pause = match self.attempts {
            0 => 0,
            _ => doubled.min(times.reconnect_max.0),
        };
        self.attempts = self.attempts.saturating_add(1);
        let chance = self.next_random() % 1024;
        let pause = pause - pause / 4 * chance / 1024;
        self.condition = Condition::Lost(why);
        self.state = State::Waiting(now + Nanos(pause));
    }

    /// Xorshift: good enough to spread things.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
