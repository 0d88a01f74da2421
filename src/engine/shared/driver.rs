//! The shared driver of one version: laid out from the verified, unpacked installer, and mounted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sonames::{self, Named};
use super::store::{Found, Kind, Record, Slot};
use super::{DriverImage, Layout};
use crate::architecture::Architecture;
use crate::cache::Tree;
use crate::digest::Digest;
use crate::engine::supplies::{Driver, Supplies};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::host::Host;
use crate::host::image::{Image, Source};
use crate::host::paths::Paths;
use crate::runfile::layout;
use crate::runfile::manifest::DestinationKind;
use crate::version::DriverVersion;

/// The directory inside the image that has everything: what containers see is not there unless the
/// image is mounted.
pub(super) const USERLAND: &str = "userland";

/// What is written down of a driver's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    pub(super) version: DriverVersion,
    architecture: Architecture,
    /// The digest of the installer that it was made from.
    installer: Digest,
    layout: Layout,
}

impl Content {
    fn into_image(self, slot: &Slot) -> DriverImage {
        let mounted_at = slot.mount_point().join(USERLAND);
        DriverImage { version: self.version, mounted_at, layout: self.layout }
    }
}

pub(super) fn slot(paths: &Paths, version: &DriverVersion) -> Slot {
    Slot::new(paths, Kind::Driver, version.as_str())
}

/// The shared driver of an installer's version: built if need be, and mounted. Of several processes
/// that want it, one builds it and the others wait. A damaged image is built again, with a warning.
///
/// # Errors
/// Install error when the installer was changed or the disk is full: nothing unfinished is left
/// then. Host error when it cannot be mounted; the interruption.
pub fn obtain_driver(host: &Host, supplies: &Supplies<'_>, driver: &Driver) -> Result<DriverImage> {
    let slot = slot(&host.paths, driver.tree.version());
    let is_wanted = |record: &Record<Content>| record.content.installer == *driver.file.digest();
    if let Some(record) = slot.find()?.sound().filter(is_wanted)
        && slot.is_mounted()
    {
        return Ok(record.content.into_image(&slot));
    }
    let _lock = slot.lock(supplies.events, supplies.cancel)?;
    let found = slot.find()?;
    if let Found::Damaged(why) = &found {
        let text = format!("{why}: {} is built again", slot.label());
        supplies.events.emit(Event::Warning { text });
    }
    let record = match found.sound().filter(is_wanted) {
        Some(record) => record,
        None => {
            let (image, content) = lay_out(driver)?;
            slot.build(host, (&image, content), supplies.events)?
        }
    };
    slot.mount(host)?;
    Ok(record.content.into_image(&slot))
}

/// The shared driver of a version if its image is there and sound, mounted or not; nothing is built.
///
/// # Errors
/// Host error when its files cannot be read.
pub fn driver_at_hand(paths: &Paths, version: &DriverVersion) -> Result<Option<DriverImage>> {
    let slot = slot(paths, version);
    Ok(slot.find::<Content>()?.sound().map(|record| record.content.into_image(&slot)))
}

fn lay_out(driver: &Driver) -> Result<(Image, Content)> {
    let tree = &driver.tree;
    let mut nodes = layout::shared(tree.manifest(), tree.architecture());
    let libraries = libraries(tree, &nodes);
    add_soname_links(&mut nodes, &libraries);
    let mut image = Image::default();
    for (path, kind) in &nodes {
        let path = format!("{USERLAND}/{path}");
        match kind {
            DestinationKind::Link { target } => image.link(path, target),
            DestinationKind::File { source, mode } => {
                let file = tree.file(source).ok_or_else(|| {
                    Error::install(format!("lay out driver {}", tree.version()))
                        .because(format!("the installer lacks `{source}`, which is in its list"))
                })?;
                let path_of_source = tree.payload().join(source);
                let (size, digest) = (file.size, Some(file.digest));
                image.file(path, Source { path: path_of_source, size, mode: *mode, digest });
            }
        }
    }
    let content = Content {
        version: tree.version().clone(),
        architecture: tree.architecture(),
        installer: *driver.file.digest(),
        layout: told(&nodes, &libraries),
    };
    Ok((image, content))
}

type Nodes = BTreeMap<String, DestinationKind>;

/// The sonames of all libraries, by their paths in the image; one without a soname is in it too.
fn libraries(tree: &Tree, nodes: &Nodes) -> BTreeMap<String, Option<String>> {
    let is_library = |path: &str| path.starts_with("lib/") || path.starts_with("lib32/");
    let of = |(path, kind): (&String, &DestinationKind)| match kind {
        DestinationKind::File { source, .. } if is_library(path) => {
            let soname = sonames::soname(&tree.payload().join(source));
            Some((path.clone(), soname))
        }
        _ => None,
    };
    nodes.iter().filter_map(of).collect()
}

/// What `ldconfig -n` would do, which nobody can in a tree that is read-only.
fn add_soname_links(nodes: &mut Nodes, libraries: &BTreeMap<String, Option<String>>) {
    for (path, soname) in libraries {
        let (Some(soname), Some((directory, name))) = (soname, path.rsplit_once('/')) else {
            continue;
        };
        let link = DestinationKind::Link { target: name.to_owned() };
        nodes.entry(format!("{directory}/{soname}")).or_insert(link);
    }
}

fn told(nodes: &Nodes, libraries: &BTreeMap<String, Option<String>>) -> Layout {
    let below = |directory: &str| -> Vec<String> {
        let rest = |path: &String| path.strip_prefix(directory).map(str::to_owned);
        nodes.keys().filter_map(rest).collect()
    };
    let cached = |directory: &str| {
        let named = |(path, kind): (&String, &DestinationKind)| {
            let name = path.strip_prefix(directory).filter(|name| !name.contains('/'))?;
            let named = match kind {
                DestinationKind::Link { target } => Named::Link(target.clone()),
                DestinationKind::File { .. } => {
                    Named::Library(libraries.get(path).cloned().flatten())
                }
            };
            Some((name.to_owned(), named))
        };
        sonames::cached(&nodes.iter().filter_map(named).collect()).into_iter().collect()
    };
    Layout {
        sonames: cached("lib/"),
        sonames32: cached("lib32/"),
        binaries: below("bin/"),
        files: below("files"),
    }
}

/// Where the images of drivers lie; made with the first one.
pub(super) fn directory(paths: &Paths) -> PathBuf {
    Kind::Driver.directory(paths)
}
