//! The Python environment of the suite's foreign clients.

use std::fs;
use std::path::{Path, PathBuf};

use super::recipe::PYTHON_PACKAGES;
use crate::process::{Result, command, retried, run};

/// A Python able to make an environment and to speak TLS to the package index.
pub(super) fn interpreter() -> Option<PathBuf> {
    ["python3", "/usr/bin/python3", "/usr/local/bin/python3"]
        .iter()
        .find(|python| run(command(python).args(["-c", "import venv, ensurepip, ssl"])).is_ok())
        .map(PathBuf::from)
}

/// Makes the environment at `dir` and installs the clients.
pub(super) fn build(dir: &Path) -> Result<()> {
    let python = interpreter().ok_or("no python3 with venv and ssl: install python3-venv")?;
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let name = python.display().to_string();
    run(command(&name).args(["-m", "venv"]).arg(dir))?;
    retried("Python clients", || {
        let mut pip = command(&dir.join("bin/python").display().to_string());
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]);
        pip.args(PYTHON_PACKAGES);
        pip
    })?;
    Ok(())
}
