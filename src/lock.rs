//! What was fetched for one recipe, distribution and architecture, exactly: `prefetch` writes it,
//! everything else obeys it.
//!
//! TOML in the cache at `locks-v1/<recipe>-<distribution>-<arch>.lock`.

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::artifact::Trust;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::version::DriverVersion;

/// The version of the format that this program writes and reads.
const SCHEMA: u32 = 1;

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    schema: u32,
    /// The recipe's name.
    pub recipe: String,
    /// The distribution, `debian12`; `any` for a recipe without a repository.
    pub distribution: String,
    /// The architecture.
    pub architecture: Architecture,
    /// The driver's installer.
    pub installer: LockedInstaller,
    /// The repository's key; absent for a recipe without a repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<LockedKey>,
}

/// The installer in a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedInstaller {
    /// Its version.
    pub version: DriverVersion,
    /// Its file name.
    pub name: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Why the digest is believed.
    pub trust: Trust,
}

/// The repository's key in a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedKey {
    /// The pinned fingerprint that it was found to have.
    pub fingerprint: Fingerprint,
    /// The digest of the key file.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Lock {
    /// A lock of this program's format.
    pub fn new(
        recipe: &str,
        target: (&str, Architecture),
        installer: LockedInstaller,
        key: Option<LockedKey>,
    ) -> Self {
        let (distribution, architecture) = target;
        Self {
            schema: SCHEMA,
            recipe: recipe.to_owned(),
            distribution: distribution.to_owned(),
            architecture,
            installer,
            key,
        }
    }

    /// The name of the lock of a recipe for a target, without a directory.
    pub fn file_name(recipe: &str, distribution: &str, architecture: Architecture) -> String {
        format!("{recipe}-{distribution}-{}.lock", architecture.as_str())
    }

    /// Reads a lock; `origin` is its path, for the message.
    ///
    /// # Errors
    /// Install error for anything but a lock of the known format.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let hint = "`nvstage prefetch` writes a new one";
        let lock: Self = toml::from_str(text).map_err(|error| {
            Error::install(format!("read the lock `{origin}`")).because(error.message()).hint(hint)
        })?;
        if lock.schema != SCHEMA {
            let what = format!("read the lock `{origin}`: its schema is {}", lock.schema);
            return Err(Error::install(what).hint(hint));
        }
        Ok(lock)
    }

    /// The lock as text.
    pub fn to_text(&self) -> String {
        // Serialising plain structures of strings and numbers cannot fail.
        toml::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Lock {
        let installer = LockedInstaller {
            version: DriverVersion::parse("580.76.05").unwrap(),
            name: "NVIDIA-Linux-x86_64-580.76.05.run".to_owned(),
            sha256: Digest::of(b"x"),
            size: 393_683_997,
            trust: Trust::Pinned,
        };
        let key = LockedKey {
            fingerprint: Fingerprint::parse("EB693B3035CD5710E231E123A4B469963BF863CC").unwrap(),
            sha256: Digest::of(b"key"),
            size: 3,
        };
        Lock::new("cuda-12-8", ("debian12", Architecture::X86_64), installer, Some(key))
    }

    #[test]
    fn a_lock_survives_print_and_parse() {
        assert_eq!(Lock::parse(&lock().to_text(), "x").unwrap(), lock());
    }

    #[test]
    fn a_lock_of_version_1_is_read_for_ever() {
        let text = include_str!("../tests/locks/v1.lock");
        assert_eq!(Lock::parse(text, "v1.lock").unwrap(), lock());
    }

    #[test]
    fn unknown_keys_and_other_schemas_are_refused() {
        let text = lock().to_text();
        assert!(Lock::parse(&format!("surplus = 1\n{text}"), "x").is_err());
        assert!(Lock::parse(&text.replace("schema = 1", "schema = 2"), "x").is_err());
        assert!(Lock::parse(&text.replace("size = 3\n", "size = -3\n"), "x").is_err());
    }
}
