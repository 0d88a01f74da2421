//! What containers share instead of having it installed: a driver's userland, and a CUDA toolkit,
//! each as one read-only image that this host mounts and containers see by a bind mount.
//!
//! ```text
//! /var/lib/nvstage/driver/580.76.05.squashfs, 580.76.05.json, 580.76.05/ (mounted)
//! /var/lib/nvstage/driver/current -> 580.76.05/userland
//! /var/lib/nvstage/cuda/12.8-<digest>.squashfs, …
//! ```
//!
//! A bind mount alone would not do: root of a privileged container can remount it for writing. A
//! squashfs has no way to be written. That is why containers see directories inside an image, and
//! never the mount point, which is a directory of this host while nothing is mounted: before
//! `refresh` at boot, or while an image is built again, `current` leads nowhere, and a container that
//! starts then has no driver (`optional` in `lxc.mount.entry`, `lxc.container.conf(5)`).
//!
//! Order of events: [`obtain_driver`] lays out the installer's tree ([`crate::runfile::layout`]),
//! builds the image and mounts it; [`switch`] points `current` at it. LXC follows that link at each
//! start of a container, so a container that runs keeps the whole driver that it began with, and one
//! that starts gets the whole new one. [`obtain_cuda`] unpacks a lock's packages and does the same
//! with them; there is no `current` for those, a container asks for one of them by name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::version::DriverVersion;

mod boot;
mod cuda;
mod current;
mod driver;
mod merge;
mod package;
mod sonames;
mod store;
mod upkeep;

pub use boot::{AtBoot, SUBJECT, build_from_cache, follow, mount_all};
pub use cuda::{cuda_at_hand, cuda_by_id, obtain_cuda};
pub use current::{Switched, current, is_there, switch, withdraw};
pub use driver::{driver_at_hand, obtain_driver};
pub use store::is_used;
pub use upkeep::{Rehashed, list, prune, prune_driver, used_drivers, verify};

/// What lies in the image of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The names of `lib/` that the cache of `ldconfig` will have.
    pub sonames: Vec<String>,
    /// The same of `lib32/`.
    pub sonames32: Vec<String>,
    /// The names in `bin/`.
    pub binaries: Vec<String>,
    /// Absolute paths inside a container, of what lies below `files/`.
    pub files: Vec<String>,
}

/// The image of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverImage {
    /// The driver's version.
    pub version: DriverVersion,
    /// The directory inside it, on this host, that containers see; there while it is mounted.
    pub mounted_at: PathBuf,
    /// What lies in it.
    pub layout: Layout,
}

/// The image of a CUDA toolkit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaImage {
    /// Its name: `12.8-0123456789ab`.
    pub id: String,
    /// The directory at which it is mounted on this host.
    pub mounted_at: PathBuf,
    /// The directories in it that belong at the same place inside a container, without a leading
    /// slash: `usr/local/cuda-12.8`, `opt/nvidia`.
    pub trees: Vec<String>,
    /// Absolute paths inside a container, for `ld.so.conf.d`.
    pub library_directories: Vec<String>,
    /// Links that belong inside: absolute path, target.
    pub links: Vec<(String, String)>,
    /// The packages of the lock that apt must still install: those of the distribution, and those of
    /// NVIDIA's that have files elsewhere than in the trees.
    pub rest: Vec<String>,
}
