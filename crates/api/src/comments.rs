//! The comments of the `.proto` files, for everything that documents itself: OpenAPI, the client's
//! help, the reference.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

/// By file, then by the path of the element in its `FileDescriptorProto`.
type Table = HashMap<String, HashMap<Vec<i32>, String>>;

/// What a message is; empty for messages of other projects.
pub fn message(of: &MessageDescriptor) -> &'static str {
    find(&of.parent_file(), of.path())
}

/// What a field holds.
pub fn field(of: &FieldDescriptor) -> &'static str {
    find(&of.parent_message().parent_file(), of.path())
}

/// What an enum chooses.
pub fn enumeration(of: &EnumDescriptor) -> &'static str {
    find(&of.parent_file(), of.path())
}

/// What a value of an enum means.
pub fn value(of: &EnumValueDescriptor) -> &'static str {
    find(&of.parent_enum().parent_file(), of.path())
}

/// What a service is for.
pub fn service(of: &ServiceDescriptor) -> &'static str {
    find(&of.parent_file(), of.path())
}

/// What a method does.
pub fn method(of: &MethodDescriptor) -> &'static str {
    find(&of.parent_service().parent_file(), of.path())
}

fn find(file: &FileDescriptor, path: &[i32]) -> &'static str {
    static TABLE: OnceLock<Table> = OnceLock::new();
    let table = TABLE.get_or_init(read);
    table
        .get(file.name())
        .and_then(|f| f.get(path))
        .map_or("", String::as_str)
}

fn read() -> Table {
    let mut table = Table::new();
    for file in crate::pool().files() {
        let Some(info) = &file.file_descriptor_proto().source_code_info else {
            continue;
        };
        let comments = info
            .location
            .iter()
            .filter(|l| l.leading_comments.is_some());
        let comments = comments.map(|l| (l.path.clone(), unwrap(l.leading_comments())));
        table.insert(file.name().to_owned(), comments.collect());
    }
    table
}

/// Joins the lines of a paragraph; an empty line between two paragraphs stays.
fn unwrap(comment: &str) -> String {
    let paragraphs = comment
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sort_of_element_has_its_comment() {
        let pool = crate::pool();
        let volume = pool
            .get_message_by_name("opi_api.storage.v1.NullVolume")
            .unwrap();
        assert!(message(&volume).starts_with("A volume without a store"));
        let size = volume.get_field_by_name("block_size").unwrap();
        assert!(field(&size).starts_with("Bytes of a logical block"));
        let status = pool
            .get_enum_by_name("opi_api.storage.v1.NvmeNamespaceStatus.State")
            .unwrap();
        assert_eq!(enumeration(&status), "Administrative state.");
        assert_eq!(value(&status.get_value(2).unwrap()), "Shown to hosts.");
        let null = pool
            .get_service_by_name("opi_api.storage.v1.NullVolumeService")
            .unwrap();
        assert_eq!(service(&null), "Volumes that store nothing.");
        assert!(method(&null.methods().next().unwrap()).starts_with("Makes a volume"));
    }

    #[test]
    fn lines_are_joined_and_paragraphs_kept() {
        assert_eq!(
            unwrap(" One line\n and more.\n\n Another.\n"),
            "One line and more.\n\nAnother."
        );
    }
}
