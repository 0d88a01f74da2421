//! What belongs into a bundle: the files of its locks, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::table::{Entry, TEXT_LIMIT, Table};
use crate::digest::Digest;
use crate::engine::supplies::Supplies;
use crate::error::{Error, Result};
use crate::lock::{Lock, LockedFile};

/// Missing files that are named in a message.
const NAMED: usize = 5;

/// A file that a lock names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Its digest and size.
    pub file: LockedFile,
    /// What it is for.
    pub label: String,
    /// Whether the lock is of use without it.
    pub is_optional: bool,
}

/// Every file of some locks, by digest.
///
/// # Errors
/// Install error when two of them disagree about a size.
pub fn needed<'a>(locks: impl Iterator<Item = &'a Lock>) -> Result<BTreeMap<Digest, Needed>> {
    let mut needed: BTreeMap<Digest, Needed> = BTreeMap::new();
    for lock in locks {
        let statuses: BTreeSet<Digest> =
            lock.targets.iter().map(|target| target.status.sha256).collect();
        let others = lock.required();
        for (file, label) in lock.files() {
            let is_optional = statuses.contains(&file.sha256) && !others.contains(&file.sha256);
            let new = Needed { file, label, is_optional };
            let known = needed.entry(file.sha256).or_insert_with(|| new.clone());
            if known.file.size != file.size {
                let (one, other) = (known.file.size, file.size);
                return Err(Error::install(format!("use `{}`", known.label))
                    .because(format!("locks give {one} and {other} bytes as its size")));
            }
            known.is_optional &= is_optional;
        }
    }
    Ok(needed)
}

/// A lock of the cache, and its text in a bundle.
#[derive(Debug)]
pub struct LockText {
    /// Its path in the bundle.
    pub path: String,
    /// Its file name without `.lock`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What is exported.
#[derive(Debug)]
pub struct Contents {
    /// The table.
    pub table: Table,
    /// The locks, in the order of the table.
    pub locks: Vec<LockText>,
    /// What each blob is for.
    pub labels: BTreeMap<Digest, String>,
}

impl Contents {
    /// The locks of these names, or all of the cache, and their files.
    ///
    /// # Errors
    /// Invalid input for a name that no lock has; install error for files that are missing.
    pub fn gather(supplies: &Supplies<'_>, names: &[String]) -> Result<Self> {
        let locks = choose(supplies.locks()?, names)?;
        let needed = needed(locks.iter().map(|(_, lock)| lock))?;
        let (mut present, mut missing) = (Vec::new(), Vec::new());
        for needed in needed.into_values() {
            let found = fs::symlink_metadata(supplies.cache.place(&needed.file.sha256));
            match found.is_ok_and(|found| found.is_file() && found.len() == needed.file.size) {
                true => present.push(needed),
                false if needed.is_optional => {}
                false => missing.push(needed.label),
            }
        }
        if !missing.is_empty() {
            return Err(absent(&missing));
        }
        let mut texts = Vec::new();
        for (file_name, lock) in &locks {
            texts.push(text(file_name, lock)?);
        }
        let blobs = present.iter().map(|needed| Entry::blob(&needed.file));
        let entry =
            |lock: &LockText| Entry::lock(&format!("{}.lock", lock.name), lock.text.as_bytes());
        let table = Table::new(texts.iter().map(entry).chain(blobs));
        if table.to_text().len() as u64 > TEXT_LIMIT {
            return Err(Error::input("export: these locks have more files than a bundle can hold")
                .hint("`--lock NAME` exports one lock alone"));
        }
        let labels = present.into_iter().map(|needed| (needed.file.sha256, needed.label));
        let labels = labels.collect();
        texts.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Self { table, locks: texts, labels })
    }
}

fn choose(all: Vec<(String, Lock)>, names: &[String]) -> Result<Vec<(String, Lock)>> {
    let known: Vec<String> = all.iter().map(|(name, _)| stem(name).to_owned()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(Error::input(format!("find a lock `{unknown}` in the cache"))
            .hint(format!("locks of the cache: {}", known.join(", "))));
    }
    if all.is_empty() {
        return Err(Error::input("find a lock in the cache: it has none")
            .hint("`nvstage prefetch` fills it"));
    }
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|one| one == stem(name));
    Ok(all.into_iter().filter(|(name, _)| is_wanted(name)).collect())
}

fn stem(file_name: &str) -> &str {
    file_name.strip_suffix(".lock").unwrap_or(file_name)
}

fn text(file_name: &str, lock: &Lock) -> Result<LockText> {
    let refused = |why: String| {
        Error::install(format!("export the lock `{file_name}`"))
            .because(why)
            .hint("`nvstage prefetch` writes a new one")
    };
    if lock.own_file_name() != file_name {
        return Err(refused(format!("it is a lock of {}", lock.label())));
    }
    let text = lock.to_text();
    let path = Entry::lock(file_name, text.as_bytes()).path;
    if text.len() as u64 > TEXT_LIMIT || super::frame::header(&path, 0).is_none() {
        return Err(refused("it is larger, or its name longer, than a bundle can hold".to_owned()));
    }
    Ok(LockText { path, name: stem(file_name).to_owned(), text })
}

fn absent(missing: &[String]) -> Error {
    let count = missing.len();
    let what = format!("export: the cache lacks {count} of the files that its locks name");
    let error = missing
        .iter()
        .take(NAMED)
        .fold(Error::install(what), |error, label| error.because(format!("`{label}` is missing")));
    let error = match count - count.min(NAMED) {
        0 => error,
        more => error.because(format!("and {more} more")),
    };
    error.hint("`nvstage prefetch` fetches them again").hint("`--lock NAME` exports one lock alone")
}
