//! Field masks (AIP-134, AIP-161): which fields of a resource an update changes.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage as _, Value,
};

use crate::error::Error;
use crate::fields::{behavior, is_well_known};
use crate::names::echo;

/// Most paths in one mask: more than the fields of the largest resource.
const PATHS_MAX: usize = 256;

/// A mask that fits its message.
#[derive(Clone, Debug, PartialEq)]
pub enum Mask {
    /// No path: every field that is set in the request (AIP-134).
    Populated,
    /// `*`: full replacement.
    All,
    /// These fields, each from the message down.
    Paths(Vec<Vec<FieldDescriptor>>),
}

impl Mask {
    /// Reads the paths of a `google.protobuf.FieldMask` over `message`. `name` and OUTPUT_ONLY
    /// fields may be named and are left out (AIP-203).
    ///
    /// # Errors
    /// A path names no field of the message, goes through a list or a value, or `*` is not alone.
    /// `field` is what the error names.
    pub fn parse<S: AsRef<str>>(
        paths: &[S],
        message: &MessageDescriptor,
        field: &str,
    ) -> Result<Self, Error> {
        if paths.is_empty() {
            return Ok(Self::Populated);
        }
        if paths.len() > PATHS_MAX {
            let text = format!("has {} paths, at most {PATHS_MAX} may be", paths.len());
            return Err(Error::invalid(field, text));
        }
        if paths.iter().any(|p| p.as_ref() == "*") {
            if paths.len() > 1 {
                let text = "holds `*` beside other paths; `*` must be alone";
                return Err(Error::invalid(field, text));
            }
            return Ok(Self::All);
        }
        let mut parsed = Vec::new();
        for path in paths {
            let path = parse_path(path.as_ref(), message, field)?;
            let settable = |f: &FieldDescriptor| {
                let b = behavior(f);
                !b.output_only && !b.identifier
            };
            if path.iter().all(settable) {
                parsed.push(path);
            }
        }
        Ok(Self::Paths(parsed))
    }

    /// Changes `to` as the mask says, with the values in `from`. Both are of the message the mask
    /// was parsed for. OUTPUT_ONLY fields and the name in `to` stay, and so does a secret that was
    /// not sent, unless its own path is in the mask.
    pub fn apply(&self, from: &DynamicMessage, to: &mut DynamicMessage) {
        match self {
            Self::Populated => merge(from, to),
            Self::All => replace(from, to),
            Self::Paths(paths) => paths.iter().for_each(|path| apply_path(path, from, to)),
        }
    }
}

fn parse_path(
    path: &str,
    message: &MessageDescriptor,
    field: &str,
) -> Result<Vec<FieldDescriptor>, Error> {
    let wrong = |why: String| Error::invalid(field, why);
    let mut found = Vec::new();
    let mut at = Some(message.clone());
    for segment in path.split('.') {
        let Some(message) = at else {
            return Err(wrong(format!(
                "path `{}` goes on below a value or a list",
                echo(path)
            )));
        };
        let Some(next) = message.get_field_by_name(segment) else {
            let hint = match message.get_field_by_json_name(segment) {
                Some(meant) => format!("; write `{}`", meant.name()),
                None => String::new(),
            };
            let (name, path, segment) = (message.name(), echo(path), echo(segment));
            return Err(wrong(format!(
                "path `{path}`: {name} has no field `{segment}`{hint}"
            )));
        };
        at = next
            .kind()
            .as_message()
            .filter(|_| !next.is_list() && !next.is_map())
            .cloned();
        found.push(next);
    }
    Ok(found)
}

fn apply_path(path: &[FieldDescriptor], from: &DynamicMessage, to: &mut DynamicMessage) {
    let [field, rest @ ..] = path else { return };
    if rest.is_empty() {
        if is_plain_message(field) {
            replace_field(field, from, to);
        } else {
            copy(field, from, to);
        }
        return;
    }
    let from = from.get_field(field);
    let from = from
        .as_message()
        .expect("parse_path goes on below messages only");
    let present = to.has_field(field);
    let inner = to
        .get_field_mut(field)
        .as_message_mut()
        .expect("the same field of the same type");
    apply_path(rest, from, inner);
    // Clearing a leaf must not bring an empty message into being.
    if !present && is_empty(inner) {
        to.clear_field(field);
    }
}

/// Takes over what is set in `from`, at every depth.
fn merge(from: &DynamicMessage, to: &mut DynamicMessage) {
    for (field, value) in from.fields() {
        if is_fixed(&field) {
            continue;
        }
        match value {
            Value::Message(inner) if is_plain_message(&field) => {
                let at = to
                    .get_field_mut(&field)
                    .as_message_mut()
                    .expect("the same type");
                merge(inner, at);
            }
            _ => to.set_field(&field, value.clone()),
        }
    }
}

/// Makes `to` equal to `from`, apart from what must stay.
fn replace(from: &DynamicMessage, to: &mut DynamicMessage) {
    for field in from.descriptor().fields() {
        let kept = behavior(&field).secret && !from.has_field(&field);
        // Members of a oneof exclude each other: one that is set must not be touched for the sake
        // of another that is not.
        if is_fixed(&field) || kept || (!from.has_field(&field) && !to.has_field(&field)) {
            continue;
        }
        if is_plain_message(&field) {
            replace_field(&field, from, to);
        } else {
            copy(&field, from, to);
        }
    }
}

fn replace_field(field: &FieldDescriptor, from: &DynamicMessage, to: &mut DynamicMessage) {
    if is_fixed(field) || (!from.has_field(field) && !to.has_field(field)) {
        return;
    }
    let at = to
        .get_field_mut(field)
        .as_message_mut()
        .expect("the same type");
    replace(
        from.get_field(field).as_message().expect("the same type"),
        at,
    );
    if !from.has_field(field) && is_empty(at) {
        to.clear_field(field);
    }
}

fn copy(field: &FieldDescriptor, from: &DynamicMessage, to: &mut DynamicMessage) {
    if from.has_field(field) {
        to.set_field(field, from.get_field(field).into_owned());
    } else {
        to.clear_field(field);
    }
}

fn is_fixed(field: &FieldDescriptor) -> bool {
    let b = behavior(field);
    b.output_only || b.identifier
}

fn is_empty(message: &DynamicMessage) -> bool {
    message.fields().next().is_none()
}

/// A single message of ours; wrappers and the like are values, lists and maps are replaced whole.
fn is_plain_message(field: &FieldDescriptor) -> bool {
    let message = field.kind();
    let message = message
        .as_message()
        .filter(|_| !field.is_list() && !field.is_map());
    message.is_some_and(|m| !is_well_known(m))
}

/// The paths of the fields in which two messages of one type differ, down to single values.
pub fn diff(one: &DynamicMessage, other: &DynamicMessage) -> Vec<String> {
    let mut found = Vec::new();
    diff_into(one, other, "", &mut found);
    found
}

fn diff_into(one: &DynamicMessage, other: &DynamicMessage, prefix: &str, found: &mut Vec<String>) {
    for field in one.descriptor().fields() {
        let (a, b) = (one.get_field(&field), other.get_field(&field));
        let path = format!("{prefix}{}", field.name());
        let both = one.has_field(&field) == other.has_field(&field);
        if both && a == b {
            continue;
        }
        let before = found.len();
        if let (true, Value::Message(a), Value::Message(b)) = (is_plain_message(&field), &*a, &*b) {
            diff_into(a, b, &format!("{path}."), found);
        }
        if found.len() == before {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{from_dynamic, to_dynamic};
    use crate::storage::v1::{
        FabricsEndpoint, NvmeController, NvmeControllerSpec, NvmeControllerStatus, NvmeSubsystem,
        NvmeSubsystemSpec, NvmeSubsystemStatus, PciEndpoint, VirtioBlk,
        nvme_controller_spec::Endpoint,
    };

    fn stored() -> NvmeSubsystem {
        NvmeSubsystem {
            name: "nvmeSubsystems/s".to_owned(),
            spec: Some(NvmeSubsystemSpec {
                nqn: "nqn.2024-01.org.example:s".to_owned(),
                serial_number: "SN1".to_owned(),
                model_number: "M1".to_owned(),
                psk: b"key".to_vec(),
                ..Default::default()
            }),
            status: Some(NvmeSubsystemStatus {
                firmware_revision: "1".to_owned(),
                fru_guid: vec![],
            }),
        }
    }

    fn sent(spec: NvmeSubsystemSpec) -> NvmeSubsystem {
        NvmeSubsystem {
            name: "nvmeSubsystems/other".to_owned(),
            spec: Some(spec),
            status: None,
        }
    }

    fn update<R: crate::Resource>(paths: &[&str], from: &R, to: &R) -> R {
        let mask = Mask::parse(paths, &crate::kinds::of::<R>().message, "update_mask").unwrap();
        let mut to = to_dynamic(to);
        mask.apply(&to_dynamic(from), &mut to);
        from_dynamic(&to).unwrap()
    }

    fn error(paths: &[&str]) -> String {
        let message = &crate::kinds::of::<NvmeSubsystem>().message;
        let error = Mask::parse(paths, message, "update_mask").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("update_mask"));
        error.message
    }

    #[test]
    fn wrong_paths_are_named() {
        assert_eq!(
            error(&["nope"]),
            "update_mask: path `nope`: NvmeSubsystem has no field `nope`"
        );
        assert!(error(&["spec.nope"]).ends_with("NvmeSubsystemSpec has no field `nope`"));
        assert!(error(&["spec.serialNumber"]).ends_with("; write `serial_number`"));
        assert!(error(&["spec.nqn.x"]).ends_with("goes on below a value or a list"));
        assert!(error(&["", "spec"]).contains("has no field ``"));
        assert!(error(&["spec."]).contains("has no field ``"));
        assert!(error(&["*", "spec"]).ends_with("`*` must be alone"));
        assert!(error(&["spec.*"]).contains("has no field `*`"));
        assert!(error(&["spec"; 300]).contains("has 300 paths"));
        for long in [
            "x".repeat(100_000),
            format!("spec.nqn.{}", "x".repeat(100_000)),
        ] {
            assert!(error(&[&long]).len() < 300);
        }
    }

    #[test]
    fn a_path_changes_one_field_only() {
        let from = sent(NvmeSubsystemSpec {
            serial_number: "SN2".to_owned(),
            ..Default::default()
        });
        let mut expected = stored();
        expected.spec.as_mut().unwrap().serial_number = "SN2".to_owned();
        assert_eq!(update(&["spec.serial_number"], &from, &stored()), expected);
    }

    #[test]
    fn a_path_whose_field_is_not_sent_clears_it() {
        let from = sent(NvmeSubsystemSpec::default());
        let mut expected = stored();
        expected.spec.as_mut().unwrap().serial_number.clear();
        expected.spec.as_mut().unwrap().psk.clear();
        assert_eq!(
            update(&["spec.serial_number", "spec.psk"], &from, &stored()),
            expected
        );
    }

    #[test]
    fn an_empty_mask_takes_every_field_that_is_set() {
        let from = sent(NvmeSubsystemSpec {
            model_number: "M2".to_owned(),
            ..Default::default()
        });
        let mut expected = stored();
        expected.spec.as_mut().unwrap().model_number = "M2".to_owned();
        assert_eq!(update(&[], &from, &stored()), expected);
    }

    #[test]
    fn a_star_replaces_but_keeps_a_secret_that_was_not_sent() {
        let spec = NvmeSubsystemSpec {
            nqn: "nqn.2024-01.org.example:n".to_owned(),
            ..Default::default()
        };
        let expected = NvmeSubsystem {
            spec: Some(NvmeSubsystemSpec {
                psk: b"key".to_vec(),
                ..spec.clone()
            }),
            ..stored()
        };
        assert_eq!(update(&["*"], &sent(spec.clone()), &stored()), expected);
        assert_eq!(update(&["spec"], &sent(spec.clone()), &stored()), expected);
        let spec = NvmeSubsystemSpec {
            psk: b"new".to_vec(),
            ..spec
        };
        let expected = NvmeSubsystem {
            spec: Some(spec.clone()),
            ..stored()
        };
        assert_eq!(update(&["*"], &sent(spec), &stored()), expected);
    }

    #[test]
    fn a_star_with_nothing_keeps_the_secret_the_name_and_the_status() {
        let kept = NvmeSubsystemSpec {
            psk: b"key".to_vec(),
            ..Default::default()
        };
        let expected = NvmeSubsystem {
            spec: Some(kept),
            ..stored()
        };
        assert_eq!(
            update(&["*"], &NvmeSubsystem::default(), &stored()),
            expected
        );
        let mut bare = stored();
        bare.spec.as_mut().unwrap().psk.clear();
        let expected = NvmeSubsystem {
            spec: None,
            ..stored()
        };
        assert_eq!(update(&["*"], &NvmeSubsystem::default(), &bare), expected);
    }

    #[test]
    fn the_name_and_output_only_fields_in_a_mask_are_ignored() {
        let mut from = stored();
        from.name = "nvmeSubsystems/other".to_owned();
        from.status = Some(NvmeSubsystemStatus {
            firmware_revision: "9".to_owned(),
            ..Default::default()
        });
        assert_eq!(
            update(
                &["name", "status.firmware_revision", "status"],
                &from,
                &stored()
            ),
            stored()
        );
        assert_eq!(update(&[], &from, &stored()), stored());
    }

    fn controller(endpoint: Endpoint) -> NvmeController {
        NvmeController {
            name: "nvmeSubsystems/s/nvmeControllers/c".to_owned(),
            spec: Some(NvmeControllerSpec {
                nvme_controller_id: Some(0),
                trtype: 4,
                endpoint: Some(endpoint),
                ..Default::default()
            }),
            status: Some(NvmeControllerStatus { active: true }),
        }
    }

    fn fabrics(port: &str) -> Endpoint {
        let (traddr, trsvcid) = ("127.0.0.1".to_owned(), port.to_owned());
        Endpoint::FabricsId(FabricsEndpoint {
            traddr,
            trsvcid,
            adrfam: 1,
        })
    }

    #[test]
    fn members_of_a_oneof_replace_each_other() {
        let pcie = Endpoint::PcieId(PciEndpoint {
            port_id: Some(0),
            ..Default::default()
        });
        let (one, other) = (controller(fabrics("4420")), controller(pcie));
        for paths in [&["*"][..], &[], &["spec"]] {
            assert_eq!(update(paths, &other, &one), other);
            assert_eq!(update(paths, &one, &other), one);
        }
        assert_eq!(update(&["spec.pcie_id"], &other, &one), other);
        assert_eq!(update(&["spec.fabrics_id"], &one, &other), one);
        // A member named but not sent does not disturb the one that is there.
        assert_eq!(update(&["spec.pcie_id"], &one, &one), one);
    }

    #[test]
    fn a_nested_path_into_an_absent_message_brings_it_into_being_only_with_a_value() {
        let blk = VirtioBlk {
            volume_name_ref: "m".to_owned(),
            ..Default::default()
        };
        assert_eq!(update(&["min_limit.rd_iops_kiops"], &blk, &blk), blk);
        let limit = crate::storage::v1::QosLimit {
            rd_iops_kiops: 5,
            ..Default::default()
        };
        let more = VirtioBlk {
            min_limit: Some(limit),
            ..blk.clone()
        };
        assert_eq!(update(&["min_limit.rd_iops_kiops"], &more, &blk), more);
    }

    #[test]
    fn an_optional_field_that_is_sent_as_zero_is_set() {
        let mut to = controller(fabrics("4420"));
        to.spec.as_mut().unwrap().nvme_controller_id = Some(7);
        let from = controller(fabrics("4420"));
        assert_eq!(update(&[], &from, &to), from);
    }

    #[test]
    fn a_wrapper_that_holds_zero_replaces_the_old_value() {
        let pcie = |n| PciEndpoint {
            port_id: Some(n),
            ..Default::default()
        };
        let blk = |n| VirtioBlk {
            pcie_id: Some(pcie(n)),
            ..Default::default()
        };
        assert_eq!(update(&[], &blk(0), &blk(3)), blk(0));
        assert_eq!(update(&["pcie_id.port_id"], &blk(0), &blk(3)), blk(0));
    }

    #[test]
    fn a_difference_is_told_by_its_path() {
        let one = to_dynamic(&controller(fabrics("4420")));
        let other = to_dynamic(&controller(fabrics("4421")));
        assert_eq!(diff(&one, &other), ["spec.fabrics_id.trsvcid"]);
        assert!(diff(&one, &one).is_empty());
    }
}
