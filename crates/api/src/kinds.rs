//! The table of resource kinds and methods, read from the descriptors at first use.
//!
//! Nothing else lists the resources: gRPC, REST, OpenAPI, the catalogue and the client walk this.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind as FieldKind, MessageDescriptor,
    MethodDescriptor, ReflectMessage as _, Value,
};

use crate::Resource;

/// Collections for which the reference bridge answers with names under `volumes/`.
const LEGACY: [&str; 8] = [
    "aioVolumes",
    "mallocVolumes",
    "nullVolumes",
    "virtioBlks",
    "virtioScsiControllers",
    "virtioScsiLuns",
    "encryptedVolumes",
    "qosVolumes",
];
/// The collection segment of those names.
pub const LEGACY_COLLECTION: &str = "volumes";
/// Packages whose services are served; those of `google` are vocabulary.
const PACKAGES: [&str; 2] = ["opi_api.", "opi_ext."];
/// The last segment of the name of settings: one for each resource of a kind (AIP-156).
pub const SETTINGS: &str = "settings";
/// Fields that name another resource end in this.
const REFERENCE_SUFFIX: &str = "_name_ref";

/// One sort of resource, as the `google.api.resource` option describes it.
#[derive(Debug)]
pub struct Kind {
    /// The resource message.
    pub message: MessageDescriptor,
    /// As in `opi_api.storage.v1/NvmePath`.
    pub resource_type: String,
    /// Last literal segment of the pattern, as in `nvmePaths`; unique over all kinds.
    pub collection: String,
    /// Shape of the names, literals and variables in turn.
    pub pattern: Vec<Segment>,
    /// As in `nvmePath`.
    pub singular: String,
    /// As in `nvmePaths`.
    pub plural: String,
    /// Whether other resources can stand on it.
    pub is_volume: bool,
    /// `volumes`, for the eight kinds the reference bridge names that way.
    pub legacy_collection: Option<&'static str>,
    /// Fields of the message that name other resources.
    pub references: Vec<Reference>,
    /// The message with what can be set of a resource beside its own fields, for kinds that have
    /// such: a singleton below each resource, stored with it and changed by methods of its own.
    pub settings: Option<MessageDescriptor>,
    parent: Option<usize>,
    methods: Vec<usize>,
}

/// One segment of a name pattern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Segment {
    /// A collection.
    Literal(String),
    /// An id, by the name it has in the pattern.
    Variable(String),
}

/// A field by which one resource names another.
#[derive(Clone, Debug)]
pub struct Reference {
    /// From the resource message down to the field.
    pub path: Vec<FieldDescriptor>,
    /// The same as text, as in `spec.volume_name_ref`.
    pub dotted: String,
    /// What may stand in it.
    pub target: Target,
}

/// What a reference may name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// Any kind with `is_volume`.
    Volume,
    /// One kind, by its collection.
    Collection(&'static str),
}

/// What a method does to its kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Makes one (AIP-133).
    Create,
    /// Removes one (AIP-135).
    Delete,
    /// Changes one (AIP-134).
    Update,
    /// Pages through them (AIP-132).
    List,
    /// Shows one (AIP-131).
    Get,
    /// Answers with the counters of one.
    Stats,
    /// Shows the settings of one (AIP-156).
    GetSettings,
    /// Changes the settings of one (AIP-156).
    UpdateSettings,
    /// Anything else (AIP-136), by the verb in lower case, as in `reset`.
    Custom(String),
}

/// One route of a method.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpRule {
    /// HTTP method in capitals.
    pub verb: String,
    /// Path template, as in `/v1/{name=aioVolumes/*}:stats`.
    pub template: String,
    /// Field that the body holds; `*` for the whole request, `None` for no body.
    pub body: Option<String>,
}

/// The fields of a request, and of the answer to a list, that have a fixed meaning.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// The resource itself, in create and update; the settings, in their update.
    pub resource: Option<FieldDescriptor>,
    /// The id wished for, in create.
    pub id: Option<FieldDescriptor>,
    /// `name`.
    pub name: Option<FieldDescriptor>,
    /// `update_mask`.
    pub mask: Option<FieldDescriptor>,
    /// `allow_missing`.
    pub allow_missing: Option<FieldDescriptor>,
    /// `parent`.
    pub parent: Option<FieldDescriptor>,
    /// `page_size`.
    pub page_size: Option<FieldDescriptor>,
    /// `page_token`.
    pub page_token: Option<FieldDescriptor>,
    /// The resources, in the answer to a list.
    pub items: Option<FieldDescriptor>,
    /// `next_page_token`, in the answer to a list.
    pub next_page_token: Option<FieldDescriptor>,
}

/// One RPC.
#[derive(Debug)]
pub struct Method {
    /// As in `/opi_api.storage.v1.AioVolumeService/GetAioVolume`.
    pub path: String,
    /// Full name of the service.
    pub service: String,
    /// The descriptor, with request and response types.
    pub descriptor: MethodDescriptor,
    /// What it does.
    pub verb: Verb,
    /// Its routes in the REST interface, the first one first.
    pub http: Vec<HttpRule>,
    /// Positional arguments of a flattened call (`google.api.method_signature`).
    pub signature: Vec<String>,
    /// Fields with a fixed meaning.
    pub fields: Fields,
    kind: Option<usize>,
}

impl Kind {
    /// The kind whose resources these belong to.
    pub fn parent(&self) -> Option<&'static Self> {
        self.parent.map(|i| &table().kinds[i])
    }

    /// All methods of the kind, in order of declaration.
    pub fn methods(&self) -> impl Iterator<Item = &'static Method> + '_ {
        self.methods.iter().map(|&i| &table().methods[i])
    }

    /// The method that does `verb`, if the kind has one.
    pub fn method(&self, verb: &Verb) -> Option<&'static Method> {
        self.methods().find(|m| m.verb == *verb)
    }

    /// The pattern as text, as in `nvmeSubsystems/{subsystem}`.
    pub fn pattern_text(&self) -> String {
        let segments = self.pattern.iter().map(|s| match s {
            Segment::Literal(text) => text.clone(),
            Segment::Variable(name) => format!("{{{name}}}"),
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.resource_type == other.resource_type
    }
}

impl Eq for Kind {}

impl Method {
    /// The kind it works on; `None` for services without resources.
    pub fn kind(&self) -> Option<&'static Kind> {
        self.kind.map(|i| &table().kinds[i])
    }
}

/// Every kind, in order of declaration.
pub fn all() -> &'static [Kind] {
    &table().kinds
}

/// Every method of every service, in order of declaration.
pub fn methods() -> &'static [Method] {
    &table().methods
}

/// The kind of a collection, as in `mallocVolumes`.
pub fn by_collection(collection: &str) -> Option<&'static Kind> {
    table()
        .by_collection
        .get(collection)
        .map(|&i| &table().kinds[i])
}

/// The kind of a resource message, by its full name.
pub fn by_message(full_name: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.message.full_name() == full_name)
}

/// The method of a gRPC path, as in `/opi_api.storage.v1.AioVolumeService/GetAioVolume`.
pub fn method_by_path(path: &str) -> Option<&'static Method> {
    table().by_path.get(path).map(|&i| &table().methods[i])
}

/// The kind of a generated message.
pub fn of<R: Resource>() -> &'static Kind {
    by_collection(R::COLLECTION).expect("build.rs and this table read the same descriptors")
}

struct Table {
    kinds: Vec<Kind>,
    methods: Vec<Method>,
    by_collection: HashMap<String, usize>,
    by_path: HashMap<String, usize>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::read(crate::pool()))
}

impl Table {
    fn read(pool: &DescriptorPool) -> Self {
        let served = |package: &str| PACKAGES.iter().any(|p| package.starts_with(p));
        let messages = pool.all_messages().filter(|m| served(m.package_name()));
        let (mut kinds, mut settings) = (Vec::<Kind>::new(), Vec::new());
        for message in messages {
            let Some((resource, pattern)) = read_resource(pool, &message) else {
                continue;
            };
            match pattern.last() {
                Some(Segment::Literal(last)) if last == SETTINGS => {
                    settings.push((pattern, message));
                }
                _ => kinds.push(read_kind(&message, &resource, pattern)),
            }
        }
        for (pattern, message) in settings {
            let above = &pattern[..pattern.len() - 1];
            let kind = kinds.iter_mut().find(|k| k.pattern == above);
            let kind = kind.unwrap_or_else(|| panic!("{} of no kind", message.full_name()));
            kind.settings = Some(message);
        }
        let by_collection: HashMap<String, usize> = kinds
            .iter()
            .enumerate()
            .map(|(i, k)| (k.collection.clone(), i))
            .collect();
        assert_eq!(
            by_collection.len(),
            kinds.len(),
            "two kinds share a collection"
        );
        for kind in &mut kinds {
            // The parent's collection is two segments up: .../parents/{parent}/kinds/{kind}.
            let up = kind.pattern.len().checked_sub(4).map(|i| &kind.pattern[i]);
            if let Some(Segment::Literal(collection)) = up {
                kind.parent = by_collection.get(collection).copied();
                assert!(
                    kind.parent.is_some(),
                    "{} has an unknown parent",
                    kind.collection
                );
            }
        }
        let services = pool.services().filter(|s| served(s.package_name()));
        let mut methods = Vec::new();
        for method in services.flat_map(|s| s.methods().collect::<Vec<_>>()) {
            let method = read_method(pool, &kinds, method);
            if let Some(kind) = method.kind {
                kinds[kind].methods.push(methods.len());
            }
            methods.push(method);
        }
        let by_path = methods
            .iter()
            .enumerate()
            .map(|(i, m)| (m.path.clone(), i))
            .collect();
        Self {
            kinds,
            methods,
            by_collection,
            by_path,
        }
    }
}

/// The `google.api.resource` option of a message, and the pattern in it.
fn read_resource(
    pool: &DescriptorPool,
    message: &MessageDescriptor,
) -> Option<(DynamicMessage, Vec<Segment>)> {
    let resource = option(pool, &message.options(), "google.api.resource")?;
    let resource = resource.as_message()?.clone();
    let patterns = resource.get_field_by_name("pattern")?.into_owned();
    let pattern = patterns.as_list()?.first()?.as_str()?;
    Some((resource, pattern.split('/').map(read_segment).collect()))
}

fn read_kind(
    message: &MessageDescriptor,
    resource: &DynamicMessage,
    pattern: Vec<Segment>,
) -> Kind {
    let Some(Segment::Literal(collection)) = pattern.len().checked_sub(2).map(|i| &pattern[i])
    else {
        panic!(
            "the pattern of {} does not end in collection/{{id}}",
            message.full_name()
        );
    };
    let collection = collection.clone();
    let is_volume = message.name().ends_with("Volume") || message.name() == "NvmeRemoteNamespace";
    let mut references = Vec::new();
    read_references(message, &mut Vec::new(), &mut references);
    Kind {
        message: message.clone(),
        resource_type: text(resource, "type"),
        legacy_collection: LEGACY.contains(&&*collection).then_some(LEGACY_COLLECTION),
        collection,
        pattern,
        singular: text(resource, "singular"),
        plural: text(resource, "plural"),
        is_volume,
        references,
        settings: None,
        parent: None,
        methods: Vec::new(),
    }
}

fn read_segment(segment: &str) -> Segment {
    match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
        Some(variable) => Segment::Variable(variable.to_owned()),
        None => Segment::Literal(segment.to_owned()),
    }
}

/// Finds the reference fields of `message` and, by recursion, of the messages in it.
fn read_references(
    message: &MessageDescriptor,
    path: &mut Vec<FieldDescriptor>,
    found: &mut Vec<Reference>,
) {
    for field in message.fields() {
        path.push(field.clone());
        match field.kind() {
            FieldKind::String if field.name().ends_with(REFERENCE_SUFFIX) => {
                let dotted = path
                    .iter()
                    .map(FieldDescriptor::name)
                    .collect::<Vec<_>>()
                    .join(".");
                let target = target_of(field.name());
                found.push(Reference {
                    path: path.clone(),
                    dotted,
                    target,
                });
            }
            FieldKind::Message(inner)
                if !field.is_list()
                    && !field.is_map()
                    && PACKAGES.iter().any(|p| inner.full_name().starts_with(p)) =>
            {
                read_references(&inner, path, found);
            }
            _ => {}
        }
        path.pop();
    }
}

/// OPI does not annotate its reference fields, so their names decide.
fn target_of(field: &str) -> Target {
    match field {
        "target_name_ref" => Target::Collection("virtioScsiTargets"),
        "controller_name_ref" => Target::Collection("virtioScsiControllers"),
        _ => Target::Volume,
    }
}

fn read_method(pool: &DescriptorPool, kinds: &[Kind], method: MethodDescriptor) -> Method {
    let (kind, verb) = classify(pool, kinds, &method);
    let options = method.options();
    let http = option(pool, &options, "google.api.http");
    let signature = option(pool, &options, "google.api.method_signature");
    let signature = signature
        .as_ref()
        .and_then(|s| s.as_list())
        .and_then(|list| list.first()?.as_str().map(str::to_owned))
        .unwrap_or_default();
    Method {
        path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
        service: method.parent_service().full_name().to_owned(),
        http: http
            .as_ref()
            .and_then(Value::as_message)
            .map(read_rules)
            .unwrap_or_default(),
        signature: signature
            .split(',')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect(),
        fields: read_fields(&method, kind.map(|i| &kinds[i]), &verb),
        verb,
        kind,
        descriptor: method,
    }
}

/// Finds the kind by what the method takes and gives, and the verb by its name.
fn classify(
    pool: &DescriptorPool,
    kinds: &[Kind],
    method: &MethodDescriptor,
) -> (Option<usize>, Verb) {
    let of_message = |m: &MessageDescriptor| kinds.iter().position(|k| k.message == *m);
    let of_fields = |m: &MessageDescriptor| {
        m.fields().find_map(|f| match f.kind() {
            FieldKind::Message(inner) if f.is_list() => of_message(&inner),
            _ => None,
        })
    };
    let of_name = || {
        let name = method.input().get_field_by_name("name")?;
        let reference = option(pool, &name.options(), "google.api.resource_reference")?;
        let named = text(reference.as_message()?, "type");
        kinds.iter().position(|k| k.resource_type == named)
    };
    let of_settings = |m: &MessageDescriptor| {
        kinds
            .iter()
            .position(|k| k.settings.as_ref().is_some_and(|s| s == m))
    };
    let settings = of_settings(&method.output());
    let kind = settings
        .or_else(|| of_message(&method.output()))
        .or_else(|| of_fields(&method.output()))
        .or_else(of_name);
    let name = method.name();
    let end = name
        .char_indices()
        .skip(1)
        .find(|(_, c)| c.is_ascii_uppercase());
    let verb = match (&name[..end.map_or(name.len(), |(i, _)| i)], kind) {
        ("Get", Some(_)) if settings.is_some() => Verb::GetSettings,
        ("Update", Some(_)) if settings.is_some() => Verb::UpdateSettings,
        ("Create", Some(_)) => Verb::Create,
        ("Delete", Some(_)) => Verb::Delete,
        ("Update", Some(_)) => Verb::Update,
        ("List", _) => Verb::List,
        ("Get", _) => Verb::Get,
        ("Stats", Some(_)) => Verb::Stats,
        (other, _) => Verb::Custom(other.to_ascii_lowercase()),
    };
    (kind, verb)
}

fn read_fields(method: &MethodDescriptor, kind: Option<&Kind>, verb: &Verb) -> Fields {
    let input = method.input();
    let field = |name: &str| input.get_field_by_name(name);
    let held = kind.and_then(|k| match verb {
        Verb::UpdateSettings => k.settings.as_ref(),
        _ => Some(&k.message),
    });
    let resource = held.and_then(|message| {
        input
            .fields()
            .find(|f| f.kind().as_message() == Some(message) && !f.is_list())
    });
    let id = resource.as_ref().filter(|_| *verb == Verb::Create);
    let list = (*verb == Verb::List).then(|| method.output());
    Fields {
        id: id.and_then(|r| field(&format!("{}_id", r.name()))),
        resource,
        name: field("name"),
        mask: field("update_mask"),
        allow_missing: field("allow_missing"),
        parent: field("parent"),
        page_size: field("page_size"),
        page_token: field("page_token"),
        items: list.as_ref().and_then(|m| {
            m.fields()
                .find(|f| f.is_list() && f.kind().as_message().is_some())
        }),
        next_page_token: list.and_then(|m| m.get_field_by_name("next_page_token")),
    }
}

/// The rule itself, then its additional bindings.
fn read_rules(rule: &DynamicMessage) -> Vec<HttpRule> {
    let mut rules = Vec::new();
    for verb in ["get", "put", "post", "delete", "patch"] {
        let template = text(rule, verb);
        if !template.is_empty() {
            let body = Some(text(rule, "body")).filter(|b| !b.is_empty());
            rules.push(HttpRule {
                verb: verb.to_ascii_uppercase(),
                template,
                body,
            });
        }
    }
    let more = rule.get_field_by_name("additional_bindings");
    for inner in more.as_deref().and_then(Value::as_list).unwrap_or_default() {
        rules.extend(inner.as_message().map(read_rules).unwrap_or_default());
    }
    rules
}

/// The value of an extension in an options message, if it is set.
pub(crate) fn option(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Option<Value> {
    debug_assert!(options.descriptor().full_name().ends_with("Options"));
    let extension = pool
        .get_extension_by_name(name)
        .expect("proto/google/api declares it");
    options
        .has_extension(&extension)
        .then(|| options.get_extension(&extension).into_owned())
}

/// A string field of an options message; empty when it is not set.
fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value
        .as_deref()
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}
