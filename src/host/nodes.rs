//! NVIDIA's device nodes on the host: which there should be, and making those that are not.
//!
//! A node gets its name when owner and mode are right already, and one of another number is
//! replaced by a rename: whoever opens it finds the old one or the new. A node of the right number
//! is not touched: its mode is the administrator's affair. What is no character device is never
//! removed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, renameat};
use nix::sys::signal::kill;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::host::devices::Inventory;
use crate::host::files;
use crate::host::modules::Module;
use crate::host::paths::Paths;

/// The major of GPUs and control nodes (`NV_MAJOR_DEVICE_NUMBER`, `nv-chardev-numbers.h`).
const MAJOR: u64 = 195;
/// The minor of `nvidiactl`.
const CONTROL: u64 = 255;
/// The minor of `nvidia-modeset`.
const MODESET: u64 = 254;
/// Between the name that a node will have and the process that makes it.
const MARK: &str = ".nvstage-";
/// How often a node is looked at again that somebody else makes at the same time.
const ATTEMPTS: u32 = 5;

/// What the kernel module wants of its device files: `/proc/driver/nvidia/params`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFiles {
    /// Their user and group.
    pub owner: (u32, u32),
    /// Their permission bits.
    pub mode: u32,
    /// Whether they may be made at all.
    pub making: Making,
}

/// The module's parameter `ModifyDeviceFiles`, and a capability's `DeviceFileModify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// Whoever can may make them.
    Allowed,
    /// The administrator makes them in a way of his own.
    Forbidden,
}

impl DeviceFiles {
    /// Reads the module's parameters; what it does not say is as the driver has it by default.
    ///
    /// # Errors
    /// Host error when they cannot be read or understood.
    pub fn read(paths: &Paths) -> Result<Self> {
        let path = paths.proc_nvidia().join("params");
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::parse(""),
            Err(error) => Err(files::failed("read", &path, &error)),
        }
    }

    /// The same from the file's text: `DeviceFileMode: 438`, all numbers decimal.
    ///
    /// # Errors
    /// Host error for a value that is no number.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |wanted: &str, default: u32| {
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            let mut values = fields.filter(|(key, _)| key.trim() == wanted);
            let Some((_, value)) = values.next() else { return Ok(default) };
            value.trim().parse().map_err(|_| {
                Error::host(format!("understand the kernel module's parameter `{wanted}`"))
                    .because(format!("it is `{}`", value.trim()))
            })
        };
        Ok(Self {
            owner: (value("DeviceFileUID", 0)?, value("DeviceFileGID", 0)?),
            mode: value("DeviceFileMode", 0o666)? & 0o777,
            making: match value("ModifyDeviceFiles", 1)? {
                0 => Making::Forbidden,
                _ => Making::Allowed,
            },
        })
    }
}

/// A device node that the host should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedNode {
    /// Its path, `/dev/nvidia0`.
    pub path: String,
    /// Major and minor number.
    pub number: (u64, u64),
    /// Its user and group when it is made.
    pub owner: (u32, u32),
    /// Its permission bits when it is made.
    pub mode: u32,
    /// Whether it may be made at all.
    pub making: Making,
}

/// The nodes that belong to what is loaded now.
pub fn wanted(paths: &Paths, inventory: &Inventory, files: &DeviceFiles) -> Vec<WantedNode> {
    let DeviceFiles { owner, mode, making } = *files;
    let node = |name: &str, number| WantedNode {
        path: format!("/dev/{name}"),
        number,
        owner,
        mode,
        making,
    };
    let mut nodes = Vec::new();
    for gpu in &inventory.gpus {
        nodes.push(node(&format!("nvidia{}", gpu.minor), (MAJOR, gpu.minor.into())));
    }
    if Module::Nvidia.is_loaded(paths, inventory) {
        nodes.push(node("nvidiactl", (MAJOR, CONTROL)));
    }
    if Module::Modeset.is_loaded(paths, inventory) {
        nodes.push(node("nvidia-modeset", (MAJOR, MODESET)));
    }
    if let Some(&major) = inventory.majors.get("nvidia-uvm") {
        nodes.push(node("nvidia-uvm", (major, 0)));
        nodes.push(node("nvidia-uvm-tools", (major, 1)));
    }
    if let Some(&major) = inventory.majors.get("nvidia-caps") {
        for capability in &inventory.capabilities {
            nodes.push(WantedNode {
                path: format!("/dev/nvidia-caps/nvidia-cap{}", capability.minor),
                number: (major, capability.minor.into()),
                owner: (0, 0),
                mode: capability.mode,
                making: match inventory.unmade.contains(&capability.minor) {
                    true => Making::Forbidden,
                    false => making,
                },
            });
        }
    }
    nodes
}

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// As it should be.
    Right,
    /// Not there.
    Missing,
    /// Of another number, this one.
    Stale((u64, u64)),
}

/// Looks at a node.
///
/// # Errors
/// Host error that names it when something else is in its place, or it cannot be looked at.
pub fn look(paths: &Paths, node: &WantedNode) -> Result<Standing> {
    let path = paths.host_path(&node.path);
    let Some(found) = metadata(&path)? else { return Ok(Standing::Missing) };
    if !found.file_type().is_char_device() {
        return Err(in_the_way(&path, "character device"));
    }
    let number = (major(found.rdev()), minor(found.rdev()));
    Ok(if number == node.number { Standing::Right } else { Standing::Stale(number) })
}

/// Makes a node that is missing, replaces one of another number; says how it was before.
///
/// # Errors
/// As [`look`], and when it cannot be made.
pub fn put_right(paths: &Paths, node: &WantedNode) -> Result<Standing> {
    let path = paths.host_path(&node.path);
    for _ in 0..ATTEMPTS {
        let before = look(paths, node)?;
        if before == Standing::Right {
            return Ok(before);
        }
        make_directory(&path)?;
        let new =
            Unnamed::make(&paths.dev(), &path, node).map_err(|error| not_made(&path, &error))?;
        match new.name(before) {
            Ok(()) => return Ok(before),
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(not_made(&path, &error)),
        }
    }
    Err(Error::host(format!("make `{}`: it comes and goes", path.display()))
        .because("another program makes and removes it at the same time"))
}

/// Removes nodes without a name that killed runs have left in `/dev`; returns their paths.
///
/// # Errors
/// Host error that names one that cannot be removed.
pub fn clear_away(paths: &Paths) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(paths.dev()).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let is_node = metadata(&path)?.is_some_and(|found| found.file_type().is_char_device());
        let Some(process) = name.to_str().and_then(maker) else { continue };
        // One that is being made at this moment gets its name at once.
        if is_node && !is_alive(process) {
            files::remove_file(&path)?;
            removed.push(path.display().to_string());
        }
    }
    removed.sort_unstable();
    Ok(removed)
}

/// The process that has made a node without a name, by [`Unnamed`].
fn maker(name: &str) -> Option<Pid> {
    let (_, process) = name.strip_prefix(".nvidia")?.split_once(MARK)?;
    process.parse().ok().map(Pid::from_raw)
}

/// Whether another process has this number.
fn is_alive(process: Pid) -> bool {
    process != Pid::this() && kill(process, None) != Err(Errno::ESRCH)
}

/// The directory of a node, `/dev/nvidia-caps`.
fn make_directory(path: &Path) -> Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    match metadata(directory)? {
        None => files::create_directory(directory),
        Some(found) if found.is_dir() => Ok(()),
        Some(_) => Err(in_the_way(directory, "directory")),
    }
}

fn metadata(path: &Path) -> Result<Option<fs::Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        // Whatever is in the place of the directory is told when the node is made.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::failed("look at", path, &error)),
    }
}

fn in_the_way(path: &Path, wanted: &str) -> Error {
    let shown = path.display();
    Error::host(format!("make `{shown}`: something else is in its place"))
        .because(format!("it is no {wanted}"))
        .hint(format!("see what it is (`ls -ld {shown}`), and move it away"))
}

fn not_made(path: &Path, error: &io::Error) -> Error {
    files::failed("make", path, error)
}

/// A node that is complete but for its name; without one it goes away again.
struct Unnamed {
    temporary: PathBuf,
    path: PathBuf,
}

impl Unnamed {
    /// Made in `/dev` itself: whatever lies in `nvidia-caps` is shown to containers.
    fn make(dev: &Path, path: &Path, node: &WantedNode) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dev.join(format!(".{name}{MARK}{}", std::process::id()));
        let device = makedev(node.number.0, node.number.1);
        mknod(&temporary, SFlag::S_IFCHR, Mode::empty(), device)?;
        let new = Self { temporary, path: path.to_owned() };
        chown(&new.temporary, Some(node.owner.0), Some(node.owner.1))?;
        fs::set_permissions(&new.temporary, fs::Permissions::from_mode(node.mode))?;
        Ok(new)
    }

    /// Gives it its name. Where none was, none is replaced.
    fn name(self, before: Standing) -> io::Result<()> {
        match before {
            Standing::Stale(_) => Ok(renameat(AT_FDCWD, &self.temporary, AT_FDCWD, &self.path)?),
            _ => fs::hard_link(&self.temporary, &self.path),
        }
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "host trees made by the tests themselves")]
mod tests {
    use super::*;
    use crate::error::ExitCode;
    use crate::gpu::{Capability, Gpu};

    fn host() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dev")).unwrap();
        let paths = Paths::below(root.path());
        (root, paths)
    }

    fn uvm(paths: &Paths) -> WantedNode {
        let mut inventory = Inventory::read(paths).unwrap();
        inventory.majors.insert("nvidia-uvm".to_owned(), 508);
        wanted(paths, &inventory, &DeviceFiles::parse("").unwrap()).remove(0)
    }

    #[test]
    fn parameters_are_decimal_and_have_the_drivers_defaults() {
        let files = DeviceFiles::parse(
            "DeviceFileUID: 5\nDeviceFileGID: 44\nDeviceFileMode: 432\nModifyDeviceFiles: 0\n",
        )
        .unwrap();
        assert_eq!((files.owner, files.mode), ((5, 44), 0o660));
        assert_eq!(files.making, Making::Forbidden);
        let files = DeviceFiles::parse("EnableMSI: 1\n").unwrap();
        assert_eq!((files.owner, files.mode), ((0, 0), 0o666));
        assert_eq!(files.making, Making::Allowed);
        let error = DeviceFiles::parse("DeviceFileMode: rw\n").unwrap_err();
        assert_eq!(error.code(), ExitCode::Host);
        assert!(error.what().contains("DeviceFileMode"), "{error}");
    }

    #[test]
    fn every_loaded_part_of_the_driver_has_its_nodes() {
        let (_root, paths) = host();
        let mut inventory = Inventory::read(&paths).unwrap();
        let gpu = "Bus Location: 0000:01:00.0\nDevice Minor: 3\n";
        inventory.gpus = vec![Gpu::parse_information(gpu).unwrap()];
        let majors = [("nvidia", 195), ("nvidia-modeset", 195), ("nvidia-uvm", 508)];
        inventory.majors =
            majors.into_iter().map(|(name, major)| (name.to_owned(), major)).collect();
        let capability = Capability { name: "mig/config".to_owned(), minor: 1, mode: 0o400 };
        inventory.capabilities = vec![capability];
        let files = DeviceFiles { owner: (0, 44), mode: 0o660, making: Making::Allowed };
        let listed = |inventory: &Inventory| -> Vec<_> {
            let nodes = wanted(&paths, inventory, &files).into_iter();
            nodes.map(|node| (node.path, node.number, node.owner, node.mode)).collect()
        };
        let node = |name: &str, number| (format!("/dev/{name}"), number, (0, 44), 0o660);
        let mut expected = vec![
            node("nvidia3", (195, 3)),
            node("nvidiactl", (195, 255)),
            node("nvidia-modeset", (195, 254)),
            node("nvidia-uvm", (508, 0)),
            node("nvidia-uvm-tools", (508, 1)),
        ];
        assert_eq!(listed(&inventory), expected);
        inventory.majors.insert("nvidia-caps".to_owned(), 240);
        expected.push(("/dev/nvidia-caps/nvidia-cap1".to_owned(), (240, 1), (0, 0), 0o400));
        assert_eq!(listed(&inventory), expected);
    }

    #[test]
    fn what_is_no_device_is_named_and_left_alone() {
        let (root, paths) = host();
        let place = root.path().join("dev/nvidia-uvm");
        fs::write(&place, "mine").unwrap();
        let error = put_right(&paths, &uvm(&paths)).unwrap_err();
        assert_eq!(error.code(), ExitCode::Host);
        assert!(error.what().contains("dev/nvidia-uvm`"), "{error}");
        assert_eq!(fs::read(&place).unwrap(), b"mine");
        fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink("/dev/null", &place).unwrap();
        put_right(&paths, &uvm(&paths)).unwrap_err();
        assert!(fs::symlink_metadata(&place).unwrap().is_symlink());
        assert_eq!(fs::read_dir(root.path().join("dev")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_named() {
        let (root, paths) = host();
        fs::write(root.path().join("dev/nvidia-caps"), "mine").unwrap();
        let path = "/dev/nvidia-caps/nvidia-cap1".to_owned();
        let node = WantedNode {
            path,
            number: (240, 1),
            owner: (0, 0),
            mode: 0o400,
            making: Making::Allowed,
        };
        let error = put_right(&paths, &node).unwrap_err();
        assert!(error.what().contains("dev/nvidia-caps`"), "{error}");
    }
}
