//! The container's own sources of a repository: read from outside, set aside for ours, put back.
//!
//! Order of events: what is set aside is written into the journal, then changed inside; it is
//! forgotten when it is back.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::apt::existing::{self, Change, FileEdit, Files, Ours, SetAside, Wanted};
use crate::apt::{self, SOURCES_PATH};
use crate::digest::Digest;
use crate::engine::journal;
use crate::engine::survey;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::rootfs::ContainerRoot;
use crate::recipe::Recipe;
use crate::runtime::{Inside, Session};

const EDIT: &str = concat!(include_str!("../prelude.sh"), include_str!("../apt/edit.sh"));

const LIST: &str = "/etc/apt/sources.list";
const PARTS: &str = "/etc/apt/sources.list.d";
const TRUSTED: &str = "/etc/apt/trusted.gpg";
const TRUSTED_PARTS: &str = "/etc/apt/trusted.gpg.d";
/// Bytes of a file that are read: a whole keyring of a distribution has some 60,000.
const LARGEST: u64 = 1 << 20;
/// Files of a directory that are read.
const MOST: usize = 500;
/// Bytes of the longest argument that is sure to be taken.
const LONGEST: usize = 100 * 1024;
/// Waiting for another installer takes longer than the work.
const LIMIT: Duration = Duration::from_secs(1200);

/// Whether ours is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is: packages come from the network.
    Source,
    /// It is not: they come from the cache.
    Nothing,
}

/// What becomes of the container's own sources of the recipe's repository.
///
/// # Errors
/// Invalid input for a distribution that the recipe does not know; install error for a file that
/// would have to be changed and cannot be.
pub fn look(root: &ContainerRoot, recipe: &Recipe, facts: &Facts, need: Need) -> Result<Change> {
    let repository = recipe.repository(&facts.distribution, facts.architecture)?;
    let ours = match need {
        Need::Source => Ours::Wanted,
        Need::Nothing if facts.files.contains_key(SOURCES_PATH) => Ours::There,
        Need::Nothing => Ours::Absent,
    };
    let wanted = Wanted {
        url: &repository.url,
        fingerprint: &repository.fingerprint,
        architecture: facts.architecture.dpkg(),
    };
    let trusted = trusted(root);
    let read = |path: &str| root.read_bytes(path, LARGEST).ok();
    let files = Files { sources: &sources(root), trusted: &trusted, read: &read };
    let change = existing::change(wanted, files, ours);
    for FileEdit { path, before, .. } in &change.edits {
        if root.read_bytes(path, LARGEST).is_ok_and(|bytes| Digest::of(&bytes) != *before) {
            return Err(Error::install(format!("change `{path}` inside: it is not UTF-8")));
        }
    }
    Ok(change)
}

/// The files that apt reads, by their path.
fn sources(root: &ContainerRoot) -> BTreeMap<String, String> {
    let parts = parts(root, PARTS, &[".list", ".sources"]);
    let read = |path: String| {
        let text = root.read_text(&path, LARGEST).ok()?;
        Some((path, text))
    };
    parts.into_iter().chain([LIST.to_owned()]).filter_map(read).collect()
}

fn trusted(root: &ContainerRoot) -> Vec<String> {
    let mut paths = parts(root, TRUSTED_PARTS, &[".gpg", ".asc"]);
    paths.extend(root.open(TRUSTED).is_ok().then(|| TRUSTED.to_owned()));
    paths
}

/// The files of a directory that apt reads: it passes over other names (`apt.conf(5)`).
fn parts(root: &ContainerRoot, directory: &str, suffixes: &[&str]) -> Vec<String> {
    let is_part = |name: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        !name.starts_with('.')
            && name.chars().all(is_plain)
            && suffixes.iter().any(|suffix| name.ends_with(suffix))
    };
    let names = root.names(directory).unwrap_or_default().into_iter();
    names.filter(is_part).take(MOST).map(|name| format!("{directory}/{name}")).collect()
}

/// Carries a change out, which the journal knows before.
///
/// # Errors
/// Install error when a file was changed meanwhile or cannot be written.
pub fn apply(session: &Session<'_>, change: &Change) -> Result<()> {
    if change.edits.is_empty() && change.removed.is_empty() {
        return Ok(());
    }
    journal::update(&session.host.paths, session.ctid, |journal| {
        for one in &change.set_aside {
            if !journal.set_aside.contains(one) {
                journal.set_aside.push(one.clone());
            }
        }
    })?;
    run(session, &change.edits, &change.removed)
}

/// What became of what was set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Back {
    /// The files that are as they were before.
    pub restored: Vec<String>,
    /// Those in which somebody has changed it since: they stay.
    pub kept: Vec<String>,
}

/// Puts back what was set aside, after ours is gone.
///
/// # Errors
/// As [`apply`].
pub fn put_back(session: &Session<'_>) -> Result<Back> {
    let paths = &session.host.paths;
    let known = journal::load(paths, session.ctid)?.map(|journal| journal.set_aside);
    let known = known.unwrap_or_default();
    let Some(pid) = session.init_process()?.filter(|_| !known.is_empty()) else {
        return Ok(Back::default());
    };
    let root = survey::root(session, pid)?;
    let mut back = Back::default();
    let mut files: BTreeMap<&str, Vec<&SetAside>> = BTreeMap::new();
    for one in &known {
        files.entry(&one.path).or_default().push(one);
    }
    let mut edits = Vec::new();
    for (path, pieces) in files {
        // A package that was removed took its source with it.
        let Ok(before) = root.read_text(path, LARGEST) else { continue };
        let mut text = before.clone();
        for piece in pieces {
            match existing::put_back(&text, piece) {
                Some(changed) => text = changed,
                None if text.contains(&piece.old) => {}
                None => back.kept.push(path.to_owned()),
            }
        }
        if text != before {
            back.restored.push(path.to_owned());
            let before = Digest::of(before.as_bytes());
            edits.push(FileEdit { path: path.to_owned(), before, text });
        }
    }
    if !edits.is_empty() {
        run(session, &edits, &[])?;
    }
    journal::update_managed(paths, session.ctid, |journal| journal.set_aside.clear())?;
    Ok(back)
}

fn run(session: &Session<'_>, edits: &[FileEdit], removed: &[&str]) -> Result<()> {
    let failed = || Error::install("change the container's apt sources").on(session.ctid);
    if let Some(edit) = edits.iter().find(|edit| edit.text.len() > LONGEST) {
        let why = format!(
            "`{}` has {} bytes, at most {LONGEST} are possible",
            edit.path,
            edit.text.len()
        );
        return Err(failed().because(why));
    }
    let mut arguments = vec![removed.join(" ")];
    for edit in edits {
        arguments.extend([edit.path.clone(), edit.before.to_string(), edit.text.clone()]);
    }
    let ran = session.run_inside(&Inside { script: EDIT, arguments, limit: LIMIT })?;
    if ran.answer.has("end") {
        return Ok(());
    }
    if ran.answer.has("busy") {
        return Err(failed()
            .because("another installer is at work inside the container, for 15 minutes now"));
    }
    if let Some(path) = ran.answer.get("changed") {
        return Err(failed()
            .because(format!("`{path}` was changed at the same time"))
            .hint("run the command again"));
    }
    let what = ran.answer.get("failed").unwrap_or("the script");
    Err(failed().because(format!("`{what}` failed, {}", ran.ended)).because(ran.output.trim()))
}

/// The files of ours that apt reads, where no source of the container's own serves.
pub fn files(change: &Change, ours: [apt::AptFile; 2]) -> Vec<apt::AptFile> {
    match change.serving {
        Some(_) => Vec::new(),
        None => ours.into(),
    }
}
