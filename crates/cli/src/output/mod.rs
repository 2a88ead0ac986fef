//! How resources are shown.

mod table;

pub(crate) use table::{Align, Table, plain, size_of};

use api::kinds::Kind;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use std::io::{self, Write};

use crate::client::name_of;
use crate::failure::{Failure, Result};

/// What `-o` can say.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// Columns for people, all of them
    Wide,
    /// The JSON of the API
    Json,
    /// The same as YAML; `apply` reads it back
    Yaml,
    /// Names only, for scripts
    Name,
}

/// A message in the JSON mapping of protobuf, with defaults, as the REST interface answers.
pub(crate) struct Shown<'a>(pub &'a DynamicMessage);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let options = SerializeOptions::new().skip_default_fields(false);
        self.0.serialize_with_options(serializer, &options)
    }
}

/// Several resources below the name of their collection, as the answer to a list has them.
struct ShownList<'a>(&'a str, &'a [DynamicMessage]);

impl Serialize for ShownList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.0, &self.1.iter().map(Shown).collect::<Vec<_>>())?;
        map.end()
    }
}

/// One resource in the format asked for. Secrets that a server sends back are not shown.
///
/// # Errors
/// It cannot be written in that format.
pub(crate) fn one(kind: &Kind, resource: &DynamicMessage, format: Format) -> Result<String> {
    let mut resource = resource.clone();
    api::fields::clear_secrets(&mut resource);
    match format {
        Format::Json => json(&Shown(&resource)),
        Format::Yaml => yaml(&Shown(&resource)),
        _ => many(kind, std::slice::from_ref(&resource), format),
    }
}

/// Several resources in the format asked for.
///
/// # Errors
/// They cannot be written in that format.
pub(crate) fn many(kind: &Kind, resources: &[DynamicMessage], format: Format) -> Result<String> {
    let mut resources = resources.to_vec();
    resources.iter_mut().for_each(api::fields::clear_secrets);
    match format {
        Format::Json => json(&ShownList(&kind.collection, &resources)),
        Format::Yaml => yaml(&ShownList(&kind.collection, &resources)),
        Format::Name => Ok(resources.iter().map(|r| name_of(r) + "\n").collect()),
        Format::Table => Ok(table::resources(kind, &resources, false)),
        Format::Wide => Ok(table::resources(kind, &resources, true)),
    }
}

/// Any value as JSON for people.
///
/// # Errors
/// It cannot be written as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|t| t + "\n")
        .map_err(|e| Failure::new(format!("cannot be written as JSON: {e}")))
}

/// Any value as a YAML document.
///
/// # Errors
/// It cannot be written as YAML.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String> {
    let text = serde_saphyr::to_string(value)
        .map_err(|e| Failure::new(format!("cannot be written as YAML: {e}")))?;
    Ok(if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    })
}

/// Any message as JSON or YAML; `None` for the formats that are for people.
///
/// # Errors
/// It cannot be written in that format.
pub(crate) fn document(message: &DynamicMessage, format: Option<Format>) -> Result<Option<String>> {
    match format {
        Some(Format::Json) => json(&Shown(message)).map(Some),
        Some(Format::Yaml) => yaml(&Shown(message)).map(Some),
        _ => Ok(None),
    }
}

/// Writes and flushes. A reader that went away (`| head`) is no failure.
///
/// # Errors
/// The output cannot be written, as on a full disk.
pub(crate) fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the output: {e}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::resolve;

    fn volume(name: &str) -> DynamicMessage {
        let json = format!(r#"{{"name":"mallocVolumes/{name}","blockSize":512,"blocksCount":8}}"#);
        let mut reader = serde_json::Deserializer::from_str(&json);
        let kind = resolve("malloc").unwrap();
        DynamicMessage::deserialize(kind.message.clone(), &mut reader).unwrap()
    }

    #[test]
    fn json_and_yaml_hold_what_the_api_answers() {
        let kind = resolve("malloc").unwrap();
        let text = one(kind, &volume("m0"), Format::Json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["name"], "mallocVolumes/m0");
        assert_eq!(value["blockSize"], "512");
        assert_eq!(value["uuid"], "");
        let text = one(kind, &volume("m0"), Format::Yaml).unwrap();
        let again: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn a_list_stands_below_its_collection() {
        let kind = resolve("malloc").unwrap();
        let text = many(kind, &[volume("a"), volume("b")], Format::Json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["mallocVolumes"][1]["name"], "mallocVolumes/b");
        let names = many(kind, &[volume("a"), volume("b")], Format::Name).unwrap();
        assert_eq!(names, "mallocVolumes/a\nmallocVolumes/b\n");
    }

    #[test]
    fn secrets_are_never_shown() {
        let kind = resolve("encrypted-volume").unwrap();
        let mut volume = DynamicMessage::new(kind.message.clone());
        let key = prost_reflect::Value::Bytes(b"0123456789abcdef".to_vec().into());
        volume.set_field_by_name("key", key);
        for format in [Format::Json, Format::Yaml, Format::Wide, Format::Table] {
            let text = one(kind, &volume, format).unwrap();
            assert!(
                !text.contains("MDEyMzQ1") && !text.contains("01234"),
                "{text}"
            );
        }
    }
}
