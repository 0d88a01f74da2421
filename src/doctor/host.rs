//! The checks of the host, with the containers on it that were looked at.

use std::collections::BTreeMap;

use super::configuration::attached;
use super::evidence::{Boot, ContainerEvidence, HostEvidence, Machine, ModuleFile};
use super::lines::{self, How, Passed};
use super::{CheckName, HostCheck, Judged, Problem, containers_named, listed, number};
use crate::container::config::Dialect;
use crate::ctid::Ctid;
use crate::gpu::{HostNode, PciGpu, Source, WrongMajor, wrong_major};
use crate::{remedy, shell};

/// In order, each with what it looks at.
pub(super) const CHECKS: &[(CheckName, &str, HostCheck)] = &[
    (CheckName::Unreadable, "/proc/driver/nvidia, /sys/bus/pci/devices, /dev", unreadable),
    (CheckName::KernelModule, "/proc/driver/nvidia/version", kernel_module),
    (CheckName::Nouveau, "/sys/bus/pci/devices", nouveau),
    (CheckName::GpuClaimedByVm, "/sys/bus/pci/devices, /etc/pve/qemu-server", claimed_by_vm),
    (CheckName::UvmMissing, "/dev/nvidia-uvm", uvm_missing),
    (CheckName::NodeNumber, "/dev, /proc/devices", node_number),
    (CheckName::NodeMode, "/dev", node_mode),
    (CheckName::BootOrder, "/etc/systemd/system, /etc/modules-load.d", boot_order),
];

fn unreadable(host: &HostEvidence<'_>, _: &[ContainerEvidence]) -> Judged {
    Ok(host.unread.iter().map(|unread| unread.problem("the host's own files")).collect())
}

fn kernel_module(host: &HostEvidence<'_>, containers: &[ContainerEvidence]) -> Judged {
    host.known(Source::Module)?;
    let using = needing(containers);
    if host.module.is_some() || using.is_empty() {
        return Ok(Vec::new());
    }
    let text = format!(
        "no kernel module of NVIDIA's is loaded, which {} {}",
        containers_named(&using),
        number(using.len(), "needs", "need"),
    );
    let problem = Problem::error("/proc/driver/nvidia/version", &text);
    Ok(vec![match host.module_file {
        ModuleFile::Absent => Problem::error(
            "/proc/driver/nvidia/version",
            text + ", and none is installed for the running kernel",
        )
        .advice("install NVIDIA's driver on the host, with the headers of this kernel"),
        ModuleFile::Installed | ModuleFile::Unknown => problem.remedy("modprobe nvidia"),
    }])
}

fn nouveau(host: &HostEvidence<'_>, containers: &[ContainerEvidence]) -> Judged {
    host.known(Source::Pci)?;
    if needing(containers).is_empty() {
        return Ok(Vec::new());
    }
    // One that a machine claims is taken from any driver when the machine starts.
    let is_held = |gpu: &&PciGpu| gpu.driver.as_deref() == Some("nouveau");
    let held = host.pci.iter().filter(is_held).filter(|gpu| gpu.claimed_by.is_empty());
    let problem = |gpu: &PciGpu| {
        let text = format!(
            "GPU {} is held by nouveau: NVIDIA's kernel module cannot drive it",
            gpu.address
        );
        let problem = match host.module {
            Some(_) => Problem::warning(&gpu.address, text),
            None => Problem::error(&gpu.address, text),
        };
        problem.advice(
            "write `blacklist nouveau` into /etc/modprobe.d/blacklist-nouveau.conf, \
             run `update-initramfs -u`, and start the host again",
        )
    };
    Ok(held.map(problem).collect())
}

fn claimed_by_vm(host: &HostEvidence<'_>, containers: &[ContainerEvidence]) -> Judged {
    host.known(Source::Pci)?;
    let mut problems = Vec::new();
    for gpu in host.pci {
        let users = users_of_gpu(host, containers, gpu);
        if users.is_empty() {
            continue;
        }
        let is_held = is_held(gpu);
        let claims = gpu.claimed_by.iter().map(|vmid| claim(host.machines, *vmid));
        let claims: Vec<(String, bool)> = claims.collect();
        if !is_held && claims.is_empty() {
            continue;
        }
        let named: Vec<String> = claims.iter().map(|(text, _)| text.clone()).collect();
        let whose = match (is_held, named.is_empty()) {
            (true, true) => "is bound to `vfio-pci`".to_owned(),
            (true, false) => format!("is bound to `vfio-pci` for {}", listed(&named)),
            (false, _) => format!("is claimed by {}", listed(&named)),
        };
        let have = number(users.len(), "has", "have");
        let also = containers_named(&users);
        let text = format!("GPU {} {whose}, and {also} {have} it too", gpu.address);
        let is_certain = is_held || claims.iter().any(|(_, takes_it)| *takes_it);
        let problem = match is_certain {
            true => Problem::error(&gpu.address, text),
            false => Problem::warning(&gpu.address, text),
        };
        let from = match gpu.claimed_by.first() {
            Some(vmid) => format!("the virtual machine (`qm config {vmid} | grep hostpci`)"),
            None => "the options of vfio-pci in /etc/modprobe.d".to_owned(),
        };
        let another = number(users.len(), "the container", "the containers");
        problems
            .push(problem.advice(format!("give {another} another GPU, or take it out of {from}")));
    }
    Ok(problems)
}

fn uvm_missing(host: &HostEvidence<'_>, containers: &[ContainerEvidence]) -> Judged {
    let path = "/dev/nvidia-uvm";
    let using = users(containers, |node| node.gpu_minor().is_some());
    let majors = host.known(Source::Nodes).and(host.loaded()).map(|_| host.majors)?;
    if using.is_empty() {
        return Ok(Vec::new());
    }
    let users = containers_named(&using);
    let text = match host.nodes.iter().find(|node| node.path == path) {
        None => format!("`{path}` is missing: CUDA does not work in {users}"),
        Some(node) if wrong_major(majors, path, node.number.0) == Some(WrongMajor::NoDriver) => {
            format!(
                "`{path}` leads nowhere, the module `nvidia-uvm` is not loaded: CUDA does not work in {users}"
            )
        }
        Some(_) => return Ok(Vec::new()),
    };
    Ok(vec![Problem::error(path, text).remedy(remedy::refresh())])
}

fn node_number(host: &HostEvidence<'_>, _: &[ContainerEvidence]) -> Judged {
    host.known(Source::Majors)?;
    host.known(Source::Nodes)?;
    if !host.majors.keys().any(|name| name.starts_with("nvidia")) {
        return Err("/proc/devices names no driver of NVIDIA's".to_owned());
    }
    // Nodes of one driver go out of date together.
    let mut stale: BTreeMap<(u64, u64), Vec<&HostNode>> = BTreeMap::new();
    for node in host.nodes {
        let has = node.number.0;
        // A driver that is not loaded is told of where somebody needs it.
        if let Some(WrongMajor::DriverHas(major)) = wrong_major(host.majors, &node.path, has) {
            stale.entry((has, major)).or_default().push(node);
        }
    }
    let problem = |((has, major), nodes): ((u64, u64), Vec<&HostNode>)| {
        let paths: Vec<String> = nodes.iter().map(|node| format!("`{}`", node.path)).collect();
        let have = number(nodes.len(), "has", "have");
        let their = number(nodes.len(), "its", "their");
        let text = format!("{} {have} major {has}, {their} driver now has {major}", listed(&paths));
        let first = nodes.first().map_or("/dev", |node| node.path.as_str());
        Problem::error(first, text).remedy(remedy::refresh())
    };
    Ok(stale.into_iter().map(problem).collect())
}

fn node_mode(host: &HostEvidence<'_>, containers: &[ContainerEvidence]) -> Judged {
    host.known(Source::Nodes)?;
    let mut problems = Vec::new();
    for node in host.nodes {
        let wanted = mode_for_all(host, node);
        if node.mode & wanted == wanted {
            continue;
        }
        let mounts = |container: &&ContainerEvidence| {
            lines::passed(&container.config)
                .iter()
                .any(|passed| passed.is_mounted() && passed.covers(&node.path))
        };
        let (unprivileged, privileged): (Vec<_>, Vec<_>) = containers
            .iter()
            .filter(mounts)
            .partition(|container| container.config.is_unprivileged());
        let mode = format!("`{}` has mode {:04o}", node.path, node.mode & 0o7777);
        let problem = if !unprivileged.is_empty() {
            let whose = containers_named(&ctids(&unprivileged));
            let text = format!("{mode}: {whose} cannot open it");
            Problem::error(&node.path, text)
        } else if !privileged.is_empty() {
            let whose = containers_named(&ctids(&privileged));
            Problem::warning(&node.path, format!("{mode}: in {whose} only root can open it"))
        } else {
            continue;
        };
        let letters = if wanted & 0o2 == 0 { "a+r" } else { "a+rw" };
        problems.push(problem.remedy(shell::line(["chmod", letters, &node.path])));
    }
    Ok(problems)
}

fn boot_order(host: &HostEvidence<'_>, containers: &[ContainerEvidence]) -> Judged {
    let is_uvm = |node: &Passed| node.path.starts_with("/dev/nvidia-uvm");
    let (needing, using): (Vec<Ctid>, Vec<Ctid>) = {
        let needing = users(containers, |node| is_uvm(node) && node.how != How::OptionalMount);
        users(containers, is_uvm).into_iter().partition(|ctid| needing.contains(ctid))
    };
    let is_proxmox = |container: &ContainerEvidence| container.config.dialect() == Dialect::Proxmox;
    let guests = match containers.iter().any(is_proxmox) {
        true => "pve-guests.service",
        false => "lxc.service",
    };
    if host.boot.makes_uvm_before(guests) {
        return Ok(Vec::new());
    }
    let path = host.boot.refresh_path.as_str();
    let text = |containers: &[Ctid], then: &str| {
        let starts = number(containers.len(), "starts", "start");
        let containers = containers_named(containers);
        format!(
            "nothing makes `/dev/nvidia-uvm` before {containers} {starts} with the host: {then}"
        )
    };
    let mut problems = Vec::new();
    if !needing.is_empty() {
        let text = text(&needing, "without the node that fails");
        problems.push(Problem::error(path, text).remedy(remedy::host_setup()));
    }
    if !using.is_empty() {
        let text = text(&using, "CUDA would not work then");
        problems.push(Problem::warning(path, text).remedy(remedy::host_setup()));
    }
    Ok(problems)
}

impl Boot {
    /// Whether the node is there when this unit starts guests.
    fn makes_uvm_before(&self, guests: &str) -> bool {
        let is_before = |text: &&String| {
            let befores = active(text).filter_map(|line| line.strip_prefix("Before="));
            befores.flat_map(str::split_whitespace).any(|unit| unit == guests)
        };
        let names = |line: &str, names: &[&str]| names.iter().any(|name| line.contains(name));
        let has_unit = self.units.iter().filter(is_before).any(|text| {
            active(text).any(|line| names(line, &["nvidia-modprobe", "nvidia-uvm", "nvidia_uvm"]))
        });
        let mut loaded = self.modules_load.iter().flat_map(|text| active(text));
        let is_loaded = loaded.any(|line| matches!(line, "nvidia-uvm" | "nvidia_uvm"));
        let rules: Vec<&str> = self.udev_rules.iter().flat_map(|text| active(text)).collect();
        // `KERNEL=="nvidia_uvm"` waits for a module that something else loads.
        let has_rule = rules.iter().any(|line| line.contains("nvidia-uvm") || makes_uvm(line));
        let has_rule_for_loaded = rules.iter().any(|line| line.contains("nvidia_uvm"));
        (self.is_enabled && self.refresh_unit.as_ref().is_some_and(|text| is_before(&text)))
            || has_unit
            || has_rule
            || (is_loaded && has_rule_for_loaded)
    }
}

/// The lines of a file of settings that are no comments.
fn active(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']))
}

/// Whether a command runs `nvidia-modprobe` with the option that makes the nodes of `nvidia-uvm`.
fn makes_uvm(command: &str) -> bool {
    let is_separator = |c: char| c.is_whitespace() || "\"';&|,".contains(c);
    let is_option = |word: &str| {
        word == "--unified-memory"
            || word
                .strip_prefix('-')
                .is_some_and(|rest| !rest.starts_with('-') && rest.contains('u'))
    };
    let mut runs = command.split("nvidia-modprobe").skip(1);
    runs.any(|arguments| arguments.split(is_separator).any(is_option))
}

/// The containers that need NVIDIA's driver: they are given devices, or nvstage gave them.
fn needing(containers: &[ContainerEvidence]) -> Vec<Ctid> {
    let needs = |container: &&ContainerEvidence| {
        attached(container).is_some() || !lines::passed(&container.config).is_empty()
    };
    ctids(&containers.iter().filter(needs).collect::<Vec<_>>())
}

/// The containers that pass such a node.
fn users(containers: &[ContainerEvidence], wanted: impl Fn(&Passed) -> bool) -> Vec<Ctid> {
    let passes =
        |container: &&ContainerEvidence| lines::passed(&container.config).iter().any(&wanted);
    ctids(&containers.iter().filter(passes).collect::<Vec<_>>())
}

fn ctids(containers: &[&ContainerEvidence]) -> Vec<Ctid> {
    containers.iter().map(|container| container.ctid.clone()).collect()
}

/// Whether the node with this minor is of the one GPU that virtual machines hold: the module has
/// no such node. Where they hold several, which one it is cannot be told.
pub(super) fn is_node_of_held_gpu(host: &HostEvidence<'_>, minor: u32) -> bool {
    let held = host.pci.iter().filter(|gpu| is_held(gpu)).count();
    let is_known = host.module.is_some() && host.known(Source::Gpus).is_ok();
    held == 1 && is_known && !host.gpus.iter().any(|gpu| gpu.minor == minor)
}

fn is_held(gpu: &PciGpu) -> bool {
    gpu.driver.as_deref() == Some("vfio-pci")
}

/// The containers that are given this GPU: by the node that the module has for it, or, where
/// another driver holds it, by its address in the journal.
fn users_of_gpu(
    host: &HostEvidence<'_>,
    containers: &[ContainerEvidence],
    gpu: &PciGpu,
) -> Vec<Ctid> {
    let same = |address: &str| address.eq_ignore_ascii_case(&gpu.address);
    let driven = host.gpus.iter().find(|driven| same(&driven.pci_address));
    let is_given = |container: &&ContainerEvidence| {
        let passed = lines::passed(&container.config);
        let mut minors = passed.iter().filter_map(Passed::gpu_minor);
        let by_node = match driven {
            Some(driven) => minors.any(|minor| minor == driven.minor),
            None => is_held(gpu) && minors.any(|minor| is_node_of_held_gpu(host, minor)),
        };
        let by_name = match &container.journal {
            Ok(Some(journal)) if !passed.is_empty() => {
                journal.gpus.split(',').any(|name| same(name.trim()))
            }
            _ => false,
        };
        by_node || by_name
    };
    ctids(&containers.iter().filter(is_given).collect::<Vec<_>>())
}

/// How a machine claims a GPU, and whether it surely takes it away.
fn claim(machines: &[Machine], vmid: u32) -> (String, bool) {
    let machine = machines.iter().find(|machine| machine.vmid == vmid);
    match machine {
        Some(machine) if machine.is_running => (format!("VM {vmid}, which runs"), true),
        Some(machine) if machine.starts_on_boot => {
            (format!("VM {vmid}, which starts with the host"), true)
        }
        _ => (format!("VM {vmid}"), false),
    }
}

/// The bits that others need: of a capability those that the module offers, which are fewer.
fn mode_for_all(host: &HostEvidence<'_>, node: &HostNode) -> u32 {
    let Some(capability) = node.path.strip_prefix("/dev/nvidia-caps/nvidia-cap") else {
        return if node.path.starts_with("/dev/nvidia") { 0o6 } else { 0 };
    };
    let minor = capability.parse::<u32>().ok();
    let offered = host.capabilities.iter().find(|offered| Some(offered.minor) == minor);
    offered.map_or(0, |offered| offered.mode & 0o6)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CONFIG, Sample, container, healthy_host, host_of, node, pci};
    use super::*;
    use crate::doctor::Severity;
    use crate::gpu::Capability;
    use crate::journal::{Journal, State};

    fn found(check: HostCheck, host: &Sample, text: &str) -> Vec<Problem> {
        check(&host_of(host), &[container(text)]).unwrap()
    }

    #[test]
    fn a_module_that_is_not_loaded_matters_where_something_wants_it() {
        let mut host = healthy_host();
        assert_eq!(found(kernel_module, &host, CONFIG), []);
        host.module = None;
        let problems = found(kernel_module, &host, CONFIG);
        assert_eq!(problems[0].severity, Severity::Error);
        assert!(problems[0].finding.contains("container 201 needs"), "{problems:?}");
        assert_eq!(problems[0].remedy.as_deref(), Some("modprobe nvidia"));
        host.module_file = ModuleFile::Absent;
        let problems = found(kernel_module, &host, CONFIG);
        assert!(problems[0].remedy.as_deref().unwrap().contains("install"), "{problems:?}");
        let mut attached = container("arch: amd64\n");
        let mut journal = Journal::new(&attached.ctid);
        journal.state = State::Attached;
        attached.journal = Ok(Some(journal));
        assert_eq!(kernel_module(&host_of(&host), &[attached]).unwrap().len(), 1);
    }

    #[test]
    fn gpus_that_no_container_is_to_have_may_be_without_a_driver_or_with_nouveau() {
        let mut host = healthy_host();
        host.module = None;
        host.pci[0].driver = None;
        host.pci[1].driver = Some("nouveau".to_owned());
        for check in [kernel_module as HostCheck, nouveau] {
            assert_eq!(found(check, &host, "arch: amd64\n"), []);
            assert_eq!(found(check, &host, CONFIG).len(), 1);
        }
        host.pci[1].claimed_by = vec![100];
        assert_eq!(found(nouveau, &host, CONFIG), []);
    }

    #[test]
    fn a_gpu_held_by_nouveau_is_found() {
        let mut host = healthy_host();
        assert_eq!(found(nouveau, &host, CONFIG), []);
        host.pci[1].driver = Some("nouveau".to_owned());
        assert_eq!(found(nouveau, &host, CONFIG)[0].severity, Severity::Warning);
        host.module = None;
        assert_eq!(found(nouveau, &host, CONFIG)[0].severity, Severity::Error);
    }

    #[test]
    fn a_gpu_is_not_a_containers_and_a_machines() {
        let mut host = healthy_host();
        // The other GPU is a machine's alone.
        host.pci[1] = PciGpu { claimed_by: vec![100], ..pci("0000:81:00.0", "vfio-pci") };
        host.gpus.truncate(1);
        assert_eq!(found(claimed_by_vm, &host, CONFIG), []);
        host.pci[0].claimed_by = vec![101];
        let problems = found(claimed_by_vm, &host, CONFIG);
        assert_eq!(problems[0].severity, Severity::Warning);
        assert!(
            problems[0].finding.contains("claimed by VM 101, and container 201"),
            "{problems:?}"
        );
        host.machines.push(Machine { vmid: 101, starts_on_boot: true, is_running: false });
        assert_eq!(found(claimed_by_vm, &host, CONFIG)[0].severity, Severity::Error);
    }

    #[test]
    fn a_node_without_a_gpu_is_that_of_the_one_that_vfio_holds() {
        let mut host = healthy_host();
        host.pci[1] = PciGpu { claimed_by: vec![100], ..pci("0000:81:00.0", "vfio-pci") };
        host.gpus.truncate(1);
        let both = CONFIG.replace("nvidia0", "nvidia1");
        let problems = found(claimed_by_vm, &host, &both);
        assert!(problems[0].finding.contains("0000:81:00.0 is bound to `vfio-pci` for VM 100"));
        // Several are held: only a name tells which one.
        host.pci.push(pci("0000:c1:00.0", "vfio-pci"));
        assert_eq!(found(claimed_by_vm, &host, &both), []);
        let mut named = container(&both);
        let mut journal = Journal::new(&named.ctid);
        journal.gpus = "0000:C1:00.0".to_owned();
        named.journal = Ok(Some(journal));
        let problems = claimed_by_vm(&host_of(&host), &[named]).unwrap();
        assert_eq!(problems[0].looked_at, "0000:c1:00.0");
    }

    #[test]
    fn a_missing_uvm_node_matters_to_containers_with_gpus() {
        let mut host = healthy_host();
        assert_eq!(found(uvm_missing, &host, CONFIG), []);
        host.nodes.retain(|node| node.path != "/dev/nvidia-uvm");
        assert_eq!(found(uvm_missing, &host, CONFIG)[0].looked_at, "/dev/nvidia-uvm");
        assert_eq!(found(uvm_missing, &host, "arch: amd64\n"), []);
        host.module = None;
        assert!(uvm_missing(&host_of(&host), &[]).is_err());
    }

    #[test]
    fn a_uvm_node_without_its_module_leads_nowhere() {
        let mut host = healthy_host();
        host.majors.remove("nvidia-uvm");
        let problems = found(uvm_missing, &host, CONFIG);
        assert!(problems[0].finding.contains("leads nowhere"), "{problems:?}");
        assert_eq!(found(uvm_missing, &host, "arch: amd64\n"), []);
        assert_eq!(found(node_number, &host, CONFIG), []);
        // Nothing of NVIDIA's: nobody knows what the node leads to.
        host.majors.retain(|name, _| !name.starts_with("nvidia"));
        assert_eq!(found(uvm_missing, &host, CONFIG), []);
    }

    #[test]
    fn a_node_with_the_number_of_an_earlier_boot_is_found() {
        let mut host = healthy_host();
        assert_eq!(found(node_number, &host, CONFIG), []);
        host.majors.insert("nvidia-uvm".to_owned(), 508);
        let problems = found(node_number, &host, CONFIG);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].finding.contains("major 511, its driver now has 508"), "{problems:?}");
        host.nodes.push(node("/dev/nvidia-uvm-tools", (511, 1), 0o666));
        host.nodes[0].number = (196, 0);
        let problems = found(node_number, &host, CONFIG);
        assert_eq!(problems.len(), 2, "nodes of one driver are told together");
        assert!(problems[1].finding.contains("have major 511, their driver now has 508"));
        host.majors.clear();
        assert!(node_number(&host_of(&host), &[]).is_err());
    }

    #[test]
    fn only_nodes_that_a_container_mounts_must_be_open_to_all() {
        let mut host = healthy_host();
        let unprivileged = format!("{CONFIG}unprivileged: 1\n");
        assert_eq!(found(node_mode, &host, &unprivileged), []);
        host.nodes.push(node("/dev/nvidia1", (195, 1), 0o660));
        assert_eq!(found(node_mode, &host, &unprivileged), []);
        host.nodes[0].mode = 0o660;
        let problems = found(node_mode, &host, &unprivileged);
        assert_eq!((problems.len(), problems[0].severity), (1, Severity::Error));
        assert_eq!(problems[0].remedy.as_deref(), Some("chmod a+rw /dev/nvidia0"));
        assert_eq!(found(node_mode, &host, CONFIG)[0].severity, Severity::Warning);
        assert_eq!(found(node_mode, &host, "unprivileged: 1\ndev0: /dev/nvidia0\n"), []);
    }

    #[test]
    fn a_capability_needs_the_mode_that_the_module_gives_it() {
        let mut host = healthy_host();
        let name = "gpu0/mig/gi1/access".to_owned();
        host.capabilities.push(Capability { name, minor: 12, mode: 0o444 });
        host.nodes.push(node("/dev/nvidia-caps/nvidia-cap12", (236, 12), 0o444));
        host.nodes.push(node("/dev/nvidia-caps/nvidia-cap1", (236, 1), 0o400));
        let unprivileged = format!("{CONFIG}unprivileged: 1\n");
        assert_eq!(found(node_mode, &host, &unprivileged), []);
        host.nodes.iter_mut().for_each(|node| node.mode &= 0o770);
        let remedies = found(node_mode, &host, &unprivileged);
        let cap = remedies.iter().find(|one| one.looked_at.contains("cap12")).unwrap();
        assert_eq!(cap.remedy.as_deref(), Some("chmod a+r /dev/nvidia-caps/nvidia-cap12"));
        assert!(!remedies.iter().any(|one| one.looked_at.ends_with("cap1")));
    }

    #[test]
    fn something_must_make_the_uvm_node_before_guests_start() {
        let mut host = healthy_host();
        assert_eq!(found(boot_order, &host, CONFIG), []);
        host.boot.is_enabled = false;
        assert_eq!(found(boot_order, &host, CONFIG).len(), 1);
        host.boot = Boot { is_enabled: true, ..Boot::default() };
        host.boot.refresh_unit = Some("[Unit]\nBefore=multi-user.target\n".to_owned());
        assert_eq!(found(boot_order, &host, CONFIG).len(), 1);
        assert_eq!(found(boot_order, &host, "arch: amd64\n"), []);
    }

    /// Whether these files make the node in time.
    fn is_made(units: &[&str], modules: &[&str], rules: &[&str]) -> bool {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let mut host = healthy_host();
        host.boot = Boot {
            units: texts(units),
            modules_load: texts(modules),
            udev_rules: texts(rules),
            ..Boot::default()
        };
        found(boot_order, &host, CONFIG).is_empty()
    }

    #[test]
    fn any_unit_before_the_guests_may_make_the_uvm_node() {
        let unit = "[Unit]\nBefore=x.service pve-guests.service\n[Service]\nExecStart=/usr/bin/nvidia-modprobe -u -c=0\n";
        assert!(is_made(&[unit], &[], &[]));
        assert!(is_made(
            &[&unit.replace("bin/nvidia-modprobe", "sbin/modprobe nvidia-uvm")],
            &[],
            &[]
        ));
        assert!(!is_made(&[&unit.replace("Before", "After")], &[], &[]));
        assert!(!is_made(&[&unit.replace("Before", "#Before")], &[], &[]));
        assert!(!is_made(&[&unit.replace("nvidia-modprobe", "true")], &[], &[]));
        // Ordered in one unit, made in another: that one may come later.
        let [ordered, making] =
            [unit.replace("nvidia-modprobe", "true"), unit.replace("Before", "After")];
        assert!(!is_made(&[&ordered, &making], &[], &[]));
    }

    #[test]
    fn udev_may_make_the_uvm_node() {
        for rule in [
            "KERNEL==\"nvidia\", RUN+=\"/usr/bin/nvidia-modprobe -c0 -u\"",
            "KERNEL==\"nvidia\", RUN+=\"/bin/sh -c 'nvidia-modprobe -cu'\"",
            "KERNEL==\"nvidia\", RUN+=\"nvidia-modprobe --unified-memory\"",
            "ACTION==\"add\", DEVPATH==\"/bus/pci/drivers/nvidia\", RUN+=\"/sbin/modprobe nvidia-uvm\"",
        ] {
            assert!(is_made(&[], &[], &[rule]), "{rule}");
            assert!(!is_made(&[], &[], &[&format!("# {rule}")]), "{rule}");
        }
        assert!(!is_made(
            &[],
            &[],
            &["KERNEL==\"nvidia\", RUN+=\"nvidia-modprobe -c0 --modeset\""]
        ));
        let waiting = "KERNEL==\"nvidia_uvm\", RUN+=\"x\"\n";
        assert!(!is_made(&[], &[], &[waiting]));
        assert!(!is_made(&[], &["nvidia-uvm"], &[]));
        assert!(is_made(&[], &["# modules\nnvidia-uvm\n"], &[waiting]));
    }
}
