//! A disk under the store that is really full. Needs root: the disk is a small tmpfs of its own.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::{Code, Result};
use api::storage::v1 as storage;
use common::{Server, start};
use std::path::Path;
use std::process::Command;

/// What the file system holds: the empty store and some room.
const DISK_BYTES: u64 = 8 << 20;
/// More creates than fit into any room that is left.
const CREATES_MAX: usize = 5_000;

/// A file system of a fixed size, gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_BYTES},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "opi-test"])
            .arg(dir.path())
            .status();
        assert!(
            mount.is_ok_and(|s| s.success()),
            "cannot mount a tmpfs: run the tests as root"
        );
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failed test may still have its store open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

async fn create(server: &Server, id: &str) -> Result<storage::MallocVolume> {
    let request = storage::CreateMallocVolumeRequest {
        malloc_volume: Some(storage::MallocVolume {
            block_size: 512,
            blocks_count: 8,
            ..Default::default()
        }),
        malloc_volume_id: id.to_owned(),
    };
    server
        .call("MallocVolumeService/CreateMallocVolume", &request)
        .await
}

async fn exists(server: &Server, name: &str) -> bool {
    let request = storage::GetMallocVolumeRequest {
        name: name.to_owned(),
    };
    let found: Result<storage::MallocVolume> = server
        .call("MallocVolumeService/GetMallocVolume", &request)
        .await;
    found.is_ok()
}

/// Writes a file until no byte fits any more.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_changes_loses_nothing_and_is_over_when_there_is_room() {
    let disk = Disk::mount();
    let state = disk.path().join("state");
    let server = start(&state);
    server.service.restored().await;
    create(&server, "first").await.unwrap();
    let filler = disk.path().join("filler");
    fill(&filler);
    // The store's file has some room of its own, which is used up first.
    let mut made = vec!["mallocVolumes/first".to_owned()];
    let mut refused = None;
    for n in 0..CREATES_MAX {
        match create(&server, &format!("m{n}")).await {
            Ok(volume) => made.push(volume.name),
            Err(error) => {
                refused = Some((format!("mallocVolumes/m{n}"), error));
                break;
            }
        }
    }
    let (lost, error) = refused.expect("the disk was never full");
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    let dir = state.display().to_string();
    assert!(error.message.contains(&dir), "{error}");
    // The server goes on with what it has.
    for name in &made {
        assert!(exists(&server, name).await, "{name}");
    }
    assert!(!exists(&server, &lost).await);
    std::fs::remove_file(&filler).unwrap();
    made.push(create(&server, "later").await.unwrap().name);
    server.stop(&state).await;
    let server = start(&state);
    server.service.restored().await;
    for name in &made {
        assert!(exists(&server, name).await, "{name} after a restart");
    }
    assert!(!exists(&server, &lost).await);
    server.stop(&state).await;
}
