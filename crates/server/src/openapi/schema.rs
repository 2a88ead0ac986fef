//! JSON schemas of the messages, as OpenAPI 3.1 components.

use std::collections::{BTreeMap, BTreeSet};

use api::comments;
use api::fields::behavior;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

/// Which form of a message a schema describes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Form {
    /// As it is created and read.
    Whole,
    /// As it is patched: nothing is required.
    Patch,
}

/// Collects the schemas that others refer to.
#[derive(Default)]
pub(crate) struct Schemas {
    done: BTreeMap<String, Value>,
    wanted: BTreeSet<(String, Form)>,
    enums: BTreeMap<String, EnumDescriptor>,
}

impl Schemas {
    /// A reference to a message, which makes it part of the components.
    pub(crate) fn message(&mut self, message: &MessageDescriptor, form: Form) -> Value {
        if let Some(value) = well_known(message.full_name()) {
            return value;
        }
        let name = name(message.full_name(), form);
        if !self.done.contains_key(&name) {
            self.wanted.insert((message.full_name().to_owned(), form));
        }
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }

    /// The schema of a field, with its comment and what its annotations say.
    pub(crate) fn field(&mut self, field: &FieldDescriptor, form: Form) -> Value {
        let one = self.kind(&field.kind(), form);
        let mut schema = match (field.is_map(), field.kind()) {
            (true, Kind::Message(entry)) => {
                let value = self.kind(&entry.map_entry_value_field().kind(), form);
                json!({ "type": "object", "additionalProperties": value })
            }
            _ if field.is_list() => json!({ "type": "array", "items": one }),
            _ => one,
        };
        let object = schema
            .as_object_mut()
            .expect("every schema above is an object");
        let comment = comments::field(field);
        if !comment.is_empty() {
            object.insert("description".to_owned(), comment.into());
        }
        let behavior = behavior(field);
        if behavior.output_only || behavior.identifier {
            object.insert("readOnly".to_owned(), true.into());
        }
        if behavior.secret {
            object.insert("writeOnly".to_owned(), true.into());
        }
        schema
    }

    fn kind(&mut self, kind: &Kind, form: Form) -> Value {
        match kind {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "format": "int32" })
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX })
            }
            // Proto JSON writes 64-bit numbers as text and reads both.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": ["string", "integer"], "format": "int64", "pattern": "^-?[0-9]+$" })
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({ "type": ["string", "integer"], "format": "uint64", "pattern": "^[0-9]+$" })
            }
            Kind::Enum(e) => {
                self.enums.insert(e.full_name().to_owned(), e.clone());
                json!({ "$ref": format!("#/components/schemas/{}", e.full_name()) })
            }
            Kind::Message(message) => self.message(message, form),
        }
    }

    /// All components that were referred to, directly or by others.
    pub(crate) fn finish(mut self) -> Map<String, Value> {
        while let Some((full_name, form)) = self.wanted.pop_first() {
            let message = api::pool().get_message_by_name(&full_name);
            let message = message.expect("it was taken from this pool");
            // Marked first: a message may contain itself.
            self.done.insert(name(&full_name, form), Value::Null);
            let schema = self.object(&message, form);
            self.done.insert(name(&full_name, form), schema);
        }
        let enums = self
            .enums
            .iter()
            .map(|(name, e)| (name.clone(), enumeration(e)));
        enums.chain(self.done).collect()
    }

    fn object(&mut self, message: &MessageDescriptor, form: Form) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields() {
            if behavior(&field).required && form == Form::Whole {
                required.push(field.json_name().to_owned());
            }
            let schema = self.field(&field, form);
            // An unset message is written as null.
            let absent = field
                .kind()
                .as_message()
                .is_some_and(|m| schema_is_ref(m, &field));
            let schema = if absent { nullable(schema) } else { schema };
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        let object = schema.as_object_mut().expect("made as one");
        let comment = comments::message(message);
        if !comment.is_empty() {
            object.insert("description".to_owned(), comment.into());
        }
        if !required.is_empty() {
            object.insert("required".to_owned(), required.into());
        }
        if form == Form::Whole {
            object.insert("title".to_owned(), message.name().into());
        }
        schema
    }
}

/// A single message that is not required: `null` where it is not set.
fn schema_is_ref(message: &MessageDescriptor, field: &FieldDescriptor) -> bool {
    let single = !field.is_list() && !field.is_map() && field.containing_oneof().is_none();
    single && well_known(message.full_name()).is_none() && !behavior(field).required
}

fn nullable(mut schema: Value) -> Value {
    let object = schema.as_object_mut().expect("every schema is an object");
    if let Some(reference) = object.remove("$ref") {
        object.insert(
            "anyOf".to_owned(),
            json!([{ "$ref": reference }, { "type": "null" }]),
        );
    }
    schema
}

fn name(full_name: &str, form: Form) -> String {
    match form {
        Form::Whole => full_name.to_owned(),
        Form::Patch => format!("{full_name}.Patch"),
    }
}

fn enumeration(e: &EnumDescriptor) -> Value {
    let names: Vec<String> = e.values().map(|v| v.name().to_owned()).collect();
    let mut text = comments::enumeration(e).to_owned();
    for value in e.values() {
        text.push_str(&format!(
            "\n- `{}`: {}",
            value.name(),
            comments::value(&value)
        ));
    }
    json!({ "type": "string", "enum": names, "title": e.name(), "description": text })
}

/// The JSON form of the well-known types (the proto3 JSON mapping).
fn well_known(full_name: &str) -> Option<Value> {
    let schema = match full_name.strip_prefix("google.protobuf.")? {
        "Empty" => json!({ "type": "object" }),
        "Timestamp" => json!({ "type": ["string", "null"], "format": "date-time" }),
        "Duration" => json!({ "type": ["string", "null"], "pattern": "^-?[0-9.]+s$" }),
        "FieldMask" => json!({ "type": ["string", "null"] }),
        "Any" => json!({
            "type": "object",
            "properties": { "@type": { "type": "string" } },
            "required": ["@type"],
            "additionalProperties": true
        }),
        "BoolValue" => json!({ "type": ["boolean", "null"] }),
        "StringValue" => json!({ "type": ["string", "null"] }),
        "BytesValue" => json!({ "type": ["string", "null"], "contentEncoding": "base64" }),
        "Int32Value" => json!({ "type": ["integer", "null"], "format": "int32" }),
        "UInt32Value" => json!({ "type": ["integer", "null"], "format": "int64", "minimum": 0 }),
        "Int64Value" | "UInt64Value" => json!({ "type": ["string", "integer", "null"] }),
        "FloatValue" | "DoubleValue" => json!({ "type": ["number", "null"] }),
        _ => json!({}),
    };
    Some(schema)
}
