//! Reads the files of NVIDIA's kernel module below `/proc/driver/nvidia`, and `/proc/devices`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::{names_in, text_of, unreadable};
use crate::error::{Error, Result};
use crate::gpu::{Capability, Gpu, ModuleFlavour, parse_character_majors, parse_module_version};
use crate::version::DriverVersion;

/// The loaded kernel module.
pub(super) fn module(directory: &Path) -> Result<Option<(DriverVersion, ModuleFlavour)>> {
    let path = directory.join("version");
    let Some(text) = text_of(&path)? else { return Ok(None) };
    parse_module_version(&text).map(Some).map_err(|error| misunderstood(error, &path))
}

/// The GPUs that the module drives, or why one cannot be read; their indices are not yet given.
pub(super) fn gpus(directory: &Path) -> Result<Vec<Result<Gpu>>> {
    let directory = directory.join("gpus");
    Ok(names_in(&directory)?.iter().map(|address| gpu(&directory, address)).collect())
}

fn gpu(directory: &Path, address: &str) -> Result<Gpu> {
    let path = directory.join(address).join("information");
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if is_gone(&error) => return Err(silent(address).because(error)),
        Err(error) => return Err(unreadable(&path, &error)),
    };
    if text.trim().is_empty() {
        return Err(silent(address).because(format!("`{}` is empty", path.display())));
    }
    Gpu::parse_information(&text).map_err(|error| misunderstood(error, &path))
}

/// The directory is there and what is in it is not: the GPU went away under the module.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::EIO | libc::ENODEV | libc::ENXIO))
}

fn silent(address: &str) -> Error {
    Error::host(format!("read what GPU `{address}` is: it does not answer"))
        .hint("`dmesg | grep -i xid` says whether it has fallen off the bus")
}

/// What the module offers, by minor; and the minors whose nodes it does not want to be made.
pub(super) fn capabilities(directory: &Path) -> Result<(Vec<Capability>, BTreeSet<u32>)> {
    let mut found = Offered::default();
    walk(&directory.join("capabilities"), "", &mut found)?;
    found.capabilities.sort_by(|a, b| (a.minor, &a.name).cmp(&(b.minor, &b.name)));
    Ok((found.capabilities, found.unmade))
}

#[derive(Default)]
struct Offered {
    capabilities: Vec<Capability>,
    unmade: BTreeSet<u32>,
}

fn walk(directory: &Path, below: &str, found: &mut Offered) -> Result<()> {
    for name in names_in(directory)? {
        let (path, name) = (directory.join(&name), format!("{below}{name}"));
        if path.is_dir() {
            walk(&path, &format!("{name}/"), found)?;
        } else if let Some(text) = text_of(&path)? {
            let capability = Capability::parse(&name, &text);
            let capability = capability.map_err(|error| misunderstood(error, &path))?;
            if !Capability::wants_node(&text) {
                found.unmade.insert(capability.minor);
            }
            found.capabilities.push(capability);
        }
    }
    Ok(())
}

/// The majors that drivers of character devices have now.
pub(super) fn majors(path: &Path) -> Result<BTreeMap<String, u64>> {
    let Some(text) = text_of(path)? else { return Ok(BTreeMap::new()) };
    parse_character_majors(&text).map_err(|error| misunderstood(error, path))
}

fn misunderstood(error: Error, path: &Path) -> Error {
    error.within(format!("read `{}`", path.display()))
}
