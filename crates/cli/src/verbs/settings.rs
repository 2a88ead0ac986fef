//! `opi settings`: shows and changes what is set of a resource beside its own fields.

use api::kinds::{Kind, SETTINGS, Verb};
use clap::ArgMatches;
use prost_reflect::DynamicMessage;

use super::change::{parent_of, with_mask};
use super::{Cx, describe};
use crate::client::{Client, method_of, named};
use crate::failure::Result;
use crate::output::{self, Format};
use crate::{flags, words};

/// `opi settings`: without any new value it shows them.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn settings(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    let given = matches.get_one::<String>("name").map_or("", String::as_str);
    let owner = given
        .strip_suffix(SETTINGS)
        .and_then(|n| n.strip_suffix('/'));
    let owner = words::full_name(kind, owner.unwrap_or(given), parent_of(kind, matches))?;
    let name = format!("{owner}/{SETTINGS}");
    let update = method_of(kind, &Verb::UpdateSettings)?;
    let message = kind.settings.clone();
    let mut wished = message.map(DynamicMessage::new).expect("it has the method");
    let all = flags::of(&prost_reflect::ReflectMessage::descriptor(&wished));
    let mut paths = flags::fill(&mut wished, &all, matches);
    if let Some(mask) = matches.get_many::<String>("update-mask") {
        paths = mask.cloned().collect();
    }
    let answer = if paths.is_empty() {
        let get = method_of(kind, &Verb::GetSettings)?;
        client.call(get, named(get, &name)).await?
    } else {
        let request = with_mask(update, &name, wished, &paths);
        client.call(update, request).await?
    };
    if cx.format == Some(Format::Name) {
        return cx.print(&format!("{name}\n"));
    }
    let table = || {
        let mut text = String::new();
        describe::line(&mut text, "Name", &name);
        describe::fields(&mut text, &answer);
        text
    };
    cx.print(&output::document(&answer, cx.format)?.unwrap_or_else(table))
}
