//! Which signatures and keys are good enough. The crate verifies whatever is mathematically
//! right, RSA with 512 bits and MD5 included.
//!
//! Not asked here: whether a key or a signature has expired. A key is trusted because its
//! fingerprint is pinned, until the pin changes, and a mirror must still verify years later. The
//! clock is not read either: a signature from the future says something about the clock of this
//! host at most.

use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SignatureVersion};
use pgp::ser::Serialize;
use pgp::types::{EcdsaPublicParams, EddsaLegacyPublicParams, KeyDetails, PublicParams};

use super::binding::Binding;

/// Passed, or why not, as the predicate of a sentence.
pub type Check = Result<(), String>;

/// RSA with fewer bits is within reach of being factored; sqv, apt's verifier since Debian 13,
/// draws the line here, too.
const RSA_BITS: u16 = 2048;

/// Versions 2 and 3 sign less of what they say about themselves, and 5 is no standard.
pub fn version(signature: &Signature) -> Check {
    match signature.version() {
        SignatureVersion::V4 | SignatureVersion::V6 => Ok(()),
        other => Err(format!("has version {}", u8::from(other))),
    }
}

/// A signature over a key or over nothing is none over a text, whatever text it stands below.
/// Clear-signing is defined with text signatures; some programs make binary ones over the same
/// bytes.
pub fn of_a_document(signature: &Signature) -> Check {
    match signature.typ() {
        Some(SignatureType::Text | SignatureType::Binary) => Ok(()),
        _ => Err("is none over a text".to_owned()),
    }
}

/// Somebody else can prepare two texts with the same MD5 or SHA-1 hash, let one be signed and
/// show the other. This holds for text without exception.
pub fn document_hash(signature: &Signature) -> Check {
    match signature.hash_alg() {
        Some(hash) if is_strong(hash) => Ok(()),
        Some(hash @ (HashAlgorithm::Md5 | HashAlgorithm::Sha1 | HashAlgorithm::Ripemd160)) => {
            Err(format!("uses the hash {hash}, which is broken or too short"))
        }
        _ => Err("uses a hash that is too short or not known".to_owned()),
    }
}

/// What a key says about itself is written by its owner alone and pinned by its fingerprint, so
/// that SHA-1 does no harm here; it is told because Debian 13 refuses it. NVIDIA's key of 2022 is
/// such a key. `None` for any other weak hash.
pub fn binding_hash(signature: &Signature) -> Option<Binding> {
    match signature.hash_alg()? {
        hash if is_strong(hash) => Some(Binding::Sound),
        HashAlgorithm::Sha1 => Some(Binding::Sha1),
        _ => None,
    }
}

/// An algorithm that is known, and an RSA key that is long enough. DSA is refused: it is withdrawn
/// (FIPS 186-5), and no repository is known to sign with it.
pub fn strength(key: &impl KeyDetails) -> Check {
    match key.public_params() {
        params @ PublicParams::RSA(_) => match rsa_bits(params) {
            Some(bits) if bits >= RSA_BITS => Ok(()),
            Some(bits) => Err(format!("is made with an RSA key of only {bits} bits")),
            None => Err("is made with an RSA key of unknown length".to_owned()),
        },
        PublicParams::DSA(_) => Err("is made with a DSA key".to_owned()),
        PublicParams::ECDSA(EcdsaPublicParams::Unsupported { .. })
        | PublicParams::EdDSALegacy(EddsaLegacyPublicParams::Unsupported { .. }) => {
            Err("is made with a key on a curve that is not known".to_owned())
        }
        PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => Ok(()),
        _ => Err("is made with a key whose algorithm is not known".to_owned()),
    }
}

fn is_strong(hash: HashAlgorithm) -> bool {
    matches!(
        hash,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

/// The modulus comes first, and before it its length in bits (RFC 9580, 3.2 and 5.5.5.1).
fn rsa_bits(params: &PublicParams) -> Option<u16> {
    let bytes = params.to_bytes().ok()?;
    Some(u16::from_be_bytes(bytes.first_chunk().copied()?))
}
