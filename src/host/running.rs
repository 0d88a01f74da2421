//! Which containers of LXC run, and their first processes: by the kernel's files alone, so that
//! asking for a hundred of them costs no process.
//!
//! A container runs as long as its monitor listens on the abstract socket
//! `@/var/lib/lxc/<name>/command`, which `/proc/net/unix` shows (`unix(7)`; LXC
//! `src/lxc/commands.c`; `PVE::LXC::list_active_containers` reads the same). The monitor is alone in
//! its group of processes: `lxc.monitor/<name>` by Proxmox's configuration (`PVE::LXC`,
//! `lxc.cgroup.dir.monitor`), `lxc.monitor.<name>` otherwise (LXC `src/lxc/cgroups/cgfsng.c`). The
//! container's first process is its child, and has the number 1 inside (`NSpid`, `proc(5)`).

use std::collections::BTreeSet;
use std::io;

use super::paths::Paths;
use crate::ctid::Ctid;

/// The containers that run at one moment.
#[derive(Debug, Clone, Default)]
pub struct Running {
    names: BTreeSet<String>,
}

impl Running {
    /// Reads the sockets.
    ///
    /// # Errors
    /// When `/proc/net/unix` cannot be read.
    pub fn read(paths: &Paths) -> io::Result<Self> {
        let text = std::fs::read(paths.host_path("/proc/net/unix"))?;
        let text = String::from_utf8_lossy(&text);
        let names = text.lines().filter_map(listening).map(str::to_owned).collect();
        Ok(Self { names })
    }

    /// Whether a container is among them.
    pub fn has(&self, ctid: &Ctid) -> bool {
        self.names.contains(ctid.as_str())
    }
}

/// The container whose command socket a line of `/proc/net/unix` is.
fn listening(line: &str) -> Option<&str> {
    let path = line.split_ascii_whitespace().nth(7)?;
    path.strip_prefix("@/var/lib/lxc/")?.strip_suffix("/command")
}

/// The first process of a container that runs, as this host numbers it; `None` where these files do
/// not tell: it begins or ends just now, or LXC has put the monitor elsewhere (control groups of
/// version 1, a name that is used a second time).
pub fn init_process(paths: &Paths, ctid: &Ctid) -> Option<u32> {
    let groups = ["/sys/fs/cgroup/lxc.monitor/", "/sys/fs/cgroup/lxc.monitor."];
    let monitors = groups.iter().find_map(|group| {
        let group = paths.host_path(&format!("{group}{ctid}/cgroup.procs"));
        std::fs::read_to_string(group).ok().filter(|text| !text.trim().is_empty())
    })?;
    let numbers = |text: &str| -> Vec<u32> {
        text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let children = |monitor: &u32| {
        let children = paths.host_path(&format!("/proc/{monitor}/task/{monitor}/children"));
        numbers(&std::fs::read_to_string(children).unwrap_or_default())
    };
    let mut children = numbers(&monitors).iter().flat_map(children).collect::<Vec<_>>().into_iter();
    children.find(|child| is_first_inside(paths, *child))
}

/// Whether a process is number 1 in a process namespace right below this one.
fn is_first_inside(paths: &Paths, process: u32) -> bool {
    let status = paths.host_path(&format!("/proc/{process}/status"));
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers: Vec<&str> = numbers.unwrap_or_default().split_ascii_whitespace().collect();
    matches!(numbers[..], [_, "1"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_sockets_name_the_containers_that_run() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 487279 ";
        let container = |path: &str| listening(&format!("{line}{path}")).map(str::to_owned);
        assert_eq!(container("@/var/lib/lxc/9501/command").as_deref(), Some("9501"));
        assert_eq!(container("@/var/lib/lxc/web-1/command").as_deref(), Some("web-1"));
        assert_eq!(container("/run/systemd/private"), None);
        assert_eq!(listening(line), None);
        assert_eq!(listening("Num       RefCount Protocol Flags    Type St Inode Path"), None);
    }
}
