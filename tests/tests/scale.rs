//! Many resources: how long they take, and what they cost while nothing happens.
//!
//! The limits on time leave room for a slow or busy machine; `docs/performance.md` has the
//! measured figures. Processor time and memory do not depend on who else is busy.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use tests::scenario::{self, Digests};
use tests::{Family, Guest, GuestOptions, Net, Server, ServerOptions};

/// How much slower than required a test machine may be before it is called a failure.
const SLACK: f64 = 3.0;

#[test]
fn a_thousand_volumes_are_exported_and_deleted_in_seconds() {
    let net = Net::new();
    let mut server = Server::start(&net, ServerOptions::default());
    let made = seconds(
        &server
            .python("scale.py", &[Server::GRPC, "1000", "make"])
            .ok(),
    );

    server.kill9();
    let begun = Instant::now();
    server.launch();
    let start = begun.elapsed().as_secs_f64();
    let removed = seconds(
        &server
            .python("scale.py", &[Server::GRPC, "1000", "remove"])
            .ok(),
    );
    println!("made in {made:.1} s, started in {start:.1} s, removed in {removed:.1} s");
    assert!(
        made + removed < 10.0 * SLACK,
        "made in {made} s, removed in {removed} s"
    );
    assert!(
        start < 2.0 * SLACK,
        "a start with 1000 volumes took {start} s"
    );
    let left = server.get("/v1/mallocVolumes").ok();
    assert!(
        left["mallocVolumes"].as_array().is_none_or(Vec::is_empty),
        "{left}"
    );
}

/// The last line of what `scale.py` prints.
fn seconds(text: &str) -> f64 {
    let last = text.lines().last().unwrap_or_default();
    last.parse()
        .unwrap_or_else(|_| panic!("no seconds in {text}"))
}

#[test]
fn idle_connections_and_volumes_cost_next_to_nothing() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    server
        .python("scale.py", &[Server::GRPC, "256", "make"])
        .ok();
    server.create_listener("s0", "v4", Family::V4);
    let mut host = Guest::boot(&net, &GuestOptions::default());
    let nqn = "nqn.2026-01.org.example:scale0";
    host.run(&scenario::connect(Family::V4.server(), nqn, Digests::None))
        .ok();
    // Each controller is one connection for its admin queue and one per processor.
    host.run(&format!(
        "set -e; for i in 2 3 4 5 6; do
nvme connect -t tcp -a {} -s {} -n {nqn} --duplicate-connect; done
until_ok 30 test $(ls -d /sys/class/nvme/nvme*/ | wc -l) -ge 6",
        Family::V4.server(),
        scenario::PORT
    ))
    .ok();
    // Scanning a hundred namespaces over six paths is not idling.
    let pid = server.pid().expect("the server runs");
    let quiet = |limit: Duration| -> f64 {
        let before = cpu_seconds(pid);
        thread::sleep(limit);
        (cpu_seconds(pid) - before) / limit.as_secs_f64()
    };
    let settled = Instant::now() + Duration::from_secs(60);
    while quiet(Duration::from_secs(2)) > 0.01 && Instant::now() < settled {}

    let share = quiet(Duration::from_secs(10));
    let resident = resident_mib(pid);
    println!(
        "idle: {:.2} % of a core, {resident} MiB resident",
        share * 100.0
    );
    assert!(
        share < 0.01,
        "an idle server uses {:.2} % of a core",
        share * 100.0
    );
    assert!(
        resident < 150,
        "an idle server keeps {resident} MiB resident"
    );
}

#[test]
fn many_remote_controllers_connect_in_seconds_and_cost_next_to_nothing() {
    const CONTROLLERS: u32 = 64;
    let net = Net::new();
    let array = Server::start(&net, ServerOptions::default());
    let nqn = "nqn.2026-01.org.example:array";
    array.create_malloc("m0", 1024);
    array.export("s0", nqn, "mallocVolumes/m0");
    let options = ServerOptions {
        number: 1,
        ..ServerOptions::default()
    };
    let xpu = Server::start(&net, options);

    let begun = Instant::now();
    for number in 0..CONTROLLERS {
        let id = format!("rc{number}");
        xpu.create_remote(&id);
        for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
            xpu.create_path(&id, name, (family.server(), family), nqn);
        }
    }
    let made = begun.elapsed().as_secs_f64();
    for number in 0..CONTROLLERS {
        for name in ["v4", "v6"] {
            let path = format!("nvmeRemoteControllers/rc{number}/nvmePaths/{name}");
            let seen = xpu.get(&format!("/ext/v1/observations/{path}")).ok();
            assert_eq!(seen["state"], "STATE_READY", "{seen}");
        }
    }
    let pid = xpu.pid().expect("the server runs");
    let idle = Duration::from_secs(10);
    let before = cpu_seconds(pid);
    thread::sleep(idle);
    let share = (cpu_seconds(pid) - before) / idle.as_secs_f64();
    println!(
        "connected in {made:.1} s, idle {:.2} % of a core",
        share * 100.0
    );
    assert!(made < 5.0 * SLACK, "connecting took {made} s");
    assert!(share < 0.01, "idle costs {:.2} % of a core", share * 100.0);
}

/// Processor time the process has used, from fields 14 and 15 of its `stat`.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the server runs");
    let after = stat.rsplit_once(')').expect("the name is in parentheses").1;
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("VmRSS is a number of kB");
    kib / 1024
}
