//! [`Drive`]: what a remote controller has of the drive behind its PCIe path: the namespaces, each
//! with its block device while the drive is there.
//!
//! A path takes the drive as a whole: every namespace is opened for this server alone. What is
//! known of the namespaces is looked at again every few seconds, and survives that the drive is
//! pulled out: a namespace comes back under its identity, whatever slot the kernel puts it in.

use super::address::Address;
use super::sysfs::{Controller, Disk, Roots};
use super::volume::DriveVolume;
use super::{Trouble, watch};
use crate::aio::{self, AioVolume};
use crate::nvme::association::{Key, Shape};
use crate::nvme::memory::{self, Remembered};
use crate::nvme::remote::Namespace;
use api::Code;
use api::handler::Health;
use blk::{Counted, Geometry, Identity, State, Stats, Tally, Volume};
use engine::{Keep, Latch, World};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// How a block device is opened; tests have another way.
pub(super) type Open = fn(&Path, Identity) -> io::Result<AioVolume>;

/// The block device of a namespace, open.
#[derive(Clone)]
struct Opened {
    disk: Disk,
    volume: Arc<AioVolume>,
}

/// A namespace that is known.
struct Known {
    id: String,
    nsid: u32,
    volume: Arc<DriveVolume>,
    /// The same, as users get it.
    counted: Arc<dyn Volume>,
    stats: Arc<Stats>,
    /// Kept while somebody uses the namespace, also when the path is gone: the device could not be
    /// opened a second time.
    opened: Option<Opened>,
    /// The drive was away with writes in its cache that were completed and not flushed.
    has_lost_writes: bool,
}

#[derive(Default)]
struct Inner {
    /// Where the path says that the drive is.
    address: Option<Address>,
    /// Counts changes of the address.
    epoch: u64,
    /// Why the path does not serve; empty if it does.
    why: String,
    known: BTreeMap<Key, Known>,
    /// What was last remembered of them.
    remembered: Vec<u8>,
    is_watched: bool,
    has_ended: bool,
}

/// See the file's head.
pub(in crate::nvme) struct Drive {
    roots: Roots,
    open: Open,
    inner: Mutex<Inner>,
    keep: Arc<dyn Keep>,
    /// Until then those who use namespaces may not be there yet.
    restored: Arc<Latch>,
    /// Under which key namespaces are remembered.
    key: String,
}

/// A namespace whose device was to be opened, and what came of it.
type Taken = (Disk, Result<Arc<AioVolume>, Trouble>);

/// What there is to do about a namespace that the drive shows.
enum Task {
    Nothing,
    /// Its device is to be opened.
    Open,
    /// Its device has another size.
    Renew(Arc<AioVolume>),
    /// Its device was lost, and may answer again.
    LookAgain(Arc<AioVolume>),
}

impl Drive {
    /// No drive yet, but what is remembered of its namespaces.
    pub(in crate::nvme) fn new(world: &World, name: &str) -> Arc<Self> {
        let machine = (Roots::default(), aio::open_device as Open);
        let (keep, restored) = (world.keep.clone(), world.restored.clone());
        Self::on(machine, keep, restored, name)
    }

    /// The same on a machine that need not be the real one.
    pub(super) fn on(
        (roots, open): (Roots, Open),
        keep: Arc<dyn Keep>,
        restored: Arc<Latch>,
        name: &str,
    ) -> Arc<Self> {
        let key = format!("nvme/drive/{name}");
        let remembered = keep.get(&key).unwrap_or_default();
        let mut inner = Inner::default();
        for one in memory::read(&remembered) {
            let why = "its drive was not looked for yet".to_owned();
            let volume = DriveVolume::new(one.shape.geometry, why);
            inner
                .known
                .insert(one.key, Known::new(one.id, one.nsid, volume));
        }
        inner.remembered = remembered;
        Arc::new(Self {
            roots,
            open,
            inner: Mutex::new(inner),
            keep,
            restored,
            key,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the drive panics")
    }

    /// Takes the drive at this address, in place of another if there was one. May wait for it.
    ///
    /// # Errors
    /// With `all`, unless the drive is there and every namespace of it can be had; nothing has
    /// changed then. Without, what cannot be had is tried again until it can.
    pub(in crate::nvme) fn attach(&self, address: Address, all: bool) -> Result<(), Trouble> {
        let looked = self.roots.look(&address);
        let opened = self.open_all(&looked);
        if all {
            let found = looked.as_ref().map_err(Clone::clone)?;
            let refused = opened.iter().find_map(|(_, opened)| opened.as_ref().err());
            if let Some(trouble) = found.trouble.as_ref().or(refused) {
                return Err(trouble.clone());
            }
        }
        let mut inner = self.inner();
        inner.address = Some(address);
        inner.epoch += 1;
        self.apply(inner, looked, opened);
        Ok(())
    }

    /// Has the drive looked at every few seconds from now on.
    pub(in crate::nvme) fn watch(self: &Arc<Self>, world: &World) {
        if !std::mem::replace(&mut self.inner().is_watched, true) {
            let drive = self.clone();
            let watch = move || -> Box<dyn engine::Actor> { Box::new(watch::Watch::new(drive)) };
            world.reactors.least_loaded().spawn(watch);
        }
    }

    /// Gives the drive back. What somebody uses is kept, and out of reach.
    pub(in crate::nvme) fn detach(&self) {
        let mut inner = self.inner();
        inner.address = None;
        inner.epoch += 1;
        for known in inner.known.values() {
            known.volume.set(Err("its path was deleted".to_owned()));
        }
        inner.why.clear();
        let gone = self.forget_unused(&mut inner, &[]);
        drop(inner);
        // Closed by dropping them, without the lock: closing a device may wait for it.
        drop(gone);
    }

    /// Ends it for good.
    pub(in crate::nvme) fn end(&self) {
        self.detach();
        let mut inner = self.inner();
        inner.has_ended = true;
        if !std::mem::take(&mut inner.remembered).is_empty() {
            self.keep.put(&self.key, None, Box::new(|_| {}));
        }
    }

    /// Whether [`Drive::end`] was called.
    pub(super) fn has_ended(&self) -> bool {
        self.inner().has_ended
    }

    /// Looks at the drive again. May wait for it.
    pub(super) fn look_again(&self) {
        let (address, epoch) = {
            let mut inner = self.inner();
            let Some(address) = inner.address else {
                let gone = self.forget_unused(&mut inner, &[]);
                drop(inner);
                drop(gone);
                return;
            };
            (address, inner.epoch)
        };
        let looked = self.roots.look(&address);
        let opened = self.open_all(&looked);
        let inner = self.inner();
        // Otherwise somebody else has decided about the drive meanwhile.
        if inner.epoch == epoch {
            self.apply(inner, looked, opened);
        }
    }

    /// Has the kernel reset the controller, and forgets the faults of the namespaces so far. The
    /// kernel holds I/O back meanwhile. Waits until it is done.
    ///
    /// # Errors
    /// The drive is not there, or the kernel's reason.
    pub(in crate::nvme) fn reset(&self) -> Result<(), Trouble> {
        let Some(address) = self.inner().address else {
            return Ok(());
        };
        let Controller { name, node, .. } = self.roots.look(&address)?;
        fs::write(node.join("reset_controller"), "1").map_err(|error| {
            let text = format!("the kernel cannot reset the drive {name} at {address}: {error}");
            Trouble::new(Code::Unavailable, text)
        })?;
        let opened: Vec<Opened> = {
            let mut inner = self.inner();
            let forgive = |known: &mut Known| known.has_lost_writes = false;
            inner.known.values_mut().for_each(forgive);
            let all = inner.known.values();
            all.filter_map(|known| known.opened.clone()).collect()
        };
        for Opened { disk, volume } in opened {
            if let Ok(renewed) = volume.renewed() {
                self.inner().replace(&disk, Arc::new(renewed));
            }
        }
        self.look_again();
        Ok(())
    }

    /// Whether a path has it.
    pub(in crate::nvme) fn address(&self) -> Option<Address> {
        self.inner().address
    }

    /// Whether the path serves; if not, why.
    pub(in crate::nvme) fn state(&self) -> State {
        let inner = self.inner();
        match inner.why.is_empty() {
            true => State::Online,
            false => State::Offline(inner.why.clone()),
        }
    }

    /// What all namespaces counted.
    pub(in crate::nvme) fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for known in self.inner().known.values() {
            sum.add(&known.stats.tally());
        }
        sum
    }

    /// The namespaces that are known.
    pub(in crate::nvme) fn namespaces(&self) -> Vec<Namespace> {
        let inner = self.inner();
        let known = inner.known.iter();
        known
            .map(|(key, known)| Namespace {
                id: known.id.clone(),
                nsid: known.nsid,
                identity: key.identity(),
                state: known.state(),
                stats: known.stats.tally(),
                volume: Some(known.counted.clone()),
            })
            .collect()
    }

    /// Opens what is not open of the namespaces that the drive shows.
    fn open_all(&self, looked: &Result<Controller, Trouble>) -> Vec<Taken> {
        let mut all = Vec::new();
        // One that is not live would have whoever opens a device wait.
        let live = looked.iter().filter(|found| found.trouble.is_none());
        for disk in live.flat_map(|found| &found.disks) {
            let task = self.inner().task(disk);
            match task {
                Task::Nothing => {}
                Task::Open => all.push((disk.clone(), self.take(disk))),
                Task::Renew(volume) => {
                    let renewed = volume
                        .renewed()
                        .map(Arc::new)
                        .map_err(|error| Trouble::state(format!("/dev/{}: {error}", disk.name)));
                    all.push((disk.clone(), renewed));
                }
                Task::LookAgain(volume) => volume.look_again(),
            }
        }
        all
    }

    /// Opens a namespace, for this server alone.
    fn take(&self, disk: &Disk) -> Result<Arc<AioVolume>, Trouble> {
        let name = &disk.name;
        if let Some(user) = self.roots.user_of(disk) {
            return Err(Trouble::state(user));
        }
        let zoned = super::sysfs::attribute(&self.roots.block(name), "queue/zoned");
        if let Some(zoned) = zoned.filter(|model| model != "none") {
            let text = format!("/dev/{name} is zoned ({zoned}), and no volume can stand on that");
            return Err(Trouble::state(text));
        }
        let opened = (self.open)(&self.roots.dev.join(name), disk.key.identity());
        let volume = opened.map_err(|error| self.refused(disk, &error))?;
        let same = volume.device_number().is_none_or(|own| own == disk.number);
        if !same || !self.roots.shows(disk) {
            let text = format!("/dev/{name} was replaced while it was being opened");
            return Err(Trouble::new(Code::Aborted, text));
        }
        Ok(Arc::new(volume))
    }

    fn refused(&self, disk: &Disk, error: &io::Error) -> Trouble {
        let name = &disk.name;
        if error.raw_os_error() != Some(libc::EBUSY) {
            return Trouble::state(format!("cannot open /dev/{name}: {error}"));
        }
        let openers = self.roots.openers_of(disk);
        let who = match openers.is_empty() {
            true => "somebody who cannot be seen from here".to_owned(),
            false => openers.join(", "),
        };
        Trouble::state(format!(
            "/dev/{name} is in use: it is held by {who}; have it released first"
        ))
    }

    /// Takes over what was seen and what was opened.
    fn apply(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        looked: Result<Controller, Trouble>,
        opened: Vec<Taken>,
    ) {
        let (shown, trouble) = match looked {
            Ok(found) => (Some(found.disks), found.trouble),
            Err(trouble) => (None, Some(trouble)),
        };
        let why = trouble.map(|trouble| trouble.text).unwrap_or_default();
        let before = std::mem::replace(&mut inner.why, why);
        let mut closed = inner.show(shown.as_deref().unwrap_or_default());
        for (disk, opened) in opened {
            match opened {
                Ok(volume) => closed.extend(inner.replace(&disk, volume)),
                Err(trouble) => inner.refuse(&disk, trouble.text),
            }
        }
        // What cannot be seen now may still be there.
        let forgotten = shown.map(|shown| self.forget_unused(&mut inner, &shown));
        let after = inner.why.clone();
        let address = inner.address.map(|address| address.to_string());
        drop(inner);
        // Closed without the lock: closing a device may wait for it.
        drop((closed, forgotten));
        match (before == after, after.is_empty()) {
            (true, _) => {}
            (false, true) => tracing::info!(address, "drive up"),
            (false, false) => tracing::warn!(address, why = after, "drive lost"),
        }
    }

    /// Forgets namespaces that nobody uses and that are not among these, and remembers the rest.
    fn forget_unused(&self, inner: &mut Inner, shown: &[Disk]) -> Vec<Known> {
        let gone = match self.restored.is_open() {
            true => inner.forget_unused(shown),
            false => Vec::new(),
        };
        self.remember(inner);
        gone
    }

    fn remember(&self, inner: &mut Inner) {
        let all = inner.known.iter().map(|(key, known)| Remembered {
            key: key.clone(),
            id: known.id.clone(),
            nsid: known.nsid,
            shape: Shape {
                geometry: known.volume.geometry(),
                boundary_blocks: 0,
                deallocated_zeroes: false,
            },
        });
        let bytes = memory::write(&all.collect::<Vec<_>>());
        if inner.remembered == bytes {
            return;
        }
        inner.remembered.clone_from(&bytes);
        let told = |stored: Result<(), String>| {
            if let Err(error) = stored {
                tracing::warn!(error, "the namespaces of a drive cannot be remembered");
            }
        };
        self.keep.put(&self.key, Some(bytes), Box::new(told));
    }
}

impl Inner {
    /// What is to be done about a namespace that the drive shows.
    fn task(&self, disk: &Disk) -> Task {
        let known = self.known.get(&disk.key);
        let Some(opened) = known.and_then(|known| known.opened.as_ref()) else {
            return Task::Open;
        };
        let volume = &opened.volume;
        if !opened.is_on(disk) {
            Task::Open
        } else if volume.state() != State::Online {
            Task::LookAgain(volume.clone())
        } else if opened.disk.bytes != disk.bytes {
            Task::Renew(volume.clone())
        } else {
            Task::Nothing
        }
    }

    /// Brings the known namespaces up to what the drive shows, as far as nothing has to be opened
    /// for it. Returns the devices that are of no use any more.
    fn show(&mut self, shown: &[Disk]) -> Vec<Opened> {
        let mut closed = Vec::new();
        for (key, known) in &mut self.known {
            let disk = shown.iter().find(|disk| disk.key == *key);
            let opened = known.opened.as_ref();
            if let (Some(disk), Some(opened)) = (disk, opened)
                && opened.is_on(disk)
            {
                known.volume.set(Ok(opened.volume.clone()));
                continue;
            }
            let why = match (disk, self.why.is_empty()) {
                (Some(_), _) => "it is being opened",
                (None, true) => "the drive has it no more",
                (None, false) => &self.why,
            };
            known.volume.set(Err(why.to_owned()));
            if opened.is_some_and(|opened| opened.volume.is_gone()) {
                closed.extend(known.close());
            }
        }
        closed
    }

    /// The namespace that this disk is, known from now on.
    fn know(&mut self, disk: &Disk, geometry: Geometry) -> &mut Known {
        let ids = std::iter::once(format!("n{}", disk.nsid));
        // A drive that took the place of another may use its numbers for other namespaces.
        let mut ids = ids.chain((2..).map(|next| format!("n{}-{next}", disk.nsid)));
        let id = ids.find(|id| self.known.values().all(|known| known.id != *id));
        self.known.entry(disk.key.clone()).or_insert_with(|| {
            let volume = DriveVolume::new(geometry, "it is being opened".to_owned());
            Known::new(id.unwrap_or_default(), disk.nsid, volume)
        })
    }

    /// Puts this device behind the namespace. Returns the one before.
    fn replace(&mut self, disk: &Disk, volume: Arc<AioVolume>) -> Option<Opened> {
        let known = self.know(disk, volume.geometry());
        known.nsid = disk.nsid;
        let same = known.opened.as_ref().is_some_and(|old| old.is_on(disk));
        let old = match same {
            true => known.opened.take(),
            false => known.close(),
        };
        if known.has_lost_writes {
            volume.distrust(format!(
                "/dev/{} was away while it may have held completed writes in its cache, so they \
                 may be lost; flushes and writes with FUA fail until its remote controller is \
                 reset: check the data first",
                disk.name
            ));
        }
        known.volume.set(Ok(volume.clone()));
        let disk = disk.clone();
        known.opened = Some(Opened { disk, volume });
        old
    }

    /// Notes why the namespace's device cannot be had.
    fn refuse(&mut self, disk: &Disk, why: String) {
        let blocks = disk.bytes.checked_div(u64::from(disk.block_bytes));
        let suits = matches!(disk.block_bytes, 512 | 4096) && blocks > Some(0);
        if !suits && !self.known.contains_key(&disk.key) {
            return;
        }
        let geometry = Geometry {
            identity: disk.key.identity(),
            ..Geometry::new(disk.block_bytes, blocks.unwrap_or_default())
        };
        let known = self.know(disk, geometry);
        // Two that looked at once: the other one has it.
        let opened = known.opened.as_ref();
        if opened.is_none_or(|opened| !opened.is_on(disk)) {
            known.volume.set(Err(why));
        }
    }

    /// Takes out the namespaces that nobody uses and that are not among these.
    fn forget_unused(&mut self, shown: &[Disk]) -> Vec<Known> {
        let is_shown = |key: &Key| shown.iter().any(|disk| disk.key == *key);
        let unused = |known: &Known| Arc::strong_count(&known.counted) == 1;
        let all = std::mem::take(&mut self.known).into_iter();
        let (kept, gone) =
            all.partition::<BTreeMap<_, _>, _>(|(key, known)| is_shown(key) || !unused(known));
        self.known = kept;
        gone.into_values().collect()
    }
}

impl Opened {
    /// Whether it is this very disk, and still there.
    fn is_on(&self, disk: &Disk) -> bool {
        let own = &self.disk;
        (own.number, own.sequence) == (disk.number, disk.sequence) && !self.volume.is_gone()
    }
}

impl Known {
    fn new(id: String, nsid: u32, volume: DriveVolume) -> Self {
        let volume = Arc::new(volume);
        let stats: Arc<Stats> = Arc::default();
        Self {
            id,
            nsid,
            counted: Arc::new(Counted::new(volume.clone(), stats.clone())),
            volume,
            stats,
            opened: None,
            has_lost_writes: false,
        }
    }

    /// Gives up a device that is gone.
    fn close(&mut self) -> Option<Opened> {
        let old = self.opened.take()?;
        self.has_lost_writes |= old.disk.caches && old.volume.is_unflushed();
        Some(old)
    }

    fn state(&self) -> State {
        let below = self.opened.as_ref().map(|opened| opened.volume.health());
        match (self.volume.state(), below) {
            // Hosts reach it, but nothing can be made durable any more.
            (State::Online, Some(Health::Offline(why))) => State::Offline(why),
            (state, _) => state,
        }
    }
}
