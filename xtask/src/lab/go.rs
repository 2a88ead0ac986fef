//! The reference Go client, where it can be had: it is the only foreign program that the suite
//! goes without, because not every machine has a Go toolchain and a proxy that serves the module.

use std::fs;
use std::path::Path;

use super::recipe::GO_CLIENT;
use crate::process::{Result, command, find, run};

/// Where the client is, in the lab's folder.
const CLIENT: &str = "go/godpu";

/// A build of the client made elsewhere, to be used instead of one from the module.
const GIVEN: &str = "OPI_GODPU";

/// Gets the client, or says why the suite goes without it.
pub(super) fn build(lab: &Path) -> Result<()> {
    let (dir, client) = (lab.join("go"), lab.join(CLIENT));
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    if let Some(given) = std::env::var_os(GIVEN) {
        let copied = fs::copy(&given, &client);
        copied.map_err(|e| format!("{GIVEN}={}: {e}", given.display()))?;
        return Ok(());
    }
    if client.exists() {
        return Ok(());
    }
    let Some(go) = find("go").or_else(|| find("/usr/local/go/bin/go")) else {
        println!("      no Go toolchain: the suite goes without the reference Go client");
        return Ok(());
    };
    let mut install = command(&go.display().to_string());
    install.args(["install", GO_CLIENT]).env("GOBIN", &dir);
    if let Err(e) = run(&mut install) {
        let last = e.lines().last().unwrap_or_default().trim();
        println!("      the suite goes without {GO_CLIENT}: {last}");
    }
    Ok(())
}

/// Whether the client is there.
pub(crate) fn has_client(lab: &Path) -> bool {
    lab.join(CLIENT).exists()
}
