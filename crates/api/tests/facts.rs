//! The descriptors against the tables in `proto/facts`, in both directions: all that the tables
//! say is there, and nothing else is.

#![expect(
    clippy::unwrap_used,
    reason = "a missing piece fails the test that looks for it"
)]

use std::collections::BTreeSet;

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind,
    MessageDescriptor, MethodDescriptor, Value,
};

const STORAGE: &str = "opi_api.storage.v1";
const INVENTORY: &str = "opi_api.inventory.v1";

type Rows = BTreeSet<Vec<String>>;

/// The rows of a table, short ones filled up with empty cells.
fn table(text: &str) -> Rows {
    let mut lines = text.lines();
    let columns = lines
        .next()
        .expect("a table has a head")
        .split('\t')
        .count();
    let row = |line: &str| {
        let mut cells: Vec<String> = line.split('\t').map(str::to_owned).collect();
        assert!(cells.len() <= columns, "{line}");
        cells.resize(columns, String::new());
        cells
    };
    lines.map(row).collect()
}

fn compare(found: &Rows, expected: &Rows) {
    let missing: Vec<_> = expected.difference(found).collect();
    let extra: Vec<_> = found.difference(expected).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing {missing:#?}, extra {extra:#?}"
    );
    assert!(!expected.is_empty());
}

fn pool() -> &'static DescriptorPool {
    api::pool()
}

fn option(options: &DynamicMessage, name: &str) -> Option<Value> {
    let extension = pool().get_extension_by_name(name).unwrap();
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).into_owned())
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message
        .get_field_by_name(field)
        .unwrap()
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// `opi_api/storage/v1/backend_aio.proto` is `storage/backend_aio.proto` in the tables.
fn file(path: &str) -> String {
    let parts: Vec<_> = path.split('/').collect();
    format!("{}/{}", parts[1], parts[3])
}

fn messages(package: &str) -> Vec<MessageDescriptor> {
    let found = pool()
        .all_messages()
        .filter(|m| m.package_name() == package && !m.is_map_entry());
    found.collect()
}

fn relative(full_name: &str, package: &str) -> String {
    full_name
        .strip_prefix(&format!("{package}."))
        .unwrap_or(full_name)
        .to_owned()
}

fn type_of(field: &FieldDescriptor, package: &str) -> String {
    match field.kind() {
        Kind::Message(m) => relative(m.full_name(), package),
        Kind::Enum(e) => relative(e.full_name(), package),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn label(field: &FieldDescriptor) -> &'static str {
    match field.cardinality() {
        Cardinality::Repeated => "repeated",
        Cardinality::Required => "required",
        _ if field.field_descriptor_proto().proto3_optional() => "optional",
        Cardinality::Optional => "",
    }
}

fn behaviors(field: &FieldDescriptor) -> String {
    let names = pool().get_enum_by_name("google.api.FieldBehavior").unwrap();
    let value = option(&field.options(), "google.api.field_behavior");
    let numbers = value.as_ref().and_then(Value::as_list).unwrap_or_default();
    let name = |v: &Value| {
        names
            .get_value(v.as_enum_number().unwrap())
            .unwrap()
            .name()
            .to_owned()
    };
    numbers.iter().map(name).collect::<Vec<_>>().join(",")
}

fn reference(field: &FieldDescriptor) -> String {
    let Some(value) = option(&field.options(), "google.api.resource_reference") else {
        return String::new();
    };
    let reference = value.as_message().unwrap();
    match (text(reference, "type"), text(reference, "child_type")) {
        (named, child) if child.is_empty() => named,
        (named, child) => {
            assert!(named.is_empty(), "{}", field.full_name());
            format!("child:{child}")
        }
    }
}

fn message_rows(package: &str) -> Rows {
    let row = |message: &MessageDescriptor, field: FieldDescriptor| {
        let real = field
            .containing_oneof()
            .filter(|_| label(&field) != "optional");
        vec![
            file(message.parent_file().name()),
            relative(message.full_name(), package),
            field.name().to_owned(),
            field.number().to_string(),
            label(&field).to_owned(),
            type_of(&field, package),
            real.map(|o| o.name().to_owned()).unwrap_or_default(),
            behaviors(&field),
            reference(&field),
        ]
    };
    let rows = |m: MessageDescriptor| m.fields().map(|f| row(&m, f)).collect::<Vec<_>>();
    messages(package).into_iter().flat_map(rows).collect()
}

fn method_row(method: &MethodDescriptor, package: &str) -> Vec<String> {
    assert!(!method.is_client_streaming() && !method.is_server_streaming());
    let rule = option(&method.options(), "google.api.http").unwrap();
    let rule = rule.as_message().unwrap();
    let verb = ["get", "put", "post", "delete", "patch"]
        .into_iter()
        .find(|v| !text(rule, v).is_empty())
        .unwrap();
    let more = rule
        .get_field_by_name("additional_bindings")
        .unwrap()
        .into_owned();
    assert!(more.as_list().unwrap().is_empty() && text(rule, "response_body").is_empty());
    let signature = option(&method.options(), "google.api.method_signature");
    let signatures = signature
        .as_ref()
        .and_then(Value::as_list)
        .unwrap_or_default();
    assert!(signatures.len() <= 1);
    vec![
        file(method.parent_file().name()),
        method.parent_service().name().to_owned(),
        method.name().to_owned(),
        relative(method.input().full_name(), package),
        relative(method.output().full_name(), package),
        verb.to_uppercase(),
        text(rule, verb),
        text(rule, "body"),
        signatures
            .first()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    ]
}

fn method_rows(package: &str) -> Rows {
    let services = pool().services().filter(|s| s.package_name() == package);
    services
        .flat_map(|s| s.methods().collect::<Vec<_>>())
        .map(|m| method_row(&m, package))
        .collect()
}

fn enum_rows(package: &str) -> Rows {
    let row = |e: &EnumDescriptor, name: &str, number: i32| {
        vec![
            file(e.parent_file().name()),
            relative(e.full_name(), package),
            name.to_owned(),
            number.to_string(),
        ]
    };
    let enums = pool().all_enums().filter(|e| e.package_name() == package);
    enums
        .flat_map(|e| {
            e.values()
                .map(|v| row(&e, v.name(), v.number()))
                .collect::<Vec<_>>()
        })
        .collect()
}

fn resource_rows(package: &str) -> Rows {
    let row = |message: MessageDescriptor| {
        let value = option(&message.options(), "google.api.resource")?;
        let resource = value.as_message()?;
        let patterns = resource.get_field_by_name("pattern")?.into_owned();
        assert_eq!(patterns.as_list()?.len(), 1);
        Some(vec![
            message.name().to_owned(),
            text(resource, "type"),
            patterns.as_list()?[0].as_str()?.to_owned(),
            text(resource, "singular"),
            text(resource, "plural"),
        ])
    };
    messages(package).into_iter().filter_map(row).collect()
}

#[test]
fn storage_messages_are_those_of_the_table() {
    let expected = table(include_str!("../../../proto/facts/storage/messages.tsv"));
    compare(&message_rows(STORAGE), &expected);
    // A message without fields would have no row.
    assert!(messages(STORAGE).iter().all(|m| m.fields().len() > 0));
}

#[test]
fn storage_methods_are_those_of_the_table() {
    let expected = table(include_str!("../../../proto/facts/storage/services.tsv"));
    assert_eq!(expected.len(), 87);
    compare(&method_rows(STORAGE), &expected);
}

#[test]
fn storage_enums_are_those_of_the_table() {
    compare(
        &enum_rows(STORAGE),
        &table(include_str!("../../../proto/facts/storage/enums.tsv")),
    );
}

#[test]
fn storage_resources_are_those_of_the_table() {
    let expected = table(include_str!("../../../proto/facts/storage/resources.tsv"));
    compare(&resource_rows(STORAGE), &expected);
}

#[test]
fn the_inventory_is_that_of_the_tables() {
    let expected = table(include_str!("../../../proto/facts/inventory/messages.tsv"));
    compare(&message_rows(INVENTORY), &expected);
    let expected = table(include_str!("../../../proto/facts/inventory/services.tsv"));
    compare(&method_rows(INVENTORY), &expected);
    assert!(enum_rows(INVENTORY).is_empty() && resource_rows(INVENTORY).is_empty());
}

#[test]
fn the_opi_packages_hold_nothing_beside_the_tables() {
    let known = [STORAGE, INVENTORY];
    for package in pool().files().map(|f| f.package_name().to_owned()) {
        assert!(
            !package.starts_with("opi_api.") || known.contains(&&*package),
            "{package}"
        );
    }
}

#[test]
fn extensions_have_their_public_numbers() {
    for (name, on, number) in [
        ("http", "MethodOptions", 72_295_728),
        ("method_signature", "MethodOptions", 1051),
        ("default_host", "ServiceOptions", 1049),
        ("oauth_scopes", "ServiceOptions", 1050),
        ("field_behavior", "FieldOptions", 1052),
        ("resource_reference", "FieldOptions", 1055),
        ("resource_definition", "FileOptions", 1053),
        ("resource", "MessageOptions", 1053),
    ] {
        let extension = pool()
            .get_extension_by_name(&format!("google.api.{name}"))
            .unwrap();
        assert_eq!(extension.number(), number, "{name}");
        let containing = extension.containing_message();
        assert_eq!(containing.full_name(), format!("google.protobuf.{on}"));
    }
}

#[test]
fn every_element_has_a_comment() {
    let mut bare = Vec::new();
    for file in pool().files() {
        if file.package_name() == "google.protobuf" {
            continue;
        }
        let proto = file.file_descriptor_proto();
        let info = proto
            .source_code_info
            .as_ref()
            .expect("build.rs keeps source info");
        for location in &info.location {
            // Messages, fields, enums, values, services, methods (descriptor.proto numbers).
            let element = matches!(
                location.path[..],
                [4, _] | [4, _, 2, _] | [5, _] | [5, _, 2, _] | [6, _] | [6, _, 2, _]
            );
            if element && location.leading_comments().trim().is_empty() {
                bare.push(format!("{} {:?}", file.name(), location.path));
            }
        }
    }
    assert!(bare.is_empty(), "{bare:#?}");
}
