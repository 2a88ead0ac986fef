//! Debian packages: what this machine needs is installed on it, what the guest needs is only
//! downloaded and unpacked, by an apt of our own whose sources the machine's apt never sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::recipe::{GUEST_PACKAGES, HOST_PROGRAMS, KERNEL_PACKAGE, SUITE};
use crate::process::{Result, command, find, is_root, retried, run};

/// Debian's own signing keys, part of `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Installs the programs this machine lacks, or says with which line to do so.
pub(super) fn install_host_programs() -> Result<()> {
    let mut missing: Vec<&str> = HOST_PROGRAMS
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(KEYRING).exists() {
        missing.push("debian-archive-keyring");
    }
    if super::python::interpreter().is_none() {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

/// Installs `packages` on this machine.
fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let line = format!("apt-get install -y --no-install-recommends {list}");
    if find("apt-get").is_none() {
        return Err(format!(
            "this machine has no apt-get; install the equivalent of: {list}"
        ));
    }
    if !is_root() {
        return Err(format!(
            "packages are missing; run this line, then try again:\n    sudo {line}"
        ));
    }
    println!("      installing {list}");
    // An unreachable third-party source makes this fail while Debian's own lists are fine.
    let update = retried("apt-get update", || host_apt(&["update"]));
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    retried("apt-get install", || host_apt(&arguments)).map_err(|e| match &update {
        Ok(_) => format!("{e}\n    by hand: {line}"),
        Err(first) => format!("{e}\n    by hand: {line}\n    (before that: {first})"),
    })?;
    Ok(())
}

/// The machine's own apt, waiting for whoever else is installing something.
fn host_apt(arguments: &[&str]) -> Command {
    let mut apt = command("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["-o", "DPkg::Lock::Timeout=300", "-q"])
        .args(arguments);
    apt
}

/// An apt with its own sources, lists and cache under the lab, and an empty idea of what is
/// installed. It carries over the machine's proxy and certificate settings, nothing else.
pub(super) struct PrivateApt {
    configuration: PathBuf,
    archives: PathBuf,
}

impl PrivateApt {
    /// Sets the private apt up under `dir` and fetches the package lists.
    pub(super) fn open(dir: &Path) -> Result<PrivateApt> {
        let archives = dir.join("cache/archives");
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub)).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let mirror = mirror()?;
        write(
            &dir.join("sources.list"),
            &format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n"),
        )?;
        write(&dir.join("status"), "")?;
        let d = dir.display();
        let configuration = dir.join("apt.conf");
        write(
            &configuration,
            &format!(
                "Dir::Etc::sourcelist \"{d}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
                 Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
                 Dir::State \"{d}\";\nDir::State::lists \"{d}/lists\";\n\
                 Dir::State::status \"{d}/status\";\nDir::Cache \"{d}/cache\";\n\
                 APT::Sandbox::User \"root\";\nAPT::Architecture \"amd64\";\n\
                 APT::Architectures {{ \"amd64\"; }};\n\
                 APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
            ),
        )?;
        let apt = PrivateApt {
            configuration,
            archives,
        };
        retried("package lists", || apt.tool("apt-get", &["-q", "update"]))?;
        Ok(apt)
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> Command {
        let mut tool = command(program);
        tool.env("APT_CONFIG", &self.configuration).args(arguments);
        tool
    }

    /// Downloads the guest's packages with all they depend on and unpacks them to `tree`.
    pub(super) fn unpack_guest(&self, tree: &Path) -> Result<()> {
        let mut arguments = vec!["-q", "-y", "--download-only", "install"];
        arguments.extend(GUEST_PACKAGES);
        retried("guest packages", || self.tool("apt-get", &arguments))?;
        fresh(tree)?;
        // Debian merged these folders; a package that still names the old ones must follow.
        for dir in ["bin", "sbin", "lib", "lib64"] {
            let made = fs::create_dir_all(tree.join("usr").join(dir))
                .and_then(|()| std::os::unix::fs::symlink(format!("usr/{dir}"), tree.join(dir)));
            made.map_err(|e| format!("{}: {e}", tree.display()))?;
        }
        let listing = fs::read_dir(&self.archives);
        for entry in listing
            .map_err(|e| format!("{}: {e}", self.archives.display()))?
            .flatten()
        {
            if entry.path().extension().is_some_and(|e| e == "deb") {
                run(command("dpkg-deb").arg("-x").arg(entry.path()).arg(tree))?;
            }
        }
        Ok(())
    }

    /// Downloads the kernel and unpacks it to `dir`; returns its version.
    pub(super) fn unpack_kernel(&self, dir: &Path) -> Result<String> {
        let depends = run(&mut self.tool("apt-cache", &["depends", KERNEL_PACKAGE]))?;
        let package = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with("linux-image-"))
            .ok_or_else(|| format!("{KERNEL_PACKAGE} of {SUITE} names no kernel: {depends}"))?;
        fresh(dir)?;
        retried("guest kernel", || {
            let mut apt = self.tool("apt-get", &["-q", "download", package]);
            apt.current_dir(dir);
            apt
        })?;
        let listing = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for entry in listing.flatten() {
            if entry.path().extension().is_some_and(|e| e == "deb") {
                run(command("dpkg-deb").arg("-x").arg(entry.path()).arg(dir))?;
                fs::remove_file(entry.path()).map_err(|e| e.to_string())?;
            }
        }
        Ok(package.trim_start_matches("linux-image-").to_owned())
    }

    /// Gives the downloaded packages' space back.
    pub(super) fn clean(&self) -> Result<()> {
        run(&mut self.tool("apt-get", &["clean"])).map(drop)
    }
}

/// Replaces `dir` by an empty folder.
fn fresh(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The Debian mirror this machine already uses for its own release.
fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map_or("", |name| name.trim_matches('"'));
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        texts.extend(
            parts
                .flatten()
                .filter_map(|part| fs::read_to_string(part.path()).ok()),
        );
    }
    texts
        .iter()
        .find_map(|text| mirror_in(text, codename))
        .ok_or_else(|| {
            format!(
                "no apt source of this machine carries its own release {codename:?}; \
             the lab is made from the same Debian mirror, so add one to /etc/apt"
            )
        })
}

/// The mirror of `codename` in one sources file, in either of the two formats.
fn mirror_in(text: &str, codename: &str) -> Option<String> {
    let one_line = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("deb "))
        .find_map(|l| {
            let rest = l.trim_start();
            let rest = if rest.starts_with('[') {
                rest.split_once(']')?.1
            } else {
                rest
            };
            let mut words = rest.split_whitespace();
            let uri = words.next()?;
            (words.next()? == codename && words.any(|word| word == "main")).then(|| uri.to_owned())
        });
    one_line.or_else(|| {
        text.split("\n\n")
            .find_map(|stanza| stanza_mirror(stanza, codename))
    })
}

fn stanza_mirror(stanza: &str, codename: &str) -> Option<String> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            line.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(':'))
                .map(str::trim)
        })
    };
    let has = |name: &str, word: &str| {
        field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word))
    };
    (has("Types", "deb") && has("Suites", codename) && has("Components", "main"))
        .then(|| field("URIs")?.split_whitespace().next().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_a_stanza() {
        let text = "Types: deb\nURIs: http://a/security\nSuites: x-security\nComponents: main\n\n\
                    Types: deb\n# note\nURIs: http://b/debian\nSuites: x x-updates\n\
                    Components: main contrib\n";
        assert_eq!(mirror_in(text, "x").as_deref(), Some("http://b/debian"));
    }

    #[test]
    fn the_mirror_is_read_from_a_one_line_source() {
        let text = "# comment\ndeb [arch=amd64 signed-by=/k] http://c/debian x main\n";
        assert_eq!(mirror_in(text, "x").as_deref(), Some("http://c/debian"));
    }

    #[test]
    fn a_third_party_source_is_not_the_mirror() {
        assert_eq!(mirror_in("deb http://d/apt cloud-x main\n", "x"), None);
    }
}
