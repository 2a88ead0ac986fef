//! [`Table`]: what is known of one remote array over all paths, and the routes that follow.

use super::association::{Association, Found, Key, Shape, Times, rank};
use super::memory::Remembered;
use super::path::Condition;
use super::routes::{Handle, LivePath, PathId, Policy, Route, Routes, Way};
use super::session::NAMESPACES_MAX;
use blk::{Nanos, State, Stats};
use std::collections::BTreeMap;
use std::sync::Arc;
use wire::nvme::log::{AnaGroup, AnaState};

/// Namespaces that are known at once, at most: those that the array has, and as many that it has
/// no more.
const KNOWN_MAX: usize = 2 * NAMESPACES_MAX;

/// One path as the table knows it.
struct Entry {
    /// The association, while there is one.
    live: Option<(u64, Arc<Association>)>,
    condition: Condition,
    /// The namespaces that it showed last, also while it is lost. In the order of their keys.
    found: Vec<Found>,
    /// The ANA groups; empty where the array has none.
    groups: Vec<AnaGroup>,
    stats: Arc<Stats>,
}

/// One namespace, over all paths.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) handle: Handle,
    /// How the API calls it.
    pub(super) id: String,
    pub(super) nsid: u32,
    /// Size and identity, as told last; or why it cannot be used.
    pub(super) shape: Result<Shape, String>,
    pub(super) state: State,
    /// The last shape that could be used: what is remembered, and what a change counts from.
    last: Option<Shape>,
    /// A path has shown it since the server was started.
    seen: bool,
}

/// See the file's head.
pub(super) struct Table {
    policy: Policy,
    times: Times,
    paths: BTreeMap<PathId, Entry>,
    known: BTreeMap<Key, Known>,
    next_handle: u32,
    /// Since when no path serves.
    lost_since: Option<Nanos>,
    hopeless: bool,
    routes: Arc<Routes>,
}

impl Table {
    /// A table without paths.
    pub(super) fn new(policy: Policy, times: Times) -> Self {
        Self {
            policy,
            times,
            paths: BTreeMap::new(),
            known: BTreeMap::new(),
            next_handle: 0,
            lost_since: None,
            hopeless: false,
            routes: Arc::default(),
        }
    }

    /// Takes over what was known of the namespaces before the server was started.
    pub(super) fn remember(&mut self, all: Vec<Remembered>, now: Nanos) {
        for one in all {
            let handle = Handle(self.next_handle);
            self.next_handle += 1;
            let known = Known {
                handle,
                id: one.id,
                nsid: one.nsid,
                shape: Ok(one.shape),
                state: State::Online,
                last: Some(one.shape),
                seen: false,
            };
            self.known.insert(one.key, known);
        }
        self.settle(now);
    }

    /// What is to be remembered.
    pub(super) fn to_remember(&self) -> Vec<Remembered> {
        let all = self.known.iter().filter_map(|(key, known)| {
            Some(Remembered {
                key: key.clone(),
                id: known.id.clone(),
                nsid: known.nsid,
                shape: known.last?,
            })
        });
        all.collect()
    }

    /// The routes as they are.
    pub(super) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// The namespaces, those too that the array has no more but that somebody may still use.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (&Key, &Known)> {
        self.known.iter()
    }

    /// How a path is doing.
    pub(super) fn condition(&self, id: PathId) -> Option<&Condition> {
        self.paths.get(&id).map(|path| &path.condition)
    }

    /// The namespaces that a path that serves shows, by their numbers on it, and how well.
    pub(super) fn ana_states(&self, id: PathId) -> Vec<(u32, AnaState)> {
        let path = self.paths.get(&id).filter(|path| path.live.is_some());
        let shown = path.into_iter().flat_map(|path| {
            let found = path.found.iter();
            found.map(|found| (found.nsid, path.state_of(found)))
        });
        shown.collect()
    }

    /// Online if any path serves; without paths there is nothing that could fail.
    pub(super) fn overall(&self) -> State {
        let live = self.paths.values().any(|path| path.live.is_some());
        match live || self.paths.is_empty() {
            true => State::Online,
            false => State::Offline(self.why()),
        }
    }

    /// Why paths do not serve.
    fn why(&self) -> String {
        let lost = self.paths.values().find_map(|path| match &path.condition {
            Condition::Lost(why) => Some(why.clone()),
            Condition::New | Condition::Live => None,
        });
        let otherwise = match self.paths.is_empty() {
            true => "there is none",
            false => "it is being connected",
        };
        lost.unwrap_or_else(|| otherwise.to_owned())
    }

    /// Chooses paths in another way from now on, and waits for them so long.
    pub(super) fn choose(&mut self, policy: Policy, times: Times, now: Nanos) {
        (self.policy, self.times) = (policy, times);
        self.settle(now);
    }

    /// A path was added.
    pub(super) fn add(&mut self, id: PathId, stats: Arc<Stats>, now: Nanos) {
        let entry = Entry {
            live: None,
            condition: Condition::New,
            found: Vec::new(),
            groups: Vec::new(),
            stats,
        };
        self.paths.insert(id, entry);
        self.settle(now);
    }

    /// A path was removed.
    pub(super) fn remove(&mut self, id: PathId, now: Nanos) {
        self.paths.remove(&id);
        self.settle(now);
    }

    /// A path has an association.
    pub(super) fn ready(&mut self, id: PathId, epoch: u64, made: Association, now: Nanos) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.live = Some((epoch, Arc::new(made)));
            path.condition = Condition::Live;
            self.settle(now);
        }
    }

    /// A path shows these namespaces, and no others.
    pub(super) fn found(&mut self, id: PathId, mut found: Vec<Found>, now: Nanos) {
        if let Some(path) = self.paths.get_mut(&id) {
            found.sort_by(|a, b| a.key.cmp(&b.key));
            path.found = found;
            self.settle(now);
        }
    }

    /// A path has these ANA groups.
    pub(super) fn ana(&mut self, id: PathId, groups: Vec<AnaGroup>, now: Nanos) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.groups = groups;
            self.settle(now);
        }
    }

    /// A path has no association, for the reason given.
    pub(super) fn lost(&mut self, id: PathId, why: String, now: Nanos) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.live = None;
            path.condition = Condition::Lost(why);
            self.settle(now);
        }
    }

    /// When [`Table::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let since = self.lost_since.filter(|_| !self.hopeless)?;
        Some(since + self.times.loss)
    }

    /// Gives I/O up once no path has served for too long.
    pub(super) fn expire(&mut self, now: Nanos) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.settle(now);
        }
    }

    /// Works out namespaces and routes anew.
    fn settle(&mut self, now: Nanos) {
        let live = self.paths.values().any(|path| path.live.is_some());
        self.lost_since = match live {
            true => None,
            false => Some(self.lost_since.unwrap_or(now)),
        };
        let lost_for = self.lost_since.map(|since| now.since(since));
        self.hopeless = lost_for.is_some_and(|time| time >= self.times.loss);
        self.recognise();
        let mut namespaces: Vec<Route> = Vec::new();
        let mut states = Vec::new();
        for (key, known) in &self.known {
            let ways = self.ways(key, known);
            states.push((key.clone(), self.state(known, &ways)));
            if let Ok(shape) = known.shape {
                namespaces.push(Route {
                    handle: known.handle,
                    shape,
                    ways,
                });
            }
        }
        for (key, state) in states {
            if let Some(known) = self.known.get_mut(&key) {
                known.state = state;
            }
        }
        namespaces.sort_by_key(|route| route.handle);
        let live = self.paths.iter().filter_map(|(id, path)| {
            let (epoch, association) = path.live.clone()?;
            Some(LivePath {
                id: *id,
                epoch,
                association,
                stats: path.stats.clone(),
            })
        });
        self.routes = Arc::new(Routes {
            policy: self.policy,
            times: self.times,
            paths: live.collect(),
            namespaces,
            hopeless: self.hopeless,
        });
    }

    /// Brings what is known of the namespaces up to what the paths show. Where paths differ, one
    /// that serves now is right, and of those one that shows something that can be used.
    fn recognise(&mut self) {
        let all = self.paths.values().flat_map(|path| {
            let live = path.live.is_some();
            path.found.iter().map(move |found| (live, found))
        });
        let mut shown: BTreeMap<&Key, (bool, &Found)> = BTreeMap::new();
        for (live, found) in all {
            let one = shown.entry(&found.key).or_insert((live, found));
            if (live, found.shape.is_ok()) >= (one.0, one.1.shape.is_ok()) {
                *one = (live, found);
            }
        }
        let mut left_out = 0;
        for (key, (_, found)) in shown {
            if let Some(known) = self.known.get_mut(key) {
                known.nsid = found.nsid;
                known.seen = true;
                known.shape = changed(known.last.as_ref(), &found.shape);
                known.last = known.shape.as_ref().ok().copied().or(known.last);
                continue;
            }
            if self.known.len() >= KNOWN_MAX {
                left_out += 1;
                continue;
            }
            let mut id = format!("n{}", found.nsid);
            // Paths to different subsystems may use one number for different namespaces.
            let mut next = 2;
            while self.known.values().any(|known| known.id == id) {
                id = format!("n{}-{next}", found.nsid);
                next += 1;
            }
            let handle = Handle(self.next_handle);
            self.next_handle += 1;
            let known = Known {
                handle,
                id,
                nsid: found.nsid,
                shape: found.shape.clone(),
                state: State::Online,
                last: found.shape.as_ref().ok().copied(),
                seen: true,
            };
            self.known.insert(found.key.clone(), known);
        }
        if left_out > 0 {
            tracing::warn!(left_out, "there are too many namespaces");
        }
    }

    /// The paths that show a namespace with blocks of the size that users know.
    fn ways(&self, key: &Key, known: &Known) -> Vec<Way> {
        let format = |shape: &Result<Shape, String>| {
            let geometry = shape.as_ref().ok()?.geometry;
            Some((geometry.block_bytes, geometry.metadata_bytes))
        };
        let wanted = format(&known.shape);
        let of = |(id, path): (&PathId, &Entry)| {
            let found = path.shows(key)?;
            (format(&found.shape) == wanted).then_some(Way {
                path: *id,
                nsid: found.nsid,
                state: path.state_of(found),
            })
        };
        self.paths.iter().filter_map(of).collect()
    }

    fn state(&self, known: &Known, ways: &[Way]) -> State {
        if let Err(why) = &known.shape {
            return State::Offline(why.clone());
        }
        if ways.is_empty() {
            let live = self.paths.values().any(|path| path.live.is_some());
            return State::Offline(match live || known.seen {
                true => "the array has it no more".to_owned(),
                false => format!("no path to it works: {}", self.why()),
            });
        }
        let mut reason = None;
        for way in ways {
            let Some(path) = self.paths.get(&way.path) else {
                continue;
            };
            match (&path.live, &path.condition) {
                (Some(_), _) if rank(way.state).is_some() => return State::Online,
                (Some(_), _) => {
                    reason = Some(format!("the array says: {:?}", way.state).to_lowercase());
                }
                (None, Condition::Lost(why)) => {
                    reason.get_or_insert_with(|| why.clone());
                }
                (None, _) => {}
            }
        }
        let reason = reason.unwrap_or_else(|| "it is being connected".to_owned());
        State::Offline(format!("no path to it works: {reason}"))
    }

    /// Forgets namespaces that no path shows and that `is_used` does not know of.
    pub(super) fn forget(&mut self, is_used: impl Fn(Handle) -> bool, now: Nanos) {
        // What no path could show yet may still be there.
        if self.paths.values().any(|path| path.live.is_none()) {
            return;
        }
        let shown = |key: &Key| self.paths.values().any(|path| path.shows(key).is_some());
        let gone: Vec<Key> = self
            .known
            .iter()
            .filter(|(key, known)| !shown(key) && !is_used(known.handle))
            .map(|(key, _)| key.clone())
            .collect();
        if !gone.is_empty() {
            self.known.retain(|key, _| !gone.contains(key));
            self.settle(now);
        }
    }
}

/// A shape that replaces another; its generation tells users of the first that it changed.
fn changed(old: Option<&Shape>, new: &Result<Shape, String>) -> Result<Shape, String> {
    let mut new = new.clone()?;
    if let Some(old) = old {
        new.geometry.generation = old.geometry.generation;
        new.geometry.generation += u64::from(new != *old);
    }
    Ok(new)
}

impl Entry {
    /// A namespace as this path showed it last.
    fn shows(&self, key: &Key) -> Option<&Found> {
        let at = self.found.binary_search_by(|found| found.key.cmp(key));
        at.ok().map(|at| &self.found[at])
    }

    fn state_of(&self, found: &Found) -> AnaState {
        if self.groups.is_empty() || found.ana_group == 0 {
            return AnaState::Optimized;
        }
        let group = self.groups.iter().find(|group| group.id == found.ana_group);
        // A group that the log page does not name yet is about to be there.
        group.map_or(AnaState::Change, |group| group.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::association::{Abilities, Names};
    use blk::Geometry;
    use wire::nvme::Nqn;
    use wire::nvme_tcp::Digests;

    const LOSS: Nanos = Nanos::from_secs(600);

    fn association() -> Association {
        let nqn = Nqn::parse("nqn.2026-01.org.example:array").unwrap();
        Association {
            cntlid: 1,
            queues: 1,
            depth: 8,
            digests: Digests::default(),
            in_capsule_bytes: 8192,
            data_bytes_max: 1 << 20,
            abilities: Abilities::default(),
            quiesce: Nanos::from_secs(10),
            names: Names {
                subnqn: nqn.clone(),
                hostnqn: nqn,
                hostid: [1; 16],
            },
        }
    }

    /// A namespace whose UUID is this byte over and over.
    fn found(nsid: u32, uuid: u8, blocks: u64) -> Found {
        Found {
            nsid,
            key: Key::Global([uuid; 16], [0; 16], [0; 8]),
            shape: Ok(Shape {
                geometry: Geometry::new(512, blocks),
                boundary_blocks: 0,
                deallocated_zeroes: true,
            }),
            ana_group: 1,
        }
    }

    /// A table with this many paths that serve and show these namespaces.
    fn table(paths: u32, shown: &[Found]) -> Table {
        let mut table = Table::new(Policy::Failover, Times::default());
        for path in (0..paths).map(PathId) {
            table.add(path, Arc::default(), Nanos(0));
            table.ready(path, 1, association(), Nanos(0));
            table.found(path, shown.to_vec(), Nanos(0));
        }
        table
    }

    fn one(table: &Table, id: &str) -> Known {
        let mut all = table.namespaces().map(|(_, known)| known);
        all.find(|known| known.id == id).unwrap().clone()
    }

    fn why(table: &Table, id: &str) -> String {
        match one(table, id).state {
            State::Online => String::new(),
            State::Offline(why) => why,
        }
    }

    fn group(state: AnaState) -> AnaGroup {
        AnaGroup {
            id: 1,
            change_count: 1,
            state,
            namespaces: Vec::new(),
        }
    }

    #[test]
    fn a_namespace_is_one_over_all_paths_whatever_number_it_has_there() {
        let mut table = table(1, &[found(1, 7, 100), found(2, 8, 100)]);
        table.add(PathId(9), Arc::default(), Nanos(0));
        table.ready(PathId(9), 1, association(), Nanos(0));
        table.found(
            PathId(9),
            vec![found(2, 7, 100), found(5, 8, 100)],
            Nanos(0),
        );
        assert_eq!(table.namespaces().count(), 2);
        let routes = table.routes().clone();
        for (route, numbers) in routes.namespaces.iter().zip([[1, 2], [2, 5]]) {
            let ways: Vec<u32> = route.ways.iter().map(|way| way.nsid).collect();
            assert_eq!(ways, numbers);
        }
    }

    #[test]
    fn a_number_that_stands_for_another_namespace_now_gives_nobody_its_data() {
        let mut table = table(1, &[found(1, 7, 100)]);
        let old = one(&table, "n1").handle;
        table.found(PathId(0), vec![found(1, 8, 100)], Nanos(1));
        assert!(
            why(&table, "n1").contains("no more"),
            "{}",
            why(&table, "n1")
        );
        assert!(table.routes().to(old).unwrap().ways.is_empty());
        assert_eq!(one(&table, "n1-2").state, State::Online);
        table.forget(|handle| handle == old, Nanos(2));
        assert_eq!(table.namespaces().count(), 2, "somebody still uses it");
        table.forget(|_| false, Nanos(2));
        assert_eq!(table.namespaces().count(), 1);
    }

    #[test]
    fn a_change_of_size_is_taken_over_and_counted() {
        let mut table = table(1, &[found(1, 7, 100)]);
        for (blocks, generation) in [(200, 1), (50, 2), (50, 2)] {
            table.found(PathId(0), vec![found(1, 7, blocks)], Nanos(1));
            let geometry = one(&table, "n1").shape.unwrap().geometry;
            assert_eq!((geometry.blocks, geometry.generation), (blocks, generation));
        }
    }

    #[test]
    fn what_cannot_be_used_for_a_while_keeps_its_count_of_changes_and_is_remembered() {
        let mut table = table(1, &[found(1, 7, 100)]);
        let broken = Found {
            shape: Err("it has no blocks".to_owned()),
            ..found(1, 7, 0)
        };
        table.found(PathId(0), vec![broken], Nanos(1));
        assert_eq!(why(&table, "n1"), "it has no blocks");
        let kept = table.to_remember();
        assert_eq!(kept[0].shape.geometry.blocks, 100);
        table.found(PathId(0), vec![found(1, 7, 50)], Nanos(2));
        let geometry = one(&table, "n1").shape.unwrap().geometry;
        assert_eq!((geometry.blocks, geometry.generation), (50, 1));
    }

    #[test]
    fn paths_that_differ_in_size_count_one_change_and_in_blocks_are_not_used_together() {
        let mut table = table(2, &[found(1, 7, 100)]);
        let handle = one(&table, "n1").handle;
        table.found(PathId(1), vec![found(1, 7, 200)], Nanos(1));
        for time in 2..5 {
            table.ana(PathId(0), vec![group(AnaState::Optimized)], Nanos(time));
            let geometry = one(&table, "n1").shape.unwrap().geometry;
            assert_eq!((geometry.blocks, geometry.generation), (200, 1));
            assert_eq!(table.routes().to(handle).unwrap().ways.len(), 2);
        }
        let mut other = found(1, 7, 100);
        other.shape.as_mut().unwrap().geometry.block_bytes = 4096;
        table.found(PathId(1), vec![other], Nanos(6));
        let routes = table.routes().clone();
        let route = routes.to(handle).unwrap();
        assert_eq!(route.shape.geometry.block_bytes, 4096);
        let paths: Vec<PathId> = route.ways.iter().map(|way| way.path).collect();
        assert_eq!(paths, [PathId(1)], "the other has blocks of 512 bytes");
    }

    #[test]
    fn an_array_that_makes_up_namespaces_for_ever_is_not_listened_to_for_ever() {
        let mut table = Table::new(Policy::Failover, Times::default());
        table.add(PathId(0), Arc::default(), Nanos(0));
        let known = one(&self::table(1, &[found(1, 7, 100)]), "n1");
        for nsid in 1..KNOWN_MAX as u32 {
            let id = format!("n{nsid}");
            let known = Known {
                id,
                ..known.clone()
            };
            table
                .known
                .insert(Key::Numbered("nqn".to_owned(), nsid), known);
        }
        table.found(
            PathId(0),
            (1..4).map(|n| found(n, 7 + n as u8, 1)).collect(),
            Nanos(0),
        );
        assert_eq!(table.namespaces().count(), KNOWN_MAX);
    }

    #[test]
    fn it_is_offline_without_a_path_that_serves_it_and_says_why() {
        let mut table = table(2, &[found(1, 7, 100)]);
        table.ana(PathId(0), vec![group(AnaState::Inaccessible)], Nanos(1));
        assert_eq!(why(&table, "n1"), "");
        table.lost(PathId(1), "it was cut".to_owned(), Nanos(2));
        assert!(
            why(&table, "n1").contains("inaccessible"),
            "{}",
            why(&table, "n1")
        );
        table.ana(PathId(0), vec![group(AnaState::NonOptimized)], Nanos(3));
        assert_eq!(why(&table, "n1"), "");
        table.lost(PathId(0), "it was cut".to_owned(), Nanos(4));
        assert!(
            why(&table, "n1").contains("it was cut"),
            "{}",
            why(&table, "n1")
        );
    }

    #[test]
    fn a_change_of_the_loss_time_counts_from_when_the_last_path_was_lost() {
        let mut table = table(1, &[found(1, 7, 100)]);
        let lost = Nanos::from_secs(5);
        table.lost(PathId(0), "it was cut".to_owned(), lost);
        let times = |seconds| Times {
            loss: Nanos::from_secs(seconds),
            ..Times::default()
        };
        let now = lost + Nanos::from_secs(3);
        table.choose(Policy::RoundRobin, times(4), now);
        assert!(!table.routes().hopeless);
        assert_eq!(table.deadline(), Some(lost + Nanos::from_secs(4)));
        table.choose(Policy::RoundRobin, times(3), now);
        assert!(table.routes().hopeless);
        table.choose(Policy::RoundRobin, times(4), now);
        assert!(!table.routes().hopeless, "there is hope again");
    }

    #[test]
    fn the_states_of_a_path_are_known_while_it_serves() {
        let mut table = table(1, &[found(4, 7, 100)]);
        table.ana(PathId(0), vec![group(AnaState::NonOptimized)], Nanos(1));
        assert_eq!(table.ana_states(PathId(0)), [(4, AnaState::NonOptimized)]);
        table.lost(PathId(0), "it was cut".to_owned(), Nanos(2));
        assert_eq!(table.ana_states(PathId(0)), []);
    }

    #[test]
    fn nothing_waits_any_more_once_no_path_has_served_for_too_long() {
        let mut table = table(1, &[found(1, 7, 100)]);
        assert_eq!(table.deadline(), None);
        let lost = Nanos::from_secs(5);
        table.lost(PathId(0), "it was cut".to_owned(), lost);
        assert_eq!(table.deadline(), Some(lost + LOSS));
        table.expire(lost + LOSS - Nanos(1));
        assert!(!table.routes().hopeless);
        table.expire(lost + LOSS);
        assert!(table.routes().hopeless && table.deadline().is_none());
        table.ready(PathId(0), 2, association(), lost + LOSS + LOSS);
        assert!(!table.routes().hopeless, "the path is back");
    }
}
