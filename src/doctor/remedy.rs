//! Commands that put things right, as the container's runtime has them.

use super::evidence::{ContainerEvidence, HostEvidence};
use super::lines;
use super::{Remedy, State};
use crate::container::config::{Dialect, LxcConfig};
use crate::gpu::Source;
use crate::recipe::Userland;
use crate::{recipe, shell};

/// Provisions the container again, with what it was given before.
pub(super) fn provision(host: &HostEvidence<'_>, container: &ContainerEvidence) -> String {
    let gpus = gpus(host, container);
    let mut words = vec!["nvstage", "provision", container.ctid.as_str(), "--gpus", &gpus];
    if let Ok(Some(journal)) = &container.journal {
        let named = [
            ("--recipe", journal.recipe.as_str(), recipe::DEFAULT),
            ("--profile", journal.profile.as_str(), recipe::FULL),
        ];
        for (option, value, default) in named {
            if !value.is_empty() && value != default {
                words.extend([option, value]);
            }
        }
    }
    shell::line(words)
}

/// Brings the container to the version of the kernel module: one that shares the host's driver is
/// not installed into.
pub(super) fn follow(host: &HostEvidence<'_>, container: &ContainerEvidence) -> String {
    let journal = container.journal.as_ref().ok().and_then(Option::as_ref);
    match journal.map(|journal| journal.userland) {
        Some(Userland::Share) => shell::line(["nvstage", "sync", container.ctid.as_str()]),
        _ => provision(host, container),
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
fn gpus(host: &HostEvidence<'_>, container: &ContainerEvidence) -> String {
    if let Ok(Some(journal)) = &container.journal
        && !journal.gpus.is_empty()
    {
        return journal.gpus.clone();
    }
    let mut minors = minors(&container.config);
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
    if gpus.is_empty() { "all".to_owned() } else { gpus.join(",") }
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
        assert_eq!(provision(&host, &container), "nvstage provision 201 --gpus 0");
        let mut journal = Journal::new(&container.ctid);
        journal.gpus = "1".to_owned();
        (journal.recipe, journal.profile) = ("cuda-12-8".to_owned(), "full".to_owned());
        container.journal = Ok(Some(journal.clone()));
        assert_eq!(provision(&host, &container), "nvstage provision 201 --gpus 1");
        journal.recipe = "/root/my recipes/own.toml".to_owned();
        journal.profile = "build".to_owned();
        container.journal = Ok(Some(journal));
        assert_eq!(
            provision(&host, &container),
            "nvstage provision 201 --gpus 1 --recipe '/root/my recipes/own.toml' --profile build"
        );
    }

    #[test]
    fn gpus_are_told_by_any_line_and_by_address_while_one_does_not_answer() {
        let (mut sample, given) = (healthy_host(), CONFIG.replace("nvidia0", "nvidia1"));
        let remedy = |sample: &_, text: &str| provision(&host_of(sample), &container(text));
        let stray = format!("arch: amd64\n[before]\n{given}");
        assert!(remedy(&sample, &stray).ends_with("--gpus 1"));
        assert!(remedy(&sample, "arch: amd64\n").ends_with("--gpus all"));
        sample.unread.push(super::super::samples::silent_gpu());
        assert!(remedy(&sample, &given).ends_with("--gpus 0000:81:00.0"));
    }

    #[test]
    fn what_is_run_inside_is_quoted_for_the_hosts_shell() {
        let command = inside(&container(CONFIG), &["sh", "-c", "rm 'a b' && ldconfig"]);
        assert_eq!(command, r"pct exec 201 -- sh -c 'rm '\''a b'\'' && ldconfig'");
    }
}
