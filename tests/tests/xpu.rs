//! Remote arrays behind local devices. The array is the Linux kernel's own target in one guest,
//! the host its own driver in another; ours is between them, with a path over IPv4 and one over
//! IPv6.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::scenario::{self, Digests};
use tests::{Family, Guest, GuestOptions, Net, Server, ServerOptions};

const ARRAY: &str = "nqn.2026-01.org.example:array";
const DISK: &str = "nqn.2026-01.org.example:disk";
const CONTROLLER: &str = "/v1/nvmeRemoteControllers/rc";
const VOLUME: &str = "nvmeRemoteControllers/rc/nvmeRemoteNamespaces/n1";

/// The paths, by the family that they use.
const PATHS: [(&str, Family); 2] = [("v4", Family::V4), ("v6", Family::V6)];

/// How long a path may take to be lost or to come back. The keep-alive time-out is five seconds,
/// and the longest pause between attempts ten.
const PATIENCE: Duration = Duration::from_secs(60);

fn array(net: &Net) -> Guest {
    let options = GuestOptions {
        number: 2,
        ..GuestOptions::default()
    };
    let mut array = Guest::boot(net, &options);
    array.run(&scenario::reference_target(ARRAY)).ok();
    array
}

/// Gives the server its paths to the array, and hosts the disk behind them.
fn attach(server: &Server<'_>, array: &Guest) {
    server.create_remote("rc");
    for (id, family) in PATHS {
        let address = array.address(family);
        server.create_path("rc", id, (&address, family), ARRAY);
        wait_path(server, id, true);
    }
    let listed = server
        .get(&format!("{CONTROLLER}/nvmeRemoteNamespaces"))
        .ok();
    let first = &listed["nvmeRemoteNamespaces"][0];
    assert_eq!(first["name"], VOLUME, "{listed}");
    assert_eq!(first["nsid"], 1, "{listed}");
    server.export("s0", DISK, VOLUME);
}

fn is_ready(server: &Server<'_>, name: &str) -> bool {
    let seen = server.get(&format!("/ext/v1/observations/{name}")).ok();
    seen["state"] == "STATE_READY"
}

#[track_caller]
fn wait_until(server: &Server<'_>, name: &str, ready: bool) {
    let until = Instant::now() + PATIENCE;
    while is_ready(server, name) != ready {
        let seen = server.get(&format!("/ext/v1/observations/{name}")).ok();
        assert!(Instant::now() < until, "not ready = {ready}: {seen}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn wait_path(server: &Server<'_>, id: &str, ready: bool) {
    let name = format!("nvmeRemoteControllers/rc/nvmePaths/{id}");
    wait_until(server, &name, ready);
}

/// Reads that ended on a path.
fn reads(server: &Server<'_>, id: &str) -> u64 {
    let stats: Value = server
        .get(&format!("{CONTROLLER}/nvmePaths/{id}:stats"))
        .ok();
    stats["stats"]["readOpsCount"].as_u64().unwrap_or_default()
}

#[test]
fn a_linux_host_on_a_linux_array_sees_no_error_while_paths_are_cut() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    let mut array = array(&net);
    attach(&server, &array);
    let mut host = Guest::boot(&net, &GuestOptions::default());
    host.run(&scenario::connect(Family::V4.server(), DISK, Digests::None))
        .ok();
    host.run(&scenario::compare_data(DISK, 1)).ok();
    host.run(&scenario::start_verifying(DISK, 1)).ok();

    for round in 0..5 {
        if round % 2 == 0 {
            // The array's address is gone: nothing comes back, and nobody says so.
            let address = format!("{}/24 dev eth0", array.address(Family::V4));
            array.run(&format!("ip addr del {address}")).ok();
            wait_path(&server, "v4", false);
            host.run(scenario::VERIFIED_MORE).ok();
            array.run(&format!("ip addr add {address}")).ok();
            wait_path(&server, "v4", true);
        } else {
            // The array closes the port and with it every connection.
            let link = format!("/sys/kernel/config/nvmet/ports/6/subsystems/{ARRAY}");
            array.run(&format!("rm {link}")).ok();
            wait_path(&server, "v6", false);
            host.run(scenario::VERIFIED_MORE).ok();
            let from = format!("/sys/kernel/config/nvmet/subsystems/{ARRAY}");
            array.run(&format!("ln -s {from} {link}")).ok();
            wait_path(&server, "v6", true);
        }
    }
    // The server dies in the middle of it and comes back: the host waits, and goes on.
    server.restart();
    host.run(scenario::VERIFIED_MORE).ok();
    host.run_within(Duration::from_secs(180), scenario::STOP_VERIFYING)
        .ok();
    let errors = host.run("dmesg | grep -c 'I/O error' || true").ok();
    assert_eq!(errors.trim(), "0", "{}", host.console());
}

#[test]
fn the_states_that_the_array_gives_its_paths_are_followed() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let mut array = array(&net);
    attach(&server, &array);
    let mut host = Guest::boot(&net, &GuestOptions::default());
    host.run(&scenario::connect(Family::V6.server(), DISK, Digests::Both))
        .ok();
    let set = |port: &str, state: &str| {
        format!("echo {state} >/sys/kernel/config/nvmet/ports/{port}/ana_groups/1/ana_state")
    };

    for (bad, good) in [("4", "6"), ("6", "4")] {
        for state in ["non-optimized", "inaccessible"] {
            array.run(&set(bad, state)).ok();
            let (used, spared) = (format!("v{good}"), format!("v{bad}"));
            // What is on its way when the state changes may still end there.
            host.run(&scenario::compare_data(DISK, 1)).ok();
            let before = (reads(&server, &used), reads(&server, &spared));
            host.run(&scenario::compare_data(DISK, 1)).ok();
            let after = (reads(&server, &used), reads(&server, &spared));
            assert!(
                after.0 > before.0 + 100,
                "{used} is not used: {before:?} {after:?}"
            );
            assert_eq!(after.1, before.1, "{spared} is {state} and used");
        }
        array.run(&set(bad, "optimized")).ok();
    }
    // Nothing is left: the disk stays, and waits.
    for port in ["4", "6"] {
        array.run(&set(port, "inaccessible")).ok();
    }
    wait_until(&server, VOLUME, false);
    let seen = server.get("/v1/nvmeSubsystems/s0/nvmeNamespaces/n1").ok();
    assert_eq!(seen["status"]["operState"], "OPER_STATE_OFFLINE", "{seen}");
    host.run(&format!("disk_of {DISK} 1")).ok();
    array.run(&set("6", "optimized")).ok();
    wait_until(&server, VOLUME, true);
    host.run(&scenario::compare_data(DISK, 1)).ok();
}

#[test]
fn what_a_linux_array_offers_is_discovered_and_connected() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let mut array = array(&net);
    let (four, six) = (array.address(Family::V4), array.address(Family::V6));
    let nobody = Family::V4.guest(99);
    let empty = "nqn.2026-01.org.example:empty";
    array
        .run(&scenario::reference_referral(empty, &six, &nobody))
        .ok();

    let seen = server.opi(&[
        "discover", "-t", "tcp", "-a", &four, "-s", "4420", "-o", "json",
    ]);
    let page: Value = serde_json::from_str(&seen.ok()).unwrap();
    let entries = page["entries"].as_array().unwrap();
    let found = |subtype: &str, subnqn: &str, traddr: &str| {
        let is = |entry: &&Value| {
            entry["subtype"] == format!("SUBSYSTEM_TYPE_{subtype}")
                && entry["subnqn"] == subnqn
                && entry["traddr"] == traddr
                && entry["trsvcid"] == "4420"
        };
        assert_eq!(entries.iter().filter(is).count(), 1, "{page:#}");
    };
    let discovery = "nqn.2014-08.org.nvmexpress.discovery";
    found("NVM", ARRAY, &four);
    found("NVM", empty, &four);
    found("REFERRAL", discovery, &six);
    found("REFERRAL", discovery, &nobody);
    // The port without discovery, and the one that nobody listens at.
    let refused = server.opi(&["discover", "-a", &four]);
    assert_eq!(refused.status, 1, "{refused}");
    assert!(refused.text.contains("port 8009"), "{refused}");

    // Everything is connected but the referral to nobody, over both ways.
    let all = ["connect-all", "-a", &four, "-s", "4420"];
    for how in ["connected", "already connected"] {
        let done = server.opi(&all);
        assert_eq!(done.status, 1, "{done}");
        assert!(
            done.text
                .contains(&format!("referral to {nobody} port 4420")),
            "{done}"
        );
        for path in [
            "array/nvmePaths/p0",
            "array/nvmePaths/p1",
            "empty/nvmePaths/p0",
        ] {
            let line = format!("nvmeRemoteControllers/{path} {how}");
            assert!(done.text.lines().any(|said| said == line), "{line}: {done}");
        }
        let volume = "nvmeRemoteControllers/array/nvmeRemoteNamespaces/n1";
        assert!(done.text.lines().any(|said| said == volume), "{done}");
    }
    array
        .run("rmdir /sys/kernel/config/nvmet/ports/4/referrals/nobody")
        .ok();
    server.opi(&all).ok();
}
