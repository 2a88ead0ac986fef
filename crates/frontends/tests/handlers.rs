//! What the API may ask for, and the errors it gets.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use api::ext::v1::NvmeSubsystemSettings;
use api::handler::Health;
use api::storage::v1::nvme_controller_spec::Endpoint;
use api::storage::v1::nvme_namespace_status::OperState;
use api::storage::v1::{
    FabricsEndpoint, NvmeController, NvmeControllerSpec, NvmeNamespace, NvmeNamespaceSpec,
    NvmeSubsystem, NvmeSubsystemSpec, NvmeTransportType, PciEndpoint, QosLimit,
};
use blk::{Op, State};
use std::net::TcpListener;
use support::host::{Session, Who};
use support::memory::Memory;
use support::{
    HOST, NQN, OTHER_HOST, Site, code, controller_name, free_address, listen, namespace_name, shows,
};
use wire::nvme::Status;

/// Makes something wrong, or different.
type Edit<'a, S> = &'a dyn Fn(&mut S);

fn spec(nqn: &str) -> NvmeSubsystemSpec {
    NvmeSubsystemSpec {
        nqn: nqn.to_owned(),
        ..NvmeSubsystemSpec::default()
    }
}

#[test]
fn a_subsystem_gets_what_was_left_to_the_server() {
    let site = Site::default();
    let made = site.subsystem("s", NQN);
    let made_spec = made.spec.unwrap();
    assert_eq!(made_spec.model_number, "OPI Storage");
    assert!(made_spec.serial_number.starts_with("OPI") && made_spec.serial_number.len() == 20);
    assert_eq!(
        made.status.unwrap().firmware_revision,
        env!("CARGO_PKG_VERSION")
    );
    let other = Site::default().subsystem("another-id", NQN);
    assert_eq!(
        other.spec.unwrap().serial_number,
        made_spec.serial_number,
        "stable"
    );
}

#[test]
fn a_wrong_subsystem_is_refused_naming_the_field() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let wrong = |field: &str, edit: &dyn Fn(&mut NvmeSubsystemSpec)| {
        let mut spec = spec("nqn.2024-01.org.example:two");
        edit(&mut spec);
        let (code, at, message) = code(site.subsystem_with("t", spec));
        assert_eq!(
            at,
            Some(format!("nvme_subsystem.spec.{field}")),
            "{message}"
        );
        assert!(
            !message.contains('\n') && !message.ends_with('.'),
            "{message}"
        );
        code
    };
    assert_eq!(
        wrong("nqn", &|spec| spec.nqn = NQN.into()),
        "ALREADY_EXISTS"
    );
    let edits: [(&str, Edit<'_, NvmeSubsystemSpec>); 10] = [
        ("nqn", &|spec| spec.nqn = "not-an-nqn".into()),
        ("nqn", &|spec| spec.nqn.clear()),
        ("nqn", &|spec| spec.nqn.push_str(&"x".repeat(200))),
        ("nqn", &|spec| {
            spec.nqn = "nqn.2014-08.org.nvmexpress.discovery".into();
        }),
        ("serial_number", &|spec| spec.serial_number = "x".repeat(21)),
        ("model_number", &|spec| {
            spec.model_number = "caf\u{e9}".into();
        }),
        ("max_namespaces", &|spec| spec.max_namespaces = -1),
        ("max_namespaces", &|spec| spec.max_namespaces = i64::MAX),
        ("hostnqn", &|spec| spec.hostnqn = "x".into()),
        ("psk", &|spec| spec.psk = vec![1]),
    ];
    for (field, edit) in edits {
        assert_eq!(wrong(field, edit), "INVALID_ARGUMENT");
    }
}

#[test]
fn a_subsystem_changes_while_no_host_would_notice() {
    let site = Site::default();
    let old = site.subsystem("s", NQN);
    let address = site.controller("s/c");
    let change = |edit: &dyn Fn(&mut NvmeSubsystemSpec)| {
        let mut new = old.clone();
        edit(new.spec.as_mut().unwrap());
        site.update::<NvmeSubsystem>("nvmeSubsystems/s", None, &old, &new)
    };
    change(&|spec| spec.model_number = "Other".into()).unwrap();
    let mut session = Session::to(address);
    assert_eq!(&session.admin.identify_controller().mn[..6], b"Other ");
    let (refused, field, message) = code(change(&|spec| spec.serial_number = "1".into()));
    assert_eq!(refused, "FAILED_PRECONDITION");
    assert_eq!(field.as_deref(), Some("nvme_subsystem.spec.serial_number"));
    assert!(message.contains(HOST), "{message}");
    // Access is another matter: the host has to go at once.
    change(&|spec| {
        spec.model_number = "Other".into();
        spec.hostnqn = OTHER_HOST.into();
    })
    .unwrap();
    session.admin.wait_closed();
    assert!(Session::connect(address, NQN, Who::default()).is_err());
    assert!(Session::connect(address, NQN, Who::other()).is_ok());
}

#[test]
fn nsids_are_chosen_or_assigned_and_never_twice() {
    let site = Site::default();
    site.subsystem_with(
        "s",
        NvmeSubsystemSpec {
            max_namespaces: 4,
            ..spec(NQN)
        },
    )
    .unwrap();
    let make = |id: &str, number: u8, nsid: i32| {
        let mut spec = shows("mallocVolumes/m");
        spec.host_nsid = nsid;
        let made = site.namespace_with(id, Some(Memory::numbered(number, 8)), spec, false);
        made.map(|made| made.spec.unwrap().host_nsid)
    };
    assert_eq!(make("s/a", 1, 2).unwrap(), 2);
    assert_eq!(make("s/b", 2, 0).unwrap(), 1);
    assert_eq!(make("s/c", 3, 0).unwrap(), 3);
    let nsid = Some("nvme_namespace.spec.host_nsid".to_owned());
    for (wish, expected) in [
        (2, "ALREADY_EXISTS"),
        (5, "INVALID_ARGUMENT"),
        (-1, "INVALID_ARGUMENT"),
    ] {
        let (refused, field, _) = code(make("s/d", 4, wish));
        assert_eq!((refused, field), (expected, nsid.clone()));
    }
    make("s/d", 4, 0).unwrap();
    assert_eq!(code(make("s/e", 5, 0)).0, "RESOURCE_EXHAUSTED");
    assert_eq!(make("s/a", 1, 2).unwrap(), 2, "the same again");
}

#[test]
fn identifiers_are_honoured_and_unique() {
    let site = Site::default();
    site.subsystem("s", NQN);
    site.subsystem("t", "nqn.2024-01.org.example:two");
    let id = "1b4e28ba-2fa1-11d2-883f-b9a761bde3fb";
    let mut one = shows("mallocVolumes/m");
    (one.uuid, one.nguid, one.eui64) = (id.into(), id.replace('-', ""), 0x1b4e_28ba_2fa1_11d2);
    let volume = Memory::new(8);
    site.namespace_with("s/a", Some(volume.clone()), one.clone(), false)
        .unwrap();
    let address = site.controller("s/c");
    let namespace = Session::to(address).admin.identify_namespace(1);
    assert_eq!(namespace.nguid[..4], [0x1b, 0x4e, 0x28, 0xba]);
    assert_eq!(namespace.eui64, 0x1b4e_28ba_2fa1_11d2_u64.to_be_bytes());
    let (refused, field, message) =
        code(site.namespace_with("t/b", Some(Memory::numbered(2, 8)), one.clone(), false));
    assert_eq!(refused, "ALREADY_EXISTS", "{message}");
    assert_eq!(field.as_deref(), Some("nvme_namespace.spec.uuid"));
    // The same volume twice in one subsystem would confuse its hosts; in two it is one disk.
    let plain = shows("mallocVolumes/m");
    site.namespace_with("t/b", Some(volume.clone()), plain.clone(), false)
        .unwrap();
    let again = site.namespace_with("t/c", Some(volume.clone()), plain, false);
    assert_eq!(code(again).0, "ALREADY_EXISTS");
    for wrong in [
        "x",
        "1b4e28ba",
        "00000000-0000-0000-0000-000000000000",
        "{1b4e28ba}",
    ] {
        let mut spec = shows("mallocVolumes/m");
        spec.nguid = wrong.into();
        let made = site.namespace_with("s/d", Some(Memory::numbered(3, 8)), spec, false);
        assert_eq!(
            code(made).1.as_deref(),
            Some("nvme_namespace.spec.nguid"),
            "{wrong}"
        );
    }
}

#[test]
fn wishes_at_the_same_time_never_get_the_same_identifiers() {
    const CLIENTS: i32 = 8;
    let site = Site::default();
    site.subsystem("s", NQN);
    let (mut nsids, mut cntlids, mut uuids) = (Vec::new(), Vec::new(), 0);
    std::thread::scope(|scope| {
        let site = &site;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let volume = Memory::numbered(client as u8 + 1, 8);
                    let nsid = site.namespace(&format!("s/n{client}"), volume);
                    let mut same = shows("mallocVolumes/m");
                    same.uuid = "ab".repeat(16);
                    let volume = Memory::numbered(client as u8 + 100, 8);
                    let id = format!("s/u{client}");
                    let won = site.namespace_with(&id, Some(volume), same, false).is_ok();
                    let spec = listen(free_address("127.0.0.1"));
                    let made = site.controller_with(&format!("s/c{client}"), spec).unwrap();
                    (nsid, won, made.spec.unwrap().nvme_controller_id.unwrap())
                })
            })
            .collect();
        for client in clients {
            let (nsid, won, cntlid) = client.join().unwrap();
            nsids.push(nsid);
            cntlids.push(cntlid);
            uuids += usize::from(won);
        }
    });
    nsids.sort_unstable();
    nsids.dedup();
    cntlids.sort_unstable();
    let ranges: Vec<i32> = (0..CLIENTS).map(|client| client * 1024 + 1).collect();
    assert_eq!((nsids.len(), uuids, cntlids), (CLIENTS as usize, 1, ranges));
}

#[test]
fn a_namespace_shows_its_state_and_identifiers() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let volume = Memory::new(8);
    let made = site
        .namespace_with("s/n", Some(volume.clone()), shows("mallocVolumes/m"), false)
        .unwrap();
    let name = namespace_name("s/n");
    assert_eq!(
        made.spec.as_ref().unwrap().uuid,
        "",
        "what was left out is not fixed"
    );
    let (seen, observed) = site.observe::<NvmeNamespace>(&name, &made);
    assert_eq!(
        seen.spec.unwrap().uuid,
        "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"
    );
    assert_eq!(
        seen.status.unwrap().oper_state,
        i32::from(OperState::Online)
    );
    assert_eq!(observed.health, Health::Online);
    volume.set_state(State::Offline("the disk fell out".into()));
    let (seen, observed) = site.observe::<NvmeNamespace>(&name, &made);
    assert_eq!(
        seen.status.unwrap().oper_state,
        i32::from(OperState::Offline)
    );
    assert_eq!(observed.health, Health::Offline("the disk fell out".into()));
}

#[test]
fn what_hosts_know_a_namespace_by_cannot_change() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let volume = Memory::new(8);
    let old = site
        .namespace_with("s/n", Some(volume.clone()), shows("mallocVolumes/m"), false)
        .unwrap();
    let change = |edit: &dyn Fn(&mut NvmeNamespaceSpec)| {
        let mut new = old.clone();
        edit(new.spec.as_mut().unwrap());
        let made = site.update(&namespace_name("s/n"), Some(volume.clone()), &old, &new);
        code(made.map(|made: NvmeNamespace| assert_eq!(made.spec.unwrap().host_nsid, 1)))
    };
    assert_eq!(change(&|_| ()).0, "OK");
    assert_eq!(change(&|spec| spec.host_nsid = 0).0, "OK", "left out");
    assert_eq!(
        change(&|spec| spec.uuid = "5a".repeat(16)).0,
        "OK",
        "what it is already"
    );
    let edits: [(Edit<'_, NvmeNamespaceSpec>, &str); 5] = [
        (
            &|spec: &mut NvmeNamespaceSpec| spec.host_nsid = 2,
            "host_nsid",
        ),
        (
            &|spec| spec.volume_name_ref = "mallocVolumes/x".into(),
            "volume_name_ref",
        ),
        (&|spec| spec.uuid = "12".repeat(16), "uuid"),
        (&|spec| spec.nguid = "12".repeat(16), "nguid"),
        (&|spec| spec.eui64 = 5, "eui64"),
    ];
    for (edit, field) in edits {
        let (refused, at, _) = change(edit);
        assert_eq!(refused, "FAILED_PRECONDITION", "{field}");
        assert_eq!(at, Some(format!("nvme_namespace.spec.{field}")));
    }
}

/// Creates a controller with one thing wrong, and gives the code of the error about it.
fn wrong_controller(site: &Site, field: &str, edit: Edit<'_, NvmeControllerSpec>) -> &'static str {
    let mut spec = listen(free_address("127.0.0.1"));
    edit(&mut spec);
    let (code, at, message) = code(site.controller_with("s/c", spec));
    assert_eq!(
        at,
        Some(format!("nvme_controller.spec.{field}")),
        "{message}"
    );
    code
}

#[test]
fn a_controller_at_a_wrong_address_is_refused_naming_the_field() {
    fn endpoint(spec: &mut NvmeControllerSpec) -> &mut FabricsEndpoint {
        let Some(Endpoint::FabricsId(fabrics)) = &mut spec.endpoint else {
            unreachable!()
        };
        fabrics
    }
    let site = Site::default();
    site.subsystem("s", NQN);
    for other in [
        NvmeTransportType::Rdma,
        NvmeTransportType::Pcie,
        NvmeTransportType::Fc,
    ] {
        let code = wrong_controller(&site, "trtype", &|spec| spec.trtype = other.into());
        assert_eq!(code, "UNIMPLEMENTED");
    }
    let pcie = || Some(Endpoint::PcieId(PciEndpoint::default()));
    let edits: [(&str, Edit<'_, NvmeControllerSpec>); 9] = [
        ("trtype", &|spec| spec.trtype = 0),
        ("fabrics_id", &|spec| spec.endpoint = None),
        ("pcie_id", &|spec| spec.endpoint = pcie()),
        ("fabrics_id.traddr", &|spec| {
            endpoint(spec).traddr = "localhost".into();
        }),
        ("fabrics_id.traddr", &|spec| {
            endpoint(spec).traddr = "224.0.0.1".into();
        }),
        ("fabrics_id.trsvcid", &|spec| {
            endpoint(spec).trsvcid = "0".into();
        }),
        ("fabrics_id.trsvcid", &|spec| {
            endpoint(spec).trsvcid = "65536".into();
        }),
        ("fabrics_id.adrfam", &|spec| endpoint(spec).adrfam = 2),
        ("fabrics_id.adrfam", &|spec| endpoint(spec).adrfam = 0),
    ];
    for (field, edit) in edits {
        assert_eq!(wrong_controller(&site, field, edit), "INVALID_ARGUMENT");
    }
}

#[test]
fn a_controller_with_wrong_limits_is_refused_naming_the_field() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let qos = QosLimit {
        rd_iops_kiops: 1,
        ..QosLimit::default()
    };
    let edits: [(&str, Edit<'_, NvmeControllerSpec>); 8] = [
        ("max_nsq", &|spec| spec.max_nsq = -1),
        ("max_ncq", &|spec| spec.max_ncq = i32::MIN),
        ("sqes", &|spec| spec.sqes = 5),
        ("cqes", &|spec| spec.cqes = 3),
        ("nvme_controller_id", &|spec| {
            spec.nvme_controller_id = Some(70_000);
        }),
        ("max_namespaces", &|spec| spec.max_namespaces = -4),
        ("min_limit", &|spec| spec.min_limit = Some(qos)),
        ("max_limit", &|spec| spec.max_limit = Some(qos)),
    ];
    for (field, edit) in edits {
        assert_eq!(wrong_controller(&site, field, edit), "INVALID_ARGUMENT");
    }
}

#[test]
fn a_port_in_use_or_an_address_of_another_machine_is_a_failed_precondition() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let (refused, _, message) = code(site.controller_with("s/c", listen(address)));
    assert_eq!(refused, "FAILED_PRECONDITION");
    assert!(message.contains(&address.to_string()), "{message}");
    drop(taken);
    site.controller_with("s/c", listen(address)).unwrap();
    let elsewhere = "192.0.2.1:4420".parse().unwrap();
    let (refused, _, message) = code(site.controller_with("s/d", listen(elsewhere)));
    assert_eq!(refused, "FAILED_PRECONDITION", "{message}");
}

#[test]
fn cntlid_ranges_are_chosen_or_assigned_and_never_begin_alike() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let make = |id: &str, wish: Option<i32>| {
        let address = free_address("127.0.0.1");
        let mut spec = listen(address);
        spec.nvme_controller_id = wish;
        let made = site.controller_with(id, spec)?;
        Ok((address, made.spec.unwrap().nvme_controller_id.unwrap()))
    };
    let (first, start) = make("s/a", None).unwrap();
    assert_eq!(start, 1);
    assert_eq!(make("s/b", Some(-1)).unwrap().1, 1025);
    let (third, _) = make("s/c", Some(5000)).unwrap();
    assert_eq!(code(make("s/d", Some(5000))).0, "ALREADY_EXISTS");
    assert_eq!(Session::to(first).admin.cntlid, 1);
    let hosts: Vec<Session> = (0..3).map(|_| Session::to(third)).collect();
    assert_eq!(
        hosts.iter().map(|h| h.admin.cntlid).collect::<Vec<_>>(),
        [5000, 5001, 5002]
    );
}

#[test]
fn cntlids_stay_within_the_range_of_the_subsystem() {
    let site = Site::default();
    let subsystem = site.subsystem("s", NQN);
    let set = |first: Option<u32>, last: Option<u32>| {
        let settings = NvmeSubsystemSettings {
            cntlid_min: first,
            cntlid_max: last,
            ..NvmeSubsystemSettings::default()
        };
        code(site.set("nvmeSubsystems/s", &subsystem, &settings))
    };
    let make = |id: &str, wish: Option<i32>| {
        let address = free_address("127.0.0.1");
        let mut spec = listen(address);
        spec.nvme_controller_id = wish;
        let made = site.controller_with(id, spec)?;
        Ok((address, made.spec.unwrap().nvme_controller_id.unwrap()))
    };
    for (first, last, field) in [
        (Some(9), Some(8), "cntlid_max"),
        (None, Some(65_520), "cntlid_max"),
        (Some(1 << 20), None, "cntlid_min"),
    ] {
        let (refused, at, message) = set(first, last);
        assert_eq!(
            (refused, at.as_deref()),
            ("INVALID_ARGUMENT", Some(field)),
            "{message}"
        );
    }
    assert_eq!(set(Some(100), Some(101)).0, "OK");
    let (address, start) = make("s/a", None).unwrap();
    assert_eq!(start, 100, "the server chooses within it");
    assert_eq!(code(make("s/b", None)).0, "RESOURCE_EXHAUSTED");
    for wish in [99, 102] {
        assert_eq!(code(make("s/b", Some(wish))).0, "FAILED_PRECONDITION");
    }
    let hosts = [100, 101].map(|cntlid| {
        let host = Session::to(address);
        assert_eq!(host.admin.cntlid, cntlid);
        host
    });
    let busy = Session::connect(address, NQN, Who::default())
        .err()
        .unwrap();
    assert!(busy.status().is(Status::CONTROLLER_BUSY));
    // Nobody is pushed out of it.
    let (refused, _, message) = set(Some(101), None);
    assert_eq!(refused, "FAILED_PRECONDITION");
    assert!(message.contains("nvmeControllers/a"), "{message}");
    let (refused, _, message) = set(None, Some(100));
    assert_eq!(refused, "FAILED_PRECONDITION");
    assert!(message.contains(HOST), "{message}");
    assert_eq!(set(None, None).0, "OK");
    assert_eq!(Session::to(address).admin.cntlid, 102);
    drop(hosts);
}

#[test]
fn a_controller_is_active_while_a_host_is_connected_and_closes_when_deleted() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let address = free_address("::1");
    let made = site.controller_with("s/c", listen(address)).unwrap();
    let name = controller_name("s/c");
    let active = || {
        site.observe::<NvmeController>(&name, &made)
            .0
            .status
            .unwrap()
            .active
    };
    assert!(!active());
    let mut session = Session::to(address);
    assert!(active());
    site.delete(&name).unwrap();
    session.admin.wait_closed();
    assert!(TcpListener::bind(address).is_ok(), "the port is free again");
    site.delete(&name).unwrap();
    // The same address, for another subsystem this time.
    site.subsystem("t", "nqn.2024-01.org.example:two");
    site.controller_with("t/c", listen(address)).unwrap();
}

#[test]
fn limits_of_a_controller_change_in_place_and_its_address_does_not() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let old = site
        .controller_with("s/c", listen(free_address("127.0.0.1")))
        .unwrap();
    let mut new = old.clone();
    let spec = new.spec.as_mut().unwrap();
    (spec.max_nsq, spec.max_ncq, spec.sqes, spec.cqes) = (8, 7, 6, 5);
    spec.nvme_controller_id = None;
    let made = site
        .update(&controller_name("s/c"), None, &old, &new)
        .unwrap();
    assert_eq!(made.spec.unwrap().nvme_controller_id, Some(1));
    let mut moved = old.clone();
    moved.spec = Some(listen(free_address("127.0.0.1")));
    let (refused, field, _) = code(site.update(&controller_name("s/c"), None, &old, &moved));
    assert_eq!(refused, "FAILED_PRECONDITION");
    assert_eq!(
        field.as_deref(),
        Some("nvme_controller.spec.fabrics_id.traddr")
    );
}

#[test]
fn statistics_outlive_connections_and_volumes() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    Session::to(address);
    {
        let session = Session::to(address);
        let mut io = session.io(1);
        io.write(1, 0, 1, &[1; 4096]);
    }
    let name = namespace_name("s/n");
    let writes = || {
        let (_, observed) = site.observe(&name, &NvmeNamespace::default());
        observed.stats.unwrap().op(Op::Write).ops
    };
    assert_eq!(writes(), 1);
    site.namespace_with("s/n", None, shows("mallocVolumes/m"), true)
        .unwrap();
    assert_eq!(writes(), 1);
}
