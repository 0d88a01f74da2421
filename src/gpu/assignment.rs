//! Which GPUs a container gets, by the names that people and programs give them, and which those
//! are on a host.

use std::fmt;

use super::{Assigned, Gpu, MigInstance, PciAddress, PciGpu};
use crate::error::{Error, Result};

/// The highest index in an assignment: there are 256 minors under NVIDIA's major 195.
const HIGHEST_INDEX: u32 = 255;

/// Which GPUs of the host a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuAssignment {
    /// None at all.
    None,
    /// Every one that NVIDIA's driver has.
    All,
    /// These; in order, each once.
    These(Vec<GpuName>),
}

/// A name of a GPU, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum GpuName {
    /// Its index in the order of PCI addresses.
    Index(u32),
    /// Its PCI address.
    PciAddress(PciAddress),
    /// Its UUID, `GPU-…`.
    Uuid(String),
    /// A MIG instance by its place.
    Instance {
        /// The UUID of its GPU, `GPU-…`.
        gpu: String,
        /// The GPU instance.
        gpu_instance: u32,
        /// The compute instance in it.
        compute_instance: u32,
    },
    /// A MIG instance by a UUID of its own, `MIG-…`. The kernel module publishes none of these.
    InstanceUuid(String),
}

impl GpuAssignment {
    /// Reads `none`, `all`, or names among commas; blanks around a name do not matter.
    ///
    /// # Errors
    /// Invalid input that says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |why: String| {
            Err(Error::input(format!("understand the GPU assignment `{text}`: {why}")).hint(
                "an assignment is `none`, `all`, or a list such as `0,1` of indices, \
                 PCI addresses, UUIDs `GPU-…` and MIG instances `MIG-GPU-…/1/0`",
            ))
        };
        match text.trim() {
            "" => return fail("it is empty".to_owned()),
            "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let mut names = Vec::new();
        for part in text.split(',').map(str::trim) {
            let name = match part {
                "" => Err("there is nothing before or after a comma".to_owned()),
                "none" | "all" => Err(format!("`{part}` stands alone")),
                _ => GpuName::parse(part),
            };
            match name {
                Ok(name) if names.contains(&name) => {
                    return fail(format!("`{part}` is there twice"));
                }
                Ok(name) => names.push(name),
                Err(why) => return fail(why),
            }
        }
        names.sort_unstable();
        Ok(Self::These(names))
    }

    /// The GPUs that are meant, out of those that the driver has; in the order of their indices.
    /// `pci` tells why one that is there is not among them.
    ///
    /// # Errors
    /// Host error when GPUs are asked for on a host that has none, or one that another driver has;
    /// invalid input for a name that fits nothing here, and for two names of the same GPU.
    pub fn resolve(&self, gpus: &[Gpu], pci: &[PciGpu]) -> Result<Vec<Assigned>> {
        let host = Known { gpus, pci };
        let names = match self {
            Self::None => return Ok(Vec::new()),
            Self::All if gpus.is_empty() => return Err(host.nothing()),
            Self::All => return Ok(gpus.iter().cloned().map(whole).collect()),
            Self::These(names) => names,
        };
        let mut found: Vec<(Assigned, &GpuName)> = Vec::new();
        for name in names {
            let next = host.find(name)?;
            match found.iter_mut().find(|(earlier, _)| earlier.gpu.index == next.gpu.index) {
                None => found.push((next, name)),
                Some((earlier, by)) => add(earlier, next).map_err(|error| {
                    error.hint(format!("`{by}` and `{name}` are both in the assignment"))
                })?,
            }
        }
        let mut assigned: Vec<Assigned> = found.into_iter().map(|(found, _)| found).collect();
        assigned.sort_by_key(|assigned| assigned.gpu.index);
        Ok(assigned)
    }
}

impl fmt::Display for GpuAssignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::All => f.write_str("all"),
            Self::These(names) => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl GpuName {
    /// Reads one name; an error is the reason alone.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let index = text.parse().ok().filter(|index| *index <= HIGHEST_INDEX);
            return index.map(Self::Index).ok_or_else(|| format!("`{text}` is too high"));
        }
        if let Some(rest) = after(text, "MIG-") {
            return match after(rest, "GPU-") {
                Some(_) => Self::instance(rest),
                None => uuid(rest).map(|uuid| Self::InstanceUuid(format!("MIG-{uuid}"))),
            }
            .ok_or_else(|| {
                format!("`{text}` is not a whole MIG instance `MIG-GPU-<UUID>/<number>/<number>`")
            });
        }
        if let Some(rest) = after(text, "GPU-") {
            return uuid(rest)
                .map(|uuid| Self::Uuid(format!("GPU-{uuid}")))
                .ok_or_else(|| format!("`{text}` is not a whole UUID"));
        }
        match PciAddress::parse(text) {
            Some(address) => Ok(Self::PciAddress(address)),
            None if text.contains(':') => Err(format!("`{text}` is not a whole PCI address")),
            None => Err(format!("`{text}` is not an index, a PCI address or a UUID")),
        }
    }

    /// Reads what follows `MIG-`: `GPU-<UUID>/<gpu instance>/<compute instance>`.
    fn instance(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let gpu = format!("GPU-{}", uuid(after(parts.next()?, "GPU-")?)?);
        let mut number = || -> Option<u32> {
            let digits = parts.next()?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let (gpu_instance, compute_instance) = (number()?, number()?);
        parts.next().is_none().then_some(Self::Instance { gpu, gpu_instance, compute_instance })
    }
}

impl fmt::Display for GpuName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::PciAddress(address) => write!(f, "{address}"),
            Self::Uuid(uuid) | Self::InstanceUuid(uuid) => f.write_str(uuid),
            Self::Instance { gpu, gpu_instance, compute_instance } => {
                write!(f, "MIG-{gpu}/{gpu_instance}/{compute_instance}")
            }
        }
    }
}

/// The rest of a text that begins like this, in any case.
fn after<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(beginning.len())?;
    start.eq_ignore_ascii_case(beginning).then_some(rest)
}

/// A whole UUID, in lower case.
fn uuid(text: &str) -> Option<String> {
    let groups: Vec<&str> = text.split('-').collect();
    let is_whole = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]);
    let is_hexadecimal = groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()));
    (is_whole && is_hexadecimal).then(|| text.to_ascii_lowercase())
}

fn whole(gpu: Gpu) -> Assigned {
    Assigned { gpu, instances: Vec::new() }
}

/// Puts a second name of the same GPU to the first; only different instances of it can be.
fn add(earlier: &mut Assigned, next: Assigned) -> Result<()> {
    let fail = |what| Err(Error::input(format!("assign GPU {} twice: {what}", next.gpu.index)));
    match (earlier.instances.is_empty(), next.instances.is_empty()) {
        (true, true) => fail("two names mean the same GPU"),
        (true, false) | (false, true) => fail("one name means the whole GPU, one a part of it"),
        (false, false) => {
            earlier.instances.extend(next.instances);
            earlier.instances.sort_by_key(|found| (found.gpu_instance, found.compute_instance));
            Ok(())
        }
    }
}

/// What a host has, to find names in and to tell of where they are not found.
#[derive(Clone, Copy)]
struct Known<'a> {
    gpus: &'a [Gpu],
    pci: &'a [PciGpu],
}

impl<'a> Known<'a> {
    fn find(self, name: &GpuName) -> Result<Assigned> {
        if let GpuName::PciAddress(address) = name
            && let Some(other) = self.elsewhere(*address)
        {
            return Err(of_another_driver(other));
        }
        if self.gpus.is_empty() {
            return Err(self.nothing());
        }
        match name {
            GpuName::Index(index) => {
                self.gpu(|gpu| gpu.index == *index).map(whole).ok_or_else(|| {
                    self.unknown(&format!("GPU {index}")).hint(self.all_with(Gpu::to_string))
                })
            }
            GpuName::PciAddress(address) => {
                let is_it = |gpu: &Gpu| PciAddress::parse(&gpu.pci_address) == Some(*address);
                self.gpu(is_it).map(whole).ok_or_else(|| {
                    self.unknown(&format!("GPU `{address}`")).hint(self.all_with(Gpu::to_string))
                })
            }
            GpuName::Uuid(uuid) => self.by_uuid(uuid).map(whole),
            GpuName::Instance { gpu, gpu_instance, compute_instance } => {
                let gpu = self.by_uuid(gpu)?;
                let place = (*gpu_instance, *compute_instance);
                let mut instances = gpu.mig.iter();
                let is_it =
                    |found: &&MigInstance| (found.gpu_instance, found.compute_instance) == place;
                match instances.find(is_it).cloned() {
                    Some(instance) => Ok(Assigned { gpu, instances: vec![instance] }),
                    None => Err(Error::input(format!(
                        "assign `{name}`: GPU {} has no such MIG instance",
                        gpu.index
                    ))
                    .hint(self.all_instances())),
                }
            }
            GpuName::InstanceUuid(_) => Err(Error::input(format!(
                "assign `{name}`: the kernel module does not tell which MIG instance has this UUID"
            ))
            .hint(self.all_instances())),
        }
    }

    fn gpu(self, is_it: impl Fn(&Gpu) -> bool) -> Option<Gpu> {
        self.gpus.iter().find(|gpu| is_it(gpu)).cloned()
    }

    fn by_uuid(self, uuid: &str) -> Result<Gpu> {
        let known = |gpu: &Gpu| gpu.uuid.as_deref().map(str::to_ascii_lowercase);
        let wanted = uuid.to_ascii_lowercase();
        self.gpu(|gpu| known(gpu).as_ref() == Some(&wanted)).ok_or_else(|| {
            let shown = |gpu: &Gpu| match &gpu.uuid {
                Some(uuid) => format!("{} ({uuid})", gpu.index),
                None => format!("{} (its UUID is unknown until it is first used)", gpu.index),
            };
            self.unknown(&format!("GPU `{uuid}`")).hint(self.all_with(shown))
        })
    }

    /// A GPU of the bus that NVIDIA's driver does not tell of.
    fn elsewhere(self, address: PciAddress) -> Option<&'a PciGpu> {
        let mut others = self.pci.iter().filter(|other| !self.drives(other));
        others.find(|other| PciAddress::parse(&other.address) == Some(address))
    }

    fn nothing(self) -> Error {
        let error = Error::host("find a GPU: this host has none that NVIDIA's driver knows");
        self.with_unbound(error)
            .hint("is the driver loaded on the host? see `/proc/driver/nvidia/gpus`")
    }

    fn unknown(self, what: &str) -> Error {
        self.with_unbound(Error::input(format!("assign {what}: this host has no such GPU")))
    }

    /// Tells of the GPUs that NVIDIA's driver does not have.
    fn with_unbound(self, error: Error) -> Error {
        let unbound = self.pci.iter().filter(|other| !self.drives(other));
        unbound.fold(error, |error, other| error.because(other))
    }

    fn drives(self, other: &PciGpu) -> bool {
        let address = PciAddress::parse(&other.address);
        self.gpus.iter().any(|gpu| PciAddress::parse(&gpu.pci_address) == address)
    }

    fn all_with(self, shown: impl Fn(&Gpu) -> String) -> String {
        let all: Vec<String> = self.gpus.iter().map(shown).collect();
        format!("it has {}", all.join(", "))
    }

    fn all_instances(self) -> String {
        let of_gpu = |gpu: &Gpu| -> Vec<String> {
            gpu.mig.iter().filter_map(|instance| gpu.instance_name(instance)).collect()
        };
        let all: Vec<String> = self.gpus.iter().flat_map(of_gpu).collect();
        match all.is_empty() {
            true => "this host has no MIG instances".to_owned(),
            false => format!("this host has\n{}", all.join("\n")),
        }
    }
}

/// Why a GPU that is there cannot be assigned.
fn of_another_driver(gpu: &PciGpu) -> Error {
    let error =
        Error::host(format!("assign GPU `{}`: NVIDIA's driver does not have it", gpu.address))
            .because(gpu);
    match (gpu.driver.as_deref(), gpu.claimed_by.first()) {
        (Some("nvidia"), _) => error.hint("`dmesg | grep -i nvrm` says why it is not ready"),
        (Some("vfio-pci"), Some(machine)) => error.hint(format!(
            "take it out of the virtual machine first: `qm config {machine} | grep hostpci`"
        )),
        (Some("vfio-pci"), None) => error.hint(
            "see `/etc/modprobe.d` for `options vfio-pci ids=…`, and the kernel's command line",
        ),
        (Some(driver), _) => error.hint(format!(
            "write `blacklist {driver}` into `/etc/modprobe.d/blacklist-{driver}.conf`, \
             run `update-initramfs -u`, and start the host again"
        )),
        (None, _) => error.hint("`modprobe nvidia` binds it when the driver is installed"),
    }
}

#[cfg(test)]
mod tests;
