//! The mission's demo: a host's disk that is kept on a remote array, over two paths, one of which
//! is cut under load. The array is a second server with a store, threads and addresses of its own;
//! nothing but NVMe/TCP connects the two.

use api::Error;
use serde_json::{Value, json};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::picture::{Frame, Picture};
use super::{
    BLOCK_BYTES, BLOCKS, DATA_ADDR, Host, Loaded, NQN, Pace, Site, Step, blocking, build, call,
    listener, text,
};

/// The paths to the array.
const PATHS: [(&str, ([u8; 4], u16)); 2] =
    [("a", ([127, 0, 0, 1], 4421)), ("b", ([127, 0, 0, 1], 4422))];
/// The one that is cut.
const CUT: usize = 1;
/// The NQN of the array's subsystem.
const ARRAY_NQN: &str = "nqn.2026-01.org.opiproject:demo-array";
/// How long the host reads and writes.
const LOAD_TIME: Duration = Duration::from_secs(12);
/// When the path is cut and when it is mended, after the load began.
const CUT_FROM: Duration = Duration::from_secs(4);
const CUT_UNTIL: Duration = Duration::from_secs(8);
/// How often it is looked how things are.
const LOOK: Duration = Duration::from_millis(250);
/// How long a path may take to be there.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);

/// What the demo found.
pub(super) struct Found {
    pub(super) loaded: Loaded,
    /// From the cut until the xPU said that the path was lost.
    pub(super) noticed: Duration,
    /// From the mending until the path was used again.
    pub(super) returned: Duration,
}

/// Builds both servers' parts of the chain, moves verified data through it, cuts a path and mends
/// it, and says what came of it.
pub(super) async fn run(site: &Site, array: &Site, host: Host) -> Result<(), Error> {
    println!("the array, a second server");
    build(&array.dispatch, array_steps()).await?;
    println!("the xPU, this server");
    build(&site.dispatch, xpu_steps()).await?;
    until_paths_are_up(site).await?;
    build(&site.dispatch, export_steps()).await?;
    println!();
    let found = move_data(site, array, host).await?;
    let addresses = (&*site.management, &*array.management);
    print!("{}", text::what_happened(&found, addresses));
    Ok(())
}

#[cfg(test)]
pub(super) fn steps() -> impl Iterator<Item = Step> {
    array_steps()
        .into_iter()
        .chain(xpu_steps())
        .chain(export_steps())
}

fn array_steps() -> [Step; 5] {
    [
        Step::new(
            "mallocVolumes/array                    1 GiB of memory, taken as it is written",
            "CreateMallocVolume",
            json!({
                "mallocVolumeId": "array",
                "mallocVolume": {"blockSize": BLOCK_BYTES, "blocksCount": BLOCKS},
            }),
        ),
        Step::new(
            "nvmeSubsystems/demo                    nqn.2026-01.org.opiproject:demo-array",
            "CreateNvmeSubsystem",
            json!({
                "nvmeSubsystemId": "demo",
                "nvmeSubsystem": {"spec": {"nqn": ARRAY_NQN, "modelNumber": "OPI demo array"}},
            }),
        ),
        Step::new(
            "nvmeSubsystems/demo/nvmeNamespaces/lun",
            "CreateNvmeNamespace",
            json!({
                "parent": "nvmeSubsystems/demo",
                "nvmeNamespaceId": "lun",
                "nvmeNamespace": {
                    "spec": {"volumeNameRef": "mallocVolumes/array", "hostNsid": 1},
                },
            }),
        ),
        Step::new(
            "nvmeSubsystems/demo/nvmeControllers/a  listens on 127.0.0.1:4421",
            "CreateNvmeController",
            listener(PATHS[0].0, PATHS[0].1),
        ),
        Step::new(
            "nvmeSubsystems/demo/nvmeControllers/b  listens on 127.0.0.1:4422",
            "CreateNvmeController",
            listener(PATHS[1].0, PATHS[1].1),
        ),
    ]
}

fn path((id, ([a, b, c, d], port)): (&str, ([u8; 4], u16))) -> Value {
    json!({
        "parent": "nvmeRemoteControllers/array",
        "nvmePathId": id,
        "nvmePath": {
            "trtype": "NVME_TRANSPORT_TYPE_TCP",
            "traddr": format!("{a}.{b}.{c}.{d}"),
            "fabrics": {
                "trsvcid": port,
                "subnqn": ARRAY_NQN,
                "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
            },
        },
    })
}

fn xpu_steps() -> [Step; 3] {
    [
        Step::new(
            "nvmeRemoteControllers/array            uses all its paths at once",
            "CreateNvmeRemoteController",
            json!({
                "nvmeRemoteControllerId": "array",
                "nvmeRemoteController": {"multipath": "NVME_MULTIPATH_MULTIPATH"},
            }),
        ),
        Step::new(
            "nvmeRemoteControllers/array/nvmePaths/a",
            "CreateNvmePath",
            path(PATHS[0]),
        ),
        Step::new(
            "nvmeRemoteControllers/array/nvmePaths/b",
            "CreateNvmePath",
            path(PATHS[1]),
        ),
    ]
}

fn export_steps() -> [Step; 3] {
    [
        Step::new(
            "nvmeSubsystems/demo                    nqn.2026-01.org.opiproject:demo",
            "CreateNvmeSubsystem",
            json!({
                "nvmeSubsystemId": "demo",
                "nvmeSubsystem": {"spec": {"nqn": NQN, "modelNumber": "OPI demo disk"}},
            }),
        ),
        Step::new(
            "nvmeSubsystems/demo/nvmeNamespaces/disk  shows the array's namespace 1 to hosts",
            "CreateNvmeNamespace",
            json!({
                "parent": "nvmeSubsystems/demo",
                "nvmeNamespaceId": "disk",
                "nvmeNamespace": {"spec": {"volumeNameRef": "arrayn1", "hostNsid": 1}},
            }),
        ),
        Step::new(
            "nvmeSubsystems/demo/nvmeControllers/tcp  listens on 127.0.0.1:4420",
            "CreateNvmeController",
            listener("tcp", DATA_ADDR),
        ),
    ]
}

/// What a server says of one of its resources.
async fn observe(site: &Site, name: &str) -> Result<Value, Error> {
    let seen = call(&site.dispatch, "GetObservation", json!({"name": name})).await?;
    serde_json::to_value(&seen).map_err(|e| Error::internal("an observation").caused_by(e))
}

/// Whether the xPU uses a path now.
async fn is_up(site: &Site, index: usize) -> Result<bool, Error> {
    let name = format!("nvmeRemoteControllers/array/nvmePaths/{}", PATHS[index].0);
    Ok(observe(site, &name).await?["state"] == "STATE_READY")
}

async fn until_paths_are_up(site: &Site) -> Result<(), Error> {
    let deadline = Instant::now() + CONNECT_TIME_MAX;
    for (index, (id, _)) in PATHS.iter().enumerate() {
        while !is_up(site, index).await? {
            if Instant::now() > deadline {
                let text = format!("the demo's path {id} does not come up");
                return Err(Error::unavailable(text));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// I/Os that came in by each of the array's listeners so far; `None` for one that is cut.
async fn arrived(array: &Site) -> Result<[Option<u64>; 2], Error> {
    let mut counts = [None; 2];
    for (count, (id, _)) in counts.iter_mut().zip(PATHS) {
        let name = format!("nvmeSubsystems/demo/nvmeControllers/{id}");
        let seen = match observe(array, &name).await {
            Ok(seen) => seen,
            Err(error) if error.code == api::Code::NotFound => continue,
            Err(error) => return Err(error),
        };
        let ops = |op: &str| {
            let ops = seen["stats"][op]["ops"].as_str();
            ops.and_then(|ops| ops.parse::<u64>().ok()).unwrap_or(0)
        };
        *count = Some(ops("read") + ops("write"));
    }
    Ok(counts)
}

/// Where the story is.
enum Act {
    Whole,
    Cut {
        at: Instant,
        noticed: Option<Duration>,
    },
    Mended {
        at: Instant,
        noticed: Duration,
        returned: Option<Duration>,
    },
}

impl Act {
    fn caption(&self) -> String {
        match self {
            Self::Whole => "both paths carry the load".to_owned(),
            Self::Cut { .. } => "path b is cut: its I/O goes over path a".to_owned(),
            Self::Mended { returned: None, .. } => "path b is mended, not used yet".to_owned(),
            Self::Mended { .. } => "path b is back".to_owned(),
        }
    }

    /// Cuts the path, mends it, and notes what the xPU says of it.
    async fn play(self, site: &Site, array: &Site, begun: Instant) -> Result<Self, Error> {
        let up = is_up(site, CUT).await?;
        let (id, place) = PATHS[CUT];
        Ok(match self {
            Self::Whole if begun.elapsed() >= CUT_FROM => {
                let name = format!("nvmeSubsystems/demo/nvmeControllers/{id}");
                let at = Instant::now();
                call(
                    &array.dispatch,
                    "DeleteNvmeController",
                    json!({"name": name}),
                )
                .await?;
                Self::Cut { at, noticed: None }
            }
            Self::Cut {
                noticed: Some(noticed),
                ..
            } if begun.elapsed() >= CUT_UNTIL => {
                call(&array.dispatch, "CreateNvmeController", listener(id, place)).await?;
                Self::Mended {
                    at: Instant::now(),
                    noticed,
                    returned: None,
                }
            }
            Self::Cut { at, noticed: None } if !up => Self::Cut {
                at,
                noticed: Some(at.elapsed()),
            },
            Self::Mended {
                at,
                noticed,
                returned: None,
            } if up => Self::Mended {
                at,
                noticed,
                returned: Some(at.elapsed()),
            },
            as_it_was => as_it_was,
        })
    }
}

/// Lets the host work, and plays the story beside it.
async fn move_data(site: &Site, array: &Site, host: Host) -> Result<Found, Error> {
    let (tell, told) = watch::channel(Pace::default());
    let mut load = Box::pin(blocking(move || {
        let address = SocketAddr::from(DATA_ADDR);
        let mut hear = |pace| {
            // Nobody listens any more once the demo is interrupted.
            let _ = tell.send(pace);
        };
        (host.load)(address, NQN, LOAD_TIME, &mut hear)
    }));
    let mut picture = Picture::new(std::io::stdout().is_terminal());
    let mut act = Act::Whole;
    let mut begun = None;
    let mut before = (Instant::now(), arrived(array).await?);
    let loaded = loop {
        tokio::select! {
            loaded = &mut load => break loaded?,
            () = tokio::time::sleep(LOOK) => {}
        }
        let pace = *told.borrow();
        if pace.measuring {
            let begun = *begun.get_or_insert_with(Instant::now);
            act = act.play(site, array, begun).await?;
        }
        let now = (Instant::now(), arrived(array).await?);
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let rate = |index: usize| {
            let (new, old) = (now.1[index]?, before.1[index].unwrap_or(0));
            Some(new.saturating_sub(old) as f64 / seconds)
        };
        let caption = match pace.measuring {
            true => act.caption(),
            false => pace.stage.to_owned(),
        };
        picture.show(&Frame {
            host: pace.rate,
            paths: [rate(0), rate(1)],
            caption,
        });
        before = now;
    };
    picture.end();
    judge(&act, loaded)
}

/// What was seen, if the story was played to its end and all was well.
fn judge(act: &Act, loaded: Loaded) -> Result<Found, Error> {
    if !loaded.wrong.is_empty() {
        let text = format!("the host's data did not survive: {}", loaded.wrong);
        return Err(Error::internal(text));
    }
    match *act {
        Act::Mended {
            noticed,
            returned: Some(returned),
            ..
        } => Ok(Found {
            loaded,
            noticed,
            returned,
        }),
        _ => Err(Error::internal(
            "path b was not lost and regained while the load ran",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_that_lost_data_or_did_not_cut_the_path_fails() {
        let done = |returned| Act::Mended {
            at: Instant::now(),
            noticed: Duration::from_millis(1),
            returned,
        };
        let returned = Some(Duration::from_millis(2));
        assert!(judge(&done(returned), Loaded::default()).is_ok());
        assert!(judge(&done(None), Loaded::default()).is_err());
        assert!(judge(&Act::Whole, Loaded::default()).is_err());
        let wrong = Loaded {
            wrong: "1 block".to_owned(),
            ..Loaded::default()
        };
        assert!(judge(&done(returned), wrong).is_err());
    }
}
