//! The machine's own hardware, read from sysfs: what `GetInventory` answers.
//!
//! What the firmware or the kernel does not tell stays empty; nothing is guessed.

mod chassis;
mod pci;

use api::inventory::v1::{
    BaseboardInfo, BiosInfo, ChassisInfo, CpuInfo, Inventory, MemoryInfo, SystemInfo,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The text of a one-line file; empty when it is absent, unreadable or a place-holder.
fn line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let text = text.trim();
    // What firmware writes where nobody filled in a value.
    let blank = [
        "To Be Filled By O.E.M.",
        "Not Specified",
        "None",
        "Default string",
    ];
    if blank.contains(&text) {
        String::new()
    } else {
        text.to_owned()
    }
}

/// Reads the inventory of the machine whose file systems are mounted below `root` (`/`).
pub fn read(root: &Path) -> Inventory {
    let dmi = root.join("sys/class/dmi/id");
    let of = |name: &str| line(&dmi.join(name));
    let known = dmi.is_dir();
    let chassis_type = of("chassis_type");
    Inventory {
        bios: known.then(|| BiosInfo {
            vendor: of("bios_vendor"),
            version: of("bios_version"),
            date: of("bios_date"),
        }),
        system: known.then(|| SystemInfo {
            family: of("product_family"),
            name: of("product_name"),
            vendor: of("sys_vendor"),
            serial_number: of("product_serial"),
            uuid: of("product_uuid"),
            sku: of("product_sku"),
            version: of("product_version"),
        }),
        baseboard: known.then(|| BaseboardInfo {
            asset_tag: of("board_asset_tag"),
            serial_number: of("board_serial"),
            vendor: of("board_vendor"),
            version: of("board_version"),
            product: of("board_name"),
        }),
        chassis: known.then(|| ChassisInfo {
            asset_tag: of("chassis_asset_tag"),
            serial_number: of("chassis_serial"),
            type_description: chassis::description(&chassis_type).to_owned(),
            r#type: chassis_type,
            vendor: of("chassis_vendor"),
            version: of("chassis_version"),
        }),
        processor: processor(root),
        memory: memory(root),
        pci: pci::devices(root),
    }
}

/// The numbers in a kernel list such as `0-3,8`.
fn listed(text: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse(), last.parse::<u32>()) {
            all.extend(first..=last);
        }
    }
    all
}

fn processor(root: &Path) -> Option<CpuInfo> {
    let cpus = root.join("sys/devices/system/cpu");
    let threads = listed(&line(&cpus.join("present")));
    if threads.is_empty() {
        return None;
    }
    let cores: BTreeSet<(String, String)> = threads
        .iter()
        .map(|n| cpus.join(format!("cpu{n}/topology")))
        .filter(|topology| topology.is_dir())
        .map(|t| {
            (
                line(&t.join("physical_package_id")),
                line(&t.join("core_id")),
            )
        })
        .collect();
    // A CPU that is offline has no topology; without any the cores are not known.
    Some(CpuInfo {
        total_cores: cores.len() as u32,
        total_threads: threads.len() as u32,
    })
}

fn memory(root: &Path) -> Option<MemoryInfo> {
    let info = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: i64 = total.trim().trim_end_matches(" kB").parse().ok()?;
    let physical = memory_blocks(&root.join("sys/devices/system/memory"));
    Some(MemoryInfo {
        total_physical_bytes: physical.unwrap_or(0),
        total_usable_bytes: kib.saturating_mul(1024),
    })
}

/// Memory blocks that are online, times the size of one; `None` where the kernel has none.
fn memory_blocks(memory: &Path) -> Option<i64> {
    let size = i64::from_str_radix(&line(&memory.join("block_size_bytes")), 16).ok()?;
    let entries = std::fs::read_dir(memory).ok()?.flatten();
    let blocks: Vec<PathBuf> = entries.map(|e| e.path().join("online")).collect();
    let online = blocks.iter().filter(|path| line(path) == "1").count();
    Some(size.saturating_mul(i64::try_from(online).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, "sys/class/dmi/id/bios_vendor", "Acme\n");
        put(root, "sys/class/dmi/id/product_name", "Box 9\n");
        put(
            root,
            "sys/class/dmi/id/product_serial",
            "To Be Filled By O.E.M.\n",
        );
        put(root, "sys/class/dmi/id/chassis_type", "23\n");
        put(root, "sys/devices/system/cpu/present", "0-3\n");
        for cpu in 0..4 {
            let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            put(root, &format!("{topology}/physical_package_id"), "0\n");
            put(
                root,
                &format!("{topology}/core_id"),
                &format!("{}\n", cpu / 2),
            );
        }
        put(
            root,
            "proc/meminfo",
            "MemTotal:       2048 kB\nMemFree: 1 kB\n",
        );
        put(
            root,
            "sys/devices/system/memory/block_size_bytes",
            "8000000\n",
        );
        put(root, "sys/devices/system/memory/memory0/online", "1\n");
        put(root, "sys/devices/system/memory/memory1/online", "0\n");
        dir
    }

    #[test]
    fn what_the_machine_tells_is_there_and_the_rest_is_empty() {
        let dir = machine();
        let inventory = read(dir.path());
        assert_eq!(inventory.bios.unwrap().vendor, "Acme");
        let system = inventory.system.unwrap();
        assert_eq!(
            (&*system.name, &*system.serial_number, &*system.uuid),
            ("Box 9", "", "")
        );
        let chassis = inventory.chassis.unwrap();
        assert_eq!(
            (&*chassis.r#type, &*chassis.type_description),
            ("23", "Rack Mount Chassis")
        );
        let cpu = inventory.processor.unwrap();
        assert_eq!((cpu.total_cores, cpu.total_threads), (2, 4));
        let memory = inventory.memory.unwrap();
        assert_eq!(memory.total_physical_bytes, 128 << 20);
        assert_eq!(memory.total_usable_bytes, 2 << 20);
        assert!(inventory.pci.is_empty());
    }

    #[test]
    fn an_empty_machine_has_an_empty_inventory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), Inventory::default());
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let inventory = read(Path::new("/"));
        assert!(inventory.processor.unwrap().total_threads > 0);
        assert!(inventory.memory.unwrap().total_usable_bytes > 1 << 20);
    }
}
