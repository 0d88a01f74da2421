//! Key files: the certificates in them, and whether one is the pinned key.

use pgp::armor::BlockType;
use pgp::composed::{ArmorOptions, Deserializable, SignedPublicKey};
use pgp::types::{KeyDetails, Tag};

use super::packets;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// One certificate of a key file: a primary key with its user IDs, subkeys and signatures.
#[derive(Debug, Clone)]
pub struct Certificate {
    key: SignedPublicKey,
    fingerprint: Fingerprint,
}

impl Certificate {
    /// The fingerprint of the primary key.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The certificate alone, in the armoured form which apt takes from a file named `.asc`. The
    /// same certificate always gives the same text.
    ///
    /// # Errors
    /// Install error when it cannot be written, which no certificate that was read leads to.
    pub fn armoured(&self) -> Result<String> {
        self.key.to_armored_string(ArmorOptions::default()).map_err(|error| {
            Error::install(format!("write the key {}", self.fingerprint)).because(error)
        })
    }

    pub(super) fn key(&self) -> &SignedPublicKey {
        &self.key
    }

    /// `None` for what the crate cannot parse and for a key whose fingerprint has not the 40
    /// digits of version 4.
    fn parse(packets: &[u8]) -> Option<Self> {
        let key = SignedPublicKey::from_bytes(packets).ok()?;
        let fingerprint = Fingerprint::parse(&key.fingerprint().to_string()).ok()?;
        Some(Self { key, fingerprint })
    }
}

/// Every certificate of a key file, in its order. The file is binary or armoured; an armoured one
/// may hold several blocks, and a block several certificates, as the keyrings of distributions
/// do. Certificates with an algorithm or of a version that is not known here are left out.
///
/// # Errors
/// Install error when the file is no key file, is cut off, or no certificate is left.
pub fn certificates(bytes: &[u8]) -> Result<Vec<Certificate>> {
    let pieces = pieces(bytes)?;
    let found: Vec<Certificate> =
        pieces.iter().filter_map(|piece| Certificate::parse(piece)).collect();
    if found.is_empty() {
        return Err(unreadable("its keys have an unknown version or algorithm, or are damaged"));
    }
    Ok(found)
}

/// Accepts a key file that holds one public key, with exactly this fingerprint.
///
/// # Errors
/// Install error naming both fingerprints.
pub fn check_key(bytes: &[u8], pinned: &Fingerprint) -> Result<()> {
    let found = single(bytes)?;
    if found.fingerprint() == pinned {
        return Ok(());
    }
    Err(Error::install("trust the repository's key: it is not the pinned one")
        .because(format!("pinned {pinned}, found {}", found.fingerprint()))
        .hint(
            "NVIDIA changes keys rarely and says so; a recipe with the new fingerprint accepts it",
        ))
}

/// The one key of a key file in the armoured form, as [`Certificate::armoured`]: what stands
/// around it in the file is left out, because nothing has looked at it.
///
/// # Errors
/// Install error when it is not one key.
pub fn armoured(bytes: &[u8]) -> Result<String> {
    single(bytes)?.armoured()
}

fn single(bytes: &[u8]) -> Result<Certificate> {
    match pieces(bytes)?.as_slice() {
        [piece] => Certificate::parse(piece)
            .ok_or_else(|| unreadable("it has an unknown version or algorithm, or is damaged")),
        // apt would trust any of them where no fingerprint narrows it down, also one that this
        // program cannot parse.
        pieces => Err(unreadable(&format!("it holds {} keys", pieces.len()))),
    }
}

/// The packets of each certificate of a file; at least one.
fn pieces(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for block in blocks(bytes)? {
        let packets = packets::split(&block).ok_or_else(|| unreadable("it is cut off"))?;
        for packet in packets {
            match packet.tag {
                // GnuPG's own keyrings keep its opinions between the signatures.
                Tag::Trust | Tag::Marker | Tag::Padding => continue,
                Tag::PublicKey => pieces.push(Vec::new()),
                _ => {}
            }
            match pieces.last_mut() {
                Some(piece) => piece.extend_from_slice(packet.bytes),
                None => return Err(unreadable("it does not begin with a public key")),
            }
        }
    }
    if pieces.is_empty() {
        return Err(unreadable("it is empty"));
    }
    Ok(pieces)
}

/// The binary contents of a file: its own, or that of each of its armour blocks.
fn blocks(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    // The highest bit of the first byte marks a packet; armour is ASCII.
    if bytes.first().is_none_or(|first| first & 0x80 != 0) {
        return Ok(vec![bytes.to_vec()]);
    }
    let text = String::from_utf8_lossy(bytes);
    let starts: Vec<usize> = text.match_indices(BEGIN).map(|(position, _)| position).collect();
    if starts.is_empty() {
        return Err(unreadable(&format!("it has no line `{BEGIN}`")));
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| packets::dearmour(&text[*start..end], BlockType::PublicKey))
        .collect::<Option<_>>()
        .ok_or_else(|| unreadable("its armour is damaged or cut off"))
}

fn unreadable(cause: &str) -> Error {
    Error::install("read the repository's key: it is no OpenPGP public key").because(cause)
}
