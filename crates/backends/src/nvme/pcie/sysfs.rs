//! What the kernel shows of the NVMe drive at a PCI address, and of its namespaces.

use super::Trouble;
use super::address::Address;
use crate::nvme::association::Key;
use api::Code;
use blk::Identity;
use std::fs;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The PCI class of NVMe controllers: mass storage, non-volatile memory, NVM Express (PCI Code
/// and ID Assignment 1.11, 1.2).
const NVME_CLASS: &str = "0x010802";
/// What sysfs calls the size of a disk in, whatever its blocks are.
const SECTOR_BYTES: u64 = 512;

/// Where the kernel shows things; a test has its own.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    /// `/sys`.
    pub(super) sys: PathBuf,
    /// `/proc`.
    pub(super) proc: PathBuf,
    /// `/dev`.
    pub(super) dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
            dev: "/dev".into(),
        }
    }
}

/// A drive: one NVMe controller, as the kernel's driver has it.
#[derive(Debug)]
pub(super) struct Controller {
    /// As in `nvme0`.
    pub(super) name: String,
    /// Its folder.
    pub(super) node: PathBuf,
    /// Why the kernel does not send it commands now; it holds I/O back meanwhile.
    pub(super) trouble: Option<Trouble>,
    pub(super) disks: Vec<Disk>,
}

/// A namespace as the block device that it is to the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Disk {
    /// As in `nvme0n1`.
    pub(super) name: String,
    pub(super) number: u64,
    /// Never the same for two disks, one after the other, until the kernel starts anew; 0 before
    /// Linux 5.15.
    pub(super) sequence: u64,
    pub(super) nsid: u32,
    pub(super) key: Key,
    pub(super) block_bytes: u32,
    pub(super) bytes: u64,
    /// Completed writes may be in a volatile cache.
    pub(super) caches: bool,
}

/// The trimmed text of an attribute.
pub(super) fn attribute(node: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(node.join(name)).ok()?;
    Some(text.trim().to_owned())
}

fn number<T: std::str::FromStr>(node: &Path, name: &str) -> Option<T> {
    attribute(node, name)?.parse().ok()
}

/// `major:minor` as one number.
pub(super) fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    let number = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    Some(number)
}

/// The names in a folder, in order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<String> = all
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    all.sort();
    all
}

/// The name of the block device that serves a namespace of a controller: a path of the kernel's
/// own multipathing (`nvme0c1n2`) is hidden behind `nvme0n2`.
fn disk_name(name: &str) -> Option<String> {
    let (controller, namespace) = name.strip_prefix("nvme")?.rsplit_once('n')?;
    let subsystem = controller.split_once('c').map_or(controller, |(s, _)| s);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let path = controller.strip_prefix(subsystem)?;
    let path_is_good = path.is_empty() || path.strip_prefix('c').is_some_and(digits);
    (digits(subsystem) && digits(namespace) && path_is_good)
        .then(|| format!("nvme{subsystem}n{namespace}"))
}

/// Bytes written in hexadecimal digits, whatever separates them.
fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut out = [0; N];
    if digits.len() == 2 * N {
        for (at, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap_or_default();
        }
    }
    out
}

/// The identifiers of a namespace. Without a UUID the kernel shows the NGUID as one; which it is
/// can be told from the name that it makes of the best identifier there is.
fn identity(node: &Path) -> Identity {
    let text = |name| attribute(node, name).unwrap_or_default();
    let named = text("wwid").starts_with("uuid.");
    let uuid = Uuid::try_parse(&text("uuid")).ok().filter(|_| named);
    Identity {
        uuid: uuid.unwrap_or_default().into_bytes(),
        nguid: bytes(&text("nguid")),
        eui64: bytes(&text("eui")),
    }
}

impl Roots {
    /// What sysfs has of a block device.
    pub(super) fn block(&self, name: &str) -> PathBuf {
        self.sys.join("class/block").join(name)
    }

    /// Looks for the drive at an address. Does not wait for it.
    ///
    /// # Errors
    /// There is none, or the kernel's driver does not have it (ready).
    pub(super) fn look(&self, address: &Address) -> Result<Controller, Trouble> {
        let device = self.sys.join("bus/pci/devices").join(address.to_string());
        if !device.exists() {
            let text = format!("there is no PCI device {address} on this machine");
            return Err(Trouble::new(Code::NotFound, text));
        }
        let class = attribute(&device, "class").unwrap_or_default();
        if class != NVME_CLASS {
            let text =
                format!("the PCI device {address} is no NVMe controller (its class is {class})");
            return Err(Trouble::state(text));
        }
        let driver = fs::read_link(device.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name);
        let driver = driver.map(|name| name.to_string_lossy().into_owned());
        match driver.as_deref() {
            Some("nvme") => {}
            Some(other) => {
                return Err(Trouble::state(format!(
                    "the drive at {address} is bound to {other}, and the kernel's nvme driver is \
                     needed: write {address} to /sys/bus/pci/drivers/{other}/unbind and then to \
                     /sys/bus/pci/drivers/nvme/bind"
                )));
            }
            None => {
                return Err(Trouble::state(format!(
                    "the drive at {address} is bound to no driver, and the kernel's nvme driver \
                     is needed: write {address} to /sys/bus/pci/drivers/nvme/bind"
                )));
            }
        }
        self.controller(&device, address)
    }

    fn controller(&self, device: &Path, address: &Address) -> Result<Controller, Trouble> {
        let parent = device.join("nvme");
        let name = names(&parent).into_iter().next().ok_or_else(|| {
            Trouble::state(format!(
                "the kernel's nvme driver has not set up the drive at {address}; its log may say \
                 why"
            ))
        })?;
        let node = parent.join(&name);
        let state = attribute(&node, "state").unwrap_or_default();
        let trouble = (state != "live").then(|| {
            let text = format!("the drive {name} at {address} is {state}, not live");
            Trouble::new(Code::Unavailable, text)
        });
        let subsystem = attribute(&node, "subsysnqn").unwrap_or_default();
        let mut disks: Vec<Disk> = Vec::new();
        for name in names(&node).iter().filter_map(|name| disk_name(name)) {
            let Some(disk) = self.disk(name, &subsystem) else {
                // It is just coming or going.
                continue;
            };
            if disks.iter().all(|other| other.key != disk.key) {
                disks.push(disk);
            }
        }
        disks.sort_by_key(|disk| disk.nsid);
        Ok(Controller {
            name,
            node,
            trouble,
            disks,
        })
    }

    fn disk(&self, name: String, subsystem: &str) -> Option<Disk> {
        let node = self.block(&name);
        let nsid = number(&node, "nsid")?;
        let identity = identity(&node);
        let key = match identity == Identity::default() {
            true => Key::Numbered(subsystem.to_owned(), nsid),
            false => Key::Global(identity.uuid, identity.nguid, identity.eui64),
        };
        let sectors: u64 = number(&node, "size")?;
        Some(Disk {
            number: device_number(&attribute(&node, "dev")?)?,
            sequence: number(&node, "diskseq").unwrap_or_default(),
            nsid,
            key,
            block_bytes: number(&node, "queue/logical_block_size")?,
            bytes: sectors.saturating_mul(SECTOR_BYTES),
            caches: attribute(&node, "queue/write_cache").as_deref() != Some("write through"),
            name,
        })
    }

    /// Whether a disk is still the one that was seen.
    pub(super) fn shows(&self, disk: &Disk) -> bool {
        let node = self.block(&disk.name);
        let dev = attribute(&node, "dev").and_then(|text| device_number(&text));
        let sequence = number(&node, "diskseq").unwrap_or_default();
        dev == Some(disk.number) && disk.sequence == sequence
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Machine;
    use super::*;

    fn address() -> Address {
        Address::parse("0000:01:00.0").unwrap()
    }

    fn why(machine: &Machine) -> String {
        machine.roots.look(&address()).unwrap_err().text
    }

    #[test]
    fn a_drive_is_found_with_its_namespaces_and_their_identities() {
        let machine = Machine::new();
        machine.drive("0000:01:00.0", 0, 1);
        machine.namespace("nvme0/nvme0n1", "nvme0n1", 1, 7);
        let looked = machine.roots.look(&address()).unwrap();
        assert_eq!(looked.name, "nvme0");
        assert!(looked.node.join("state").exists());
        let [disk] = &looked.disks[..] else {
            panic!("{looked:?}")
        };
        assert_eq!((disk.nsid, disk.number, disk.sequence), (1, 0x10307, 7));
        let Key::Global(uuid, nguid, eui64) = disk.key else {
            panic!("{disk:?}")
        };
        assert_eq!((uuid, nguid, eui64), ([7; 16], [0x17; 16], [0x27; 8]));
    }

    #[test]
    fn namespaces_behind_the_kernels_own_multipathing_are_found_by_their_head() {
        let machine = Machine::new();
        machine.drive("0000:01:00.0", 3, 1);
        machine.namespace("nvme3/nvme1c3n2", "nvme1n2", 5, 7);
        // Not namespaces.
        for other in ["ng1n2", "hwmon4", "nvme1c3", "power"] {
            machine.folder(&format!(
                "sys/bus/pci/devices/0000:01:00.0/nvme/nvme3/{other}"
            ));
        }
        let looked = machine.roots.look(&address()).unwrap();
        let names: Vec<&str> = looked.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["nvme1n2"]);
    }

    #[test]
    fn what_the_kernel_shows_instead_of_a_uuid_is_none() {
        let machine = Machine::new();
        machine.drive("0000:01:00.0", 0, 1);
        machine.namespace("nvme0/nvme0n1", "nvme0n1", 1, 7);
        let block = "sys/class/block/nvme0n1";
        machine.write(&format!("{block}/wwid"), "eui.1717");
        machine.write(&format!("{block}/eui"), "");
        let key = |machine: &Machine| machine.roots.look(&address()).unwrap().disks[0].key.clone();
        assert_eq!(key(&machine), Key::Global([0; 16], [0x17; 16], [0; 8]));
        machine.write(&format!("{block}/nguid"), "");
        machine.write(&format!("{block}/wwid"), "nvme.1af4-1-1-00000001");
        assert_eq!(key(&machine), Key::Numbered("nqn.drive0".to_owned(), 1));
    }

    #[test]
    fn a_drive_that_cannot_be_had_is_named_with_the_reason() {
        let machine = Machine::new();
        assert!(why(&machine).contains("no PCI device 0000:01:00.0"));
        machine.drive("0000:01:00.0", 0, 1);
        machine.write(
            "sys/bus/pci/devices/0000:01:00.0/nvme/nvme0/state",
            "resetting\n",
        );
        let trouble = machine.roots.look(&address()).unwrap().trouble.unwrap();
        assert!(trouble.text.contains("nvme0 at 0000:01:00.0 is resetting"));
        machine.remove("sys/bus/pci/devices/0000:01:00.0/nvme");
        assert!(why(&machine).contains("has not set up"));
        machine.driver("0000:01:00.0", Some("vfio-pci"));
        assert!(why(&machine).contains("bound to vfio-pci"));
        machine.driver("0000:01:00.0", None);
        assert!(why(&machine).contains("bound to no driver"));
        machine.write("sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n");
        assert!(why(&machine).contains("no NVMe controller"));
    }
}
