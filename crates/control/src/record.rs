//! What is stored of a resource.

use api::fields;
use api::handler::Settings;
use api::kinds::Kind;
use api::names::ResourceName;
use prost::Message;
use prost_reflect::DynamicMessage;
use std::fmt;
use zeroize::Zeroizing;

use crate::keys::Keys;
use crate::page::hex;

/// The version of [`Record`] that this program writes.
const SCHEMA: u32 = 1;
/// The version of one that holds settings: programs that do not know them would lose them.
const SCHEMA_WITH_SETTINGS: u32 = 2;

/// What is being done to a resource. Everything but `Ready` is driven to an end after a crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Not written by any version.
    Unset = 0,
    /// A client asked for it and has no answer yet.
    Creating = 1,
    /// As asked for.
    Ready = 2,
    /// A client asked for a change and has no answer yet.
    Updating = 3,
    /// A client asked for its removal.
    Deleting = 4,
    /// A client was told that it could not be made, and it could not be undone yet.
    Abandoned = 5,
}

/// One resource in the store. Secrets are in files of their own.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Version of this message.
    #[prost(uint32, tag = "1")]
    pub schema: u32,
    /// What is being done.
    #[prost(enumeration = "Phase", tag = "2")]
    pub phase: i32,
    /// The resource as it is.
    #[prost(message, optional, tag = "3")]
    pub form: Option<StoredForm>,
    /// The resource as it shall be, while it is updated.
    #[prost(message, optional, tag = "4")]
    pub next: Option<StoredForm>,
}

/// [`Form`] as it is stored.
#[derive(Clone, PartialEq, Message)]
pub struct StoredForm {
    /// The encoded resource as the client sent it, references resolved, secrets taken out.
    #[prost(bytes = "vec", tag = "1")]
    pub sent: Vec<u8>,
    /// The encoded resource as the handler made it, secrets taken out.
    #[prost(bytes = "vec", tag = "2")]
    pub spec: Vec<u8>,
    /// The secrets.
    #[prost(message, repeated, tag = "3")]
    pub secrets: Vec<StoredSecret>,
    /// The encoded settings without their name; empty if all are defaults.
    #[prost(bytes = "vec", tag = "4")]
    pub settings: Vec<u8>,
}

/// Where a secret is.
#[derive(Clone, PartialEq, Message)]
pub struct StoredSecret {
    /// Path of the field, as in `spec.psk`.
    #[prost(string, tag = "1")]
    pub field: String,
    /// Keyed hash; in hexadecimal it is the name of the sealed file.
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}

/// A secret in memory.
#[derive(Clone)]
pub struct Secret {
    /// Path of the field, as in `spec.psk`.
    pub field: String,
    /// Keyed hash.
    pub digest: Vec<u8>,
    /// The secret itself; `None` if its file could not be opened.
    pub value: Option<Zeroizing<Vec<u8>>>,
}

impl Secret {
    /// Name of the sealed file.
    pub fn file(&self) -> String {
        hex(&self.digest)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.field)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field && self.digest == other.digest
    }
}

impl Eq for Secret {}

/// One form of a resource, in memory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Form {
    /// The encoded resource as the client sent it, references resolved, secrets taken out.
    pub sent: Vec<u8>,
    /// The encoded resource as the handler made it, secrets taken out.
    pub spec: Vec<u8>,
    /// The secrets, in the order of their fields.
    pub secrets: Vec<Secret>,
    /// What is set beside the fields of the resource; a resource starts with all defaults.
    pub settings: Settings,
}

/// A record as it comes from the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Whose it is.
    pub name: ResourceName,
    /// What is being done.
    pub phase: Phase,
    /// The resource as it is.
    pub form: Form,
    /// The resource as it shall be, while it is updated.
    pub next: Option<Form>,
}

/// Why a record cannot be used. The server does not start then: what it cannot read it must
/// neither lose nor ignore.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Damage(pub String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Form {
    /// Takes the secrets out of a resource. `spec` starts as what was sent, with the name.
    pub(crate) fn take(name: &ResourceName, mut resource: DynamicMessage, keys: &Keys) -> Self {
        let secrets = take_secrets(name, &mut resource, keys);
        let sent = resource.encode_to_vec();
        set_name(&mut resource, name.as_str());
        Self {
            sent,
            spec: resource.encode_to_vec(),
            secrets,
            settings: Settings::default(),
        }
    }

    /// The encoded resource for a handler: with its secrets.
    ///
    /// # Errors
    /// The path of a secret that could not be opened.
    pub(crate) fn whole(&self, kind: &Kind) -> Result<Vec<u8>, String> {
        if self.secrets.is_empty() {
            return Ok(self.spec.clone());
        }
        let mut message = decode(kind, &self.spec).map_err(|damage| damage.0)?;
        for secret in &self.secrets {
            let value = secret.value.as_ref().ok_or_else(|| secret.field.clone())?;
            fields::put_secret(&mut message, &secret.field, value).map_err(|e| e.message)?;
        }
        Ok(message.encode_to_vec())
    }

    /// Takes over what a handler made of it. Secrets stay as they were.
    pub(crate) fn made(&self, name: &ResourceName, made: &[u8]) -> Result<Self, Damage> {
        let mut message = decode(name.kind(), made)?;
        for (_, mut secret) in fields::take_secrets(&mut message) {
            zeroize::Zeroize::zeroize(&mut secret);
        }
        set_name(&mut message, name.as_str());
        Ok(Self {
            spec: message.encode_to_vec(),
            ..self.clone()
        })
    }

    fn store(&self) -> StoredForm {
        let secrets = self.secrets.iter().map(|s| {
            let (field, digest) = (s.field.clone(), s.digest.clone());
            StoredSecret { field, digest }
        });
        StoredForm {
            sent: self.sent.clone(),
            spec: self.spec.clone(),
            secrets: secrets.collect(),
            settings: self.settings.as_bytes().to_vec(),
        }
    }
}

/// Takes the secrets out of a message and hashes them.
pub(crate) fn take_secrets(
    name: &ResourceName,
    message: &mut DynamicMessage,
    keys: &Keys,
) -> Vec<Secret> {
    let taken = fields::take_secrets(message).into_iter();
    let secrets = taken.map(|(field, value)| {
        let value = Zeroizing::new(value);
        Secret {
            digest: keys.digest(name.as_str(), &field, &value),
            field,
            value: Some(value),
        }
    });
    secrets.collect()
}

/// Sets the `name` of a resource.
pub(crate) fn set_name(message: &mut DynamicMessage, name: &str) {
    message.set_field_by_name("name", prost_reflect::Value::String(name.to_owned()));
}

/// Reads an encoded resource.
pub(crate) fn decode(kind: &Kind, bytes: &[u8]) -> Result<DynamicMessage, Damage> {
    DynamicMessage::decode(kind.message.clone(), bytes)
        .map_err(|e| Damage(format!("a stored {} cannot be decoded: {e}", kind.singular)))
}

/// Reads the settings of a kind.
pub(crate) fn decode_settings(kind: &Kind, settings: &Settings) -> Result<DynamicMessage, Damage> {
    let Some(message) = &kind.settings else {
        return Err(Damage(format!("a {} has no settings", kind.singular)));
    };
    DynamicMessage::decode(message.clone(), settings.as_bytes()).map_err(|e| {
        let kind = &kind.singular;
        Damage(format!(
            "stored settings of a {kind} cannot be decoded: {e}"
        ))
    })
}

/// The bytes to store.
pub(crate) fn write(phase: Phase, form: &Form, next: Option<&Form>) -> Vec<u8> {
    let plain = |form: &Form| form.settings == Settings::default();
    let schema = if plain(form) && next.is_none_or(plain) {
        SCHEMA
    } else {
        SCHEMA_WITH_SETTINGS
    };
    let (form, next) = (Some(form.store()), next.map(Form::store));
    Record {
        schema,
        phase: phase.into(),
        form,
        next,
    }
    .encode_to_vec()
}

/// Reads what [`write`] wrote. `open` opens the sealed file of a secret.
pub(crate) fn read(
    name: &str,
    bytes: &[u8],
    open: &dyn Fn(&str) -> Option<Zeroizing<Vec<u8>>>,
) -> Result<Stored, Damage> {
    let damage = |why: String| Damage(format!("the record of {name} {why}"));
    let parsed = ResourceName::parse(name, "name").map_err(|e| damage(format!("is odd: {e}")))?;
    let record = Record::decode(bytes).map_err(|e| damage(format!("cannot be decoded: {e}")))?;
    if !(SCHEMA..=SCHEMA_WITH_SETTINGS).contains(&record.schema) {
        let (found, known) = (record.schema, SCHEMA_WITH_SETTINGS);
        return Err(damage(format!(
            "has version {found}, this program reads up to version {known}; use the newer program"
        )));
    }
    let phase = record.phase();
    let form = |stored: StoredForm| -> Result<Form, Damage> {
        decode(parsed.kind(), &stored.sent)?;
        decode(parsed.kind(), &stored.spec)?;
        let settings = Settings::from_bytes(stored.settings);
        if settings != Settings::default() {
            decode_settings(parsed.kind(), &settings)?;
        }
        let secrets = stored.secrets.into_iter().map(|s| {
            let value = open(&hex(&s.digest));
            Secret {
                field: s.field,
                digest: s.digest,
                value,
            }
        });
        Ok(Form {
            sent: stored.sent,
            spec: stored.spec,
            secrets: secrets.collect(),
            settings,
        })
    };
    let now = record
        .form
        .ok_or_else(|| damage("has no form".to_owned()))?;
    let (now, next) = (form(now)?, record.next.map(form).transpose()?);
    match (phase, &next) {
        (Phase::Unset, _) => Err(damage(format!("has the unknown phase {}", record.phase))),
        (Phase::Updating, None) => Err(damage("has no next form".to_owned())),
        _ => Ok(Stored {
            name: parsed,
            phase,
            form: now,
            next,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ext::v1::NvmeRemoteControllerSettings;
    use api::storage::v1::EncryptedVolume;

    fn form() -> (ResourceName, Form) {
        let name = ResourceName::parse("encryptedVolumes/e", "name").unwrap();
        let volume = EncryptedVolume {
            volume_name_ref: "mallocVolumes/m".to_owned(),
            key: b"0123456789abcdef".to_vec(),
            ..Default::default()
        };
        let keys = Keys::derive(&[3; 32]);
        let form = Form::take(&name, fields::to_dynamic(&volume), &keys);
        (name, form)
    }

    #[test]
    fn the_key_of_an_encrypted_volume_is_not_in_its_record() {
        let (name, form) = form();
        let bytes = write(Phase::Ready, &form, None);
        assert!(!bytes.windows(4).any(|w| w == b"0123"));
        let file = form.secrets[0].file();
        let open = |asked: &str| (asked == file).then(|| form.secrets[0].value.clone().unwrap());
        let stored = read(name.as_str(), &bytes, &open).unwrap();
        assert_eq!(stored.form, form);
        let whole = stored.form.whole(name.kind()).unwrap();
        let volume = EncryptedVolume::decode(&*whole).unwrap();
        assert_eq!(volume.key, b"0123456789abcdef");
        assert_eq!(volume.name, "encryptedVolumes/e");
    }

    #[test]
    fn a_secret_that_cannot_be_opened_is_named() {
        let (name, form) = form();
        let bytes = write(Phase::Ready, &form, None);
        let stored = read(name.as_str(), &bytes, &|_| None).unwrap();
        assert_eq!(stored.form.whole(name.kind()), Err("key".to_owned()));
    }

    #[test]
    fn a_record_of_a_newer_program_is_refused_with_the_way_out() {
        let (name, _) = form();
        let record = Record {
            schema: 3,
            ..Default::default()
        };
        let error = read(name.as_str(), &record.encode_to_vec(), &|_| None).unwrap_err();
        assert!(error.0.contains("use the newer program"), "{error}");
        assert!(read(name.as_str(), &[0xff; 9], &|_| None).is_err());
        assert!(read("nonsense", &[], &|_| None).is_err());
    }

    #[test]
    fn settings_are_in_the_record_and_an_older_program_refuses_to_lose_them() {
        let name = ResourceName::parse("nvmeRemoteControllers/r", "name").unwrap();
        let chosen = NvmeRemoteControllerSettings {
            connect_timeout_ms: Some(700),
            ..Default::default()
        };
        let plain = Form::default();
        let set = Form {
            settings: Settings::new(&chosen),
            ..Form::default()
        };
        let schema = |bytes: &[u8]| Record::decode(bytes).unwrap().schema;
        assert_eq!(schema(&write(Phase::Ready, &plain, None)), 1);
        assert_eq!(schema(&write(Phase::Ready, &set, None)), 2);
        let bytes = write(Phase::Updating, &plain, Some(&set));
        assert_eq!(schema(&bytes), 2);
        let stored = read(name.as_str(), &bytes, &|_| None).unwrap();
        let next: NvmeRemoteControllerSettings = stored.next.unwrap().settings.read().unwrap();
        assert_eq!(next, chosen);
        assert_eq!(stored.form, plain);
        let malloc = "mallocVolumes/m";
        assert!(read(malloc, &bytes, &|_| None).is_err(), "it has none");
    }

    #[test]
    fn what_a_handler_returns_never_brings_secrets_into_the_record() {
        let (name, form) = form();
        let whole = form.whole(name.kind()).unwrap();
        let made = form.made(&name, &whole).unwrap();
        assert_eq!(made, form);
    }
}
