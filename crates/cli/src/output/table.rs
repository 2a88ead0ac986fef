//! Tables without lines, as wide as what is in them.

use api::kinds::Kind;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as FieldKind, Value};

use crate::client::name_of;
use crate::{flags, words};
use api::units;

/// Fields that identify and are long: for wide tables only.
const IDENTITIES: [&str; 4] = ["uuid", "nguid", "eui64", "fru_guid"];
/// What stands for nothing.
const NOTHING: &str = "-";
/// Spaces between columns.
const GAP: usize = 3;

/// On which side the text of a column stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Align {
    /// Text.
    #[default]
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        let columns = columns
            .into_iter()
            .map(|(name, align)| (name.into(), align))
            .collect();
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row; an empty cell becomes a dash.
    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let dash = |cell: String| {
            if cell.is_empty() {
                NOTHING.to_owned()
            } else {
                cell
            }
        };
        self.rows
            .push(cells.into_iter().map(|c| dash(c.into())).collect());
    }

    /// True without rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Removes the columns in which no row has anything.
    fn drop_empty_columns(&mut self) {
        for i in (0..self.columns.len()).rev() {
            if !self.rows.is_empty() && self.rows.iter().all(|row| row[i] == NOTHING) {
                self.columns.remove(i);
                for row in &mut self.rows {
                    row.remove(i);
                }
            }
        }
    }

    /// The table as text, one line each.
    pub(crate) fn text(&self) -> String {
        let width = |i: usize| {
            let cells = self.rows.iter().map(|row| row[i].chars().count());
            cells
                .chain([self.columns[i].0.chars().count()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let heading: Vec<String> = self.columns.iter().map(|c| c.0.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[i] - cell.chars().count());
                match self.columns[i].1 {
                    Align::Left => line.extend([cell.as_str(), &pad]),
                    Align::Right => line.extend([pad.as_str(), cell]),
                }
                line.push_str(&" ".repeat(GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Resources as a table, with the columns that the descriptor gives.
pub(super) fn resources(kind: &Kind, resources: &[DynamicMessage], wide: bool) -> String {
    if resources.is_empty() {
        return format!("no {}\n", words::word(kind).replace('-', " ") + "s");
    }
    let mut paths = Vec::new();
    flags::collect(&kind.message, &mut Vec::new(), &mut paths, &|field| {
        let long = IDENTITIES.contains(&field.name()) || field.kind() == FieldKind::Bytes;
        field.name() != "name" && !api::fields::behavior(field).secret && (wide || !long)
    });
    let sized = flags::has_size(kind);
    paths.retain(|p| wide || !sized || p[0].name() != "blocks_count");
    let mut columns = vec![("NAME".to_owned(), Align::Left)];
    columns.extend(
        paths
            .iter()
            .map(|path| (heading(path, &paths), align(path))),
    );
    if sized {
        columns.insert(1, ("SIZE".to_owned(), Align::Right));
    }
    let mut table = Table::new(columns);
    for resource in resources {
        let mut cells = vec![words::short_name(&name_of(resource))];
        cells.extend(paths.iter().map(|path| cell(resource, path)));
        if sized {
            cells.insert(1, size_of(resource));
        }
        table.row(cells);
    }
    table.drop_empty_columns();
    table.text()
}

/// The last word of a path in capitals; with the one before when two fields share it.
fn heading(path: &[FieldDescriptor], all: &[Vec<FieldDescriptor>]) -> String {
    let last = |path: &[FieldDescriptor]| path.last().map(|f| f.name().to_owned());
    let shared = all.iter().filter(|other| last(other) == last(path)).count() > 1;
    let from = path.len() - if shared { path.len().min(2) } else { 1 };
    let names: Vec<&str> = path[from..].iter().map(FieldDescriptor::name).collect();
    let text = names.join("-").to_ascii_uppercase().replace('_', "-");
    text.strip_suffix("-NAME-REF").unwrap_or(&text).to_owned()
}

fn align(path: &[FieldDescriptor]) -> Align {
    let field = path.last().expect("a path has a field");
    let scalar = field
        .kind()
        .as_message()
        .and_then(|m| m.get_field_by_name("value"));
    let kind = scalar.map_or_else(|| field.kind(), |f| f.kind());
    match kind {
        FieldKind::String | FieldKind::Enum(_) | FieldKind::Bool | FieldKind::Bytes => Align::Left,
        _ => Align::Right,
    }
}

fn cell(resource: &DynamicMessage, path: &[FieldDescriptor]) -> String {
    let Some(value) = flags::get(resource, path) else {
        return String::new();
    };
    let field = path.last().expect("a path has a field");
    plain(&value, field)
}

/// A value as a person would write it; empty for what is not set.
pub(crate) fn plain(value: &Value, field: &FieldDescriptor) -> String {
    match value {
        Value::Bool(v) => v.to_string(),
        Value::I32(0) | Value::I64(0) | Value::U32(0) | Value::U64(0) | Value::EnumNumber(0) => {
            String::new()
        }
        Value::I32(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::String(v) => v.clone(),
        Value::Bytes(v) => v.iter().map(|b| format!("{b:02x}")).collect(),
        Value::EnumNumber(v) => match field.kind() {
            FieldKind::Enum(values) => flags::enum_word(&values, *v),
            _ => v.to_string(),
        },
        Value::Message(message) => {
            // In a wrapper zero is a value like any other.
            let Some(inner) = message.get_field_by_name("value") else {
                let fields = message.fields();
                let fields =
                    fields.map(|(f, v)| format!("{}={}", words::kebab(f.name()), plain(v, &f)));
                return fields.collect::<Vec<_>>().join(",");
            };
            inner.as_i32().map(|v| v.to_string()).unwrap_or_default()
        }
        Value::List(values) => {
            let all: Vec<String> = values.iter().map(|v| plain(v, field)).collect();
            let messages = matches!(values.first(), Some(Value::Message(_)));
            all.join(if messages { " " } else { "," })
        }
        Value::Map(_) => String::new(),
    }
}

/// The size of a volume for people; empty when it is not known.
pub(crate) fn size_of(resource: &DynamicMessage) -> String {
    let int = |name: &str| {
        let value = resource.get_field_by_name(name);
        u64::try_from(value.and_then(|v| v.as_i64()).unwrap_or_default()).unwrap_or_default()
    };
    match int("block_size").checked_mul(int("blocks_count")) {
        None | Some(0) => String::new(),
        Some(bytes) => units::size(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(word: &str, json: &str) -> (&'static Kind, DynamicMessage) {
        let kind = words::resolve(word).unwrap();
        let mut reader = serde_json::Deserializer::from_str(json);
        (
            kind,
            DynamicMessage::deserialize(kind.message.clone(), &mut reader).unwrap(),
        )
    }

    #[test]
    fn a_table_shows_the_size_and_leaves_out_what_is_empty() {
        let json = r#"{"name":"mallocVolumes/m0","blockSize":"4096","blocksCount":"262144",
            "uuid":"6f1c8e0a-0000-4000-8000-000000000000"}"#;
        let (kind, volume) = read("malloc", json);
        let text = resources(kind, std::slice::from_ref(&volume), false);
        assert_eq!(text, "NAME   SIZE   BLOCK-SIZE\nm0     1GiB         4096\n");
        let text = resources(kind, &[volume], true);
        assert!(
            text.contains("UUID") && text.contains("BLOCKS-COUNT"),
            "{text}"
        );
        assert_eq!(resources(kind, &[], false), "no malloc volumes\n");
    }

    #[test]
    fn enumerations_are_shown_by_their_short_words() {
        let json = r#"{"name":"nvmeSubsystems/s/nvmeControllers/c","spec":{
            "trtype":"NVME_TRANSPORT_TYPE_TCP","fabricsId":{"traddr":"127.0.0.1",
            "trsvcid":"4420","adrfam":"NVME_ADDRESS_FAMILY_IPV4"}},"status":{"active":true}}"#;
        let (kind, controller) = read("nvme-controller", json);
        let text = resources(kind, &[controller], false);
        let mut lines = text.lines();
        let heading: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            heading,
            ["NAME", "TRTYPE", "TRADDR", "TRSVCID", "ADRFAM", "ACTIVE"]
        );
        let row: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(row, ["s/c", "tcp", "127.0.0.1", "4420", "ipv4", "true"]);
    }
}
