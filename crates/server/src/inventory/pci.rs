//! PCI devices from sysfs, with names from the machine's `pci.ids` where it has one.

use super::line;
use api::inventory::v1::PcIeDeviceInfo;
use std::collections::HashMap;
use std::path::Path;

/// Where distributions keep the list of names.
const NAME_FILES: [&str; 3] = [
    "usr/share/misc/pci.ids",
    "usr/share/hwdata/pci.ids",
    "usr/share/pci.ids",
];

/// Names by vendor, by vendor and device, by class and by class and subclass, in hexadecimal.
#[derive(Default)]
struct Names(HashMap<(char, String), String>);

impl Names {
    fn load(root: &Path) -> Self {
        let text = NAME_FILES
            .iter()
            .find_map(|f| std::fs::read(root.join(f)).ok());
        Self::parse(&String::from_utf8_lossy(&text.unwrap_or_default()))
    }

    /// The format: `vendor  name`, a tab and `device  name`, `C class  name`, a tab and
    /// `subclass  name`; two tabs go deeper than what is needed here.
    fn parse(text: &str) -> Self {
        let mut names = HashMap::new();
        let mut above = (' ', String::new());
        for line in text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            if line.starts_with("\t\t") {
                continue;
            }
            let (kind, rest) = match line.strip_prefix('\t') {
                Some(rest) => (above.0.to_ascii_lowercase(), rest),
                None if line.starts_with("C ") => ('C', &line[2..]),
                None => ('V', line),
            };
            let Some((id, name)) = rest.split_once("  ") else {
                continue;
            };
            if line.starts_with('\t') {
                names.insert((kind, format!("{}{id}", above.1)), name.to_owned());
            } else {
                above = (kind, id.to_owned());
                names.insert((kind, id.to_owned()), name.to_owned());
            }
        }
        Self(names)
    }

    /// The name, or the number as the kernel prints it.
    fn of(&self, kind: char, id: &str, number: &str) -> String {
        self.0
            .get(&(kind, id.to_owned()))
            .cloned()
            .unwrap_or_else(|| number.to_owned())
    }
}

/// All devices in the order of their addresses.
pub(super) fn devices(root: &Path) -> Vec<PcIeDeviceInfo> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/bus/pci/devices")) else {
        return Vec::new();
    };
    let names = Names::load(root);
    let mut all: Vec<PcIeDeviceInfo> = entries
        .flatten()
        .map(|entry| device(&entry.path(), &names))
        .collect();
    all.sort_by(|a, b| a.address.cmp(&b.address));
    all
}

fn device(path: &Path, names: &Names) -> PcIeDeviceInfo {
    let number = |file: &str| line(&path.join(file));
    let (vendor, device, class) = (number("vendor"), number("device"), number("class"));
    let hex = |text: &str| text.trim_start_matches("0x").to_owned();
    let (v, d, c) = (hex(&vendor), hex(&device), hex(&class));
    let part = |from: usize, to: usize| c.get(from..to).unwrap_or_default().to_owned();
    let subsystem = (number("subsystem_vendor"), number("subsystem_device"));
    let last = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    PcIeDeviceInfo {
        driver: std::fs::read_link(path.join("driver"))
            .ok()
            .and_then(|link| last(&link))
            .unwrap_or_default(),
        address: last(path).unwrap_or_default(),
        vendor: names.of('V', &v, &vendor),
        product: names.of('v', &format!("{v}{d}"), &device),
        revision: number("revision"),
        subsystem: [subsystem.0, subsystem.1]
            .join(":")
            .trim_matches(':')
            .to_owned(),
        class: names.of('C', &part(0, 2), &part(0, 2)),
        subclass: names.of('c', &part(0, 4), &part(2, 4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &str = "# a comment\n1b36  Red Hat, Inc.\n\t0010  QEMU NVM Express Controller\n\
        \t\t1af4 1100  deeper\nC 01  Mass storage controller\n\
        \t08  Non-Volatile memory controller\n\
        \t\t02  NVM Express\n";

    #[test]
    fn names_come_from_the_list_and_numbers_where_it_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let nvme = root.join("sys/bus/pci/devices/0000:00:04.0");
        std::fs::create_dir_all(&nvme).unwrap();
        std::fs::create_dir_all(root.join("usr/share/misc")).unwrap();
        std::fs::write(root.join("usr/share/misc/pci.ids"), IDS).unwrap();
        let values = [
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("class", "0x010802"),
            ("revision", "0x02"),
        ];
        for (file, text) in values {
            std::fs::write(nvme.join(file), format!("{text}\n")).unwrap();
        }
        std::os::unix::fs::symlink("../../bus/pci/drivers/nvme", nvme.join("driver")).unwrap();
        let other = root.join("sys/bus/pci/devices/0000:00:03.0");
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(other.join("vendor"), "0xabcd\n").unwrap();
        let all = devices(root);
        assert_eq!(
            (&*all[0].address, &*all[0].vendor, &*all[0].driver),
            ("0000:00:03.0", "0xabcd", "")
        );
        assert_eq!(
            (&*all[1].vendor, &*all[1].driver),
            ("Red Hat, Inc.", "nvme")
        );
        assert_eq!(all[1].product, "QEMU NVM Express Controller");
        assert_eq!(all[1].class, "Mass storage controller");
        assert_eq!(all[1].subclass, "Non-Volatile memory controller");
    }
}
