//! The rules of reservations, one by one.

use super::*;
use ReservationType as T;

const A: HostId = [0xa; 16];
const B: HostId = [0xb; 16];
const C: HostId = [0xc; 16];

fn register(action: RegisterAction, current: u64, new: u64) -> Request {
    let persist = PersistChange::Unchanged;
    Request::Register {
        action,
        ignore_key: false,
        persist,
        current,
        new,
    }
}

fn acquire(rtype: T, current: u64) -> Request {
    let action = AcquireAction::Acquire;
    Request::Acquire {
        action,
        ignore_key: false,
        rtype,
        current,
        preempt: 0,
    }
}

fn preempt(action: AcquireAction, rtype: T, current: u64, preempt: u64) -> Request {
    Request::Acquire {
        action,
        ignore_key: false,
        rtype,
        current,
        preempt,
    }
}

fn release(action: ReleaseAction, rtype: T, current: u64) -> Request {
    Request::Release {
        action,
        ignore_key: false,
        rtype: Some(rtype),
        current,
    }
}

/// A registered with key 1, B with 2.
fn two() -> Reservations {
    let start = Reservations::default();
    let one = start
        .apply(&A, &register(RegisterAction::Register, 0, 1))
        .unwrap()
        .next;
    one.apply(&B, &register(RegisterAction::Register, 0, 2))
        .unwrap()
        .next
}

fn held_by_a(rtype: T) -> Reservations {
    two().apply(&A, &acquire(rtype, 1)).unwrap().next
}

#[test]
fn each_type_lets_in_whom_the_table_of_the_specification_says() {
    // Type, then (read, write) of the holder, of another registrant and of a stranger.
    let all = (true, true);
    let read = (true, false);
    let none = (false, false);
    for (rtype, holder, registrant, stranger) in [
        (T::WriteExclusive, all, read, read),
        (T::ExclusiveAccess, all, none, none),
        (T::WriteExclusiveRegistrants, all, all, read),
        (T::ExclusiveAccessRegistrants, all, all, none),
        (T::WriteExclusiveAll, all, all, read),
        (T::ExclusiveAccessAll, all, all, none),
    ] {
        let state = held_by_a(rtype);
        for (host, expected) in [(A, holder), (B, registrant), (C, stranger)] {
            let access = state.access(&host);
            assert_eq!((access.read, access.write), expected, "{rtype:?} {host:x?}");
        }
    }
    let free = two().access(&C);
    assert!(free.read && free.write);
}

#[test]
fn a_second_key_needs_replace_and_the_same_key_again_is_fine() {
    let state = two();
    assert_eq!(
        state.apply(&A, &register(RegisterAction::Register, 0, 9)),
        Err(CONFLICT)
    );
    assert!(
        state
            .apply(&A, &register(RegisterAction::Register, 0, 1))
            .is_ok()
    );
    assert_eq!(
        state.apply(&A, &register(RegisterAction::Replace, 7, 9)),
        Err(CONFLICT)
    );
    let replaced = state
        .apply(&A, &register(RegisterAction::Replace, 1, 9))
        .unwrap()
        .next;
    assert_eq!(replaced.key_of(&A), Some(9));
    assert_eq!(replaced.generation, state.generation + 1);
    assert_eq!(
        state.apply(&C, &register(RegisterAction::Replace, 0, 9)),
        Err(CONFLICT)
    );
    assert_eq!(
        state.apply(&C, &register(RegisterAction::Register, 0, 0)),
        Err(INVALID)
    );
}

#[test]
fn ignoring_the_key_replaces_and_unregisters_but_never_acquires() {
    let state = two();
    let ignore = |action| Request::Register {
        action,
        ignore_key: true,
        persist: PersistChange::Unchanged,
        current: 77,
        new: 5,
    };
    let replaced = state
        .apply(&A, &ignore(RegisterAction::Replace))
        .unwrap()
        .next;
    assert_eq!(replaced.key_of(&A), Some(5));
    let gone = state
        .apply(&A, &ignore(RegisterAction::Unregister))
        .unwrap()
        .next;
    assert_eq!(gone.key_of(&A), None);
    let acquire = Request::Acquire {
        action: AcquireAction::Acquire,
        ignore_key: true,
        rtype: T::WriteExclusive,
        current: 1,
        preempt: 0,
    };
    assert_eq!(state.apply(&A, &acquire), Err(INVALID));
}

#[test]
fn only_a_registrant_with_its_key_acquires_and_only_once() {
    let state = two();
    assert_eq!(
        state.apply(&C, &acquire(T::WriteExclusive, 1)),
        Err(CONFLICT)
    );
    assert_eq!(
        state.apply(&A, &acquire(T::WriteExclusive, 2)),
        Err(CONFLICT)
    );
    let held = held_by_a(T::WriteExclusive);
    assert!(held.apply(&A, &acquire(T::WriteExclusive, 1)).is_ok());
    assert_eq!(
        held.apply(&A, &acquire(T::ExclusiveAccess, 1)),
        Err(CONFLICT)
    );
    assert_eq!(
        held.apply(&B, &acquire(T::WriteExclusive, 2)),
        Err(CONFLICT)
    );
    // Every registrant holds an "all registrants" reservation, so asking again is fine.
    assert!(
        held_by_a(T::WriteExclusiveAll)
            .apply(&B, &acquire(T::WriteExclusiveAll, 2))
            .is_ok()
    );
}

#[test]
fn a_release_needs_the_right_type_and_does_nothing_for_others() {
    let held = held_by_a(T::WriteExclusiveRegistrants);
    let wrong = release(ReleaseAction::Release, T::WriteExclusive, 1);
    assert_eq!(held.apply(&A, &wrong), Err(INVALID));
    let right = release(ReleaseAction::Release, T::WriteExclusiveRegistrants, 1);
    let change = held.apply(&A, &right).unwrap();
    assert_eq!(change.next.held, None);
    assert_eq!(change.notices, [(B, Notice::ReservationReleased)]);
    let other = release(ReleaseAction::Release, T::WriteExclusiveRegistrants, 2);
    assert_eq!(held.apply(&B, &other).unwrap().next, held);
    let quiet = held_by_a(T::WriteExclusive);
    let change = quiet
        .apply(&A, &release(ReleaseAction::Release, T::WriteExclusive, 1))
        .unwrap();
    assert!(
        change.notices.is_empty(),
        "other registrants had no rights that change"
    );
}

#[test]
fn clearing_removes_everything_and_tells_the_others() {
    let held = held_by_a(T::ExclusiveAccess);
    let change = held
        .apply(&B, &release(ReleaseAction::Clear, T::ExclusiveAccess, 2))
        .unwrap();
    assert_eq!((change.next.held, change.next.registrants.len()), (None, 0));
    assert_eq!(change.notices, [(A, Notice::ReservationPreempted)]);
    assert_eq!(change.next.generation, held.generation + 1);
}

#[test]
fn preempting_the_holder_takes_the_reservation() {
    let held = held_by_a(T::WriteExclusive);
    let request = preempt(AcquireAction::Preempt, T::ExclusiveAccess, 2, 1);
    let change = held.apply(&B, &request).unwrap();
    assert!(change.next.holds(&B) && change.next.key_of(&A).is_none());
    assert_eq!(change.next.report().rtype, Some(T::ExclusiveAccess));
    assert_eq!(change.notices, [(A, Notice::RegistrationPreempted)]);
    assert!(change.fence.is_empty());
    let request = preempt(AcquireAction::PreemptAndAbort, T::ExclusiveAccess, 2, 1);
    assert_eq!(held.apply(&B, &request).unwrap().fence, [A]);
}

#[test]
fn preempting_somebody_else_only_removes_the_registration() {
    let held = held_by_a(T::WriteExclusive);
    let request = preempt(AcquireAction::Preempt, T::ExclusiveAccess, 1, 2);
    let change = held.apply(&A, &request).unwrap();
    assert!(change.next.holds(&A) && change.next.key_of(&B).is_none());
    assert_eq!(change.next.report().rtype, Some(T::WriteExclusive));
    let nobody = preempt(AcquireAction::Preempt, T::ExclusiveAccess, 1, 99);
    assert_eq!(held.apply(&A, &nobody), Err(CONFLICT));
    let zero = preempt(AcquireAction::Preempt, T::ExclusiveAccess, 1, 0);
    assert_eq!(held.apply(&A, &zero), Err(INVALID));
}

#[test]
fn with_all_registrants_key_zero_preempts_everybody_else() {
    let held = held_by_a(T::WriteExclusiveAll);
    let zero = preempt(AcquireAction::Preempt, T::ExclusiveAccess, 2, 0);
    let change = held.apply(&B, &zero).unwrap();
    assert_eq!(change.next.registrants.len(), 1);
    assert_eq!(change.next.report().rtype, Some(T::ExclusiveAccess));
    assert_eq!(change.notices, [(A, Notice::RegistrationPreempted)]);
    let one = preempt(AcquireAction::Preempt, T::ExclusiveAccess, 2, 1);
    let change = held.apply(&B, &one).unwrap();
    assert_eq!(change.next.report().rtype, Some(T::WriteExclusiveAll));
    assert!(change.next.key_of(&A).is_none() && change.next.holds(&B));
}

#[test]
fn a_changed_type_is_told_to_the_registrants_that_stay() {
    let three = held_by_a(T::WriteExclusiveRegistrants)
        .apply(&C, &register(RegisterAction::Register, 0, 3))
        .unwrap()
        .next;
    let request = preempt(AcquireAction::Preempt, T::ExclusiveAccess, 2, 1);
    let change = three.apply(&B, &request).unwrap();
    let told = [
        (A, Notice::RegistrationPreempted),
        (C, Notice::ReservationReleased),
    ];
    assert_eq!(change.notices, told);
}

#[test]
fn a_holder_that_unregisters_releases() {
    let gone = register(RegisterAction::Unregister, 1, 0);
    let change = held_by_a(T::ExclusiveAccessRegistrants)
        .apply(&A, &gone)
        .unwrap();
    assert_eq!(change.next.held, None);
    assert_eq!(change.notices, [(B, Notice::ReservationReleased)]);
    // With "all registrants" the last one to go releases.
    let change = held_by_a(T::ExclusiveAccessAll).apply(&A, &gone).unwrap();
    assert!(change.next.holds(&B) && !change.next.access(&A).read);
    let last = register(RegisterAction::Unregister, 2, 0);
    assert_eq!(change.next.apply(&B, &last).unwrap().next.held, None);
}

#[test]
fn persistence_follows_the_commands_that_change_it() {
    let with = |persist| Request::Register {
        action: RegisterAction::Register,
        ignore_key: false,
        persist,
        current: 0,
        new: 1,
    };
    let on = Reservations::default()
        .apply(&A, &with(PersistChange::Persist))
        .unwrap()
        .next;
    assert!(on.persists());
    assert!(
        on.apply(&A, &with(PersistChange::Unchanged))
            .unwrap()
            .next
            .persists()
    );
    assert!(
        !on.apply(&A, &with(PersistChange::Clear))
            .unwrap()
            .next
            .persists()
    );
    assert!(
        !on.apply(&A, &Request::Persist(false))
            .unwrap()
            .next
            .persists()
    );
}

#[test]
fn the_number_of_registrants_is_limited() {
    let mut state = Reservations::default();
    let registrants = (0..REGISTRANTS_MAX as u64).map(|n| {
        let mut host = [0; 16];
        host[..8].copy_from_slice(&n.to_le_bytes());
        Key { host, key: n + 1 }
    });
    state.registrants = registrants.collect();
    let one_more = register(RegisterAction::Register, 0, 1);
    assert_eq!(
        state.apply(&[0xff; 16], &one_more),
        Err(Status::INTERNAL_ERROR.dnr())
    );
}
