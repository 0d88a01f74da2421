//! How a certificate binds its keys together, and whether it takes one of them back.
//!
//! Only signatures of the certificate's own primary key count: those of others, of which
//! distribution keys carry dozens, are neither needed nor verified.

use pgp::composed::{SignedPublicKey, SignedPublicSubKey};
use pgp::packet::{PublicKey, Signature, SignatureType};
use pgp::types::{SignedUser, Tag};

use super::policy;

/// How the key that signed is bound to the pinned key, the sounder first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Binding {
    /// By a self-signature with a good hash.
    Sound,
    /// By self-signatures with SHA-1 alone. apt on Debian 13 (sqv) refuses the key for it.
    Sha1,
}

/// How the primary key says that it is in use: the best of its direct self-signatures and its
/// certifications of its own user IDs. `None` when it has none that verifies.
pub fn of_primary(key: &SignedPublicKey) -> Option<Binding> {
    let primary = &key.primary_key;
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|signature| signature.typ() == Some(SignatureType::Key))
        .filter(|signature| signature.verify_key(primary).is_ok());
    let users = key.details.users.iter().flat_map(|user| certifications(primary, user));
    direct.chain(users).filter_map(usable).min()
}

/// How the primary key binds a subkey for signing.
///
/// # Errors
/// Why it does not, as the predicate of a sentence about the signature. The newest binding says
/// what a subkey is for.
pub fn of_subkey(key: &SignedPublicKey, subkey: &SignedPublicSubKey) -> Result<Binding, String> {
    let primary = &key.primary_key;
    let valid: Vec<&Signature> = subkey
        .signatures
        .iter()
        .filter(|signature| signature.typ() == Some(SignatureType::SubkeyBinding))
        .filter(|signature| usable(signature).is_some())
        .filter(|signature| signature.verify_subkey_binding(primary, &subkey.key).is_ok())
        .collect();
    let newest = valid.iter().max_by_key(|signature| signature.created());
    match newest {
        None => return Err("is made with a subkey that the pinned key does not bind".to_owned()),
        Some(newest) if !newest.key_flags().sign() => {
            return Err("is made with a subkey that is not for signing".to_owned());
        }
        Some(_) => {}
    }
    let back = |signature: &&Signature| {
        let back = signature.embedded_signature()?;
        back.verify_primary_key_binding(&subkey.key, primary).ok()?;
        Some(usable(signature)?.max(usable(back)?))
    };
    valid
        .iter()
        .filter(|signature| signature.key_flags().sign())
        .filter_map(back)
        .min()
        .ok_or_else(|| "is made with a subkey that does not confirm its binding".to_owned())
}

/// Whether the primary key has revoked itself. The reason given and the time do not matter: a
/// distribution that withdraws a key signs with another one. Revocations by others do not count,
/// they cannot be verified without their keys.
pub fn primary_is_revoked(key: &SignedPublicKey) -> bool {
    key.details.revocation_signatures.iter().any(|signature| {
        signature.typ() == Some(SignatureType::KeyRevocation)
            && signature.verify_key(&key.primary_key).is_ok()
    })
}

/// Whether the primary key has revoked a subkey, as [`primary_is_revoked`].
pub fn subkey_is_revoked(key: &SignedPublicKey, subkey: &SignedPublicSubKey) -> bool {
    subkey.signatures.iter().any(|signature| {
        signature.typ() == Some(SignatureType::SubkeyRevocation)
            && signature.verify_subkey_binding(&key.primary_key, &subkey.key).is_ok()
    })
}

/// The certifications of a user ID by its own key that are not revoked.
fn certifications<'a>(primary: &PublicKey, user: &'a SignedUser) -> Vec<&'a Signature> {
    let (revocations, certifications): (Vec<&Signature>, Vec<&Signature>) = user
        .signatures
        .iter()
        .filter(|signature| signature.verify_certification(primary, Tag::UserId, &user.id).is_ok())
        .partition(|signature| signature.typ() == Some(SignatureType::CertRevocation));
    let revoked = revocations.iter().filter_map(|signature| signature.created()).max();
    certifications.into_iter().filter(|signature| signature.created() > revoked).collect()
}

fn usable(signature: &Signature) -> Option<Binding> {
    policy::version(signature).ok()?;
    policy::binding_hash(signature)
}
