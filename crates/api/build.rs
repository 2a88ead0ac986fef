//! Compiles the `.proto` files without `protoc`: an encoded descriptor set for reflection, the
//! REST gateway and the tables of `kinds`, Rust types for the messages, and the table of resources.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

/// Folder of the sources, from this crate.
const PROTO: &str = "../../proto";
/// Packages that become Rust modules.
const PACKAGES: [(&str, &str); 4] = [
    ("opi_api.storage.v1", "crate::storage::v1"),
    ("opi_api.inventory.v1", "crate::inventory::v1"),
    ("opi_ext.storage.v1", "crate::ext::v1"),
    ("google.rpc", "crate::rpc"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut sources = Vec::new();
    collect(Path::new(PROTO), &mut sources)?;
    sources.sort();

    let mut compiler = protox::Compiler::new([PROTO])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&sources)?;
    // `protox::compile` would drop the extensions, and with them every route and annotation.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &encoded)?;

    // prost-build writes one file for each package into OUT_DIR; those of google.api and the
    // well-known types are not included anywhere.
    let set = prost_types::FileDescriptorSet::decode(encoded.as_slice())?;
    prost_build::Config::new().compile_fds(set)?;

    fs::write(out.join("resources.rs"), resources(&encoded)?)?;
    Ok(())
}

/// Every `.proto` file below `folder`.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// An `impl Resource` for every message with the `google.api.resource` option, and an
/// `impl SettingsMessage` for those that are the settings of a resource.
fn resources(encoded: &[u8]) -> Result<String, Box<dyn Error>> {
    let pool = DescriptorPool::decode(encoded)?;
    let option = pool
        .get_extension_by_name("google.api.resource")
        .ok_or("google.api.resource is gone")?;
    let mut text = String::new();
    for message in pool.all_messages() {
        let options = message.options();
        if !options.has_extension(&option) {
            continue;
        }
        let module = PACKAGES
            .iter()
            .find(|(package, _)| *package == message.package_name());
        let (_, module) = module.ok_or("a resource outside the known packages")?;
        let options = options.get_extension(&option);
        let resource = options
            .as_message()
            .ok_or("google.api.resource is no message")?;
        if let Some(collection) = settings_of(resource)? {
            let name = message.name();
            writeln!(
                text,
                "impl crate::handler::SettingsMessage for {module}::{name} {{"
            )?;
            writeln!(text, "    const COLLECTION: &'static str = {collection:?};")?;
            writeln!(text, "}}")?;
            continue;
        }
        writeln!(
            text,
            "impl crate::Resource for {module}::{} {{",
            message.name()
        )?;
        writeln!(
            text,
            "    const COLLECTION: &'static str = {:?};",
            string(resource, "plural")?
        )?;
        writeln!(
            text,
            "    const TYPE: &'static str = {:?};",
            string(resource, "type")?
        )?;
        writeln!(text, "}}")?;
    }
    Ok(text)
}

/// For the settings of a resource (`collection/{id}/settings`): the collection of that resource.
fn settings_of(resource: &DynamicMessage) -> Result<Option<String>, Box<dyn Error>> {
    let patterns = resource.get_field_by_name("pattern");
    let pattern = patterns
        .as_deref()
        .and_then(|p| p.as_list()?.first()?.as_str())
        .ok_or("a resource without a pattern")?;
    let Some(parent) = pattern.strip_suffix("}/settings") else {
        return Ok(None);
    };
    let collection = parent.rsplit('/').nth(1);
    let collection = collection.ok_or("settings of what has no collection")?;
    Ok(Some(collection.to_owned()))
}

fn string(message: &DynamicMessage, field: &str) -> Result<String, Box<dyn Error>> {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        _ => Err(format!("a resource without `{field}`").into()),
    }
}
