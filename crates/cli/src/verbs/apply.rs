//! `opi apply` and `opi delete -f`: what a file describes.

use api::fields;
use api::kinds::Verb;
use clap::ArgMatches;
use prost_reflect::DynamicMessage;
use tonic::Code;

use super::change::{create_request, delete_one, said, update_request};
use super::documents::{self, Document};
use super::{Cx, complain};
use crate::client::{Client, method_of};
use crate::failure::Result;
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
    let mut wanted = document.resource.clone();
    fields::clear_output_only(&mut wanted);
    fields::clear_secrets(&mut wanted);
    let mut merged = current.clone();
    api::mask::Mask::Populated.apply(&wanted, &mut merged);
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
