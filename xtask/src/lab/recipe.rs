//! What the lab is made of. Adding a tool or a kernel module to the guest is one line here.

/// The Debian release the guest is made of. Its kernel is the 6.12 the tests are about.
pub(super) const SUITE: &str = "trixie";

/// Debian's name of the guest's kernel; the version it stands for is looked up.
pub(super) const KERNEL_PACKAGE: &str = "linux-image-amd64";

/// Programs needed on this machine, and the Debian package that brings each.
pub(super) const HOST_PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("readelf", "binutils"),
    ("ip", "iproute2"),
    ("losetup", "mount"),
    ("openssl", "openssl"),
    ("setpriv", "util-linux"),
    ("curl", "curl"),
];

/// Packages whose files the guest's programs come from; dependencies follow by themselves.
pub(super) const GUEST_PACKAGES: &[&str] = &[
    "bash",
    "busybox-static",
    "coreutils",
    "diffutils",
    "e2fsprogs",
    "fio",
    "iproute2",
    "jq",
    "kmod",
    "mount",
    "nvme-cli",
    "util-linux",
];

/// Programs copied into the guest, with the libraries they name. Everything else is busybox.
pub(super) const GUEST_PROGRAMS: &[&str] = &[
    "usr/bin/bash",
    "usr/bin/busybox",
    "usr/bin/cmp",
    "usr/bin/dd",
    "usr/bin/dmesg",
    "usr/bin/findmnt",
    "usr/bin/fio",
    "usr/bin/head",
    "usr/bin/jq",
    "usr/bin/kmod",
    "usr/bin/lsblk",
    "usr/bin/mount",
    "usr/bin/sha256sum",
    "usr/bin/stat",
    "usr/bin/sync",
    "usr/bin/timeout",
    "usr/bin/umount",
    "usr/sbin/blkdiscard",
    "usr/sbin/blkid",
    "usr/sbin/blockdev",
    "usr/sbin/e2fsck",
    "usr/sbin/fstrim",
    "usr/sbin/ip",
    "usr/sbin/mke2fs",
    "usr/sbin/nvme",
];

/// Names under which programs of [`GUEST_PROGRAMS`] are called as well.
pub(super) const GUEST_LINKS: &[(&str, &str)] = &[
    ("usr/bin/sh", "bash"),
    ("usr/sbin/mkfs.ext4", "mke2fs"),
    ("usr/sbin/fsck.ext4", "e2fsck"),
    ("usr/sbin/modprobe", "../bin/kmod"),
    ("usr/sbin/insmod", "../bin/kmod"),
    ("usr/sbin/rmmod", "../bin/kmod"),
    ("usr/sbin/lsmod", "../bin/kmod"),
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("var/run", "../run"),
    ("etc/mtab", "../proc/self/mounts"),
];

/// Empty folders the guest mounts things on.
pub(super) const GUEST_DIRS: &[&str] = &[
    "dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/tmp", "etc/nvme",
];

/// Small files of the guest.
pub(super) const GUEST_FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    (
        "etc/nsswitch.conf",
        "hosts: files\npasswd: files\ngroup: files\n",
    ),
];

/// Kernel modules the guest may load; dependencies follow by themselves.
pub(super) const GUEST_MODULES: &[&str] = &[
    "virtio_net",
    "virtio_console",
    "virtio_blk",
    "configfs",
    "nvme",
    "nvme_core",
    "nvme_fabrics",
    "nvme_tcp",
    "nvmet",
    "nvmet_tcp",
    "null_blk",
    "loop",
    "ext4",
    "tls",
    "crc32c_generic",
    "crc32c_intel",
    "crc64_rocksoft_generic",
    "crct10dif_pclmul",
    "dm_mod",
    "dm_flakey",
];

/// Python packages of the suite's foreign clients, pinned so that a run can be repeated.
pub(super) const PYTHON_PACKAGES: &[&str] = &[
    "pydpu==0.2.1",
    "openapi-spec-validator==0.9.0",
    "grpcio==1.85.1",
    "grpcio-reflection==1.85.1",
    "protobuf==7.36.2",
];

/// The reference client, as `go install` takes it.
pub(super) const GO_CLIENT: &str = "github.com/opiproject/godpu@v0.2.0";
