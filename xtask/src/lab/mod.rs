//! `cargo xtask lab`: everything the whole-system tests need that is not our own: programs of
//! this machine, a Linux kernel and a small guest for it, and a Python environment.
//!
//! Each part carries a stamp of what it was made from and is made again only when that changes.

mod apt;
mod go;
mod image;
mod python;
mod recipe;

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::process::Result;
use crate::workspace;

/// Counts changes of the code that makes the lab, which the stamps cannot see.
const EDITION: u32 = 1;

/// The lab's folder: `OPI_LAB`, or `target/lab` of the workspace.
pub(crate) fn dir() -> PathBuf {
    env::var_os("OPI_LAB").map_or_else(|| workspace::root().join("target/lab"), PathBuf::from)
}

/// Whether the reference Go client could be had.
pub(crate) fn has_go_client() -> bool {
    go::has_client(&dir())
}

/// Builds what is missing.
pub(crate) fn build() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the lab runs x86-64 guests and is made on x86-64 machines only".into());
    }
    let lab = dir();
    fs::create_dir_all(&lab).map_err(|e| format!("{}: {e}", lab.display()))?;
    println!("lab: {}", lab.display());
    // Two runs on one machine take turns; the lock goes with the process.
    let lock = fs::File::create(lab.join("lock")).map_err(|e| format!("lab lock: {e}"))?;
    lock.lock().map_err(|e| format!("lab lock: {e}"))?;
    step("programs of this machine", apt::install_host_programs)?;
    let init_path = workspace::root().join("tests/guest/init.sh");
    let init =
        fs::read_to_string(&init_path).map_err(|e| format!("{}: {e}", init_path.display()))?;

    let guest = Stamp::new(
        &lab,
        "guest",
        &(
            recipe::SUITE,
            recipe::GUEST_PACKAGES,
            recipe::GUEST_PROGRAMS,
            recipe::GUEST_MODULES,
            (recipe::GUEST_DIRS, recipe::GUEST_FILES, recipe::GUEST_LINKS),
            &init,
        ),
    );
    if !guest.is_fresh() {
        guest.forget()?;
        build_guest(&lab, &init)?;
        guest.set()?;
    }
    let clients = Stamp::new(&lab, "python", &recipe::PYTHON_PACKAGES);
    if !clients.is_fresh() {
        clients.forget()?;
        step("Python clients", || python::build(&lab.join("venv")))?;
        clients.set()?;
    }
    step("reference Go client", || go::build(&lab))?;
    println!("lab: ready");
    Ok(())
}

fn build_guest(lab: &Path, init: &str) -> Result<()> {
    let (tree, kernel) = (lab.join("tree"), lab.join("kernel"));
    let mut private = None;
    step("package lists", || {
        private = Some(apt::PrivateApt::open(&lab.join("apt"))?);
        Ok(())
    })?;
    let apt = private.ok_or("the private apt is open after its step")?;
    step("guest packages", || apt.unpack_guest(&tree))?;
    let mut version = String::new();
    step("guest kernel", || {
        version = apt.unpack_kernel(&kernel)?;
        Ok(())
    })?;
    step("guest image", || {
        image::build(&tree, &kernel, &version, init, &lab.join("initrd.img"))?;
        let from = kernel.join("boot").join(format!("vmlinuz-{version}"));
        let to = lab.join("vmlinuz");
        fs::copy(&from, &to).map_err(|e| format!("{}: {e}", from.display()))?;
        Ok(())
    })?;
    step("tidying up", || {
        apt.clean()?;
        for used in [tree, kernel] {
            fs::remove_dir_all(&used).map_err(|e| format!("{}: {e}", used.display()))?;
        }
        Ok(())
    })
}

/// Runs one part and says how long it took.
fn step(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    println!("  {what} ...");
    work().map_err(|e| format!("lab: {what}: {e}"))?;
    println!("  {what}: done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// What a part was made from, kept beside it.
struct Stamp {
    path: PathBuf,
    content: String,
}

impl Stamp {
    fn new(lab: &Path, part: &str, made_from: &impl Hash) -> Stamp {
        let mut hasher = DefaultHasher::new();
        EDITION.hash(&mut hasher);
        made_from.hash(&mut hasher);
        Stamp {
            path: lab.join(format!("{part}.stamp")),
            content: format!("{:016x}\n", hasher.finish()),
        }
    }

    fn is_fresh(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|old| old == self.content)
    }

    /// Before a part is made again, so that an interrupted run does not look complete.
    fn forget(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {e}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn set(&self) -> Result<()> {
        fs::write(&self.path, &self.content).map_err(|e| format!("{}: {e}", self.path.display()))
    }
}
