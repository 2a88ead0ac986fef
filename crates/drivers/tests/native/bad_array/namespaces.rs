//! Namespaces that are not what they are said to be, or not for long.

use super::array::{At, BLOCKS, BadArray, Lie};
use super::{Host, IO_BLOCKS, Job, Remote, wait};
use blk::{IoBuf, IoError, Op, State};
use wire::nvme::aer::AsyncEvent;

/// What an array makes of a page before it sends it.
type Edit = fn(&mut Vec<u8>);

/// Has the array tell that its namespaces changed.
#[track_caller]
fn tell(array: &BadArray) {
    wait("a request for events", || {
        match array.tell(AsyncEvent::NamespaceAttribute) {
            true => Ok(()),
            false => Err("none".to_owned()),
        }
    });
}

/// Waits until a namespace says this.
#[track_caller]
fn says(remote: &Remote<'_>, id: &str, hint: &str) {
    wait(hint, || {
        let why = remote.offline(id);
        match &why {
            Some(why) if why.contains(hint) => Ok(()),
            _ => Err(format!("{why:?}, {:?}", remote.trouble())),
        }
    });
}

#[test]
fn a_namespace_that_cannot_be_used_says_why_and_the_others_serve() {
    let cases: [(Edit, &str); 9] = [
        (|page| page[0..8].fill(0), "no blocks"),
        (|page| page[0..8].fill(0xff), "more than can be addressed"),
        (|page| page[7] = 0x40, "more than can be addressed"),
        (|page| page[130] = 0, "block size"),
        (|page| page[130] = 8, "block size"),
        (|page| page[130] = 17, "block size"),
        (|page| page[130] = 31, "block size"),
        (|page| page[130] = 255, "block size"),
        (|page| page[128] = 8, "metadata"),
    ];
    let host = Host::new();
    for (number, (edit, hint)) in cases.into_iter().enumerate() {
        // From the start, and under those who use it.
        for early in [true, false] {
            let array = BadArray::start();
            if early {
                array.lie(At::Namespace, Lie::Data(edit));
            }
            let remote = host.connect(&format!("rc{number}{early}"), false, &[&array]);
            if !early {
                Job::reads(&remote.serves("n1")).finish_reads();
                array.lie(At::Namespace, Lie::Data(edit));
                tell(&array);
            }
            says(&remote, "n1", hint);
            assert_eq!(remote.trouble(), None, "the path serves");
            Job::reads(&remote.serves("n2")).finish_reads();
            array.behave();
            tell(&array);
            Job::reads(&remote.serves("n1")).finish_reads();
            remote.delete();
        }
    }
}

#[test]
fn a_namespace_that_becomes_another_gives_nobody_its_data() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    array.show(|shown| shown[0].uuid = 0x33);
    tell(&array);
    says(&remote, "n1", "the array has it no more");
    assert_eq!(Job::write(&volume, 1).finish_one(), Err(IoError::Offline));
    Job::reads(&remote.serves("n1-2")).finish_reads();
    // It is back, and so is its user.
    array.show(|shown| shown[0].uuid = 0x11);
    tell(&array);
    Job::reads(&remote.serves("n1")).finish_reads();
    Job::reads(&volume).finish_reads();
    remote.delete();
}

#[test]
fn a_namespace_that_became_another_while_the_path_was_lost_gives_nobody_its_data() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    for round in 0..4 {
        // A queue that is only being connected would outlive the rest: this array lets it.
        Job::reads(&volume).finish_reads();
        let uuid = 0x40 + round;
        array.show(|shown| shown[0].uuid = uuid);
        array.hang_up();
        // Whatever is sent meanwhile must not land in the other namespace.
        let job = Job::write(&volume, round);
        assert_eq!(job.finish_one(), Err(IoError::Offline), "round {round}");
        array.show(|shown| shown[0].uuid = 0x11);
        tell(&array);
        wait("its return", || match volume.state() {
            State::Online => Ok(()),
            State::Offline(why) => Err(why),
        });
    }
    remote.delete();
}

#[test]
fn a_namespace_that_shrinks_takes_nothing_beyond_its_end() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    let last = BLOCKS - u64::from(IO_BLOCKS);
    let read = [(Op::Read, last, IoBuf::empty())];
    assert_eq!(Job::start(&volume, &read).finish_one(), Ok(()));
    array.show(|shown| shown[0].blocks = last);
    tell(&array);
    wait("the new size", || match volume.geometry().blocks == last {
        true => Ok(()),
        false => Err(volume.geometry().blocks.to_string()),
    });
    let beyond = Job::start(&volume, &read).finish_one();
    assert_eq!(beyond, Err(IoError::OutOfRange));
    Job::reads(&volume).finish_reads();
    remote.delete();
}

#[test]
fn blocks_of_another_size_do_not_meet_io_of_the_old() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    // I/O waits for the path while the blocks change under it.
    array.lie(At::Read, Lie::Silence);
    let job = Job::reads(&volume);
    array.show(|shown| shown[0].shift = 12);
    array.hang_up();
    array.behave();
    for done in job.finish() {
        assert!(done.result.is_err(), "{:?}", done.result);
    }
    wait("the new size", || {
        match volume.geometry().block_bytes == 4096 {
            true => Ok(()),
            false => Err(volume.geometry().block_bytes.to_string()),
        }
    });
    remote.delete();
}

#[test]
fn two_namespaces_with_one_identity_are_not_used_and_the_others_are() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    array.show(|shown| {
        let mut twin = shown[0];
        twin.nsid = 3;
        shown.push(twin);
    });
    tell(&array);
    says(
        &remote,
        "n1",
        "namespaces 1 and 3 have the same identifiers",
    );
    assert_eq!(Job::write(&volume, 1).finish_one(), Err(IoError::Offline));
    Job::reads(&remote.serves("n2")).finish_reads();
    array.show(|shown| shown.truncate(2));
    tell(&array);
    remote.serves("n1");
    Job::reads(&volume).finish_reads();
    remote.delete();
}

#[test]
fn a_path_that_is_deleted_shuts_its_controller_down() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    Job::reads(&remote.serves("n1")).finish_reads();
    remote.delete();
    assert_eq!(array.shutdowns(), 1);
}

#[test]
fn a_namespace_taken_at_the_moment_it_is_forgotten_comes_back() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let name = remote.namespace("n1");
    for _ in 0..20 {
        remote.serves("n1");
        array.show(|shown| shown[0].uuid = 0x33);
        tell(&array);
        // Taken again and again until it is not there any more, and the last of it is kept.
        let mut kept = None;
        wait("its end", || {
            let taken = host.site.volume(&name);
            let gone = taken.is_none();
            if let Some(taken) = taken {
                let offline = matches!(taken.state(), State::Offline(_));
                kept = offline.then_some(taken);
            }
            match gone || kept.is_some() {
                true => Ok(()),
                false => Err("it is there".to_owned()),
            }
        });
        array.show(|shown| shown[0].uuid = 0x11);
        tell(&array);
        if let Some(kept) = kept {
            wait("its return", || match kept.state() {
                State::Online => Ok(()),
                State::Offline(why) => Err(why),
            });
        }
    }
    remote.delete();
}
