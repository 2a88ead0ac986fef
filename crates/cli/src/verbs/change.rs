//! The verbs that change one kind: create, update, delete, and those of single kinds.

use api::kinds::{Kind, Method, Verb};
use api::names::ResourceName;
use clap::ArgMatches;
use prost_reflect::{DynamicMessage, Value};

use super::{Cx, complain};
use crate::client::{self, Client, method_of, named};
use crate::failure::{Failure, Result};
use crate::{flags, output, words};

/// `opi create`.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn create(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    let (parent, id) = place(kind, matches)?;
    let all = flags::of(&kind.message);
    let mut resource = DynamicMessage::new(kind.message.clone());
    flags::fill(&mut resource, &all, matches);
    if let Some(bytes) = size(kind, matches) {
        flags::fill_size(&mut resource, bytes, None)?;
    }
    let request = create_request(kind, parent.as_ref(), &id, resource)?;
    let answer = client
        .call(method_of(kind, &Verb::Create)?, request)
        .await?;
    changed(cx, kind, &answer, "created")
}

/// The parent and the id of what is to be created.
fn place(kind: &'static Kind, matches: &ArgMatches) -> Result<(Option<ResourceName>, String)> {
    let name = matches.get_one::<String>("name").map_or("", String::as_str);
    let parent = parent_of(kind, matches);
    if name.contains('/') {
        let name = words::resource_name(kind, name, parent)?;
        return Ok((name.parent(), name.id().to_owned()));
    }
    let parent = match (kind.parent(), parent) {
        (None, _) => None,
        (Some(_), Some(given)) => Some(words::parent_name(kind, given)?),
        (Some(parent), None) => {
            let (word, of) = (words::word(kind), words::word(parent));
            let text = format!("a {word} belongs to a {of}: say which with --parent");
            return Err(Failure::usage(text));
        }
    };
    Ok((parent, name.to_owned()))
}

/// What `--parent` said; kinds without a parent have no such flag.
pub(super) fn parent_of<'a>(kind: &Kind, matches: &'a ArgMatches) -> Option<&'a str> {
    kind.parent()?;
    matches.get_one::<String>("parent").map(String::as_str)
}

/// What `--size` said; only volumes have that flag.
fn size(kind: &Kind, matches: &ArgMatches) -> Option<u64> {
    flags::has_size(kind).then(|| matches.get_one::<u64>(flags::SIZE).copied())?
}

/// The request that creates a resource; an empty id leaves the choice to the server.
///
/// # Errors
/// The API cannot create this kind.
pub(super) fn create_request(
    kind: &Kind,
    parent: Option<&ResourceName>,
    id: &str,
    resource: DynamicMessage,
) -> Result<DynamicMessage> {
    let method = method_of(kind, &Verb::Create)?;
    let mut request = DynamicMessage::new(method.descriptor.input());
    if let Some(field) = &method.fields.resource {
        request.set_field(field, Value::Message(resource));
    }
    if let (Some(field), false) = (&method.fields.id, id.is_empty()) {
        request.set_field(field, Value::String(id.to_owned()));
    }
    if let (Some(field), Some(parent)) = (&method.fields.parent, parent) {
        request.set_field(field, Value::String(parent.to_string()));
    }
    Ok(request)
}

/// `opi update`.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn update(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    let given = matches.get_one::<String>("name").map_or("", String::as_str);
    let name = words::full_name(kind, given, parent_of(kind, matches))?;
    let all = flags::of(&kind.message);
    let mut resource = DynamicMessage::new(kind.message.clone());
    let mut paths = flags::fill(&mut resource, &all, matches);
    if let Some(bytes) = size(kind, matches) {
        let known = resource.has_field_by_name("block_size");
        let current = if known {
            None
        } else {
            Some(block_size(client, kind, &name).await?)
        };
        for path in flags::fill_size(&mut resource, bytes, current)? {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    if let Some(mask) = matches.get_many::<String>("update-mask") {
        paths = mask.cloned().collect();
    }
    if paths.is_empty() {
        let word = words::word(kind);
        let text = format!(
            "nothing to change: give the new values as flags (opi update {word} --help lists them)"
        );
        return Err(Failure::usage(text));
    }
    let missing = matches.get_flag("allow-missing");
    let request = update_request(kind, &name, resource, &paths, missing)?;
    let answer = client
        .call(method_of(kind, &Verb::Update)?, request)
        .await?;
    changed(cx, kind, &answer, "updated")
}

async fn block_size(client: &Client, kind: &Kind, name: &str) -> Result<i64> {
    let current = client.get(kind, name).await?;
    let size = current
        .get_field_by_name("block_size")
        .and_then(|v| v.as_i64());
    Ok(size.unwrap_or_default())
}

/// The request that changes the fields `paths` of a resource.
///
/// # Errors
/// The API cannot change this kind.
pub(super) fn update_request(
    kind: &Kind,
    name: &str,
    resource: DynamicMessage,
    paths: &[String],
    allow_missing: bool,
) -> Result<DynamicMessage> {
    let method = method_of(kind, &Verb::Update)?;
    let mut request = with_mask(method, name, resource, paths);
    if let (Some(field), true) = (&method.fields.allow_missing, allow_missing) {
        request.set_field(field, Value::Bool(true));
    }
    Ok(request)
}

/// The request of `method` that changes the fields `paths` of what has this name.
pub(super) fn with_mask(
    method: &Method,
    name: &str,
    mut resource: DynamicMessage,
    paths: &[String],
) -> DynamicMessage {
    let mut request = DynamicMessage::new(method.descriptor.input());
    resource.set_field_by_name("name", Value::String(name.to_owned()));
    if let Some(field) = &method.fields.resource {
        request.set_field(field, Value::Message(resource));
    }
    if let Some(field) = &method.fields.mask
        && let Value::Message(mask) = request.get_field_mut(field)
    {
        let paths = paths.iter().cloned().map(Value::String).collect();
        mask.set_field_by_name("paths", Value::List(paths));
    }
    request
}

/// `opi delete`, by names. Goes on after a failure, and reports every one.
///
/// # Errors
/// The last failure; those before are on the standard error.
pub(crate) async fn delete(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    matches: &ArgMatches,
) -> Result<()> {
    let mut last = None;
    let missing = matches.get_flag("allow-missing");
    let names: Vec<String> = matches
        .get_many::<String>("name")
        .unwrap_or_default()
        .map(|given| words::full_name(kind, given, parent_of(kind, matches)))
        .collect::<Result<_>>()?;
    for name in names {
        match delete_one(client, kind, &name, missing).await {
            Ok(()) => said(cx, &name, "deleted")?,
            Err(failure) => {
                if let Some(failure) = last.replace(failure) {
                    complain(&failure);
                }
            }
        }
    }
    last.map_or(Ok(()), Err)
}

/// Deletes one resource.
///
/// # Errors
/// What the server answered.
pub(super) async fn delete_one(
    client: &Client,
    kind: &Kind,
    name: &str,
    allow_missing: bool,
) -> Result<()> {
    let method = method_of(kind, &Verb::Delete)?;
    let mut request = named(method, name);
    if let (Some(field), true) = (&method.fields.allow_missing, allow_missing) {
        request.set_field(field, Value::Bool(true));
    }
    client.call(method, request).await.map(|_| ())
}

/// A verb that only some kinds have, such as `opi reset`.
///
/// # Errors
/// The command or the server says so.
pub(crate) async fn custom(
    cx: &Cx<'_>,
    client: &Client,
    kind: &'static Kind,
    verb: &str,
    matches: &ArgMatches,
) -> Result<()> {
    let given = matches.get_one::<String>("name").map_or("", String::as_str);
    let name = words::full_name(kind, given, parent_of(kind, matches))?;
    let method = method_of(kind, &Verb::Custom(verb.to_owned()))?;
    client.call(method, named(method, &name)).await?;
    said(cx, &name, &format!("{verb} done"))
}

/// Shows a resource that was changed: in full if a format is asked for, else what happened.
fn changed(cx: &Cx<'_>, kind: &Kind, resource: &DynamicMessage, what: &str) -> Result<()> {
    match cx.format {
        Some(format) => cx.print(&output::one(kind, resource, format)?),
        None => said(cx, &client::name_of(resource), what),
    }
}

/// Says what happened to a resource; with `-o name` its name alone, with a document nothing.
pub(super) fn said(cx: &Cx<'_>, name: &str, what: &str) -> Result<()> {
    match cx.format {
        Some(output::Format::Name) => cx.print(&format!("{name}\n")),
        Some(output::Format::Json | output::Format::Yaml) => Ok(()),
        _ => cx.print(&format!("{name} {what}\n")),
    }
}
