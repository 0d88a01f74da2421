//! Recipes and the files shared by them as they are written: TOML, read strictly, with errors that
//! name file, line and the nearest known key.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::installer::{DriverChoice, Pin};
use super::nearest::did_you_mean;
use super::{Check, CudaMethod, DistributionEntry, RepositoryEntry, Userland};
use crate::architecture::Architecture;
use crate::container::passthrough::Method;
use crate::error::{Error, Result};
use crate::runfile::options::Options;

/// The version of the format that this program reads.
const SCHEMA: i64 = 1;

/// Templates of URLs by architecture, tried in order.
pub(super) type Urls = BTreeMap<Architecture, Vec<String>>;

/// A recipe file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecipeFile {
    #[serde(rename = "schema")]
    _schema: IgnoredAny,
    pub(super) name: String,
    pub(super) description: String,
    #[serde(default)]
    pub(super) driver: DriverSection,
    #[serde(default)]
    pub(super) repository: BTreeMap<String, RepositoryEntry>,
    #[serde(default)]
    pub(super) distribution: BTreeMap<String, DistributionEntry>,
    #[serde(default)]
    pub(super) packages: PackagesSection,
    #[serde(default)]
    pub(super) passthrough: PassthroughSection,
    #[serde(default)]
    pub(super) checks: ChecksSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DriverSection {
    #[serde(default)]
    pub(super) version: DriverChoice,
    pub(super) method: Option<Userland>,
    #[serde(default)]
    pub(super) urls: Urls,
    #[serde(default)]
    pub(super) installer: Options,
    #[serde(default)]
    pub(super) pins: Vec<Pin>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackagesSection {
    #[serde(default)]
    pub(super) install: Vec<String>,
    pub(super) cuda: Option<CudaMethod>,
    #[serde(default)]
    pub(super) profiles: BTreeMap<String, Vec<String>>,
    pub(super) deny: Option<Vec<String>>,
    pub(super) allow: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PassthroughSection {
    pub(super) gpus: Option<String>,
    pub(super) method: Option<Method>,
    pub(super) group: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChecksSection {
    pub(super) run: Vec<Check>,
}

impl Default for ChecksSection {
    fn default() -> Self {
        Self { run: vec![Check::Libraries, Check::Nodes, Check::NvidiaSmi, Check::Packages] }
    }
}

/// `recipes/pins.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PinsFile {
    #[serde(rename = "schema")]
    _schema: IgnoredAny,
    pub(super) urls: Urls,
    pub(super) pins: Vec<Pin>,
}

/// `recipes/repositories.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RepositoriesFile {
    #[serde(rename = "schema")]
    _schema: IgnoredAny,
    pub(super) repository: BTreeMap<String, RepositoryEntry>,
    pub(super) distribution: BTreeMap<String, DistributionEntry>,
    pub(super) packages: SharedPackages,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedPackages {
    pub(super) deny: Vec<String>,
    pub(super) allow: Vec<String>,
}

/// Only the version of the format, whatever else there is.
#[derive(Debug, Deserialize)]
struct Probe {
    schema: Option<i64>,
}

/// Reads a recipe, or a file that recipes share; `origin` is its path or name, for the message.
pub(super) fn read<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T> {
    read_file(text, &format!("the recipe `{origin}`"))
}

/// Reads a file of the known format; `file` names it in the message: ``the recipe `mine.toml` ``.
///
/// # Errors
/// Invalid input that names the line, and for a misspelled key the nearest known one.
pub(crate) fn read_file<T: DeserializeOwned>(text: &str, file: &str) -> Result<T> {
    let fail = |error: toml::de::Error| explain(&error, text, file);
    let probe: Probe = toml::from_str(text).map_err(fail)?;
    match probe.schema {
        Some(SCHEMA) => toml::from_str(text).map_err(fail),
        Some(other) => Err(Error::input(format!("read {file}"))
            .because(format!("its schema is {other}; this nvstage reads {SCHEMA}"))),
        None => Err(Error::input(format!("read {file}"))
            .because(format!("it does not say `schema = {SCHEMA}`"))),
    }
}

/// The number of the line that has the byte at `position`.
pub(crate) fn line_of(text: &str, position: usize) -> usize {
    text.get(..position).unwrap_or(text).matches('\n').count() + 1
}

fn explain(error: &toml::de::Error, text: &str, file: &str) -> Error {
    let line = error.span().map(|span| line_of(text, span.start));
    let place = line.map(|line| format!(" at line {line}")).unwrap_or_default();
    let message = error.message().trim().replace('\n', ", ");
    let cause = match misspelled(&message) {
        Some((what, word, known)) => {
            format!("unknown {what} `{word}`{place}, {}", did_you_mean(word, &known))
        }
        None => format!("{message}{place}"),
    };
    Error::input(format!("read {file}")).because(cause)
}

/// What serde says of an unknown field or variant: which of the two, the word, the known words.
fn misspelled(message: &str) -> Option<(&'static str, &str, Vec<&str>)> {
    let (what, rest) = match message.strip_prefix("unknown field `") {
        Some(rest) => ("key", rest),
        None => ("value", message.strip_prefix("unknown variant `")?),
    };
    let (word, rest) = rest.split_once('`')?;
    Some((what, word, rest.split('`').skip(1).step_by(2).collect()))
}
