//! Commands that put things right, as the container's runtime has them.

use super::evidence::{ContainerEvidence, HostEvidence};
use super::lines;
use super::{Remedy, State};
use crate::container::config::{Dialect, LxcConfig};

/// Provisions the container again, with the GPUs that it has.
pub(super) fn provision(host: &HostEvidence<'_>, container: &ContainerEvidence) -> String {
    let command = format!("nvstage provision {}", container.ctid);
    match gpus(host, container) {
        Some(gpus) => format!("{command} --gpus {gpus}"),
        None => command,
    }
}

/// Stops and starts the container.
pub(super) fn restart(container: &ContainerEvidence) -> String {
    let ctid = &container.ctid;
    match container.config.dialect() {
        Dialect::Proxmox => format!("pct reboot {ctid}"),
        // A reboot alone does not read the configuration again.
        Dialect::Lxc => format!("lxc-stop -n {ctid} && lxc-start -n {ctid}"),
    }
}

/// Runs something inside the container.
pub(super) fn inside(container: &ContainerEvidence, command: &str) -> String {
    let ctid = &container.ctid;
    match container.config.dialect() {
        Dialect::Proxmox => format!("pct exec {ctid} -- {command}"),
        Dialect::Lxc => format!("lxc-attach -n {ctid} -- {command}"),
    }
}

/// Takes a line out of the configuration, which no command of Proxmox VE can do.
pub(super) fn remove_line(container: &ContainerEvidence, number: usize) -> Remedy {
    let edit = format!("take line {number} out of {}", container.path);
    Remedy::Advice(match container.state {
        State::Stopped => edit,
        State::Running(_) | State::Unreachable(_) => {
            format!("{edit}, then `{}`", restart(container))
        }
    })
}

/// The GPUs that the journal tells, or that the configuration means to pass: by lines that work,
/// or by ones that LXC ignores; where it has none of these, by those of another section.
fn gpus(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Option<String> {
    if let Ok(Some(journal)) = &container.journal
        && !journal.gpus.is_empty()
    {
        return Some(journal.gpus.clone());
    }
    let mut minors = minors(&container.config);
    if minors.is_empty() {
        let dialect = container.config.dialect();
        let strays = lines::strays(&container.config).into_iter();
        let strays = strays.map(|stray| LxcConfig::parse(stray.text.as_bytes(), dialect));
        minors = strays.flat_map(|line| self::minors(&line)).collect();
    }
    let index = |minor| host.gpus.iter().find(|gpu| gpu.minor == minor).map(|gpu| gpu.index);
    let mut indices: Vec<u32> = minors.into_iter().filter_map(index).collect();
    indices.sort_unstable();
    indices.dedup();
    let indices: Vec<String> = indices.iter().map(u32::to_string).collect();
    (!indices.is_empty()).then(|| indices.join(","))
}

fn minors(config: &LxcConfig) -> Vec<u32> {
    let passed = lines::passed(config).into_iter().filter_map(|node| node.gpu_minor());
    let ignored = lines::ignored_mounts(config).into_iter();
    passed.chain(ignored.filter_map(|mount| lines::gpu_minor(&mount.node))).collect()
}
