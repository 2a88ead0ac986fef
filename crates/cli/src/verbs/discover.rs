//! `opi discover` and `opi connect-all`: what an array has to offer, as the server sees it, and all
//! of it connected.

use api::ext::v1::nvme_discovery_entry::{SecureChannel, SubsystemType};
use api::ext::v1::{
    DiscoverNvmeSubsystemsRequest, DiscoverNvmeSubsystemsResponse, NvmeDiscoveryEntry,
};
use api::storage::v1::{FabricsPath, NvmeAddressFamily, NvmePath, NvmeTransportType};
use clap::ArgMatches;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::connect::{join, number, print_namespaces, text};
use super::{Cx, complain};
use crate::client::{Client, dynamic, method};
use crate::failure::{Failure, Result};
use crate::output::{self, Align, Format, Table, plain};

const DISCOVER: &str = "/opi_ext.storage.v1.NvmeDiscoveryService/DiscoverNvmeSubsystems";
/// Fields of an entry that a table shows, and those that a wide one shows too.
const COLUMNS: [&str; 6] = ["subtype", "trtype", "adrfam", "traddr", "trsvcid", "subnqn"];
const MORE_COLUMNS: [&str; 6] = [
    "secure_channel",
    "sectype",
    "portid",
    "cntlid",
    "asqsz",
    "eflags",
];

async fn ask(
    client: &Client,
    matches: &ArgMatches,
    follow_referrals: bool,
) -> Result<DiscoverNvmeSubsystemsResponse> {
    let adrfam = match text(matches, "adrfam").as_str() {
        "ipv4" => NvmeAddressFamily::Ipv4,
        "ipv6" => NvmeAddressFamily::Ipv6,
        _ => NvmeAddressFamily::Unspecified,
    };
    let request = DiscoverNvmeSubsystemsRequest {
        trtype: NvmeTransportType::Tcp.into(),
        traddr: text(matches, "traddr"),
        trsvcid: number(matches, "trsvcid"),
        adrfam: adrfam.into(),
        source_traddr: text(matches, "host-traddr"),
        hostnqn: text(matches, "hostnqn"),
        follow_referrals,
    };
    client.typed(DISCOVER, &request).await
}

/// Says which referrals could not be followed; how many.
fn complain_of_referrals(page: &DiscoverNvmeSubsystemsResponse) -> usize {
    for failed in &page.failed_referrals {
        let (traddr, trsvcid) = (&failed.traddr, &failed.trsvcid);
        let text = format!("referral to {traddr} port {trsvcid}: {}", failed.reason);
        complain(&Failure::new(text));
    }
    page.failed_referrals.len()
}

/// `opi discover`.
///
/// # Errors
/// What the server answered, as that the array cannot be reached.
pub(crate) async fn discover(cx: &Cx<'_>, matches: &ArgMatches) -> Result<()> {
    let client = Client::connect(cx.target).await?;
    let page = ask(&client, matches, matches.get_flag("referrals")).await?;
    let answer = dynamic(method(DISCOVER)?.descriptor.output(), &page);
    match (output::document(&answer, cx.format)?, cx.format) {
        (Some(text), _) => return cx.print(&text),
        (None, Some(Format::Name)) => {
            for entry in &page.entries {
                cx.print(&format!("{}\n", entry.subnqn))?;
            }
        }
        (None, format) => cx.print(&table(&answer, format == Some(Format::Wide)))?,
    }
    match complain_of_referrals(&page) {
        0 => Ok(()),
        _ => Err(Failure::new("not every referral was followed")),
    }
}

/// The entries as a table.
fn table(answer: &DynamicMessage, wide: bool) -> String {
    let entries = answer.get_field_by_name("entries");
    let entries = entries.as_deref().and_then(Value::as_list);
    let entries: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter_map(Value::as_message)
        .collect();
    if entries.is_empty() {
        return "nothing is offered to this host\n".to_owned();
    }
    let more = if wide { &MORE_COLUMNS[..] } else { &[] };
    let columns: Vec<_> = COLUMNS.iter().chain(more).collect();
    let heading = |name: &str| name.to_ascii_uppercase().replace('_', "-");
    let mut table = Table::new(columns.iter().map(|name| (heading(name), Align::Left)));
    for entry in entries {
        table.row(columns.iter().map(|name| {
            let field = entry.descriptor().get_field_by_name(name);
            field.map_or_else(String::new, |field| plain(&entry.get_field(&field), &field))
        }));
    }
    table.text()
}

/// `opi connect-all`.
///
/// # Errors
/// What the server answered, or that not all subsystems are connected.
pub(crate) async fn connect_all(cx: &Cx<'_>, matches: &ArgMatches) -> Result<()> {
    let client = Client::connect(cx.target).await?;
    let page = ask(&client, matches, true).await?;
    let mut failed = complain_of_referrals(&page);
    let mut controllers = Vec::new();
    let (mut offered, mut skipped) = (0, 0);
    for entry in &page.entries {
        if entry.subtype() != SubsystemType::Nvm {
            continue;
        }
        offered += 1;
        let at = format!(
            "{} at {} port {}",
            entry.subnqn, entry.traddr, entry.trsvcid
        );
        if entry.trtype() != NvmeTransportType::Tcp {
            skipped += 1;
            cx.print(&format!("{at} skipped: its transport is not TCP\n"))?;
            continue;
        }
        let path = match path(entry, matches) {
            Ok(path) => path,
            Err(failure) => {
                failed += 1;
                complain(&failure.context(at));
                continue;
            }
        };
        match join(&client, matches, path, "").await {
            Ok(joined) => {
                joined.print(cx)?;
                if !controllers.contains(&joined.controller) {
                    controllers.push(joined.controller);
                }
            }
            Err(failure) => {
                failed += 1;
                complain(&failure.context(at));
            }
        }
    }
    for controller in &controllers {
        print_namespaces(cx, &client, controller).await?;
    }
    match failed {
        0 if offered == skipped => Err(Failure::new("no subsystem is offered to this host")),
        0 => Ok(()),
        _ => {
            let text = format!("{failed} of what is offered could not be connected");
            Err(Failure::new(text))
        }
    }
}

/// The path that an entry describes.
fn path(entry: &NvmeDiscoveryEntry, matches: &ArgMatches) -> Result<NvmePath> {
    if entry.secure_channel() == SecureChannel::Required {
        return Err(Failure::new("it demands TLS, which is not served yet"));
    }
    let port = entry.trsvcid.parse::<u16>();
    let port = port.map_err(|_| Failure::new(format!("{:?} is no port", entry.trsvcid)))?;
    Ok(NvmePath {
        name: String::new(),
        trtype: NvmeTransportType::Tcp.into(),
        traddr: entry.traddr.clone(),
        fabrics: Some(FabricsPath {
            trsvcid: port.into(),
            subnqn: entry.subnqn.clone(),
            adrfam: entry.adrfam,
            source_traddr: text(matches, "host-traddr"),
            source_trsvcid: 0,
            hostnqn: text(matches, "hostnqn"),
        }),
    })
}
