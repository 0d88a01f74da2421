//! `nvstage cache verify`: every file is read and hashed again, and no record is believed.
//!
//! What is damaged is removed, so that it can never be used and is fetched or made again. Others
//! may use the cache meanwhile: a file that someone else has replaced since is left to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::contents::in_one_line;
use super::index::Index;
use super::prune::{linked, remove};
use super::reach::Reach;
use super::rehash::{Job, Seen, rehash};
use super::scan::{FileId, Scan, file_id};
use super::tree::INDEX;
use super::{Cache, blob, mirror, tree};
use crate::digest::Digest;
use crate::error::{Error, ExitCode, Result};
use crate::event::{Event, Events};
use crate::host::files::{self, Lock};

/// How [`crate::lock::Lock::files`] calls the dpkg status of a system.
const STATE: &str = "status of ";

/// What came of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    schema: u32,
    /// The cache's directory.
    pub directory: String,
    /// How many files were hashed.
    pub files: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What was damaged, and is removed.
    pub damaged: Vec<Damaged>,
    /// What locks name and the cache does not have.
    pub missing: Vec<Missing>,
    /// Locks that cannot be read, and why.
    pub unreadable_locks: Vec<String>,
}

/// Which part of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A file that was fetched.
    File,
    /// An unpacked installer.
    Tree,
    /// A partial mirror.
    Mirror,
    /// An image that containers share, beside the cache.
    Image,
}

/// Something that was damaged.
#[derive(Debug, Clone, Serialize)]
pub struct Damaged {
    /// Which part of the cache it was.
    pub part: Part,
    /// The digest that it is named by: of an unpacked installer that of the installer, of a mirror
    /// that of its list of files.
    pub sha256: Digest,
    /// What it was.
    pub name: String,
    /// The locks that name it.
    pub kept_by: Vec<String>,
    /// How it was damaged.
    pub why: String,
}

/// Something that a lock names and the cache does not have.
#[derive(Debug, Clone, Serialize)]
pub struct Missing {
    /// The digest.
    pub sha256: Digest,
    /// What the locks call it.
    pub name: String,
    /// The locks that name it.
    pub kept_by: Vec<String>,
}

impl Verified {
    /// Done when everything is intact and there, an installation error otherwise.
    pub fn exit(&self) -> ExitCode {
        match self.error() {
            Some(error) => error.code(),
            None => ExitCode::Done,
        }
    }

    /// What to do when something is not as it should be.
    pub fn error(&self) -> Option<Error> {
        let counts = [
            (self.damaged.len(), "damaged and removed"),
            (self.missing.len(), "missing"),
            (self.unreadable_locks.len(), "of the locks unreadable"),
        ];
        let found = counts.iter().filter(|(count, _)| *count > 0);
        let found: Vec<String> = found.map(|(count, what)| format!("{count} {what}")).collect();
        if found.is_empty() {
            return None;
        }
        let error = Error::install(format!("verify the cache: {}", found.join(", ")));
        let mut error = self.unreadable_locks.iter().fold(error, Error::because);
        if !self.unreadable_locks.is_empty() {
            error =
                error.hint("`nvstage prefetch` for its recipe and distribution writes a lock anew");
        }
        if self.is_lost(|_| true) {
            error = error
                .hint("`nvstage prefetch --locked` fetches what is missing again")
                .hint("or import the bundle that it came from once more");
        } else if !self.damaged.is_empty() {
            error = error.hint("it is made again from intact files when it is next used");
        }
        // No repository has it.
        if self.is_lost(|name| name.starts_with(STATE)) {
            error = error.hint("a system's state is read again by `nvstage prefetch --for` it");
        }
        Some(error)
    }

    /// Whether something with such a name is not in the cache any more, and cannot be made from
    /// what is.
    fn is_lost(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        let damaged = self.damaged.iter().filter(|damaged| damaged.part == Part::File);
        let damaged = damaged.map(|damaged| &damaged.name);
        damaged.chain(self.missing.iter().map(|missing| &missing.name)).any(|name| is_meant(name))
    }
}

impl Cache {
    /// Hashes every file and every file of every unpacked installer, on all cores, and looks at
    /// the links of the mirrors. Records are renewed for what is intact; what is damaged is
    /// removed, with a warning.
    ///
    /// # Errors
    /// A host error when something may not be read or cannot be removed; the interruption.
    pub fn verify(&self, events: &dyn Events) -> Result<Verified> {
        let began = Instant::now();
        let locks = self.locks()?;
        let scan = Scan::of(self)?;
        let reach = Reach::of(&locks.readable);
        let mut work = Work {
            cache: self,
            scan: &scan,
            reach: &reach,
            events,
            targets: Vec::new(),
            trees: BTreeMap::new(),
            intact: BTreeMap::new(),
            hashed: (0, 0),
            damaged: Vec::new(),
        };
        let jobs = work.jobs()?;
        rehash(&jobs, (events, &self.cancel), &mut |position, seen| work.take(position, seen))?;
        work.finish_trees()?;
        work.check_mirrors()?;
        let Work { damaged, hashed: (files, bytes), .. } = work;
        let is_lost = |digest: &Digest| {
            let removed = |it: &Damaged| it.part == Part::File && it.sha256 == *digest;
            !damaged.iter().any(removed) && !self.blob(digest).exists()
        };
        let missing = reach.files.iter().filter(|(digest, _)| is_lost(digest));
        let missing = missing.map(|(digest, kept)| Missing {
            sha256: *digest,
            name: kept.name.clone(),
            kept_by: kept.locks.clone(),
        });
        Ok(Verified {
            schema: 1,
            directory: self.directory.to_string_lossy().into_owned(),
            files,
            bytes,
            seconds: (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            missing: missing.collect(),
            damaged,
            unreadable_locks: locks.unreadable.iter().map(in_one_line).collect(),
        })
    }
}

/// What a file that is hashed belongs to.
enum Target {
    Blob(Digest),
    /// The file of that name in the tree of an installer.
    Tree(Digest, String),
}

struct TreeState {
    index: Index,
    is_renewed: bool,
    fault: Option<String>,
}

struct Work<'a> {
    cache: &'a Cache,
    scan: &'a Scan,
    reach: &'a Reach,
    events: &'a dyn Events,
    /// What each job is about.
    targets: Vec<Target>,
    trees: BTreeMap<Digest, TreeState>,
    intact: BTreeMap<FileId, Digest>,
    /// Files and bytes.
    hashed: (usize, u64),
    damaged: Vec<Damaged>,
}

impl Work<'_> {
    fn jobs(&mut self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for (digest, blob) in &self.scan.blobs {
            jobs.push(Job { path: self.cache.blob(digest), bytes: blob.file.bytes });
            self.targets.push(Target::Blob(*digest));
        }
        for digest in self.scan.trees.keys() {
            let directory = self.tree(digest);
            match Index::read(&directory.join(INDEX)) {
                Ok(index) => {
                    for (name, file) in &index.files {
                        let path = directory.join("payload").join(name);
                        jobs.push(Job { path, bytes: file.size });
                        self.targets.push(Target::Tree(*digest, name.clone()));
                    }
                    let state = TreeState { index, is_renewed: false, fault: None };
                    self.trees.insert(*digest, state);
                }
                Err(error) => self.remove_tree(digest, in_one_line(&error))?,
            }
        }
        Ok(jobs)
    }

    fn tree(&self, digest: &Digest) -> PathBuf {
        self.cache.trees().join(digest.to_string())
    }

    fn take(&mut self, position: usize, seen: Seen) -> Result<()> {
        if let Seen::Content { bytes, .. } = &seen {
            self.hashed.0 += 1;
            self.hashed.1 += bytes;
        }
        match &self.targets[position] {
            Target::Blob(digest) => self.take_blob(*digest, seen),
            Target::Tree(digest, name) => {
                if let Some(tree) = self.trees.get_mut(digest) {
                    tree.take(name, seen);
                }
                Ok(())
            }
        }
    }

    fn take_blob(&mut self, wanted: Digest, seen: Seen) -> Result<()> {
        let why = match seen {
            Seen::Content { digest, stamp, .. } if digest == wanted => {
                let file = self.scan.blobs.get(&wanted).map(|blob| blob.file.id);
                let read = file.filter(|(_, inode)| *inode == stamp.inode());
                self.intact.extend(read.map(|file| (file, wanted)));
                return blob::renew(&self.cache.record(&wanted), stamp);
            }
            Seen::Content { digest, .. } => format!("its content has the SHA-256 digest {digest}"),
            Seen::Unreadable(why) => why,
            // Whoever removed it knows why.
            Seen::Gone => return Ok(()),
        };
        files::remove_file(&self.cache.record(&wanted))?;
        let path = self.cache.blob(&wanted);
        if file_id(&path)? == self.scan.blobs.get(&wanted).map(|blob| blob.file.id) {
            remove(&path)?;
        }
        let name = match self.reach.files.get(&wanted) {
            Some(kept) => kept.name.clone(),
            None => "a file of no lock".to_owned(),
        };
        self.damaged(Part::File, (wanted, name), why);
        Ok(())
    }

    fn finish_trees(&mut self) -> Result<()> {
        for (digest, tree) in std::mem::take(&mut self.trees) {
            match tree.fault {
                Some(why) => self.remove_tree(&digest, why)?,
                None if tree.is_renewed => tree.index.write(&self.tree(&digest).join(INDEX))?,
                None => {}
            }
        }
        Ok(())
    }

    fn remove_tree(&mut self, digest: &Digest, why: String) -> Result<()> {
        let (trees, path, hex) = (self.cache.trees(), self.tree(digest), digest.to_string());
        // Whoever holds it is about to unpack the installer anew.
        let lock = Lock::try_exclusive(&tree::lock_file(&trees, &hex))?;
        let is_same = file_id(&path)? == self.scan.trees.get(digest).map(|tree| tree.id);
        if lock.is_none() || !is_same {
            return Ok(());
        }
        match path.is_dir() {
            true => tree::discard(&trees, &hex)?,
            false => remove(&path)?,
        }
        let version = self.scan.drivers.get(digest).map(String::as_str).unwrap_or_default();
        let name = match self.reach.files.get(digest) {
            Some(kept) => format!("{}, unpacked", kept.name),
            None => format!("driver {version}, unpacked"),
        };
        self.damaged(Part::Tree, (*digest, name), why);
        Ok(())
    }

    fn check_mirrors(&mut self) -> Result<()> {
        let parent = self.cache.mirrors();
        for (name, directory) in &self.scan.mirrors {
            self.cache.cancel.check()?;
            let hex = name.to_string();
            let path = parent.join(&hex);
            // Someone may have made it again, with links to files that came later.
            let is_same = || Ok::<_, Error>(file_id(&path)? == Some(directory.id));
            let fault = match mirror::fault(&path, (name, directory), &self.intact) {
                _ if !is_same()? => continue,
                Ok(None) => continue,
                Ok(Some(why)) => why,
                Err(error) => in_one_line(&error),
            };
            let lock = Lock::try_exclusive(&mirror::lock_file(&parent, &hex))?;
            if lock.is_none() || !is_same()? {
                continue;
            }
            mirror::discard(self.cache, &path, &linked(directory, self.scan))?;
            self.damaged(Part::Mirror, (*name, "partial mirror".to_owned()), fault);
        }
        Ok(())
    }

    fn damaged(&mut self, part: Part, (sha256, name): (Digest, String), why: String) {
        let text = format!("`{name}` is damaged and removed: {why}");
        self.events.emit(Event::Warning { text });
        let kept_by = self.reach.locks(&sha256);
        self.damaged.push(Damaged { part, sha256, name, kept_by, why });
    }
}

impl TreeState {
    fn take(&mut self, name: &str, seen: Seen) {
        let Some(file) = self.index.files.get_mut(name) else { return };
        match seen {
            Seen::Content { digest, bytes, stamp }
                if (digest, bytes) == (file.digest, file.size) =>
            {
                self.is_renewed |= file.stamp != stamp;
                file.stamp = stamp;
            }
            Seen::Content { .. } => self.fault = Some(format!("its `{name}` was changed")),
            Seen::Unreadable(why) => self.fault = Some(format!("its `{name}`: {why}")),
            Seen::Gone => self.fault = Some(format!("its `{name}` is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(parts: &[Part], missing: usize, locks: usize) -> Verified {
        let digest = Digest::of(b"x");
        let damaged = |part: &Part| Damaged {
            part: *part,
            sha256: digest,
            name: "x".to_owned(),
            kept_by: Vec::new(),
            why: "x".to_owned(),
        };
        let lost = Missing { sha256: digest, name: "x".to_owned(), kept_by: Vec::new() };
        Verified {
            schema: 1,
            directory: "/cache".to_owned(),
            files: 1,
            bytes: 1,
            seconds: 0.1,
            damaged: parts.iter().map(damaged).collect(),
            missing: vec![lost; missing],
            unreadable_locks: vec!["failed to read it".to_owned(); locks],
        }
    }

    #[test]
    fn the_hint_fits_what_was_found() {
        assert_eq!(verified(&[], 0, 0).exit(), ExitCode::Done);
        let error = |parts: &[Part], missing, locks| {
            let verified = verified(parts, missing, locks);
            assert_eq!(verified.exit(), ExitCode::Install);
            verified.error().unwrap()
        };
        assert!(error(&[Part::Tree], 0, 0).hints()[0].contains("made again"));
        assert!(error(&[Part::Tree, Part::File], 0, 0).hints()[0].contains("--locked"));
        assert!(error(&[], 1, 0).what().ends_with("verify the cache: 1 missing"));
        assert_eq!(error(&[], 0, 1).causes(), ["failed to read it"]);
    }
}
