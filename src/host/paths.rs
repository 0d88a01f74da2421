//! Where everything lies on the host: one relocatable value, so that tests can read a host tree.

use std::path::PathBuf;

/// Every absolute path that the program uses, below one root.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    cache: Option<PathBuf>,
}

impl Paths {
    /// The paths of the running machine.
    pub fn live() -> Self {
        Self::below("/")
    }

    /// The same paths below another root.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), cache: None }
    }

    /// Uses another directory for the cache; taken as it is, not below the root.
    #[must_use]
    pub fn with_cache(mut self, cache: PathBuf) -> Self {
        self.cache = Some(cache);
        self
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The cache, `/var/cache/nvstage`.
    pub fn cache(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(|| self.at("var/cache/nvstage"))
    }

    /// Logs of runs, `/var/log/nvstage`.
    pub fn logs(&self) -> PathBuf {
        self.at("var/log/nvstage")
    }

    /// The log that the replaced script writes, `/var/log/phoenix_hypervisor.log`.
    pub fn phoenix_log(&self) -> PathBuf {
        self.at("var/log/phoenix_hypervisor.log")
    }

    /// Locks of this program, one per container, `/run/nvstage`: not below `/run/lock`, where
    /// every user may make a directory first.
    pub fn locks(&self) -> PathBuf {
        self.at("run/nvstage")
    }

    /// Recipes of the machine's administrator, `/etc/nvstage/recipes`.
    pub fn recipes(&self) -> PathBuf {
        self.at("etc/nvstage/recipes")
    }

    /// Proxmox's cluster file system, `/etc/pve`.
    pub fn pve(&self) -> PathBuf {
        self.at("etc/pve")
    }

    /// Proxmox's lock on one container's configuration
    /// (`PVE::LXC::Config`: `/run/lock/lxc/pve-config-<id>.lock`).
    pub fn pve_config_lock(&self, ctid: &str) -> PathBuf {
        self.at("run/lock/lxc").join(format!("pve-config-{ctid}.lock"))
    }

    /// Proxmox's container tool, `/usr/sbin/pct`.
    pub fn pct(&self) -> PathBuf {
        self.at("usr/sbin/pct")
    }

    /// Plain LXC's containers, `/var/lib/lxc`.
    pub fn lxc(&self) -> PathBuf {
        self.at("var/lib/lxc")
    }

    /// Device nodes, `/dev`.
    pub fn dev(&self) -> PathBuf {
        self.at("dev")
    }

    /// What NVIDIA's kernel module says of itself, `/proc/driver/nvidia`.
    pub fn proc_nvidia(&self) -> PathBuf {
        self.at("proc/driver/nvidia")
    }

    /// The majors that drivers have now, `/proc/devices`.
    pub fn proc_devices(&self) -> PathBuf {
        self.at("proc/devices")
    }

    /// The devices on the PCI bus, `/sys/bus/pci/devices`.
    pub fn pci_devices(&self) -> PathBuf {
        self.at("sys/bus/pci/devices")
    }

    /// The kernel modules that are loaded, `/sys/module`.
    pub fn loaded_modules(&self) -> PathBuf {
        self.at("sys/module")
    }

    /// Units of the machine's administrator, `/etc/systemd/system`.
    pub fn units(&self) -> PathBuf {
        self.at("etc/systemd/system")
    }

    /// There when systemd runs the machine (`sd_booted(3)`), `/run/systemd/system`.
    pub fn systemd(&self) -> PathBuf {
        self.at("run/systemd/system")
    }

    /// What nvstage has applied to each container, `/var/lib/nvstage/containers`.
    pub fn journals(&self) -> PathBuf {
        self.at("var/lib/nvstage/containers")
    }

    /// Which files of each container were found right, `/var/lib/nvstage/verified`.
    pub fn verified(&self) -> PathBuf {
        self.at("var/lib/nvstage/verified")
    }

    /// The driver images that containers share, one a version, and `current`:
    /// `/var/lib/nvstage/driver`.
    pub fn shared_drivers(&self) -> PathBuf {
        self.at("var/lib/nvstage/driver")
    }

    /// The CUDA images that containers share: `/var/lib/nvstage/cuda`.
    pub fn shared_cuda(&self) -> PathBuf {
        self.at("var/lib/nvstage/cuda")
    }

    /// A path as a container's configuration names it (`/dev/nvidia0`), on this machine.
    pub fn host_path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }
}
