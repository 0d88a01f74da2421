//! Which release of a repository was accepted last: what a replayed older one is told by. It outlives
//! locks, which come and go with recipes.
//!
//! `accepted-v1/<SHA-256 of the place>` is a small JSON file.

use std::fs;
use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Cache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::host::files;

const VERSION: u32 = 1;

/// A release that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    version: u32,
    /// The URL of the directory with `InRelease`.
    pub place: String,
    /// The date that the release carries.
    pub date: Timestamp,
    /// The digest of the `InRelease` file.
    pub sha256: Digest,
}

impl Accepted {
    /// A release of a place.
    pub fn new(place: String, date: Timestamp, sha256: Digest) -> Self {
        Self { version: VERSION, place, date, sha256 }
    }
}

impl Cache {
    /// What was accepted of a place last.
    ///
    /// # Errors
    /// Install error when it cannot be read.
    pub fn accepted(&self, place: &str) -> Result<Option<Accepted>> {
        let path = self.acceptance(place);
        let unreadable = |cause: String| {
            Error::install(format!("read `{}`", path.display()))
                .because(cause)
                .hint("without that file an older release would be accepted; remove it by hand")
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        match serde_json::from_slice::<Accepted>(&bytes) {
            Ok(accepted) if accepted.version == VERSION => Ok(Some(accepted)),
            Ok(accepted) => Err(unreadable(format!("its version is {}", accepted.version))),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Takes note of what was accepted.
    ///
    /// # Errors
    /// A host error when it cannot be written.
    pub fn accept(&self, accepted: &Accepted) -> Result<()> {
        let text = serde_json::to_vec(accepted)
            .map_err(|error| Error::general("write down a release").because(error))?;
        files::replace(&self.acceptance(&accepted.place), &text)
    }

    fn acceptance(&self, place: &str) -> PathBuf {
        let name = Digest::of(place.as_bytes()).to_string();
        self.directory.join("accepted-v1").join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::cancel::Cancel;

    #[test]
    fn what_was_accepted_of_version_1_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path(), &Cancel::never().unwrap()).unwrap();
        assert_eq!(cache.accepted("http://a/").unwrap(), None);
        let date = "2026-07-11T10:16:37Z";
        let sha256 = Digest::of(b"x");
        let text = format!(
            "{{\"version\":1,\"place\":\"http://a/\",\"date\":\"{date}\",\"sha256\":\"{sha256}\"}}"
        );
        files::replace(&cache.acceptance("http://a/"), text.as_bytes()).unwrap();
        let expected = Accepted::new("http://a/".to_owned(), date.parse().unwrap(), sha256);
        assert_eq!(cache.accepted("http://a/").unwrap(), Some(expected.clone()));
        cache.accept(&expected).unwrap();
        assert_eq!(cache.accepted("http://a/").unwrap(), Some(expected));
        files::replace(&cache.acceptance("http://a/"), b"{").unwrap();
        assert!(cache.accepted("http://a/").is_err());
    }
}
