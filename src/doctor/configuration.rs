//! The checks of a container's configuration file, running or not.

use super::devices;
use super::evidence::State as Reached;
use super::evidence::{ContainerEvidence, HostEvidence};
use super::host::is_node_of_held_gpu;
use super::lines::{self, How, IgnoredMount, MadeDevice};
use super::remedy;
use super::{CheckName, ContainerCheck, Judged, Problem, Remedy, listed, number, with_more};
use crate::container::rules::{self, RuleEffect, RuleLine};
use crate::gpu::Source;
use crate::journal::{Journal, State};
use crate::shell;

/// In order.
pub(super) const CHECKS: &[(CheckName, ContainerCheck)] = &[
    (CheckName::Unreadable, unreadable),
    (CheckName::StaleMajor, stale_major),
    (CheckName::WrongSection, wrong_section),
    (CheckName::AbsoluteTarget, absolute_target),
    (CheckName::DevicesAllowAll, devices_allow_all),
    (CheckName::Capabilities, capabilities),
    (CheckName::Apparmor, apparmor),
    (CheckName::ConfigDrift, config_drift),
    (CheckName::MissingDevice, missing_device),
    (CheckName::NodeModeInside, node_mode_inside),
    (CheckName::IgnoredLine, devices::ignored_line),
    (CheckName::MisspelledNode, devices::misspelled_node),
    (CheckName::IncompleteDevices, devices::incomplete_devices),
    (CheckName::ForbiddenDevice, devices::forbidden_device),
    (CheckName::CgroupVersion, devices::cgroup_version),
    (CheckName::PendingLines, devices::pending_lines),
];

fn unreadable(_: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let problem = match (&container.unread, &container.state) {
        (Some(unread), _) => unread.problem(&container.path),
        (None, Reached::Unreachable(why)) => Problem::error(&container.path, why),
        (None, Reached::Stopped | Reached::Running(_)) => return Ok(Vec::new()),
    };
    Ok(vec![problem])
}

pub(super) fn stale_major(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    host.known(Source::Majors)?;
    if host.majors.is_empty() {
        return Err("the majors in /proc/devices are not known".to_owned());
    }
    host.loaded()?;
    let rules = lines::rules(&container.config, host);
    let majors = host.majors.values().copied().collect();
    let Some(stale) = rules.lines().iter().find(|line| line.rule.is_outdated(&majors)) else {
        return Ok(Vec::new());
    };
    let passed = lines::passed(&container.config);
    let mounted = passed.iter().filter(|node| node.is_mounted());
    let nodes =
        mounted.flat_map(|passed| host.nodes.iter().filter(move |node| passed.covers(&node.path)));
    // A fixed major cannot be out of date.
    let mut needed =
        nodes.filter(|node| rules::is_dynamic(node.number.0) && !administers(host, &node.path));
    let Some(forbidden) = needed.find(|node| !rules.opens(node.number)) else {
        return Ok(Vec::new());
    };
    let (major, minor) = forbidden.number;
    let text = format!(
        "`{}` is {major}:{minor} and no rule allows it; `{}` allows a major that no driver has now",
        forbidden.path, stale.text
    );
    let remedy = match attached(container) {
        Some(_) => crate::remedy::refresh().into(),
        None => remedy::provision(host, container),
    };
    Ok(vec![Problem::error(at(container, stale.number), text).remedy(remedy)])
}

/// Whether a node is that of a capability to administer MIG, which no container needs.
fn administers(host: &HostEvidence<'_>, path: &str) -> bool {
    let mut capabilities = host.capabilities.iter();
    let own = capabilities.find(|capability| capability.node() == path);
    own.map_or_else(
        // The numbers that the module gives them (`nv-caps.c`).
        || matches!(path, "/dev/nvidia-caps/nvidia-cap1" | "/dev/nvidia-caps/nvidia-cap2"),
        |capability| matches!(&*capability.name, "mig/config" | "mig/monitor"),
    )
}

fn wrong_section(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let is_detached =
        matches!(&container.journal, Ok(Some(journal)) if journal.state == State::Detached);
    let config = &container.config;
    let has_own = !lines::passed(config).is_empty() || !lines::ignored_mounts(config).is_empty();
    let mut strays = lines::strays(config);
    strays.retain(|stray| stray.is_misplaced);
    let Some(stray) = strays.first().filter(|_| !has_own && !is_detached) else {
        return Ok(Vec::new());
    };
    let section = &stray.section;
    let text = format!(
        "{} {} in section `{section}`, where {} no effect",
        with_more(&stray.text, strays.len()),
        number(strays.len(), "stands", "stand"),
        number(strays.len(), "it has", "they have"),
    );
    let looked_at = format!("{}, {section}", container.path);
    // Without a journal nobody knows whether the container should have GPUs at all.
    let problem = match attached(container) {
        Some(_) => Problem::error(looked_at, text),
        None => Problem::warning(looked_at, text),
    };
    Ok(vec![problem.remedy(remedy::provision(host, container))])
}

fn absolute_target(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let passed = lines::passed(&container.config);
    let ignored = lines::ignored_mounts(&container.config);
    let is_alone = |mount: &&IgnoredMount| !passed.iter().any(|node| node.covers(&mount.node));
    let alone: Vec<&IgnoredMount> = ignored.iter().filter(is_alone).collect();
    let Some(first) = alone.first() else { return Ok(Vec::new()) };
    let text = format!(
        "{} {}, which LXC ignores",
        with_more(&first.text, alone.len()),
        number(alone.len(), "has an absolute target", "have absolute targets"),
    );
    let problem = Problem::error(at(container, first.number), text);
    Ok(vec![problem.remedy(remedy::provision(host, container))])
}

fn devices_allow_all(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let rules = lines::rules(&container.config, host);
    let is_in_force = |line: &&RuleLine| match line.effect {
        RuleEffect::Empties => line.number == rules.last_emptied(),
        effect => effect == RuleEffect::InForce,
    };
    let mut giving = rules.lines().iter().rev().filter(|line| line.rule.allows_all());
    let Some(rule) = giving.find(is_in_force).filter(|_| container.passes()) else {
        return Ok(Vec::new());
    };
    let effect = match container.config.is_unprivileged() {
        true => "in an unprivileged container it has no effect",
        false => "the container may open every device of the host",
    };
    let problem =
        Problem::warning(at(container, rule.number), format!("`{}`: {effect}", rule.text));
    let remedy = match needs_rules(host, container) {
        true => {
            let edit = format!("take line {} out of {}", rule.number, container.path);
            remedy::then(&edit, &remedy::provision(host, container))
        }
        false => remedy::remove_line(container, rule.number),
    };
    Ok(vec![problem.remedy(remedy)])
}

/// Whether the container opens a node of its GPUs by a rule that allows everything.
fn needs_rules(host: &HostEvidence<'_>, container: &ContainerEvidence) -> bool {
    let mut without = container.config.clone();
    for line in lines::rules(&container.config, host).lines() {
        if line.rule.allows_all() {
            without.remove_line(line.number);
        }
    }
    let rules = lines::rules(&without, host);
    let passed = lines::passed(&container.config);
    let is_mounted = |path: &str| passed.iter().any(|node| node.is_mounted() && node.covers(path));
    let mut mounted = host.nodes.iter().filter(|node| is_mounted(&node.path));
    mounted.any(|node| !rules.opens(node.number))
}

fn capabilities(_: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let emptied = lines::values(&container.config, "lxc.cap.drop");
    let emptied = emptied.iter().filter(|(_, value)| value.is_empty() && container.passes());
    let problem = |(number, _): &(usize, String)| {
        let text = "an empty `lxc.cap.drop` gives the container capabilities that no GPU needs";
        Problem::warning(at(container, *number), text)
            .remedy(remedy::remove_line(container, *number))
    };
    Ok(emptied.map(problem).collect())
}

fn apparmor(_: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let profiles = ["lxc.apparmor.profile", "lxc.aa_profile"];
    let set = profiles.iter().filter_map(|key| lines::values(&container.config, key).pop());
    let unconfined = set.filter(|(_, value)| value == "unconfined" && container.passes());
    let problem = |(number, _): (usize, String)| {
        let text = "AppArmor does not confine the container, which no GPU needs";
        Problem::warning(at(container, number), text).remedy(remedy::remove_line(container, number))
    };
    Ok(unconfined.map(problem).collect())
}

pub(super) fn config_drift(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    if let Err(why) = &container.journal {
        let looked_at = format!("what nvstage has applied to container {}", container.ctid);
        let problem = Problem::error(looked_at, why.clone());
        let again = remedy::provision(host, container);
        return Ok(vec![problem.remedy(remedy::then("move that file away", &again))]);
    }
    let known = container.journal.as_ref().ok().and_then(Option::as_ref);
    if let Some(unfinished) = known.and_then(|journal| journal.unfinished.as_ref()) {
        let looked_at = format!("what nvstage has applied to container {}", container.ctid);
        let problem = Problem::error(looked_at, unfinished.text());
        return Ok(vec![problem.remedy(unfinished.command(&container.ctid))]);
    }
    let Some(journal) = attached(container) else { return Ok(Vec::new()) };
    let written: Vec<&String> =
        journal.lines.iter().filter_map(|line| line.text.as_ref()).collect();
    // A line with an absolute target is a finding of its own.
    let ignored = lines::ignored_mounts(&container.config);
    let is_told = |text: &str| ignored.iter().any(|mount| lines::mounts(text, &mount.node));
    let is_missing =
        |text: &&&String| !lines::is_there(&container.config, text, host) && !is_told(text);
    let missing: Vec<&&String> = written.iter().filter(is_missing).collect();
    let Some(first) = missing.first() else { return Ok(Vec::new()) };
    let mut text = format!(
        "{}, of {} {} that nvstage wrote, {} gone",
        with_more(first, missing.len()),
        written.len(),
        number(written.len(), "line", "lines"),
        number(missing.len(), "is", "are"),
    );
    if let Some(parent) = container.config.value("parent") {
        text += &format!(": a rollback to snapshot `{parent}` does this");
    }
    let problem = Problem::error(&container.path, text);
    Ok(vec![problem.remedy(remedy::provision(host, container))])
}

fn missing_device(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    host.known(Source::Nodes)?;
    let is_missing = |path: &str| !host.nodes.iter().any(|node| node.path == path);
    let mut problems = Vec::new();
    for device in lines::devices(&container.config) {
        if !is_missing(&device.path) {
            continue;
        }
        let text = format!("the host has no `{}`: the container will not start", device.path);
        let remedy = match can_be_made(host, &device.path) {
            true => crate::remedy::refresh(),
            false => shell::line(["pct", "set", container.ctid.as_str(), "--delete", &device.key]),
        };
        let looked_at = format!("{}, {}", container.path, device.key);
        problems.push(Problem::error(looked_at, text).remedy(remedy));
    }
    for node in lines::passed(&container.config) {
        // The directory of capabilities is there only where there are some.
        if !is_missing(&node.path) || node.path == "/dev/nvidia-caps" {
            continue;
        }
        let looked_at = at(container, node.number);
        let is_needed = node.gpu_minor().is_some() || node.path == "/dev/nvidiactl";
        let is_told_of_host =
            node.gpu_minor().is_some_and(|minor| is_node_of_held_gpu(host, minor));
        let problem = match node.how {
            How::Mount => {
                let text = format!("the host has no `{}`: the container will not start", node.path);
                Problem::error(looked_at, text)
            }
            // Without a module every node is missing, which is told once.
            How::OptionalMount if is_told_of_host => continue,
            How::OptionalMount if is_needed && host.module.is_some() => {
                let text = format!("the host has no `{}`: the container lacks it", node.path);
                Problem::warning(looked_at, text)
            }
            _ => continue,
        };
        problems.push(problem.remedy(match can_be_made(host, &node.path) {
            true => Remedy::from(crate::remedy::refresh()),
            false => remedy::remove_line(container, node.number),
        }));
    }
    Ok(problems)
}

/// Whether a missing node is one that the driver has, or will have when it is loaded.
fn can_be_made(host: &HostEvidence<'_>, path: &str) -> bool {
    let Some(name) = path.strip_prefix("/dev/nvidia") else { return false };
    let is_known = |minor: u32| host.gpus.iter().any(|gpu| gpu.minor == minor);
    let is_certain = host.loaded().is_ok() && host.known(Source::Gpus).is_ok();
    !is_certain || name.parse::<u32>().map_or(true, is_known)
}

fn node_mode_inside(_: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let mut devices = lines::devices(&container.config);
    devices.retain(|device| is_closed(container, device));
    let Some(first) = devices.first() else { return Ok(Vec::new()) };
    let told = |device: &MadeDevice| format!("`{}` (mode {})", device.path, mode_of(device));
    let told: Vec<String> = devices.iter().map(told).collect();
    let text = format!("only root can open {}", listed(&told));
    let mut command = shell::line(["pct", "set", container.ctid.as_str()]);
    for device in &devices {
        let is_kept = |part: &&str| !part.trim().starts_with("mode=");
        let kept: Vec<&str> = device.value.split(',').filter(is_kept).collect();
        let value = shell::quoted(&format!("{},mode=0666", kept.join(",")));
        command += &format!(" --{} {value}", device.key);
    }
    Ok(vec![Problem::warning(at(container, first.number), text).remedy(command)])
}

/// Whether Proxmox VE makes a node of NVIDIA's that nobody but root may open.
fn is_closed(container: &ContainerEvidence, device: &MadeDevice) -> bool {
    let is_read = device.path.starts_with("/dev/nvidia-caps/")
        || lines::is_read_only(&container.config, &device.key);
    let wanted = if is_read { 0o4 } else { 0o6 };
    let bits = u32::from_str_radix(mode_of(device), 8).unwrap_or(0);
    device.path.starts_with("/dev/nvidia") && !device.has_owner && bits & wanted != wanted
}

/// The mode, where none is given Proxmox VE's own (`PVE::LXC::Config`, `dev[n]`).
fn mode_of(device: &MadeDevice) -> &str {
    device.mode.as_deref().unwrap_or("0660")
}

/// The journal of a container that has its GPUs by nvstage.
pub(super) fn attached(container: &ContainerEvidence) -> Option<&Journal> {
    let journal = container.journal.as_ref().ok()?.as_ref()?;
    (journal.state == State::Attached).then_some(journal)
}

pub(super) fn at(container: &ContainerEvidence, number: usize) -> String {
    format!("{}:{number}", container.path)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CONFIG, container, healthy_host, host_of, node, pci, running};
    use super::*;
    use crate::container::config::{Dialect, LxcConfig};
    use crate::container::passthrough::OwnLine;
    use crate::doctor::Severity;

    fn found(check: ContainerCheck, text: &str) -> Vec<Problem> {
        check(&host_of(&healthy_host()), &container(text)).unwrap()
    }

    fn with(line: &str) -> String {
        format!("{CONFIG}{line}\n")
    }

    #[test]
    fn a_rule_of_an_earlier_boot_matters_to_privileged_containers() {
        let stale = CONFIG.replace("c 511:", "c 508:");
        assert_ne!(stale, CONFIG);
        let problems = found(stale_major, &stale);
        assert_eq!((problems.len(), problems[0].severity), (1, Severity::Error));
        assert!(problems[0].finding.contains("`/dev/nvidia-uvm` is 511:0"), "{problems:?}");
        assert_eq!(
            problems[0].remedy.as_deref(),
            Some("nvstage provision 201 --gpus 0 --recipe driver-only")
        );
        assert_eq!(found(stale_major, &format!("{stale}unprivileged: 1\n")), []);
    }

    #[test]
    fn an_old_rule_beside_the_right_ones_is_no_problem() {
        assert_eq!(found(stale_major, &with("lxc.cgroup2.devices.allow: c 508:* rwm")), []);
        // Not allowed, but by no old rule either: the nodes say so when it runs.
        assert_eq!(found(stale_major, &CONFIG.replace("allow: c 511:", "deny: c 511:")), []);
    }

    #[test]
    fn a_stale_rule_matters_for_nodes_that_somebody_needs() {
        let stale = CONFIG.replace("allow: c 236:", "allow: c 240:");
        assert_ne!(stale, CONFIG);
        let mut host = healthy_host();
        let mut problems = |path: &str, number| {
            host.nodes.push(node(path, number, 0o444));
            stale_major(&host_of(&host), &container(&stale)).unwrap()
        };
        assert_eq!(problems("/dev/nvidia-caps/nvidia-cap1", (236, 1)), []);
        assert_eq!(problems("/dev/nvidia-caps/nvidia-cap2", (236, 2)), []);
        let found = problems("/dev/nvidia-caps/nvidia-cap12", (236, 12));
        assert_eq!(found.len(), 1);
        assert!(found[0].finding.contains("`lxc.cgroup2.devices.allow: c 240:* rw`"), "{found:?}");
    }

    #[test]
    fn rules_of_fixed_majors_are_not_out_of_date() {
        let serial = "lxc.cgroup2.devices.allow: c 188:* rwm";
        let text = with(serial).replace("c 511:0 rw", "c 511:7 rw");
        assert_eq!(found(stale_major, &text), []);
        let closed = CONFIG.replace("c 195:* rw", "c 508:* rw");
        assert_eq!(found(stale_major, &closed), []);
    }

    #[test]
    fn a_container_with_a_journal_gets_the_rules_of_this_boot_by_refresh() {
        let stale = with_journal(&CONFIG.replace("c 511:", "c 508:"));
        let problems = stale_major(&host_of(&healthy_host()), &stale).unwrap();
        assert_eq!(problems[0].remedy.as_deref(), Some("nvstage refresh"));
    }

    #[test]
    fn without_the_kernels_majors_a_stale_rule_cannot_be_told() {
        let mut host = healthy_host();
        host.majors.clear();
        assert!(stale_major(&host_of(&host), &container(CONFIG)).is_err());
    }

    #[test]
    fn misplaced_lines_matter_where_the_live_section_has_none() {
        let mount = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0";
        let snapshot = "[before]\narch: amd64\nsnaptime: 1750000000\n";
        let appended = format!("arch: amd64\n\n{snapshot}\n{mount}\n");
        let problems = found(wrong_section, &appended);
        assert_eq!((problems.len(), problems[0].severity), (1, Severity::Warning));
        assert!(problems[0].finding.contains("section `[before]`"), "{problems:?}");
        assert_eq!(
            problems[0].remedy.as_deref(),
            Some("nvstage provision 201 --gpus 0 --recipe driver-only")
        );
        assert_eq!(found(wrong_section, &format!("{CONFIG}{snapshot}\n{mount}\n")), []);
        let given = with_journal(&appended);
        let problems = wrong_section(&host_of(&healthy_host()), &given).unwrap();
        assert_eq!(problems[0].severity, Severity::Error);
    }

    #[test]
    fn a_snapshot_of_when_there_were_lines_is_no_problem() {
        let own = CONFIG.replace("arch: amd64\n", "arch: amd64\nsnaptime: 1750000000\n");
        let text = format!("arch: amd64\nparent: before\n\n[before]\n{own}");
        assert_eq!(found(wrong_section, &text), []);
        // A rollback to one before that is drift, and no more.
        let rolled_back = with_journal(&text);
        assert_eq!(wrong_section(&host_of(&healthy_host()), &rolled_back).unwrap(), []);
    }

    #[test]
    fn what_was_detached_may_stand_in_snapshots() {
        let text = "arch: amd64\n[before]\nlxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind\n";
        let mut detached = container(text);
        detached.journal = Ok(Some(Journal::new(&detached.ctid)));
        assert_eq!(wrong_section(&host_of(&healthy_host()), &detached).unwrap(), []);
    }

    #[test]
    fn an_absolute_target_matters_where_nothing_else_passes_the_node() {
        let absolute = "/dev/nvidia0 /dev/nvidia0 none bind,optional,create=file";
        let problems = found(absolute_target, &format!("lxc.mount.entry: {absolute}\n"));
        assert_eq!(problems[0].looked_at, "/etc/pve/lxc/201.conf:1");
        assert_eq!(found(absolute_target, &with(&format!("lxc.mount.entry: {absolute}"))), []);
    }

    #[test]
    fn loosened_security_is_found_in_containers_with_gpus_alone() {
        for (check, line) in [
            (devices_allow_all as ContainerCheck, "lxc.cgroup2.devices.allow: a"),
            (devices_allow_all, "lxc.cgroup2.devices.allow = c *:* rwm"),
            (capabilities, "lxc.cap.drop:"),
            (apparmor, "lxc.apparmor.profile: unconfined"),
        ] {
            let problems = found(check, &with(line));
            assert_eq!((problems.len(), problems[0].severity), (1, Severity::Warning), "{line}");
            assert!(problems[0].remedy.as_deref().unwrap().contains("take line "), "{problems:?}");
            assert_eq!(found(check, CONFIG), [], "{line}");
            assert_eq!(found(check, &format!("arch: amd64\n{line}\n")), [], "{line}");
        }
        let reset = "lxc.cgroup2.devices.allow: a\nlxc.cgroup2.devices.deny: a";
        assert_eq!(found(devices_allow_all, &with(reset)), []);
        assert_eq!(found(capabilities, &with("lxc.cap.drop: sys_module")), []);
        assert_eq!(found(apparmor, &with("lxc.apparmor.profile: generated")), []);
    }

    #[test]
    fn a_running_container_is_started_again_when_a_line_is_gone() {
        let text = with("lxc.cap.drop:");
        let remedy = |container| {
            let mut problems = capabilities(&host_of(&healthy_host()), &container).unwrap();
            problems.remove(0).remedy.unwrap().to_string()
        };
        let line = text.lines().count();
        let edit = format!("take line {line} out of /etc/pve/lxc/201.conf");
        assert_eq!(remedy(container(&text)), edit);
        assert_eq!(remedy(running(container(&text))), format!("{edit}, then `pct reboot 201`"));
    }

    #[test]
    fn a_rule_for_everything_that_the_gpu_needs_gives_way_to_rules_of_its_own() {
        let remedy = |text: &str| {
            let mut problems = found(devices_allow_all, text);
            problems.remove(0).remedy.unwrap().to_string()
        };
        let all = "lxc.cgroup2.devices.allow: a";
        assert!(!remedy(&with(all)).contains("provision"));
        let mounts = CONFIG.lines().filter(|line| !line.contains("devices.allow"));
        let alone = mounts.chain([all]).collect::<Vec<_>>().join("\n");
        assert!(
            remedy(&alone).ends_with("then `nvstage provision 201 --gpus 0 --recipe driver-only`")
        );
        // There no rule has an effect.
        assert!(!remedy(&format!("{alone}\nunprivileged: 1")).contains("provision"));
    }

    #[test]
    fn the_remedy_gives_the_gpus_of_lines_that_do_not_work_too() {
        let text = CONFIG.replace(" dev/nvidia0 ", " /dev/nvidia0 ");
        let second = "lxc.mount.entry: /dev/nvidia1 dev/nvidia1 none bind,optional,create=file 0 0";
        let remedy = |problems: Vec<Problem>| problems[0].remedy.as_deref().map(str::to_owned);
        let command =
            |gpus: &str| Some(format!("nvstage provision 201 --gpus {gpus} --recipe driver-only"));
        let both = format!("{text}{second}\n");
        assert_eq!(remedy(found(absolute_target, &both)), command("0,1"));
        let stray = format!("arch: amd64\n[before]\n{second}\n");
        assert_eq!(remedy(found(wrong_section, &stray)), command("1"));
    }

    fn with_journal(text: &str) -> ContainerEvidence {
        let mut container = container(text);
        let mut journal = Journal::new(&container.ctid);
        journal.state = State::Attached;
        journal.gpus = "0".to_owned();
        let lines = LxcConfig::parse(CONFIG.as_bytes(), Dialect::Proxmox);
        let own = lines.lines().map(|line| line.text.to_string());
        let own = own.filter(|text| text.contains("lxc."));
        journal.lines = own.map(|text| OwnLine { text: Some(text), replaced: None }).collect();
        container.journal = Ok(Some(journal));
        container
    }

    #[test]
    fn lines_that_nvstage_wrote_and_that_are_gone_are_drift() {
        let host = healthy_host();
        assert_eq!(config_drift(&host_of(&host), &with_journal(CONFIG)).unwrap(), []);
        let absolute = CONFIG.replace(" dev/nvidia0 ", " /dev/nvidia0 ");
        assert_eq!(config_drift(&host_of(&host), &with_journal(&absolute)).unwrap(), []);
        let gone = with_journal("arch: amd64\nparent: before\n[before]\narch: amd64\n");
        let problems = config_drift(&host_of(&host), &gone).unwrap();
        assert!(problems[0].finding.contains("rollback to snapshot `before`"), "{problems:?}");
        assert_eq!(problems[0].remedy.as_deref(), Some("nvstage provision 201"));
        let mut detached = with_journal("arch: amd64\n");
        if let Ok(Some(journal)) = &mut detached.journal {
            journal.state = State::Detached;
        }
        assert_eq!(config_drift(&host_of(&host), &detached).unwrap(), []);
    }

    #[test]
    fn work_that_is_not_finished_is_told() {
        use crate::journal::{Unfinished, UnfinishedWork};
        let mut cut_short = with_journal(CONFIG);
        if let Ok(Some(journal)) = &mut cut_short.journal {
            journal.unfinished = Some(Unfinished::new(UnfinishedWork::Provision));
        }
        let problems = config_drift(&host_of(&healthy_host()), &cut_short).unwrap();
        assert_eq!(problems[0].finding, "incomplete: it is not provisioned to the end");
        assert_eq!(problems[0].remedy.as_deref(), Some("nvstage provision 201"));
    }

    #[test]
    fn a_damaged_journal_is_told() {
        let mut damaged = container(CONFIG);
        damaged.journal = Err("it ends too early".to_owned());
        let problems = config_drift(&host_of(&healthy_host()), &damaged).unwrap();
        assert_eq!(problems[0].finding, "it ends too early");
    }

    #[test]
    fn a_node_that_the_host_lacks_keeps_the_container_from_starting() {
        assert_eq!(found(missing_device, &with("dev0: /dev/nvidia-uvm,mode=0666")), []);
        let problems = found(missing_device, &with("dev0: /dev/nvidia7,mode=0666"));
        assert_eq!((problems.len(), problems[0].severity), (1, Severity::Error));
        assert_eq!(problems[0].remedy.as_deref(), Some("pct set 201 --delete dev0"));
        let mount = "lxc.mount.entry: /dev/nvidia7 dev/nvidia7 none bind,create=file";
        assert_eq!(found(missing_device, &with(mount))[0].severity, Severity::Error);
        let mount = "lxc.mount.entry: /dev/nvidia7 dev/nvidia7 none bind,optional,create=file";
        assert_eq!(found(missing_device, &with(mount))[0].severity, Severity::Warning);
        assert_eq!(found(missing_device, "dev0: /dev/ttyS9\n")[0].severity, Severity::Error);
        // That virtual machines hold the GPU is told of the host.
        let mut host = healthy_host();
        host.pci.push(pci("0000:c1:00.0", "vfio-pci"));
        assert_eq!(missing_device(&host_of(&host), &container(&with(mount))).unwrap(), []);
        let modeset = mount.replace("nvidia7", "nvidia-modeset");
        assert_eq!(found(missing_device, &with(&modeset)), []);
    }

    #[test]
    fn a_missing_node_that_the_driver_has_is_made_again() {
        let mut host = healthy_host();
        host.nodes.remove(0);
        let given = container("dev0: /dev/nvidia0,mode=0666\n");
        let problems = missing_device(&host_of(&host), &given).unwrap();
        assert_eq!(problems[0].remedy.as_deref(), Some("nvstage refresh"));
    }

    #[test]
    fn a_node_that_proxmox_makes_for_root_alone_is_found() {
        for (line, expected) in [
            ("dev0: /dev/nvidia0", 1),
            ("dev0: path=/dev/nvidia0,uid=0,mode=0660", 1),
            ("dev0: /dev/nvidia0,mode=0666", 0),
            ("dev0: /dev/nvidia0,gid=44", 0),
            ("dev0: /dev/nvidia0,uid=1000", 0),
            ("dev0: /dev/nvidia0,uid=0,gid=0", 1),
            ("dev0: /dev/nvidia0,mode=0444,deny-write=1", 0),
            ("dev0: /dev/nvidia-caps/nvidia-cap1,mode=0444", 0),
            ("dev0: /dev/dri/renderD128", 0),
        ] {
            assert_eq!(found(node_mode_inside, &format!("{line}\n")).len(), expected, "{line}");
        }
        let problems = found(node_mode_inside, "dev0: /dev/nvidia0,uid=0,mode=0660\n");
        let remedy = problems[0].remedy.as_deref();
        assert_eq!(remedy, Some("pct set 201 --dev0 /dev/nvidia0,uid=0,mode=0666"));
    }
}
