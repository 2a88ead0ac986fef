//! An unmodified Linux 6.12 host against our NVMe/TCP front-end: it connects, keeps its data
//! through a crash of the server, and sees changes as they happen.

use std::time::Duration;

use serde_json::json;
use tests::scenario::{self, Digests};
use tests::{Family, Guest, GuestOptions, Net, Server, ServerOptions};

const NQN: &str = "nqn.2026-01.org.example:disk";
const OTHER: &str = "nqn.2026-01.org.example:other";

/// 64 MiB of 4 KiB blocks.
const SMALL: u64 = 16 * 1024;

#[test]
fn a_linux_host_discovers_and_connects_over_both_families_with_every_digest() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", SMALL);
    server.create_malloc("m1", SMALL);
    server.export("s0", NQN, "mallocVolumes/m0");
    server.export("s1", OTHER, "mallocVolumes/m1");
    let mut host = Guest::boot(&net, &GuestOptions::default());

    for family in [Family::V4, Family::V6] {
        let log = host.run(&scenario::discover(family.server())).ok();
        assert!(log.contains(NQN) && log.contains(OTHER), "{log}");
        host.run(&scenario::connect_all(family.server())).ok();
        host.run(&format!("until_ok 20 controller_of {OTHER}")).ok();
        host.run(&scenario::compare_data(NQN, 1)).ok();
        host.run(&scenario::compare_data(OTHER, 1)).ok();
        host.run("nvme disconnect-all").ok();
        host.run(&format!("until_ok 20 not controller_of {NQN}"))
            .ok();
        for digests in Digests::ALL {
            host.run(&scenario::connect(family.server(), NQN, digests))
                .ok();
            host.run(&scenario::compare_data(NQN, 1)).ok();
            host.run(&scenario::disconnect(NQN)).ok();
        }
    }
    let stats = server.get("/v1/mallocVolumes/m0:stats").ok();
    let reads = stats["stats"]["readOpsCount"].as_i64().unwrap_or_default();
    assert!(
        reads > 100,
        "the volume counted only {reads} reads: {stats}"
    );
}

#[test]
fn a_mounted_file_system_goes_on_after_the_server_is_killed_and_started_again() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    server.create_aio("a0", &server.file("disk"), 64 * 1024);
    server.export("s0", NQN, "aioVolumes/a0");
    let mut host = Guest::boot(&net, &GuestOptions::default());
    host.run(&scenario::connect(Family::V4.server(), NQN, Digests::Both))
        .ok();

    // A file system that was unmounted in order is there again after a restart.
    host.run(&scenario::make_file_system(NQN, 1)).ok();
    host.run("umount /mnt").ok();
    server.restart();
    host.run(&format!("set -e; mount $(wait_disk {NQN} 1) /mnt"))
        .ok();
    host.run(scenario::CHECK_FIRST_FILES).ok();

    // One that is mounted and being written to waits, and goes on.
    host.run(scenario::START_WRITING).ok();
    for _ in 0..2 {
        let before = written(&mut host);
        server.restart();
        let script = format!(
            "more() {{ [ $(wc -l </run/second.sums) -gt $(({before} + 3)) ]; }}; until_ok 90 more"
        );
        host.run(&script).ok();
    }
    host.run_within(Duration::from_secs(180), scenario::STOP_WRITING)
        .ok();
    host.run(scenario::CHECK_FIRST_FILES).ok();
    host.run(&scenario::check_file_system(NQN, 1)).ok();
}

fn written(host: &mut Guest) -> u32 {
    host.run(scenario::COUNT_WRITTEN)
        .ok()
        .trim()
        .parse()
        .expect("wc prints a number")
}

#[test]
fn fio_verifies_four_jobs_at_depth_32_on_a_file_and_on_memory() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_aio("a0", &server.file("disk"), SMALL);
    server.create_malloc("m0", SMALL);
    server.export("s0", NQN, "aioVolumes/a0");
    server.create_namespace("s0", "n2", "mallocVolumes/m0", 2);
    let mut host = Guest::boot(&net, &GuestOptions::default());

    host.run(&scenario::connect(Family::V4.server(), NQN, Digests::None))
        .ok();
    host.run_within(Duration::from_secs(240), &scenario::fio_verify(NQN, 1))
        .ok();
    host.run(&scenario::disconnect(NQN)).ok();
    host.run(&scenario::connect(Family::V6.server(), NQN, Digests::Both))
        .ok();
    host.run_within(Duration::from_secs(240), &scenario::fio_verify(NQN, 2))
        .ok();
}

#[test]
fn without_io_uring_everything_works_the_same() {
    let net = Net::new();
    let options = ServerOptions {
        arguments: vec!["--io-engine".into(), "epoll".into()],
        ..ServerOptions::default()
    };
    let server = Server::start(&net, options);
    server.create_aio("a0", &server.file("disk"), SMALL);
    server.export("s0", NQN, "aioVolumes/a0");
    let mut host = Guest::boot(&net, &GuestOptions::default());
    host.run(&scenario::connect(Family::V6.server(), NQN, Digests::Data))
        .ok();
    host.run(&scenario::compare_data(NQN, 1)).ok();
    host.run(&scenario::make_file_system(NQN, 1)).ok();
    host.run(scenario::CHECK_FIRST_FILES).ok();
    host.run(&scenario::check_file_system(NQN, 1)).ok();
}

#[test]
fn namespaces_appear_change_size_and_disappear_while_the_host_is_connected() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", SMALL);
    server.create_malloc("m1", SMALL);
    server.export("s0", NQN, "mallocVolumes/m0");
    let mut host = Guest::boot(&net, &GuestOptions::default());
    host.run(&scenario::connect(Family::V4.server(), NQN, Digests::None))
        .ok();
    host.run(&format!("wait_disk {NQN} 1 && not disk_of {NQN} 2"))
        .ok();

    server.create_namespace("s0", "n2", "mallocVolumes/m1", 2);
    host.run(&scenario::compare_data(NQN, 2)).ok();

    let grown = json!({"blockSize": "4096", "blocksCount": (2 * SMALL).to_string()});
    server.patch("/v1/mallocVolumes/m1", &grown).ok();
    let bytes = 2 * SMALL * 4096;
    host.run(&format!(
        "disk=$(wait_disk {NQN} 2); grown() {{ [ $(blockdev --getsize64 $disk) = {bytes} ]; }}; \
         until_ok 30 grown"
    ))
    .ok();

    server
        .delete("/v1/nvmeSubsystems/s0/nvmeNamespaces/n2")
        .ok();
    host.run(&format!("no_disk {NQN} 2 && disk_of {NQN} 1"))
        .ok();
    host.run(&scenario::compare_data(NQN, 1)).ok();
}

#[test]
fn a_persistent_discovery_connection_tells_the_host_of_what_is_new_there() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", SMALL);
    server.create_malloc("m1", SMALL);
    server.export("s0", NQN, "mallocVolumes/m0");
    let mut host = Guest::boot(&net, &GuestOptions::default());
    let address = Family::V4.server();
    host.run(scenario::TRACE_EVENTS).ok();
    let log = host.run(&scenario::discover_and_stay(address)).ok();
    assert!(log.contains(NQN) && !log.contains(OTHER), "{log}");
    host.run(&format!("not {}", scenario::DISCOVERY_CHANGED))
        .ok();

    server.export("s1", OTHER, "mallocVolumes/m1");
    host.run(&format!("until_ok 20 {}", scenario::DISCOVERY_CHANGED))
        .ok();
    let log = host.run(scenario::DISCOVER_AGAIN).ok();
    assert!(log.contains(NQN) && log.contains(OTHER), "{log}");
    host.run(&scenario::connect(address, OTHER, Digests::None))
        .ok();
    host.run(&scenario::compare_data(OTHER, 1)).ok();
}

#[test]
fn the_commands_of_nvme_cli_are_answered() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server.create_malloc("m0", SMALL);
    let spec = json!({"nqn": NQN, "serialNumber": "OPI-0042", "modelNumber": "A model of ours"});
    server.create_subsystem_with("s0", &spec);
    server.create_listener("s0", "v4", Family::V4);
    server.create_namespace("s0", "n1", "mallocVolumes/m0", 1);
    let mut host = Guest::boot(&net, &GuestOptions::default());
    host.run(&scenario::connect(
        Family::V4.server(),
        NQN,
        Digests::Header,
    ))
    .ok();

    let said = host.run(&scenario::admin_commands(NQN, 1)).ok();
    assert!(
        said.contains("OPI-0042") && said.contains("A model of ours"),
        "{said}"
    );
    host.run(&format!(
        "set -e; disk=$(wait_disk {NQN} 1); ctrl=$(controller_of {NQN})
nvme resv-report $disk --eds --numd=16 || nvme resv-report $disk
nvme flush $disk
nvme write-zeroes $disk -s 0 -c 7
nvme dsm $disk -d -s 8 -b 8
nvme verify $disk -s 0 -c 7
blkdiscard -o 65536 -l 65536 $disk
nvme get-feature $ctrl -f 0x0e
nvme get-feature $ctrl -f 0x81 --cdw11=1 --data-len=16
nvme supported-log-pages $ctrl"
    ))
    .ok();
}

#[test]
fn reservations_keep_a_second_host_from_writing_even_after_a_crash() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    server.create_aio("a0", &server.file("disk"), SMALL);
    server.export("s0", NQN, "aioVolumes/a0");
    let mut one = Guest::boot(&net, &GuestOptions::default());
    let mut two = Guest::boot(
        &net,
        &GuestOptions {
            number: 2,
            ..GuestOptions::default()
        },
    );
    for host in [&mut one, &mut two] {
        host.run(&scenario::connect(Family::V4.server(), NQN, Digests::None))
            .ok();
        host.run(&format!("wait_disk {NQN} 1")).ok();
    }
    one.run(&format!(
        "set -e; disk=$(disk_of {NQN} 1)
nvme resv-register $disk --nrkey=0x1111 --rrega=0 --cptpl=3
nvme resv-acquire $disk --crkey=0x1111 --rtype=1 --racqa=0"
    ))
    .ok();
    let write =
        format!("dd if=/dev/zero of=$(disk_of {NQN} 1) bs=4k count=1 oflag=direct conv=fsync 2>&1");
    one.run(&write).ok();
    two.run(&write).err();

    server.restart();
    for host in [&mut one, &mut two] {
        host.run(&format!(
            "until_ok 60 grep -qx live /sys/class/nvme/nvme0/state; \
                           wait_disk {NQN} 1"
        ))
        .ok();
    }
    two.run(&write).err();
    one.run(&write).ok();
    let report = one
        .run(&format!("nvme resv-report $(disk_of {NQN} 1) --eds"))
        .ok();
    assert!(report.contains("1111"), "{report}");
    one.run(&format!(
        "nvme resv-release $(disk_of {NQN} 1) --crkey=0x1111 --rtype=1 --rrela=0"
    ))
    .ok();
    two.run(&write).ok();
}

#[test]
fn a_host_sees_a_volume_only_if_its_nqn_is_allowed() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let mut one = Guest::boot(&net, &GuestOptions::default());
    let mut two = Guest::boot(
        &net,
        &GuestOptions {
            number: 2,
            ..GuestOptions::default()
        },
    );
    server.create_malloc("m0", SMALL);
    server.create_subsystem_with("s0", &json!({"nqn": NQN, "hostnqn": one.host_nqn()}));
    server.create_listener("s0", "v4", Family::V4);
    server.create_namespace("s0", "n1", "mallocVolumes/m0", 1);

    let address = Family::V4.server();
    assert!(one.run(&scenario::discover(address)).ok().contains(NQN));
    one.run(&scenario::connect(address, NQN, Digests::None))
        .ok();
    one.run(&scenario::compare_data(NQN, 1)).ok();

    let seen = two.run(&scenario::discover(address));
    assert!(
        !seen.text.contains(NQN),
        "a host that is not allowed discovers it: {seen}"
    );
    two.run(&scenario::connect(address, NQN, Digests::None))
        .err();
    two.run(&format!("not controller_of {NQN}")).ok();
}
