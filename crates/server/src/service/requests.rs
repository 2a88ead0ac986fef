//! From a method and its request to the catalogue, and back. Nothing here knows a kind by name:
//! the table of kinds says which field means what.

use api::error::{Error, Result};
use api::fields;
use api::kinds::{Fields, Kind, Method, Verb};
use control::{Answer, Catalogue, Change};
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value};

use super::{Service, observe, stats};
use crate::calls::{Calls, Meta, Replies, Reply};
use crate::inventory;

/// The one verb beside the six that the seam has.
const RESET: &str = "reset";
const GET_INVENTORY: &str = "/opi_api.inventory.v1.InventoryService/GetInventory";
const GET_OBSERVATION: &str = "/opi_ext.storage.v1.ObservationService/GetObservation";
const LIST_OBSERVATIONS: &str = "/opi_ext.storage.v1.ObservationService/ListObservations";
const WATCH_OBSERVATIONS: &str = "/opi_ext.storage.v1.ObservationService/WatchObservations";

impl Calls for Service {
    fn call(
        &self,
        method: &'static Method,
        request: DynamicMessage,
        _: Meta,
    ) -> Reply<DynamicMessage> {
        let service = self.clone();
        Box::pin(async move { service.serve(method, request).await })
    }

    fn watch(&self, method: &'static Method, request: DynamicMessage, _: Meta) -> Reply<Replies> {
        let service = self.clone();
        Box::pin(async move {
            match method.path.as_str() {
                WATCH_OBSERVATIONS => service.watch_observations(method, &request).await,
                _ => Err(nobody_serves(method)),
            }
        })
    }
}

impl Service {
    async fn serve(
        &self,
        method: &'static Method,
        request: DynamicMessage,
    ) -> Result<DynamicMessage> {
        check_request(method, &request)?;
        match (method.kind(), &method.verb) {
            (Some(kind), Verb::Create) => self.create(method, kind, &request).await,
            (Some(kind), Verb::Update) => self.update(method, kind, &request).await,
            (Some(kind), Verb::Delete) => self.delete(method, kind, &request).await,
            (Some(kind), Verb::Get) => {
                let name = text(&request, method.fields.name.as_ref());
                self.read(move |catalogue| catalogue.get(kind, &name)).await
            }
            (Some(kind), Verb::List) => self.list(method, kind, &request).await,
            (Some(kind), Verb::Stats) => self.stats(method, kind, &request).await,
            (Some(kind), Verb::GetSettings) => {
                let name = text(&request, method.fields.name.as_ref());
                self.read(move |catalogue| catalogue.settings(kind, &name))
                    .await
            }
            (Some(kind), Verb::UpdateSettings) => {
                let change = Change::UpdateSettings {
                    kind,
                    settings: resource(&request, &method.fields)?,
                    mask: mask(&request, method.fields.mask.as_ref()),
                };
                self.change(change).await.and_then(answered)
            }
            (Some(kind), Verb::Custom(verb)) if verb == RESET => {
                let name = text(&request, method.fields.name.as_ref());
                self.change(Change::Reset { kind, name }).await?;
                Ok(DynamicMessage::new(method.descriptor.output()))
            }
            (Some(kind), Verb::Custom(verb)) => {
                let name = text(&request, method.fields.name.as_ref());
                self.read(move |catalogue| catalogue.get(kind, &name))
                    .await?;
                let text = format!(
                    "{verb} of {} is not implemented on this platform",
                    kind.collection
                );
                Err(Error::unimplemented(text))
            }
            (None, _) => match method.path.as_str() {
                GET_INVENTORY => self.inventory(method).await,
                GET_OBSERVATION => self.get_observation(&request).await,
                LIST_OBSERVATIONS => self.list_observations(method, &request).await,
                _ => self.query(method, &request).await,
            },
        }
    }

    async fn create(
        &self,
        method: &Method,
        kind: &'static Kind,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage> {
        let change = Change::Create {
            kind,
            parent: text(request, method.fields.parent.as_ref()),
            id: text(request, method.fields.id.as_ref()),
            fresh_id: uuid::Uuid::new_v4().to_string(),
            resource: resource(request, &method.fields)?,
        };
        self.change(change).await.and_then(answered)
    }

    async fn update(
        &self,
        method: &Method,
        kind: &'static Kind,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage> {
        let change = Change::Update {
            kind,
            resource: resource(request, &method.fields)?,
            mask: mask(request, method.fields.mask.as_ref()),
            allow_missing: flag(request, method.fields.allow_missing.as_ref()),
        };
        self.change(change).await.and_then(answered)
    }

    async fn delete(
        &self,
        method: &Method,
        kind: &'static Kind,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage> {
        let change = Change::Delete {
            kind,
            name: text(request, method.fields.name.as_ref()),
            allow_missing: flag(request, method.fields.allow_missing.as_ref()),
        };
        self.change(change).await?;
        Ok(DynamicMessage::new(method.descriptor.output()))
    }

    async fn list(
        &self,
        method: &Method,
        kind: &'static Kind,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage> {
        let parent = text(request, method.fields.parent.as_ref());
        let token = text(request, method.fields.page_token.as_ref());
        let size = method
            .fields
            .page_size
            .as_ref()
            .map(|f| request.get_field(f).into_owned());
        let size = size.and_then(|v| v.as_i32()).unwrap_or_default();
        let (items, next) = self
            .read(move |catalogue| catalogue.list(kind, &parent, size, &token))
            .await?;
        let mut reply = DynamicMessage::new(method.descriptor.output());
        if let Some(field) = &method.fields.items {
            let items = items.into_iter().map(Value::Message).collect();
            reply.set_field(field, Value::List(items));
        }
        if let Some(field) = &method.fields.next_page_token {
            reply.set_field(field, Value::String(next));
        }
        Ok(reply)
    }

    async fn stats(
        &self,
        method: &Method,
        kind: &'static Kind,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage> {
        let name = text(request, method.fields.name.as_ref());
        let tally = self
            .read(move |catalogue| catalogue.stats(kind, &name))
            .await?;
        let mut reply = DynamicMessage::new(method.descriptor.output());
        let field = reply.descriptor().get_field_by_name("stats");
        let field =
            field.ok_or_else(|| Error::internal("an answer with statistics has no stats"))?;
        let stats = stats::volume_stats(&tally);
        let stats = observe::untyped(&stats, "opi_api.storage.v1.VolumeStats");
        reply.set_field(&field, Value::Message(stats));
        Ok(reply)
    }

    /// Asks the platform.
    async fn query(
        &self,
        method: &'static Method,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage> {
        let find = |catalogue: &Catalogue| catalogue.handlers().query(&method.path);
        let query = self.read(find).await?;
        let answer = query.answer(request.encode_to_vec()).await?;
        DynamicMessage::decode(method.descriptor.output(), &answer[..])
            .map_err(|e| Error::internal("an answer is not of its method's type").caused_by(e))
    }

    async fn inventory(&self, method: &Method) -> Result<DynamicMessage> {
        let root = self.root.clone();
        let read = tokio::task::spawn_blocking(move || inventory::read(&root)).await;
        let read =
            read.map_err(|e| Error::internal("the inventory cannot be read").caused_by(e))?;
        Ok(observe::untyped(
            &read,
            method.descriptor.output().full_name(),
        ))
    }
}

/// Checks what the request itself must hold; the resource in it is the catalogue's to check.
fn check_request(method: &Method, request: &DynamicMessage) -> Result<()> {
    let top_level = method.kind().is_none_or(|k| k.parent().is_none());
    if method.verb == Verb::List && top_level {
        // Five of these demand a parent that can mean nothing; whatever it says is accepted.
        return Ok(());
    }
    fields::check_required_shallow(request)
}

fn nobody_serves(method: &Method) -> Error {
    Error::unimplemented(format!("{} is not implemented", method.path))
}

fn answered(answer: Answer) -> Result<DynamicMessage> {
    match answer {
        Answer::Resource(resource) => Ok(resource),
        Answer::Gone | Answer::Done => {
            Err(Error::internal("a change answered without its resource"))
        }
    }
}

fn text(request: &DynamicMessage, field: Option<&FieldDescriptor>) -> String {
    let value = field.map(|f| request.get_field(f).into_owned());
    value
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn flag(request: &DynamicMessage, field: Option<&FieldDescriptor>) -> bool {
    let value = field.map(|f| request.get_field(f).into_owned());
    value.and_then(|v| v.as_bool()).unwrap_or_default()
}

fn resource(request: &DynamicMessage, fields: &Fields) -> Result<DynamicMessage> {
    let field = fields.resource.as_ref();
    let field = field.ok_or_else(|| Error::internal("a request without its resource"))?;
    let value = request.get_field(field);
    value
        .as_message()
        .cloned()
        .ok_or_else(|| Error::invalid(field.name(), "is required"))
}

/// The paths of a `google.protobuf.FieldMask`.
fn mask(request: &DynamicMessage, field: Option<&FieldDescriptor>) -> Vec<String> {
    let Some(mask) = field.map(|f| request.get_field(f).into_owned()) else {
        return Vec::new();
    };
    let paths = mask
        .as_message()
        .and_then(|m| m.get_field_by_name("paths")?.as_list().map(<[_]>::to_vec));
    let paths = paths.unwrap_or_default();
    paths
        .iter()
        .filter_map(|p| p.as_str().map(str::to_owned))
        .collect()
}
