//! The ciphers of values.

use std::fmt;

use aes::Aes256;
use bytes::{BufMut, Bytes, BytesMut};
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit, block_padding::Pkcs7};
use crypto_secretbox::{AeadInPlace, KeyInit, XSalsa20Poly1305};
use ring::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};

/// Bytes of salt before each value of [`Cipher::Derived`].
const SALT: usize = 32;
/// Bytes of nonce before each value of [`Cipher::SecretBox`].
const BOX_NONCE: usize = 24;
/// Bytes of the initial vector before each value of [`Cipher::Cbc`].
const BLOCK: usize = 16;

/// One key with what is done with it.
pub(super) enum Cipher {
    /// Nothing.
    Identity,
    /// AES-256-GCM under a key and a nonce that HKDF-SHA256 derives from a random salt for each value.
    Derived(Box<Prk>),
    /// AES-GCM with a random nonce; good for 2^32 writes.
    Gcm(Box<LessSafeKey>),
    /// AES-256-CBC with PKCS #7 padding; not authenticated.
    Cbc(Box<[u8; 32]>),
    /// XSalsa20 and Poly1305; the path is not authenticated.
    SecretBox(Box<XSalsa20Poly1305>),
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "Identity",
            Self::Derived(_) => "Derived",
            Self::Gcm(_) => "Gcm",
            Self::Cbc(_) => "Cbc",
            Self::SecretBox(_) => "SecretBox",
        })
    }
}

/// A key and a nonce together.
struct Okm;

impl KeyType for Okm {
    fn len(&self) -> usize {
        32 + NONCE_LEN
    }
}

const BROKEN: &str = "the value does not decrypt (hint: it was changed or moved, or the key is another)";
const SHORT: &str = "the stored data was shorter than the required size";

impl Cipher {
    pub(super) fn derived(key: &[u8; 32]) -> Self {
        Self::Derived(Box::new(Salt::new(HKDF_SHA256, b"sampan/encryption/v1").extract(key)))
    }

    /// From 16 or 32 bytes.
    pub(super) fn gcm(key: &[u8]) -> Option<Self> {
        let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        let key = UnboundKey::new(algorithm, key).ok()?;
        Some(Self::Gcm(Box::new(LessSafeKey::new(key))))
    }

    pub(super) fn cbc(key: &[u8; 32]) -> Self {
        Self::Cbc(Box::new(*key))
    }

    pub(super) fn secretbox(key: &[u8; 32]) -> Self {
        Self::SecretBox(Box::new(XSalsa20Poly1305::new(key.into())))
    }

    /// Encrypts a value; it begins with `prefix`.
    pub(super) fn seal(&self, prefix: &[u8], path: &[u8], value: &Bytes) -> Result<Bytes, String> {
        let failed = |_| "a value could not be encrypted".to_owned();
        let mut out = BytesMut::with_capacity(prefix.len() + value.len() + 64);
        out.put_slice(prefix);
        match self {
            Self::Identity => return Ok(value.clone()),
            Self::Derived(master) => {
                let salt: [u8; SALT] = rand::random();
                let (key, nonce) = derive(master, &salt)?;
                let mut data = value.to_vec();
                key.seal_in_place_append_tag(nonce, Aad::from(path), &mut data).map_err(failed)?;
                out.put_slice(&salt);
                out.put_slice(&data);
            }
            Self::Gcm(key) => {
                let nonce: [u8; NONCE_LEN] = rand::random();
                let mut data = value.to_vec();
                let unique = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_append_tag(unique, Aad::from(path), &mut data).map_err(failed)?;
                out.put_slice(&nonce);
                out.put_slice(&data);
            }
            Self::Cbc(key) => {
                let iv: [u8; BLOCK] = rand::random();
                let sealed = cbc::Encryptor::<Aes256>::new((&**key).into(), &iv.into());
                out.put_slice(&iv);
                out.put_slice(&sealed.encrypt_padded_vec_mut::<Pkcs7>(value));
            }
            Self::SecretBox(key) => {
                let nonce: [u8; BOX_NONCE] = rand::random();
                let mut data = value.to_vec();
                let tag = key.encrypt_in_place_detached(&nonce.into(), b"", &mut data);
                let tag = tag.map_err(|_| "a value could not be encrypted".to_owned())?;
                // As NaCl has it: the tag comes first.
                out.put_slice(&nonce);
                out.put_slice(&tag);
                out.put_slice(&data);
            }
        }
        Ok(out.freeze())
    }

    /// Decrypts what [`Cipher::seal`] gave.
    pub(super) fn open(&self, prefix: &[u8], path: &[u8], value: &Bytes) -> Result<Bytes, String> {
        let data = value.get(prefix.len()..).unwrap_or_default();
        let split = |length: usize| data.split_at_checked(length).ok_or_else(|| SHORT.to_owned());
        match self {
            Self::Identity => Ok(value.clone()),
            Self::Derived(master) => {
                let (salt, data) = split(SALT)?;
                let (key, nonce) = derive(master, salt)?;
                open_gcm(&key, nonce, path, data)
            }
            Self::Gcm(key) => {
                let (nonce, data) = split(NONCE_LEN)?;
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SHORT.to_owned())?;
                open_gcm(key, nonce, path, data)
            }
            Self::Cbc(key) => {
                let (iv, data) = split(BLOCK)?;
                let iv = <[u8; BLOCK]>::try_from(iv).map_err(|_| SHORT.to_owned())?;
                let opened = cbc::Decryptor::<Aes256>::new((&**key).into(), &iv.into());
                let opened = opened.decrypt_padded_vec_mut::<Pkcs7>(data);
                opened.map(Bytes::from).map_err(|_| BROKEN.to_owned())
            }
            Self::SecretBox(key) => {
                let (nonce, data) = split(BOX_NONCE)?;
                let (tag, data) = data.split_at_checked(BLOCK).ok_or_else(|| SHORT.to_owned())?;
                let nonce = <[u8; BOX_NONCE]>::try_from(nonce).map_err(|_| SHORT.to_owned())?;
                let tag = <[u8; BLOCK]>::try_from(tag).map_err(|_| SHORT.to_owned())?;
                let mut data = data.to_vec();
                let opened = key.decrypt_in_place_detached(&nonce.into(), b"", &mut data, &tag.into());
                opened.map(|()| data.into()).map_err(|_| BROKEN.to_owned())
            }
        }
    }
}

fn open_gcm(key: &LessSafeKey, nonce: Nonce, path: &[u8], data: &[u8]) -> Result<Bytes, String> {
    let mut data = data.to_vec();
    let length = key.open_in_place(nonce, Aad::from(path), &mut data).map_err(|_| BROKEN.to_owned())?.len();
    data.truncate(length);
    Ok(data.into())
}

fn derive(master: &Prk, salt: &[u8]) -> Result<(LessSafeKey, Nonce), String> {
    let failed = |_| "a key could not be derived".to_owned();
    let mut bytes = [0; 32 + NONCE_LEN];
    master.expand(&[salt], Okm).and_then(|okm| okm.fill(&mut bytes)).map_err(failed)?;
    let (key, nonce) = bytes.split_at(32);
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(failed)?;
    Ok((LessSafeKey::new(key), Nonce::try_assume_unique_for_key(nonce).map_err(failed)?))
}
