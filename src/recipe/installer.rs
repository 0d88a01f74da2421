//! The driver's part of a recipe: which version, from where, with which digest and options.

use serde::{Deserialize, Serialize};

use super::Recipe;
use super::url::{file_name, fill};
use crate::architecture::Architecture;
use crate::artifact::Artifact;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::version::DriverVersion;

/// Which driver version a recipe wants.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DriverChoice {
    /// That of the loaded kernel module (`host`).
    #[default]
    Host,
    /// This one.
    Exactly(DriverVersion),
}

impl DriverChoice {
    /// Reads `host` or a version.
    ///
    /// # Errors
    /// Invalid input for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        match text.trim() {
            "host" => Ok(Self::Host),
            version => DriverVersion::parse(version).map(Self::Exactly),
        }
    }
}

impl TryFrom<String> for DriverChoice {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text)
            .map_err(|_| format!("`{text}` is neither `host` nor an NVIDIA driver version"))
    }
}

impl From<DriverChoice> for String {
    fn from(choice: DriverChoice) -> Self {
        match choice {
            DriverChoice::Host => "host".to_owned(),
            DriverChoice::Exactly(version) => version.to_string(),
        }
    }
}

/// An installer whose content is known.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    version: DriverVersion,
    architecture: Architecture,
    sha256: Digest,
    /// In bytes.
    size: u64,
    /// Where it lies, when not where the others do.
    url: Option<String>,
}

impl Pin {
    /// Where it lies, when not where the others do.
    pub(super) fn url(&self) -> Option<&String> {
        self.url.as_ref()
    }

    /// Whether both are about one file.
    #[cfg(test)]
    pub(super) fn is_for_the_same_file(&self, other: &Self) -> bool {
        (self.version == other.version && self.architecture == other.architecture)
            || self.sha256 == other.sha256
    }
}

impl Recipe {
    /// The installer of a driver version. Digest and size are those of a pin; without one they are
    /// unknown.
    ///
    /// # Errors
    /// Invalid input when the recipe knows no URL for the architecture, or the URL that was set
    /// names a file of another version or architecture.
    pub fn installer(&self, version: &DriverVersion, arch: Architecture) -> Result<Artifact> {
        let pin = self.pins.iter().find(|pin| pin.version == *version && pin.architecture == arch);
        let templates = match (&self.installer_url, pin.and_then(Pin::url)) {
            (Some(url), _) | (None, Some(url)) => std::slice::from_ref(url),
            (None, None) => self.urls.get(&arch).map_or(&[][..], Vec::as_slice),
        };
        if templates.is_empty() {
            let name = self.name();
            return Err(Error::input(format!(
                "find the installer of driver {version}: recipe `{name}` knows no URL for {arch}"
            )));
        }
        let values = [("version", version.as_str()), ("arch", arch.as_str())];
        let urls: Vec<String> =
            templates.iter().map(|url| fill(url, &values)).collect::<Result<_>>()?;
        let name = format!("NVIDIA-Linux-{arch}-{version}.run");
        let mut artifact = Artifact {
            name,
            urls,
            size: pin.map(|pin| pin.size),
            digest: pin.map(|pin| pin.sha256),
        };
        if self.installer_url.is_some() {
            adopt_file_name(&mut artifact, version, arch)?;
        }
        Ok(artifact)
    }
}

/// Compares the file name of a URL that was set with what is wanted. A name that is not of
/// NVIDIA's form says nothing; the variant without 32-bit libraries is another file than the
/// pinned one.
fn adopt_file_name(
    artifact: &mut Artifact,
    version: &DriverVersion,
    arch: Architecture,
) -> Result<()> {
    let found = file_name(&artifact.urls[0]).to_owned();
    let Some(named) = NamedInstaller::parse(&found) else { return Ok(()) };
    if named.version != version.as_str() || named.architecture != arch.as_str() {
        return Err(Error::input(format!(
            "use the installer `{found}`: driver {version} for {arch} is wanted"
        ))
        .hint("set the version and the URL of the installer together"));
    }
    if named.variant == Variant::NoCompat32 {
        artifact.name = found;
        artifact.size = None;
        artifact.digest = None;
    }
    Ok(())
}

/// What a name such as `NVIDIA-Linux-x86_64-580.76.05.run` says.
struct NamedInstaller<'a> {
    architecture: &'a str,
    version: &'a str,
    variant: Variant,
}

#[derive(PartialEq, Eq)]
enum Variant {
    Whole,
    NoCompat32,
}

impl<'a> NamedInstaller<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let rest = name.strip_prefix("NVIDIA-Linux-")?.strip_suffix(".run")?;
        let (architecture, rest) = rest.split_once('-')?;
        let (version, variant) = match rest.strip_suffix("-no-compat32") {
            Some(version) => (version, Variant::NoCompat32),
            None => (rest, Variant::Whole),
        };
        Some(Self { architecture, version, variant })
    }
}
