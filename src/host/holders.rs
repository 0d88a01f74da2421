//! Which processes of a container hold a GPU: they have one of NVIDIA's nodes open.
//!
//! A process belongs to a container when its control group is below the container's (`/proc/<pid>/cgroup`,
//! `cgroups(7)`); those of containers inside it are among them.

use std::fmt;

/// A process that has a node open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number on this host.
    pub pid: u32,
    /// Its name, `python3` (`/proc/<pid>/comm`).
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The processes of the container whose first one is `init` that hold a GPU.
pub fn holders(init: u32) -> Vec<Holder> {
    let own = group(init).map(|group| container_group(&group).to_owned());
    let namespace = namespace(init);
    let is_inside = |pid: &u32| match &own {
        Some(own) => group(*pid).is_some_and(|g| {
            g.strip_prefix(own.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
        None => self::namespace(*pid).is_some_and(|found| Some(found) == namespace),
    };
    let name = |pid: u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Holder { pid, name: name.trim().to_owned() }
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(is_inside).filter(|pid| holds(*pid)).map(name).collect()
}

/// The control group of a process; on a host with the unified hierarchy there is one line.
fn group(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// The process namespace of a process, where control groups do not tell.
fn namespace(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The part of a control group's path that is the container's as a whole: `/lxc/101` on Proxmox VE,
/// `/lxc.payload.web` with plain LXC; systemd inside makes others below it.
fn container_group(path: &str) -> &str {
    let end_of = |from: usize| path[from..].find('/').map_or(path.len(), |length| from + length);
    if let Some(start) = path.find("/lxc.payload") {
        let first = end_of(start + 1);
        // `lxc.payload/101` and `lxc.payload.101` are both in use.
        return match path[start..first].len() == "/lxc.payload".len() && first < path.len() {
            true => &path[..end_of(first + 1)],
            false => &path[..first],
        };
    }
    match path.find("/lxc/") {
        Some(start) => &path[..end_of(start + "/lxc/".len())],
        // A name of somebody's own: systemd inside has put its first process one below.
        None => path.strip_suffix("/init.scope").unwrap_or(path),
    }
}

fn holds(pid: u32) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.into_iter().any(|target| target.to_string_lossy().starts_with("/dev/nvidia"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_group_is_the_one_that_holds_all_of_it() {
        for (path, whole) in [
            ("/lxc/101/ns/init.scope", "/lxc/101"),
            ("/lxc/101", "/lxc/101"),
            ("/lxc.payload.web/system.slice/cron.service", "/lxc.payload.web"),
            ("/lxc.payload/101/init.scope", "/lxc.payload/101"),
            ("/a/lxc.payload.201-1/x", "/a/lxc.payload.201-1"),
            ("/mine/web/init.scope", "/mine/web"),
        ] {
            assert_eq!(container_group(path), whole);
        }
    }
}
