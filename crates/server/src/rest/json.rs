//! Proto JSON in and out, with errors that name the field.

use std::collections::HashSet;

use api::Error;
use api::fields::behavior;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use serde::ser::{Error as _, Serialize, SerializeMap as _, Serializer};

/// A message read from JSON, and what was in it.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The message.
    pub(crate) message: DynamicMessage,
    /// Paths of all fields that were given, down to single values: the mask a PATCH implies.
    pub(crate) paths: Vec<String>,
}

/// Reads a message. `outer` is where it stands in the request, empty or with a dot at the end.
///
/// # Errors
/// It is not JSON, has a field the message lacks, or a value of the wrong type.
pub(crate) fn parse(
    text: &[u8],
    message: &MessageDescriptor,
    outer: &str,
) -> Result<Parsed, Error> {
    let json: serde_json::Value = serde_json::from_slice(text)
        .map_err(|e| Error::invalid("body", format!("is not JSON: {e}")))?;
    let mut walk = Walk {
        outer,
        paths: Vec::new(),
    };
    walk.message(&json, message, "")?;
    let paths = walk.paths;
    let message = deserialize(message, json).map_err(|e| Error::invalid("body", e))?;
    Ok(Parsed { message, paths })
}

fn deserialize(
    message: &MessageDescriptor,
    json: serde_json::Value,
) -> Result<DynamicMessage, serde_json::Error> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(message.clone(), json, &options)
}

/// Looks at every field by itself first, so that an error can say which one it is.
struct Walk<'a> {
    outer: &'a str,
    paths: Vec<String>,
}

impl Walk<'_> {
    fn wrong(&self, path: &str, why: impl std::fmt::Display) -> Error {
        let path = format!("{}{path}", self.outer);
        let path = path.trim_end_matches('.');
        Error::invalid(if path.is_empty() { "body" } else { path }, why)
    }

    fn message(
        &mut self,
        json: &serde_json::Value,
        message: &MessageDescriptor,
        prefix: &str,
    ) -> Result<(), Error> {
        let Some(object) = json.as_object() else {
            return Err(self.wrong(prefix, "must be a JSON object"));
        };
        let mut seen = HashSet::new();
        for (key, value) in object {
            let field = message.get_field_by_json_name(key);
            let Some(field) = field.or_else(|| message.get_field_by_name(key)) else {
                let why = format!("is not a field of {}", message.name());
                return Err(self.wrong(&format!("{prefix}{key}"), why));
            };
            let path = format!("{prefix}{}", field.name());
            // Both spellings of one field, or two members of one oneof.
            let place = field
                .containing_oneof()
                .map_or_else(|| field.name().to_owned(), |oneof| oneof.name().to_owned());
            if !value.is_null() && !seen.insert(place) {
                return Err(self.wrong(&path, "is given twice, or beside what excludes it"));
            }
            self.field(value, &field, &path)?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        json: &serde_json::Value,
        field: &FieldDescriptor,
        path: &str,
    ) -> Result<(), Error> {
        let inner = plain(field);
        match (json, inner) {
            (serde_json::Value::Object(object), Some(inner)) if !field.is_list() => {
                if object.is_empty() {
                    self.paths.push(path.to_owned());
                }
                return self.message(json, &inner, &format!("{path}."));
            }
            (serde_json::Value::Array(items), Some(inner)) if field.is_list() => {
                // A mask takes a list as a whole, so what is inside adds no paths.
                let before = self.paths.len();
                for (i, item) in items.iter().enumerate() {
                    self.message(item, &inner, &format!("{path}[{i}]."))?;
                }
                self.paths.truncate(before);
            }
            _ => self.value(json, field, path)?,
        }
        self.paths.push(path.to_owned());
        Ok(())
    }

    fn value(
        &self,
        json: &serde_json::Value,
        field: &FieldDescriptor,
        path: &str,
    ) -> Result<(), Error> {
        let single = serde_json::json!({ field.json_name(): json });
        match deserialize(field.parent_message(), single) {
            Ok(_) => Ok(()),
            // The error repeats the value, which must not happen to a key.
            Err(_) if behavior(field).secret => Err(self.wrong(path, "is not valid base64")),
            Err(e) => Err(self.wrong(path, e)),
        }
    }
}

/// The message type of a field, unless its JSON form is a value (wrappers, times, masks) or a map.
fn plain(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(inner) if !field.is_map() && !is_value(&inner) => Some(inner),
        _ => None,
    }
}

fn is_value(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
}

/// A field's value from the text of a query parameter or a path segment.
///
/// # Errors
/// The texts are not of the field's type; the error text does not name the field.
pub(crate) fn from_text(field: &FieldDescriptor, texts: &[String]) -> Result<Value, String> {
    if let Kind::Message(message) = field.kind()
        && message.full_name() == "google.protobuf.FieldMask"
    {
        let paths = texts
            .iter()
            .flat_map(|t| t.split(','))
            .filter(|p| !p.is_empty());
        let paths = paths.map(|p| Value::String(snake_case(p))).collect();
        let mut mask = DynamicMessage::new(message);
        mask.set_field_by_name("paths", Value::List(paths));
        return Ok(Value::Message(mask));
    }
    let one = |text: &String| match field.kind() {
        Kind::Bool => text
            .parse::<bool>()
            .map_or_else(|_| text.clone().into(), Into::into),
        Kind::Message(m) if m.full_name() == "google.protobuf.BoolValue" => text
            .parse::<bool>()
            .map_or_else(|_| text.clone().into(), Into::into),
        Kind::Enum(_) => text
            .parse::<i32>()
            .map_or_else(|_| text.clone().into(), Into::into),
        _ => serde_json::Value::String(text.clone()),
    };
    let json = match (field.is_list(), texts) {
        (true, _) => texts.iter().map(one).collect(),
        (false, [text]) => one(text),
        (false, _) => return Err("is given more than once".to_owned()),
    };
    let single = serde_json::json!({ field.json_name(): json });
    let message = deserialize(field.parent_message(), single).map_err(|e| {
        if behavior(field).secret {
            "is not valid base64".to_owned()
        } else {
            e.to_string()
        }
    })?;
    Ok(message.get_field(field).into_owned())
}

/// `blockSize` is `block_size`; what is in snake case already stays.
fn snake_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Writes a message: camel case, fields that are not set included, 64-bit numbers as text.
pub(crate) fn print(message: &DynamicMessage) -> Vec<u8> {
    serde_json::to_vec(&Json(message)).expect("every message of ours has a JSON form")
}

/// A message on its way to JSON, in order of declaration.
pub(crate) struct Json<'a>(pub(crate) &'a DynamicMessage);

struct JsonValue<'a>(&'a Value, Kind);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        if is_value(&message.descriptor()) {
            return message.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        for field in message.descriptor().fields() {
            let name = field.json_name();
            if message.has_field(&field) || !field.supports_presence() {
                let value = message.get_field(&field);
                map.serialize_entry(name, &JsonField(&value, &field))?;
            } else if field.containing_oneof().is_none() {
                // As grpc-gateway shows a message that is not set.
                map.serialize_entry(name, &())?;
            }
        }
        map.end()
    }
}

struct JsonField<'a>(&'a Value, &'a FieldDescriptor);

impl Serialize for JsonField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.1.kind();
        match self.0 {
            Value::List(items) => {
                serializer.collect_seq(items.iter().map(|item| JsonValue(item, kind.clone())))
            }
            Value::Map(entries) => {
                let Kind::Message(entry) = kind else {
                    return Err(S::Error::custom("a map without an entry type"));
                };
                let value = entry.map_entry_value_field().kind();
                serializer.collect_map(
                    entries
                        .iter()
                        .map(|(k, v)| (map_key(k), JsonValue(v, value.clone()))),
                )
            }
            value => JsonValue(value, kind).serialize(serializer),
        }
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}

impl Serialize for JsonValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(v) => serializer.serialize_bool(*v),
            Value::I32(v) => serializer.serialize_i32(*v),
            Value::U32(v) => serializer.serialize_u32(*v),
            Value::I64(v) => serializer.collect_str(v),
            Value::U64(v) => serializer.collect_str(v),
            Value::F32(v) => serializer.serialize_f32(*v),
            Value::F64(v) => serializer.serialize_f64(*v),
            Value::String(v) => serializer.serialize_str(v),
            Value::Bytes(bytes) => {
                // The wrapper has the same JSON form as the field.
                let wrapper = api::pool().get_message_by_name("google.protobuf.BytesValue");
                let mut wrapper = DynamicMessage::new(wrapper.expect("wrappers.proto is imported"));
                wrapper.set_field_by_name("value", Value::Bytes(bytes.clone()));
                wrapper.serialize(serializer)
            }
            Value::EnumNumber(number) => {
                let value = self.1.as_enum().and_then(|e| e.get_value(*number));
                match value {
                    Some(value) => serializer.serialize_str(value.name()),
                    None => serializer.serialize_i32(*number),
                }
            }
            Value::Message(message) => Json(message).serialize(serializer),
            Value::List(_) | Value::Map(_) => Err(S::Error::custom("a list inside a list")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::fields::{from_dynamic, to_dynamic};
    use api::storage::v1::{
        FabricsEndpoint, NullVolume, NvmeController, NvmeControllerSpec, NvmeSubsystem,
        NvmeSubsystemSpec, VirtioBlk, nvme_controller_spec::Endpoint,
    };

    fn read<R: api::Resource>(text: &str) -> Result<(R, Vec<String>), Error> {
        let parsed = parse(text.as_bytes(), &api::kinds::of::<R>().message, "")?;
        Ok((from_dynamic(&parsed.message).unwrap(), parsed.paths))
    }

    fn wrong<R: api::Resource>(text: &str) -> (String, String) {
        let error = read::<R>(text).map(|_| ()).unwrap_err();
        (error.field.unwrap(), error.message)
    }

    #[test]
    fn both_spellings_and_numbers_as_text_are_read() {
        for text in [
            r#"{"blockSize": 512, "blocksCount": "64"}"#,
            r#"{"block_size": "512", "blocks_count": 64}"#,
        ] {
            let (volume, paths) = read::<NullVolume>(text).unwrap();
            assert_eq!((volume.block_size, volume.blocks_count), (512, 64));
            assert_eq!(paths, ["block_size", "blocks_count"]);
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_path() {
        let (field, message) = wrong::<NvmeSubsystem>(r#"{"spec": {"nqnn": "x"}}"#);
        assert_eq!(field, "spec.nqnn");
        assert_eq!(message, "spec.nqnn: is not a field of NvmeSubsystemSpec");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_path() {
        assert_eq!(
            wrong::<NullVolume>(r#"{"blockSize": "many"}"#).0,
            "block_size"
        );
        assert_eq!(
            wrong::<NullVolume>(r#"{"blockSize": 1e30}"#).0,
            "block_size"
        );
        assert_eq!(wrong::<NullVolume>(r#"{"uuid": 7}"#).0, "uuid");
        assert_eq!(wrong::<NvmeSubsystem>(r#"{"spec": 7}"#).0, "spec");
        let text = r#"{"spec": {"trtype": "CARRIER_PIGEON"}}"#;
        assert_eq!(wrong::<NvmeController>(text).0, "spec.trtype");
        assert_eq!(wrong::<NullVolume>("[]").0, "body");
        assert_eq!(wrong::<NullVolume>("{").0, "body");
    }

    #[test]
    fn a_wrong_key_is_not_repeated() {
        let (field, message) = wrong::<NvmeSubsystem>(r#"{"spec": {"psk": "my!secret"}}"#);
        assert_eq!(field, "spec.psk");
        assert!(!message.contains("my!secret"), "{message}");
    }

    #[test]
    fn one_field_in_two_spellings_is_refused_and_so_are_two_members_of_a_oneof() {
        assert_eq!(
            wrong::<NullVolume>(r#"{"block_size": 1, "blockSize": 2}"#).0,
            "block_size"
        );
        let text = r#"{"spec": {"pcieId": {}, "fabricsId": {}}}"#;
        assert_eq!(wrong::<NvmeController>(text).0, "spec.pcie_id");
    }

    #[test]
    fn the_paths_reach_down_to_values() {
        let text = r#"{"spec": {"nqn": "a", "maxNamespaces": null}, "status": {}}"#;
        let (_, paths) = read::<NvmeSubsystem>(text).unwrap();
        assert_eq!(paths, ["spec.max_namespaces", "spec.nqn", "status"]);
        let (_, paths) = read::<VirtioBlk>(r#"{"pcieId": {"portId": 0}}"#).unwrap();
        assert_eq!(paths, ["pcie_id.port_id"]);
    }

    #[test]
    fn defaults_are_written_and_unset_messages_are_null() {
        let subsystem = NvmeSubsystem {
            name: "nvmeSubsystems/s".to_owned(),
            spec: Some(NvmeSubsystemSpec {
                max_namespaces: 7,
                ..Default::default()
            }),
            status: None,
        };
        let text = String::from_utf8(print(&to_dynamic(&subsystem))).unwrap();
        let expected = concat!(
            r#"{"name":"nvmeSubsystems/s","spec":{"nqn":"","serialNumber":"","modelNumber":"","#,
            r#""maxNamespaces":"7","hostnqn":"","psk":""},"status":null}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn members_of_a_oneof_and_optional_fields_appear_only_when_set() {
        let endpoint = FabricsEndpoint {
            adrfam: 2,
            ..Default::default()
        };
        let spec = NvmeControllerSpec {
            trtype: 4,
            endpoint: Some(Endpoint::FabricsId(endpoint)),
            ..Default::default()
        };
        let controller = NvmeController {
            spec: Some(spec),
            ..Default::default()
        };
        let text = String::from_utf8(print(&to_dynamic(&controller))).unwrap();
        assert!(
            text.contains(r#""trtype":"NVME_TRANSPORT_TYPE_TCP","fabricsId":{"#),
            "{text}"
        );
        assert!(
            text.contains(r#""adrfam":"NVME_ADDRESS_FAMILY_IPV6""#),
            "{text}"
        );
        assert!(
            !text.contains("pcieId") && !text.contains("nvmeControllerId"),
            "{text}"
        );
        let back = read::<NvmeController>(&text).unwrap().0;
        assert_eq!(back, controller);
    }

    #[test]
    fn a_mask_may_be_written_in_both_spellings() {
        let method = "opi_api.storage.v1.UpdateNullVolumeRequest";
        let request = api::pool().get_message_by_name(method).unwrap();
        let field = request.get_field_by_name("update_mask").unwrap();
        let value = from_text(&field, &["blockSize,spec.blocks_count".to_owned()]).unwrap();
        let text = format!("{value:?}");
        assert!(
            text.contains("\"block_size\"") && text.contains("\"spec.blocks_count\""),
            "{text}"
        );
    }
}
