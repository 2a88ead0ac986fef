//! The verbs that show one resource from all sides: describe and stats.

use api::ext::v1::{Fact, Observation, fact};
use api::kinds::{Kind, Verb};
use clap::ArgMatches;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value};
use std::fmt::Write as _;

use super::change::parent_of;
use super::{Cx, observe};
use crate::client::{Client, method_of, named};
use crate::failure::Result;
use crate::output::{self, Align, Format, Table};
use crate::{flags, words};

/// Columns that labels take.
const LABEL: usize = 20;

/// `opi describe`.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn describe(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    let given = matches.get_one::<String>("name").map_or("", String::as_str);
    let name = words::full_name(kind, given, parent_of(kind, matches))?;
    let resource = client.get(kind, &name).await?;
    let seen = observe::get(client, &name).await?;
    if let Some(Format::Json | Format::Yaml) = cx.format {
        let seen = seen.as_ref().map(observe::message).transpose()?;
        let both = Both {
            resource: &resource,
            observation: seen.as_ref(),
        };
        return cx.print(&match cx.format {
            Some(Format::Json) => output::json(&both)?,
            _ => output::yaml(&both)?,
        });
    }
    let mut text = String::new();
    line(&mut text, "Name", &name);
    line(&mut text, "Kind", kind.message.name());
    if flags::has_size(kind) {
        line(&mut text, "Size", &output::size_of(&resource));
    }
    fields(&mut text, &resource);
    if let Some(seen) = &seen {
        observed(&mut text, seen)?;
    }
    cx.print(&text)
}

/// A resource and what is known about it, as one document.
#[derive(serde::Serialize)]
struct Both<'a> {
    #[serde(serialize_with = "shown")]
    resource: &'a DynamicMessage,
    #[serde(serialize_with = "maybe_shown")]
    observation: Option<&'a DynamicMessage>,
}

fn shown<S: serde::Serializer>(
    message: &DynamicMessage,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&output::Shown(message), serializer)
}

fn maybe_shown<S: serde::Serializer>(
    message: &Option<&DynamicMessage>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match message {
        Some(message) => shown(message, serializer),
        None => serializer.serialize_none(),
    }
}

pub(super) fn line(text: &mut String, label: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:LABEL$}{value}", format!("{label}: "));
}

/// `fabrics_id` becomes `Fabrics id`.
fn label(field: &FieldDescriptor) -> String {
    let words = field.name().replace('_', " ");
    let words = words.strip_suffix(" name ref").unwrap_or(&words);
    let mut letters = words.chars();
    letters
        .next()
        .map(|c| c.to_ascii_uppercase())
        .into_iter()
        .chain(letters)
        .collect()
}

/// A line for each field that has a value.
pub(super) fn fields(text: &mut String, resource: &DynamicMessage) {
    let mut paths = Vec::new();
    flags::collect(
        &resource.descriptor(),
        &mut Vec::new(),
        &mut paths,
        &|field| field.name() != "name" && !api::fields::behavior(field).secret,
    );
    for path in paths {
        let Some(field) = path.last() else { continue };
        let value = flags::get(resource, &path).map(|v: Value| output::plain(&v, field));
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            line(text, &label(field), &value);
        }
    }
}

fn observed(text: &mut String, seen: &Observation) -> Result<()> {
    let message = observe::message(seen)?;
    let json = serde_json::to_value(output::Shown(&message)).unwrap_or_default();
    let since = json["since"].as_str().unwrap_or_default();
    let mut state = observe::state_word(seen.state());
    if !since.is_empty() {
        state = format!("{state} since {since}");
    }
    line(text, "State", &state);
    if !seen.reason.is_empty() {
        line(text, "Reason", &seen.reason);
    }
    for (i, user) in seen.users.iter().enumerate() {
        line_once(text, "Used by", i, user);
    }
    for (i, link) in seen.chain.iter().enumerate() {
        let below = format!("{} {}", link.name, observe::state_word(link.state()));
        line_once(text, "Stands on", i, &below);
    }
    for (i, fact) in seen.facts.iter().enumerate() {
        line_once(text, "Facts", i, &fact_text(fact));
    }
    if let Some(stats) = &seen.stats {
        line(text, "In flight", &stats.in_flight.to_string());
        let _ = write!(text, "\n{}", observe::stats_table(seen).text());
    }
    Ok(())
}

/// As in `nvme_path_ana_state nsid=1: optimized`.
fn fact_text(fact: &Fact) -> String {
    let mut text = fact.name.clone();
    let mut labels: Vec<_> = fact.labels.iter().collect();
    labels.sort();
    for (key, value) in labels {
        let _ = write!(text, " {key}={value}");
    }
    let value = match &fact.value {
        Some(fact::Value::Counter(count)) => count.to_string(),
        Some(fact::Value::Gauge(value)) => value.to_string(),
        Some(fact::Value::State(state)) => state.clone(),
        None => String::new(),
    };
    let _ = write!(text, ": {value}");
    if !fact.unit.is_empty() {
        let _ = write!(text, " {}", fact.unit);
    }
    text
}

/// A list: the label stands before the first value only.
fn line_once(text: &mut String, label: &str, index: usize, value: &str) {
    if index == 0 {
        line(text, label, value);
    } else {
        let _ = writeln!(text, "{:LABEL$}{value}", "");
    }
}

/// `opi stats`: the 64-bit statistics with latencies, or from servers without them OPI's own.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn stats(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    for (i, given) in matches
        .get_many::<String>("name")
        .unwrap_or_default()
        .enumerate()
    {
        let name = words::full_name(kind, given, parent_of(kind, matches))?;
        let several = matches
            .get_many::<String>("name")
            .is_some_and(|n| n.len() > 1);
        if several && !matches!(cx.format, Some(Format::Json | Format::Yaml)) {
            cx.print(&format!("{}{name}\n", if i > 0 { "\n" } else { "" }))?;
        }
        let text = match observe::get(client, &name).await? {
            Some(seen) => {
                let message = observe::message(&seen)?;
                let table = || observe::stats_table(&seen).text();
                output::document(&message, cx.format)?.unwrap_or_else(table)
            }
            None => {
                let method = method_of(kind, &Verb::Stats)?;
                let answer = client.call(method, named(method, &name)).await?;
                let table = || counters(&answer);
                output::document(&answer, cx.format)?.unwrap_or_else(table)
            }
        };
        cx.print(&text)?;
    }
    Ok(())
}

/// OPI's own counters: every number in the answer, by its name.
fn counters(answer: &DynamicMessage) -> String {
    let mut table = Table::new([("COUNTER", Align::Left), ("VALUE", Align::Right)]);
    for (_, value) in answer.fields() {
        let Some(stats) = value.as_message() else {
            continue;
        };
        for field in stats.descriptor().fields() {
            let count = stats.get_field(&field).as_i32().unwrap_or_default();
            table.row([words::kebab(field.name()), count.to_string()]);
        }
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_label_never_touches_its_value() {
        let mut text = String::new();
        line(&mut text, "Name", "x");
        line(&mut text, "A label that is longer than its column", "x");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Name:               x");
        assert!(lines[1].ends_with(": x"), "{text}");
    }
}
