//! `opi connect` and `opi disconnect`: remote arrays, in the manner of nvme-cli. One command makes
//! the controller and its path; the same command with another address adds a path. A drive of the
//! server's machine is a controller with one path.

use api::ext::v1::State;
use api::storage::v1::{
    CreateNvmePathRequest, CreateNvmeRemoteControllerRequest, DeleteNvmePathRequest,
    DeleteNvmeRemoteControllerRequest, FabricsPath, ListNvmePathsRequest, ListNvmePathsResponse,
    ListNvmeRemoteControllersRequest, ListNvmeRemoteControllersResponse,
    ListNvmeRemoteNamespacesRequest, ListNvmeRemoteNamespacesResponse, NvmeAddressFamily,
    NvmeMultipath, NvmePath, NvmeRemoteController, NvmeTransportType, TcpController,
};
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::{Cx, observe};
use crate::client::{Client, PAGE_SIZE};
use crate::failure::{Failure, Result};

/// How often it is looked whether the path is there.
const LOOK: Duration = Duration::from_millis(50);
/// Longest id (AIP-122).
const ID_MAX: usize = 63;

fn method(name: &str) -> String {
    format!("/opi_api.storage.v1.NvmeRemoteControllerService/{name}")
}

/// A remote controller with its paths.
struct Known {
    controller: NvmeRemoteController,
    paths: Vec<NvmePath>,
}

impl Known {
    fn uses(&self, nqn: &str) -> bool {
        let fabrics = self.paths.iter().filter_map(|path| path.fabrics.as_ref());
        fabrics.into_iter().any(|fabrics| fabrics.subnqn == nqn)
    }

    /// Whether it is the drive at this PCI address.
    fn is_drive(&self, address: &str) -> bool {
        let mut paths = self.paths.iter();
        paths.any(|path| path.trtype() == NvmeTransportType::Pcie && path.traddr == address)
    }
}

async fn known(client: &Client) -> Result<Vec<Known>> {
    let mut all = Vec::new();
    let mut request = ListNvmeRemoteControllersRequest {
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    loop {
        let list = method("ListNvmeRemoteControllers");
        let page: ListNvmeRemoteControllersResponse = client.typed(&list, &request).await?;
        for controller in page.nvme_remote_controllers {
            let paths = paths(client, &controller.name).await?;
            all.push(Known { controller, paths });
        }
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

async fn paths(client: &Client, parent: &str) -> Result<Vec<NvmePath>> {
    let mut all = Vec::new();
    let mut request = ListNvmePathsRequest {
        parent: parent.to_owned(),
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    loop {
        let list = method("ListNvmePaths");
        let page: ListNvmePathsResponse = client.typed(&list, &request).await?;
        all.extend(page.nvme_paths);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        request.page_token = page.next_page_token;
    }
}

pub(super) fn text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

pub(super) fn number(matches: &ArgMatches, name: &str) -> i64 {
    matches.get_one::<i64>(name).copied().unwrap_or_default()
}

/// A PCI address as servers return it: with its domain, in small letters.
fn pci_address(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    match text.matches(':').count() {
        1 => format!("0000:{text}"),
        _ => text,
    }
}

/// Checks that the flags fit the transport.
fn check_flags(matches: &ArgMatches) -> Result<()> {
    if text(matches, "transport") != "pcie" {
        return match text(matches, "nqn").is_empty() {
            true => Err(Failure::usage(
                "--nqn is needed: the subsystem of the array",
            )),
            false => Ok(()),
        };
    }
    let fabrics = ["nqn", "trsvcid", "adrfam", "hostnqn", "host-traddr"];
    let digests = ["hdr-digest", "data-digest"];
    let given = |name: &&&str| matches.value_source(name) == Some(ValueSource::CommandLine);
    match fabrics.iter().chain(&digests).find(given) {
        Some(name) => Err(Failure::usage(format!(
            "--{name} is for arrays; a drive has its PCI address only"
        ))),
        None => Ok(()),
    }
}

/// The path that the flags describe.
fn wished(matches: &ArgMatches) -> NvmePath {
    let traddr = text(matches, "traddr");
    if text(matches, "transport") == "pcie" {
        return NvmePath {
            name: String::new(),
            trtype: NvmeTransportType::Pcie.into(),
            traddr: pci_address(&traddr),
            fabrics: None,
        };
    }
    let six = traddr.parse::<Ipv6Addr>().is_ok() || text(matches, "adrfam") == "ipv6";
    let adrfam = match six {
        true => NvmeAddressFamily::Ipv6,
        false => NvmeAddressFamily::Ipv4,
    };
    NvmePath {
        name: String::new(),
        trtype: NvmeTransportType::Tcp.into(),
        traddr,
        fabrics: Some(FabricsPath {
            trsvcid: number(matches, "trsvcid"),
            subnqn: text(matches, "nqn"),
            adrfam: adrfam.into(),
            source_traddr: text(matches, "host-traddr"),
            source_trsvcid: 0,
            hostnqn: text(matches, "hostnqn"),
        }),
    }
}

/// An id for the controller of a subsystem: what follows the last colon of its name, as far as an
/// id can hold it.
fn id_of(nqn: &str) -> String {
    let tail = nqn
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let tail: String = tail.chars().map(plain).take(ID_MAX - 3).collect();
    let tail = tail.trim_matches('-');
    match tail.starts_with(|c: char| c.is_ascii_lowercase()) {
        true => tail.to_owned(),
        false => format!("rc-{tail}").trim_end_matches('-').to_owned(),
    }
}

/// The same for the drive at a PCI address.
fn drive_id(address: &str) -> String {
    format!("drive-{}", address.replace([':', '.'], "-"))
}

/// The last segment of a name.
fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// An id that no controller has, the same for the same subsystem as long as that is so.
fn free_id(wanted: &str, known: &[Known]) -> String {
    let taken = |id: &str| known.iter().any(|one| self::id(&one.controller.name) == id);
    let more = (2..).map(|n| {
        let stem: String = wanted.chars().take(ID_MAX - 6).collect();
        format!("{}-{n}", stem.trim_end_matches('-'))
    });
    let mut ids = std::iter::once(wanted.to_owned()).chain(more);
    ids.find(|id| !taken(id)).unwrap_or_default()
}

async fn create_controller(
    client: &Client,
    matches: &ArgMatches,
    is_drive: bool,
    id: String,
) -> Result<String> {
    let multipath = match text(matches, "multipath").as_str() {
        _ if is_drive => NvmeMultipath::Disable,
        "disable" => NvmeMultipath::Disable,
        "failover" => NvmeMultipath::Failover,
        _ => NvmeMultipath::Multipath,
    };
    let request = CreateNvmeRemoteControllerRequest {
        nvme_remote_controller: Some(NvmeRemoteController {
            multipath: multipath.into(),
            io_queues_count: number(matches, "nr-io-queues"),
            queue_size: number(matches, "queue-size"),
            tcp: (!is_drive).then(|| TcpController {
                hdgst: matches.get_flag("hdr-digest"),
                ddgst: matches.get_flag("data-digest"),
                ..TcpController::default()
            }),
            ..NvmeRemoteController::default()
        }),
        nvme_remote_controller_id: id,
    };
    let create = method("CreateNvmeRemoteController");
    let made: NvmeRemoteController = client.typed(&create, &request).await?;
    Ok(made.name)
}

/// `opi connect`.
///
/// # Errors
/// What the server answered; or the array cannot be reached in time, and why.
pub(crate) async fn connect(cx: &Cx<'_>, matches: &ArgMatches) -> Result<()> {
    check_flags(matches)?;
    let client = Client::connect(cx.target).await?;
    let joined = join(&client, matches, wished(matches), &text(matches, "name")).await?;
    joined.print(cx)?;
    print_namespaces(cx, &client, &joined.controller).await
}

/// A path that serves.
pub(super) struct Joined {
    /// The name of its controller.
    pub(super) controller: String,
    path: String,
    /// It did so before.
    before: bool,
}

impl Joined {
    /// Says so.
    pub(super) fn print(&self, cx: &Cx<'_>) -> Result<()> {
        let how = if self.before { "already " } else { "" };
        cx.print(&format!("{} {how}connected\n", self.path))
    }
}

/// Makes a path, below the controller of this id or of its subsystem, unless it is there already,
/// and waits until it serves. The controller is made too if need be, as the flags say.
pub(super) async fn join(
    client: &Client,
    matches: &ArgMatches,
    wish: NvmePath,
    name: &str,
) -> Result<Joined> {
    let fabrics = wish.fabrics.clone().unwrap_or_default();
    let is_drive = wish.trtype() == NvmeTransportType::Pcie;
    let wanted_id = match name.is_empty() {
        true if is_drive => drive_id(&wish.traddr),
        true => id_of(&fabrics.subnqn),
        false => name.to_owned(),
    };
    let known = known(client).await?;
    let fits = |one: &&Known| {
        let named = id(&one.controller.name) == wanted_id;
        let leads_there = match is_drive {
            true => one.is_drive(&wish.traddr),
            false => one.uses(&fabrics.subnqn),
        };
        match name.is_empty() {
            // One without any path is left of a command that failed halfway.
            true => leads_there || (named && one.paths.is_empty()),
            false => named,
        }
    };
    let (controller, paths) = match known.iter().find(fits) {
        Some(one) => (one.controller.name.clone(), one.paths.as_slice()),
        None => {
            let id = free_id(&wanted_id, &known);
            (
                create_controller(client, matches, is_drive, id).await?,
                &[][..],
            )
        }
    };
    let place = |path: &NvmePath| {
        let port = path.fabrics.as_ref().map(|fabrics| fabrics.trsvcid);
        (path.traddr.clone(), port)
    };
    let there = paths.iter().find(|path| place(path) == place(&wish));
    let path = match there {
        Some(path) => path.name.clone(),
        None => {
            let made = create_path(client, &controller, paths, wish).await;
            if made.is_err() && !known.iter().any(|one| one.controller.name == controller) {
                // Made for this path; the first failure is the one to tell.
                let _ = delete_controller(client, controller.clone()).await;
            }
            made?
        }
    };
    let wait = matches
        .get_one::<Duration>("wait")
        .copied()
        .unwrap_or_default();
    let at_once = until_ready(client, &path, wait).await?;
    Ok(Joined {
        before: at_once && there.is_some(),
        controller,
        path,
    })
}

async fn delete_controller(client: &Client, name: String) -> Result<()> {
    let request = DeleteNvmeRemoteControllerRequest {
        name,
        allow_missing: true,
    };
    client
        .typed(&method("DeleteNvmeRemoteController"), &request)
        .await
}

/// Makes a path beside these, under the first free id; returns its name.
async fn create_path(
    client: &Client,
    controller: &str,
    paths: &[NvmePath],
    wish: NvmePath,
) -> Result<String> {
    let taken = |id: &String| paths.iter().any(|path| self::id(&path.name) == id);
    let mut ids = (0..).map(|n| format!("p{n}"));
    let request = CreateNvmePathRequest {
        parent: controller.to_owned(),
        nvme_path: Some(wish),
        nvme_path_id: ids.find(|id| !taken(id)).unwrap_or_default(),
    };
    let made: NvmePath = client.typed(&method("CreateNvmePath"), &request).await?;
    Ok(made.name)
}

/// Prints the names of the namespaces that are known of an array.
pub(super) async fn print_namespaces(cx: &Cx<'_>, client: &Client, controller: &str) -> Result<()> {
    for name in namespaces(client, controller).await? {
        cx.print(&format!("{name}\n"))?;
    }
    Ok(())
}

/// The names of the namespaces that are known of an array, a page of them.
async fn namespaces(client: &Client, controller: &str) -> Result<Vec<String>> {
    let request = ListNvmeRemoteNamespacesRequest {
        parent: controller.to_owned(),
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    let list = method("ListNvmeRemoteNamespaces");
    let found: ListNvmeRemoteNamespacesResponse = client.typed(&list, &request).await?;
    let names = found.nvme_remote_namespaces.into_iter();
    Ok(names.map(|namespace| namespace.name).collect())
}

/// Checks that nothing stands on an array, before the first of its paths goes.
async fn check_unused(client: &Client, controller: &str) -> Result<()> {
    for name in namespaces(client, controller).await? {
        let seen = observe::get(client, &name).await?;
        let users = seen.map(|seen| seen.users).unwrap_or_default();
        if !users.is_empty() {
            let users = users.join(", ");
            let text = format!("{name} is in use by {users}: delete that first");
            return Err(Failure::new(text));
        }
    }
    Ok(())
}

/// Waits until a path serves; true if it did at the first look.
async fn until_ready(client: &Client, path: &str, wait: Duration) -> Result<bool> {
    let until = Instant::now() + wait;
    let mut at_once = true;
    loop {
        let Some(seen) = observe::get(client, path).await? else {
            // A server that does not tell: what it answered to the creation has to do.
            return Ok(at_once);
        };
        if seen.state() == State::Ready {
            return Ok(at_once);
        }
        at_once = false;
        if Instant::now() >= until {
            let why = seen.reason;
            return Err(Failure::new(format!(
                "{path} is not connected: {why}; it is kept and tried again, `opi disconnect` \
                 removes it"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `opi disconnect`.
///
/// # Errors
/// Nothing fits, or what the server answered.
pub(crate) async fn disconnect(cx: &Cx<'_>, matches: &ArgMatches) -> Result<()> {
    let client = Client::connect(cx.target).await?;
    let (nqn, name) = (text(matches, "nqn"), text(matches, "name"));
    let all = known(&client).await?;
    let fits = |one: &Known| {
        let named =
            !name.is_empty() && (one.controller.name == name || id(&one.controller.name) == name);
        let is_drive = !name.is_empty() && one.is_drive(&pci_address(&name));
        named || is_drive || (!nqn.is_empty() && one.uses(&nqn))
    };
    let mut found = all.into_iter().filter(fits).peekable();
    if found.peek().is_none() {
        let what = if name.is_empty() {
            nqn.clone()
        } else {
            name.clone()
        };
        return Err(Failure::new(format!(
            "no remote controller is connected to {what}"
        )));
    }
    for one in found {
        check_unused(&client, &one.controller.name).await?;
        for path in one.paths {
            let request = DeleteNvmePathRequest {
                name: path.name,
                allow_missing: true,
            };
            let () = client.typed(&method("DeleteNvmePath"), &request).await?;
        }
        let name = one.controller.name;
        delete_controller(&client, name.clone()).await?;
        cx.print(&format!("{name} disconnected\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_known_by_its_whole_address() {
        assert_eq!(pci_address("0A:00.1"), "0000:0a:00.1");
        assert_eq!(pci_address("10000:e1:00.0"), "10000:e1:00.0");
        assert_eq!(drive_id("0000:0a:00.1"), "drive-0000-0a-00-1");
        let path = |trtype: NvmeTransportType| NvmePath {
            trtype: trtype.into(),
            traddr: "0000:0a:00.1".to_owned(),
            ..NvmePath::default()
        };
        for (trtype, is_drive) in [
            (NvmeTransportType::Pcie, true),
            (NvmeTransportType::Tcp, false),
        ] {
            let known = Known {
                controller: NvmeRemoteController::default(),
                paths: vec![path(trtype)],
            };
            assert_eq!(known.is_drive("0000:0a:00.1"), is_drive);
        }
    }

    #[test]
    fn flags_of_arrays_and_of_drives_are_told_apart() {
        let check = |line: &str| {
            let all = crate::commands().into_iter();
            let command = { all }.find(|one| one.get_name() == "connect").unwrap();
            check_flags(&command.get_matches_from(line.split(' ')))
        };
        assert!(check("connect -t pcie -a 01:00.0").is_ok());
        assert!(check("connect -a 192.0.2.7 -n nqn.x").is_ok());
        let needed = check("connect -a 192.0.2.7").unwrap_err();
        assert!(needed.to_string().contains("--nqn"), "{needed}");
        for flag in ["-n nqn.x", "-s 4420", "-w 192.0.2.1", "-g"] {
            let refused = check(&format!("connect -t pcie -a 01:00.0 {flag}"));
            assert_eq!(refused.unwrap_err().exit_code(), 2, "{flag}");
        }
    }

    #[test]
    fn ids_come_from_the_end_of_the_name_and_are_valid() {
        for (nqn, id) in [
            ("nqn.2026-01.org.example:Array_1", "array-1"),
            ("nqn.2026-01.org.example:7", "rc-7"),
            ("nqn.2026-01.org.example:--", "rc"),
        ] {
            assert_eq!(id_of(nqn), id);
        }
        let long = id_of(&format!("nqn.2026-01.org.example:{}", "9".repeat(200)));
        assert!(long.len() <= ID_MAX, "{long}");
    }

    #[test]
    fn subsystems_whose_names_end_alike_get_controllers_of_their_own() {
        let known = |id: &str| Known {
            controller: NvmeRemoteController {
                name: format!("nvmeRemoteControllers/{id}"),
                ..NvmeRemoteController::default()
            },
            paths: Vec::new(),
        };
        let all = [known("array"), known("array-2")];
        assert_eq!(free_id("other", &all), "other");
        assert_eq!(free_id("array", &all), "array-3");
        let long = "a".repeat(ID_MAX - 3);
        let second = free_id(&long, &[known(&long)]);
        assert!(
            second.ends_with("a-2") && second.len() <= ID_MAX,
            "{second}"
        );
    }
}
