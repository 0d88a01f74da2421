//! NVIDIA's kernel modules on the host: which are loaded, which are installed, and loading them.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::devices::Inventory;
use crate::host::paths::Paths;
use crate::host::process::{Command, Finished};
use crate::host::runlog::RunLog;

/// A machine with many GPUs takes a minute to bring them up.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
/// Looking for a module reads an index.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// A kernel module that containers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// The driver itself.
    Nvidia,
    /// Unified memory, without which there is no CUDA.
    Uvm,
    /// Mode setting, for what draws.
    Modeset,
}

impl Module {
    /// All of them, in the order in which they are loaded.
    pub const ALL: [Self; 3] = [Self::Nvidia, Self::Uvm, Self::Modeset];

    /// Its name, as `modprobe` and `/proc/devices` have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "nvidia",
            Self::Uvm => "nvidia-uvm",
            Self::Modeset => "nvidia-modeset",
        }
    }

    /// Whether it is loaded.
    pub fn is_loaded(self, paths: &Paths, inventory: &Inventory) -> bool {
        let has = |name: &str| inventory.majors.contains_key(name);
        // Before 545 one entry stands for the GPUs, the control node and the one of nvidia-modeset.
        let frontend = has("nvidia-frontend");
        match self {
            Self::Nvidia => inventory.module.is_some() || frontend || has("nvidia"),
            Self::Uvm => has("nvidia-uvm"),
            Self::Modeset => {
                let loaded = || paths.loaded_modules().join("nvidia_modeset").exists();
                has("nvidia-modeset") || (frontend && loaded())
            }
        }
    }

    /// Whether `modprobe` would find it.
    ///
    /// # Errors
    /// Host error when `modprobe` cannot be run, or the interruption.
    pub fn is_installed(self, host: &Host, log: &RunLog) -> Result<bool> {
        let looked = modprobe(host, &["--quiet", "--dry-run", self.name()], LOOK_LIMIT, log)?;
        Ok(looked.succeeded())
    }

    /// Loads it.
    ///
    /// # Errors
    /// Host error with what `modprobe` said, or the interruption.
    pub fn load(self, host: &Host, log: &RunLog) -> Result<()> {
        let finished = modprobe(host, &[self.name()], LOAD_LIMIT, log)?;
        if finished.succeeded() {
            return Ok(());
        }
        Err(Error::host(format!("load the kernel module `{self}`"))
            .because(finished.ended)
            .because(finished.tail())
            .hint("`dmesg` has the reason: no GPU for it, one bound to vfio-pci, or a module built for another kernel"))
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn modprobe(host: &Host, arguments: &[&str], limit: Duration, log: &RunLog) -> Result<Finished> {
    let command = Command::new("modprobe", limit).args(arguments.iter().copied());
    host.processes.run(command, log)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(names: &[&str], paths: &Paths) -> Vec<Module> {
        let mut inventory = Inventory::read(paths).unwrap();
        inventory.majors = names.iter().map(|name| ((*name).to_owned(), 195)).collect();
        Module::ALL.into_iter().filter(|module| module.is_loaded(paths, &inventory)).collect()
    }

    #[test]
    fn the_kernels_list_of_majors_tells_what_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        assert_eq!(loaded(&[], &paths), []);
        assert_eq!(loaded(&["nvidia", "nvidiactl"], &paths), [Module::Nvidia]);
        assert_eq!(loaded(&["nvidia", "nvidia-uvm", "nvidia-modeset"], &paths), Module::ALL);
    }

    #[test]
    fn an_old_drivers_modeset_is_found_among_the_modules() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        assert_eq!(loaded(&["nvidia-frontend"], &paths), [Module::Nvidia]);
        std::fs::create_dir_all(root.path().join("sys/module/nvidia_modeset")).unwrap();
        assert_eq!(loaded(&["nvidia-frontend"], &paths), [Module::Nvidia, Module::Modeset]);
    }
}
