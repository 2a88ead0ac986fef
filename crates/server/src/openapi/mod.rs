//! The REST interface described by itself: `/openapi.json` (OpenAPI 3.1), generated from the route
//! table and the descriptors, and `/docs`, a page that shows it.

mod schema;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use api::comments;
use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderName, HeaderValue, header};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::rest::routes::{Body, Route, Routes};
use crate::rest::template::Segment;
use schema::{Form, Schemas};

/// How deep query parameters go into messages; no request of ours nests deeper.
const QUERY_DEPTH_MAX: usize = 3;
/// The page loads its own script and style and talks to its own server, nothing else.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Serves the document and the page.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let text = |kind: &'static str, body: &'static str| {
        get(move || async move { static_response(kind, body) })
    };
    Router::new()
        .route(
            "/openapi.json",
            get(|| async { static_response("application/json", document()) }),
        )
        .route(
            "/docs",
            text("text/html; charset=utf-8", include_str!("page.html")),
        )
        .route(
            "/docs/page.js",
            text("text/javascript; charset=utf-8", include_str!("page.js")),
        )
        .route(
            "/docs/page.css",
            text("text/css; charset=utf-8", include_str!("page.css")),
        )
}

fn static_response(kind: &'static str, body: &'static str) -> Response {
    let set = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    let headers = [
        set(header::CONTENT_TYPE, kind),
        set(header::CACHE_CONTROL, "no-cache"),
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, body).into_response()
}

/// The document as text, made once.
pub fn document() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| serde_json::to_string_pretty(&generate()).expect("it is JSON already"))
}

/// Makes the document.
fn generate() -> Value {
    let mut schemas = Schemas::default();
    let status = api::pool().get_message_by_name("google.rpc.Status");
    let error = schemas.message(&status.expect("proto/google/rpc declares it"), Form::Whole);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut tags = BTreeMap::new();
    let mut ids = Vec::new();
    for route in Routes::new().iter() {
        let service = route.method.descriptor.parent_service();
        tags.insert(service.name().to_owned(), comments::service(service));
        let (path, names) = path(route);
        let verb = route.verb.as_str().to_ascii_lowercase();
        let mut operation = operation(route, &names, &mut schemas);
        // One method may have several routes; ids must differ.
        let id = route.method.descriptor.name().to_owned();
        let count = ids.iter().filter(|i| **i == id).count();
        let unique = if count == 0 {
            id.clone()
        } else {
            format!("{id}_{}", count + 1)
        };
        ids.push(id);
        operation.insert("operationId".to_owned(), unique.into());
        paths
            .entry(path)
            .or_default()
            .insert(verb, operation.into());
    }
    let tags: Vec<Value> = tags
        .iter()
        .map(|(name, text)| json!({ "name": name, "description": text }))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OPI Storage",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The storage interface of the Open Programmable Infrastructure project \
                over HTTP. The same calls are served over gRPC. Field names may be in camel case \
                or in snake case. A PATCH without `update_mask` changes the fields that its body \
                holds; a key sent empty stays as it is.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" }
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": {
                "Error": {
                    "description": "The call failed; `details` say why, for programs.",
                    "content": { "application/json": { "schema": error } }
                }
            }
        }
    })
}

/// The path of a route, and the names of its parameters in order.
fn path(route: &Route) -> (String, Vec<String>) {
    let mut path = String::new();
    let mut names: Vec<String> = Vec::new();
    let mut before = "";
    for segment in &route.template.segments {
        path.push('/');
        let name = match segment {
            Segment::Literal(text) => {
                path.push_str(text);
                before = text;
                continue;
            }
            Segment::One => api::kinds::by_collection(before).map_or(before, |k| &k.singular),
            Segment::Rest => "name",
        };
        let name = match names.iter().filter(|n| n.starts_with(name)).count() {
            0 => name.to_owned(),
            n => format!("{name}{}", n + 1),
        };
        path.push_str(&format!("{{{name}}}"));
        names.push(name);
    }
    if let Some(verb) = &route.template.verb {
        path.push_str(&format!(":{verb}"));
    }
    (path, names)
}

fn operation(route: &Route, names: &[String], schemas: &mut Schemas) -> Map<String, Value> {
    let method = &route.method.descriptor;
    let mut parameters: Vec<Value> = names
        .iter()
        .map(|name| {
            let text = if route.template.segments.last() == Some(&Segment::Rest) {
                "A resource name; its slashes stay as they are."
            } else {
                "The id of the resource, one segment of its name."
            };
            json!({
                "name": name, "in": "path", "required": true,
                "description": text, "schema": { "type": "string" }
            })
        })
        .collect();
    let mut taken: Vec<String> = route
        .template
        .variables
        .iter()
        .map(|v| v.field.clone())
        .collect();
    taken.extend(route.parent.map(|_| "parent".to_owned()));
    let mut operation = Map::new();
    match &route.body {
        Body::None => query(&method.input(), "", &taken, schemas, &mut parameters),
        Body::Whole => {
            operation.insert(
                "requestBody".to_owned(),
                body(&method.input(), Form::Patch, schemas),
            );
        }
        Body::Field(field) => {
            taken.push(field.name().to_owned());
            query(&method.input(), "", &taken, schemas, &mut parameters);
            let form = if route.verb == http::Method::PATCH {
                Form::Patch
            } else {
                Form::Whole
            };
            let inner = field.kind();
            let inner = inner
                .as_message()
                .expect("the annotations name message fields");
            operation.insert("requestBody".to_owned(), body(inner, form, schemas));
        }
    }
    let mut text = comments::method(method).to_owned();
    if let Some(hidden) = route.hides {
        let list = hidden.kind().map_or("", |k| &k.collection);
        text.push_str(&format!(
            "\n\nThe API gives this route to `{}` as well, which is served at `/v1/{list}`.",
            hidden.descriptor.name()
        ));
    }
    let summary = text
        .split_inclusive(". ")
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    operation.insert("tags".to_owned(), json!([method.parent_service().name()]));
    operation.insert("summary".to_owned(), summary.into());
    operation.insert("description".to_owned(), text.into());
    operation.insert("parameters".to_owned(), parameters.into());
    operation.insert("responses".to_owned(), responses(route, schemas));
    operation
}

fn body(message: &MessageDescriptor, form: Form, schemas: &mut Schemas) -> Value {
    let schema = schemas.message(message, form);
    let required = form == Form::Whole;
    json!({ "required": required, "content": { "application/json": { "schema": schema } } })
}

fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let output = schemas.message(&route.method.descriptor.output(), Form::Whole);
    let (schema, text) = if route.method.descriptor.is_server_streaming() {
        let error = json!({ "$ref": "#/components/schemas/google.rpc.Status" });
        let line = json!({
            "type": "object", "properties": { "result": output, "error": error }
        });
        (
            line,
            "A stream of objects like this one, one to a line, until the client leaves.",
        )
    } else {
        (output, "The call succeeded.")
    };
    json!({
        "200": { "description": text, "content": { "application/json": { "schema": schema } } },
        "default": { "$ref": "#/components/responses/Error" }
    })
}

/// The fields that become query parameters: values, and values inside messages.
fn query(
    message: &MessageDescriptor,
    prefix: &str,
    taken: &[String],
    schemas: &mut Schemas,
    parameters: &mut Vec<Value>,
) {
    if prefix.matches('.').count() >= QUERY_DEPTH_MAX {
        return;
    }
    for field in message.fields() {
        let path = format!("{prefix}{}", field.name());
        if field.is_map() || taken.contains(&path) {
            continue;
        }
        match field.kind() {
            Kind::Message(inner) if inner.package_name() != "google.protobuf" => {
                if !field.is_list() {
                    query(&inner, &format!("{path}."), taken, schemas, parameters);
                }
            }
            _ => parameters.push(query_parameter(&field, &path, schemas)),
        }
    }
}

fn query_parameter(field: &FieldDescriptor, path: &str, schemas: &mut Schemas) -> Value {
    let mut schema = schemas.field(field, Form::Patch);
    // The parameter itself carries the text.
    schema.as_object_mut().map(|s| s.remove("description"));
    let required = api::fields::behavior(field).required;
    json!({
        "name": path, "in": "query", "required": required,
        "description": comments::field(field), "schema": schema
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(document: &'a Value, pointer: &str) -> &'a Value {
        document
            .pointer(pointer)
            .unwrap_or_else(|| panic!("there is no {pointer}"))
    }

    #[test]
    fn every_reference_has_its_target() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(reference)) = object.get("$ref") {
                        at(document, reference.strip_prefix('#').unwrap());
                    }
                    object.values().for_each(|v| walk(v, document));
                }
                Value::Array(items) => items.iter().for_each(|v| walk(v, document)),
                _ => {}
            }
        }
        let document = generate();
        walk(&document, &document);
    }

    #[test]
    fn every_route_is_in_the_document() {
        let document = generate();
        let paths = at(&document, "/paths").as_object().unwrap();
        let count: usize = paths.values().map(|p| p.as_object().unwrap().len()).sum();
        assert_eq!(count, Routes::new().iter().count());
        assert!(paths.contains_key("/v1/nvmeSubsystems/{nvmeSubsystem}/nvmeControllers"));
        assert!(paths.contains_key("/v1/mallocVolumes/{mallocVolume}:stats"));
        let settings = "/ext/v1/nvmeRemoteControllers/{nvmeRemoteController}/settings";
        assert_eq!(paths[settings].as_object().unwrap().len(), 2);
        assert!(paths.contains_key("/v1/inventory/{inventory}/inventory/{inventory2}"));
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = generate();
        let paths = at(&document, "/paths").as_object().unwrap();
        let operations = paths.values().flat_map(|p| p.as_object().unwrap().values());
        let mut ids: Vec<_> = operations
            .map(|o| o["operationId"].as_str().unwrap())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn a_create_has_its_body_and_its_id() {
        let document = generate();
        let create = at(&document, "/paths/~1v1~1mallocVolumes/post");
        let schema = at(create, "/requestBody/content/application~1json/schema/$ref");
        assert_eq!(
            schema,
            "#/components/schemas/opi_api.storage.v1.MallocVolume"
        );
        assert_eq!(at(create, "/parameters/0/name"), "malloc_volume_id");
        let volume = at(
            &document,
            "/components/schemas/opi_api.storage.v1.MallocVolume",
        );
        assert_eq!(volume["required"], json!(["blockSize", "blocksCount"]));
        assert_eq!(volume["properties"]["name"]["readOnly"], true);
    }

    #[test]
    fn a_patch_requires_nothing_and_a_key_is_write_only() {
        let document = generate();
        let schemas = at(&document, "/components/schemas");
        let patch = &schemas["opi_api.storage.v1.NvmeSubsystemSpec.Patch"];
        assert!(patch.get("required").is_none());
        assert_eq!(patch["properties"]["psk"]["writeOnly"], true);
    }

    #[test]
    fn the_collision_is_explained() {
        let document = generate();
        let text = at(&document, "/paths/~1v1~1volumes/get/description")
            .as_str()
            .unwrap();
        assert!(text.contains("`ListEncryptedVolumes`") && text.contains("/v1/encryptedVolumes"));
        at(&document, "/paths/~1v1~1encryptedVolumes/get");
        at(&document, "/paths/~1v1~1qosVolumes/get");
    }

    #[test]
    fn the_page_fetches_nothing_from_elsewhere() {
        for text in [
            include_str!("page.html"),
            include_str!("page.js"),
            include_str!("page.css"),
        ] {
            assert!(!text.contains("http://") && !text.contains("https://"));
            assert!(!text.contains("<style") && !text.contains(" onclick"));
        }
    }
}
