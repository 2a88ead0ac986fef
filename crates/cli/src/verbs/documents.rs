//! Files that describe resources: YAML or JSON, several documents each, in any order.

use api::kinds::{self, Kind, Target};
use api::names::{ResourceName, VolumeRef};
use prost_reflect::{DynamicMessage, Kind as FieldKind, MessageDescriptor, Value};
use serde_json::Value as Json;
use std::io::Read as _;

use crate::client::name_of;
use crate::failure::{Failure, Result};
use crate::{flags, words};

/// Largest file read: ten thousand resources have a tenth of it.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// One resource of a file.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// Its full name.
    pub name: ResourceName,
    /// The resource, with the name in it.
    pub resource: DynamicMessage,
    /// The fields that the file names, empty ones too.
    pub paths: Vec<String>,
}

impl Document {
    /// What it is.
    pub(super) fn kind(&self) -> &'static Kind {
        self.name.kind()
    }
}

/// Reads files; `-` is the standard input.
///
/// # Errors
/// A file cannot be read or understood; the failure names it.
pub(super) fn read_files<'a>(paths: impl Iterator<Item = &'a String>) -> Result<Vec<Document>> {
    let mut found = Vec::new();
    for path in paths {
        let mut text = String::new();
        let mut take = |from: &mut dyn std::io::Read| {
            from.take(FILE_BYTES_MAX + 1)
                .read_to_string(&mut text)
                .map(|_| ())
        };
        let read = match path.as_str() {
            "-" => take(&mut std::io::stdin().lock()),
            path => std::fs::File::open(path).and_then(|mut file| take(&mut file)),
        };
        read.map_err(|e| Failure::new(format!("cannot read {path}: {e}")))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(Failure::new(format!(
                "{path} is larger than {FILE_BYTES_MAX} bytes"
            )));
        }
        found.extend(parse(&text).map_err(|failure| failure.context(path))?);
    }
    Ok(found)
}

/// Reads all documents of a text.
///
/// # Errors
/// It is neither YAML nor JSON, or a document describes no resource.
pub(super) fn parse(text: &str) -> Result<Vec<Document>> {
    // The id `n` is not a way to say false.
    let options = serde_saphyr::options! { strict_booleans: true };
    let values: Vec<Json> = if text.trim_start().starts_with(['{', '[']) {
        let stream = serde_json::Deserializer::from_str(text).into_iter::<Json>();
        stream
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| bad("JSON", &e))?
    } else {
        serde_saphyr::from_multiple_with_options(text, options).map_err(|e| bad("YAML", &e))?
    };
    let mut found = Vec::new();
    for value in values.into_iter().filter(|v| !v.is_null()) {
        read_value(value, None, &mut found)?;
    }
    Ok(found)
}

fn bad(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("not {what}: {error}"))
}

/// Reads a resource, a list of them, or what `-o json` and `-o yaml` make of a list.
fn read_value(value: Json, kind: Option<&'static Kind>, found: &mut Vec<Document>) -> Result<()> {
    match value {
        Json::Array(items) => items
            .into_iter()
            .try_for_each(|v| read_value(v, kind, found)),
        Json::Object(mut object) => {
            let mut keys = object.keys();
            if let (Some(key), None) = (keys.next().cloned(), keys.next())
                && let Some(kind) = kinds::by_collection(&key)
                && let Some(list @ Json::Array(_)) = object.get_mut(&key)
            {
                return read_value(list.take(), Some(kind), found);
            }
            found.push(read_resource(object, kind)?);
            Ok(())
        }
        _ => Err(Failure::new(
            "a document is a mapping of fields, or a list of such",
        )),
    }
}

fn read_resource(
    mut object: serde_json::Map<String, Json>,
    kind: Option<&'static Kind>,
) -> Result<Document> {
    let mut take = |key: &str| match object.remove(key) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(other) => Err(Failure::new(format!("{key}: {other} is not text"))),
    };
    let given = take("name")?.unwrap_or_default();
    let parent = take("parent")?;
    let word = take("kind")?;
    let kind = match (word, kind) {
        (Some(word), _) => Some(words::resolve(&word)?),
        (None, kind) => kind,
    };
    let name = match kind {
        Some(kind) => {
            // A document cannot leave its name to the server: it could not be found again.
            words::resource_name(kind, &given, parent.as_deref())?
        }
        None => ResourceName::parse(&given, "name").map_err(|_| {
            let text =
                "a document needs a full `name` (mallocVolumes/m0), or a `kind` and a `name`";
            Failure::new(format!("{text}; this one has the name `{given}`"))
        })?,
    };
    let descriptor = name.kind().message.clone();
    let mut paths = Vec::new();
    name_fields(&descriptor, &object, "", &mut paths);
    let mut resource = DynamicMessage::deserialize(descriptor, Json::Object(object))
        .map_err(|e| Failure::new(format!("{name}: {e}")))?;
    resource.set_field_by_name("name", Value::String(name.to_string()));
    Ok(Document {
        name,
        resource,
        paths,
    })
}

/// Finds the paths of the fields that an object holds. Lists, maps and what is one value in JSON
/// (times and the like) are taken whole.
fn name_fields(
    message: &MessageDescriptor,
    object: &serde_json::Map<String, Json>,
    prefix: &str,
    found: &mut Vec<String>,
) {
    for (key, value) in object {
        let field = message.get_field_by_json_name(key);
        // One that does not exist is refused when the whole is read.
        let Some(field) = field.or_else(|| message.get_field_by_name(key)) else {
            continue;
        };
        let path = format!("{prefix}{}", field.name());
        match (value, field.kind()) {
            (Json::Object(inner), FieldKind::Message(below))
                if !inner.is_empty()
                    && !field.is_list()
                    && !field.is_map()
                    && below.package_name() != "google.protobuf" =>
            {
                name_fields(&below, inner, &format!("{path}."), found);
            }
            _ => found.push(path),
        }
    }
}

/// Puts what others stand on before them: parents, and what reference fields name. The order of
/// the file is kept otherwise.
pub(super) fn ordered(documents: Vec<Document>) -> Vec<Document> {
    let below: Vec<Vec<usize>> = documents
        .iter()
        .map(|d| {
            (0..documents.len())
                .filter(|&i| stands_on(d, &documents[i]))
                .collect()
        })
        .collect();
    let mut order = Vec::with_capacity(documents.len());
    let mut begun = vec![false; documents.len()];
    for i in 0..documents.len() {
        visit(i, &below, &mut begun, &mut order);
    }
    let mut slots: Vec<Option<Document>> = documents.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| slots[i].take()).collect()
}

/// Depth first. A cycle is cut where it closes; the server says what is wrong with it.
fn visit(i: usize, below: &[Vec<usize>], begun: &mut [bool], order: &mut Vec<usize>) {
    if std::mem::replace(&mut begun[i], true) {
        return;
    }
    for &j in &below[i] {
        visit(j, below, begun, order);
    }
    order.push(i);
}

fn stands_on(one: &Document, other: &Document) -> bool {
    let refers = |reference: &kinds::Reference| {
        let value = flags::get(&one.resource, &reference.path);
        let Some(text) = value
            .as_ref()
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
        else {
            return false;
        };
        match reference.target {
            Target::Volume => match VolumeRef::parse(text, "") {
                Ok(VolumeRef::Name(name)) => name.as_str() == other.name.as_str(),
                Ok(VolumeRef::Id(id)) => other.kind().is_volume && other.name.id() == id,
                Err(_) => false,
            },
            Target::Collection(collection) => {
                other.kind().collection == collection
                    && (name_of(&other.resource) == text || other.name.id() == text)
            }
        }
    };
    one.name.is_below(&other.name) || one.kind().references.iter().any(refers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
kind: NvmeNamespace
parent: s
name: n
spec:
  volumeNameRef: m
---
# a comment
name: nvmeSubsystems/s
spec: {nqn: 'nqn.2024-01.org.example:s'}
---
mallocVolumes:
  - name: mallocVolumes/m
    blockSize: '4096'
    blocksCount: 16
";

    fn names(documents: &[Document]) -> Vec<&str> {
        documents.iter().map(|d| d.name.as_str()).collect()
    }

    #[test]
    fn documents_come_in_an_order_that_works() {
        let documents = ordered(parse(FILE).unwrap());
        let wanted = [
            "nvmeSubsystems/s",
            "mallocVolumes/m",
            "nvmeSubsystems/s/nvmeNamespaces/n",
        ];
        assert_eq!(names(&documents), wanted);
        let size = documents[1]
            .resource
            .get_field_by_name("blocks_count")
            .unwrap()
            .as_i64();
        assert_eq!(size, Some(16));
    }

    #[test]
    fn json_is_read_too_and_several_documents_of_it() {
        let text = r#"{"name":"mallocVolumes/a","blockSize":512} [{"kind":"null","name":"b"}]"#;
        assert_eq!(
            names(&parse(text).unwrap()),
            ["mallocVolumes/a", "nullVolumes/b"]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text: &str| parse(text).unwrap_err().to_string();
        assert!(wrong("name: mallocVolumes/m\nblokSize: 1\n").contains("blokSize"));
        assert!(wrong("name: m\n").contains("kind"));
        assert!(wrong("kind: banana\nname: m\n").contains("banana"));
        assert!(wrong("kind: malloc\n").contains("names no malloc-volume"));
        assert!(wrong("- 5\n").contains("mapping"));
        assert!(wrong("a: [1\n").contains("YAML"));
        assert!(wrong("{\"a\"").contains("JSON"));
    }

    #[test]
    fn a_cycle_does_not_hang() {
        let text = "
kind: QosVolume
name: a
volumeNameRef: qosVolumes/b
---
kind: QosVolume
name: b
volumeNameRef: qosVolumes/a
";
        assert_eq!(ordered(parse(text).unwrap()).len(), 2);
    }
}
