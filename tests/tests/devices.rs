//! Volumes on block devices of this machine: loop devices stand for disks.

#![allow(clippy::unwrap_used)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tests::{Family, Net, Server, ServerOptions, run};

const NQN: &str = "nqn.2026-01.org.example:device";

/// Bytes of the disks here.
const DISK_BYTES: u64 = 32 << 20;

/// A block device made from a file; it is detached with this value.
struct LoopDevice(PathBuf);

impl LoopDevice {
    /// A device over `file`, which is made, with sectors of `sector_bytes`.
    fn attach(file: &Path, sector_bytes: u32) -> Self {
        File::create(file).unwrap().set_len(DISK_BYTES).unwrap();
        let mut losetup = Command::new("losetup");
        let size = sector_bytes.to_string();
        losetup.args(["--find", "--show", "--sector-size", &size]);
        Self(run(losetup.arg(file)).ok().trim().into())
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("devices have plain names")
    }

    /// Opens it as a mount would: nobody else may hold it.
    fn hold(&self) -> std::io::Result<File> {
        let mut open = OpenOptions::new();
        open.read(true).write(true);
        open.custom_flags(rustix::fs::OFlags::EXCL.bits() as i32)
            .open(&self.0)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_brings_its_size_and_its_blocks_and_belongs_to_the_volume() {
    let net = Net::new();
    let server = Server::start(&net, ServerOptions::default());
    let device = LoopDevice::attach(&server.file("backing"), 4096);
    let create = |id: &str, extra: serde_json::Value| {
        let mut body = json!({"filename": device.path()});
        for (name, value) in extra.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        server.post(&format!("/v1/aioVolumes?aio_volume_id={id}"), &body)
    };

    // What is mounted is not touched, and the error says so.
    let held = device.hold().unwrap();
    let said = create("a0", json!({})).err(400);
    assert!(
        said.contains(device.path()) && said.contains("in use"),
        "{said}"
    );
    drop(held);
    let said = create("a0", json!({"blockSize": "512"})).err(400);
    assert!(
        said.contains("block_size") && said.contains("4096"),
        "{said}"
    );

    let made = create("a0", json!({})).ok();
    assert_eq!(made["blockSize"], "4096", "{made}");
    assert_eq!(
        made["blocksCount"],
        (DISK_BYTES / 4096).to_string(),
        "{made}"
    );
    let held = device.hold().map(drop);
    assert!(held.is_err(), "the volume does not hold its device");
    create("a1", json!({})).err(400);

    server.export("s0", NQN, "aioVolumes/a0");
    let bench = format!(
        "bench --traddr {} --nqn {NQN} --rw randrw --bs 4KiB --qd 32 --verify --time 1s",
        Family::V4.server()
    );
    let words: Vec<&str> = bench.split_whitespace().collect();
    server.opi(&words).ok();

    server
        .delete("/v1/nvmeSubsystems/s0/nvmeNamespaces/n1")
        .ok();
    server.delete("/v1/aioVolumes/a0").ok();
    device.hold().expect("a deleted volume lets its device go");
}
