//! The Asymmetric Namespace Access log of one controller (NVMe Base 2.1, 5.1.12.1.13).

use std::collections::BTreeMap;
use wire::nvme::log::{AnaGroup, AnaState, ana};

/// Each namespace is an ANA group of its own, numbered like it, so that it never has to change its
/// group when its state does.
#[derive(Default)]
pub(crate) struct AnaLog {
    /// CHGCNT of the page.
    changes: u64,
    /// By NSID.
    groups: BTreeMap<u32, AnaGroup>,
}

impl AnaLog {
    /// Takes over the states as they are now, by NSID. True if one changed; a namespace that comes
    /// or goes is announced as such.
    pub(crate) fn update(&mut self, states: impl IntoIterator<Item = (u32, AnaState)>) -> bool {
        let mut old = std::mem::take(&mut self.groups);
        let (mut moved, mut differs) = (false, false);
        for (nsid, state) in states {
            let group = match old.remove(&nsid) {
                Some(group) if group.state == state => group,
                Some(group) => {
                    moved = true;
                    AnaGroup {
                        state,
                        change_count: group.change_count + 1,
                        ..group
                    }
                }
                None => {
                    differs = true;
                    group(nsid, state)
                }
            };
            self.groups.insert(nsid, group);
        }
        self.changes += u64::from(moved || differs || !old.is_empty());
        moved
    }

    /// Controller reset: the counts begin anew.
    pub(crate) fn reset(&mut self) {
        self.changes = 0;
        for one in self.groups.values_mut() {
            *one = group(one.id, one.state);
        }
    }

    /// The page, without the NSIDs if so wished.
    pub(crate) fn page(&self, groups_only: bool) -> Vec<u8> {
        let groups: Vec<AnaGroup> = self.groups.values().cloned().collect();
        ana(self.changes, &groups, groups_only)
    }
}

/// A group that has not changed yet; a count of 0 would say that changes are not counted.
fn group(nsid: u32, state: AnaState) -> AnaGroup {
    AnaGroup {
        id: nsid,
        change_count: 1,
        state,
        namespaces: vec![nsid],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AnaState::{Inaccessible, NonOptimized, Optimized};
    use wire::nvme::log::parse_ana;

    /// The page's count, and of each group number, state and count.
    fn read(log: &AnaLog) -> (u64, Vec<(u32, AnaState, u64)>) {
        let (changes, groups) = parse_ana(&log.page(false)).unwrap();
        let rows = groups.iter().map(|g| {
            assert_eq!(g.namespaces, [g.id]);
            (g.id, g.state, g.change_count)
        });
        (changes, rows.collect())
    }

    #[test]
    fn only_what_changed_is_counted_and_only_states_are_a_change_of_access() {
        let mut log = AnaLog::default();
        assert!(!log.update([(1, Optimized), (2, Optimized)]));
        log.reset();
        assert!(!log.update([(1, Optimized), (2, Optimized)]));
        assert_eq!(read(&log), (0, vec![(1, Optimized, 1), (2, Optimized, 1)]));
        assert!(log.update([(1, Optimized), (2, Inaccessible)]));
        let rows = vec![(1, Optimized, 1), (2, Inaccessible, 2)];
        assert_eq!(read(&log), (1, rows));
        assert!(!log.update([(2, Inaccessible), (3, NonOptimized)]));
        let rows = vec![(2, Inaccessible, 2), (3, NonOptimized, 1)];
        assert_eq!(read(&log), (2, rows));
        assert!(!log.update([(2, Inaccessible)]));
        assert_eq!(read(&log), (3, vec![(2, Inaccessible, 2)]));
        log.reset();
        assert_eq!(read(&log), (0, vec![(2, Inaccessible, 1)]));
    }
}
