//! Whether a container has its own driver and CUDA, or those of the host that all share.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the driver's userland gets into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Userland {
    /// NVIDIA's installer installs it there.
    #[default]
    Installer,
    /// The host's image of it is mounted there, read-only: the one of the loaded kernel module.
    Share,
}

/// How the CUDA toolkit gets into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CudaMethod {
    /// apt installs its packages there.
    #[default]
    Apt,
    /// The host's image of their content is mounted there, read-only.
    Share,
}

impl fmt::Display for Userland {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Installer => "installer",
            Self::Share => "share",
        })
    }
}

impl fmt::Display for CudaMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Apt => "apt",
            Self::Share => "share",
        })
    }
}
