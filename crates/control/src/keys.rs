//! Keys derived from the key file: for sealing secrets, comparing them, and signing page tokens.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::{Zeroize, Zeroizing};

/// Bytes in the key file's key: AES-256.
pub const KEY_BYTES: usize = 32;
/// Bytes of nonce before the sealed bytes.
pub(crate) const NONCE_BYTES: usize = NONCE_LEN;

/// The keys of one server. Everything is derived from one key, which is kept outside the store.
pub struct Keys {
    seal: LessSafeKey,
    digest: hmac::Key,
    page: hmac::Key,
    check: [u8; KEY_BYTES],
}

impl Keys {
    /// Derives the keys, each by HMAC-SHA-256 over its purpose (a one-block HKDF expansion,
    /// RFC 5869, 2.3; the key file holds uniformly random bytes, so nothing is to be extracted).
    pub fn derive(key: &[u8; KEY_BYTES]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, key);
        let derive = |purpose: &[u8]| {
            let tag = hmac::sign(&root, &[purpose, &[1]].concat());
            let bytes: [u8; KEY_BYTES] = tag.as_ref().try_into().expect("SHA-256 gives 32 bytes");
            Zeroizing::new(bytes)
        };
        let seal = UnboundKey::new(&AES_256_GCM, &*derive(b"opi seal"));
        Self {
            seal: LessSafeKey::new(seal.expect("AES-256 takes 32 bytes")),
            digest: hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"opi digest")),
            page: hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"opi page")),
            check: *derive(b"opi check"),
        }
    }

    /// A value that is stored to notice a wrong key file; it tells nothing about the key.
    pub fn check(&self) -> [u8; KEY_BYTES] {
        self.check
    }

    /// The keyed hash of a secret in one field of one resource. It names the sealed file, and
    /// tells whether two secrets are the same without keeping either.
    pub(crate) fn digest(&self, resource: &str, field: &str, secret: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.digest);
        for part in [resource.as_bytes(), field.as_bytes(), secret] {
            // Each part is led by its length, so that no two triples read the same.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    /// The signature of a page token.
    pub(crate) fn sign_page(&self, payload: &[u8]) -> Vec<u8> {
        hmac::sign(&self.page, payload).as_ref().to_vec()
    }

    /// Whether a page token's signature is ours.
    pub(crate) fn verify_page(&self, payload: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&self.page, payload, signature).is_ok()
    }

    /// Seals a secret for the place called `place`: nonce, then the sealed bytes with their tag.
    pub(crate) fn seal(&self, place: &str, nonce: [u8; NONCE_BYTES], secret: &[u8]) -> Vec<u8> {
        let mut sealed = secret.to_vec();
        let aad = Aad::from(place.as_bytes());
        let nonce_value = Nonce::assume_unique_for_key(nonce);
        self.seal
            .seal_in_place_append_tag(nonce_value, aad, &mut sealed)
            .expect("a secret is far below the limit of AES-GCM");
        let whole = [&nonce[..], &sealed].concat();
        sealed.zeroize();
        whole
    }

    /// Opens what [`Keys::seal`] sealed for the same place; `None` if it was changed, moved, or
    /// sealed with another key.
    pub(crate) fn open(&self, place: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut bytes = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .seal
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut bytes)
            .ok()?;
        let length = length.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_only_in_its_place_and_with_its_key() {
        let keys = Keys::derive(&[7; KEY_BYTES]);
        let sealed = keys.seal("a", [9; NONCE_BYTES], b"secret");
        assert_eq!(keys.open("a", &sealed).unwrap().as_slice(), b"secret");
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        assert!(keys.open("b", &sealed).is_none());
        assert!(Keys::derive(&[8; KEY_BYTES]).open("a", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut torn = sealed.clone();
            torn[at] ^= 1;
            assert!(keys.open("a", &torn).is_none());
            assert!(keys.open("a", &sealed[..at]).is_none());
        }
    }

    #[test]
    fn the_same_secret_has_another_digest_elsewhere() {
        let keys = Keys::derive(&[7; KEY_BYTES]);
        let digest = keys.digest("r", "key", b"s");
        assert_eq!(digest, keys.digest("r", "key", b"s"));
        assert_ne!(digest, keys.digest("rk", "ey", b"s"));
        assert_ne!(digest, keys.digest("r", "key", b"t"));
        assert_ne!(
            digest,
            Keys::derive(&[8; KEY_BYTES]).digest("r", "key", b"s")
        );
    }
}
