//! Many unpacked packages laid into one tree, as dpkg would lay them into a root file system.
//!
//! Links come first, then everything else goes through them, as it does where dpkg finds a link in
//! the place of a directory. All of it happens on paths in memory, so a link can lead nowhere but
//! inside the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::package::{Member, What};
use crate::error::{Error, Result};
use crate::host::files::failed;
use crate::host::image::{Image, Source};

/// Links in a path are followed so many times, as Linux does.
const MOST_LINKS: usize = 40;

/// Where CUDA lies: `/usr/local/cuda-12.8`.
const CUDA: &str = "usr/local/cuda-";
/// Nsight's own place.
const NVIDIA: &str = "opt/nvidia";
/// Lists of directories of libraries.
const CONF: &str = "etc/ld.so.conf.d";

/// What nobody misses who does not develop on the container's desktop: it is left out.
const LEFT_OUT: [&str; 12] = [
    CONF,
    "usr/lib/pkgconfig",
    "usr/share/applications",
    "usr/share/bash-completion",
    "usr/share/desktop-directories",
    "usr/share/doc",
    "usr/share/doc-base",
    "usr/share/icons",
    "usr/share/lintian",
    "usr/share/man",
    "usr/share/pixmaps",
    "usr/share/pkgconfig",
];

/// An unpacked package.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) name: String,
    pub(super) members: Vec<Member>,
}

/// The tree of all packages.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) image: Image,
    /// The directories that containers are shown: `usr/local/cuda-12.8`, `opt/nvidia`.
    pub(super) trees: Vec<String>,
    /// The newest release of CUDA in it, `12.8`.
    pub(super) release: String,
    /// Absolute paths inside.
    pub(super) library_directories: Vec<String>,
    /// Packages that have files elsewhere, and are in no tree.
    pub(super) apart: Vec<String>,
}

/// Whether a file there is unpacked: it may be in a tree, or it lists directories of libraries.
pub(super) fn is_wanted(path: &Path) -> bool {
    tree(path).is_some() || path.parent() == Some(Path::new(CONF))
}

/// The tree that a path is in.
fn tree(path: &Path) -> Option<String> {
    if path.starts_with(NVIDIA) {
        return Some(NVIDIA.to_owned());
    }
    let mut parts = path.iter();
    let local = [parts.next()?, parts.next()?];
    if local != ["usr", "local"] {
        return None;
    }
    let name = parts.next()?.to_str()?;
    let release = name.strip_prefix("cuda-")?;
    is_release(release).then(|| format!("{CUDA}{release}"))
}

fn is_release(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

/// Whether a package has something that neither is in a tree nor may be left out.
fn is_apart(package: &Unpacked) -> bool {
    let triplet_pkgconfig =
        |path: &Path| path.starts_with("usr/lib") && path.iter().any(|part| part == "pkgconfig");
    package.members.iter().any(|member| {
        let path = &member.path;
        !matches!(member.what, What::Directory(_))
            && tree(path).is_none()
            && !LEFT_OUT.iter().any(|place| path.starts_with(place))
            && !triplet_pkgconfig(path)
    })
}

/// Lays packages into one tree. Their order does not matter.
///
/// # Errors
/// Install error when two packages have different files of one name, a link goes round in circles,
/// or there is no CUDA in them.
pub(super) fn merge(mut packages: Vec<Unpacked>) -> Result<Merged> {
    packages.sort_by(|one, other| one.name.cmp(&other.name));
    let mut merged = Merged::default();
    packages.retain(|package| {
        let stays = !is_apart(package);
        if !stays {
            merged.apart.push(package.name.clone());
        }
        stays
    });
    let mut laid = Laid::default();
    laid.links(&packages)?;
    for package in &packages {
        laid.files(package)?;
    }
    for package in &packages {
        laid.hard_links(package)?;
    }
    let lists: Vec<&Source> =
        packages.iter().flat_map(|package| &package.members).filter_map(list).collect();
    merged.trees = laid.trees();
    let release = merged.trees.iter().filter_map(|tree| tree.strip_prefix(CUDA));
    let key = |release: &&str| -> Vec<u32> {
        release.split('.').filter_map(|part| part.parse().ok()).collect()
    };
    merged.release = release.max_by_key(key).map(str::to_owned).ok_or_else(|| {
        Error::install("share CUDA: the lock's packages hold no `/usr/local/cuda-…`")
            .hint("a recipe with `cuda-toolkit-12-8` among its packages has it")
    })?;
    merged.library_directories = library_directories(&laid, &lists, &merged)?;
    for (path, what) in laid.nodes {
        match what {
            Laying::Directory(mode) => merged.image.directory(path, mode),
            Laying::File(source) => merged.image.file(path, source),
            Laying::Link(target) => merged.image.link(path, target),
        }
    }
    Ok(merged)
}

fn list(member: &Member) -> Option<&Source> {
    let is_list = member.path.parent() == Some(Path::new(CONF))
        && member.path.extension().is_some_and(|extension| extension == "conf");
    match &member.what {
        What::File(source) if is_list => Some(source),
        _ => None,
    }
}

#[derive(Debug, Clone)]
enum Laying {
    Directory(u32),
    File(Source),
    Link(PathBuf),
}

#[derive(Debug, Default)]
struct Laid {
    nodes: BTreeMap<PathBuf, Laying>,
}

impl Laid {
    /// The upper ones first: the lower ones may lie behind them.
    fn links(&mut self, packages: &[Unpacked]) -> Result<()> {
        let mut links: Vec<(&Unpacked, &Path, &PathBuf)> = Vec::new();
        for package in packages {
            links.extend(package.members.iter().filter_map(|member| match &member.what {
                What::Link(target) if tree(&member.path).is_some() => {
                    Some((package, member.path.as_path(), target))
                }
                _ => None,
            }));
        }
        links.sort_by_key(|(_, path, _)| path.iter().count());
        for (package, path, target) in links {
            let path = self.place(path, package)?;
            if tree(&path).is_none() {
                return Err(leaves(package, &path));
            }
            match self.nodes.insert(path.clone(), Laying::Link(target.clone())) {
                Some(Laying::Link(other)) if other != *target => return Err(twice(package, &path)),
                _ => {}
            }
        }
        Ok(())
    }

    fn files(&mut self, package: &Unpacked) -> Result<()> {
        for member in &package.members {
            match &member.what {
                What::Directory(mode) => {
                    let path = self.resolve(&member.path, package)?;
                    if tree(&path).is_some() {
                        self.nodes.entry(path).or_insert(Laying::Directory(*mode));
                    }
                }
                What::File(source) if tree(&member.path).is_some() => {
                    let path = self.place(&member.path, package)?;
                    self.add(path, source, package)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn hard_links(&mut self, package: &Unpacked) -> Result<()> {
        for member in &package.members {
            let What::Hard(target) = &member.what else { continue };
            if tree(&member.path).is_none() {
                continue;
            }
            let (path, target) = (self.place(&member.path, package)?, self.place(target, package)?);
            match self.nodes.get(&target).cloned() {
                Some(Laying::File(source)) => self.add(path, &source, package)?,
                Some(Laying::Link(target)) => {
                    self.nodes.insert(path, Laying::Link(target));
                }
                _ => {
                    let (name, path) = (&package.name, member.path.display());
                    return Err(Error::install(format!("share the package `{name}`"))
                        .because(format!("`{path}` is a hard link to what is not there")));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, source: &Source, package: &Unpacked) -> Result<()> {
        if tree(&path).is_none() {
            return Err(leaves(package, &path));
        }
        match self.nodes.get(&path) {
            None => {
                self.nodes.insert(path, Laying::File(source.clone()));
                Ok(())
            }
            Some(Laying::File(other))
                if (other.digest, other.mode) == (source.digest, source.mode) =>
            {
                Ok(())
            }
            Some(_) => Err(twice(package, &path)),
        }
    }

    /// A member's path with the links above it followed; the last part stays.
    fn place(&self, path: &Path, package: &Unpacked) -> Result<PathBuf> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(self.resolve(parent, package)?.join(name)),
            _ => Ok(path.to_owned()),
        }
    }

    fn resolve(&self, path: &Path, package: &Unpacked) -> Result<PathBuf> {
        self.follow(path).ok_or_else(|| {
            let (name, path) = (&package.name, path.display());
            Error::install(format!("share the package `{name}`"))
                .because(format!("the links of `/{path}` go round in circles"))
        })
    }

    /// The path with all links in it followed, `..` at the root staying there; `None` in circles.
    fn follow(&self, path: &Path) -> Option<PathBuf> {
        let mut open: Vec<Component<'_>> = path.components().rev().collect();
        let (mut found, mut left) = (PathBuf::new(), MOST_LINKS);
        while let Some(part) = open.pop() {
            match part {
                Component::RootDir | Component::Prefix(_) => found.clear(),
                Component::CurDir => {}
                Component::ParentDir => {
                    found.pop();
                }
                Component::Normal(name) => {
                    found.push(name);
                    if let Some(Laying::Link(target)) = self.nodes.get(&found) {
                        left = left.checked_sub(1)?;
                        found.pop();
                        open.extend(target.components().rev());
                    }
                }
            }
        }
        Some(found)
    }

    fn trees(&self) -> Vec<String> {
        let trees: BTreeSet<String> = self.nodes.keys().filter_map(|path| tree(path)).collect();
        trees.into_iter().collect()
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.nodes.get(path).is_some_and(|found| matches!(found, Laying::Directory(_)))
            || self
                .nodes
                .range(path.join("")..)
                .take(2)
                .any(|(below, _)| below.starts_with(path) && below != path)
    }
}

fn leaves(package: &Unpacked, path: &Path) -> Error {
    Error::install(format!("share the package `{}`", package.name))
        .because(format!("a link leads a file of it to `/{}`", path.display()))
}

fn twice(package: &Unpacked, path: &Path) -> Error {
    Error::install(format!("share the package `{}`", package.name))
        .because(format!("another package has another `/{}`", path.display()))
        .hint("`--cuda apt` lets dpkg decide which is right")
}

/// Of every release its own directory of libraries, and what the packages list for `ldconfig`:
/// those that are there, by the paths that they really have.
fn library_directories(laid: &Laid, lists: &[&Source], merged: &Merged) -> Result<Vec<String>> {
    let mut found: Vec<PathBuf> = Vec::new();
    let targets = |tree: &&String| tree.starts_with(CUDA);
    for tree in merged.trees.iter().filter(targets) {
        let below = Path::new(tree).join("targets");
        let names: BTreeSet<PathBuf> = laid
            .nodes
            .keys()
            .filter_map(|path| Some(below.join(path.strip_prefix(&below).ok()?.iter().next()?)))
            .map(|target| target.join("lib"))
            .collect();
        found.extend(names);
    }
    for list in lists {
        let text = std::fs::read_to_string(&list.path)
            .map_err(|error| failed("read", &list.path, &error))?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        found.extend(lines.filter(|line| line.starts_with('/')).map(|line| {
            let (major, _) = merged.release.split_once('.').unwrap_or_default();
            let path = PathBuf::from(line.trim_start_matches('/'));
            // Through the links that the packages' scripts would make.
            for name in ["cuda".to_owned(), format!("cuda-{major}")] {
                if let Ok(rest) = path.strip_prefix(Path::new("usr/local").join(name)) {
                    return Path::new(&format!("{CUDA}{}", merged.release)).join(rest);
                }
            }
            path
        }));
    }
    let mut directories: Vec<String> = Vec::new();
    for path in found.iter().filter_map(|path| laid.follow(path)) {
        let shown = format!("/{}", path.display());
        if tree(&path).is_some() && laid.is_directory(&path) && !directories.contains(&shown) {
            directories.push(shown);
        }
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn file(path: &str, content: &[u8]) -> Member {
        let digest = Some(Digest::of(content));
        let source =
            Source { path: PathBuf::from("/x"), size: content.len() as u64, mode: 0o644, digest };
        Member { path: path.into(), what: What::File(source) }
    }

    fn link(path: &str, target: &str) -> Member {
        Member { path: path.into(), what: What::Link(target.into()) }
    }

    fn package(name: &str, members: Vec<Member>) -> Unpacked {
        Unpacked { name: name.to_owned(), members }
    }

    const LIB: &str = "usr/local/cuda-12.8/targets/x86_64-linux/lib";

    #[test]
    fn files_go_through_links_of_other_packages_whatever_the_order() {
        let make = |names: [&str; 2]| {
            let [through, links] = names;
            let path = "usr/local/cuda-12.8/lib64/libx.so";
            merge(vec![
                package(through, vec![file(path, b"x")]),
                package(
                    links,
                    vec![
                        file(&format!("{LIB}/liby.so"), b"y"),
                        link("usr/local/cuda-12.8/lib64", "targets/x86_64-linux/lib"),
                    ],
                ),
            ])
            .unwrap()
        };
        for names in [["a", "b"], ["b", "a"]] {
            let merged = make(names);
            assert_eq!(merged.trees, ["usr/local/cuda-12.8"]);
            assert_eq!(merged.release, "12.8");
            assert_eq!(merged.library_directories, [format!("/{LIB}")]);
            assert_eq!(merged.image.bytes(), 2);
            assert!(merged.apart.is_empty());
        }
    }

    #[test]
    fn packages_with_files_elsewhere_stay_apart_and_documents_do_not_count() {
        let merged = merge(vec![
            package("cudnn", vec![file("usr/lib/x86_64-linux-gnu/libcudnn.so.9", b"x")]),
            package(
                "cuda-nvcc-12-8",
                vec![
                    file("usr/local/cuda-12.8/bin/nvcc", b"x"),
                    file("usr/share/doc/cuda-nvcc-12-8/copyright", b"x"),
                    file("usr/lib/x86_64-linux-gnu/pkgconfig/cuda.pc", b"x"),
                ],
            ),
            package("nsight", vec![file("opt/nvidia/nsight/ncu", b"x")]),
        ])
        .unwrap();
        assert_eq!(merged.apart, ["cudnn"]);
        assert_eq!(merged.trees, ["opt/nvidia", "usr/local/cuda-12.8"]);
        assert_eq!(merged.image.bytes(), 2);
    }

    #[test]
    fn what_cannot_be_one_tree_is_refused() {
        let refused = |packages: Vec<Unpacked>| merge(packages).unwrap_err().to_string();
        let nvcc = "usr/local/cuda-12.8/bin/nvcc";
        let two = [b"x", b"y"].map(|content| package("p", vec![file(nvcc, content)]));
        assert!(
            refused(two.into()).contains("another package has another `/usr/local/cuda-12.8/bin")
        );
        let out = vec![
            link("usr/local/cuda-12.8/out", "/etc"),
            file("usr/local/cuda-12.8/out/passwd", b"x"),
        ];
        assert!(refused(vec![package("p", out)]).contains("leads a file of it to `/etc/passwd`"));
        let up = vec![
            link("usr/local/cuda-12.8/up", "../../../../../../etc"),
            file("usr/local/cuda-12.8/up/passwd", b"x"),
        ];
        assert!(refused(vec![package("p", up)]).contains("`/etc/passwd`"));
        let circle = vec![
            link("usr/local/cuda-12.8/a", "b"),
            link("usr/local/cuda-12.8/b", "a"),
            file("usr/local/cuda-12.8/a/x", b"x"),
        ];
        assert!(refused(vec![package("p", circle)]).contains("go round in circles"));
        let hard = Member { path: nvcc.into(), what: What::Hard("etc/shadow".into()) };
        assert!(refused(vec![package("p", vec![hard])]).contains("hard link to what is not there"));
        assert!(refused(vec![package("p", Vec::new())]).contains("hold no `/usr/local/cuda-…`"));
        let two =
            ["b", "c"].map(|target| package(target, vec![link("usr/local/cuda-12.8/a", target)]));
        assert!(refused(two.into()).contains("another package has another"));
    }

    #[test]
    fn only_releases_are_trees() {
        assert_eq!(
            tree(Path::new("usr/local/cuda-13.0/x")).as_deref(),
            Some("usr/local/cuda-13.0")
        );
        for path in
            ["usr/local/cuda", "usr/local/cuda-12", "usr/local/cuda-x.y/z", "usr/bin/x", "opt"]
        {
            assert_eq!(tree(Path::new(path)), None, "{path}");
        }
    }
}
