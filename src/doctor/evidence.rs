//! What the checks are judged by: plain values, gathered elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::{Problem, Remedy, lines};
use crate::container::config::{LxcConfig, PendingChange};
use crate::ctid::Ctid;
use crate::facts::Facts;
use crate::gpu::{Capability, Gpu, HostNode, PciGpu, Source};
use crate::journal::Journal;
use crate::version::DriverVersion;

/// The host.
#[derive(Debug, Clone, Copy)]
pub struct HostEvidence<'a> {
    /// The version of the loaded kernel module.
    pub module: Option<&'a DriverVersion>,
    /// Whether a module is installed for the running kernel.
    pub module_file: ModuleFile,
    /// The GPUs that the module drives.
    pub gpus: &'a [Gpu],
    /// Every NVIDIA GPU on the PCI bus.
    pub pci: &'a [PciGpu],
    /// NVIDIA's device nodes, and every other node that a container names.
    pub nodes: &'a [HostNode],
    /// The majors of character devices, by driver; empty when they are not known.
    pub majors: &'a BTreeMap<String, u64>,
    /// What the kernel module offers as capabilities.
    pub capabilities: &'a [Capability],
    /// The virtual machines that claim a GPU.
    pub machines: &'a [Machine],
    /// What makes device nodes when the host starts.
    pub boot: &'a Boot,
    /// What could not be read.
    pub unread: &'a [Unread],
    /// The first number of LXC's version, where it is known.
    pub lxc: Option<u32>,
}

/// Something that could not be read: what is known of the host, or of a container, is not all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// What; `None` for something that no check of the host needs.
    pub source: Option<Source>,
    /// Why.
    pub why: String,
    /// What helps.
    pub hint: Option<String>,
}

impl Unread {
    pub(super) fn problem(&self, looked_at: &str) -> Problem {
        let remedy = self.hint.clone().map(Remedy::Advice);
        Problem { remedy, ..Problem::error(looked_at, &self.why) }
    }
}

impl<'a> HostEvidence<'a> {
    /// Whether all of this could be read; an error is why not.
    pub(super) fn known(&self, source: Source) -> Result<(), String> {
        let unread = self.unread.iter().find(|unread| unread.source == Some(source));
        unread.map_or(Ok(()), |unread| Err(unread.why.clone()))
    }

    /// The version of the loaded module; an error is why there is none.
    pub(super) fn loaded(&self) -> Result<&'a DriverVersion, String> {
        self.known(Source::Module)?;
        self.module.ok_or_else(|| "no kernel module of NVIDIA's is loaded".to_owned())
    }
}

/// Whether NVIDIA's kernel module is installed for the running kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleFile {
    /// It is.
    Installed,
    /// It is not.
    Absent,
    /// The kernel's list of modules cannot be read.
    Unknown,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its number.
    pub vmid: u32,
    /// Whether it starts with the host (`onboot`).
    pub starts_on_boot: bool,
    /// Whether it runs now.
    pub is_running: bool,
}

/// What makes device nodes when the host starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Boot {
    /// Where `nvstage-refresh.service` lies, or would.
    pub refresh_path: String,
    /// The text of `nvstage-refresh.service`, where there is one.
    pub refresh_unit: Option<String>,
    /// Whether that unit is started at boot.
    pub is_enabled: bool,
    /// The texts of other units that are started at boot.
    pub units: Vec<String>,
    /// The texts of files that name modules to load.
    pub modules_load: Vec<String>,
    /// The texts of udev's rules.
    pub udev_rules: Vec<String>,
}

/// One container.
#[derive(Debug)]
pub struct ContainerEvidence {
    /// Which one.
    pub ctid: Ctid,
    /// The path of its configuration file.
    pub path: String,
    /// Its configuration as the next start has it.
    pub config: LxcConfig,
    /// What changes until then.
    pub pending: Vec<PendingChange>,
    /// Why its configuration could not be read; it is empty then.
    pub unread: Option<Unread>,
    /// What nvstage has applied to it; an error is why that cannot be read.
    pub journal: Result<Option<Journal>, String>,
    /// Whether it runs, and what is seen inside.
    pub state: State,
}

impl ContainerEvidence {
    /// Whether it is given devices of NVIDIA's; what other containers may do is not judged.
    pub(super) fn passes(&self) -> bool {
        !lines::passed(&self.config).is_empty()
    }
}

/// Whether a container runs.
#[derive(Debug)]
pub enum State {
    /// It does not.
    Stopped,
    /// It runs, but cannot be looked into: why.
    Unreachable(String),
    /// It runs.
    Running(Box<Inside>),
}

/// What is seen inside a running container.
#[derive(Debug)]
pub struct Inside {
    /// What our script found; an error is why it could not be run.
    pub facts: Result<Facts, String>,
    /// The nodes of the host that no driver answers behind inside, but one does outside.
    pub answering: BTreeSet<String>,
    /// The version in the record of NVIDIA's installer.
    pub recorded: Option<DriverVersion>,
    /// The directory of its libraries.
    pub library_directory: String,
    /// The names in that directory.
    pub libraries: Vec<String>,
    /// Its C library.
    pub c_library: CLibrary,
    /// Whether Docker is installed.
    pub has_docker: bool,
    /// The text of `/etc/nvidia-container-runtime/config.toml`.
    pub container_runtime: Option<String>,
}

/// The C library of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CLibrary {
    /// The GNU one, which NVIDIA's libraries need.
    Glibc,
    /// musl, as in Alpine.
    Musl,
    /// Neither was recognised.
    Unknown,
}
