//! `opi apply` and `opi delete -f`: what a file describes.

use api::fields;
use api::kinds::{LEGACY_COLLECTION, Verb};
use api::mask::Mask;
use clap::ArgMatches;
use prost_reflect::{DynamicMessage, Value};
use tonic::Code;

use super::change::{create_request, delete_one, said, update_request};
use super::documents::{self, Document};
use super::{Cx, complain};
use crate::client::{Client, method_of};
use crate::failure::{Failure, Result};
use crate::flags;
use crate::output::{self, Format};

/// `opi apply`. Stops at the first failure: what follows may stand on it.
///
/// # Errors
/// The file or the server says so.
pub(crate) async fn apply(cx: &Cx<'_>, matches: &ArgMatches) -> Result<()> {
    let files = matches.get_many::<String>("filename").unwrap_or_default();
    let all = documents::ordered(documents::read_files(files)?);
    let client = Client::connect(cx.target).await?;
    for document in all {
        let (resource, what) = apply_one(&client, &document)
            .await
            .map_err(|failure| failure.context(&document.name))?;
        match cx.format {
            Some(format @ (Format::Json | Format::Yaml)) => {
                if format == Format::Yaml {
                    cx.print("---\n")?;
                }
                cx.print(&output::one(document.kind(), &resource, format)?)?;
            }
            _ => said(cx, document.name.as_str(), what)?,
        }
    }
    Ok(())
}

async fn apply_one(client: &Client, document: &Document) -> Result<(DynamicMessage, &'static str)> {
    let kind = document.kind();
    let current = match client.get(kind, document.name.as_str()).await {
        Ok(current) => current,
        Err(failure) if failure.code() == Some(Code::NotFound) => {
            let (parent, id) = (document.name.parent(), document.name.id());
            let resource = document.resource.clone();
            let request = create_request(kind, parent.as_ref(), id, resource)?;
            let created = client
                .call(method_of(kind, &Verb::Create)?, request)
                .await?;
            return Ok((created, "created"));
        }
        Err(failure) => return Err(failure),
    };
    let merged = merge(document, &current)?;
    let paths = api::mask::diff(&current, &merged);
    if paths.is_empty() {
        return Ok((current, "unchanged"));
    }
    let request = update_request(kind, document.name.as_str(), merged, &paths, false)?;
    let updated = client
        .call(method_of(kind, &Verb::Update)?, request)
        .await?;
    Ok((updated, "configured"))
}

/// What is there with what the file says in its place: a field that is empty in the file is
/// cleared. Secrets stay as they are: what is there cannot be compared with them.
fn merge(document: &Document, current: &DynamicMessage) -> Result<DynamicMessage> {
    let kind = document.kind();
    let secrets = fields::secret_paths(&kind.message);
    let mut paths = document.paths.clone();
    paths.retain(|path| !secrets.contains(path));
    let mut merged = current.clone();
    if paths.is_empty() {
        return Ok(merged);
    }
    let mask = Mask::parse(&paths, &kind.message, "update_mask")
        .map_err(|e| Failure::new(e.to_string()))?;
    mask.apply(&document.resource, &mut merged);
    for reference in &kind.references {
        let [before, after] = [current, &merged].map(|m| flags::get(m, &reference.path));
        let text =
            |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        if let (Some(before), Some(after)) = (text(&before), text(&after))
            && is_short_for(&after, &before)
        {
            flags::set(&mut merged, &reference.path, Value::String(before));
        }
    }
    Ok(merged)
}

/// Whether a reference in a file, as `m0` or `volumes/m0`, fits the name that is there.
fn is_short_for(text: &str, name: &str) -> bool {
    let id = match text.split_once('/') {
        None => text,
        Some((LEGACY_COLLECTION, id)) => id,
        Some(_) => return false,
    };
    !id.is_empty() && name.rsplit('/').next() == Some(id)
}

/// `opi delete -f`: what stands on others goes first, and what is gone already is passed over.
///
/// # Errors
/// The file is wrong, or the last failure; those before are on the standard error.
pub(crate) async fn delete_files(cx: &Cx<'_>, matches: &ArgMatches) -> Result<()> {
    let files = matches.get_many::<String>("filename").unwrap_or_default();
    let all = documents::ordered(documents::read_files(files)?);
    let client = Client::connect(cx.target).await?;
    let mut last = None;
    for document in all.iter().rev() {
        match delete_one(&client, document.kind(), document.name.as_str(), true).await {
            Ok(()) => said(cx, document.name.as_str(), "deleted")?,
            Err(failure) => {
                if let Some(failure) = last.replace(failure) {
                    complain(&failure);
                }
            }
        }
    }
    last.map_or(Ok(()), Err)
}
