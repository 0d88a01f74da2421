//! The processor architectures that NVIDIA publishes drivers for, under the name each of the
//! parties gives them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An architecture with NVIDIA drivers for containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl Architecture {
    /// Reads what `uname -m` prints, which is also what NVIDIA writes into file names.
    ///
    /// # Errors
    /// Invalid input for any other machine.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            _ => Err(Error::input(format!("use architecture `{text}`: it is not supported"))
                .hint("NVIDIA publishes drivers for x86_64 and aarch64")),
        }
    }

    /// The name as `uname -m` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The name in Debian packages (`dpkg --print-architecture`).
    pub fn dpkg(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The multiarch triplet: Debian's libraries lie in `/usr/lib/<triplet>`.
    pub fn triplet(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// The directory of NVIDIA's CUDA repository for server machines
    /// (`https://developer.download.nvidia.com/compute/cuda/repos/<distribution>/<this>`).
    pub fn cuda_repository(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "sbsa",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_party_has_its_own_name_for_arm() {
        let arm = Architecture::parse("aarch64").unwrap();
        assert_eq!((arm.dpkg(), arm.cuda_repository()), ("arm64", "sbsa"));
        assert_eq!(arm.triplet(), "aarch64-linux-gnu");
    }

    #[test]
    fn other_machines_are_refused() {
        assert!(Architecture::parse("i686").is_err());
    }
}
