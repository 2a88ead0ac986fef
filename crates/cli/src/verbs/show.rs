//! The verbs that show resources: get and list.

use api::kinds::Kind;
use clap::ArgMatches;
use prost_reflect::DynamicMessage;

use super::Cx;
use super::change::parent_of;
use super::observe;
use crate::client::{Client, PAGE_SIZE, method, name_of, named};
use crate::failure::Result;
use crate::output::{self, Align, Format, Table};
use crate::words;

/// The word for the machine itself.
pub(crate) const INVENTORY: &str = "inventory";
const GET_INVENTORY: &str = "/opi_api.inventory.v1.InventoryService/GetInventory";
/// The service has one inventory, and answers to any name of this shape.
const INVENTORY_NAME: &str = "inventory/default/inventory/default";

/// `opi get`: those named, or all.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn get(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    let Some(names) = matches.get_many::<String>("name") else {
        return list(cx, client, kind, matches).await;
    };
    let format = cx.format.unwrap_or(Format::Table);
    let mut found = Vec::new();
    for given in names {
        let name = words::full_name(kind, given, parent_of(kind, matches))?;
        found.push(client.get(kind, &name).await?);
    }
    let text = match &found[..] {
        [resource] => output::one(kind, resource, format)?,
        _ => output::many(kind, &found, format)?,
    };
    cx.print(&text)?;
    if matches.get_flag("watch") {
        let names = found.iter().map(name_of).collect();
        observe::watch(cx, client, kind, names).await?;
    }
    Ok(())
}

/// `opi list`.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn list(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    let format = cx.format.unwrap_or(Format::Table);
    let page_size = matches.get_one("page-size").copied().unwrap_or(PAGE_SIZE);
    let limit = matches.get_one("limit").copied().unwrap_or(usize::MAX);
    let parent = match parent_of(kind, matches) {
        Some(given) => Some(words::parent_name(kind, given)?.to_string()),
        None => None,
    };
    let found = everything(client, kind, parent.as_deref(), page_size, limit).await?;
    cx.print(&output::many(kind, &found, format)?)?;
    if matches.get_flag("watch") {
        observe::watch(cx, client, kind, Vec::new()).await?;
    }
    Ok(())
}

/// All resources of a kind; for children without a parent given, those of all parents.
///
/// # Errors
/// What the server answered.
pub(super) async fn everything(
    client: &Client,
    kind: &'static Kind,
    parent: Option<&str>,
    page_size: i32,
    limit: usize,
) -> Result<Vec<DynamicMessage>> {
    let parents = match (kind.parent(), parent) {
        (Some(above), None) => client.list(above, None, page_size, usize::MAX).await?,
        _ => return client.list(kind, parent, page_size, limit).await,
    };
    let mut found = Vec::new();
    for parent in parents {
        let left = limit - found.len();
        if left == 0 {
            break;
        }
        found.extend(
            client
                .list(kind, Some(&name_of(&parent)), page_size, left)
                .await?,
        );
    }
    Ok(found)
}

/// `opi get all`: every resource with its state.
///
/// # Errors
/// What the server answered.
pub(crate) async fn all(cx: &Cx<'_>, client: &Client) -> Result<()> {
    let found = observe::list(client, "").await?;
    if let Some(Format::Json | Format::Yaml) = cx.format {
        return observe::print_list(cx, &found);
    }
    if cx.format == Some(Format::Name) {
        let names: String = found.iter().map(|o| format!("{}\n", o.name)).collect();
        return cx.print(&names);
    }
    let columns = ["NAME", "STATE", "USED-BY", "REASON"];
    let mut table = Table::new(columns.map(|c| (c, Align::Left)));
    for seen in &found {
        let state = observe::state_word(seen.state());
        table.row([
            seen.name.clone(),
            state,
            seen.users.join(","),
            seen.reason.clone(),
        ]);
    }
    if table.is_empty() {
        return cx.print("no resources\n");
    }
    cx.print(&table.text())
}

/// `opi get inventory`: the machine that the server runs on.
///
/// # Errors
/// What the server answered.
pub(crate) async fn inventory(cx: &Cx<'_>, client: &Client) -> Result<()> {
    let method = method(GET_INVENTORY)?;
    let answer = client.call(method, named(method, INVENTORY_NAME)).await?;
    let format = cx.format.unwrap_or(Format::Yaml);
    let text = output::document(&answer, Some(format))?;
    cx.print(&text.unwrap_or(output::yaml(&output::Shown(&answer))?))
}
