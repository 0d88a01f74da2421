//! Which containers of LXC run, and their first processes: by the kernel's files alone, so that
//! asking for a hundred of them costs no process.
//!
//! A container runs as long as its monitor listens on the abstract socket
//! `@/var/lib/lxc/<name>/command`, which `/proc/net/unix` shows (`unix(7)`; LXC
//! `src/lxc/commands.c`; `PVE::LXC::list_active_containers` reads the same). The monitor is alone in
//! its group of processes: `lxc.monitor/<name>` by Proxmox's configuration (`PVE::LXC`,
//! `lxc.cgroup.dir.monitor`), `lxc.monitor.<name>` otherwise (LXC `src/lxc/cgroups/cgfsng.c`). The
//! container's first process is its child, and has the number 1 inside (`NSpid`, `proc(5)`).
//!
//! The socket is closed before the post-stop hook begins, and the monitor ends after it (LXC
//! `src/lxc/start.c`, `lxc_end`): [`works_at`] tells of that time.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

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

/// When a process began, in clock ticks after the boot of the host (`proc_pid_stat(5)`); `None` for
/// one that is gone.
pub fn started(paths: &Paths, pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(paths.host_path(&format!("/proc/{pid}/stat"))).ok()?;
    // "pid (name) state ppid …"; the name may hold blanks and parentheses. Field 22.
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

/// What of this host works at a container: LXC's monitor from before it listens until its post-stop
/// hook has ended, or Proxmox's unit around it, which also restarts a container from inside. `None`
/// for a container that does not run and is not about to.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn works_at(paths: &Paths, ctid: &Ctid) -> io::Result<Option<String>> {
    // systemd has this link as long as the unit is not inactive (`src/core/unit.c`).
    for unit in ["pve-container", "pve-container-debug"].map(|unit| format!("{unit}@{ctid}")) {
        let link = paths.host_path(&format!("/run/systemd/units/invocation:{unit}.service"));
        if link.symlink_metadata().is_ok() {
            return Ok(Some(format!("the unit `{unit}`")));
        }
    }
    let processes = std::fs::read_dir(paths.host_path("/proc"))?.flatten();
    let mut monitors = processes.filter(|process| is_monitor_of(&process.path(), ctid));
    let number = |process: std::fs::DirEntry| process.file_name().to_string_lossy().into_owned();
    Ok(monitors.next().map(|process| format!("LXC's monitor, process {}", number(process))))
}

/// Whether a process is the monitor of a container: by its command line, which anybody may have, and
/// as a process of the host's root, which containers have none of.
fn is_monitor_of(process: &Path, ctid: &Ctid) -> bool {
    std::fs::read(process.join("cmdline")).is_ok_and(|line| is_monitors(&line, ctid))
        && is_of_the_hosts_root(
            &std::fs::read_to_string(process.join("status")).unwrap_or_default(),
        )
}

/// A monitor in the background renames itself (LXC `src/lxc/lxccontainer.c`); one in the foreground,
/// as in Proxmox's unit (`pve-container@.service`), keeps its arguments.
fn is_monitors(command_line: &[u8], ctid: &Ctid) -> bool {
    let text = String::from_utf8_lossy(command_line);
    let text = text.trim_end_matches('\0');
    if text.strip_prefix("[lxc monitor] /var/lib/lxc ") == Some(ctid.as_str()) {
        return true;
    }
    let words: Vec<&str> = text.split('\0').collect();
    words[0].rsplit('/').next() == Some("lxc-start")
        && words.windows(2).any(|pair| pair == ["-n", ctid.as_str()])
}

fn is_of_the_hosts_root(status: &str) -> bool {
    let fields = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace().collect::<Vec<_>>())
    };
    fields("Uid:").is_some_and(|ids| ids.first() == Some(&"0"))
        && fields("NSpid:").is_some_and(|numbers| numbers.len() == 1)
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
    use crate::host::files;

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

    /// A host with one process.
    fn host_with(command_line: &str, status: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("proc/77");
        std::fs::create_dir_all(&process).unwrap();
        files::replace(&process.join("cmdline"), command_line.as_bytes()).unwrap();
        files::replace(&process.join("status"), status.as_bytes()).unwrap();
        root
    }

    #[test]
    fn a_monitor_works_at_its_container_and_at_no_other() {
        let (hosts, ctid) = ("Uid:\t0\t0\t0\t0\nNSpid:\t77\n", Ctid::parse("201").unwrap());
        let works = |line: &str, status: &str| {
            works_at(&Paths::below(host_with(line, status).path()), &ctid).unwrap()
        };
        for line in ["/usr/bin/lxc-start\0-F\0-n\x00201\0", "[lxc monitor] /var/lib/lxc 201\0\0"] {
            let found = works(line, hosts);
            assert_eq!(found.as_deref(), Some("LXC's monitor, process 77"), "{line}");
            // Of another user, or a container's own.
            assert_eq!(works(line, "Uid:\t1000\t0\t0\t0\nNSpid:\t77\n"), None);
            assert_eq!(works(line, "Uid:\t0\t0\t0\t0\nNSpid:\t77\t5\n"), None);
        }
        for line in
            ["lxc-start\0-n\x002010\0", "lxc-attach\0-n\x00201\0", "[lxc monitor] /srv 201", ""]
        {
            assert_eq!(works(line, hosts), None, "{line}");
        }
    }

    #[test]
    fn a_unit_that_is_not_inactive_works_at_its_container() {
        let root = host_with("", "");
        let units = root.path().join("run/systemd/units");
        std::fs::create_dir_all(&units).unwrap();
        let link = units.join("invocation:pve-container@201.service");
        std::os::unix::fs::symlink("0123456789abcdef", link).unwrap();
        let works = |ctid| works_at(&Paths::below(root.path()), &Ctid::parse(ctid).unwrap());
        assert_eq!(works("201").unwrap().as_deref(), Some("the unit `pve-container@201`"));
        assert_eq!(works("202").unwrap(), None);
    }
}
