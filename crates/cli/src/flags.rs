//! Flags for the fields of a resource, and what they set.

use api::comments;
use api::fields::behavior;
use api::kinds::Kind;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
use clap::{Arg, ArgMatches, ValueHint};
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind as FieldKind, MessageDescriptor, Value,
};
use std::io::Read as _;

use crate::failure::{Failure, Result};
use crate::words;
use api::units;

/// Names that other flags of `create` and `update` have, so that no field gets them.
const RESERVED: [&str; 12] = [
    "addr",
    "allow-missing",
    "help",
    "output",
    "parent",
    "size",
    "timeout",
    "tls-ca",
    "tls-cert",
    "tls-key",
    "update-mask",
    "version",
];
/// Longest secret read from a file, in bytes: keys have up to 64, a PSK in text form about 100.
const SECRET_BYTES_MAX: u64 = 4096;
/// Heading of the field flags in help texts.
const HEADING: &str = "Fields";
/// The flag that stands for a number of blocks.
pub(crate) const SIZE: &str = "size";
/// Block size of new volumes whose size is given in bytes and whose block size is not: that of a
/// page, which all hosts can use.
const BLOCK_BYTES_DEFAULT: i64 = 4096;

/// A field that a client may set, and the flag for it.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    /// From the resource down to the field.
    pub path: Vec<FieldDescriptor>,
    /// The same as text, as in `spec.nqn`.
    pub dotted: String,
    /// The shortest name that means this field alone, as in `nqn`.
    pub long: String,
    /// Longer names that mean the same, as in `spec-nqn`.
    pub aliases: Vec<String>,
}

impl Flag {
    /// The field itself.
    pub(crate) fn field(&self) -> &FieldDescriptor {
        self.path.last().expect("a path has a field")
    }
}

/// The flags of a resource or of its settings, in order of declaration.
pub(crate) fn of(message: &MessageDescriptor) -> Vec<Flag> {
    let mut paths = Vec::new();
    collect(message, &mut Vec::new(), &mut paths, &|field| {
        let b = behavior(field);
        !b.output_only && !b.identifier
    });
    let names: Vec<Vec<String>> = paths.iter().map(|path| names_of(path)).collect();
    let unique = |name: &String| names.iter().flatten().filter(|n| *n == name).count() == 1;
    let flags = paths.iter().zip(&names).map(|(path, own)| {
        let free = |n: &&String| unique(n) && !RESERVED.contains(&n.as_str());
        let mut free = own.iter().filter(free).cloned();
        // The full path is unique and never reserved, since only nested fields share a name.
        let long = free.next().unwrap_or_else(|| own[own.len() - 1].clone());
        Flag {
            path: path.clone(),
            dotted: dotted(path),
            long,
            aliases: free.collect(),
        }
    });
    flags.collect()
}

/// All leaves of a message that `wanted` lets through, each with its path.
pub(crate) fn collect(
    message: &MessageDescriptor,
    path: &mut Vec<FieldDescriptor>,
    found: &mut Vec<Vec<FieldDescriptor>>,
    wanted: &dyn Fn(&FieldDescriptor) -> bool,
) {
    for field in message.fields().filter(|f| wanted(f) && !f.is_map()) {
        path.push(field.clone());
        match field.kind() {
            FieldKind::Message(inner) if !is_value(&inner) && !field.is_list() => {
                collect(&inner, path, found, wanted);
            }
            _ => found.push(path.clone()),
        }
        path.pop();
    }
}

/// True for messages that stand for one value.
fn is_value(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
}

/// The path as field masks write it.
pub(crate) fn dotted(path: &[FieldDescriptor]) -> String {
    path.iter()
        .map(FieldDescriptor::name)
        .collect::<Vec<_>>()
        .join(".")
}

/// The names a field could have, shortest first.
fn names_of(path: &[FieldDescriptor]) -> Vec<String> {
    let parts: Vec<String> = path.iter().map(|f| words::kebab(f.name())).collect();
    let is_bytes = path.last().is_some_and(|f| f.kind() == FieldKind::Bytes);
    let tail = if is_bytes { "-file" } else { "" };
    let from = |i: usize| format!("{}{tail}", parts[i..].join("-"));
    (0..parts.len()).rev().map(from).collect()
}

/// The arguments for `flags`. `update` says that nothing is required and zero has a meaning.
pub(crate) fn args(kind: &Kind, flags: &[Flag]) -> Vec<Arg> {
    let mut args = field_args(flags);
    if has_size(kind) {
        let help = "Size of the volume, as in 10GiB, instead of a number of blocks";
        let size = Arg::new(SIZE)
            .long(SIZE)
            .value_name("SIZE")
            .value_parser(units::parse_size)
            .help(help)
            .conflicts_with("blocks_count")
            .help_heading(HEADING);
        args.insert(0, size);
    }
    args
}

/// The arguments for the fields alone.
pub(crate) fn field_args(flags: &[Flag]) -> Vec<Arg> {
    flags.iter().map(arg).collect()
}

fn arg(flag: &Flag) -> Arg {
    let field = flag.field().clone();
    let comment = comments::field(&field);
    let mut arg = Arg::new(flag.dotted.clone())
        .long(flag.long.clone())
        .aliases(&flag.aliases)
        .help(words::first_sentence(comment).to_owned())
        .long_help(long_help(flag, comment))
        .help_heading(HEADING);
    let scalar = scalar_of(&field);
    arg = match scalar.kind() {
        FieldKind::Bool => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL")
            .value_parser(|text: &str| text.parse().map(Value::Bool).map_err(|e| format!("{e}"))),
        FieldKind::Enum(values) => {
            let parser = PossibleValuesParser::new(possible_values(&values));
            let number = move |text: String| {
                enum_number(&values, &text)
                    .map(Value::EnumNumber)
                    .ok_or("not a value of it")
            };
            arg.value_parser(parser.try_map(number))
                .ignore_case(true)
                .value_name("WORD")
        }
        FieldKind::Message(inner) => {
            let example = inner
                .fields()
                .map(|f| format!("{}=...", words::kebab(f.name())));
            let example: Vec<String> = example.collect();
            arg.value_name(example.join(","))
                .value_parser(move |text: &str| item(&inner, text))
        }
        FieldKind::Bytes => arg
            .value_name("PATH")
            .value_hint(ValueHint::FilePath)
            .value_parser(|path: &str| read_secret(path).map(|b| Value::Bytes(b.into()))),
        FieldKind::String => arg
            .value_name(if field.name().ends_with("_name_ref") {
                "NAME"
            } else {
                "TEXT"
            })
            .value_parser(|text: &str| Ok::<_, String>(Value::String(text.to_owned()))),
        _ => {
            let name = if is_size(&scalar) { "SIZE" } else { "N" };
            let parse = move |text: &str| number(&scalar, text);
            arg.value_name(name)
                .allow_negative_numbers(true)
                .value_parser(parse)
        }
    };
    if field.is_list() {
        arg.action(clap::ArgAction::Append)
    } else {
        arg
    }
}

fn long_help(flag: &Flag, comment: &str) -> String {
    let note = match (flag.field().kind(), flag.aliases.is_empty()) {
        (FieldKind::Bytes, _) => {
            "\n\nThe content of the file is taken as it is; `-` reads the standard input."
                .to_owned()
        }
        (_, true) => String::new(),
        (_, false) => format!("\n\nAlso --{}", flag.aliases.join(", --")),
    };
    format!("{comment}{note}")
}

/// The field that holds the value: the one inside a wrapper, else the field itself.
fn scalar_of(field: &FieldDescriptor) -> FieldDescriptor {
    let inner = field
        .kind()
        .as_message()
        .and_then(|m| m.get_field_by_name("value"));
    inner.unwrap_or_else(|| field.clone())
}

fn is_size(field: &FieldDescriptor) -> bool {
    field.name().ends_with("_size") || field.name().ends_with("_bytes")
}

/// The prefix that all values of an enumeration share, as in `NVME_TRANSPORT_TYPE_`.
fn enum_prefix(values: &EnumDescriptor) -> String {
    let zero = values.get_value(0);
    let first = zero.as_ref().map_or("", |v| v.name());
    first
        .strip_suffix("UNSPECIFIED")
        .unwrap_or_default()
        .to_owned()
}

/// The short form of a value, as in `tcp` for `NVME_TRANSPORT_TYPE_TCP`.
pub(crate) fn enum_word(values: &EnumDescriptor, number: i32) -> String {
    match values.get_value(number) {
        Some(value) => {
            let name = value.name();
            let short = name.strip_prefix(&enum_prefix(values)).unwrap_or(name);
            short.to_ascii_lowercase().replace('_', "-")
        }
        None => number.to_string(),
    }
}

fn possible_values(values: &EnumDescriptor) -> Vec<PossibleValue> {
    let real = values.values().filter(|v| v.number() != 0);
    let value = |v: prost_reflect::EnumValueDescriptor| {
        let word = enum_word(values, v.number());
        let under = word.replace('-', "_");
        let help = words::first_sentence(comments::value(&v)).to_owned();
        let number = v.number().to_string();
        PossibleValue::new(word)
            .aliases([v.name().to_owned(), under, number])
            .help(help)
    };
    real.map(value).collect()
}

fn enum_number(values: &EnumDescriptor, text: &str) -> Option<i32> {
    let text = text.to_ascii_lowercase().replace('_', "-");
    let fits = |v: &prost_reflect::EnumValueDescriptor| {
        let full = v.name().to_ascii_lowercase().replace('_', "-");
        full == text || enum_word(values, v.number()) == text || v.number().to_string() == text
    };
    values.values().find(fits).map(|v| v.number())
}

/// Reads one of a list of messages, as in `host-nsid=2,ana-state=inaccessible`.
fn item(message: &MessageDescriptor, text: &str) -> std::result::Result<Value, String> {
    let mut item = DynamicMessage::new(message.clone());
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` has no `=`"))?;
        let field = message.get_field_by_name(&key.replace('-', "_"));
        let field = field.ok_or_else(|| format!("`{key}` is not a field of it"))?;
        let value = match field.kind() {
            FieldKind::Enum(values) => {
                let number = enum_number(&values, value);
                Value::EnumNumber(number.ok_or_else(|| format!("`{value}` is not one of {key}"))?)
            }
            FieldKind::String => Value::String(value.to_owned()),
            _ => number(&field, value)?,
        };
        item.set_field(&field, value);
    }
    Ok(Value::Message(item))
}

/// Reads a number of the field's type: decimal, `0x` hexadecimal, for sizes also `4KiB`.
fn number(field: &FieldDescriptor, text: &str) -> std::result::Result<Value, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("`{text}` is not a number that fits: {e}");
    let sized = if is_size(field) && text.ends_with(|c: char| c.is_ascii_alphabetic()) {
        Some(units::parse_size(text)?.to_string())
    } else if let Some(hex) = text.strip_prefix("0x") {
        let bits = u64::from_str_radix(hex, 16).map_err(|e| wrong(&e))?;
        // Identifiers such as an EUI-64 fill all 64 bits of a signed field.
        let signed = matches!(field.kind(), FieldKind::Int64);
        Some(if signed {
            bits.cast_signed().to_string()
        } else {
            bits.to_string()
        })
    } else {
        None
    };
    let digits = sized.as_deref().unwrap_or(text);
    let value = match field.kind() {
        FieldKind::Int32 | FieldKind::Sint32 | FieldKind::Sfixed32 => {
            digits.parse().map(Value::I32).map_err(|e| wrong(&e))?
        }
        FieldKind::Int64 | FieldKind::Sint64 | FieldKind::Sfixed64 => {
            digits.parse().map(Value::I64).map_err(|e| wrong(&e))?
        }
        FieldKind::Uint32 | FieldKind::Fixed32 => {
            digits.parse().map(Value::U32).map_err(|e| wrong(&e))?
        }
        FieldKind::Uint64 | FieldKind::Fixed64 => {
            digits.parse().map(Value::U64).map_err(|e| wrong(&e))?
        }
        FieldKind::Float => digits.parse().map(Value::F32).map_err(|e| wrong(&e))?,
        FieldKind::Double => digits.parse().map(Value::F64).map_err(|e| wrong(&e))?,
        _ => {
            return Err(format!(
                "{} cannot be set by a flag; use apply",
                field.name()
            ));
        }
    };
    Ok(value)
}

/// Reads a secret from a file; `@path` and `-` for the standard input will do too.
fn read_secret(path: &str) -> std::result::Result<Vec<u8>, String> {
    let path = path.strip_prefix('@').unwrap_or(path);
    let mut bytes = Vec::new();
    let mut take = |from: &mut dyn std::io::Read| {
        from.take(SECRET_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map(|_| ())
    };
    let read = match path {
        "-" => take(&mut std::io::stdin().lock()),
        _ => std::fs::File::open(path).and_then(|mut file| take(&mut file)),
    };
    read.map_err(|e| format!("cannot be read: {e}"))?;
    match bytes.len() as u64 {
        0 => Err("holds nothing".to_owned()),
        n if n > SECRET_BYTES_MAX => Err(format!("holds more than {SECRET_BYTES_MAX} bytes")),
        _ => Ok(bytes),
    }
}

/// Sets what the flags say, and returns the paths of the fields set.
pub(crate) fn fill(
    message: &mut DynamicMessage,
    flags: &[Flag],
    matches: &ArgMatches,
) -> Vec<String> {
    let mut paths = Vec::new();
    for flag in flags {
        let Ok(Some(values)) = matches.try_get_many::<Value>(&flag.dotted) else {
            continue;
        };
        let mut values: Vec<Value> = values.cloned().collect();
        let field = flag.field();
        if let FieldKind::Message(wrapper) = field.kind()
            && is_value(&wrapper)
        {
            let inner = scalar_of(field);
            let wrap = |value| {
                let mut message = DynamicMessage::new(wrapper.clone());
                message.set_field(&inner, value);
                Value::Message(message)
            };
            values = values.into_iter().map(wrap).collect();
        }
        let value = match values.pop() {
            Some(last) if field.is_list() => {
                values.push(last);
                Value::List(values)
            }
            Some(last) => last,
            None => continue,
        };
        set(message, &flag.path, value);
        paths.push(flag.dotted.clone());
    }
    paths
}

/// Sets a field deep inside a message, making the messages on the way.
pub(crate) fn set(message: &mut DynamicMessage, path: &[FieldDescriptor], value: Value) {
    match path {
        [] => {}
        [field] => message.set_field(field, value),
        [field, rest @ ..] => {
            if let Value::Message(inner) = message.get_field_mut(field) {
                set(inner, rest, value);
            }
        }
    }
}

/// The value at the end of a path; `None` when something on the way is not set.
pub(crate) fn get(message: &DynamicMessage, path: &[FieldDescriptor]) -> Option<Value> {
    let (field, rest) = path.split_first()?;
    if field.supports_presence() && !message.has_field(field) {
        return None;
    }
    let value = message.get_field(field);
    match (&*value, rest) {
        (_, []) => Some(value.into_owned()),
        (Value::Message(inner), rest) => get(inner, rest),
        _ => None,
    }
}

/// True for volumes whose size is a number of blocks of a size of their own.
pub(crate) fn has_size(kind: &Kind) -> bool {
    let has = |name: &str| {
        let field = kind.message.get_field_by_name(name);
        field.is_some_and(|f| f.kind() == FieldKind::Int64)
    };
    has("block_size") && has("blocks_count")
}

/// Turns `--size` into blocks of the size the message has; `current` is the block size of what
/// exists. Returns the paths of the fields set.
///
/// # Errors
/// The size is not a whole number of blocks.
pub(crate) fn fill_size(
    message: &mut DynamicMessage,
    bytes: u64,
    current: Option<i64>,
) -> Result<Vec<String>> {
    let int = |message: &DynamicMessage, name: &str| {
        message
            .get_field_by_name(name)
            .and_then(|v| v.as_i64())
            .unwrap_or_default()
    };
    let mut paths = Vec::new();
    let mut block = int(message, "block_size");
    if block == 0 {
        block = current.filter(|b| *b > 0).unwrap_or(BLOCK_BYTES_DEFAULT);
        if current.is_none() {
            message.set_field_by_name("block_size", Value::I64(block));
            paths.push("block_size".to_owned());
        }
    }
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    if block < 1 || bytes % block != 0 {
        let message = format!("--size: {bytes} bytes are not a whole number of blocks of {block}");
        return Err(Failure::usage(message));
    }
    message.set_field_by_name("blocks_count", Value::I64(bytes / block));
    paths.push("blocks_count".to_owned());
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        word: &str,
        given: &[&str],
    ) -> std::result::Result<(DynamicMessage, Vec<String>), String> {
        let kind = words::resolve(word).unwrap();
        let flags = of(&kind.message);
        let command = clap::Command::new("test")
            .no_binary_name(true)
            .args(args(kind, &flags));
        let matches = command
            .try_get_matches_from(given)
            .map_err(|e| e.to_string())?;
        let mut message = DynamicMessage::new(kind.message.clone());
        let mut paths = fill(&mut message, &flags, &matches);
        if has_size(kind)
            && let Some(bytes) = matches.get_one::<u64>(SIZE)
        {
            let more = fill_size(&mut message, *bytes, None).map_err(|f| f.to_string())?;
            paths.extend(more);
        }
        Ok((message, paths))
    }

    #[test]
    fn every_kind_has_flags_that_clap_accepts() {
        for kind in api::kinds::all() {
            let flags = of(&kind.message);
            clap::Command::new("test")
                .args(args(kind, &flags))
                .debug_assert();
            for flag in &flags {
                assert!(!RESERVED.contains(&flag.long.as_str()), "{}", flag.dotted);
            }
        }
    }

    #[test]
    fn nested_fields_go_by_their_short_and_their_full_name() {
        for flag in ["--nqn", "--spec-nqn"] {
            let (message, paths) = parse("nvme-subsystem", &[flag, "nqn.2014-08.org:x"]).unwrap();
            assert_eq!(paths, ["spec.nqn"]);
            let text = serde_json::to_string(&message).unwrap();
            assert_eq!(text, r#"{"spec":{"nqn":"nqn.2014-08.org:x"}}"#);
        }
    }

    #[test]
    fn enumerations_go_by_short_words_full_names_and_numbers() {
        for word in ["tcp", "TCP", "NVME_TRANSPORT_TYPE_TCP", "4"] {
            let given = [
                "--trtype",
                word,
                "--adrfam",
                "ipv4",
                "--traddr",
                "127.0.0.1",
            ];
            let (message, _) = parse("nvme-controller", &given).unwrap();
            let text = serde_json::to_string(&message).unwrap();
            assert!(
                text.contains(r#""trtype":"NVME_TRANSPORT_TYPE_TCP""#),
                "{text}"
            );
            assert!(
                text.contains(r#""adrfam":"NVME_ADDRESS_FAMILY_IPV4""#),
                "{text}"
            );
        }
        let error = parse("nvme-controller", &["--trtype", "carrier-pigeon"]).unwrap_err();
        assert!(error.contains("tcp"), "{error}");
    }

    #[test]
    fn a_size_becomes_blocks() {
        let (message, paths) = parse("malloc", &["--size", "1GiB"]).unwrap();
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"blockSize":"4096","blocksCount":"262144"}"#);
        assert_eq!(paths, ["block_size", "blocks_count"]);
        let (message, _) = parse("malloc", &["--size", "1KiB", "--block-size", "512"]).unwrap();
        assert!(
            serde_json::to_string(&message)
                .unwrap()
                .contains(r#""blocksCount":"2""#)
        );
        let (message, _) = parse("malloc", &["--block-size", "4KiB"]).unwrap();
        assert!(
            serde_json::to_string(&message)
                .unwrap()
                .contains(r#""blockSize":"4096""#)
        );
        assert!(
            parse("malloc", &["--size", "1000"])
                .unwrap_err()
                .contains("whole number")
        );
        assert!(parse("malloc", &["--size", "1GiB", "--blocks-count", "1"]).is_err());
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        let (message, _) = parse("nvme-namespace", &["--eui64", "0xfedcba9876543210"]).unwrap();
        let text = serde_json::to_string(&message).unwrap();
        assert!(text.contains("-81985529216486896"), "{text}");
        assert!(parse("nvme-namespace", &["--host-nsid", "1.5"]).is_err());
        assert!(parse("nvme-namespace", &["--host-nsid", "99999999999"]).is_err());
        assert!(parse("nvme-namespace", &["--host-nsid", "-1"]).is_ok());
    }

    #[test]
    fn a_list_of_messages_is_given_one_by_one() {
        let kind = words::resolve("nvme-controller").unwrap();
        let settings = kind.settings.clone().unwrap();
        let flags = of(&settings);
        let parse = |given: &[&str]| {
            let command = clap::Command::new("test").no_binary_name(true);
            let matches = command.args(field_args(&flags)).try_get_matches_from(given);
            let mut message = DynamicMessage::new(settings.clone());
            let paths = fill(&mut message, &flags, &matches.map_err(|e| e.to_string())?);
            Ok::<_, String>((message, paths))
        };
        let flag = "--namespace-ana-states";
        let (one, two) = (
            "host-nsid=2,ana-state=inaccessible",
            "host_nsid=3,ana_state=2",
        );
        let (message, paths) = parse(&[flag, one, flag, two]).unwrap();
        assert_eq!(paths, ["namespace_ana_states"]);
        let text = serde_json::to_string(&message).unwrap();
        let list = "{\"namespaceAnaStates\":[\
            {\"hostNsid\":2,\"anaState\":\"NVME_ANA_STATE_INACCESSIBLE\"},\
            {\"hostNsid\":3,\"anaState\":\"NVME_ANA_STATE_NON_OPTIMIZED\"}]}";
        assert_eq!(text, list);
        let field = settings.get_field_by_name("namespace_ana_states").unwrap();
        let shown = crate::output::plain(&message.get_field(&field), &field);
        let second = "host-nsid=3,ana-state=non-optimized";
        assert_eq!(shown, format!("{one} {second}"));
        for (wrong, why) in [
            ("2", "no `=`"),
            ("nsid=2", "not a field"),
            ("ana-state=good", "not one of ana-state"),
            ("host-nsid=x", "not a number"),
        ] {
            let error = parse(&[flag, wrong]).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn secrets_come_from_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, [7_u8; 32]).unwrap();
        let (message, paths) =
            parse("encrypted-volume", &["--key-file", path.to_str().unwrap()]).unwrap();
        assert_eq!(paths, ["key"]);
        let key = message.get_field_by_name("key").unwrap();
        assert_eq!(key.as_bytes().unwrap().len(), 32);
        assert!(parse("encrypted-volume", &["--key", "abc"]).is_err());
        let missing = dir.path().join("none");
        let error = parse(
            "encrypted-volume",
            &["--key-file", missing.to_str().unwrap()],
        );
        assert!(error.unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn wrappers_hold_their_value() {
        let given = ["--physical-function", "0", "--port-id", "3"];
        let (message, _) = parse("virtio-blk", &given).unwrap();
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"pcieId":{"portId":3,"physicalFunction":0}}"#);
    }
}
