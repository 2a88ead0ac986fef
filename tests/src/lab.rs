//! Where the things are that `cargo xtask lab` and `cargo build` made.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's root folder.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file of the lab; panics with what to do when it is not there.
pub(crate) fn file(name: &str) -> PathBuf {
    let lab = env::var_os("OPI_LAB").map_or_else(|| workspace().join("target/lab"), PathBuf::from);
    let path = lab.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask lab` first",
        path.display()
    );
    path
}

/// The lab's Python, with the foreign clients installed.
pub fn python() -> PathBuf {
    file("venv/bin/python")
}

/// The reference Go client; only machines that can get it build the tests that use it.
pub fn go_client() -> PathBuf {
    file("go/godpu")
}

/// The program under test: `OPI_BIN`, or `opi` beside the test programs' folder.
pub fn opi_binary() -> PathBuf {
    let path = env::var_os("OPI_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            // Test programs are in <target>/release/deps, what they test is in <target>/release.
            let own = env::current_exe().unwrap_or_default();
            own.parent()
                .and_then(Path::parent)
                .unwrap_or(Path::new(""))
                .join("opi")
        });
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --release -p opi` first, or set OPI_BIN",
        path.display()
    );
    path
}

/// The folder of the Python programs of this crate.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}
