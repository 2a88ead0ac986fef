//! Fixed-width text fields: space-padded ASCII (serial, model) and NUL-padded UTF-8 (NQNs).

/// `text` in a field of `N` bytes, padded with spaces (NVMe Base 2.1, 1.4.2).
///
/// Characters outside printable ASCII become `?`; what does not fit is cut.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (slot, c) in field.iter_mut().zip(text.chars()) {
        *slot = if c.is_ascii_graphic() || c == ' ' {
            c as u8
        } else {
            b'?'
        };
    }
    field
}

/// `text` in a field of `N` bytes, ended and padded with NUL. What does not fit is cut.
pub fn terminated<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let len = text.len().min(N - 1);
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
    field
}

/// The text of a space-padded or NUL-padded field, without the padding.
///
/// Bytes that are not UTF-8 are replaced: a peer's text is shown, never trusted.
pub fn trimmed(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end])
        .trim_end_matches(' ')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_spaces_and_comes_off_again() {
        let field: [u8; 8] = padded("SN 1");
        assert_eq!(&field, b"SN 1    ");
        assert_eq!(trimmed(&field), "SN 1");
    }

    #[test]
    fn text_that_is_too_long_is_cut_and_odd_characters_are_replaced() {
        assert_eq!(&padded::<4>("abcdef"), b"abcd");
        assert_eq!(&padded::<4>("a\u{e9}\n"), b"a?? ");
        assert_eq!(&terminated::<4>("abcdef"), b"abc\0");
    }
}
