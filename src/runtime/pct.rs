//! Proxmox VE's `pct`.
//!
//! Each call costs about 0.45 s of processor time and 110 MiB, so state is read from
//! `/etc/pve/lxc` and from LXC itself; `pct` is for what only it can do. Sources: pve-container
//! `src/PVE/CLI/pct.pm`, `src/PVE/LXC/Config.pm`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DeviceEntries, Runtime, STATE_LIMIT, containers_in};
use crate::apt::{system, version};
use crate::container::config::Dialect;
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::files::{self, Lock};
use crate::host::process::Command;

/// Proxmox's own wait for the lock on a configuration.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The first pve-container with `dev[n]` (its changelog, 2023-11-21; Proxmox VE 8.1).
const DEVICES: &str = "5.0.7";
/// The first one that adds them to a running container (2025-07-30; Proxmox VE 9.0).
const DEVICES_WHILE_RUNNING: &str = "6.0.4";

/// Containers of this Proxmox VE node.
#[derive(Debug)]
pub struct Pct<'a> {
    host: &'a Host,
}

impl<'a> Pct<'a> {
    /// The containers of this host.
    pub fn new(host: &'a Host) -> Self {
        Self { host }
    }

    fn pct(&self, verb: &str, ctid: &Ctid, limit: Duration) -> Command {
        Command::new(self.host.paths.pct(), limit).args([verb, ctid.as_str()])
    }

    /// Without the cluster file system `/etc/pve` is an empty directory.
    fn refuse_without_pve(&self) -> Result<()> {
        let pve = self.host.paths.pve();
        if pve.join("local").symlink_metadata().is_ok() {
            return Ok(());
        }
        let what = format!("read `{}`: the cluster file system is not mounted", pve.display());
        Err(Error::host(what).hint("`systemctl status pve-cluster` says why"))
    }

    /// The node that holds `<directory>/<ctid>.conf`, if any does.
    fn node_with(&self, directory: &str, ctid: &Ctid) -> Option<String> {
        let nodes = std::fs::read_dir(self.host.paths.pve().join("nodes")).ok()?;
        let has_it = |node: &std::fs::DirEntry| {
            node.path().join(directory).join(format!("{ctid}.conf")).exists()
        };
        let node = nodes.flatten().find(has_it)?;
        Some(node.file_name().to_string_lossy().into_owned())
    }
}

impl Runtime for Pct<'_> {
    fn name(&self) -> &'static str {
        "pct"
    }

    fn dialect(&self) -> Dialect {
        Dialect::Proxmox
    }

    fn containers(&self) -> Result<Vec<Ctid>> {
        let pve = self.host.paths.pve();
        self.refuse_without_pve()?;
        containers_in(&pve.join("lxc"), |entry| {
            let name = entry.file_name();
            let ctid = Ctid::parse(name.to_str()?.strip_suffix(".conf")?).ok()?;
            ctid.is_proxmox().then_some(ctid)
        })
    }

    fn locate(&self, ctid: &Ctid) -> Result<PathBuf> {
        if !ctid.is_proxmox() {
            return Err(Error::input(format!("use `{ctid}` as a container ID of Proxmox VE"))
                .hint("a container ID is a number of 3 to 9 digits, see `pct list`"));
        }
        // Before the file: what lies below the mount point is nobody's configuration.
        self.refuse_without_pve().map_err(|error| error.on(ctid))?;
        let config = self.host.paths.pve().join("lxc").join(format!("{ctid}.conf"));
        if config.exists() {
            return Ok(config);
        }
        let error = if let Some(node) = self.node_with("lxc", ctid) {
            Error::not_found(format!("find it on this node: it is on node `{node}`"))
                .hint(format!("run nvstage on `{node}`"))
        } else if self.node_with("qemu-server", ctid).is_some() {
            Error::not_found("find it: it is a virtual machine, not a container")
        } else {
            Error::not_found("find it: it does not exist")
                .hint("`pct list` shows the containers of this node")
        };
        Err(error.on(ctid))
    }

    fn device_entries(&self) -> DeviceEntries {
        let status = self.host.paths.host_path("/var/lib/dpkg/status");
        // Asking `pveversion` would load all of Proxmox's libraries.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let Some(version) = system::installed_version(&text, "pve-container") else {
            let status = status.display();
            return DeviceEntries::Unknown(format!("`{status}` names no version of pve-container"));
        };
        let is_at_least = |wanted: &str| version::compare(&version, wanted).is_ge();
        if is_at_least(DEVICES_WHILE_RUNNING) {
            DeviceEntries::Running
        } else if is_at_least(DEVICES) {
            DeviceEntries::AtStart
        } else {
            DeviceEntries::Unknown(format!("pve-container {version} has none"))
        }
    }

    fn attach_command(&self, ctid: &Ctid, entries: &[(&str, &str)], digest: &str) -> Command {
        let command = self.pct("set", ctid, STATE_LIMIT).args(["--digest", digest]);
        let add = |command: Command, (key, value): &(&str, &str)| {
            command.args([format!("--{key}"), (*value).to_owned()])
        };
        entries.iter().fold(command, add)
    }

    fn lock_configuration(&self, ctid: &Ctid) -> Result<Option<Lock>> {
        let path = self.host.paths.pve_config_lock(ctid.as_str());
        // Gone at every boot, and made by whichever program of Proxmox's comes first.
        path.parent().map_or(Ok(()), files::create_directory).map_err(|error| error.on(ctid))?;
        Lock::exclusive(&path, LOCK_WAIT, &self.host.cancel)
            .map(Some)
            .map_err(|error| error.on(ctid))
    }

    fn start_command(&self, ctid: &Ctid) -> Command {
        self.pct("start", ctid, STATE_LIMIT)
    }

    fn stop_command(&self, ctid: &Ctid) -> Command {
        // After a time-out it polls once more before it kills: more than twice the limit.
        let seconds = STATE_LIMIT.as_secs().to_string();
        self.pct("shutdown", ctid, 2 * STATE_LIMIT + Duration::from_secs(30)).args([
            "--timeout",
            &seconds,
            "--forceStop",
            "1",
        ])
    }

    fn exec_prefix(&self, ctid: &Ctid) -> Command {
        self.pct("exec", ctid, STATE_LIMIT).arg("--")
    }

    fn push_command(&self, ctid: &Ctid, file: &Path, to: &str) -> Result<Command> {
        let file = file.to_str().ok_or_else(|| {
            Error::input(format!("`{}` is not UTF-8, which `pct push` needs", file.display()))
        })?;
        let limit = Duration::from_secs(600);
        Ok(self.pct("push", ctid, limit).args([file, to, "--perms", "0600"]))
    }
}
