//! Page tokens: stateless, and of use only where they were given out (AIP-158).

use api::error::{Error, Result};
use prost::Message;

use crate::keys::Keys;

/// Bytes of signature in a token: enough that guessing is hopeless.
const SIGNATURE_BYTES: usize = 32;
/// Longest token that is looked at, in characters: two names of 512 bytes and more, in hex.
const TOKEN_CHARS_MAX: usize = 4096;

/// Where the next page begins.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Page {
    /// What is listed: a collection, or another listing's own mark.
    #[prost(string, tag = "1")]
    pub(crate) listing: String,
    /// The parent, as the request named it after normalisation.
    #[prost(string, tag = "2")]
    pub(crate) parent: String,
    /// The last name of the page before.
    #[prost(string, tag = "3")]
    pub(crate) last: String,
}

impl Page {
    /// The token, in hexadecimal.
    pub(crate) fn token(&self, keys: &Keys) -> String {
        let payload = self.encode_to_vec();
        let signature = keys.sign_page(&payload);
        hex(&[&signature[..SIGNATURE_BYTES], &payload[..]].concat())
    }

    /// Reads a token given out for the same listing; empty means the first page.
    pub(crate) fn read(keys: &Keys, token: &str, listing: &str, parent: &str) -> Result<Self> {
        if token.is_empty() {
            let (listing, parent) = (listing.to_owned(), parent.to_owned());
            return Ok(Self {
                listing,
                parent,
                last: String::new(),
            });
        }
        let wrong = |why| Error::invalid("page_token", why);
        let forged = || wrong("this server did not give it out; start again without a token");
        if token.len() > TOKEN_CHARS_MAX {
            return Err(forged());
        }
        let bytes = unhex(token).ok_or_else(forged)?;
        let (signature, payload) = bytes.split_at_checked(SIGNATURE_BYTES).ok_or_else(forged)?;
        if !keys.verify_page(payload, signature) {
            return Err(forged());
        }
        let page = Self::decode(payload).map_err(|_| forged())?;
        if page.listing != listing || page.parent != parent {
            return Err(wrong(
                "it belongs to another list; send it with the request it came from",
            ));
        }
        Ok(page)
    }
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
    bytes
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}

/// Lower- or upper-case hexadecimal as bytes.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::derive(&[1; 32])
    }

    fn page() -> Page {
        Page {
            listing: "l".into(),
            parent: "p".into(),
            last: "n".into(),
        }
    }

    #[test]
    fn a_token_is_read_back_where_it_was_given() {
        let token = page().token(&keys());
        assert_eq!(Page::read(&keys(), &token, "l", "p").unwrap(), page());
        assert_eq!(Page::read(&keys(), "", "l", "p").unwrap().last, "");
    }

    #[test]
    fn a_token_of_another_list_is_refused() {
        let token = page().token(&keys());
        assert!(Page::read(&keys(), &token, "x", "p").is_err());
        assert!(Page::read(&keys(), &token, "l", "x").is_err());
    }

    #[test]
    fn a_forged_token_is_refused() {
        let token = page().token(&keys());
        assert!(Page::read(&Keys::derive(&[2; 32]), &token, "l", "p").is_err());
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            let forged = String::from_utf8(forged).unwrap();
            assert!(Page::read(&keys(), &forged, "l", "p").is_err());
            assert!(Page::read(&keys(), &token[..at], "l", "p").is_err() || at == 0);
        }
        assert!(Page::read(&keys(), "not hex", "l", "p").is_err());
        assert!(Page::read(&keys(), &"0".repeat(10_000), "l", "p").is_err());
    }
}
