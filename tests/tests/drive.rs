//! Local drives: the server runs inside a Linux guest with NVMe drives on its PCI bus, takes them
//! from the kernel's driver, and hosts them to the guest's own initiator.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};
use tests::{Guest, GuestOptions, Net, opi_archive};

/// The drives: one of a namespace with every identifier, and one of two namespaces.
const FIRST: &str = "0000:00:10.0";
const SECOND: &str = "0000:00:11.0";
const UUID: &str = "6b1e8f62-3c5d-4e0a-9d37-1f2a3b4c5d6e";
/// What QEMU's `eui64` of this number is in the order of the wire.
const EUI64: &str = "0x0102030405060708";

/// Blocks of the first drive.
const BLOCKS: &str = "logical_block_size=4096,physical_block_size=4096";

const NQN: &str = "nqn.2026-01.org.example:drive";
const DRIVE_BYTES: u64 = 64 << 20;

/// QEMU's words for a disk of the guest over `file`.
fn disk(id: &str, file: &Path) -> [String; 2] {
    let file = file.display();
    let words = format!("driver=raw,node-name={id},file.driver=file,file.filename={file}");
    ["-blockdev".to_owned(), words]
}

fn device(words: &str) -> [String; 2] {
    ["-device".to_owned(), words.to_owned()]
}

/// A guest with the drives and with the program under test, which is running as a server.
fn machine(net: &Net, folder: &Path) -> Guest {
    let archive = folder.join("opi.tar");
    opi_archive(&archive);
    let file = |name: &str, bytes: u64| {
        let path = folder.join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    };
    let mut qemu = Vec::new();
    qemu.extend(disk("program", &archive));
    qemu.extend(device("virtio-blk-pci,drive=program,serial=program"));
    qemu.extend(disk("d1", &file("d1", DRIVE_BYTES)));
    qemu.extend(device("nvme,id=nvme1,serial=first,addr=0x10"));
    let identity = format!("uuid={UUID},eui64={EUI64}");
    qemu.extend(device(&format!(
        "nvme-ns,drive=d1,bus=nvme1,nsid=1,{identity},{BLOCKS}"
    )));
    qemu.extend(device("nvme,id=nvme2,serial=second,addr=0x11"));
    for nsid in [1, 2] {
        let id = format!("d2-{nsid}");
        qemu.extend(disk(&id, &file(&id, DRIVE_BYTES)));
        qemu.extend(device(&format!("nvme-ns,drive={id},bus=nvme2,nsid={nsid}")));
    }
    let options = GuestOptions {
        memory_mib: 1536,
        qemu,
        ..GuestOptions::default()
    };
    let mut guest = Guest::boot(net, &options);
    guest.run(SET_UP).ok();
    guest.run(SERVE).ok();
    guest
}

/// Brings the program in, and the drives. Linux does not believe the identifiers of QEMU's drives,
/// as it says in a table; the first drive is bound anew by an entry that says nothing of that kind.
const SET_UP: &str = "set -e
modprobe -a virtio_blk nvme nvme_tcp ext4
until_ok 20 test -b /dev/vda
mkdir /run/opi
tar -xf /dev/vda -C /run/opi
cat >/usr/bin/opi <<'END'
#!/bin/sh
exec /run/opi/ld.so --library-path /run/opi/lib /run/opi/opi \"$@\"
END
chmod +x /usr/bin/opi
echo 1b36 0010 ffffffff ffffffff 0 0 0 >/sys/bus/pci/drivers/nvme/new_id
echo 0000:00:10.0 >/sys/bus/pci/drivers/nvme/unbind
echo 0000:00:10.0 >/sys/bus/pci/drivers/nvme/bind
until_ok 20 sh -c '[ $(ls -d /sys/bus/pci/devices/*/nvme/nvme*/nvme*n* | wc -l) = 3 ]'
lsblk";

/// Starts the server and waits until it is ready.
const SERVE: &str = "set -e
opi serve --state-dir /run/state --key-file /run/seal.key >>/run/server.log 2>&1 &
echo $! >/run/server.pid
until_ok 60 wget -q -O /dev/null http://127.0.0.1:8082/readyz || { cat /run/server.log; exit 1; }";

/// Kills the server as a power cut would.
const KILL: &str = "kill -9 $(cat /run/server.pid)
until_ok 10 not wget -q -O /dev/null http://127.0.0.1:8082/readyz";

/// The block device of the drive at a PCI address, as a shell word.
fn dev(address: &str, nsid: u32) -> String {
    let node = format!("/sys/bus/pci/devices/{address}/nvme/nvme");
    format!(
        "/dev/$(for n in {node}*/nvme*n*; do [ $(cat $n/nsid) = {nsid} ] && basename $n; done | \
         sed 's/c[0-9]*n/n/')"
    )
}

/// One request of REST.
#[track_caller]
fn get(guest: &mut Guest, path: &str) -> Value {
    let said = guest
        .run(&format!("wget -q -O - http://127.0.0.1:8082{path}"))
        .ok();
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{path}: {e}: {said}"))
}

fn observed(guest: &mut Guest, name: &str) -> Value {
    get(guest, &format!("/ext/v1/observations/{name}"))
}

/// Waits until a resource is in this state, and returns why.
#[track_caller]
fn wait(guest: &mut Guest, name: &str, state: &str) -> String {
    let script = format!(
        "until_ok 30 sh -c 'wget -q -O - http://127.0.0.1:8082/ext/v1/observations/{name} | \
         grep -q {state}'"
    );
    guest.run(&script).ok();
    observed(guest, name)["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Exports a volume to the guest's own initiator, which connects to it. It has other identifiers
/// there: one kernel does not take two disks with the same.
fn export(guest: &mut Guest, volume: &str) {
    let subsystem = json!({"spec": {"nqn": NQN}});
    let listener = json!({"spec": {
        "trtype": "NVME_TRANSPORT_TYPE_TCP",
        "fabricsId": {
            "traddr": "127.0.0.1",
            "trsvcid": "4420",
            "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
        },
    }});
    let namespace = json!({"spec": {
        "volumeNameRef": volume,
        "hostNsid": 1,
        "uuid": "00000000-0000-4000-8000-000000000001",
        "eui64": "1",
    }});
    let base = "/v1/nvmeSubsystems";
    for (path, body) in [
        (format!("{base}?nvme_subsystem_id=s0"), subsystem),
        (
            format!("{base}/s0/nvmeControllers?nvme_controller_id=c0"),
            listener,
        ),
        (
            format!("{base}/s0/nvmeNamespaces?nvme_namespace_id=n1"),
            namespace,
        ),
    ] {
        guest
            .run(&format!(
                "wget -q -O - --header 'Content-Type: application/json' \
                 --post-data '{body}' 'http://127.0.0.1:8082{path}'"
            ))
            .ok();
    }
    guest
        .run(&format!(
            "set -e
nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {NQN} --reconnect-delay=1 --ctrl-loss-tmo=600
wait_disk {NQN} 1"
        ))
        .ok();
}

/// Writes through the export, and compares with what the drive itself has.
fn compare(guest: &mut Guest) {
    let first = dev(FIRST, 1);
    guest
        .run(&format!(
            "set -e; disk=$(wait_disk {NQN} 1); drive={first}
dd if=/dev/urandom of=/run/wrote bs=1M count=8 2>/dev/null
dd if=/run/wrote of=$disk bs=64k seek=16 oflag=direct conv=fsync 2>/dev/null
dd if=$disk of=/run/read bs=64k skip=16 count=128 iflag=direct 2>/dev/null
cmp /run/wrote /run/read
dd if=$drive of=/run/read bs=64k skip=16 count=128 iflag=direct 2>/dev/null
cmp /run/wrote /run/read"
        ))
        .ok();
}

fn connect(address: &str) -> String {
    format!("opi connect -t pcie -a {address} --name rc")
}

/// Checks that drives that cannot be had are refused by name.
fn refused(guest: &mut Guest) {
    let (first, second) = (dev(FIRST, 1), dev(SECOND, 2));
    for (before, after, address, wanted) in [
        (
            String::new(),
            String::new(),
            "0000:7f:00.0",
            "no PCI device 0000:7f:00.0".to_owned(),
        ),
        (
            format!("mkfs.ext4 -q {second} && mount {second} /mnt"),
            "umount /mnt".to_owned(),
            SECOND,
            "is mounted on /mnt: unmount it first".to_owned(),
        ),
        (
            format!("mkswap {first} && swapon {first}"),
            format!("swapoff {first}"),
            FIRST,
            "is in use as swap".to_owned(),
        ),
        (
            format!("echo {SECOND} >/sys/bus/pci/drivers/nvme/unbind"),
            format!("echo {SECOND} >/sys/bus/pci/drivers/nvme/bind"),
            SECOND,
            format!("the drive at {SECOND} is bound to no driver"),
        ),
    ] {
        guest.run(&before).ok();
        let said = guest.run(&connect(address)).err();
        assert!(said.contains(&wanted), "{said}");
        guest.run(&after).ok();
    }
}

#[test]
fn a_drive_in_use_is_refused_by_name_and_one_that_is_free_is_hosted() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let mut guest = machine(&net, folder.path());
    refused(&mut guest);

    let said = guest.run(&connect("00:10.0")).ok();
    assert!(said.contains("rc/nvmeRemoteNamespaces/n1"), "{said}");
    let path = get(&mut guest, "/v1/nvmeRemoteControllers/rc/nvmePaths/p0");
    assert_eq!(path["traddr"], FIRST, "{path}");
    let listed = get(
        &mut guest,
        "/v1/nvmeRemoteControllers/rc/nvmeRemoteNamespaces",
    );
    let found = &listed["nvmeRemoteNamespaces"][0];
    assert_eq!(
        (&found["nsid"], &found["uuid"]),
        (&json!(1), &json!(UUID)),
        "{listed}"
    );
    let eui64 = i64::from_str_radix(EUI64.trim_start_matches("0x"), 16).unwrap();
    assert_eq!(found["eui64"], eui64.to_string(), "{listed}");
    // It is ours alone now, and who else wants it is told so.
    guest
        .run(&format!("mkfs.ext4 -q -F {}", dev(FIRST, 1)))
        .err();
    let said = guest
        .run(&format!("opi connect -t pcie -a {FIRST} --name other"))
        .err();
    assert!(
        said.contains("in use by nvmeRemoteControllers/rc"),
        "{said}"
    );
    let said = guest
        .run("opi connect -a 192.0.2.7 -n nqn.2026-01.org.example:a --name rc")
        .err();
    assert!(said.contains("the only one of its controller"), "{said}");

    export(&mut guest, UUID);
    compare(&mut guest);
    guest
        .run(
            "wget -q -O - --post-data '{}' http://127.0.0.1:8082/v1/nvmeRemoteControllers/rc:reset",
        )
        .ok();
    compare(&mut guest);
}

#[test]
fn a_drive_that_is_pulled_out_comes_back_and_its_host_goes_on() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let mut guest = machine(&net, folder.path());
    let namespace = "nvmeRemoteControllers/rc/nvmeRemoteNamespaces/n1";
    let path = "nvmeRemoteControllers/rc/nvmePaths/p0";
    guest
        .run(&format!("opi connect -t pcie -a {FIRST} --name rc"))
        .ok();
    export(&mut guest, namespace);
    compare(&mut guest);

    let pull = format!("echo 1 >/sys/bus/pci/devices/{FIRST}/remove");
    let put_in = "echo 1 >/sys/bus/pci/rescan";
    guest.run(&pull).ok();
    let why = wait(&mut guest, namespace, "STATE_OFFLINE");
    assert!(why.contains(FIRST), "{why}");
    let why = wait(&mut guest, path, "STATE_OFFLINE");
    assert!(why.contains("no PCI device"), "{why}");
    guest.run(put_in).ok();
    wait(&mut guest, namespace, "STATE_READY");
    wait(&mut guest, path, "STATE_READY");
    compare(&mut guest);

    // A server that starts without the drive knows what it had, and takes it once it is there.
    guest.run(KILL).ok();
    guest.run(&pull).ok();
    guest.run(SERVE).ok();
    let why = wait(&mut guest, namespace, "STATE_OFFLINE");
    assert!(why.contains(FIRST), "{why}");
    guest.run(put_in).ok();
    wait(&mut guest, namespace, "STATE_READY");
    compare(&mut guest);
    let said = guest.run("opi disconnect 00:10.0").err();
    assert!(said.contains("in use by"), "{said}");
}
