//! Commands that put things right, as the container's runtime has them.

use super::evidence::{ContainerEvidence, HostEvidence};
use super::lines;
use crate::container::config::Dialect;

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
pub(super) fn remove_line(container: &ContainerEvidence, number: usize) -> String {
    format!("take line {number} out of {}, then `{}`", container.path, restart(container))
}

/// The GPUs that the journal tells, or that the configuration passes.
fn gpus(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Option<String> {
    if let Ok(Some(journal)) = &container.journal
        && !journal.gpus.is_empty()
    {
        return Some(journal.gpus.clone());
    }
    let minors = lines::passed(&container.config);
    let minors = minors.iter().filter_map(lines::Passed::gpu_minor);
    let index = |minor| host.gpus.iter().find(|gpu| gpu.minor == minor).map(|gpu| gpu.index);
    let mut indices: Vec<u32> = minors.filter_map(index).collect();
    indices.sort_unstable();
    indices.dedup();
    let indices: Vec<String> = indices.iter().map(u32::to_string).collect();
    (!indices.is_empty()).then(|| indices.join(","))
}
