//! Two servers in front of one array: each is a path of the same subsystem, and a Linux host's own
//! multipathing goes from one to the other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::scenario::{self, Digests};
use tests::{Family, Guest, GuestOptions, Net, Server, ServerOptions};

const ARRAY: &str = "nqn.2026-01.org.example:array";
const DISK: &str = "nqn.2026-01.org.example:disk";
/// Only the servers reach the array.
const ARRAY_ADDRESS: (&str, Family) = ("127.0.0.1", Family::V4);
const VOLUME: &str = "nvmeRemoteControllers/rc/nvmeRemoteNamespaces/n1";

/// How long a path to the array may take to be made.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server in front of the array, with all that only it is called by.
struct Front<'net> {
    server: Server<'net>,
    subsystem: &'static str,
    family: Family,
}

fn start(net: &Net, number: u16) -> Server<'_> {
    let options = ServerOptions {
        number,
        ..ServerOptions::default()
    };
    Server::start(net, options)
}

/// A server that shows a memory volume of 128 MiB.
fn array(net: &Net) -> Server<'_> {
    let array = start(net, 0);
    array.create_malloc("m0", 32 * 1024);
    array.create_subsystem("s0", ARRAY);
    array.create_namespace("s0", "n1", "mallocVolumes/m0", 1);
    array.create_listener_at("s0", "lo", ARRAY_ADDRESS);
    array
}

impl<'net> Front<'net> {
    /// Connects to the array and shows its volume, with controller ids of its own.
    fn new(
        net: &'net Net,
        number: u16,
        subsystem: &'static str,
        family: Family,
        cntlids: [u16; 2],
    ) -> Self {
        let server = start(net, number);
        server.create_remote("rc");
        server.create_path("rc", "p", ARRAY_ADDRESS, ARRAY);
        let until = Instant::now() + PATIENCE;
        let observation = format!("/ext/v1/observations/{VOLUME}");
        while server.get(&observation).status != 200 {
            assert!(Instant::now() < until, "{}", server.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server.create_subsystem(subsystem, DISK);
        let [first, last] = cntlids;
        let path = format!("/ext/v1/nvmeSubsystems/{subsystem}/settings");
        let range = json!({"cntlidMin": first, "cntlidMax": last});
        server.patch(&path, &range).ok();
        server.create_namespace(subsystem, "disk", VOLUME, 1);
        server.create_listener(subsystem, "c", family);
        Self {
            server,
            subsystem,
            family,
        }
    }

    fn settings(&self) -> String {
        let subsystem = self.subsystem;
        format!("/ext/v1/nvmeSubsystems/{subsystem}/nvmeControllers/c/settings")
    }

    /// Sets the state of the listener.
    fn set(&self, state: &str) {
        let body = json!({"anaState": format!("NVME_ANA_STATE_{state}")});
        self.server.patch(&self.settings(), &body).ok();
    }

    /// Waits until the host sees the namespace in a state by this server.
    fn wait(&self, host: &mut Guest, state: &str) {
        let address = self.family.server();
        host.run(&format!(
            "until_ok 60 ana_state_is {DISK} 1 {address} {state}"
        ))
        .ok();
    }

    /// I/Os that ended on the listener.
    fn ios(&self) -> u64 {
        let subsystem = self.subsystem;
        let path = format!("/v1/nvmeSubsystems/{subsystem}/nvmeControllers/c:stats");
        let stats: Value = self.server.get(&path).ok();
        let count = |field: &str| stats["stats"][field].as_u64().unwrap_or_default();
        count("readOpsCount") + count("writeOpsCount")
    }
}

#[test]
fn a_linux_host_goes_between_two_servers_of_one_array_without_an_error() {
    let net = Net::new();
    let _array = array(&net);
    let mut fronts = [
        Front::new(&net, 1, "here", Family::V4, [1, 0x7fff]),
        Front::new(&net, 2, "there", Family::V6, [0x8000, 0xffef]),
    ];
    let mut host = Guest::boot(&net, &GuestOptions::default());
    for front in &fronts {
        let address = front.family.server();
        host.run(&scenario::connect(address, DISK, Digests::None))
            .ok();
        front.wait(&mut host, "optimized");
    }
    host.run(&scenario::start_verifying(DISK, 1)).ok();

    // One path is closed to the host, then the other; what was preferred before comes back.
    for (closed, open) in [(0, 1), (1, 0)] {
        let (closed, open) = (&fronts[closed], &fronts[open]);
        closed.set("INACCESSIBLE");
        closed.wait(&mut host, "inaccessible");
        let before = (closed.ios(), open.ios());
        host.run(scenario::VERIFIED_MORE).ok();
        let after = (closed.ios(), open.ios());
        assert_eq!(after.0, before.0, "an inaccessible path was used");
        assert!(after.1 > before.1 + 100, "{before:?} {after:?}");
        closed.set("NON_OPTIMIZED");
        closed.wait(&mut host, "non-optimized");
        closed.set("OPTIMIZED");
        closed.wait(&mut host, "optimized");
    }
    // One server dies and comes back with the state that was set, then the other.
    for index in [0, 1] {
        let front = &mut fronts[index];
        front.set("NON_OPTIMIZED");
        front.wait(&mut host, "non-optimized");
        front.server.kill9();
        host.run(scenario::VERIFIED_MORE).ok();
        front.server.launch();
        front.wait(&mut host, "non-optimized");
        front.set("OPTIMIZED");
        front.wait(&mut host, "optimized");
    }
    host.run_within(Duration::from_secs(180), scenario::STOP_VERIFYING)
        .ok();
    let errors = host.run("dmesg | grep -c 'I/O error' || true").ok();
    assert_eq!(errors.trim(), "0", "{}", host.console());
}
