//! The guest's initial file system: chosen programs with their libraries, kernel modules and the
//! init script, written as one cpio archive in the `newc` format of the kernel's
//! `driver-api/early-userspace/buffer-format.rst`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::recipe::{GUEST_DIRS, GUEST_FILES, GUEST_LINKS, GUEST_MODULES, GUEST_PROGRAMS};
use crate::process::{Result, command, run};

/// Where Debian keeps shared libraries. They keep their place, so a program that names a folder
/// of its own (fio's reach one of Ceph's) finds it in the guest as well.
const LIBRARY_DIRS: [&str; 4] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/ceph",
    "usr/lib64",
    "usr/lib",
];

/// Loaded at run time by the C library, so no program names it.
const HIDDEN_LIBRARIES: [&str; 1] = ["libgcc_s.so.1"];

/// One thing in the archive.
enum Node {
    Dir,
    Link(String),
    File { bytes: Vec<u8>, mode: u32 },
}

/// The archive while it is collected: path to content, sorted so that folders come first.
#[derive(Default)]
struct Archive(BTreeMap<String, Node>);

impl Archive {
    fn add(&mut self, path: &str, node: Node) {
        let mut end = 0;
        while let Some(at) = path[end..].find('/') {
            end += at;
            self.0.entry(path[..end].to_owned()).or_insert(Node::Dir);
            end += 1;
        }
        self.0.insert(path.to_owned(), node);
    }

    fn add_file(&mut self, path: &str, from: &Path, mode: u32) -> Result<()> {
        let bytes = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
        self.add(path, Node::File { bytes, mode });
        Ok(())
    }

    fn write(&self, to: &Path) -> Result<()> {
        let fail = |e: std::io::Error| format!("{}: {e}", to.display());
        let mut out = BufWriter::new(fs::File::create(to).map_err(fail)?);
        for (index, (path, node)) in self.0.iter().enumerate() {
            let (mode, bytes) = match node {
                Node::Dir => (0o040_755, &[][..]),
                Node::Link(target) => (0o120_777, target.as_bytes()),
                Node::File { bytes, mode } => (0o100_000 | mode, &bytes[..]),
            };
            entry(&mut out, index + 1, path, mode, bytes).map_err(fail)?;
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[]).map_err(fail)?;
        out.flush().map_err(fail)
    }
}

/// Writes one archive member: a header of 13 hexadecimal fields, the name, the data, each padded
/// to four bytes.
fn entry(
    out: &mut impl Write,
    ino: usize,
    name: &str,
    mode: u32,
    data: &[u8],
) -> std::io::Result<()> {
    let links = 1;
    let fields = [
        ino,
        mode as usize,
        0,
        0,
        links,
        0,
        data.len(),
        0,
        0,
        0,
        0,
        name.len() + 1,
        0,
    ];
    let mut header = String::from("070701");
    for field in fields {
        header.push_str(&format!("{field:08x}"));
    }
    header.push_str(name);
    header.push('\0');
    while !header.len().is_multiple_of(4) {
        header.push('\0');
    }
    out.write_all(header.as_bytes())?;
    out.write_all(data)?;
    out.write_all(&[0; 3][..data.len().wrapping_neg() % 4])
}

/// Builds the archive `to` from the unpacked packages, the unpacked kernel and the init script.
pub(super) fn build(
    tree: &Path,
    kernel: &Path,
    version: &str,
    init: &str,
    to: &Path,
) -> Result<()> {
    let mut archive = Archive::default();
    for dir in GUEST_DIRS {
        archive.add(dir, Node::Dir);
    }
    for (path, target) in GUEST_LINKS {
        archive.add(path, Node::Link((*target).to_owned()));
    }
    for (path, text) in GUEST_FILES {
        archive.add(
            path,
            Node::File {
                bytes: text.as_bytes().to_vec(),
                mode: 0o644,
            },
        );
    }
    archive.add(
        "init",
        Node::File {
            bytes: init.as_bytes().to_vec(),
            mode: 0o755,
        },
    );
    programs(&mut archive, tree)?;
    modules(&mut archive, kernel, version)?;
    archive.write(to)
}

/// Adds the programs and, transitively, every library they name.
fn programs(archive: &mut Archive, tree: &Path) -> Result<()> {
    let mut wanted: Vec<String> = GUEST_PROGRAMS.iter().map(|p| (*p).to_owned()).collect();
    for library in HIDDEN_LIBRARIES {
        wanted.push(library_path(tree, library)?);
    }
    let mut done = BTreeSet::new();
    while let Some(path) = wanted.pop() {
        if !done.insert(path.clone()) {
            continue;
        }
        let from = tree.join(&path);
        archive.add_file(&path, &from, 0o755)?;
        let mut readelf = command("readelf");
        let dynamic = run(readelf
            .env("LC_ALL", "C")
            .args(["-dW", "--program-headers"])
            .arg(&from))
        .map_err(|e| format!("{path}: cannot read its libraries: {e}"))?;
        for line in dynamic.lines() {
            if let Some(name) = between(line, "Shared library: [", "]") {
                wanted.push(library_path(tree, name)?);
            } else if let Some(loader) = between(line, "program interpreter: ", "]") {
                // The loader is named by the path the kernel opens; /lib64 is a link here.
                let usr = format!("usr{loader}");
                let real = fs::canonicalize(tree.join(&usr)).map_err(|e| format!("{usr}: {e}"))?;
                archive.add_file(&usr, &real, 0o755)?;
                done.insert(usr);
            }
        }
    }
    Ok(())
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    line.split_once(start)?.1.split(end).next()
}

/// The path of a library inside `tree`.
fn library_path(tree: &Path, name: &str) -> Result<String> {
    LIBRARY_DIRS
        .iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| tree.join(path).exists())
        .ok_or_else(|| format!("no guest package brings the library {name}"))
}

/// Adds the kernel modules, unpacked, with what they depend on, and the index `modprobe` reads.
fn modules(archive: &mut Archive, kernel: &Path, version: &str) -> Result<()> {
    // kmod looks under <base>/lib/modules; Debian now ships usr/lib/modules.
    let base = kernel.join("usr");
    run(command("depmod").arg("-b").arg(&base).arg(version))?;
    let small = kernel.join("small");
    let folder = small.join("lib/modules").join(version);
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let original = base.join("lib/modules").join(version);
    let mut paths = BTreeSet::new();
    for module in GUEST_MODULES {
        let mut probe = command("modprobe");
        probe
            .arg("-d")
            .arg(&base)
            .args(["-S", version, "--show-depends", module]);
        let depends = run(&mut probe).map_err(|e| format!("kernel module {module}: {e}"))?;
        paths.extend(depends.lines().filter_map(|l| {
            l.strip_prefix("insmod ")
                .and_then(|l| l.split_whitespace().next())
                .map(str::to_owned)
        }));
    }
    for path in paths {
        let relative = path
            .split_once(&format!("{version}/"))
            .map(|(_, rest)| rest.trim_end_matches(".xz").to_owned())
            .ok_or_else(|| format!("modprobe named a module elsewhere: {path}"))?;
        let target = folder.join(&relative);
        let parent = target.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        let file = fs::File::create(&target).map_err(|e| format!("{}: {e}", target.display()))?;
        let mut unpack = command(if path.ends_with(".xz") { "xz" } else { "cat" });
        if path.ends_with(".xz") {
            unpack.arg("-dc");
        }
        let status = unpack
            .arg(&path)
            .stdout(file)
            .status()
            .map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("{path}: cannot be unpacked"));
        }
    }
    for name in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        fs::copy(original.join(name), folder.join(name)).map_err(|e| format!("{name}: {e}"))?;
    }
    run(command("depmod").arg("-b").arg(&small).arg(version))?;
    collect(archive, &folder, &format!("usr/lib/modules/{version}"))
}

/// Adds everything below `dir` to the archive under `prefix`.
fn collect(archive: &mut Archive, dir: &Path, prefix: &str) -> Result<()> {
    let listing = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for found in listing.flatten() {
        let path = format!("{prefix}/{}", found.file_name().to_string_lossy());
        if found.path().is_dir() {
            collect(archive, &found.path(), &path)?;
        } else {
            archive.add_file(&path, &found.path(), 0o644)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_padded_to_four_bytes_twice() {
        let mut out = Vec::new();
        entry(&mut out, 7, "ab", 0o100_644, b"12345").unwrap();
        assert_eq!(out.len() % 4, 0);
        assert_eq!(&out[..6], b"070701");
        assert_eq!(&out[6..14], b"00000007");
        assert_eq!(
            &out[54..62],
            b"00000005",
            "the file size is the seventh field"
        );
        assert_eq!(&out[110..116], b"ab\0\0\0\0".get(..6).unwrap());
        assert_eq!(&out[116 - 4..116], &out[112..116]);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.add("a/b/c", Node::Link("x".into()));
        assert_eq!(archive.0.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
    }
}
