//! What a container has of its own at the places that the images of its host take: mounts, files
//! below a directory that an image would hide, anything but a directory above a link. Nothing of it
//! is covered or changed; it is told before anything else is.

use std::collections::{BTreeSet, HashSet};
use std::io;

use crate::apt::system::automatic;
use crate::engine::tenant::{Images, Own, is_shown};
use crate::error::Error;
use crate::facts::Facts;
use crate::host::mount::{self, Mounted, Owner};
use crate::host::rootfs::ContainerRoot;
use crate::lock::Lock;
use crate::plan::{Action, Plan};
use crate::recipe::Userland;

/// Where dpkg lists the files of each package.
const LISTS: &str = "/var/lib/dpkg/info";
/// What apt has installed because others need it (`apt-mark(8)`).
const STATES: &str = "/var/lib/apt/extended_states";
/// More files below one directory are not looked at one by one.
const MOST_FILES: usize = 200_000;
/// So many are shown.
const SHOWN: usize = 5;

/// A running container, as far as it is looked at here.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its first process.
    pub pid: u32,
    /// Its root directory.
    pub root: &'a ContainerRoot,
    /// The name of its directories of libraries.
    pub triplet: &'a str,
}

impl Images {
    /// Refuses where the container has something of its own. Files of the packages `leaving` do not
    /// count: those are removed first.
    ///
    /// # Errors
    /// Install error that names them.
    pub fn refuse_conflicts(&self, place: Place<'_>, leaving: &[String]) -> Result<(), Error> {
        self.refuse_conflicts_at(&[], place, leaving)
    }

    /// The same, also at the places `expected`: those of images that are not made yet.
    ///
    /// # Errors
    /// As [`Images::refuse_conflicts`].
    pub fn refuse_conflicts_at(
        &self,
        expected: &[String],
        place: Place<'_>,
        leaving: &[String],
    ) -> Result<(), Error> {
        let conflicts = self.conflicts(expected, place, leaving);
        if conflicts.is_empty() {
            return Ok(());
        }
        let mut shown = conflicts[..conflicts.len().min(SHOWN)].join("\n");
        if let more @ 1.. = conflicts.len().saturating_sub(SHOWN) {
            shown += &format!("\nand {more} more");
        }
        Err(Error::install("share what the host has: the container has something of its own there")
            .because(shown)
            .hint("move it away, or keep it: `--method installer --cuda apt` share nothing"))
    }

    /// What the container has of its own at the places of the images, in words.
    fn conflicts(&self, expected: &[String], place: Place<'_>, leaving: &[String]) -> Vec<String> {
        let Place { pid, root, triplet } = place;
        let mounts = mount::mounts(pid).unwrap_or_default();
        let mut found = Vec::new();
        let mut leaving_files = None;
        let shown = self.shown().into_iter().filter(|shown| !is_shown(root, shown));
        let targets = shown.map(|shown| shown.target).chain(expected.iter().cloned());
        for target in targets {
            found.extend(others_at(&mounts, &target));
            let is_ours =
                |mounted: &Mounted| mounted.owner == Owner::Nvstage && mounted.target == target;
            // Behind what is shown nothing can be seen; it was looked at before that was.
            if !mounts.iter().any(is_ours) {
                let known = leaving_files.get_or_insert_with(|| files_of(root, leaving));
                found.extend(files_at(root, &target, known));
            }
        }
        for link in self.links(triplet).iter().filter(|link| !link.is_made(root)) {
            found.extend(others_at(&mounts, &link.path));
            if let Err(error) = root.link_target(&link.path)
                && error.kind() == io::ErrorKind::NotADirectory
            {
                found.push(format!("`{}`: what is above it is no directory", link.path));
            }
        }
        found
    }
}

/// Mounts of somebody else's at a path or below it.
fn others_at(mounts: &[Mounted], path: &str) -> Vec<String> {
    let is_there = |mounted: &&Mounted| {
        let rest = mounted.target.strip_prefix(path);
        mounted.owner == Owner::Others && rest.is_some_and(|r| r.is_empty() || r.starts_with('/'))
    };
    let there = mounts.iter().filter(is_there);
    there.map(|mounted| format!("`{}`: {mounted} is mounted there", mounted.target)).collect()
}

/// What is at or below a directory that an image would hide; directories alone, as LXC leaves them,
/// are nothing.
fn files_at(root: &ContainerRoot, target: &str, leaving: &HashSet<String>) -> Vec<String> {
    match root.file_type(target) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return vec![format!("`{target}` is no directory")],
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![format!("`{target}`: {error}")],
    }
    let mut files = match root.files_below(target, MOST_FILES) {
        Ok(files) => files,
        Err(error) => return vec![format!("`{target}`: {error}")],
    };
    let is_made_anew = |path: &str| path.contains("/__pycache__/");
    files.retain(|path| !leaving.contains(path) && !is_made_anew(path));
    files.sort();
    files.into_iter().map(|path| format!("`{path}` is the container's own")).collect()
}

/// The files of packages, by dpkg's lists.
fn files_of(root: &ContainerRoot, packages: &[String]) -> HashSet<String> {
    let is_of = |list: &&String| {
        let name = list.strip_suffix(".list").and_then(|name| name.split(':').next());
        name.is_some_and(|name| packages.iter().any(|package| package == name))
    };
    let lists = root.names(LISTS).unwrap_or_default();
    let lists = lists.iter().filter(is_of);
    let texts = lists.map(|list| root.read_text(&format!("{LISTS}/{list}"), 64 << 20));
    texts.flatten().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Why a container gets no driver while its packages bring one; `None` where none is to come.
pub fn second_driver(plan: &Plan, userland: Userland, facts: &Facts) -> Option<Error> {
    let is_shared = userland == Userland::Share;
    let comes_shared = is_shared && plan.share.as_ref().is_some_and(Action::changes);
    let finding = facts.second_driver().filter(|_| plan.driver.changes() || comes_shared)?;
    let remedy = facts.second_driver_removal().join(" ");
    let refused = Error::install("give it a driver: its packages bring one");
    Some(refused.because(finding).hint(format!("inside: `{remedy}`")))
}

/// The packages that will be removed for a shared CUDA, as far as it can be told without asking the
/// container's apt: `own`, and those of the lock that nobody asked for.
pub fn leaving(root: &ContainerRoot, own: &Own, lock: &Lock) -> Vec<String> {
    if own.packages.is_empty() {
        return Vec::new();
    }
    let states = root.read_text(STATES, 16 << 20).unwrap_or_default();
    let automatic = automatic(&states);
    let locked = lock.packages.iter().map(|package| &package.name);
    let unneeded = locked.filter(|name| automatic.contains(name.as_str()));
    let all: BTreeSet<&String> = own.packages.iter().chain(unneeded).collect();
    all.into_iter().cloned().collect()
}
