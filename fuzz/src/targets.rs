//! One function per target: it takes any bytes, and panics only on a bug.

use blk::{Gather, IoBuf, Nanos};
use wire::nvme::fabrics::ConnectData;
use wire::nvme::identify::{self, ControllerList, IdentifyController, IdentifyNamespace};
use wire::nvme::log;
use wire::nvme::reservation::Report;
use wire::nvme::{AdminCmd, Cqe, FabricsCmd, IoCmd, Nqn, Sqe, Status, dsm};
use wire::nvme_tcp::{Controller, Digests, Event, Host, HostConfig, HostEvent, Limits, Payload};

use crate::link::{BLOCK, Cut, Dice, Link};

/// Every parser of a submission queue entry; what is understood survives being written again.
pub(crate) fn commands(data: &[u8]) {
    let Ok(sqe) = Sqe::from_prefix(data) else {
        return;
    };
    if let Ok(command) = AdminCmd::parse(&sqe) {
        assert_eq!(AdminCmd::parse(&command.to_sqe()), Ok(command));
    }
    if let Ok(command) = IoCmd::parse(&sqe) {
        assert_eq!(IoCmd::parse(&command.to_sqe()), Ok(command));
    }
    if let Ok(command) = FabricsCmd::parse(&sqe) {
        assert_eq!(FabricsCmd::parse(&command.to_sqe()), Ok(command));
    }
}

/// Every reader of a data structure that a peer sends.
pub(crate) fn structures(data: &[u8]) {
    if let Ok((changes, groups)) = log::parse_ana(data) {
        assert_eq!(
            log::parse_ana(&log::ana(changes, &groups, false)),
            Ok((changes, groups))
        );
    }
    if let Ok((generation, entries)) = log::parse_discovery(data) {
        for entry in &entries {
            if let Ok(record) = entry.record() {
                assert!(record.service.len() <= 32 && record.address.len() <= 256);
            }
        }
        let again = log::parse_discovery(&log::discovery(generation, &entries));
        assert_eq!(again, Ok((generation, entries)));
    }
    if let Ok(list) = identify::parse_descriptors(data) {
        assert!(list.len() <= data.len());
    }
    if let Ok(report) = Report::parse_extended(data) {
        assert_eq!(Report::parse_extended(&report.extended()), Ok(report));
    }
    if let Ok(ControllerList(ids)) = ControllerList::parse(data) {
        assert!(ids.len() * 2 <= data.len());
    }
    if let Ok(id) = IdentifyController::from_prefix(data) {
        let _ = (id.data_max(), id.in_capsule_data());
        assert_eq!(id.bytes(), &data[..identify::IDENTIFY_LEN]);
    }
    if let Ok(id) = IdentifyNamespace::from_prefix(data) {
        let _ = (id.block_size(), id.metadata_interleaved());
    }
    if let Ok(connect) = ConnectData::from_prefix(data) {
        let _ = (connect.subsystem(), connect.host(), connect.is_anonymous());
    }
    let count = data.first().map_or(0, |&n| usize::from(n) + 1);
    assert!(dsm::ranges(data, count).count() <= count);
    assert!(identify::parse_list(data).all(|nsid| nsid != 0));
    let offset = data.len() as u64 / 2;
    if let Ok(window) = log::window(data, offset, 64) {
        assert_eq!(window.len(), 64);
    }
}

/// The NQN rules; what passes them fits its field and reads back.
pub(crate) fn nqn(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(nqn) = Nqn::parse(text)
    {
        assert_eq!(nqn.as_str(), text);
        assert_eq!(Nqn::from_field(&nqn.field()), Ok(nqn));
    }
    let mut field = [0; 256];
    let len = data.len().min(256);
    field[..len].copy_from_slice(&data[..len]);
    let _ = Nqn::from_field(&field);
}

/// A controller fed any bytes, cut anywhere, that answers whatever it is handed.
pub(crate) fn controller(data: &[u8]) {
    let now = Nanos::from_secs(1);
    let limits = Limits {
        queue_depth: 4,
        mdts_bytes: 64 << 10,
        h2c_data_bytes: 4096,
        r2t_bytes: 64 << 10,
        ..Limits::default()
    };
    let mut controller = Controller::new(limits, now);
    let mut dice = Dice::from_input(&data[..data.len().min(8)]);
    let mut out = Gather::new();
    let mut rest = data;
    while !rest.is_empty() {
        let n = 1 + dice.below(rest.len());
        let (now_bytes, after) = rest.split_at(n);
        rest = after;
        if controller.receive(now_bytes, now).is_err() {
            assert!(controller.wants_transmit(), "the host is told why");
        }
        assert!(controller.in_flight() <= 4);
        while let Some(event) = controller.next_event() {
            match event {
                Event::Command(command) => {
                    let reply = IoBuf::zeroes(command.len as usize);
                    controller.respond_data(command.slot, reply, Cqe::default());
                }
                Event::Refused { slot, status, .. } => {
                    assert!(!status.is_success());
                    controller.respond(slot, Cqe::new(0, 0, status));
                }
                Event::Ready(_) | Event::Closed(_) => {}
            }
        }
        controller.transmit(&mut out);
        out.advance(out.len());
    }
    if let Some(at) = controller.deadline() {
        controller.expire(at);
        assert!(controller.is_closed());
    }
}

/// A host with commands in flight, fed any bytes; each command completes exactly once.
pub(crate) fn host(data: &[u8]) {
    let now = Nanos::from_secs(1);
    let digests = data.first().map_or(0, |&byte| byte >> 6);
    let config = HostConfig {
        queue_depth: 4,
        r2t_max: 2,
        digests: Digests::from_bits(digests),
        ..HostConfig::default()
    };
    let mut host = Host::new(config, now);
    let mut dice = Dice::from_input(&data[..data.len().min(8)]);
    let mut out = Gather::new();
    let (mut submitted, mut completed) = (0_usize, 0_usize);
    let mut rest = data;
    while !rest.is_empty() {
        let n = 1 + dice.below(rest.len());
        let (now_bytes, after) = rest.split_at(n);
        rest = after;
        if host.receive(now_bytes, now).is_err() {
            assert!(host.wants_transmit(), "the controller is told why");
        }
        completed += drain(&mut host);
        while host.can_submit() {
            let payload = match submitted % 3 {
                0 => Payload::ToHost(IoBuf::alloc(4096)),
                1 => Payload::ToController(IoBuf::zeroes(20_000)),
                _ => Payload::None,
            };
            host.submit(Sqe::new(2, 1), payload).expect("there is room");
            submitted += 1;
        }
        host.transmit(&mut out);
        out.advance(out.len());
    }
    host.close();
    completed += drain(&mut host);
    assert_eq!(submitted, completed);
}

fn drain(host: &mut Host) -> usize {
    let mut completed = 0;
    while let Some(event) = host.next_event() {
        completed += usize::from(matches!(event, HostEvent::Completed(_)));
    }
    completed
}

/// Both ends and a memory, against a model: reads and writes of any size, streams cut anywhere,
/// now and then a flipped bit, which with digests may cost commands or the connection, never data.
pub(crate) fn pair(data: &[u8]) {
    const BLOCKS: usize = 64;
    let mut dice = Dice::from_input(data);
    let digests = Digests::from_bits(dice.below(4) as u8);
    let config = HostConfig {
        digests,
        hpda: dice.below(32) as u8,
        ..HostConfig::default()
    };
    let limits = Limits {
        cpda: dice.below(32) as u8,
        h2c_data_bytes: 4096 << dice.below(5),
        c2h_data_bytes: 4096 << dice.below(5),
        r2t_bytes: 4096 << dice.below(5),
        ..Limits::default()
    };
    let mut link = Link::new(config, limits, BLOCKS, Cut::Random, dice);
    link.connect();
    let flow = link.dice.one_in(2);
    link.controller.set_sq_flow_control(flow);
    let mut model = vec![0; BLOCKS * BLOCK];
    for _ in 0..64 {
        if !link.dice.has_input() || !link.host.can_submit() {
            break;
        }
        let blocks = 1 + link.dice.below(BLOCKS);
        let slba = link.dice.below(BLOCKS + 1 - blocks);
        let range = slba * BLOCK..(slba + blocks) * BLOCK;
        let whole = digests.header && digests.data;
        let break_it = whole && link.dice.one_in(8);
        if link.dice.one_in(2) {
            let bytes = link.dice.bytes(blocks * BLOCK);
            let write = link.write(slba as u64, &bytes);
            if break_it {
                let at = link.dice.below(80 + blocks * BLOCK);
                link.corrupt_to_controller(at);
            }
            match link.finish(write).cqe.status() {
                Status::SUCCESS => model[range].copy_from_slice(&bytes),
                status => assert!(break_it, "{status}"),
            }
        } else {
            let read = link.read(slba as u64, blocks);
            let done = link.finish(read);
            assert!(done.cqe.status().is_success(), "{}", done.cqe.status());
            assert!(
                done.data.to_vec() == model[range],
                "reads see what was written"
            );
        }
        assert!(link.memory == model, "nothing unverified is stored");
    }
}
