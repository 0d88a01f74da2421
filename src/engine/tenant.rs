//! A container that shares what its host has: what it needs for that, what of it is there, and how it
//! gets it.
//!
//! All of it is seen from outside, without a process inside: the trees that are shown, the links into
//! them, the directories that the dynamic linker searches, and its cache. What is missing is put
//! right by the trees' mounts and one script inside.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::apt::system::Presence;
use crate::container::{self, config::LxcConfig, shared::SharedTree};
use crate::ctid::Ctid;
use crate::engine::conflicts::{self, Place};
use crate::engine::journal;
use crate::engine::shared::{self, CudaImage, DriverImage};
use crate::engine::supplies::Supplies;
use crate::engine::survey::{self, System};
use crate::engine::wish::{self, Wish};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::mount::{self, Owner};
use crate::host::paths::Paths;
use crate::host::rootfs::ContainerRoot;
use crate::journal::Journal;
use crate::lock::{Lock, LockedPackage, Role};
use crate::plan::{DriverState, Sharing};
use crate::recipe::{CudaMethod, Recipe, Userland};
use crate::remedy;
use crate::runtime::Session;
use crate::version::DriverVersion;

/// The script, and after it the look at the container.
pub const SET_UP: &str = concat!(
    include_str!("../prelude.sh"),
    include_str!("share.sh"),
    include_str!("../facts/gather.sh")
);

/// The host's driver of the moment, as configurations name it.
const SOURCE: &str = "/var/lib/nvstage/driver/current";
/// Where the images of CUDA are mounted, as configurations name them.
const IMAGES: &str = "/var/lib/nvstage/cuda/";
/// Where it appears inside.
pub(super) const DRIVER: &str = "/usr/lib/nvstage/driver";
/// A library that every version of the driver has, and its name without the version.
const LIBRARY: &str = "libnvidia-ml.so.";
/// How the places of CUDA begin.
const CUDA: &str = "/usr/local/cuda-";
/// What the dynamic linker reads.
const CONF: &str = "/etc/ld.so.conf.d/nvstage.conf";
/// Has the dynamic linker look for libraries at each start.
const UNIT: &str = "/etc/systemd/system/nvstage-ldconfig.service";
/// Where everything of ours is that is inside.
const HOME: &str = "/usr/lib/nvstage";
/// The links that were made, one a line: path and target.
const LINKS: &str = "/usr/lib/nvstage/links";
/// Data of the driver that libraries look up by their whole path; names in it have the version.
const DATA: &str = "/usr/share/nvidia";
/// Directories with libraries that are looked up there and nowhere else.
const PLUGINS: [&str; 2] = ["vdpau", "gbm"];

/// How a container is to have its driver and CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ways {
    /// The driver.
    pub userland: Userland,
    /// CUDA.
    pub cuda: CudaMethod,
}

impl Ways {
    /// As the user or the recipe says, or else as it has them now: by its journal, or where it has
    /// none, as a clone, by its lines.
    pub fn of(recipe: &Recipe, before: Option<&Journal>, config: &LxcConfig) -> Self {
        let sources = container::shared::sources(config);
        let has_line = |of: &str| sources.iter().any(|source| source.starts_with(of));
        let userland = match before {
            Some(journal) => journal.userland,
            None if has_line(SOURCE) => Userland::Share,
            None => Userland::Installer,
        };
        let cuda = match before {
            Some(journal) => journal.cuda,
            None if has_line(IMAGES) => CudaMethod::Share,
            None => CudaMethod::Apt,
        };
        let (userland, cuda) = (recipe.userland().or(Some(userland)), recipe.cuda().or(Some(cuda)));
        let cuda = match recipe.packages().is_empty() {
            true => CudaMethod::Apt,
            false => cuda.unwrap_or_default(),
        };
        Self { userland: userland.unwrap_or_default(), cuda }
    }

    /// Whether it shares anything.
    pub fn share(self) -> bool {
        self.userland == Userland::Share || self.cuda == CudaMethod::Share
    }

    /// The trees that it is to have.
    pub fn trees(self, cuda: Option<&CudaImage>) -> Vec<SharedTree> {
        let mut trees = Vec::new();
        if self.userland == Userland::Share {
            let target = DRIVER.trim_start_matches('/').to_owned();
            trees.push(SharedTree { source: SOURCE.to_owned(), target });
        }
        if let Some(image) = cuda.filter(|_| self.cuda == CudaMethod::Share) {
            let id = &image.id;
            trees.extend(image.trees.iter().map(|tree| SharedTree {
                source: format!("{IMAGES}{id}/{tree}"),
                target: tree.clone(),
            }));
        }
        trees
    }
}

/// The images of the host that a container is to share.
#[derive(Debug, Clone, Default)]
pub struct Images {
    /// The driver's; `None` for one that has its own.
    pub driver: Option<DriverImage>,
    /// CUDA's; `None` for one that has its own, or none.
    pub cuda: Option<CudaImage>,
}

/// Something of the host's that is shown inside.
pub(super) struct Shown<'a> {
    /// The directory of this host.
    source: std::path::PathBuf,
    /// The absolute path inside.
    pub(super) target: String,
    name: &'a str,
}

/// A link inside into what is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Its absolute path.
    pub(super) path: String,
    target: String,
    room: Room,
}

/// What becomes of something of the container's own at the place of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// It makes room, and is put back when the link goes.
    MovedAside,
    /// It stays; there is no link then.
    Left,
}

/// What is at the place of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtLink {
    Right,
    /// Nothing, or another link of ours.
    Missing,
    /// Something of the container's own.
    Own,
}

impl Link {
    /// Whether it is there.
    pub(super) fn is_made(&self, root: &ContainerRoot) -> bool {
        self.at(root) == AtLink::Right
    }

    fn at(&self, root: &ContainerRoot) -> AtLink {
        match root.link_target(&self.path) {
            Ok(found) if found == Path::new(&self.target) => AtLink::Right,
            Ok(found) if found.starts_with(HOME) => AtLink::Missing,
            Ok(_) => AtLink::Own,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => AtLink::Own,
            Err(_) => AtLink::Missing,
        }
    }
}

/// As the list inside has it.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.target)
    }
}

impl Images {
    /// What they are, in words.
    pub fn names(&self) -> Vec<String> {
        let driver = self.driver.iter().map(|image| format!("driver {}", image.version));
        driver.chain(self.cuda.iter().map(|image| format!("CUDA {}", image.id))).collect()
    }

    pub(super) fn shown(&self) -> Vec<Shown<'_>> {
        let driver = self.driver.iter().map(|image| Shown {
            source: image.mounted_at.clone(),
            target: DRIVER.to_owned(),
            name: "the host's driver",
        });
        let cuda = self.cuda.iter().flat_map(|image| {
            image.trees.iter().map(|tree| Shown {
                source: image.mounted_at.join(tree),
                target: format!("/{tree}"),
                name: "the host's CUDA",
            })
        });
        driver.chain(cuda).collect()
    }

    /// The directories that the dynamic linker is to search.
    fn directories(&self) -> Vec<String> {
        let mut directories = Vec::new();
        if let Some(image) = &self.driver {
            directories.push(format!("{DRIVER}/lib"));
            if !image.layout.sonames32.is_empty() {
                directories.push(format!("{DRIVER}/lib32"));
            }
        }
        directories.extend(self.cuda.iter().flat_map(|image| image.library_directories.clone()));
        directories
    }

    /// Paths that the dynamic linker's cache is to have.
    fn cached(&self) -> Vec<String> {
        let of_driver = |image: &DriverImage| -> Vec<String> {
            let names = image.layout.sonames.iter();
            names.map(|name| format!("{DRIVER}/lib/{name}")).collect()
        };
        self.driver.as_ref().map(of_driver).unwrap_or_default()
    }

    /// The links that belong inside. A name with the version in it would lead nowhere after the next
    /// change of the host's driver, so none has one.
    pub(super) fn links(&self, triplet: &str) -> Vec<Link> {
        let mut links = Vec::new();
        if let Some(image) = &self.driver {
            let version = image.version.as_str();
            let binaries = image.layout.binaries.iter();
            links.extend(
                binaries.map(|name| (format!("/usr/bin/{name}"), format!("{DRIVER}/bin/{name}"))),
            );
            let is_data = |path: &&String| path.starts_with(&format!("{DATA}/"));
            let (data, files): (Vec<&String>, Vec<&String>) =
                image.layout.files.iter().partition(is_data);
            let files = files.into_iter().filter(|path| !path.contains(version));
            links.extend(files.map(|path| (path.clone(), format!("{DRIVER}/files{path}"))));
            if !data.is_empty() {
                links.push((DATA.to_owned(), format!("{DRIVER}/files{DATA}")));
            }
            for plugins in PLUGINS {
                let names = names_in(&image.mounted_at.join("lib").join(plugins));
                let names = names.into_iter().filter(|name| !name.contains(version));
                links.extend(names.map(|name| {
                    let target = format!("{DRIVER}/lib/{plugins}/{name}");
                    (format!("/usr/lib/{triplet}/{plugins}/{name}"), target)
                }));
            }
        }
        // A program or list of a driver of another version would be found in their place.
        let link = |room| move |(path, target)| Link { path, target, room };
        let of_cuda = self.cuda.iter().flat_map(|image| image.links.clone());
        let of_driver = links.into_iter().map(link(Room::MovedAside));
        of_driver.chain(of_cuda.map(link(Room::Left))).collect()
    }

    /// What the script inside is told.
    pub fn arguments(&self, triplet: &str) -> [String; 4] {
        let links = self.links(triplet);
        let lines: Vec<String> = links.iter().map(ToString::to_string).collect();
        let moving = links.iter().filter(|link| link.room == Room::MovedAside);
        let moving: Vec<&str> = moving.map(|link| link.path.as_str()).collect();
        let driver = if self.driver.is_some() { "driver" } else { "" };
        let directories = self.directories().join("\n");
        [directories, lines.join("\n"), driver.to_owned(), moving.join("\n")]
    }

    /// What is missing of what a running container is to share, or is of another version.
    pub fn problems(&self, root: &ContainerRoot, triplet: &str) -> Vec<String> {
        let mut problems = self.problems_but_names(root, triplet);
        problems.extend(self.unknown_names(root));
        problems
    }

    /// Whether everything is there, or will be as soon as the container has started: names that
    /// change with the version are found by the unit inside.
    pub fn is_set_up(&self, root: &ContainerRoot, triplet: &str) -> bool {
        let is_found = || self.unknown_names(root).is_empty() || root.open(UNIT).is_ok();
        self.problems_but_names(root, triplet).is_empty() && is_found()
    }

    /// The same as [`Images::problems`], without the names of libraries that the dynamic linker knows
    /// or does not.
    pub fn problems_but_names(&self, root: &ContainerRoot, triplet: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for shown in self.shown() {
            if !is_shown(root, &shown) {
                problems.push(format!("{} is not shown at `{}`", shown.name, shown.target));
            }
        }
        let conf = root.read_text(CONF, 1 << 16).unwrap_or_default();
        if conf.lines().ne(self.directories()) {
            problems.push(format!("`{CONF}` is not as it should be"));
        }
        let list = root.read_text(LINKS, 1 << 20).unwrap_or_default();
        let links = self.links(triplet);
        if list.lines().map(str::to_owned).ne(links.iter().map(ToString::to_string)) {
            problems.push("it was not set up to the end".to_owned());
        }
        problems.extend(links.iter().filter_map(|link| match (link.at(root), link.room) {
            (AtLink::Right, _) | (AtLink::Own, Room::Left) => None,
            (AtLink::Own, Room::MovedAside) => {
                Some(format!("`{}` is the container's own", link.path))
            }
            (AtLink::Missing, _) => Some(format!("the link `{}` is missing", link.path)),
        }));
        problems
    }

    /// What of the container's own is moved aside for a link.
    pub(super) fn moved_aside(&self, root: &ContainerRoot, triplet: &str) -> Vec<String> {
        let links = self.links(triplet).into_iter();
        let moving = links.filter(|link| link.room == Room::MovedAside);
        moving.filter(|link| link.at(root) == AtLink::Own).map(|link| link.path).collect()
    }

    /// Libraries that the dynamic linker does not know.
    fn unknown_names(&self, root: &ContainerRoot) -> Vec<String> {
        let cache = root.read_bytes("/etc/ld.so.cache", 16 << 20).unwrap_or_default();
        // Paths in it end in zero, and begin after one.
        let known: HashSet<&[u8]> = cache.split(|byte| *byte == 0).collect();
        let paths = self.cached().into_iter();
        let unknown = paths.filter(|path| !known.contains(path.as_bytes()));
        unknown.map(|path| format!("the dynamic linker does not know `{path}`")).collect()
    }

    /// Shows what is not shown, and takes away what is shown and not shared; without a restart.
    ///
    /// # Errors
    /// Host error.
    pub fn align(&self, pid: u32, root: &ContainerRoot) -> Result<()> {
        for shown in self.shown() {
            if !is_shown(root, &shown) {
                mount::attach_directory(pid, &shown.source, &shown.target)?;
            }
        }
        self.unwanted(pid).iter().try_for_each(|target| mount::uncover(pid, target))
    }

    /// Where something is shown inside that is not shared any more.
    fn unwanted(&self, pid: u32) -> Vec<String> {
        let wanted: Vec<String> = self.shown().into_iter().map(|shown| shown.target).collect();
        let mounts = mount::mounts(pid).unwrap_or_default().into_iter();
        let ours = mounts.filter(|mounted| mounted.owner == Owner::Nvstage);
        let targets = ours.map(|mounted| mounted.target).filter(|target| is_place(target));
        targets.filter(|target| !wanted.contains(target)).collect()
    }

    /// Takes away what is shown of CUDA, so that what lies behind it can be worked on.
    ///
    /// # Errors
    /// Host error.
    pub fn uncover(&self, pid: u32) -> Result<()> {
        let cuda = self.cuda.iter().flat_map(|image| &image.trees);
        cuda.map(|tree| format!("/{tree}")).try_for_each(|tree| mount::uncover(pid, &tree))
    }
}

/// Whether something of the host's may be shown at a path inside.
fn is_place(target: &str) -> bool {
    target == DRIVER || target == "/opt/nvidia" || target.starts_with(CUDA)
}

/// Compares a running container with what it is to share.
pub fn sharing(
    container: (u32, &ContainerRoot),
    (ways, images): (Ways, &Images),
    own: &Own,
    triplet: &str,
) -> Sharing {
    let (pid, root) = container;
    let mut leaving = own.names();
    let is_set_up = remains(root);
    let mut problems = Vec::new();
    if ways.share() {
        problems = images.problems(root, triplet);
    } else if is_set_up {
        leaving.push("what was shared".to_owned());
    }
    let unwanted = images.unwanted(pid);
    if !unwanted.is_empty() && (ways.share() || !is_set_up) {
        leaving.push(format!("what is shown at {}", unwanted.join(", ")));
    }
    let driver = ways.userland == Userland::Share;
    Sharing { driver, wanted: images.names(), leaving, problems }
}

/// What a container has of its own, in the place of what it is to share.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The driver that NVIDIA's installer has a record of.
    pub driver: Option<DriverVersion>,
    /// Packages of CUDA.
    pub packages: Vec<String>,
    /// Files and directories that are in the way of a link, and nobody's above.
    pub files: Vec<String>,
}

impl Own {
    /// Finds out, by the installer's record and dpkg's, and by what is at the places of links.
    pub fn of(
        root: &ContainerRoot,
        system: &System,
        (ways, images): (Ways, &Images),
        packages: &[String],
    ) -> Self {
        let record = survey::record(root).filter(|_| ways.userland == Userland::Share);
        let driver = record.as_ref().and_then(|record| record.version.clone());
        let presence = |name: &String| system.packages.get(name).copied();
        let is_there = |name: &&String| presence(name) >= Some(Presence::Partial);
        let packages = packages.iter().filter(is_there).cloned();
        // What the installer has put away it puts back when it is uninstalled.
        let is_uninstalled = |path: &String| record.as_ref().is_some_and(|known| known.has(path));
        let mut files = images.moved_aside(root, system.triplet);
        files.retain(|path| !is_uninstalled(path));
        let packages = packages.filter(|_| ways.cuda == CudaMethod::Share).collect();
        Self { driver, packages, files }
    }

    fn names(&self) -> Vec<String> {
        let driver = self.driver.iter().map(|version| format!("its own driver {version}"));
        let packages = (!self.packages.is_empty()).then(|| self.packages.join(" "));
        let files = self.files.iter().map(|path| format!("its own `{path}`"));
        driver.chain(packages).chain(files).collect()
    }
}

/// What is known of a container's sharing where nothing is to be made or changed for it.
#[derive(Debug)]
pub struct Known {
    /// What it shares, and what is to change.
    pub sharing: Sharing,
    /// The images, as far as they are there.
    pub images: Images,
    /// The recipe with the packages that are for apt.
    pub apt: Recipe,
    /// Why nothing can be shared with it as it is.
    pub conflict: Option<Error>,
}

impl Known {
    /// Looks at a container and the images; nothing is built, mounted or fetched.
    ///
    /// # Errors
    /// Install error for a system that nothing can be shared with; host error when the images cannot
    /// be looked at.
    pub fn of(
        session: &Session<'_>,
        wish: &Wish,
        supplies: &Supplies<'_>,
        (ways, pid): (Ways, Option<u32>),
    ) -> Result<Self> {
        let paths = &session.host.paths;
        let (mut images, mut missing) = (Images::default(), Vec::new());
        // The places of images that are not made yet.
        let mut expected = Vec::new();
        if ways.userland == Userland::Share {
            images.driver = shared::driver_at_hand(paths, &wish.version)?;
            if images.driver.is_none() {
                missing.push(format!("driver {}", wish.version));
                expected.push(DRIVER.to_owned());
            }
        }
        let root = pid.map(|pid| survey::root(session, pid)).transpose()?;
        let mut own = Own::default();
        let mut conflict = None;
        let mut apt = (*wish.recipe).clone();
        if let (true, Some(root)) = (ways.share(), &root) {
            let system = survey::system(root, wish.architecture)?;
            let mut packages = Vec::new();
            let mut cuda_lock = None;
            if ways.cuda == CudaMethod::Share {
                let lock = locked(supplies, wish, (&system, session.ctid))?;
                let (image, rest) = match shared::cuda_at_hand(paths, &lock)? {
                    Some(image) => (Some(image.clone()), image.rest),
                    None => (None, of_distribution(&lock)),
                };
                let journal = journal::load(paths, session.ctid)?;
                packages = instead(&wish.recipe, (&rest, &lock), journal.as_ref());
                apt = apt.with_packages(rest);
                if image.is_none() {
                    missing.push("CUDA".to_owned());
                    let versions = packages.iter().filter_map(|name| cuda_version_of(name));
                    expected.extend(versions.map(|version| format!("{CUDA}{version}")));
                }
                images.cuda = image;
                cuda_lock = Some(lock);
            }
            own = Own::of(root, &system, (ways, &images), &packages);
            let unneeded = cuda_lock.map(|lock| conflicts::leaving(root, &own, &lock));
            packages.extend(unneeded.unwrap_or_default());
            let place = pid.map(|pid| Place { pid, root, triplet: system.triplet });
            let judged = place.map(|place| images.refuse_conflicts_at(&expected, place, &packages));
            conflict = judged.and_then(Result::err);
        }
        let triplet = wish.architecture.triplet();
        let mut sharing = match (pid, &root) {
            (Some(pid), Some(root)) => self::sharing((pid, root), (ways, &images), &own, triplet),
            _ => Sharing { wanted: images.names(), ..Sharing::default() },
        };
        sharing.driver = ways.userland == Userland::Share;
        let absent = missing.iter().map(|what| format!("the image of {what} is to be made"));
        sharing.problems.splice(0..0, absent);
        sharing.wanted.extend(missing);
        Ok(Self { sharing, images, apt, conflict })
    }

    /// The driver of a container that shares the host's, as a check takes it.
    pub fn driver(&self) -> DriverState {
        match self.sharing.problems.as_slice() {
            [] => DriverState::Complete,
            problems => DriverState::Damaged(problems.to_vec()),
        }
    }
}

/// The lock whose CUDA a container is to share.
///
/// # Errors
/// Install error where the cache has none; invalid input for a distribution that the recipe does not
/// know.
pub fn locked(
    supplies: &Supplies<'_>,
    wish: &Wish,
    (system, ctid): (&System, &Ctid),
) -> Result<Lock> {
    let (recipe, distribution) = (&wish.recipe, &system.distribution);
    recipe.repository(distribution, wish.architecture)?;
    supplies.stock(recipe, distribution, wish.architecture)?.ok_or_else(|| {
        Error::install(format!("share CUDA: the cache has no packages for {distribution}"))
            .hint(format!("`{}` fetches and verifies them", remedy::prefetch(ctid, recipe)))
            .on(ctid)
    })
}

/// The packages of a lock that come from the distribution.
fn of_distribution(lock: &Lock) -> Vec<String> {
    let is_of = |package: &&LockedPackage| {
        let repository = lock.repository(&package.repository);
        repository.is_some_and(|repository| repository.role == Role::Distribution)
    };
    lock.packages.iter().filter(is_of).map(|package| package.name.clone()).collect()
}

/// The version of CUDA that a package belongs to, by its name: `12.8` for `cuda-toolkit-12-8`.
pub(super) fn cuda_version_of(package: &str) -> Option<String> {
    let (name, minor) = package.strip_prefix("cuda-")?.rsplit_once('-')?;
    let (_, major) = name.rsplit_once('-')?;
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.parse::<u16>().is_ok();
    (is_number(major) && is_number(minor)).then(|| format!("{major}.{minor}"))
}

/// Packages that the shared image replaces: those of the recipe that are not for apt, `rest`, and those of
/// the lock that are ours, with those of a run that was cut short.
pub fn instead(
    recipe: &Recipe,
    (rest, lock): (&[String], &Lock),
    journal: Option<&Journal>,
) -> Vec<String> {
    let known = journal.map(Journal::all_packages).unwrap_or_default();
    let is_locked = |name: &&String| lock.packages.iter().any(|package| package.name == **name);
    let known = known.iter().filter(is_locked);
    let all: BTreeSet<&String> = recipe.packages().iter().chain(known).collect();
    all.into_iter().filter(|name| !rest.contains(name)).cloned().collect()
}

/// The image of CUDA that a container has: by its journal, or where it has none by its lines.
pub fn image_of(before: Option<&Journal>, config: &LxcConfig) -> Option<String> {
    if let Some(journal) = before {
        return journal.cuda_image.clone();
    }
    let sources = container::shared::sources(config);
    let id = |source: &String| source.strip_prefix(IMAGES)?.split('/').next().map(str::to_owned);
    sources.iter().find_map(id)
}

/// The version of the shared driver that a running container sees: it keeps the one that it started
/// with.
pub fn version_inside(root: &ContainerRoot) -> Option<DriverVersion> {
    let names = root.names(&format!("{DRIVER}/lib")).ok()?;
    names.iter().find_map(|name| DriverVersion::parse(name.strip_prefix(LIBRARY)?).ok())
}

/// The images that a running container sees: the driver by what is shown inside, CUDA by its journal;
/// `None` where this host has no record of one.
pub fn images_inside(
    paths: &Paths,
    root: &ContainerRoot,
    journal: &Journal,
) -> Result<Option<Images>> {
    let mut images = Images::default();
    if journal.userland == Userland::Share {
        let Some(version) = version_inside(root) else { return Ok(None) };
        images.driver = shared::driver_at_hand(paths, &version)?;
        if images.driver.is_none() {
            return Ok(None);
        }
    }
    if let Some(id) = &journal.cuda_image {
        images.cuda = shared::cuda_by_id(paths, id)?;
        if images.cuda.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(images))
}

/// What a running container lacks of what it shares, as far as this host has a record of that.
pub fn lacking(paths: &Paths, root: &ContainerRoot, journal: &Journal) -> Vec<String> {
    let shares = journal.userland == Userland::Share || journal.cuda_image.is_some();
    let images = images_inside(paths, root, journal).ok().flatten().filter(|_| shares);
    let (Some(images), Ok(architecture)) = (images, wish::host_architecture()) else {
        return Vec::new();
    };
    images.problems(root, architecture.triplet())
}

/// Whether something that is shared was set up in a container.
pub fn remains(root: &ContainerRoot) -> bool {
    root.open(CONF).is_ok() || root.open(LINKS).is_ok()
}

pub(super) fn is_shown(root: &ContainerRoot, shown: &Shown<'_>) -> bool {
    let here = std::fs::metadata(&shown.source).map(|here| (here.dev(), here.ino()));
    match (here, root.identity(&shown.target)) {
        (Ok(here), Ok(there)) => here == there && mount::is_in_image(&shown.source),
        _ => false,
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

impl Supplies<'_> {
    /// The image of a lock's CUDA: there, or made of verified packages; once in a run.
    ///
    /// # Errors
    /// As [`shared::obtain_cuda`], and those of the chain of trust.
    pub fn cuda_image(&self, host: &Host, lock: &Lock, recipe: &Recipe) -> Result<CudaImage> {
        let mut known = self.images.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, image)) = known.iter().find(|(of, _)| of == lock) {
            return Ok(image.clone());
        }
        if shared::cuda_at_hand(&host.paths, lock)?.is_none() {
            self.chain(lock, recipe)?;
        }
        let image = shared::obtain_cuda(host, self, lock)?;
        known.push((lock.clone(), image.clone()));
        Ok(image)
    }
}
