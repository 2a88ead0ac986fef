//! A machine made up in a folder, for tests: what the kernel would show of drives and their users.

use super::sysfs::Roots;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// See the file's head.
pub(super) struct Machine {
    folder: TempDir,
    pub(super) roots: Roots,
}

impl Machine {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots {
            sys: folder.path().join("sys"),
            proc: folder.path().join("proc"),
            dev: folder.path().join("dev"),
        };
        fs::create_dir_all(&roots.dev).unwrap();
        Self { folder, roots }
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn folder(&self, path: &str) {
        fs::create_dir_all(self.folder.path().join(path)).unwrap();
    }

    pub(super) fn link(&self, path: &str, to: &Path) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(to, path).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.folder.path().join(path);
        fs::remove_dir_all(&path)
            .or_else(|_| fs::remove_file(&path))
            .unwrap();
    }

    /// Binds the device at an address to a driver.
    pub(super) fn driver(&self, address: &str, driver: Option<&str>) {
        let link = format!("sys/bus/pci/devices/{address}/driver");
        match driver {
            Some(driver) => self.link(&link, format!("../../drivers/{driver}").as_ref()),
            None => self.remove(&link),
        }
    }

    /// A live drive without namespaces, `nvme<number>`, of subsystem `nqn.drive<subsystem>`.
    pub(super) fn drive(&self, address: &str, number: u32, subsystem: u32) {
        let device = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{device}/class"), "0x010802\n");
        self.driver(address, Some("nvme"));
        let node = format!("{device}/nvme/nvme{number}");
        self.write(&format!("{node}/state"), "live\n");
        let nqn = format!("nqn.drive{}\n", subsystem - 1);
        self.write(&format!("{node}/subsysnqn"), &nqn);
        self.write(&format!("{node}/reset_controller"), "");
    }

    /// A namespace `disk` of 1 MiB whose identifiers are made of this byte, below the controller
    /// of the only drive.
    pub(super) fn namespace(&self, below: &str, disk: &str, nsid: u32, byte: u8) {
        self.folder(&format!("sys/bus/pci/devices/0000:01:00.0/nvme/{below}"));
        self.disk(disk, nsid, byte, 1 << 20);
    }

    /// The block device of a namespace.
    pub(super) fn disk(&self, disk: &str, nsid: u32, byte: u8, bytes: u64) {
        let block = format!("sys/class/block/{disk}");
        let digits = |byte: u8, count: usize| format!("{byte:02x}").repeat(count);
        let uuid = uuid::Uuid::from_bytes([byte; 16]);
        let nguid = uuid::Uuid::from_bytes([byte + 0x10; 16]);
        let eui = vec![digits(byte + 0x20, 1); 8].join(" ");
        for (name, text) in [
            ("nsid", nsid.to_string()),
            ("uuid", uuid.to_string()),
            ("nguid", nguid.to_string()),
            ("eui", eui),
            ("wwid", format!("uuid.{uuid}")),
            ("dev", format!("259:{byte}")),
            ("diskseq", byte.to_string()),
            ("size", (bytes / 512).to_string()),
            ("queue/logical_block_size", "512".to_owned()),
            ("queue/write_cache", "write back".to_owned()),
        ] {
            self.write(&format!("{block}/{name}"), &format!("{text}\n"));
        }
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.roots.dev.join(disk));
        file.unwrap().set_len(bytes).unwrap();
    }

    /// A partition of a disk.
    pub(super) fn partition(&self, disk: &str, name: &str, number: &str) {
        let node = format!("sys/class/block/{disk}/{name}");
        self.write(&format!("{node}/partition"), "2\n");
        self.write(&format!("{node}/dev"), &format!("{number}\n"));
        self.write(&format!("dev/{name}"), "");
    }
}
