//! An installer unpacked once, put in place by one rename.
//!
//! `trees-v1/<hex>/` has the archive's content in `payload/`, links to `/bin/true` in
//! `stand-ins/.nvstage/bin/` that answer for the module tools while the installer runs, and
//! `index.json`. It is unpacked in `trees-v1/.tmp-<hex>/` under the lock `trees-v1/.<hex>.lock`.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::SAME_FILE_WAIT;
use super::blob::CachedArtifact;
use super::decompress::{archive, pipe, pump};
use super::index::{Hashed, Index, TreeFile};
use super::unpack::{Unpacker, damaged, unwritable};
use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::host::cancel::Cancel;
use crate::host::files::{self, Lock, failed};
use crate::runfile::header::{HEADER_BYTES, Header, Installer};
use crate::runfile::manifest::Manifest;
use crate::version::DriverVersion;

pub(super) const INDEX: &str = "index.json";
/// Programs that `nvidia-installer` insists on, and that must never reach the host's modules.
const STAND_INS: [&str; 4] = ["modprobe", "rmmod", "lsmod", "depmod"];
/// Files that may wait to be synchronised; each is an open descriptor.
const UNSYNCHRONISED: usize = 64;

/// An unpacked, verified installer.
#[derive(Debug)]
pub struct Tree {
    payload: PathBuf,
    stand_ins: PathBuf,
    index: Index,
    manifest: Manifest,
    unpacked_in: Duration,
}

impl Tree {
    /// The directory with the archive's content: `nvidia-installer`, `.manifest`, libraries.
    pub fn payload(&self) -> &Path {
        &self.payload
    }

    /// A directory with stand-ins for the module tools in `.nvstage/bin`, to be laid over or under
    /// the payload.
    pub fn stand_ins(&self) -> &Path {
        &self.stand_ins
    }

    /// The list of what the installer installs.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Size and digest of the file at a path in the payload, without a leading `./`.
    pub fn file(&self, path: &str) -> Option<&TreeFile> {
        self.index.files.get(path)
    }

    /// The size of all files of the payload, in bytes.
    pub fn total_size(&self) -> u64 {
        self.index.files.values().map(|file| file.size).sum()
    }

    /// The driver's version.
    pub fn version(&self) -> &DriverVersion {
        &self.index.driver
    }

    /// The architecture it is for.
    pub fn architecture(&self) -> Architecture {
        self.index.architecture
    }

    /// How long unpacking took just now; zero when it was unpacked before.
    pub fn unpacked_in(&self) -> Duration {
        self.unpacked_in
    }

    fn open(directory: &Path) -> Result<Self> {
        let payload = directory.join("payload");
        let mut index = Index::read(&directory.join(INDEX))?;
        if index.verify(&payload)? == Hashed::Something {
            index.write(&directory.join(INDEX))?;
        }
        let manifest = read_manifest(&payload)?;
        let stand_ins = directory.join("stand-ins");
        Ok(Self { payload, stand_ins, index, manifest, unpacked_in: Duration::ZERO })
    }
}

/// The tree of a file, unpacked now or before.
pub(super) fn obtain(
    trees: &Path,
    (file, installer): (&CachedArtifact, &Installer),
    (events, cancel): (&dyn Events, &Cancel),
) -> Result<Tree> {
    let header = read_header(file)?;
    installer.check(&header)?;
    let hex = file.digest().to_string();
    let directory = trees.join(&hex);
    if let Some(tree) = open_if_there(&directory, None)? {
        return Ok(tree);
    }
    let _lock = lock(trees, &hex, (events, cancel))?;
    if let Some(tree) = open_if_there(&directory, Some(events))? {
        return Ok(tree);
    }
    remove_leftovers(trees)?;
    let began = Instant::now();
    let step = format!("unpack {}", installer.name);
    events.emit(Event::StepStarted { container: None, step: step.clone() });
    let temporary = trees.join(format!(".tmp-{hex}"));
    files::remove_tree(&temporary)?;
    let unpacked = build(&temporary, (file, &header), cancel)
        .and_then(|()| files::rename(&temporary, &directory));
    if let Err(error) = unpacked {
        // The first error counts.
        let _ = files::remove_tree(&temporary);
        return Err(error);
    }
    let mut tree = Tree::open(&directory)?;
    tree.unpacked_in = began.elapsed();
    let outcome = format!("{} files", tree.index.files.len());
    events.emit(Event::StepEnded { container: None, step, outcome, took: tree.unpacked_in });
    Ok(tree)
}

fn read_header(file: &CachedArtifact) -> Result<Header> {
    let mut first = Vec::with_capacity(HEADER_BYTES);
    file.open()?
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut first)
        .map_err(|error| failed("read", file.path(), &error))?;
    Header::parse(&first)
}

/// Opens a tree that is there. A damaged one is left alone without `events`, that is without the
/// lock, and removed with a warning otherwise.
fn open_if_there(directory: &Path, events: Option<&dyn Events>) -> Result<Option<Tree>> {
    if fs::symlink_metadata(directory).is_err() {
        return Ok(None);
    }
    match (Tree::open(directory), events) {
        (Ok(tree), _) => Ok(Some(tree)),
        (Err(_), None) => Ok(None),
        (Err(error), Some(events)) => {
            let cause = error.what().to_owned();
            let text = format!("the unpacked installer is damaged and unpacked again: {cause}");
            events.emit(Event::Warning { text });
            files::remove_tree(directory)?;
            Ok(None)
        }
    }
}

pub(super) fn lock_file(trees: &Path, hex: &str) -> PathBuf {
    trees.join(format!(".{hex}.lock"))
}

/// Removes a tree. It loses its name first: a tree that lacks a part which is not in its index,
/// as the stand-ins are, must never be found.
pub(super) fn discard(trees: &Path, hex: &str) -> Result<()> {
    let temporary = trees.join(format!(".tmp-{hex}"));
    files::remove_tree(&temporary)?;
    files::rename(&trees.join(hex), &temporary)?;
    files::remove_tree(&temporary)
}

fn lock(trees: &Path, hex: &str, (events, cancel): (&dyn Events, &Cancel)) -> Result<Lock> {
    let path = lock_file(trees, hex);
    if let Some(lock) = Lock::try_exclusive(&path)? {
        return Ok(lock);
    }
    events.emit(Event::Note { text: "waiting: another process unpacks the installer".to_owned() });
    Lock::exclusive(&path, SAME_FILE_WAIT, cancel)
}

/// Removes what killed runs left of other trees, where nobody is at work on them.
fn remove_leftovers(trees: &Path) -> Result<()> {
    let entries = fs::read_dir(trees).map_err(|error| failed("read", trees, &error))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(hex) = name.strip_prefix(".tmp-") else { continue };
        if let Some(_lock) = Lock::try_exclusive(&lock_file(trees, hex))? {
            files::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Unpacks into a new directory; everything in it is on the disk afterwards.
fn build(temporary: &Path, what: (&CachedArtifact, &Header), cancel: &Cancel) -> Result<()> {
    let (file, header) = what;
    let (payload, bin) = (temporary.join("payload"), temporary.join("stand-ins/.nvstage/bin"));
    let reader = archive(file.open()?, header)?;
    for directory in [&payload, &bin] {
        files::create_directory(directory).map_err(as_install)?;
    }
    for name in STAND_INS {
        let link = bin.join(name);
        symlink("/bin/true", &link).map_err(|error| unwritable(&link, &error))?;
    }
    let files = std::thread::scope(|scope| {
        let (send, piped) = pipe(cancel);
        let (finished, queue) = sync_channel(UNSYNCHRONISED);
        scope.spawn(move || pump(reader, &send));
        let synchronised = scope.spawn(move || synchronise(&queue));
        let files = Unpacker::new(&payload, finished).unpack(piped);
        let synchronised = synchronised.join().unwrap_or(Ok(()));
        // A request to stop shows itself as a read error; a failed write must not be lost either.
        cancel.check()?;
        let files = files?;
        synchronised.map_err(|error| unwritable(&payload, &error))?;
        Ok(files)
    })?;
    let index = Index::new(header.version.clone(), header.architecture, files);
    let manifest = read_manifest(&temporary.join("payload"))?;
    if manifest.version != header.version {
        return Err(damaged(format!(
            "its list of files is of version {}, its header of {}",
            manifest.version, header.version
        )));
    }
    index.write(&temporary.join(INDEX)).map_err(as_install)?;
    // One call for a thousand small files; each of them on its own would take milliseconds.
    File::open(temporary)
        .and_then(|directory| Ok(nix::unistd::syncfs(directory)?))
        .map_err(|error| unwritable(temporary, &error))?;
    Ok(())
}

/// Writes large files to the disk as they come.
fn synchronise(queue: &Receiver<File>) -> std::io::Result<()> {
    queue.iter().try_for_each(|file| file.sync_all())
}

fn read_manifest(payload: &Path) -> Result<Manifest> {
    let path = payload.join(".manifest");
    let bytes = fs::read(&path)
        .map_err(|error| damaged(format!("its list of files cannot be read: {error}")))?;
    Manifest::parse(&String::from_utf8_lossy(&bytes))
}

/// A full disk while unpacking fails the installation; nothing is wrong with the host's set-up.
fn as_install(error: Error) -> Error {
    let install = Error::install(error.what());
    let install = error.causes().iter().fold(install, Error::because);
    error.hints().iter().fold(install, Error::hint)
}
