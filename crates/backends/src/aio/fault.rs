//! What can happen to an open file that no later I/O mends: its device is gone, or a sync failed.

use super::open::Backing;
use blk::{IoError, State};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// The lasting faults of one open file.
pub(super) struct Faults {
    file: Arc<File>,
    backing: Backing,
    path: String,
    /// Whether `why_lost` has a text; saves the lock in the common case.
    lost: AtomicBool,
    why_lost: Mutex<Option<String>>,
    unsynced: OnceLock<String>,
}

impl Faults {
    /// None so far.
    pub(super) fn new(file: Arc<File>, backing: Backing, path: String) -> Self {
        Self {
            file,
            backing,
            path,
            lost: AtomicBool::new(false),
            why_lost: Mutex::new(None),
            unsynced: OnceLock::new(),
        }
    }

    /// Online, or why there is no I/O.
    pub(super) fn state(&self) -> State {
        let why = self.why_lost.lock().expect("no holder of the text panics");
        why.clone().map_or(State::Online, State::Offline)
    }

    /// What the file stands on.
    pub(super) fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Whether what the file stands on is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Why nothing can be called durable any more, if so.
    pub(super) fn unsynced(&self) -> Option<&str> {
        self.unsynced.get().map(String::as_str)
    }

    /// A sync has failed. The kernel reports data that it could not write to one sync of an open
    /// file, and forgets it: the next sync succeeds and means nothing.
    pub(super) fn sync_failed(&self, error: &std::io::Error) {
        let text = format!(
            "a sync of {} failed ({error}), so completed writes may be lost; flushes and writes \
             with FUA fail until the file is opened again: check its disk and its data, then \
             restart the server, or delete the volume and create it anew on the same file",
            self.path
        );
        if self.unsynced.set(text).is_ok() {
            tracing::error!(path = self.path, %error, "a sync failed; the volume stays unsynced");
        }
    }

    /// Completed writes may be lost, for another reason than a failed sync.
    pub(super) fn distrust(&self, why: String) {
        if self.unsynced.set(why).is_ok() {
            tracing::error!(path = self.path, "the volume stays unsynced");
        }
    }

    /// What an I/O that failed so tells its submitter, and whether the state has changed with it.
    ///
    /// A device that was pulled out answers as an empty one on some ways, so most errors are a
    /// reason to look whether it is there.
    pub(super) fn judge(&self, error: IoError) -> (IoError, bool) {
        let lost = match error {
            IoError::Offline => true,
            IoError::Medium | IoError::NoSpace | IoError::Transport => {
                self.is_lost() || self.backing.is_gone(&self.file)
            }
            _ => false,
        };
        if !lost {
            return (error, false);
        }
        let mut why = self.why_lost.lock().expect("no holder of the text panics");
        let first = why.is_none();
        if first {
            tracing::error!(path = self.path, "what the file stands on is gone");
            *why = Some(format!(
                "what {} stands on is gone; once it is back, update the volume to have it looked \
                 at again, and restart the server if that does not help",
                self.path
            ));
            self.lost.store(true, Ordering::Release);
        }
        (IoError::Offline, first)
    }

    /// Looks whether a lost file answers again. True if so, and if it was lost before.
    ///
    /// This reads from the file, so it is for the control plane.
    pub(super) fn look_again(&self, block_bytes: u32) -> bool {
        let back = self.is_lost()
            && !self.backing.is_gone(&self.file)
            && super::open::reads(&self.file, block_bytes);
        if back {
            let mut why = self.why_lost.lock().expect("no holder of the text panics");
            *why = None;
            self.lost.store(false, Ordering::Release);
            tracing::info!(path = self.path, "what the file stands on is back");
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aio::volume::AioVolume;
    use crate::aio::{Claims, Files, Spec, Volumes};
    use crate::testing::{FileHome, block_on, job};
    use api::handler::{Handler, Health};
    use blk::testkit::run;
    use blk::{Geometry, Io, IoBuf, Lane, Lba, Op, PAGE_BYTES, Subscriber, Volume};
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    const NAME: &str = "aioVolumes/a";
    const BLOCKS: u64 = 64;

    fn place() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk").to_str().unwrap().to_owned();
        (folder, path)
    }

    /// A volume that goes through the page cache, or not if it can.
    fn volume(path: &str, cached: bool, backing: Option<Backing>) -> AioVolume {
        let opened = Claims::default().open(path, Some(4096 * BLOCKS), NAME);
        let mut opened = opened.unwrap();
        if let Some(backing) = backing {
            opened.backing = backing;
        }
        let alignment = if cached { None } else { opened.go_direct(4096) };
        AioVolume::new(
            Geometry::new(4096, BLOCKS),
            opened,
            alignment,
            path.to_owned(),
        )
    }

    fn lane(volume: &AioVolume, home: FileHome) -> Box<dyn Lane> {
        volume.open_lane(&mut home.clone())
    }

    fn failing(rest: i32) -> FileHome {
        FileHome {
            rest: Some(rest),
            ..FileHome::default()
        }
    }

    fn failing_sync(sync: i32) -> FileHome {
        FileHome {
            sync: Some(sync),
            ..FileHome::default()
        }
    }

    fn act(lane: &mut dyn Lane, op: Op, fua: bool) -> Result<(), IoError> {
        let bytes = if op == Op::Write { PAGE_BYTES } else { 0 };
        let blocks = u32::from(op != Op::Flush);
        let io = Io::new(op, Lba(3), blocks, IoBuf::zeroes(bytes), 0);
        run(lane, io.with_fua(fua)).result
    }

    fn why(volume: &AioVolume) -> Option<String> {
        match volume.health() {
            Health::Online => None,
            Health::Offline(why) => Some(why),
        }
    }

    #[test]
    fn a_failed_sync_stays_failed_on_every_lane_until_the_file_is_opened_again() {
        for cached in [true, false] {
            for errno in [libc::EIO, libc::ENOSPC] {
                let (_folder, path) = place();
                let first = volume(&path, cached, None);
                let mut well = lane(&first, FileHome::default());
                assert_eq!(act(&mut *well, Op::Flush, false), Ok(()));
                let mut ill = lane(&first, failing_sync(errno));
                assert!(act(&mut *ill, Op::Flush, false).is_err());
                for op in [Op::Flush, Op::Write, Op::Unmap, Op::WriteZeroes] {
                    assert_eq!(act(&mut *well, op, true), Err(IoError::Medium), "{op:?}");
                }
                assert_eq!(act(&mut *well, Op::Write, false), Ok(()));
                assert_eq!(act(&mut *well, Op::Read, true), Ok(()));
                // Hosts are to get the error, so the way stays open; the volume says why.
                assert_eq!(first.state(), State::Online);
                let text = why(&first).unwrap();
                assert!(text.contains(&path) && text.contains("sync"), "{text}");

                drop((first, well, ill));
                let again = volume(&path, cached, None);
                let mut well = lane(&again, FileHome::default());
                assert_eq!(act(&mut *well, Op::Flush, false), Ok(()));
                assert_eq!(why(&again), None);
            }
        }
    }

    #[test]
    fn a_durable_write_whose_sync_fails_counts_and_a_refused_one_does_not() {
        let (_folder, path) = place();
        let one = volume(&path, true, None);
        let mut full = lane(&one, failing(libc::ENOSPC));
        assert_eq!(act(&mut *full, Op::Write, true), Err(IoError::NoSpace));
        let mut interrupted = lane(&one, failing_sync(libc::EINTR));
        assert_eq!(act(&mut *interrupted, Op::Flush, true), Err(IoError::Busy));
        let mut well = lane(&one, FileHome::default());
        assert_eq!(act(&mut *well, Op::Write, true), Ok(()));
        let mut ill = lane(&one, failing_sync(libc::EIO));
        assert_eq!(act(&mut *ill, Op::Write, true), Err(IoError::Medium));
        assert_eq!(act(&mut *well, Op::Flush, false), Err(IoError::Medium));
    }

    #[test]
    fn a_durable_write_that_the_medium_fails_counts_in_direct_io() {
        let (_folder, path) = place();
        let one = volume(&path, false, None);
        let mut ill = lane(&one, failing(libc::EIO));
        assert_eq!(act(&mut *ill, Op::Write, true), Err(IoError::Medium));
        let mut well = lane(&one, FileHome::default());
        assert_eq!(act(&mut *well, Op::Flush, false), Err(IoError::Medium));
    }

    #[derive(Default)]
    struct Told(AtomicU32);

    impl Subscriber for Told {
        fn changed(&self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_lost_device_takes_the_volume_offline_for_all_until_it_answers_again() {
        for errno in [libc::ENODEV, libc::ENXIO, libc::ESHUTDOWN, libc::ESTALE] {
            let (_folder, path) = place();
            let handler = Volumes::new(Files::default());
            let spec = Spec {
                filename: path.clone(),
                block_size: 4096,
                blocks_count: BLOCKS as i64,
                ..Spec::default()
            };
            let made = block_on(handler.create(job(NAME), spec)).unwrap();
            let name = job(NAME).name;
            let volume = handler.volume(&name).unwrap();
            let told = Arc::new(Told::default());
            let subscriber: Arc<dyn Subscriber> = told.clone();
            volume.subscribe(Arc::downgrade(&subscriber));
            let mut well = volume.open_lane(&mut FileHome::default());
            let mut ill = volume.open_lane(&mut failing(errno));

            assert_eq!(act(&mut *ill, Op::Read, false), Err(IoError::Offline));
            assert_eq!(act(&mut *ill, Op::Read, false), Err(IoError::Offline));
            assert_eq!(act(&mut *well, Op::Write, false), Err(IoError::Offline));
            let State::Offline(text) = volume.state() else {
                panic!("a volume without its device is not online");
            };
            assert!(text.contains(&path), "{text}");
            let seen = handler.observe(&name, &mut made.clone()).health;
            assert_eq!(seen, Health::Offline(text));
            assert_eq!(told.0.load(SeqCst), 1);

            block_on(handler.update(job(NAME), made.clone(), made.clone())).unwrap();
            assert_eq!(volume.state(), State::Online);
            assert_eq!(told.0.load(SeqCst), 2);
            assert_eq!(act(&mut *well, Op::Write, false), Ok(()));
        }
    }

    #[test]
    fn any_error_is_a_lost_device_once_the_device_is_gone() {
        for errno in [libc::EIO, libc::ENOSPC, libc::ETIMEDOUT] {
            let (_folder, path) = place();
            let device = tempfile::tempdir().unwrap();
            let one = volume(&path, false, Some(Backing::on(device.path())));
            let mut ill = lane(&one, failing(errno));
            assert_ne!(act(&mut *ill, Op::Read, false), Err(IoError::Offline));
            assert_eq!(one.state(), State::Online);
            drop(device);
            assert_eq!(act(&mut *ill, Op::Read, false), Err(IoError::Offline));
            assert!(matches!(one.state(), State::Offline(_)));
            one.look_again();
            assert!(matches!(one.state(), State::Offline(_)), "it is still gone");
        }
    }
}
