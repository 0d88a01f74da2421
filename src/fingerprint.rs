//! The fingerprint of an OpenPGP key: what a repository's key is pinned by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A version 4 fingerprint: 40 hexadecimal digits, printed in upper case without blanks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Reads 40 hexadecimal digits of either case.
    ///
    /// # Errors
    /// Invalid input for anything else; a key ID of 8 or 16 digits can be forged and is refused.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() != 40 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::input(format!("read `{text}` as a key fingerprint"))
                .hint("a fingerprint is all 40 hexadecimal digits, without blanks"));
        }
        Ok(Self(text.to_ascii_uppercase()))
    }

    /// The 40 digits in upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text).map_err(|error| error.what().to_owned())
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_but_length_does() {
        let text = "eb693b3035cd5710e231e123a4b469963bf863cc";
        assert_eq!(Fingerprint::parse(text).unwrap().to_string(), text.to_uppercase());
        for bad in ["", "3BF863CC", "A4B469963BF863CC", &text[1..], &format!("{}g", &text[1..])] {
            assert!(Fingerprint::parse(bad).is_err(), "{bad:?}");
        }
    }
}
