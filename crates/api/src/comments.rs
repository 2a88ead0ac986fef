//! The comments of the `.proto` files, for help texts and reference documents.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

type Comments = HashMap<(String, Vec<i32>), String>;

fn lookup(file: &FileDescriptor, path: &[i32]) -> &'static str {
    static TABLE: OnceLock<Comments> = OnceLock::new();
    let table = TABLE.get_or_init(read);
    // A lookup key owns its parts; this runs for documents and help only.
    table
        .get(&(file.name().to_owned(), path.to_vec()))
        .map_or("", String::as_str)
}

fn read() -> Comments {
    let mut table = Comments::new();
    for file in crate::pool().files() {
        let proto = file.file_descriptor_proto();
        for location in proto
            .source_code_info
            .iter()
            .flat_map(|info| &info.location)
        {
            let text = tidy(location.leading_comments());
            if !text.is_empty() {
                table.insert((file.name().to_owned(), location.path.clone()), text);
            }
        }
    }
    table
}

/// Joins the lines of a paragraph, and keeps paragraphs apart by a blank line.
fn tidy(comment: &str) -> String {
    let lines: Vec<&str> = comment.lines().map(str::trim).collect();
    let paragraphs = lines
        .split(|line| line.is_empty())
        .map(|lines| lines.join(" "));
    paragraphs
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// What stands above a field; empty without a comment.
pub fn of_field(field: &FieldDescriptor) -> &'static str {
    lookup(&field.parent_message().parent_file(), field.path())
}

/// What stands above a message.
pub fn of_message(message: &MessageDescriptor) -> &'static str {
    lookup(&message.parent_file(), message.path())
}

/// What stands above a method.
pub fn of_method(method: &MethodDescriptor) -> &'static str {
    lookup(&method.parent_service().parent_file(), method.path())
}

/// What stands above a service.
pub fn of_service(service: &ServiceDescriptor) -> &'static str {
    lookup(&service.parent_file(), service.path())
}

/// What stands above an enumeration.
pub fn of_enum(descriptor: &EnumDescriptor) -> &'static str {
    lookup(&descriptor.parent_file(), descriptor.path())
}

/// What stands above a value of an enumeration.
pub fn of_enum_value(value: &EnumValueDescriptor) -> &'static str {
    lookup(&value.parent_enum().parent_file(), value.path())
}

/// The first sentence of a comment, without its full stop.
pub fn first_sentence(comment: &str) -> &str {
    let paragraph = comment.split("\n\n").next().unwrap_or_default();
    let end = paragraph.find(". ").unwrap_or(paragraph.len());
    paragraph[..end].trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_client_meets_has_a_comment() {
        for kind in crate::kinds::all() {
            assert!(!of_message(&kind.message).is_empty(), "{}", kind.collection);
            for field in kind.message.fields() {
                assert!(!of_field(&field).is_empty(), "{}", field.full_name());
            }
        }
        for method in crate::kinds::methods() {
            assert!(!of_method(&method.descriptor).is_empty(), "{}", method.path);
        }
    }

    #[test]
    fn a_first_sentence_ends_at_its_full_stop() {
        assert_eq!(first_sentence("One. Two.\n\nThree."), "One");
        assert_eq!(first_sentence("Version 1.2 of it."), "Version 1.2 of it");
        assert_eq!(first_sentence(""), "");
    }
}
