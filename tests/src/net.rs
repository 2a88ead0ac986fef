//! A private network: a network name space with a bridge, on which this side has an address of
//! each family and every guest a tap.
//!
//! Nothing of it is visible outside, so addresses and ports may be the same in every test.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::shell::run;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/var/run/netns";

/// How the names of our name spaces begin; the process and a count follow.
const PREFIX: &str = "opi-test-";

/// An address family of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 10.77.0.0/24
    V4,
    /// fd77::/64
    V6,
}

impl Family {
    /// The server's side of the bridge.
    #[must_use]
    pub fn server(self) -> &'static str {
        match self {
            Family::V4 => "10.77.0.1",
            Family::V6 => "fd77::1",
        }
    }

    /// The address of the guest with this number, which is 1 to 99.
    #[must_use]
    pub fn guest(self, number: u32) -> String {
        match self {
            Family::V4 => format!("10.77.0.{}", 100 + number),
            Family::V6 => format!("fd77::{}", 100 + number),
        }
    }

    /// The length of the network's prefix.
    #[must_use]
    pub fn prefix(self) -> u32 {
        match self {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    /// What OPI calls the family.
    #[must_use]
    pub fn adrfam(self) -> &'static str {
        match self {
            Family::V4 => "NVME_ADDRESS_FAMILY_IPV4",
            Family::V6 => "NVME_ADDRESS_FAMILY_IPV6",
        }
    }
}

/// A private network; it goes away with this value.
#[derive(Debug)]
pub struct Net {
    name: String,
    taps: AtomicU32,
}

impl Net {
    /// Makes a network.
    ///
    /// # Panics
    /// Without the rights to: the whole-system tests run as root.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "this makes something outside the process"
    )]
    pub fn new() -> Net {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "whole-system tests make network name spaces and need root: \
             run `sudo -E cargo xtask test`"
        );
        remove_left_behind();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Net {
            name: format!("{PREFIX}{}-{count}", process::id()),
            taps: AtomicU32::new(0),
        };
        run(Command::new("ip").args(["netns", "add", &net.name])).ok();
        net.ip("link set lo up");
        net.ip("link add br0 type bridge forward_delay 0");
        net.ip("link set br0 up");
        for family in [Family::V4, Family::V6] {
            net.ip(&format!(
                "addr add {}/{} dev br0",
                family.server(),
                family.prefix()
            ));
        }
        net
    }

    /// Runs `ip` with these words inside.
    fn ip(&self, words: &str) {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name]).args(words.split_whitespace());
        if words.contains("::") {
            // Nobody else is here, so an address need not be probed before it is used.
            ip.arg("nodad");
        }
        run(&mut ip).ok();
    }

    /// Adds a tap to the bridge and returns its name.
    pub(crate) fn add_tap(&self) -> String {
        let tap = format!("tap{}", self.taps.fetch_add(1, Ordering::Relaxed));
        self.ip(&format!("tuntap add {tap} mode tap"));
        self.ip(&format!("link set {tap} master br0 up"));
        tap
    }

    /// A command that runs `program` inside, and not longer than the calling thread lives.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.name,
            "setpriv",
            "--pdeathsig",
            "KILL",
        ]);
        command.arg(program);
        command
    }

    /// Runs `work` on a thread that is inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let entered = move || {
            let name = File::open(&path).expect("the name space exists as long as the Net");
            move_into_link_name_space(name.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a network name space");
            work()
        };
        thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Whoever is still inside keeps the network itself; only the name goes.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Removes the names of runs that were killed before they could.
fn remove_left_behind() {
    let Ok(listing) = fs::read_dir(NAMES) else {
        return;
    };
    for name in listing
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}
