//! The checks of what a configuration passes, by [`crate::container::problems`]; running or not.

use super::configuration::{at, config_drift, stale_major};
use super::evidence::{ContainerEvidence, HostEvidence};
use super::lines;
use super::remedy;
use super::{Judged, Problem, Remedy, number, with_more};
use crate::container::config::PendingChange;
use crate::container::problems::{self, DeviceProblem, HostDevices};
use crate::container::rules;
use crate::gpu::Source;

pub(super) fn ignored_line(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    told(host, container, |problem| matches!(problem, DeviceProblem::Ignored { .. }))
}

pub(super) fn misspelled_node(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    told(host, container, |problem| matches!(problem, DeviceProblem::Misspelled { .. }))
}

/// Lines of nvstage's that are gone are told by a check of their own.
pub(super) fn incomplete_devices(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    if !config_drift(host, container)?.is_empty() {
        return Ok(Vec::new());
    }
    told(host, container, |problem| matches!(problem, DeviceProblem::Incomplete { .. }))
}

/// Rules of an earlier boot, and those of nvstage's that are gone, are told by checks of their own.
pub(super) fn forbidden_device(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    host.known(Source::Nodes)?;
    let is_drifted = !config_drift(host, container)?.is_empty();
    let is_stale = stale_major(host, container).is_ok_and(|problems| !problems.is_empty());
    told(host, container, |problem| match problem {
        DeviceProblem::Forbidden { nodes, cause } => {
            let mut nodes = nodes.iter();
            let is_dynamic = nodes.all(|node| rules::is_dynamic(node.number.0));
            let is_told = (is_stale && is_dynamic) || (is_drifted && cause.is_none());
            !is_told
        }
        DeviceProblem::Closed { .. } => true,
        _ => false,
    })
}

/// LXC 7.0 does not know the keys any more: upstream's ends with an error, Proxmox VE's warns and
/// announces one.
pub(super) fn cgroup_version(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let rules = lines::rules(&container.config, host);
    let mut old = rules.lines().iter().filter(|line| line.is_version_one());
    let Some(first) = old.next().filter(|_| host.lxc.is_some_and(|major| major >= 7)) else {
        return Ok(Vec::new());
    };
    let count = 1 + old.count();
    let text = format!(
        "{} {} of cgroup version 1: LXC 7.0 may refuse to start the container",
        with_more(&first.text, count),
        number(count, "is", "are"),
    );
    let instead = first.text.replacen("lxc.cgroup.", "lxc.cgroup2.", 1);
    let edit = remedy::edit(container, &format!("write `{instead}` in line {} of", first.number));
    Ok(vec![Problem::warning(at(container, first.number), text).remedy(edit)])
}

/// `lxc.*` lines in `[pve:pending]`, which a hand has put there.
pub(super) fn pending_lines(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Judged {
    let is_nvidias = |line: &String| line.contains("nvidia") || line.contains(" 195:");
    let replacing = container.pending.iter().find(|change| match change {
        PendingChange::RawLines { now, then } => now.iter().chain(then).any(is_nvidias),
        PendingChange::Set { .. } | PendingChange::Deleted { .. } => false,
    });
    let Some(change) = replacing else { return Ok(Vec::new()) };
    let looked_at = format!("{}, [pve:pending]", container.path);
    let text = format!("take the `lxc.*` lines out of `[pve:pending]` in {}", container.path);
    let advice = remedy::then(&text, &remedy::provision(host, container));
    Ok(vec![Problem::warning(looked_at, format!("at the next start {change}")).remedy(advice)])
}

/// Whether the configuration forbids a node, whatever a running container was started with.
pub(super) fn is_forbidden(
    host: &HostEvidence<'_>,
    container: &ContainerEvidence,
    path: &str,
) -> bool {
    let mut found = found(host, container).into_iter();
    found.any(|problem| match problem {
        DeviceProblem::Forbidden { nodes, .. } => nodes.iter().any(|node| node.path == path),
        _ => false,
    })
}

/// The GPUs whose nodes problems name.
pub(super) fn named_minors(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Vec<u32> {
    let named = |problem: DeviceProblem| match problem {
        DeviceProblem::Ignored { text, .. } => text,
        DeviceProblem::Misspelled { meant, .. } => meant,
        DeviceProblem::Incomplete { .. }
        | DeviceProblem::Forbidden { .. }
        | DeviceProblem::Closed { .. } => String::new(),
    };
    let texts = found(host, container).into_iter().map(named);
    let nodes = texts.flat_map(|text| problems::named_nodes(&text));
    nodes.filter_map(|node| lines::gpu_minor(&node)).collect()
}

fn found(host: &HostEvidence<'_>, container: &ContainerEvidence) -> Vec<DeviceProblem> {
    let exists = |path: &str| host.nodes.iter().any(|node| node.path == path);
    problems::problems(&container.config, HostDevices { nodes: host.nodes, exists: &exists })
}

fn told(
    host: &HostEvidence<'_>,
    container: &ContainerEvidence,
    is_wanted: impl Fn(&DeviceProblem) -> bool,
) -> Judged {
    let problem = |problem: &DeviceProblem| {
        let looked_at = match problem.line() {
            Some(number) => at(container, number),
            None => container.path.clone(),
        };
        Problem::error(looked_at, problem.to_string()).remedy(cure(host, container, problem))
    };
    Ok(found(host, container).iter().filter(|problem| is_wanted(problem)).map(problem).collect())
}

fn cure(host: &HostEvidence<'_>, container: &ContainerEvidence, problem: &DeviceProblem) -> Remedy {
    match problem.edit() {
        Some(edit) => remedy::edit(container, &format!("{edit} of")),
        None => remedy::provision(host, container),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ContainerCheck;
    use super::super::samples::{CONFIG, container, healthy_host, host_of, running};
    use super::*;

    fn found(check: ContainerCheck, text: &str) -> Vec<(String, String)> {
        let problems = check(&host_of(&healthy_host()), &container(text)).unwrap();
        let remedy = |problem: &Problem| problem.remedy.as_deref().unwrap().to_owned();
        problems.into_iter().map(|problem| (remedy(&problem), problem.finding)).collect()
    }

    fn one(check: ContainerCheck, text: &str) -> (String, String) {
        let mut found = found(check, text);
        assert_eq!(found.len(), 1, "{found:?}\n{text}");
        found.remove(0)
    }

    #[test]
    fn a_gpu_without_the_nodes_that_every_program_needs_is_found() {
        let without = |node: &str| {
            let is_kept = |line: &&str| !line.contains(&format!("{node} "));
            CONFIG.lines().filter(is_kept).map(|line| format!("{line}\n")).collect::<String>()
        };
        for node in ["/dev/nvidiactl", "/dev/nvidia-uvm"] {
            let (remedy, finding) = one(incomplete_devices, &without(node));
            assert_eq!(finding, format!("a GPU is passed without `{node}`: CUDA cannot work"));
            assert_eq!(remedy, "nvstage provision 201 --gpus 0 --recipe driver-only");
        }
        let alone = "dev0: /dev/nvidia0,mode=0666\n";
        let (_, finding) = one(incomplete_devices, alone);
        assert!(finding.contains("`/dev/nvidiactl` and `/dev/nvidia-uvm`"), "{finding}");
        // Hooks and files may pass the others; the whole of `/dev` has them.
        for other in [
            "lxc.hook.autodev: /root/nodes",
            "hookscript: local:snippets/gpu.sh",
            "lxc.include: /root/gpu.conf",
            "lxc.mount.entry: /dev dev none bind 0 0",
        ] {
            assert_eq!(found(incomplete_devices, &format!("{alone}{other}\n")), [], "{other}");
        }
        // Without a GPU there is nothing to complete.
        assert_eq!(found(incomplete_devices, "dev0: /dev/nvidiactl,mode=0666\n"), []);
    }

    #[test]
    fn a_misspelled_path_is_told_with_the_node_that_is_meant() {
        let misspelled =
            CONFIG.replace("/dev/nvidiactl dev/nvidiactl", "/dev/nvidactl dev/nvidactl");
        let (remedy, finding) = one(misspelled_node, &misspelled);
        assert_eq!(finding, "`/dev/nvidactl` is no node of NVIDIA's: `/dev/nvidiactl` is one");
        let edit = "write `/dev/nvidiactl` for `/dev/nvidactl` in line 3 of /etc/pve/lxc/201.conf";
        assert_eq!(remedy, edit);
        assert_eq!(found(incomplete_devices, &misspelled), [], "told once");
        let target = CONFIG.replace(" dev/nvidia-uvm ", " dev/nvidia_uvm ");
        assert!(one(misspelled_node, &target).1.starts_with("`/dev/nvidia_uvm`"));
        for line in ["dev0: /dev/nvidia_uvm,mode=0666", "dev0: /dev/NVIDIA0"] {
            assert_eq!(found(misspelled_node, &format!("{line}\n")).len(), 1, "{line}");
        }
        for line in [
            "dev0: /dev/nvme0",
            "dev0: /dev/nvram",
            "dev0: /dev/nvidia7",
            "dev0: /dev/nvidia-caps/nvidia-cap9",
            "dev0: /dev/nvidia-nvswitch0",
            "lxc.mount.entry: /dev/nvidia1 dev/nvidia0 none bind,create=file",
            "lxc.mount.entry: /dev/nvidia0 dev/gpu none bind,create=file",
        ] {
            assert_eq!(found(misspelled_node, &format!("{line}\n")), [], "{line}");
        }
    }

    #[test]
    fn a_line_that_nothing_reads_is_told_where_no_other_does_it() {
        let ctl =
            "lxc.mount.entry: /dev/nvidiactl dev/nvidiactl none bind,optional,create=file 0 0";
        let rule = "lxc.cgroup2.devices.allow: c 195:* rw";
        for (line, written) in [
            (ctl, format!("  {ctl}")),
            (ctl, ctl.replace("mount", "Mount")),
            (ctl, ctl.replace("entry", "entri")),
            (ctl, "device0: /dev/nvidiactl,mode=0666".to_owned()),
            (ctl, "dev-0: /dev/nvidiactl".to_owned()),
            (rule, format!("\t{rule}")),
            (rule, rule.replace("cgroup2.devices", "devices")),
        ] {
            let text = CONFIG.replace(line, &written);
            assert_ne!(text, CONFIG, "{written}");
            let (remedy, finding) = one(ignored_line, &text);
            assert!(
                finding.starts_with(&format!("`{}` is ignored: ", written.trim())),
                "{finding}"
            );
            assert_eq!(remedy, "nvstage provision 201 --gpus 0 --recipe driver-only");
            assert_eq!(found(incomplete_devices, &text), [], "{written}");
            assert_eq!(found(ignored_line, &format!("{CONFIG}{written}\n")), [], "{written}");
        }
        for line in ["  # /dev/nvidia7", "#/dev/nvidia7", "[x: /dev/nvidia7]", "mp0: /dev/nvidia7"]
        {
            assert_eq!(found(ignored_line, &format!("{line}\n")), [], "{line}");
        }
    }

    #[test]
    fn rules_that_do_not_let_a_node_open_are_found_by_the_file_alone() {
        let rule = "lxc.cgroup2.devices.allow: c 195:* rw\n";
        let with = |rules: &str| CONFIG.replace(rule, rules);
        for (rules, why) in [
            ("", ""),
            ("lxc.cgroup2.devices.allow: c 195:* rw # card\n", "LXC drops it: its access"),
            ("lxc.cgroup2.devices.allow: c 195:* r\n", "both reading and writing"),
            ("lxc.cgroup.devices.allow: c 195:* rwm\n", "cgroup version 1"),
        ] {
            let found = found(forbidden_device, &with(rules));
            assert_eq!(found.len(), 1, "{rules}: {found:?}");
            let (remedy, finding) = &found[0];
            let start = "no device rule allows `/dev/nvidia0` (195:0), `/dev/nvidiactl` (195:255)";
            assert!(finding.starts_with(start) && finding.contains(why), "{rules}: {finding}");
            assert_eq!(remedy, "nvstage provision 201 --gpus 0 --recipe driver-only");
        }
        assert_eq!(found(forbidden_device, CONFIG), []);
        // Everything opens where LXC's list is empty, and where nothing is denied.
        let is_mount = |line: &&str| !line.contains("devices.allow");
        let mounts: Vec<&str> = CONFIG.lines().filter(is_mount).collect();
        let emptied = format!("{}\nlxc.cgroup2.devices.deny: a\n", mounts.join("\n"));
        assert_eq!(found(forbidden_device, &emptied), []);
        let unprivileged = format!("unprivileged: 1\n{}", with(""));
        assert_eq!(found(forbidden_device, &unprivileged), []);
        let denied = format!("{unprivileged}lxc.cgroup2.devices.deny: c 195:0 rwm\n");
        let (remedy, finding) = one(forbidden_device, &denied);
        let expected = "`lxc.cgroup2.devices.deny: c 195:0 rwm` denies `/dev/nvidia0` (195:0)";
        assert_eq!(finding, expected);
        assert_eq!(remedy, "take out line 9 of /etc/pve/lxc/201.conf");
    }

    #[test]
    fn a_list_without_the_rules_of_every_container_is_found() {
        let emptied = CONFIG.replace(
            "lxc.cgroup2.devices.allow: c 195",
            "lxc.cgroup2.devices.deny: a\nlxc.cgroup2.devices.allow: c 195",
        );
        let (remedy, finding) = one(forbidden_device, &emptied);
        assert!(
            finding.starts_with("`lxc.cgroup2.devices.deny: a` takes out the rules"),
            "{finding}"
        );
        assert_eq!(remedy, "take out line 6 of /etc/pve/lxc/201.conf");
        // Of a container without a GPU nobody asked.
        let other = "lxc.cgroup2.devices.deny: a\nlxc.cgroup2.devices.allow: c 10:200 rw\n";
        assert_eq!(found(forbidden_device, other), []);
    }

    #[test]
    fn rules_of_cgroup_version_one_matter_to_lxc_7() {
        let text = format!("unprivileged: 1\n{}", CONFIG.replace("cgroup2", "cgroup"));
        assert_eq!(found(cgroup_version, &text), []);
        let mut host = healthy_host();
        let mut of = |lxc| {
            host.lxc = lxc;
            cgroup_version(&host_of(&host), &container(&text)).unwrap()
        };
        assert_eq!(of(Some(6)), []);
        let problems = of(Some(7));
        let expected = "`lxc.cgroup.devices.allow: c 195:* rw` and 2 more are of cgroup version 1";
        assert!(problems[0].finding.starts_with(expected), "{problems:?}");
        let edit =
            "write `lxc.cgroup2.devices.allow: c 195:* rw` in line 7 of /etc/pve/lxc/201.conf";
        assert_eq!(problems[0].remedy.as_deref(), Some(edit));
        assert_eq!(found(cgroup_version, CONFIG), []);
    }

    #[test]
    fn a_rule_that_is_taken_back_is_told_with_the_line_that_does() {
        let text = format!("{CONFIG}lxc.cgroup2.devices.deny: c 195:* rw\n");
        let (remedy, finding) = one(forbidden_device, &text);
        let denied = "`/dev/nvidia0` (195:0), `/dev/nvidiactl` (195:255)";
        assert_eq!(finding, format!("`lxc.cgroup2.devices.deny: c 195:* rw` denies {denied}"));
        assert_eq!(remedy, "take out line 9 of /etc/pve/lxc/201.conf");
    }

    #[test]
    fn raw_lines_that_are_pending_are_told_of() {
        let mount = "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0";
        let text = format!("{CONFIG}\n[pve:pending]\n{mount}\n");
        let (remedy, finding) = one(pending_lines, &text);
        assert_eq!(finding, "at the next start 7 `lxc.*` lines replaced by 1 line");
        assert!(remedy.starts_with("take the `lxc.*` lines out of `[pve:pending]`"), "{remedy}");
        assert_eq!(found(incomplete_devices, &text).len(), 1, "the next start has no others");
        let other = "arch: amd64\nlxc.cap.drop: a\n[pve:pending]\nlxc.cap.drop: b\n";
        assert_eq!(found(pending_lines, other), []);
    }

    #[test]
    fn what_is_pending_is_judged() {
        let text = "dev0: /dev/nvidia0,mode=0666\ndev1: /dev/nvidiactl,mode=0666\n\
                    dev2: /dev/nvidia-uvm,mode=0666\n";
        assert_eq!(found(incomplete_devices, text), []);
        let pending = format!("{text}\n[pve:pending]\ndelete: dev1\n");
        assert_eq!(found(incomplete_devices, &pending).len(), 1);
        let whole = format!("{text}\n[pve:pending]\ndelete: dev0,dev1,dev2\n");
        assert_eq!(found(incomplete_devices, &whole), []);
    }

    #[test]
    fn a_running_container_is_judged_like_a_stopped_one() {
        let rule = "lxc.cgroup2.devices.allow: c 195:* rw\n";
        let text = CONFIG.replace(rule, "lxc.cgroup.devices.allow: c 195:* rwm\n");
        let host = healthy_host();
        let of = |container: &_| {
            let problems = forbidden_device(&host_of(&host), container).unwrap();
            problems.into_iter().map(|problem| problem.finding).collect::<Vec<_>>()
        };
        assert_eq!(of(&running(container(&text))), of(&container(&text)));
    }
}
