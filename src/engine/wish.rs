//! What was asked for, resolved against this host: version, GPUs, device nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::architecture::Architecture;
use crate::container::passthrough::{DeviceNode, DriverLines};
use crate::error::{Error, Result};
use crate::gpu::{Assigned, GpuAssignment};
use crate::host::Host;
use crate::host::devices::{Inventory, nodes_for};
use crate::recipe::{DriverChoice, Recipe};
use crate::remedy;
use crate::version::DriverVersion;

/// How the installer gets into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// The unpacked tree appears inside, read-only; nothing is copied.
    #[default]
    Mount,
    /// The `.run` is copied inside and unpacks itself there.
    Push,
}

/// What happens at the end to a container that was stopped at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtTheEnd {
    /// It is stopped again.
    #[default]
    StopAgain,
    /// It stays running.
    KeepRunning,
}

/// What was asked for of one container.
#[derive(Debug)]
pub struct Wish {
    /// The recipe, with everything overridden that the user overrode.
    pub recipe: Arc<Recipe>,
    /// The driver's version.
    pub version: DriverVersion,
    /// What this host runs on.
    pub architecture: Architecture,
    /// The host's kernel module and GPUs, read once for all containers of a run.
    pub inventory: Arc<Inventory>,
    /// The GPUs as the user named them.
    pub assignment: GpuAssignment,
    /// The GPUs to pass through.
    pub gpus: Vec<Assigned>,
    /// The device nodes that go with them.
    pub nodes: Vec<DeviceNode>,
    /// What becomes of lines that bring a driver of the host's by another way.
    pub driver_lines: DriverLines,
}

/// The architecture of this machine.
///
/// # Errors
/// Host error for one that NVIDIA has no driver for.
pub fn host_architecture() -> Result<Architecture> {
    let name = nix::sys::utsname::uname()
        .map_err(|error| Error::host("ask for this machine's architecture").because(error))?;
    Architecture::parse(&name.machine().to_string_lossy())
}

/// The driver's version: the one asked for, or the loaded kernel module's.
///
/// # Errors
/// Host error when `host` is asked for and no module is loaded, or the module is of another
/// version than asked: a userland that does not match it exactly cannot work.
pub fn driver_version(recipe: &Recipe, inventory: &Inventory) -> Result<DriverVersion> {
    match (recipe.driver_choice(), inventory.module_version()) {
        (DriverChoice::Host, Some(module)) => Ok(module.clone()),
        (DriverChoice::Host, None) => Err(Error::host(
            "take the driver's version from the kernel module: none is loaded on this host",
        )
        .hint("install the driver on the host, or load it: `modprobe nvidia`")
        .hint("`--set driver=VERSION` names a version by hand")),
        (DriverChoice::Exactly(version), None) => Ok(version.clone()),
        (DriverChoice::Exactly(version), Some(module)) if version == module => Ok(version.clone()),
        (DriverChoice::Exactly(version), Some(module)) => {
            Err(Error::host(format!("use driver {version}: this host's kernel module is {module}"))
                .hint(format!("the userland must match it exactly: `--set driver={module}`")))
        }
    }
}

impl Wish {
    /// Resolves a recipe and an assignment on this host; `None` when the assignment is `none`.
    ///
    /// # Errors
    /// Invalid input for GPUs that the host does not have, host error for a GPU of
    /// another driver, for missing or outdated nodes, or a module of another version.
    pub fn resolve(
        host: &Host,
        inventory: &Arc<Inventory>,
        recipe: &Arc<Recipe>,
        assignment: &GpuAssignment,
    ) -> Result<Option<Self>> {
        let architecture = host_architecture()?;
        let (inventory, recipe) = (Arc::clone(inventory), Arc::clone(recipe));
        let gpus = assignment.resolve(&inventory.gpus, &inventory.pci)?;
        if gpus.is_empty() {
            return Ok(None);
        }
        let version = driver_version(&recipe, &inventory)?;
        let nodes = nodes_for(&host.paths, &inventory, &gpus)?;
        let assignment = assignment.clone();
        let driver_lines = DriverLines::default();
        let wish = Self {
            recipe,
            version,
            architecture,
            inventory,
            assignment,
            gpus,
            nodes,
            driver_lines,
        };
        Ok(Some(wish))
    }

    /// The same with another answer to lines that bring a driver.
    pub fn with_driver_lines(self, driver_lines: DriverLines) -> Self {
        Self { driver_lines, ..self }
    }

    /// The majors that character devices of this host have.
    pub fn majors(&self) -> BTreeSet<u64> {
        self.inventory.majors.values().copied().collect()
    }

    /// Refuses when the host's GPUs or their nodes are no longer what the plan was made with.
    ///
    /// # Errors
    /// Host error.
    pub fn confirm(&self, host: &Host) -> Result<()> {
        let hint = format!("run the command again; `{}` shows what is there now", remedy::gpus());
        let inventory = Inventory::read(&host.paths)?;
        let gpus = self.assignment.resolve(&inventory.gpus, &inventory.pci).map_err(|error| {
            // The assignment was right when the plan was made.
            Error::host("pass the GPUs through: one is gone since the plan")
                .because(format!("failed to {}", error.what()))
                .hint(hint.as_str())
        })?;
        if nodes_for(&host.paths, &inventory, &gpus)? == self.nodes {
            return Ok(());
        }
        Err(Error::host("pass the GPUs through: their device nodes have changed since the plan")
            .hint(hint))
    }
}
