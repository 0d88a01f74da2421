//! OpenPGP: keys of repositories, and release files that are signed with them.
//!
//! Trust comes from a pinned fingerprint alone: it is computed from the key itself, never read
//! from a file name or a comment, and no certification by others counts. [`certificates`] reads a
//! key file, [`verify_clearsigned`] yields the text of an `InRelease` file that one of them
//! signed. The crate `pgp` does the cryptography; which algorithms and keys are good enough is
//! said in `policy`, because the crate has no opinion on it.

mod binding;
mod certificate;
mod cleartext;
mod packets;
mod policy;
#[cfg(test)]
mod tests;
mod verify;

pub use binding::Binding;
pub use certificate::{Certificate, armoured, certificates, check_key};
pub use verify::{SignedText, verify_clearsigned};
