//! Which packages a system lacks, by apt itself: an apt on this host with a configuration of its
//! own, that sees the verified indexes and the system's dpkg status and nothing else.
//!
//! Order of events: an unsigned copy of each release file beside its indexes (their signatures and
//! digests are verified already, and the host's apt may refuse a key that is pinned here), one
//! `apt-get update`, then one `apt-get install --print-uris` for each status. Nothing is downloaded.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apt::diagnosis::{self, Origin};
use crate::apt::index::{Listed, Packages};
use crate::apt::isolated::{self, Fetch};
use crate::architecture::Architecture;
use crate::cache::{CachedArtifact, Workspace};
use crate::digest::Digest;
use crate::engine::metadata::Metadata;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::files::{self, failed};
use crate::host::process::{Command, Finished};
use crate::host::runlog::RunLog;
use crate::lock::LockedPackage;

/// Reading the indexes of a whole distribution takes seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// An apt that knows the repositories.
pub struct Resolver<'a> {
    host: &'a Host,
    log: &'a RunLog,
    workspace: Workspace,
}

impl<'a> Resolver<'a> {
    /// Sets an apt up over verified metadata. `pins` keeps packages out.
    ///
    /// # Errors
    /// Host error when there is no `apt-get` or the cache cannot be written, install error when
    /// apt cannot read the indexes.
    pub fn new(
        context: (&'a Host, &'a RunLog),
        workspace: Workspace,
        what: (&[Metadata], Architecture),
        pins: &str,
    ) -> Result<Self> {
        let (host, log) = context;
        let (repositories, architecture) = what;
        if !host.paths.host_path("/usr/bin/apt-get").exists() {
            return Err(Error::host("find `apt-get` on this host: it resolves the packages"));
        }
        let resolver = Self { host, log, workspace };
        let root = resolver.root()?;
        for directory in isolated::DIRECTORIES {
            files::create_directory(&root.join(directory))?;
        }
        let write = |path: &str, text: &str| files::replace(&root.join(path), text.as_bytes());
        write("apt.conf", &isolated::configuration(&root, architecture))?;
        write("etc/apt/preferences", pins)?;
        write("var/lib/dpkg/status", "")?;
        let mut sources = String::new();
        for repository in repositories {
            sources.push_str(&lay_out(&root, repository, architecture)?);
        }
        write("etc/apt/sources.list", &sources)?;
        let updated = resolver.apt(&["update"])?;
        if !updated.succeeded() {
            return Err(Error::install("read the verified indexes with this host's apt")
                .because(updated.ended)
                .because(updated.tail()));
        }
        Ok(resolver)
    }

    fn root(&self) -> Result<PathBuf> {
        let path = self.workspace.path();
        path.canonicalize().map_err(|error| failed("find", path, &error))
    }

    fn apt(&self, arguments: &[&str]) -> Result<Finished> {
        let configuration = format!("APT_CONFIG={}/apt.conf", self.root()?.display());
        let command = Command::new("env", LIMIT)
            .args([configuration.as_str(), "apt-get", "-q", "-y"])
            .args(arguments.iter().copied());
        self.host.processes.run(command, self.log)
    }

    /// What a system with this dpkg status lacks of the packages.
    ///
    /// # Errors
    /// Install error with apt's own words when they cannot be installed there.
    pub fn closure(&self, status: &[u8], packages: &[String]) -> Result<Vec<Fetch>> {
        files::replace(&self.root()?.join("var/lib/dpkg/status"), status)?;
        let mut arguments = vec!["--no-remove", "--print-uris", "install"];
        arguments.extend(packages.iter().map(String::as_str));
        let resolved = self.apt(&arguments)?;
        let output = String::from_utf8_lossy(&resolved.stdout);
        if !resolved.succeeded() {
            let said = format!("{output}{}", String::from_utf8_lossy(&resolved.stderr));
            let error = Error::install(format!("resolve {}", packages.join(" ")))
                .because(diagnosis::decisive(&said));
            return Err(match diagnosis::diagnose(&said, Origin::Network) {
                Some(found) => error.because(found.meaning).hint(found.remedy.text(None)),
                None => error,
            });
        }
        isolated::fetches(&output).ok_or_else(|| {
            Error::install("resolve packages: apt names one without a SHA-256 digest")
        })
    }
}

/// Copies the release and links the indexes; returns the line for `sources.list`.
fn lay_out(root: &Path, repository: &Metadata, architecture: Architecture) -> Result<String> {
    let locked = &repository.locked;
    let directory = root.join("mirror").join(&locked.name);
    let below = directory.join(locked.release_directory());
    files::create_directory(&below)?;
    files::replace(&below.join("Release"), repository.text.as_bytes())?;
    for (index, file) in locked.indexes.iter().zip(&repository.indexes) {
        let path = below.join(&index.path);
        files::create_directory(path.parent().unwrap_or(&below))?;
        let blob = file.path().canonicalize().map_err(|e| failed("find", file.path(), &e))?;
        symlink(blob, &path).map_err(|error| failed("link", &path, &error))?;
    }
    let options = "trusted=yes check-valid-until=no check-date=no target=Packages";
    Ok(format!(
        "deb [arch={} {options}] {} {} {}\n",
        architecture.dpkg(),
        isolated::file_url(&directory),
        locked.suite,
        locked.components.join(" ")
    ))
}

/// Those of the packages that the verified indexes list.
///
/// # Errors
/// Install error when an index cannot be read.
pub fn listed(wanted: &[Fetch], repositories: &[Metadata]) -> Result<Vec<Fetch>> {
    let mut digests = BTreeSet::new();
    for repository in repositories {
        for (index, file) in repository.locked.indexes.iter().zip(&repository.indexes) {
            for listed in packages(file, &index.path)? {
                digests.insert(listed?.sha256);
            }
        }
    }
    Ok(wanted.iter().filter(|fetch| digests.contains(&fetch.sha256)).cloned().collect())
}

/// The packages with these digests as the verified indexes list them, sorted.
///
/// # Errors
/// Install error when an index cannot be read, or lists none with such a digest.
pub fn look_up(wanted: &[Fetch], repositories: &[Metadata]) -> Result<Vec<LockedPackage>> {
    let mut open: BTreeMap<Digest, &str> =
        wanted.iter().map(|fetch| (fetch.sha256, fetch.file.as_str())).collect();
    let mut found = Vec::new();
    for repository in repositories {
        let locked = &repository.locked;
        for (index, file) in locked.indexes.iter().zip(&repository.indexes) {
            for listed in packages(file, &index.path)? {
                let listed = listed?;
                if open.remove(&listed.sha256).is_some() {
                    found.push(lock_package(listed, &locked.name));
                }
            }
        }
    }
    if let Some((digest, file)) = open.first_key_value() {
        return Err(Error::install(format!("find `{file}` in the verified indexes"))
            .because(format!("none of them has the SHA-256 digest {digest}")));
    }
    found.sort();
    Ok(found)
}

fn lock_package(listed: Listed, repository: &str) -> LockedPackage {
    LockedPackage {
        name: listed.name,
        version: listed.version,
        architecture: listed.architecture,
        sha256: listed.sha256,
        size: listed.size,
        repository: repository.to_owned(),
        path: listed.path,
    }
}

/// The entries of an index in the cache.
///
/// # Errors
/// Install error when it cannot be decompressed.
pub fn packages(file: &CachedArtifact, name: &str) -> Result<Packages<Box<dyn BufRead>>> {
    Ok(Packages::new(crate::cache::decompressed(file.open()?, name)?))
}

/// Those of the names that no repository has in any version.
///
/// # Errors
/// Install error when an index cannot be read.
pub fn lacking(names: &[String], repositories: &[Metadata]) -> Result<Vec<String>> {
    let mut open = names.to_vec();
    for repository in repositories {
        for (index, file) in repository.locked.indexes.iter().zip(&repository.indexes) {
            for listed in packages(file, &index.path)? {
                let listed = listed?;
                open.retain(|name| *name != listed.name);
            }
        }
    }
    Ok(open)
}

/// Which toolkits a CUDA repository has, in words.
///
/// # Errors
/// Install error when an index cannot be read.
pub fn offered(repository: &Metadata) -> Result<String> {
    let mut names = Vec::new();
    for (index, file) in repository.locked.indexes.iter().zip(&repository.indexes) {
        for listed in packages(file, &index.path)? {
            let name = listed?.name;
            if name.starts_with("cuda-toolkit-") && !name.ends_with("-config-common") {
                names.push(name);
            }
        }
    }
    names.sort();
    names.dedup();
    let list = if names.is_empty() { "no toolkit".to_owned() } else { names.join(", ") };
    Ok(format!("the CUDA repository has {list}: `--set packages=NAME,…` takes another"))
}
