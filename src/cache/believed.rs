//! Installers whose digest was believed because it was published beside them (`--trust-tls`): each
//! version once and for all, so that another file under its name is told. They outlive locks, which
//! have one version each.
//!
//! `believed-v1/<SHA-256 of recipe and file name>` is a small JSON file.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Cache;
use crate::artifact::Trust;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::host::files;
use crate::lock::LockedInstaller;

const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Believed {
    version: u32,
    recipe: String,
    installer: LockedInstaller,
}

impl Cache {
    /// The installer of that file name that was believed for a recipe.
    ///
    /// # Errors
    /// Install error when the record cannot be read.
    pub fn believed(&self, recipe: &str, name: &str) -> Result<Option<LockedInstaller>> {
        let path = self.belief(recipe, name);
        let unreadable = |cause: String| {
            Error::install(format!("read `{}`", path.display()))
                .because(cause)
                .hint("without that file another installer would be believed; remove it by hand")
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        match serde_json::from_slice::<Believed>(&bytes) {
            Ok(found) if found.version == VERSION => Ok(Some(found.installer)),
            Ok(found) => Err(unreadable(format!("its version is {}", found.version))),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }

    /// Takes note of an installer that was believed; one that a pin vouches for needs no note.
    ///
    /// # Errors
    /// A host error when it cannot be written.
    pub fn believe(&self, recipe: &str, installer: &LockedInstaller) -> Result<()> {
        let path = self.belief(recipe, &installer.name);
        if installer.trust != Trust::Tls || path.exists() {
            return Ok(());
        }
        let recipe = recipe.to_owned();
        let believed = Believed { version: VERSION, recipe, installer: installer.clone() };
        let text = serde_json::to_vec(&believed)
            .map_err(|error| Error::general("write down an installer").because(error))?;
        files::replace(&path, &text)
    }

    fn belief(&self, recipe: &str, name: &str) -> PathBuf {
        let name = Digest::of(format!("{recipe}\n{name}").as_bytes()).to_string();
        self.directory.join("believed-v1").join(name)
    }
}
