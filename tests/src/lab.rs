//! Where the things are that `cargo xtask lab` and `cargo build` made.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::run;

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

/// Makes an archive (tar) of the program under test with the libraries that it names: a guest takes
/// it as a disk. In it are `opi`, `ld.so` and the folder `lib`.
///
/// # Panics
/// When the system's tools fail.
pub fn opi_archive(to: &Path) {
    let opi = opi_binary();
    let listed = run(Command::new("ldd").arg(&opi)).ok();
    let folder = tempfile::tempdir().expect("the folder for temporary files is writable");
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    };
    std::fs::create_dir(folder.path().join("lib")).expect("the folder is new");
    copy(&opi, "opi");
    for path in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let name = path.rsplit('/').next().unwrap_or_default();
        match name.starts_with("ld-linux") {
            true => copy(path.as_ref(), "ld.so"),
            false => copy(path.as_ref(), &format!("lib/{name}")),
        }
    }
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder.path()).arg("-cf").arg(to);
    run(tar.args(["opi", "ld.so", "lib"])).ok();
}

/// The folder of the Python programs of this crate.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}
