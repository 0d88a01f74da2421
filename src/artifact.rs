//! A wanted file: what it is called, where it may be found, and what it must be.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A file that is wanted. Its identity is the digest; the URLs are hints, so that a mirror, a
/// bundle or a file on disk serves as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The file name, for people and messages.
    pub name: String,
    /// Where it may be found, tried in order: `https://`, `http://`, `file://` or an absolute path.
    pub urls: Vec<String>,
    /// The size in bytes, where known.
    pub size: Option<u64>,
    /// The SHA-256 digest, where known; without one only a check of the content can accept it.
    pub digest: Option<Digest>,
}

/// Why a digest is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// The recipe or the lock names it.
    Pinned,
    /// A chain of signatures leads from it to a pinned key.
    Signed,
    /// The content carries a key whose fingerprint the recipe names.
    Fingerprint,
    /// Published beside the file by the same server, over TLS only; allowed by an explicit flag.
    Tls,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Signed => "signed",
            Self::Fingerprint => "fingerprint",
            Self::Tls => "tls",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_written_in_lower_case() {
        let text = |trust| serde_json::to_string(&trust).unwrap();
        assert_eq!(text(Trust::Fingerprint), "\"fingerprint\"");
        assert_eq!(text(Trust::Tls), "\"tls\"");
    }
}
