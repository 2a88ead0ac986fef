//! NVMe qualified names: the identity of a host or of a subsystem.

use std::fmt;
use std::str::FromStr;

use super::text;

/// Longest NQN, in bytes; a field holds one more for the terminator (NVMe Base 2.1, 4.7).
pub const NQN_MAX: usize = 223;
/// Size of an NQN field in a data structure, in bytes.
pub const NQN_FIELD: usize = 256;
/// Name that every discovery subsystem answers to (NVMe Base 2.1, 4.7).
pub const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";
const UUID_LEN: usize = 36;
const LABEL_MAX: usize = 63;

/// A well-formed NVMe qualified name.
///
/// Either `nqn.yyyy-mm.<reverse domain>:<name>`, or the form with a UUID, or the well-known name of
/// the discovery subsystem (NVMe Base 2.1, 4.7). Comparison is byte by byte, as specified.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nqn(String);

/// Why a text is not an NQN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NqnError {
    /// More than [`NQN_MAX`] bytes.
    TooLong(usize),
    /// Does not begin with `nqn.`.
    Prefix,
    /// No `yyyy-mm.` after the prefix, or a month that is none.
    Date,
    /// The reverse domain has an empty or ill-formed label.
    Domain,
    /// Nothing after the domain: the name itself is missing.
    Name,
    /// The UUID form without a UUID of 8-4-4-4-12 hexadecimal digits.
    Uuid,
    /// A control character, or bytes that are not UTF-8.
    Text,
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NqnError::TooLong(len) => {
                write!(f, "nqn has {len} bytes, at most {NQN_MAX} are allowed")
            }
            NqnError::Prefix => f.write_str("nqn must begin with \"nqn.\""),
            NqnError::Date => f.write_str("nqn needs a date after \"nqn.\", as in nqn.2014-08."),
            NqnError::Domain => f.write_str(
                "nqn needs a reverse domain after its date, as in nqn.2014-08.org.example:name",
            ),
            NqnError::Name => f.write_str("nqn needs a colon and a name after its domain"),
            NqnError::Uuid => f.write_str("nqn of the uuid form needs a uuid like 8-4-4-4-12"),
            NqnError::Text => f.write_str("nqn must be UTF-8 without control characters"),
        }
    }
}

impl std::error::Error for NqnError {}

impl Nqn {
    /// Checks `text` against the rules.
    ///
    /// # Errors
    /// [`NqnError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Nqn, NqnError> {
        check(text).map(|()| Nqn(text.to_owned()))
    }

    /// Reads an NQN field: UTF-8 up to the first NUL.
    ///
    /// # Errors
    /// [`NqnError`] as for [`Nqn::parse`]; a field without a NUL is too long.
    pub fn from_field(field: &[u8; NQN_FIELD]) -> Result<Nqn, NqnError> {
        let len = field.iter().position(|&b| b == 0).unwrap_or(NQN_FIELD);
        if len > NQN_MAX {
            return Err(NqnError::TooLong(len));
        }
        Nqn::parse(std::str::from_utf8(&field[..len]).map_err(|_| NqnError::Text)?)
    }

    /// The NQN field of a data structure.
    pub fn field(&self) -> [u8; NQN_FIELD] {
        text::terminated(&self.0)
    }

    /// The discovery subsystem's name.
    pub fn discovery() -> Nqn {
        Nqn(DISCOVERY.to_owned())
    }

    /// Whether this is the discovery subsystem's name.
    pub fn is_discovery(&self) -> bool {
        self.0 == DISCOVERY
    }

    /// The name with the UUID of the given bytes, most significant first.
    pub fn from_uuid(uuid: &[u8; 16]) -> Nqn {
        let mut name = String::with_capacity(UUID_PREFIX.len() + UUID_LEN);
        name.push_str(UUID_PREFIX);
        for (at, byte) in uuid.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                name.push('-');
            }
            name.push_str(&format!("{byte:02x}"));
        }
        Nqn(name)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), NqnError> {
    if text.len() > NQN_MAX {
        return Err(NqnError::TooLong(text.len()));
    }
    let rest = text.strip_prefix("nqn.").ok_or(NqnError::Prefix)?;
    if text.chars().any(char::is_control) {
        return Err(NqnError::Text);
    }
    if text == DISCOVERY {
        return Ok(());
    }
    if let Some(uuid) = text.strip_prefix(UUID_PREFIX) {
        return if is_uuid(uuid) {
            Ok(())
        } else {
            Err(NqnError::Uuid)
        };
    }
    let (date, rest) = rest.split_at_checked(8).ok_or(NqnError::Date)?;
    if !is_date(date) {
        return Err(NqnError::Date);
    }
    let (domain, name) = match rest.split_once(':') {
        Some((domain, name)) => (domain, Some(name)),
        None => (rest, None),
    };
    if !domain.split('.').all(is_label) {
        return Err(NqnError::Domain);
    }
    match name {
        Some(name) if !name.is_empty() => Ok(()),
        _ => Err(NqnError::Name),
    }
}

/// `yyyy-mm.` with a month from 01 to 12.
fn is_date(text: &str) -> bool {
    let b = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| b[range].iter().all(u8::is_ascii_digit);
    let month = matches!(&b[5..7], [b'0', b'1'..=b'9'] | [b'1', b'0'..=b'2']);
    digits(0..4) && b[4] == b'-' && month && b[7] == b'.'
}

/// A label of a domain name: letters, digits and inner hyphens (RFC 1034, 3.5 with RFC 1123, 2.1).
fn is_label(label: &str) -> bool {
    let plain = label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain
        && (1..=LABEL_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_uuid(text: &str) -> bool {
    text.len() == UUID_LEN
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        Nqn::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_field_are_accepted() {
        for name in [
            "nqn.2014-08.org.nvmexpress.discovery",
            "nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c",
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2022-09.io.spdk:opi3",
            "nqn.2016-06.io.spdk.csi:subsystem:uuid:x",
            "nqn.2019-05.com.3par:a:b.c",
        ] {
            assert_eq!(Nqn::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        let long = format!("nqn.2016-06.io.spdk:{}", "x".repeat(204));
        for (name, why) in [
            ("", NqnError::Prefix),
            ("iqn.2016-06.io.spdk:x", NqnError::Prefix),
            ("nqn.2016-6.io.spdk:x", NqnError::Date),
            ("nqn.2016-13.io.spdk:x", NqnError::Date),
            ("nqn.2016", NqnError::Date),
            ("nqn.2016-06.:x", NqnError::Domain),
            ("nqn.2016-06.io..spdk:x", NqnError::Domain),
            ("nqn.2016-06.io.-spdk:x", NqnError::Domain),
            ("nqn.2016-06.io.spdk", NqnError::Name),
            ("nqn.2016-06.io.spdk:", NqnError::Name),
            ("nqn.2014-08.org.nvmexpress:uuid:feb98abe", NqnError::Uuid),
            ("nqn.2016-06.io.spdk:a\u{7}b", NqnError::Text),
            (long.as_str(), NqnError::TooLong(224)),
        ] {
            assert_eq!(Nqn::parse(name), Err(why), "{name}");
        }
    }

    #[test]
    fn a_field_without_a_terminator_is_too_long() {
        assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::TooLong(256)));
        let nqn = Nqn::parse("nqn.2016-06.io.spdk:cnode1").unwrap();
        assert_eq!(Nqn::from_field(&nqn.field()), Ok(nqn));
    }

    #[test]
    fn a_multibyte_character_where_the_date_ends_is_not_split() {
        assert_eq!(Nqn::parse("nqn.2016-06\u{e9}x:y"), Err(NqnError::Date));
    }

    #[test]
    fn the_uuid_form_is_made_from_bytes() {
        let nqn = Nqn::from_uuid(&[0x11; 16]);
        assert_eq!(
            nqn.as_str(),
            "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111"
        );
        assert_eq!(Nqn::parse(nqn.as_str()), Ok(nqn));
    }
}
