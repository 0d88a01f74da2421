//! The version of an NVIDIA driver. Not semver: `580.65.06` has a leading zero that counts.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A driver version such as `580.76.05`; equal only when the text is equal, ordered by number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DriverVersion {
    parts: Vec<u32>,
    text: String,
}

impl DriverVersion {
    /// Reads two or three groups of digits joined by dots.
    ///
    /// # Errors
    /// Invalid input when the text is anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let parts: Option<Vec<u32>> = text
            .split('.')
            .map(|part| {
                let plain =
                    (1..=5).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
                plain.then(|| part.parse().ok()).flatten()
            })
            .collect();
        match parts {
            Some(parts) if (2..=3).contains(&parts.len()) => {
                Ok(Self { parts, text: text.to_owned() })
            }
            _ => Err(Error::input(format!("read `{text}` as an NVIDIA driver version")).hint(
                "a driver version looks like 580.76.05; `host` means the loaded kernel module's",
            )),
        }
    }

    /// The version as NVIDIA writes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for DriverVersion {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text).map_err(|_| format!("`{text}` is not an NVIDIA driver version"))
    }
}

impl From<DriverVersion> for String {
    fn from(version: DriverVersion) -> Self {
        version.text
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialOrd for DriverVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DriverVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts).then_with(|| self.text.cmp(&other.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> DriverVersion {
        DriverVersion::parse(text).unwrap()
    }

    #[test]
    fn leading_zeros_are_kept_and_order_is_numeric() {
        assert_eq!(version("580.65.06").to_string(), "580.65.06");
        assert!(version("580.105.08") > version("580.95.05"));
        assert!(version("470.256.02") < version("550.163.01"));
        assert!(version("570.207") < version("575.64.05"));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "580", "580.", "580.76.05.1", "580.76.x", " 580.76", "-1.2", "580.7600000"]
        {
            assert!(DriverVersion::parse(bad).is_err(), "{bad:?}");
        }
    }
}
