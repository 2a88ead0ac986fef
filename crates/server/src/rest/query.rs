//! Query parameters: the fields of a request that stand neither in the path nor in the body.

use std::collections::BTreeMap;

use api::Error;
use percent_encoding::percent_decode_str;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};

use super::json::from_text;

/// Most parameters in one request: more than any request has fields, and room for long lists.
const PARAMETERS_MAX: usize = 256;

/// Sets the fields that a query names. `taken` are fields that path and body have set; they and
/// those below cannot be given again.
///
/// # Errors
/// A parameter is no field, is taken, or has a value of the wrong type.
pub(crate) fn apply(
    query: &str,
    taken: &[&str],
    request: &mut DynamicMessage,
) -> Result<(), Error> {
    let mut fields: BTreeMap<String, (Vec<FieldDescriptor>, Vec<String>)> = BTreeMap::new();
    for (count, pair) in query.split('&').filter(|p| !p.is_empty()).enumerate() {
        if count == PARAMETERS_MAX {
            let why = format!("has more than {PARAMETERS_MAX} parameters");
            return Err(Error::invalid("query", why));
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key)?, decode(value)?);
        let path = resolve(request, &key)?;
        let dotted = path
            .iter()
            .map(FieldDescriptor::name)
            .collect::<Vec<_>>()
            .join(".");
        let below = |t: &&&str| dotted == **t || dotted.starts_with(&format!("{t}."));
        if let Some(taken) = taken.iter().find(below) {
            let why = format!("cannot be a query parameter: path or body hold {taken} already");
            return Err(Error::invalid(dotted, why));
        }
        fields
            .entry(dotted)
            .or_insert_with(|| (path, Vec::new()))
            .1
            .push(value);
    }
    for (dotted, (path, values)) in fields {
        set(request, &path, &values).map_err(|why| Error::invalid(dotted, why))?;
    }
    Ok(())
}

/// Sets the field that a variable of the path names.
///
/// # Errors
/// The value is not of the field's type.
pub(crate) fn set_variable(
    request: &mut DynamicMessage,
    dotted: &str,
    value: String,
) -> Result<(), Error> {
    let path = resolve(request, dotted)?;
    set(request, &path, &[value]).map_err(|why| Error::invalid(dotted, why))
}

/// Finds the field of a dotted path, in either spelling.
fn resolve(request: &DynamicMessage, key: &str) -> Result<Vec<FieldDescriptor>, Error> {
    let mut path = Vec::new();
    let mut at = Some(request.descriptor());
    for segment in key.split('.') {
        let found = at.as_ref().and_then(|m| {
            m.get_field_by_name(segment)
                .or_else(|| m.get_field_by_json_name(segment))
        });
        let Some(field) = found else {
            let why = format!("is not a field of {}", request.descriptor().name());
            return Err(Error::invalid(shorten(key), why));
        };
        at = match field.kind() {
            Kind::Message(inner) if !field.is_list() && !field.is_map() => Some(inner),
            _ => None,
        };
        path.push(field);
    }
    Ok(path)
}

fn set(
    request: &mut DynamicMessage,
    path: &[FieldDescriptor],
    values: &[String],
) -> Result<(), String> {
    let [field, rest @ ..] = path else {
        return Err("is empty".to_owned());
    };
    if rest.is_empty() {
        request.set_field(field, from_text(field, values)?);
        return Ok(());
    }
    match request.get_field_mut(field) {
        Value::Message(inner) => set(inner, rest, values),
        _ => Err("goes on below a value".to_owned()),
    }
}

fn decode(text: &str) -> Result<String, Error> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    let decoded = decoded.map_err(|_| Error::invalid("query", "is not UTF-8"))?;
    Ok(decoded.into_owned())
}

/// Keeps a senseless key from filling the error.
fn shorten(key: &str) -> String {
    key.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str) -> DynamicMessage {
        DynamicMessage::new(api::pool().get_message_by_name(name).unwrap())
    }

    fn parse(name: &str, query: &str) -> Result<String, Error> {
        let mut request = message(name);
        apply(query, &["aio_volume", "name"], &mut request)?;
        Ok(serde_json::to_string(&request).unwrap())
    }

    const LIST: &str = "opi_api.storage.v1.ListAioVolumesRequest";
    const UPDATE: &str = "opi_api.storage.v1.UpdateAioVolumeRequest";
    const WATCH: &str = "opi_ext.storage.v1.WatchObservationsRequest";
    const CONTROLLER: &str = "opi_api.storage.v1.NvmeControllerSpec";

    #[test]
    fn both_spellings_set_a_field() {
        let expected = r#"{"pageSize":7,"pageToken":"a b/c"}"#;
        for query in [
            "page_size=7&page_token=a+b%2Fc",
            "pageSize=7&pageToken=a%20b/c",
        ] {
            assert_eq!(parse(LIST, query).unwrap(), expected);
        }
    }

    #[test]
    fn bools_lists_enums_wrappers_and_inner_fields_are_read() {
        assert_eq!(
            parse(UPDATE, "allowMissing=true").unwrap(),
            r#"{"allowMissing":true}"#
        );
        assert_eq!(
            parse(WATCH, "names=a&names=b").unwrap(),
            r#"{"names":["a","b"]}"#
        );
        let by_name = parse(CONTROLLER, "trtype=NVME_TRANSPORT_TYPE_TCP").unwrap();
        assert_eq!(parse(CONTROLLER, "trtype=4").unwrap(), by_name);
        let pcie = parse(CONTROLLER, "pcieId.portId=0&max_limit.rd_iops_kiops=9").unwrap();
        assert!(
            pcie.contains(r#""portId":0"#) && pcie.contains(r#""rdIopsKiops":"9""#),
            "{pcie}"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, query, field) in [
            (LIST, "page=7", "page"),
            (LIST, "page_size.x=7", "page_size.x"),
            (LIST, "page_size=many", "page_size"),
            (LIST, "page_size=1&pageSize=2", "page_size"),
            (LIST, "page_size", "page_size"),
            (LIST, "page_token=%ff", "query"),
            (UPDATE, "allow_missing=maybe", "allow_missing"),
            (UPDATE, "aio_volume.uuid=x", "aio_volume.uuid"),
        ] {
            let error = parse(name, query).unwrap_err();
            assert_eq!(
                error.field.as_deref(),
                Some(field),
                "{query}: {}",
                error.message
            );
        }
    }

    #[test]
    fn a_query_of_a_million_parameters_is_refused() {
        assert!(parse(LIST, &"page_size=1&".repeat(1_000_000)).is_err());
    }
}
