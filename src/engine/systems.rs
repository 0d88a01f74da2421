//! The systems that packages are resolved for: a running container, a template's archive, a
//! directory with a root file system, or a dpkg status alone.
//!
//! `DISTRIBUTION[/ARCHITECTURE]` alone names no system; with `@` and one of those it does, and so
//! does each of them on its own where it says itself what it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::apt::system::{self, DIRECTORIES, FILES, Files, LARGEST, System};
use crate::architecture::Architecture;
use crate::cache::decompressed;
use crate::ctid::Ctid;
use crate::engine::survey;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::files::failed;
use crate::host::rootfs::ContainerRoot;
use crate::host::runlog::RunLog;
use crate::runtime::{Runtime, Session};

/// What `--for` names.
#[derive(Debug)]
pub struct Subject {
    /// The distribution, `debian12`.
    pub distribution: String,
    /// The architecture.
    pub architecture: Architecture,
    /// The system, if one is named.
    pub system: Option<System>,
}

/// Where containers are looked for.
pub struct Place<'a> {
    /// The machine.
    pub host: &'a Host,
    /// How containers are driven, or why they cannot be.
    pub runtime: std::result::Result<&'a dyn Runtime, Error>,
    /// The architecture where none is named.
    pub architecture: Architecture,
}

/// Reads what `text` names; `distributions` are those that the recipe knows.
///
/// # Errors
/// Invalid input for what names nothing, not found for a container that does not exist, host error
/// for one that is stopped.
pub fn find(text: &str, distributions: &[String], place: &Place<'_>) -> Result<Subject> {
    let (named, rest) = match text.split_once('@') {
        // A path may have the sign in it too.
        Some((named, rest)) if !text.starts_with(['/', '.']) => (Some(named), Some(rest)),
        Some(_) => (None, Some(text)),
        None if is_distribution(text, distributions) => (Some(text), None),
        None => (None, Some(text)),
    };
    let named = named.map(|named| distribution(named, distributions, place)).transpose()?;
    let Some(rest) = rest else {
        let (distribution, architecture) =
            named.ok_or_else(|| Error::input(format!("understand `{text}`")))?;
        return Ok(Subject { distribution, architecture, system: None });
    };
    let system = read(rest, named.as_ref(), place)?;
    if let Some((distribution, architecture)) = named
        && (distribution != system.distribution || architecture != system.architecture)
    {
        return Err(Error::input(format!("use {} as {distribution} {architecture}", system.name))
            .because(format!("it is {} {}", system.distribution, system.architecture)));
    }
    let (distribution, architecture) = (system.distribution.clone(), system.architecture);
    Ok(Subject { distribution, architecture, system: Some(system) })
}

fn is_distribution(text: &str, known: &[String]) -> bool {
    let name = text.split_once('/').map_or(text, |(name, _)| name);
    known.iter().any(|known| known == name)
        || ["debian", "ubuntu"].iter().any(|family| {
            name.strip_prefix(family)
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        })
}

/// `debian12`, `debian12/aarch64`, `debian12/arm64`.
fn distribution(text: &str, known: &[String], place: &Place<'_>) -> Result<(String, Architecture)> {
    let (name, architecture) = match text.split_once('/') {
        None => (text, place.architecture),
        Some((name, "amd64")) => (name, Architecture::X86_64),
        Some((name, "arm64")) => (name, Architecture::Aarch64),
        Some((name, other)) => (name, Architecture::parse(other)?),
    };
    if !is_distribution(name, known) {
        return Err(Error::input(format!("prefetch for `{name}`: it is not a distribution"))
            .hint(format!("the recipe knows {}", known.join(", "))));
    }
    Ok((name.to_owned(), architecture))
}

type Named = (String, Architecture);

fn read(text: &str, named: Option<&Named>, place: &Place<'_>) -> Result<System> {
    let path = Path::new(text);
    let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if base.contains(".tar") {
        return System::read(&format!("template {base}"), &archive(path)?);
    }
    if path.is_dir() {
        return System::read(&format!("root {text}"), &directory(path)?);
    }
    if path.is_file() {
        return status(path, named, place.architecture);
    }
    if text.contains('/') {
        return Err(Error::input(format!("read `{text}`: there is no such file")));
    }
    container(text, place)
}

/// A dpkg status alone has no sources: those of another system, or of this host, serve for it.
fn status(path: &Path, named: Option<&Named>, own: Architecture) -> Result<System> {
    let Some((distribution, architecture)) = named else {
        let name = path.display();
        return Err(Error::input(format!("use `{name}`: of which distribution is it?"))
            .hint(format!("`--for debian12@{name}` says so")));
    };
    let name = format!("status {}", path.display());
    let status = small_file(path)?;
    // A system that is to be made from nothing has an empty one.
    let found = match status.trim_ascii().is_empty() {
        true => own,
        false => system::architecture_of(&name, &status)?,
    };
    if found != *architecture {
        return Err(Error::input(format!("use {name} as {architecture}: it is {found}")));
    }
    Ok(System {
        name,
        distribution: distribution.clone(),
        architecture: *architecture,
        status,
        sources: Vec::new(),
        keys: Vec::new(),
    })
}

fn small_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
        .map_err(|error| failed("read", path, &error))?;
    Ok(bytes)
}

/// This host's own system: its sources and keys.
///
/// # Errors
/// As [`System::read`].
pub fn of_host(host: &Host) -> Result<System> {
    System::read("this host", &directory(&host.paths.host_path("/"))?)
}

fn directory(root: &Path) -> Result<Files> {
    let opened = ContainerRoot::of_directory(root).map_err(|error| failed("open", root, &error))?;
    Ok(of_root(&opened))
}

/// A template as Proxmox keeps it: an archive of a whole root, `.tar.zst`, `.tar.gz`, `.tar.xz`.
fn archive(path: &Path) -> Result<Files> {
    let unreadable = |error: std::io::Error| {
        Error::input(format!("read the template `{}`", path.display())).because(error)
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut archive = tar::Archive::new(decompressed(file, &path.to_string_lossy())?);
    let mut files = Files::new();
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.path_bytes().into_owned();
        let name = String::from_utf8_lossy(&name);
        let name = name.trim_start_matches("./").trim_start_matches('/').to_owned();
        if entry.header().entry_type().is_file() && system::is_of_interest(&name) {
            let mut bytes = Vec::new();
            entry.take(LARGEST).read_to_end(&mut bytes).map_err(unreadable)?;
            files.insert(name, bytes);
        }
    }
    Ok(files)
}

fn container(text: &str, place: &Place<'_>) -> Result<System> {
    let ctid = Ctid::parse(text)?;
    let runtime = place.runtime.clone()?;
    runtime.locate(&ctid)?;
    let session = Session { host: place.host, runtime, ctid: &ctid, log: &RunLog::none() };
    let Some(pid) = session.init_process()? else {
        return Err(Error::host("read what is installed in it: it is stopped")
            .hint("start it, or name the template that it was made from")
            .on(&ctid));
    };
    let root = survey::root(&session, pid)?;
    System::read(&format!("container {ctid}"), &of_root(&root)).map_err(|error| error.on(&ctid))
}

/// The files that matter of a root, which is somebody else's: links in it lead nowhere outside.
fn of_root(root: &ContainerRoot) -> Files {
    let mut files = Files::new();
    let mut add = |path: String| {
        if let Ok(bytes) = root.read_bytes(&path, LARGEST) {
            files.insert(path, bytes);
        }
    };
    FILES.iter().for_each(|path| add((*path).to_owned()));
    for directory in DIRECTORIES {
        for name in root.names(directory).unwrap_or_default() {
            add(format!("{directory}/{name}"));
        }
    }
    files
}
