//! How long I/O of a host stands still when one of two paths to an array fails.
//!
//! Load -> our target -> our initiator -> our array, one path straight and one over a wire that is
//! cut. The limits on time leave room for a busy machine; `docs/performance.md` has the figures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Family, Net, Proxy, Server, ServerOptions};

const ARRAY: &str = "nqn.2026-01.org.example:array";
const DISK: &str = "nqn.2026-01.org.example:disk";
const VOLUME: &str = "nvmeRemoteControllers/rc/nvmeRemoteNamespaces/n1";
/// Ports beside that of the array, which is 4420: of the wire, and of the server in between.
const WIRE: u16 = 4430;
const EXPORT: u16 = 4440;

/// Keep-alive time-out of a path, in seconds.
const KATO: f64 = 5.0;
/// Longest stall of reads on a silent path.
const SILENT_LIMIT: f64 = 1.5 * KATO;
/// Longest stall on a path that is reset.
const RESET_LIMIT: f64 = 0.1;
/// Resets that are tried for one below the limit. Everything runs on a processor or two that others
/// use as well, and being off the processor for a tenth of a second is no stall of the path.
const RESETS_MAX: u32 = 5;
/// What changes data waits for two keep-alive times more, as the array may still be executing it on
/// the lost path (NVMe Base 2.1, 9.6).
const QUIESCE: f64 = 2.0 * KATO;
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An array, a server in between with two paths to it, and the wire of the first.
struct Chain<'net> {
    _array: Server<'net>,
    xpu: Server<'net>,
    proxy: Proxy,
}

impl<'net> Chain<'net> {
    fn start(net: &'net Net) -> Self {
        let array = Server::start(net, ServerOptions::default());
        array.create_malloc("m0", 4096);
        array.export("s0", ARRAY, "mallocVolumes/m0");
        let at = |port: u16| format!("{}:{port}", Family::V4.server());
        let [wire, straight]: [SocketAddr; 2] =
            [WIRE, 4420].map(|port| at(port).parse().expect("an address in digits"));
        let proxy = Proxy::start(net, wire, straight);
        let options = ServerOptions {
            number: 1,
            ..ServerOptions::default()
        };
        let xpu = Server::start(net, options);
        xpu.create_remote("rc");
        for (id, port) in [("cut", WIRE), ("straight", 4420)] {
            let path = format!("/v1/nvmeRemoteControllers/rc/nvmePaths?nvme_path_id={id}");
            let fabrics = json!({
                "trsvcid": port.to_string(),
                "subnqn": ARRAY,
                "adrfam": Family::V4.adrfam(),
            });
            let spec = json!({
                "trtype": "NVME_TRANSPORT_TYPE_TCP",
                "traddr": Family::V4.server(),
                "fabrics": fabrics,
            });
            xpu.post(&path, &spec).ok();
        }
        xpu.create_subsystem("s0", DISK);
        let listener = json!({"spec": {
            "trtype": "NVME_TRANSPORT_TYPE_TCP",
            "fabricsId": {
                "traddr": Family::V4.server(),
                "trsvcid": EXPORT.to_string(),
                "adrfam": Family::V4.adrfam(),
            },
        }});
        let path = "/v1/nvmeSubsystems/s0/nvmeControllers?nvme_controller_id=c0";
        xpu.post(path, &listener).ok();
        xpu.create_namespace("s0", "n1", VOLUME, 1);
        let chain = Self {
            _array: array,
            xpu,
            proxy,
        };
        chain.wait("both paths", || {
            chain.is_ready("cut") && chain.is_ready("straight")
        });
        chain
    }

    fn is_ready(&self, path: &str) -> bool {
        let name = format!("nvmeRemoteControllers/rc/nvmePaths/{path}");
        let seen = self.xpu.get(&format!("/ext/v1/observations/{name}")).ok();
        seen["state"] == "STATE_READY"
    }

    /// I/Os that ended on the path that is cut.
    fn ios(&self) -> u64 {
        let path = "/v1/nvmeRemoteControllers/rc/nvmePaths/cut:stats";
        let stats = self.xpu.get(path).ok();
        let count = |field: &str| stats["stats"][field].as_u64().unwrap_or_default();
        count("readOpsCount") + count("writeOpsCount")
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "{what} did not come in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a load for `seconds`, cuts the wire in the middle of it, and returns the longest that
    /// one I/O took, in seconds.
    fn stall(&self, rw: &str, seconds: u32, cut: impl FnOnce(&Proxy)) -> f64 {
        let target = format!("tcp://{}:{EXPORT}/{DISK}", Family::V4.server());
        let time = format!("{seconds}s");
        let words = [
            "bench",
            &target,
            "--rw",
            rw,
            "--qd",
            "16",
            "--time",
            &time,
            "--ramp",
            "1ms",
            "--timeout",
            "60s",
            "-o",
            "json",
        ];
        let report = std::thread::scope(|scope| {
            let load = scope.spawn(|| self.xpu.opi(&words).ok());
            let before = self.ios();
            self.wait("I/O on the path", || self.ios() > before + 100);
            cut(&self.proxy);
            load.join().expect("the load ends")
        });
        let report: Value = serde_json::from_str(&report).expect("the report is JSON");
        let errors = report["errors"]
            .as_object()
            .map_or(0, |errors| errors.len());
        assert_eq!(errors, 0, "{report:#}");
        let side = match rw {
            "randread" => "read",
            _ => "write",
        };
        let longest = report[side]["latency"]["max_us"].as_f64();
        longest.expect("the report has a longest latency") / 1e6
    }
}

#[test]
fn a_failed_path_holds_io_up_no_longer_than_it_must_and_fails_none() {
    let net = Net::new();
    let chain = Chain::start(&net);
    let reset = |rw: &str| {
        let mut least = f64::INFINITY;
        for _ in 0..RESETS_MAX {
            least = chain.stall(rw, 4, Proxy::reset).min(least);
            chain.wait("the path's return", || chain.is_ready("cut"));
            if least < RESET_LIMIT {
                break;
            }
        }
        least
    };
    let silent = |rw: &str, seconds: u32| {
        let longest = chain.stall(rw, seconds, Proxy::silence);
        chain.proxy.restore();
        chain.wait("the path's return", || chain.is_ready("cut"));
        longest
    };
    let (reads, writes) = (reset("randread"), reset("randwrite"));
    println!("reset: reads {reads:.3} s, writes {writes:.3} s");
    let (silent_reads, silent_writes) = (silent("randread", 12), silent("randwrite", 25));
    println!("silent: reads {silent_reads:.3} s, writes {silent_writes:.3} s");
    assert!(reads < RESET_LIMIT, "reads stood still for {reads} s");
    assert!(writes < RESET_LIMIT, "writes stood still for {writes} s");
    // The cut was there: what was in flight on it had to wait.
    assert!(silent_reads > 1.0, "nothing was cut: {silent_reads} s");
    assert!(silent_reads < SILENT_LIMIT, "reads: {silent_reads} s");
    let limit = SILENT_LIMIT + QUIESCE;
    assert!(silent_writes < limit, "writes: {silent_writes} s");
}
