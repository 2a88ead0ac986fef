//! Who else uses a disk: what is mounted from it, swaps to it, or stands on it.

use super::sysfs::{Disk, Roots, attribute, device_number, names};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A disk or a partition of it.
struct Part {
    /// As in `nvme0n1p1`.
    name: String,
    number: u64,
    /// Names of the devices that the kernel has put on it, as of LVM, dm-crypt or md.
    holders: Vec<String>,
}

/// The text of a path in mountinfo or swaps, in which spaces and the like are octal escapes.
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Roots {
    /// Who uses the disk or a partition of it, in words that name both and say the way out; `None`
    /// if nobody is seen to. The kernel has the last word when the disk is opened.
    pub(super) fn user_of(&self, disk: &Disk) -> Option<String> {
        let parts = self.parts(disk);
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        let swaps = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        parts.iter().find_map(|part| {
            let name = &part.name;
            if let Some(place) = self.mounted_on(&mounts, part) {
                return Some(format!(
                    "/dev/{name} is mounted on {place}: unmount it first"
                ));
            }
            if self.is_swap(&swaps, part) {
                return Some(format!(
                    "/dev/{name} is in use as swap: `swapoff /dev/{name}` first"
                ));
            }
            let holder = part.holders.first()?;
            Some(format!(
                "/dev/{name} is held by {}: take it out of that first",
                self.shown(holder)
            ))
        })
    }

    /// The disk and its partitions.
    fn parts(&self, disk: &Disk) -> Vec<Part> {
        let node = self.block(&disk.name);
        let mut parts = vec![Part {
            name: disk.name.clone(),
            number: disk.number,
            holders: names(&node.join("holders")),
        }];
        for name in names(&node) {
            let below = node.join(&name);
            let number = attribute(&below, "dev").and_then(|text| device_number(&text));
            if let Some(number) = number.filter(|_| below.join("partition").exists()) {
                let holders = names(&below.join("holders"));
                parts.push(Part {
                    name,
                    number,
                    holders,
                });
            }
        }
        parts
    }

    /// Whether a path is this device. Paths elsewhere than in `/dev` are not looked at: the file
    /// system that they are on may not answer.
    fn is_device(&self, path: &str, part: &Part) -> bool {
        let path = Path::new(path);
        let number = || fs::metadata(path).map(|meta| meta.rdev());
        path == self.dev.join(&part.name)
            || path.starts_with(&self.dev) && number().is_ok_and(|number| number == part.number)
    }

    /// Where a device is mounted (proc(5), mountinfo: the third field is the device, which is not
    /// that of the disk for some file systems; the second after the dash is the source).
    fn mounted_on(&self, mounts: &str, part: &Part) -> Option<String> {
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let (number, place) = (device_number(left.get(2)?), left.get(4)?);
            let source = right.split(' ').nth(1).map(unescaped)?;
            let own = number == Some(part.number);
            (own || self.is_device(&source, part)).then(|| unescaped(place))
        })
    }

    fn is_swap(&self, swaps: &str, part: &Part) -> bool {
        let paths = swaps
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next());
        paths.map(unescaped).any(|path| self.is_device(&path, part))
    }

    /// A holder by the name that its owner gave it, if there is one.
    fn shown(&self, holder: &str) -> String {
        match attribute(&self.block(holder), "dm/name") {
            Some(name) => format!("{holder} ({name})"),
            None => holder.to_owned(),
        }
    }

    /// The programs that have the disk or a partition of it open, as far as they can be seen.
    pub(super) fn openers_of(&self, disk: &Disk) -> Vec<String> {
        let parts = self.parts(disk);
        let own = std::process::id().to_string();
        let mut found = BTreeSet::new();
        for pid in names(&self.proc) {
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let process = self.proc.join(&pid);
            let fds = fs::read_dir(process.join("fd")).into_iter().flatten();
            let is_ours = |path: &str| parts.iter().any(|part| self.is_device(path, part));
            // The link says what is open; following it could open a device that waits.
            let open = fds.flatten().any(|fd| {
                let path = fs::read_link(fd.path()).ok();
                let path = path.as_deref().and_then(|path| path.to_str());
                path.is_some_and(is_ours)
            });
            if open {
                let name = attribute(&process, "comm").unwrap_or_default();
                found.insert(match pid == own {
                    true => "this server".to_owned(),
                    false => format!("{name} (process {pid})"),
                });
            }
        }
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Machine;
    use super::*;
    use crate::nvme::pcie::address::Address;

    fn drive() -> (Machine, Disk) {
        let machine = Machine::new();
        machine.drive("0000:01:00.0", 0, 1);
        machine.namespace("nvme0/nvme0n1", "nvme0n1", 1, 7);
        machine.partition("nvme0n1", "nvme0n1p2", "259:9");
        let address = Address::parse("01:00.0").unwrap();
        let disk = machine.roots.look(&address).unwrap().disks.remove(0);
        (machine, disk)
    }

    #[test]
    fn a_disk_that_nobody_uses_has_no_user() {
        let (machine, disk) = drive();
        let others = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      23 22 0:5 / /dev rw - devtmpfs devtmpfs rw\n";
        machine.write("proc/self/mountinfo", others);
        machine.write("proc/swaps", "Filename Type Size Used Priority\n");
        assert_eq!(machine.roots.user_of(&disk), None);
        assert!(machine.roots.openers_of(&disk).is_empty());
    }

    #[test]
    fn mounts_swap_and_holders_are_named_on_the_disk_and_on_its_partitions() {
        let (machine, disk) = drive();
        let user = || machine.roots.user_of(&disk).unwrap_or_default();
        let mount = "22 1 259:9 / /mnt/my\\040data rw - ext4 /dev/nvme0n1p2 rw\n";
        machine.write("proc/self/mountinfo", mount);
        assert!(
            user().contains("/dev/nvme0n1p2 is mounted on /mnt/my data"),
            "{}",
            user()
        );
        // btrfs shows a device number of its own.
        let own = machine.roots.dev.join("nvme0n1");
        let mount = format!("22 1 0:41 / /data rw - btrfs {} rw\n", own.display());
        machine.write("proc/self/mountinfo", &mount);
        assert!(
            user().contains("/dev/nvme0n1 is mounted on /data"),
            "{}",
            user()
        );
        machine.write("proc/self/mountinfo", "");
        let part = machine.roots.dev.join("nvme0n1p2");
        let swap = format!("Filename Type\n{} partition 9 0 -2\n", part.display());
        machine.write("proc/swaps", &swap);
        assert!(
            user().contains("/dev/nvme0n1p2 is in use as swap"),
            "{}",
            user()
        );
        machine.write("proc/swaps", "");
        machine.folder("sys/class/block/nvme0n1/nvme0n1p2/holders/dm-3");
        machine.write("sys/class/block/dm-3/dm/name", "vg-root\n");
        assert!(
            user().contains("/dev/nvme0n1p2 is held by dm-3 (vg-root)"),
            "{}",
            user()
        );
    }

    #[test]
    fn programs_that_have_it_open_are_named() {
        let (machine, disk) = drive();
        let dev = machine.roots.dev.join("nvme0n1");
        machine.link("proc/77/fd/5", &dev);
        machine.write("proc/77/comm", "qemu-system-x86\n");
        machine.link("proc/78/fd/5", "/dev/null".as_ref());
        machine.link(&format!("proc/{}/fd/9", std::process::id()), &dev);
        let openers = machine.roots.openers_of(&disk);
        assert_eq!(openers, ["qemu-system-x86 (process 77)", "this server"]);
    }
}
