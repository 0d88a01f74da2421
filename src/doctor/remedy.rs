//! Commands that put things right, as the container's runtime has them.

use super::devices;
use super::evidence::{ContainerEvidence, HostEvidence};
use super::lines;
use super::{Remedy, State};
use crate::container::config::{Dialect, LxcConfig};
use crate::gpu::Source;
use crate::recipe::Userland;
use crate::{remedy, shell};

/// Provisions the container again, with what it was given before; one that nvstage has not worked on
/// with the GPUs that its configuration means to pass.
pub(super) fn provision(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Remedy {
    let ctid = &container.ctid;
    let journal = container.journal.as_ref().ok().and_then(Option::as_ref);
    if journal.is_some_and(|journal| !journal.gpus.is_empty()) {
        return remedy::provision(ctid).into();
    }
    match gpus(host, container).as_slice() {
        // Which ones is for somebody to choose.
        [] => Remedy::Advice(format!(
            "`{}` for every GPU of this host, `{}` for GPU 0 alone",
            remedy::provision_first(ctid, "all"),
            remedy::provision_first(ctid, "0")
        )),
        gpus => remedy::provision_first(ctid, &gpus.join(",")).into(),
    }
}

/// Brings the container to the version of the kernel module: one that shares the host's driver is
/// not installed into.
pub(super) fn follow(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Remedy {
    let journal = container.journal.as_ref().ok().and_then(Option::as_ref);
    match journal.map(|journal| journal.userland) {
        Some(Userland::Share) => remedy::sync(&container.ctid).into(),
        _ => provision(host, container),
    }
}

/// A text, then the command in backticks; a choice of commands as it is.
pub(super) fn then(text: &str, remedy: &Remedy) -> Remedy {
    Remedy::Advice(match remedy {
        Remedy::Command(command) => format!("{text}, then `{command}`"),
        Remedy::Advice(advice) => format!("{text}, then {advice}"),
    })
}

/// Stops and starts the container.
pub(super) fn restart(container: &ContainerEvidence) -> String {
    remedy::restart(container.config.dialect(), &container.ctid)
}

/// Runs something inside the container.
pub(super) fn inside(container: &ContainerEvidence, command: &[&str]) -> String {
    let ctid = container.ctid.as_str();
    let start: &[&str] = match container.config.dialect() {
        Dialect::Proxmox => &["pct", "exec", ctid, "--"],
        Dialect::Lxc => &["lxc-attach", "-n", ctid, "--"],
    };
    shell::line(start.iter().chain(command))
}

/// Takes a line out of the configuration, which no command of Proxmox VE can do.
pub(super) fn remove_line(container: &ContainerEvidence, number: usize) -> Remedy {
    edit(container, &format!("take line {number} out of"))
}

/// Edits the configuration by hand: what is to be done, without the path at its end.
pub(super) fn edit(container: &ContainerEvidence, what: &str) -> Remedy {
    let edit = format!("{what} {}", container.path);
    Remedy::Advice(match container.state {
        State::Stopped => edit,
        State::Running(_) | State::Unreachable(_) => {
            format!("{edit}, then `{}`", restart(container))
        }
    })
}

/// The GPUs that the configuration means to pass: by lines that work, or by ones that LXC ignores;
/// where it has none of these, by those of another section.
fn gpus(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Vec<String> {
    let mut minors = minors(&container.config);
    minors.extend(devices::named_minors(host, container));
    if minors.is_empty() {
        let dialect = container.config.dialect();
        let strays = lines::strays(&container.config).into_iter();
        let strays = strays.map(|stray| LxcConfig::parse(stray.text.as_bytes(), dialect));
        minors = strays.flat_map(|line| self::minors(&line)).collect();
    }
    let mut gpus = Vec::new();
    for gpu in host.gpus.iter().filter(|gpu| minors.contains(&gpu.minor)) {
        // While a GPU does not answer, others have another index.
        gpus.push(match host.known(Source::Gpus) {
            Ok(()) => gpu.index.to_string(),
            Err(_) => gpu.pci_address.clone(),
        });
    }
    gpus
}

fn minors(config: &LxcConfig) -> Vec<u32> {
    let passed = lines::passed(config).into_iter().filter_map(|node| node.gpu_minor());
    let ignored = lines::ignored_mounts(config).into_iter();
    passed.chain(ignored.filter_map(|mount| lines::gpu_minor(&mount.node))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CONFIG, container, healthy_host, host_of};
    use super::*;
    use crate::journal::Journal;

    #[test]
    fn a_container_is_provisioned_again_with_what_it_was_given() {
        let sample = healthy_host();
        let host = host_of(&sample);
        let mut container = container(CONFIG);
        let first = "nvstage provision 201 --gpus 0 --recipe driver-only";
        assert_eq!(&*provision(&host, &container), first);
        let mut journal = Journal::new(&container.ctid);
        container.journal = Ok(Some(journal.clone()));
        assert_eq!(&*provision(&host, &container), first);
        journal.gpus = "1".to_owned();
        container.journal = Ok(Some(journal));
        assert_eq!(&*provision(&host, &container), "nvstage provision 201");
    }

    #[test]
    fn gpus_are_told_by_any_line_and_by_address_while_one_does_not_answer() {
        let (mut sample, given) = (healthy_host(), CONFIG.replace("nvidia0", "nvidia1"));
        let remedy = |sample: &_, text: &str| provision(&host_of(sample), &container(text));
        let stray = format!("arch: amd64\n[before]\n{given}");
        assert!(remedy(&sample, &stray).contains("--gpus 1 "));
        let choice = remedy(&sample, "arch: amd64\n");
        assert!(matches!(choice, Remedy::Advice(_)), "{choice:?}");
        assert!(choice.contains("--gpus all ") && choice.contains("--gpus 0 "), "{choice:?}");
        sample.unread.push(super::super::samples::silent_gpu());
        assert!(remedy(&sample, &given).contains("--gpus 0000:81:00.0 "));
    }

    #[test]
    fn what_is_run_inside_is_quoted_for_the_hosts_shell() {
        let command = inside(&container(CONFIG), &["sh", "-c", "rm 'a b' && ldconfig"]);
        assert_eq!(command, r"pct exec 201 -- sh -c 'rm '\''a b'\'' && ldconfig'");
    }
}
