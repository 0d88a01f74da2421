//! Keys of repositories: whether a key file holds exactly the pinned key.
//!
//! A fingerprint is computed from the key itself, never read from a file name or a comment.

use std::io::Cursor;

use pgp::composed::{ArmorOptions, Deserializable, SignedPublicKey};
use pgp::types::KeyDetails;

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// Accepts a key file that holds one public key, with exactly this fingerprint.
///
/// # Errors
/// Install error naming both fingerprints.
pub fn check_key(bytes: &[u8], pinned: &Fingerprint) -> Result<()> {
    let found = Fingerprint::parse(&parse(bytes)?.fingerprint().to_string().to_uppercase())?;
    if &found == pinned {
        return Ok(());
    }
    Err(Error::install("trust the repository's key: it is not the pinned one")
        .because(format!("pinned {pinned}, found {found}"))
        .hint(
            "NVIDIA changes keys rarely and says so; a recipe with the new fingerprint accepts it",
        ))
}

/// The key in the armoured form, which apt takes from a file named `.asc`.
///
/// # Errors
/// Install error when it is no key.
pub fn armoured(bytes: &[u8]) -> Result<String> {
    if bytes.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        return Ok(String::from_utf8_lossy(bytes).into_owned());
    }
    parse(bytes)?
        .to_armored_string(ArmorOptions::default())
        .map_err(|error| Error::install("write the repository's key").because(error))
}

fn parse(bytes: &[u8]) -> Result<SignedPublicKey> {
    let unreadable = |cause: String| {
        Error::install("read the repository's key: it is no OpenPGP public key").because(cause)
    };
    let (keys, _) = SignedPublicKey::from_reader_many(Cursor::new(bytes))
        .map_err(|error| unreadable(error.to_string()))?;
    let mut keys: Vec<SignedPublicKey> = keys
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| unreadable(error.to_string()))?;
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        (None, _) => Err(unreadable("the file is empty".to_owned())),
        // apt would trust any of them where no fingerprint narrows it down.
        (Some(_), false) => Err(unreadable(format!("it holds {} keys", keys.len() + 1))),
    }
}
