//! The installer's list of files, `.manifest`, and where each of them goes.
//!
//! Four head lines of interest (description, version, ignored, kernel module names), four ignored
//! ones, then one file a line until a blank line:
//! `<file> <octal mode> <TYPE> [NATIVE|COMPAT32] [path] [target] …`; which of the bracketed words
//! are there depends on the type, and further words (`MODULE:…`) mean nothing here. Sources:
//! `install-from-cwd.c`, `manifest.c` and `files.c` of NVIDIA/nvidia-installer.

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::runfile::options::Options;
use crate::version::DriverVersion;

mod kinds;

use kinds::{Extra, Kind, Place, kind};

/// Where the installer puts 32-bit libraries: into the first that is there, and nowhere when none
/// is. Source: `get_compat32_path` in `files.c`.
pub const COMPAT32_DIRECTORIES: [&str; 2] = ["/usr/lib/i386-linux-gnu", "/usr/lib32"];
/// Where the X server has its modules: guessed in a system without X, and asked for in one with it.
/// Source: `get_x_paths_helper` in `files.c`.
const X_MODULES: [&str; 2] = ["/usr/lib64/xorg/modules", "/usr/lib/xorg/modules"];

/// The list of files of one driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the driver calls itself.
    pub description: String,
    /// Its version.
    pub version: DriverVersion,
    /// The files, in the order of the list.
    pub entries: Vec<Entry>,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's path in the tree, without a leading `./`; for a link its name.
    pub file: String,
    /// The permission bits.
    pub mode: u32,
    /// The type as written.
    pub type_name: String,
    /// Whether the type is one that this program knows; of others nothing below is read.
    pub known: bool,
    /// Whether it is a 32-bit library.
    pub compat32: bool,
    /// The directory below its type's own, where the type has one; may be `/`.
    pub directory: Option<String>,
    /// What it points to, if it is a link.
    pub target: Option<String>,
}

/// What an installation leaves out, and for which machine it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The architecture.
    pub architecture: Architecture,
    /// The optional parts.
    pub options: Options,
}

/// A file or link that an installation makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What it is.
    pub kind: DestinationKind,
    /// Its absolute path in a Debian or Ubuntu container.
    pub path: String,
    /// Paths that the installer may choose instead, by what it finds in the container.
    pub elsewhere: Vec<String>,
    /// Whether it must be there after a good installation. Where this is false the installer may
    /// leave it out or put it elsewhere: check it only if the installer says that it wrote it.
    pub required: bool,
}

/// A file with its origin, or a link with its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationKind {
    /// A regular file.
    File {
        /// Its path in the installer's tree.
        source: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it points to, as the link says it.
        target: String,
    },
}

impl Manifest {
    /// Reads the whole list.
    ///
    /// # Errors
    /// An installation error that names the line; a type that is not known is none.
    pub fn parse(text: &str) -> Result<Self> {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() < 8 {
            return Err(Error::install("read the installer's list of files: it has no head")
                .because(format!("it has {} lines", lines.len())));
        }
        if lines[3].trim().is_empty() {
            return Err(bad_line(4, "it must name the kernel modules"));
        }
        let version =
            DriverVersion::parse(lines[1].trim()).map_err(|error| bad_line(2, error.what()))?;
        let entries = lines[8..]
            .iter()
            .take_while(|line| !line.trim().is_empty())
            .enumerate()
            .map(|(index, line)| Entry::parse(line).map_err(|why| bad_line(index + 9, &why)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { description: lines[0].trim().to_owned(), version, entries })
    }

    /// Where everything that `selection` wants goes, for entries whose place can be told.
    pub fn destinations(&self, selection: &Selection) -> Vec<Destination> {
        self.placed(selection).map(|(_, destination)| destination).collect()
    }

    /// Whether it has files for 32-bit programs.
    pub fn has_compat32(&self) -> bool {
        self.entries.iter().any(|entry| entry.compat32)
    }

    /// The same as [`Manifest::destinations`], with the line of each.
    pub fn placed(&self, selection: &Selection) -> impl Iterator<Item = (&Entry, Destination)> {
        self.entries.iter().filter_map(|entry| Some((entry, self.destination(entry, selection)?)))
    }

    fn destination(&self, entry: &Entry, selection: &Selection) -> Option<Destination> {
        let kind = kind(&entry.type_name)?;
        if !is_selected(kind, entry, selection) {
            return None;
        }
        let name = entry.file.rsplit('/').next()?;
        let directories = self.directories(kind, entry, selection.architecture);
        let mut paths = directories.iter().map(|directory| joined(directory, name));
        Some(Destination {
            path: paths.next()?,
            elsewhere: paths.collect(),
            required: kind.required && !entry.compat32,
            kind: match &entry.target {
                Some(target) => DestinationKind::Link { target: target.clone() },
                None => DestinationKind::File { source: entry.file.clone(), mode: entry.mode },
            },
        })
    }

    /// The likeliest directory first; none where it cannot be told. Source: `set_destinations` in
    /// `files.c`, with the directories it finds on Debian.
    fn directories(&self, kind: &Kind, entry: &Entry, arch: Architecture) -> Vec<String> {
        let below = entry.directory.as_deref().unwrap_or_default();
        let libraries = |below: &str| match entry.compat32 {
            true => COMPAT32_DIRECTORIES.iter().map(|found| joined(found, below)).collect(),
            false => vec![joined(&format!("/usr/lib/{}", arch.triplet()), below)],
        };
        match kind.place {
            Place::Libraries => libraries(below),
            Place::LibrariesBelow(fixed) => libraries(fixed),
            Place::Fixed(fixed) => vec![joined(fixed, below)],
            Place::Flat(fixed) => vec![fixed.to_owned()],
            Place::FlatBoth(fixed) if entry.compat32 => vec![joined(fixed, "32")],
            Place::FlatBoth(fixed) => vec![fixed.to_owned()],
            Place::XModules => X_MODULES.iter().map(|found| joined(found, below)).collect(),
            Place::Explicit if below.starts_with('/') => vec![below.to_owned()],
            Place::Firmware => {
                vec![joined(&format!("/lib/firmware/nvidia/{}", self.version), below)]
            }
            Place::Explicit | Place::Nowhere => Vec::new(),
        }
    }
}

impl Entry {
    fn parse(line: &str) -> std::result::Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let mut next = |what: &str| words.next().ok_or(format!("it has no {what}"));
        let file = next("file name")?.trim_start_matches("./").to_owned();
        let mode = next("mode")?;
        let mode = u32::from_str_radix(mode, 8).map_err(|_| format!("`{mode}` is not a mode"))?;
        let type_name = next("type")?.to_owned();
        if file.starts_with('/') || file.split('/').any(|part| part == "..") {
            return Err(format!("`{file}` leaves the tree"));
        }
        let mut entry = Self {
            file,
            mode,
            known: true,
            type_name,
            compat32: false,
            directory: None,
            target: None,
        };
        let Some(kind) = kind(&entry.type_name) else {
            entry.known = false;
            return Ok(entry);
        };
        if kind.has(Extra::Architecture) {
            entry.compat32 = match next("architecture")? {
                "NATIVE" => false,
                "COMPAT32" => true,
                other => return Err(format!("`{other}` is neither NATIVE nor COMPAT32")),
            };
        }
        if kind.has(Extra::Path) {
            entry.directory = Some(next("path")?.to_owned());
        }
        if kind.has(Extra::InheritedPath) {
            let depth = next("path depth")?;
            entry.directory = Some(inherited(&entry.file, depth)?);
        }
        if kind.has(Extra::Link) {
            entry.target = Some(next("link target")?.to_owned());
        }
        if entry.directory.iter().any(|path| path.split('/').any(|part| part == "..")) {
            return Err("its path leaves its directory".to_owned());
        }
        Ok(entry)
    }
}

/// The file's own directory without its first `n` parts, from `INHERIT_PATH_DEPTH:n`.
fn inherited(file: &str, depth: &str) -> std::result::Result<String, String> {
    let count: usize = depth
        .strip_prefix("INHERIT_PATH_DEPTH:")
        .and_then(|count| count.parse().ok())
        .ok_or(format!("`{depth}` is not INHERIT_PATH_DEPTH:<number>"))?;
    let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
    Ok(directory.split('/').skip(count).collect::<Vec<_>>().join("/"))
}

fn is_selected(kind: &Kind, entry: &Entry, selection: &Selection) -> bool {
    let wanted = &selection.options;
    let compat32 = !entry.compat32
        || (wanted.compat32.is_included() && selection.architecture == Architecture::X86_64);
    let part = kind.part.is_none_or(|part| part.choice(wanted).is_included());
    compat32 && part && !kind.has(Extra::Temporary)
}

/// `directory/rest` with single slashes and none at the end.
fn joined(directory: &str, rest: &str) -> String {
    let parts = directory.split('/').chain(rest.split('/')).filter(|part| !part.is_empty());
    parts.fold(String::new(), |path, part| path + "/" + part)
}

fn bad_line(number: usize, why: &str) -> Error {
    Error::install(format!("read the installer's list of files: line {number} is wrong"))
        .because(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runfile::options::Choice;

    const LIST: &str = "NVIDIA Accelerated Graphics Driver for Linux-x86_64\n460.67\nignored\n\
        nvidia nvidia-uvm\nx\nx\nx\nx\n\
        libcuda.so.460.67 0755 CUDA_LIB NATIVE / MODULE:gpgpu\n\
        libcuda.so.1 0000 CUDA_SYMLINK NATIVE / libcuda.so.460.67 MODULE:gpgpu\n\
        ./32/libnvidia-tls.so.460.67 0755 TLS_LIB COMPAT32 / MODULE:opengl\n\
        libnvidia-tls.so.460.67 0755 TLS_LIB NATIVE / MODULE:opengl\n\
        nvidia-smi 0755 UTILITY_BINARY MODULE:nvml\n\
        nvidia-modprobe 04755 NVIDIA_MODPROBE /usr/bin/ MODULE:installer\n\
        nvidia-installer 0755 INSTALLER_BINARY MODULE:installer\n\
        nvidia-uninstall 0000 UTILITY_BIN_SYMLINK nvidia-installer MODULE:installer\n\
        nvidia.icd 0644 CUDA_ICD MODULE:opencl\n\
        kernel/nvidia/nv.c 0644 KERNEL_MODULE_SRC INHERIT_PATH_DEPTH:1 MODULE:resman\n\
        firmware/gsp_ga10x.bin 0644 FIRMWARE INHERIT_PATH_DEPTH:1 MODULE:gsp\n\
        new.bin 0644 BRAND_NEW_TYPE what ever\n\
        nvidia.png 0644 DOCUMENTATION NVIDIA_GLX-1.0/ MODULE:x\n\
        glvnd_check 0755 INTERNAL_UTILITY_BINARY NATIVE MODULE:installer\n\
        ./32/glvnd_check 0755 INTERNAL_UTILITY_BINARY COMPAT32 MODULE:installer\n\
        sandboxutils-filelist.json 0644 SANDBOXUTILS_FILELIST_JSON rules.d/ MODULE:x\n\
        nvidia_drv.so 0755 XMODULE_SHARED_LIB drivers/ MODULE:xdriver\n\n\
        not read\n";

    fn destinations(options: Options) -> Vec<Destination> {
        let selection = Selection { architecture: Architecture::X86_64, options };
        Manifest::parse(LIST).unwrap().destinations(&selection)
    }

    #[test]
    fn the_list_is_read_up_to_the_blank_line() {
        let list = Manifest::parse(LIST).unwrap();
        assert_eq!((list.version.as_str(), list.entries.len()), ("460.67", 17));
        assert_eq!(list.entries[1].target.as_deref(), Some("libcuda.so.460.67"));
        assert_eq!(list.entries[2].file, "32/libnvidia-tls.so.460.67");
        assert_eq!(list.entries[5].mode, 0o4755);
        assert_eq!(list.entries[9].directory.as_deref(), Some("nvidia"));
        assert!(!list.entries[11].known);
    }

    #[test]
    fn required_destinations_of_a_cuda_container() {
        let all = destinations(Options::default());
        let required = all.iter().filter(|destination| destination.required);
        let paths: Vec<_> = required.map(|destination| destination.path.as_str()).collect();
        let expected = [
            "/usr/lib/x86_64-linux-gnu/libcuda.so.460.67",
            "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
            "/usr/bin/nvidia-smi",
            "/usr/bin/nvidia-installer",
            "/usr/bin/nvidia-uninstall",
            "/etc/OpenCL/vendors/nvidia.icd",
        ];
        assert_eq!(paths, expected);
        let link = DestinationKind::Link { target: "libcuda.so.460.67".to_owned() };
        assert_eq!(all[1].kind, link);
    }

    #[test]
    fn kernel_sources_and_unknown_types_have_no_destination() {
        let all = destinations(Options::default());
        assert!(all.iter().all(|d| !d.path.contains("nv.c") && !d.path.contains("new.bin")));
        let firmware = "/lib/firmware/nvidia/460.67/gsp_ga10x.bin";
        assert!(all.iter().any(|d| d.path == firmware && !d.required));
    }

    #[test]
    fn internal_files_lists_and_x_modules_have_directories_of_their_own() {
        let all = destinations(Options { compat32: Choice::Include, ..Options::default() });
        let of = |source: &str| {
            let is_it = |found: &&Destination| match &found.kind {
                DestinationKind::File { source: of, .. } => of == source,
                DestinationKind::Link { .. } => false,
            };
            all.iter().find(is_it).unwrap()
        };
        assert_eq!(of("glvnd_check").path, "/usr/lib/nvidia/glvnd_check");
        assert_eq!(of("32/glvnd_check").path, "/usr/lib/nvidia/32/glvnd_check");
        let list = of("sandboxutils-filelist.json");
        assert_eq!(list.path, "/usr/share/nvidia/files.d/sandboxutils-filelist.json");
        let module = of("nvidia_drv.so");
        assert_eq!(module.path, "/usr/lib64/xorg/modules/drivers/nvidia_drv.so");
        assert_eq!(module.elsewhere, ["/usr/lib/xorg/modules/drivers/nvidia_drv.so"]);
    }

    #[test]
    fn thirty_two_bit_libraries_have_two_places() {
        let options =
            Options { compat32: Choice::Include, opengl: Choice::Include, ..Options::default() };
        let all = destinations(options);
        let library = all.iter().find(|found| found.path.contains("i386")).unwrap();
        assert_eq!(library.path, "/usr/lib/i386-linux-gnu/libnvidia-tls.so.460.67");
        assert_eq!(library.elsewhere, ["/usr/lib32/libnvidia-tls.so.460.67"]);
        assert!(!library.required);
    }

    #[test]
    fn optional_parts_come_with_their_choice() {
        let part = |options| {
            let all: Vec<_> = destinations(options).into_iter().map(|d| d.path).collect();
            all
        };
        let opengl = part(Options { opengl: Choice::Include, ..Options::default() });
        assert!(opengl.contains(&"/usr/lib/x86_64-linux-gnu/libnvidia-tls.so.460.67".to_owned()));
        assert!(!opengl.iter().any(|path| path.contains("i386")));
        let modprobe = Options { nvidia_modprobe: Choice::Include, ..Options::default() };
        assert!(part(modprobe).contains(&"/usr/bin/nvidia-modprobe".to_owned()));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let wrong = LIST.replace("CUDA_LIB NATIVE", "CUDA_LIB SPARC");
        let error = Manifest::parse(&wrong).unwrap_err();
        assert!(error.what().contains("line 9"), "{error}");
        let leaving = LIST.replace("nvidia-smi 0755", "../nvidia-smi 0755");
        assert!(Manifest::parse(&leaving).is_err());
        assert!(Manifest::parse("short").is_err());
    }
}
