//! The index of an unpacked installer: size and digest of every file in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::blob::Stamp;
use crate::architecture::Architecture;
use crate::digest::{Digest, hash_reader};
use crate::error::{Error, Result};
use crate::host::files::{self, failed};
use crate::version::DriverVersion;

const INDEX_VERSION: u32 = 1;

/// One regular file of an unpacked installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeFile {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 digest.
    #[serde(rename = "sha256")]
    pub digest: Digest,
    pub(super) stamp: Stamp,
}

/// All files of a tree, and what driver they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    version: u32,
    pub(super) driver: DriverVersion,
    pub(super) architecture: Architecture,
    /// By their paths in the tree, without a leading `./`.
    pub(super) files: BTreeMap<String, TreeFile>,
}

impl Index {
    pub(super) fn new(
        driver: DriverVersion,
        architecture: Architecture,
        files: BTreeMap<String, TreeFile>,
    ) -> Self {
        Self { version: INDEX_VERSION, driver, architecture, files }
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| {
            Error::install(format!("use the index `{}`", path.display())).because(why)
        };
        let bytes = fs::read(path).map_err(|error| bad(error.to_string()))?;
        let index: Self = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        match index.version {
            INDEX_VERSION => Ok(index),
            other => Err(bad(format!("it has version {other}"))),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::general("write an index").because(error))?;
        files::replace(path, &text)
    }

    /// Compares every file below `payload` with the index: by size, times and inode, and where
    /// those differ by digest. Returns whether any of them had to be hashed.
    pub(super) fn verify(&mut self, payload: &Path) -> Result<Hashed> {
        let mut hashed = Hashed::Nothing;
        for (name, file) in &mut self.files {
            let path = payload.join(name);
            let metadata =
                fs::symlink_metadata(&path).map_err(|error| failed("read", &path, &error))?;
            let stamp = Stamp::of(&metadata);
            if stamp == file.stamp {
                continue;
            }
            let found = fs::File::open(&path)
                .and_then(hash_reader)
                .map_err(|error| failed("read", &path, &error))?;
            if !metadata.is_file() || found != (file.digest, file.size) {
                return Err(Error::install(format!("use `{}`: it was changed", path.display())));
            }
            file.stamp = stamp;
            hashed = Hashed::Something;
        }
        Ok(hashed)
    }
}

/// Whether a verification went beyond looking at metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hashed {
    Nothing,
    Something,
}
