//! Whether a pinned key signed a clear-signed text.
//!
//! One good signature suffices: Debian's `InRelease` carries those of several keys, of which a
//! container trusts some. Each signature is taken to the keys that it names; a signature that
//! names none of the pinned keys says nothing, for or against the text.

use std::io::Cursor;

use pgp::armor::BlockType;
use pgp::composed::SignedPublicSubKey;
use pgp::packet::{Packet, PacketParser, Signature};
use pgp::types::{KeyDetails, Tag};

use super::binding::{self, Binding};
use super::certificate::Certificate;
use super::cleartext::Frame;
use super::{packets, policy};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// A text whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedText {
    /// The signed text alone: dash-escaping is undone, blanks and tabs at the ends of lines, which
    /// a signature does not cover, are gone, and every line ends with a newline.
    pub text: String,
    /// The fingerprint of the pinned primary key that signed, itself or with a subkey.
    pub fingerprint: Fingerprint,
    /// How the key that signed is bound to the pinned key.
    pub binding: Binding,
}

/// Accepts a clear-signed text that at least one of the `keys` signed. Of several that did, the
/// one with the soundest binding is named.
///
/// # Errors
/// Install error: for a file that is not exactly one clear-signed text, when no pinned key signed
/// it, when the text was changed, or when signature or key are too weak or the key is revoked.
pub fn verify_clearsigned(bytes: &[u8], keys: &[Certificate]) -> Result<SignedText> {
    let frame = Frame::parse(bytes)?;
    let canonical = frame.canonical();
    let mut good: Vec<(Binding, &Certificate)> = Vec::new();
    let mut refusals = Vec::new();
    let mut strangers = Vec::new();
    for signature in signatures(&frame.signatures)? {
        let candidates = candidates(&signature, keys);
        if candidates.is_empty() {
            strangers.push(issuer(&signature));
        }
        for candidate in candidates {
            match candidate.accept(&signature, &canonical) {
                Ok(binding) => good.push((binding, candidate.certificate)),
                Err(why) => refusals.push(format!("the signature by {} {why}", candidate.name())),
            }
        }
    }
    if let Some((binding, certificate)) = good.into_iter().min_by_key(|(binding, _)| *binding) {
        let fingerprint = certificate.fingerprint().clone();
        return Ok(SignedText { text: frame.text(), fingerprint, binding });
    }
    Err(explain(refusals, &strangers, keys))
}

/// The error for a file that is no acceptable signed text.
pub(super) fn refused(why: impl std::fmt::Display) -> Error {
    Error::install(format!("trust the release file: {why}"))
}

fn explain(refusals: Vec<String>, strangers: &[String], keys: &[Certificate]) -> Error {
    let mut refusals = refusals.into_iter();
    if let Some(first) = refusals.next() {
        return refusals.fold(refused(first), |error, next| error.because(next));
    }
    let pinned: Vec<&str> = keys.iter().map(|key| key.fingerprint().as_str()).collect();
    let pinned = if pinned.is_empty() { "none".to_owned() } else { pinned.join(", ") };
    Error::by_strangers("trust the release file: none of the pinned keys signed it")
        .because(format!("signed by {}", strangers.join(", ")))
        .because(format!("pinned: {pinned}"))
}

/// The signatures of an armour block; at least one.
fn signatures(block: &str) -> Result<Vec<Signature>> {
    let damaged = || refused("its signature is damaged");
    let bytes = packets::dearmour(block, BlockType::Signature).ok_or_else(damaged)?;
    let mut found = Vec::new();
    let mut unknown = 0;
    for packet in packets::split(&bytes).ok_or_else(damaged)? {
        if packet.tag != Tag::Signature {
            return Err(refused("its signature block holds something else than signatures"));
        }
        match PacketParser::new(Cursor::new(packet.bytes)).next() {
            Some(Ok(Packet::Signature(signature))) => found.push(signature),
            // It may be of a kind that is still to be invented, beside one that is known.
            _ => unknown += 1,
        }
    }
    match (found.is_empty(), unknown) {
        (false, _) => Ok(found),
        (true, 0) => Err(refused("its signature block is empty")),
        (true, _) => Err(refused("its signature is damaged or of a kind that is not known")),
    }
}

/// A key that a signature names.
struct Candidate<'a> {
    certificate: &'a Certificate,
    /// The subkey; `None` for the primary key.
    subkey: Option<&'a SignedPublicSubKey>,
}

impl Candidate<'_> {
    /// How the key is bound, if the signature holds.
    fn accept(
        &self,
        signature: &Signature,
        canonical: &str,
    ) -> std::result::Result<Binding, String> {
        policy::version(signature)?;
        policy::of_a_document(signature)?;
        policy::document_hash(signature)?;
        let key = self.certificate.key();
        // The primary key vouches for its subkeys: they are no stronger than it is.
        policy::strength(&key.primary_key)?;
        let verified = match self.subkey {
            None => signature.verify(&key.primary_key, canonical.as_bytes()),
            Some(subkey) => {
                policy::strength(&subkey.key)?;
                signature.verify(&subkey.key, canonical.as_bytes())
            }
        };
        verified
            .map_err(|_| "does not fit the text, which was changed after signing".to_owned())?;
        self.bound()
    }

    fn bound(&self) -> std::result::Result<Binding, String> {
        let key = self.certificate.key();
        if binding::primary_is_revoked(key) {
            return Err("is made with a revoked key".to_owned());
        }
        let primary = binding::of_primary(key)
            .ok_or_else(|| "is made with a key that has no valid self-signature".to_owned())?;
        match self.subkey {
            // Whether the primary key says that it is for signing does not matter: its owner
            // could give himself a subkey that is.
            None => Ok(primary),
            Some(subkey) if binding::subkey_is_revoked(key, subkey) => {
                Err("is made with a revoked subkey".to_owned())
            }
            Some(subkey) => Ok(primary.max(binding::of_subkey(key, subkey)?)),
        }
    }

    fn name(&self) -> String {
        match self.subkey {
            None => self.certificate.fingerprint().to_string(),
            Some(subkey) => {
                let subkey = subkey.key.fingerprint().to_string().to_uppercase();
                format!("the subkey {subkey} of {}", self.certificate.fingerprint())
            }
        }
    }
}

fn candidates<'a>(signature: &Signature, keys: &'a [Certificate]) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for certificate in keys {
        let key = certificate.key();
        if names(signature, &key.primary_key) {
            found.push(Candidate { certificate, subkey: None });
        }
        for subkey in key.public_subkeys.iter().filter(|subkey| names(signature, &subkey.key)) {
            found.push(Candidate { certificate, subkey: Some(subkey) });
        }
    }
    found
}

/// Whether a signature says that this key made it; a key ID alone may name several keys.
fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        return signature.issuer_key_id().contains(&&key.legacy_key_id());
    }
    fingerprints.contains(&&key.fingerprint())
}

fn issuer(signature: &Signature) -> String {
    let fingerprint = signature.issuer_fingerprint().first().map(ToString::to_string);
    let id = signature.issuer_key_id().first().map(ToString::to_string);
    fingerprint.or(id).map_or_else(|| "a key it does not name".to_owned(), |n| n.to_uppercase())
}
