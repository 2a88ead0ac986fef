//! What the field annotations demand, done to any message: required fields (AIP-203), output-only
//! fields, and secrets.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind as FieldKind, MessageDescriptor, ReflectMessage as _,
    Value,
};
use std::collections::HashMap;
use std::sync::OnceLock;

use crate::error::Error;
use crate::{Resource, kinds};

/// Fields that hold keys. OPI declares them as plain bytes, so they are listed here, by full name.
const SECRETS: [&str; 3] = [
    "opi_api.storage.v1.EncryptedVolume.key",
    "opi_api.storage.v1.NvmeSubsystemSpec.psk",
    "opi_api.storage.v1.TcpController.psk",
];
/// What stands in a log where a secret was.
const REDACTED: &str = "[redacted]";

/// What `google.api.field_behavior` says about a field, as far as the server acts on it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Behavior {
    /// REQUIRED.
    pub required: bool,
    /// OUTPUT_ONLY.
    pub output_only: bool,
    /// IMMUTABLE.
    pub immutable: bool,
    /// IDENTIFIER.
    pub identifier: bool,
    /// INPUT_ONLY, or a key in one of OPI's messages.
    pub secret: bool,
}

/// The behavior of a field; nothing for fields without annotation.
pub fn behavior(field: &FieldDescriptor) -> Behavior {
    static TABLE: OnceLock<HashMap<String, Behavior>> = OnceLock::new();
    let read = || {
        let fields = crate::pool()
            .all_messages()
            .flat_map(|m| m.fields().collect::<Vec<_>>());
        fields
            .map(|f| (f.full_name().to_owned(), read_behavior(&f)))
            .collect()
    };
    TABLE
        .get_or_init(read)
        .get(field.full_name())
        .copied()
        .unwrap_or_default()
}

fn read_behavior(field: &FieldDescriptor) -> Behavior {
    let value = kinds::option(crate::pool(), &field.options(), "google.api.field_behavior");
    let numbers = value.as_ref().and_then(Value::as_list).unwrap_or_default();
    // The numbers of google/api/field_behavior.proto.
    let has = |number: i32| numbers.iter().any(|v| v.as_enum_number() == Some(number));
    Behavior {
        required: has(2),
        output_only: has(3),
        immutable: has(5),
        identifier: has(8),
        secret: has(4) || SECRETS.contains(&field.full_name()),
    }
}

/// Checks that every REQUIRED field is set, in the message and in all messages inside it.
///
/// A scalar is set when it is not zero; a message, a wrapper or an `optional` scalar when it is
/// there.
///
/// # Errors
/// The first field found missing, with its path.
pub fn check_required(message: &DynamicMessage) -> Result<(), Error> {
    check_required_fields(message, true, "")
}

/// The same for the fields of the message itself only: for updates, where the resource inside may
/// be partial.
///
/// # Errors
/// The first field found missing.
pub fn check_required_shallow(message: &DynamicMessage) -> Result<(), Error> {
    check_required_fields(message, false, "")
}

fn check_required_fields(message: &DynamicMessage, deep: bool, prefix: &str) -> Result<(), Error> {
    for field in message.descriptor().fields() {
        let set = message.has_field(&field);
        let path = format!("{prefix}{}", field.name());
        if behavior(&field).required && !set {
            return Err(Error::invalid(path, "is required"));
        }
        if !set || !deep {
            continue;
        }
        match &*message.get_field(&field) {
            Value::Message(inner) => check_required_fields(inner, deep, &format!("{path}."))?,
            Value::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        check_required_fields(inner, deep, &format!("{path}[{i}]."))?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Clears every OUTPUT_ONLY field: what a client sends there is dropped.
pub fn clear_output_only(message: &mut DynamicMessage) {
    clear(message, |b| b.output_only);
}

/// Clears every secret, so that none comes back in a reply.
pub fn clear_secrets(message: &mut DynamicMessage) {
    clear(message, |b| b.secret);
}

fn clear(message: &mut DynamicMessage, doomed: fn(Behavior) -> bool) {
    for_each(message, &mut |message, field| {
        if doomed(behavior(field)) {
            message.clear_field(field);
        }
    });
}

/// A copy that can be logged: every secret that is set is replaced by a note.
#[must_use]
pub fn redact(message: &DynamicMessage) -> DynamicMessage {
    let mut copy = message.clone();
    for_each(&mut copy, &mut |message, field| {
        if !behavior(field).secret {
            return;
        }
        match field.kind() {
            FieldKind::Bytes if !field.is_list() => {
                message.set_field(field, Value::Bytes(REDACTED.as_bytes().into()));
            }
            FieldKind::String if !field.is_list() => {
                message.set_field(field, Value::String(REDACTED.to_owned()));
            }
            _ => message.clear_field(field),
        }
    });
    copy
}

/// Calls `act` for every field that is set, outer messages first.
fn for_each(
    message: &mut DynamicMessage,
    act: &mut dyn FnMut(&mut DynamicMessage, &FieldDescriptor),
) {
    for field in message.descriptor().fields() {
        if !message.has_field(&field) {
            continue;
        }
        act(message, &field);
        if !message.has_field(&field) || field.kind().as_message().is_none() {
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => for_each(inner, act),
            Value::List(items) => {
                for item in items {
                    if let Value::Message(inner) = item {
                        for_each(inner, act);
                    }
                }
            }
            Value::Map(entries) => {
                for value in entries.values_mut() {
                    if let Value::Message(inner) = value {
                        for_each(inner, act);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The paths of all secrets a message can hold, as in `spec.psk`. Lists and maps hold none.
pub fn secret_paths(message: &MessageDescriptor) -> Vec<String> {
    let mut found = Vec::new();
    for field in message.fields() {
        if behavior(&field).secret {
            found.push(field.name().to_owned());
        } else if let FieldKind::Message(inner) = field.kind()
            && !field.is_list()
            && !field.is_map()
            && !is_well_known(&inner)
        {
            let inner = secret_paths(&inner);
            found.extend(
                inner
                    .into_iter()
                    .map(|path| format!("{}.{path}", field.name())),
            );
        }
    }
    found
}

/// Takes every secret that is set out of the message, with its path.
pub fn take_secrets(message: &mut DynamicMessage) -> Vec<(String, Vec<u8>)> {
    let mut taken = Vec::new();
    for path in secret_paths(&message.descriptor()) {
        let Some((holder, field)) = find(message, &path) else {
            continue;
        };
        let bytes = match &*holder.get_field(&field) {
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::String(text) => text.clone().into_bytes(),
            _ => continue,
        };
        holder.clear_field(&field);
        taken.push((path, bytes));
    }
    taken
}

/// Puts a secret back where [`take_secrets`] found it.
///
/// # Errors
/// The message has no secret there.
pub fn put_secret(message: &mut DynamicMessage, path: &str, secret: &[u8]) -> Result<(), Error> {
    let wrong = || Error::invalid(path, "does not hold a secret");
    let (parents, last) = path
        .rsplit_once('.')
        .map_or((None, path), |(p, l)| (Some(p), l));
    let mut at = message;
    for name in parents.into_iter().flat_map(|p| p.split('.')) {
        let field = at.descriptor().get_field_by_name(name).ok_or_else(wrong)?;
        at = at
            .get_field_mut(&field)
            .as_message_mut()
            .ok_or_else(wrong)?;
    }
    let field = at.descriptor().get_field_by_name(last).ok_or_else(wrong)?;
    let value = match field.kind() {
        _ if !behavior(&field).secret => return Err(wrong()),
        FieldKind::Bytes => Value::Bytes(secret.to_vec().into()),
        FieldKind::String => {
            Value::String(String::from_utf8(secret.to_vec()).map_err(|_| wrong())?)
        }
        _ => return Err(wrong()),
    };
    at.set_field(&field, value);
    Ok(())
}

/// The message that holds the field of a path, if it and all on the way are set.
fn find<'a>(
    message: &'a mut DynamicMessage,
    path: &str,
) -> Option<(&'a mut DynamicMessage, FieldDescriptor)> {
    match path.split_once('.') {
        None => {
            let field = message.descriptor().get_field_by_name(path)?;
            message.has_field(&field).then_some((message, field))
        }
        Some((head, rest)) => {
            let field = message.descriptor().get_field_by_name(head)?;
            if !message.has_field(&field) {
                return None;
            }
            find(message.get_field_mut(&field).as_message_mut()?, rest)
        }
    }
}

/// Whether it is one of `google.protobuf`, which count as single values: wrappers, times, masks.
pub(crate) fn is_well_known(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
}

/// A generated message in its reflective form.
pub fn to_dynamic<R: Resource>(message: &R) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(kinds::of::<R>().message.clone());
    dynamic
        .transcode_from(message)
        .expect("the type was generated from this descriptor");
    dynamic
}

/// A reflective message as the generated type.
///
/// # Errors
/// The message is of another type.
pub fn from_dynamic<R: Resource>(message: &DynamicMessage) -> Result<R, prost::DecodeError> {
    message.transcode_to()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::v1::{
        EncryptedVolume, FabricsEndpoint, NvmeController, NvmeControllerSpec, NvmeSubsystem,
        NvmeSubsystemSpec, NvmeSubsystemStatus, PciEndpoint, VirtioBlk,
        nvme_controller_spec::Endpoint,
    };

    fn subsystem() -> NvmeSubsystem {
        NvmeSubsystem {
            name: "nvmeSubsystems/s".to_owned(),
            spec: Some(NvmeSubsystemSpec {
                nqn: "nqn.2024-01.org.example:s".to_owned(),
                psk: b"key".to_vec(),
                ..Default::default()
            }),
            status: Some(NvmeSubsystemStatus::default()),
        }
    }

    #[test]
    fn a_missing_field_is_named_with_its_path() {
        let missing = NvmeSubsystem {
            spec: Some(NvmeSubsystemSpec::default()),
            ..subsystem()
        };
        let error = check_required(&to_dynamic(&missing)).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("spec.nqn"));
        assert_eq!(error.message, "spec.nqn: is required");
        let error = check_required(&to_dynamic(&NvmeSubsystem::default())).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("spec"));
        assert!(check_required(&to_dynamic(&subsystem())).is_ok());
    }

    #[test]
    fn a_missing_field_inside_a_oneof_member_is_found() {
        let endpoint = FabricsEndpoint {
            traddr: "::1".to_owned(),
            ..Default::default()
        };
        let controller = NvmeController {
            spec: Some(NvmeControllerSpec {
                trtype: 4,
                endpoint: Some(Endpoint::FabricsId(endpoint)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let error = check_required(&to_dynamic(&controller)).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("spec.fabrics_id.trsvcid"));
    }

    #[test]
    fn a_wrapper_that_holds_zero_is_set() {
        let pcie = PciEndpoint {
            port_id: Some(0),
            physical_function: Some(0),
            virtual_function: Some(0),
        };
        let blk = VirtioBlk {
            pcie_id: Some(pcie),
            volume_name_ref: "m0".to_owned(),
            ..Default::default()
        };
        assert!(check_required(&to_dynamic(&blk)).is_ok());
        let blk = VirtioBlk {
            pcie_id: Some(PciEndpoint::default()),
            ..blk
        };
        let error = check_required(&to_dynamic(&blk)).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("pcie_id.port_id"));
    }

    #[test]
    fn a_shallow_check_does_not_look_inside() {
        let missing = NvmeSubsystem {
            spec: Some(NvmeSubsystemSpec::default()),
            ..subsystem()
        };
        assert!(check_required_shallow(&to_dynamic(&missing)).is_ok());
        assert!(check_required_shallow(&to_dynamic(&NvmeSubsystem::default())).is_err());
    }

    #[test]
    fn output_only_fields_are_dropped() {
        let mut message = to_dynamic(&subsystem());
        clear_output_only(&mut message);
        let message: NvmeSubsystem = from_dynamic(&message).unwrap();
        assert_eq!(
            message,
            NvmeSubsystem {
                status: None,
                ..subsystem()
            }
        );
    }

    #[test]
    fn secrets_never_come_back_and_everything_else_does() {
        let mut message = to_dynamic(&subsystem());
        clear_secrets(&mut message);
        let message: NvmeSubsystem = from_dynamic(&message).unwrap();
        let mut expected = subsystem();
        expected.spec.as_mut().unwrap().psk.clear();
        assert_eq!(message, expected);
    }

    #[test]
    fn a_log_shows_that_there_was_a_secret_but_not_which() {
        let text = format!("{:?}", redact(&to_dynamic(&subsystem())));
        assert!(!text.contains("key"), "{text}");
        let message: NvmeSubsystem = from_dynamic(&redact(&to_dynamic(&subsystem()))).unwrap();
        assert_eq!(message.spec.unwrap().psk, REDACTED.as_bytes());
    }

    #[test]
    fn secrets_are_taken_out_and_put_back() {
        let whole = to_dynamic(&subsystem());
        let mut message = whole.clone();
        let secrets = take_secrets(&mut message);
        assert_eq!(secrets, [("spec.psk".to_owned(), b"key".to_vec())]);
        assert_ne!(message, whole);
        for (path, secret) in &secrets {
            put_secret(&mut message, path, secret).unwrap();
        }
        assert_eq!(message, whole);
        assert!(put_secret(&mut message, "spec.nqn", b"x").is_err());
        assert!(put_secret(&mut message, "spec.no", b"x").is_err());
        assert!(take_secrets(&mut to_dynamic(&EncryptedVolume::default())).is_empty());
    }

    #[test]
    fn every_bytes_field_called_key_or_psk_is_a_secret() {
        for message in crate::pool().all_messages() {
            for field in message.fields().filter(|f| f.kind() == FieldKind::Bytes) {
                let expected = ["key", "psk"].contains(&field.name());
                assert_eq!(behavior(&field).secret, expected, "{}", field.full_name());
            }
        }
        let known = |name: &&str| {
            let (message, field) = name.rsplit_once('.').unwrap();
            let message = crate::pool().get_message_by_name(message);
            message.is_some_and(|m| m.get_field_by_name(field).is_some())
        };
        assert!(SECRETS.iter().all(known));
    }
}
