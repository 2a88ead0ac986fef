//! The settings of a resource (AIP-156): what is set of it beside its own fields.
//!
//! They are stored in the record of the resource, so that a change of them is an update of it: in
//! the same queue, with the same intent, and as safe in a crash.

use api::error::{Error, Result};
use api::fields;
use api::handler::Settings;
use api::kinds::{Kind, SETTINGS, Verb};
use api::mask::Mask;
use api::names::{self, ResourceName};
use prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use super::change::{below, unopened};
use super::{Catalogue, Entry, Wanted};
use crate::effect::{Answer, Effect, Ticket};
use crate::record::{self, Form, Phase};

impl Catalogue {
    /// The settings of one resource, with the values in force where nothing was chosen.
    ///
    /// # Errors
    /// UNIMPLEMENTED, INVALID_ARGUMENT for a malformed name, NOT_FOUND.
    pub fn settings(&self, kind: &'static Kind, name: &str) -> Result<DynamicMessage> {
        self.handlers.of(&kind.collection)?;
        let name = ResourceName::parse_settings(kind, name, "name")?;
        self.show_settings(self.visible(&name)?)
    }

    /// The resource whose settings a change is about.
    pub(super) fn settings_target(
        &self,
        kind: &'static Kind,
        settings: &DynamicMessage,
    ) -> Result<ResourceName> {
        self.handlers.of(&kind.collection)?;
        let name = settings.get_field_by_name("name");
        let name = name.as_deref().and_then(Value::as_str).unwrap_or_default();
        ResourceName::parse_settings(kind, name, &format!("{}.name", settings_field(kind)))
    }

    pub(super) fn begin_update_settings(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        mut settings: DynamicMessage,
        paths: &[String],
        fx: &mut Vec<Effect>,
    ) -> Result<Option<Answer>> {
        let kind = name.kind();
        let handler = self.handlers.of(&kind.collection)?;
        let entry = self.visible(name)?;
        if entry.phase == Phase::Deleting {
            return Err(Error::precondition(format!("{name} is being deleted")));
        }
        fields::clear_output_only(&mut settings);
        settings.clear_field_by_name("name");
        let mut wanted = decode(kind, &entry.form.settings)?;
        let mask = Mask::parse(paths, &wanted.descriptor(), "update_mask")?;
        mask.apply(&settings, &mut wanted);
        fields::check_required(&wanted).map_err(|e| below(settings_field(kind), e))?;
        let next = Form {
            settings: Settings::from_bytes(wanted.encode_to_vec()),
            ..entry.form.clone()
        };
        if self.is_so(entry, &next) {
            return self.unchanged(ticket, name, Wanted::Settings, fx);
        }
        let whole = next.whole(kind).map_err(|field| unopened(name, &field))?;
        handler
            .admit_settings(name, &whole, &next.settings)
            .map_err(|e| below(settings_field(kind), e))?;
        self.intend_update(ticket, name, next, &[], Wanted::Settings, fx);
        Ok(None)
    }

    /// What a change that succeeded answers with.
    pub(super) fn answer(&self, entry: &Entry, wanted: Wanted) -> Result<Answer> {
        let shown = match wanted {
            Wanted::Resource => self.show(entry),
            Wanted::Settings => self.show_settings(entry),
        };
        shown.map(Answer::Resource)
    }

    /// The settings of a resource as a client sees them.
    fn show_settings(&self, entry: &Entry) -> Result<DynamicMessage> {
        let kind = entry.name.kind();
        let handler = self.handlers.of(&kind.collection)?;
        let (spec, stored) = (&entry.form.spec, &entry.form.settings);
        let in_force = handler.settings_in_force(&entry.name, spec, stored)?;
        let mut shown = decode(kind, &in_force)?;
        let owner = if self.settings.legacy_names {
            names::legacy_name(&entry.name)
        } else {
            entry.name.to_string()
        };
        record::set_name(&mut shown, &format!("{owner}/{SETTINGS}"));
        Ok(shown)
    }
}

fn decode(kind: &Kind, settings: &Settings) -> Result<DynamicMessage> {
    record::decode_settings(kind, settings).map_err(|damage| Error::internal(damage.0))
}

/// The field of the request that holds the settings.
fn settings_field(kind: &Kind) -> &str {
    let method = kind.method(&Verb::UpdateSettings);
    let field = method.and_then(|m| m.fields.resource.as_ref());
    field.map_or(SETTINGS, |f| f.name())
}
