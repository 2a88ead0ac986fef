//! Checks of the fields that volume types share. Each takes the path of the field for its error.

use api::error::{Error, Result};
use uuid::Uuid;

/// The smallest block: a disk sector, and the least that NVMe hosts accept.
pub(crate) const BLOCK_BYTES_MIN: i64 = 512;
/// The largest block: that of the Linux block layer.
pub(crate) const BLOCK_BYTES_MAX: i64 = 65_536;

/// A block size for volumes that take any: a power of two from 512 to 65,536.
///
/// # Errors
/// INVALID_ARGUMENT for any other.
pub(crate) fn block_bytes(field: &str, value: i64) -> Result<u32> {
    if (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&value) && value.count_ones() == 1 {
        return Ok(value as u32);
    }
    let text = format!(
        "{value} is not a block size; take a power of two from {BLOCK_BYTES_MIN} to \
         {BLOCK_BYTES_MAX}, such as 512 or 4096"
    );
    Err(Error::invalid(field, text))
}

/// A number of blocks that take `stride` bytes each and `bytes_max` at most.
///
/// # Errors
/// INVALID_ARGUMENT if it is not positive or they take more.
pub(crate) fn blocks(field: &str, value: i64, stride: u32, bytes_max: u64) -> Result<u64> {
    let most = bytes_max / u64::from(stride);
    match u64::try_from(value) {
        Ok(blocks) if blocks > 0 && blocks <= most => Ok(blocks),
        _ => {
            let text = format!(
                "{value} is not a number of blocks; at {stride} bytes a block, take one from 1 \
                 to {most}"
            );
            Err(Error::invalid(field, text))
        }
    }
}

/// A UUID in plain or dashed hexadecimal digits; `None` for an empty text.
///
/// # Errors
/// INVALID_ARGUMENT for anything else, and for the nil UUID, which means none to NVMe hosts.
pub(crate) fn uuid(field: &str, text: &str) -> Result<Option<Uuid>> {
    if text.is_empty() {
        return Ok(None);
    }
    let shown: String = text.chars().take(40).collect();
    // The parser also takes braces and URNs, which no other part of the API does.
    let parsed = matches!(text.len(), 32 | 36)
        .then(|| Uuid::try_parse(text).ok())
        .flatten();
    match parsed {
        Some(uuid) if !uuid.is_nil() => Ok(Some(uuid)),
        Some(_) => Err(Error::invalid(
            field,
            "the nil uuid stands for none; leave the field out",
        )),
        None => {
            let text = format!("`{shown}` is not a uuid; take 32 hexadecimal digits, or dashed");
            Err(Error::invalid(field, text))
        }
    }
}

/// Allows an update to leave a field out (its zero) or repeat it, and nothing else.
///
/// # Errors
/// FAILED_PRECONDITION if the value changes.
pub(crate) fn kept<T>(field: &str, old: &T, new: &T) -> Result<()>
where
    T: Default + PartialEq + std::fmt::Display,
{
    if *new == T::default() || new == old {
        return Ok(());
    }
    let text = format!(
        "{field}: cannot be changed from {old} to {new} in place; leave the field out, or delete \
         the volume and create it anew"
    );
    Err(Error::precondition(text).at(field))
}

/// The same for identifiers, which have several spellings.
///
/// # Errors
/// INVALID_ARGUMENT if it is none, FAILED_PRECONDITION if it is another.
pub(crate) fn kept_uuid(field: &str, now: Uuid, new: &str) -> Result<()> {
    let wanted = uuid(field, new)?.unwrap_or(now);
    kept(field, &now, &wanted)
}

/// Allows an update to leave the number of blocks out (0), repeat it or raise it. Returns the
/// number to have.
///
/// # Errors
/// FAILED_PRECONDITION if it shrinks.
pub(crate) fn grown(field: &str, old: i64, new: i64) -> Result<i64> {
    if new == 0 || new >= old {
        return Ok(old.max(new));
    }
    let text = format!(
        "{field}: cannot shrink from {old} to {new}, which would cut off data; a volume can only \
         grow in place"
    );
    Err(Error::precondition(text).at(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Code;

    #[test]
    fn block_sizes_are_powers_of_two_in_range() {
        for good in [512, 1024, 2048, 4096, 65_536] {
            assert_eq!(block_bytes("f", good).unwrap(), good as u32);
        }
        for bad in [i64::MIN, -512, 0, 1, 256, 511, 520, 4097, 131_072, i64::MAX] {
            let error = block_bytes("null_volume.block_size", bad).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert_eq!(error.field.as_deref(), Some("null_volume.block_size"));
            assert!(error.message.contains(&bad.to_string()), "{error}");
        }
    }

    #[test]
    fn numbers_of_blocks_fit_their_limit() {
        assert_eq!(blocks("f", 8, 512, 4096).unwrap(), 8);
        for bad in [i64::MIN, -1, 0, 9, i64::MAX] {
            assert_eq!(
                blocks("f", bad, 512, 4096).unwrap_err().code,
                Code::InvalidArgument
            );
        }
    }

    #[test]
    fn uuids_come_plain_or_dashed() {
        let dashed = "1b4e28ba-2fa1-11d2-883f-b9a761bde3fb";
        let plain = dashed.replace('-', "").to_uppercase();
        assert_eq!(uuid("f", dashed).unwrap(), uuid("f", &plain).unwrap());
        assert_eq!(uuid("f", "").unwrap(), None);
        let braced = format!("{{{dashed}}}");
        let nil = "0".repeat(32);
        for bad in [
            "x",
            &dashed[1..],
            &braced,
            &nil,
            "1b4e28ba2fa111d2883fb9a761bde3fg",
        ] {
            assert_eq!(
                uuid("f", bad).unwrap_err().code,
                Code::InvalidArgument,
                "{bad}"
            );
        }
        let now = uuid("f", dashed).unwrap().unwrap();
        assert!(kept_uuid("f", now, "").is_ok() && kept_uuid("f", now, &plain).is_ok());
        let other = kept_uuid("f", now, &"1".repeat(32)).unwrap_err();
        assert_eq!(other.code, Code::FailedPrecondition);
    }

    #[test]
    fn an_update_keeps_what_it_leaves_out() {
        assert!(kept("f", &512, &0).is_ok() && kept("f", &512, &512).is_ok());
        assert_eq!(
            kept("f", &512, &4096).unwrap_err().code,
            Code::FailedPrecondition
        );
        assert_eq!(grown("f", 8, 0).unwrap(), 8);
        assert_eq!(grown("f", 8, 9).unwrap(), 9);
        assert_eq!(grown("f", 8, 7).unwrap_err().code, Code::FailedPrecondition);
        assert_eq!(
            grown("f", 8, -1).unwrap_err().code,
            Code::FailedPrecondition
        );
    }
}
