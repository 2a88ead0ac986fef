//! What the demo says once it runs.

use std::net::SocketAddr;

use super::xpu::Found;
use super::{Checked, NQN};

/// What runs where, and what to try next.
pub(super) fn what_runs(management: &[SocketAddr], data: SocketAddr, checked: &Checked) -> String {
    let shown = |index: usize| {
        management
            .get(index)
            .map_or_else(String::new, ToString::to_string)
    };
    let (grpc, web) = (shown(0), shown(1));
    let (ip, port) = (data.ip(), data.port());
    let Checked { mib, seconds } = checked;
    let rate = 2.0 * *mib as f64 / seconds.max(1e-9);
    let addr = if grpc == "127.0.0.1:50051" {
        String::new()
    } else {
        format!(" --addr {grpc}")
    };
    format!(
        "\nchecked: {mib} MiB written and read back over NVMe/TCP, every byte as it was \
         ({rate:.0} MiB/s)\n\n\
         what runs where\n\
         \x20 gRPC      {grpc}   (reflection and health included)\n\
         \x20 REST      http://{web}/v1/nvmeSubsystems\n\
         \x20 API page  http://{web}/docs\n\
         \x20 metrics   http://{web}/metrics\n\
         \x20 NVMe/TCP  {ip}:{port}\n\n\
         connect a Linux host on this machine (as root; needs the nvme-tcp module)\n\
         \x20 nvme connect -t tcp -a {ip} -s {port} -n {NQN}\n\n\
         try next, in another terminal\n\
         \x20 opi{addr} list nvme-namespaces --parent demo\n\
         \x20 opi{addr} describe malloc-volume demo\n\
         \x20 opi{addr} top\n\
         \x20 opi bench tcp://{ip}:{port}/{NQN} --qd 32 --runtime 10\n\n\
         Ctrl-C ends it; nothing stays behind.\n"
    )
}

/// What the load through the xPU found while a path was cut, and what to try next.
pub(super) fn what_happened(found: &Found, (xpu, array): (&[SocketAddr], &[SocketAddr])) -> String {
    let shown = |all: &[SocketAddr], index: usize| {
        all.get(index).map_or_else(String::new, ToString::to_string)
    };
    let (grpc, web) = (shown(xpu, 0), shown(xpu, 1));
    let (array_grpc, array_web) = (shown(array, 0), shown(array, 1));
    let Found {
        loaded,
        noticed,
        returned,
    } = found;
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    format!(
        "\nnothing was lost: {ios} I/Os, none failed; {checked} blocks read and compared, none \
         wrong\n\
         \x20 longest I/O        {longest:.0} ms, with the path cut in the middle\n\
         \x20 path b was lost    and seen as lost within {noticed:.0} ms\n\
         \x20 path b came back   within {returned:.0} ms of its listener\n\n\
         what runs where\n\
         \x20 xPU    gRPC {grpc}   REST and metrics http://{web}   NVMe/TCP 127.0.0.1:4420\n\
         \x20 array  gRPC {array_grpc}   REST and metrics http://{array_web}   NVMe/TCP \
         127.0.0.1:4421, 127.0.0.1:4422\n\n\
         connect a Linux host on this machine (as root; needs the nvme-tcp module)\n\
         \x20 nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN}\n\n\
         cut a path yourself, in another terminal\n\
         \x20 opi bench tcp://127.0.0.1:4420/{NQN} --rw randrw --verify --runtime 30 &\n\
         \x20 opi delete nvme-controller a --parent demo --addr {array_grpc}\n\
         \x20 opi describe nvme-path a --parent array --addr {grpc}\n\n\
         Ctrl-C ends it; nothing stays behind.\n",
        ios = loaded.ios,
        checked = loaded.checked,
        longest = ms(loaded.longest),
        noticed = ms(*noticed),
        returned = ms(*returned),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_the_addresses_and_the_connect_line() {
        let management = ["127.0.0.1:1", "127.0.0.1:2"].map(|a| a.parse().unwrap());
        let checked = Checked {
            mib: 64,
            seconds: 0.5,
        };
        let text = what_runs(&management, "127.0.0.1:4420".parse().unwrap(), &checked);
        for part in [
            "nvme connect -t tcp -a 127.0.0.1 -s 4420 -n nqn.2026-01.org.opiproject:demo",
            "http://127.0.0.1:2/docs",
            "opi --addr 127.0.0.1:1 list",
            "64 MiB written and read back",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
