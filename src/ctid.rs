//! The name of a container: Proxmox's number, or a plain LXC name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A container's name as its runtime knows it.
///
/// Proxmox VE numbers containers `^[1-9][0-9]{2,8}$` (`PVE::JSONSchema`, `pve-vmid`); plain LXC
/// accepts any file name. Both fit this type; [`Ctid::is_proxmox`] tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ctid(String);

impl Ctid {
    /// Reads a container name: letters, digits, `.`, `_` and `-`, not starting with `-` or `.`,
    /// at most 64 characters.
    ///
    /// # Errors
    /// Invalid input, for anything that could leave a directory or be taken for an option.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts_well || text.len() > 64 || !text.chars().all(allowed) {
            return Err(Error::input(format!("read `{text}` as a container ID")).hint(
                "on Proxmox VE a container ID is a number of 3 to 9 digits, see `pct list`",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether Proxmox VE would accept this as a container number.
    pub fn is_proxmox(&self) -> bool {
        (3..=9).contains(&self.0.len())
            && !self.0.starts_with('0')
            && self.0.bytes().all(|b| b.is_ascii_digit())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Ctid {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<Ctid> for String {
    fn from(ctid: Ctid) -> Self {
        ctid.0
    }
}

impl fmt::Display for Ctid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leaves_its_directory_is_refused() {
        for bad in ["", "../x", "-1", ".", "a/b", "a b", "1\n"] {
            assert!(Ctid::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn proxmox_numbers_have_three_to_nine_digits() {
        let proxmox = |text: &str| Ctid::parse(text).unwrap().is_proxmox();
        assert!(proxmox("100") && proxmox("999999999"));
        assert!(!proxmox("99") && !proxmox("0100") && !proxmox("1234567890") && !proxmox("web"));
    }
}
