//! When actors are to run next. Each actor has one place, however often it changes its mind.

use blk::Nanos;
use std::collections::BTreeSet;

/// The deadlines of the actors of one reactor.
#[derive(Default)]
pub(crate) struct Timers {
    order: BTreeSet<(Nanos, u32)>,
    actors: Vec<Times>,
}

#[derive(Clone, Copy, Default)]
struct Times {
    wanted: Option<Nanos>,
    /// Where the actor stands in the order: no later than wanted. Most deadlines are only ever put
    /// off, and need not move before the old one has come.
    placed: Option<Nanos>,
}

impl Timers {
    /// Sets or ends the deadline of an actor.
    pub(crate) fn set(&mut self, id: u32, wanted: Option<Nanos>) {
        let index = id as usize;
        if self.actors.len() <= index {
            self.actors.resize(index + 1, Times::default());
        }
        self.actors[index].wanted = wanted;
        if let Some(at) = wanted
            && self.actors[index].placed.is_none_or(|placed| at < placed)
        {
            self.place(id, Some(at));
        }
    }

    /// Forgets an actor.
    pub(crate) fn forget(&mut self, id: u32) {
        if let Some(times) = self.actors.get_mut(id as usize) {
            times.wanted = None;
            self.place(id, None);
        }
    }

    fn place(&mut self, id: u32, at: Option<Nanos>) {
        let placed = &mut self.actors[id as usize].placed;
        if let Some(old) = placed.take() {
            self.order.remove(&(old, id));
        }
        *placed = at;
        self.order.extend(at.map(|at| (at, id)));
    }

    /// When to look again; no later than the earliest deadline.
    pub(crate) fn first(&self) -> Option<Nanos> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Ends a deadline that has come, and tells whose it was.
    pub(crate) fn expire(&mut self, now: Nanos) -> Option<u32> {
        while let Some(&(at, id)) = self.order.first()
            && at <= now
        {
            let wanted = self.actors[id as usize].wanted;
            // Put off or ended since it was placed.
            self.place(id, wanted.filter(|&wanted| wanted > now));
            if wanted.is_some_and(|wanted| wanted <= now) {
                self.actors[id as usize].wanted = None;
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(timers: &mut Timers, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| timers.expire(Nanos(now))).collect()
    }

    #[test]
    fn an_actor_has_one_place_however_often_its_deadline_changes() {
        let mut timers = Timers::default();
        for round in 0..10_000 {
            for id in 0..3 {
                // Sooner and later by turns, with an end now and then.
                let far = if round % 2 == 0 { 1_000_000 } else { 10 };
                timers.set(id, (round % 7 != 0).then_some(Nanos(round + far)));
            }
            expired(&mut timers, round);
        }
        assert!(timers.order.len() <= 3, "{} places", timers.order.len());
    }

    #[test]
    fn the_last_word_counts() {
        let mut timers = Timers::default();
        timers.set(0, Some(Nanos(10)));
        timers.set(1, Some(Nanos(20)));
        timers.set(2, Some(Nanos(5)));
        timers.set(0, Some(Nanos(30)));
        timers.set(1, Some(Nanos(15)));
        timers.set(2, None);
        assert_eq!(timers.first(), Some(Nanos(5)));
        assert_eq!(expired(&mut timers, 14), []);
        assert_eq!(expired(&mut timers, 15), [1]);
        assert_eq!(timers.first(), Some(Nanos(30)));
        assert_eq!(expired(&mut timers, 29), []);
        assert_eq!(expired(&mut timers, 30), [0]);
        assert_eq!((expired(&mut timers, 99), timers.first()), (vec![], None));
    }

    #[test]
    fn who_comes_after_does_not_inherit_a_deadline() {
        let mut timers = Timers::default();
        timers.set(4, Some(Nanos(10)));
        timers.forget(4);
        timers.forget(7);
        assert_eq!(timers.first(), None);
        timers.set(4, Some(Nanos(50)));
        assert_eq!(
            (expired(&mut timers, 49), expired(&mut timers, 50)),
            (vec![], vec![4])
        );
    }
}
