//! What of nvstage's is not in a configuration any more.

use std::collections::BTreeSet;

use super::{
    Applied, DeviceNode, DriverLines, LineKind, LxcConfig, Method, OwnLine, Users, Wanted,
};
use super::{decide, first_line, one_by_one, passes};
use crate::container::shared::is_from_shared;
use crate::container::{mount, mount::MountEntry};

/// The lines that the live section lacks of what was applied to the container: those about devices
/// that no line passes or allows, and those of shared trees. Of `dev[n]` the path of the device.
///
/// Numbers are those that were applied: that they are outdated is for [`super::renumber`] to tell.
pub fn missing(config: &LxcConfig, applied: Applied<'_>, method: Method) -> Vec<String> {
    let mut missing = match method {
        Method::Mount => mounts_and_rules(config, applied),
        Method::Device => devices(config, applied.nodes),
    };
    let own = applied.own.iter().filter_map(|own| own.text.as_deref());
    let trees = own.filter(|text| {
        let kind = first_line(text, config.dialect());
        is_tree(&kind) && !config.lines().any(|line| line.kind.meaning() == kind.meaning())
    });
    missing.extend(trees.map(str::to_owned));
    missing
}

fn mounts_and_rules(config: &LxcConfig, applied: Applied<'_>) -> Vec<String> {
    let is_of_device = |own: &&OwnLine| {
        let text = own.text.as_deref().unwrap_or_default();
        !is_tree(&first_line(text, config.dialect()))
    };
    let own: Vec<OwnLine> = applied.own.iter().filter(is_of_device).cloned().collect();
    let wanted = Wanted {
        nodes: applied.nodes,
        method: Method::Mount,
        users: Users::Everybody,
        majors: &BTreeSet::new(),
        trees: &[],
        own: &own,
        driver_lines: DriverLines::Keep,
    };
    // It is refused where somebody has mounted something else onto the place of a node.
    decide::edit(config, &wanted).map(|edit| edit.lines_added).unwrap_or_else(|_| {
        let nodes = applied.nodes.iter().filter(|node| !passes(config, node));
        nodes.map(|node| mount::line(node, config.dialect())).collect()
    })
}

fn devices(config: &LxcConfig, nodes: &[DeviceNode]) -> Vec<String> {
    let is_passed = |node: &DeviceNode| passes(config, node);
    let whole = nodes.iter().filter(|node| !is_passed(node)).cloned().collect::<Vec<_>>();
    let single = one_by_one(&whole).into_iter().filter(|node| !is_passed(node));
    single.map(|node| node.path).collect()
}

fn is_tree(line: &LineKind) -> bool {
    match line.meaning() {
        Some((mount::KEY, value)) => is_from_shared(&MountEntry::parse(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::Dialect;
    use crate::container::passthrough::NodeKind;

    const ENTRY: &str =
        "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0";
    const RULE: &str = "lxc.cgroup2.devices.allow: c 195:0 rw";
    const TREE: &str = "lxc.mount.entry: /var/lib/nvstage/driver/current usr/lib/nvstage/driver none bind,ro,nosuid,nodev,optional,create=dir 0 0";

    fn missing_in(config: &str, method: Method) -> Vec<String> {
        let path = "/dev/nvidia0".to_owned();
        let nodes = [DeviceNode { path, kind: NodeKind::File, numbers: vec![(195, 0)] }];
        let line = |text: &str| OwnLine { text: Some(text.to_owned()), replaced: None };
        let own = match method {
            Method::Mount => vec![line(ENTRY), line(RULE), line(TREE)],
            Method::Device => vec![line("dev0: /dev/nvidia0,mode=0666"), line(TREE)],
        };
        let config = LxcConfig::parse(config.as_bytes(), Dialect::Proxmox);
        missing(&config, Applied { own: &own, nodes: &nodes }, method)
    }

    #[test]
    fn a_configuration_with_everything_lacks_nothing() {
        let all = format!("arch: amd64\n{ENTRY}\n{RULE}\n{TREE}\n");
        assert!(missing_in(&all, Method::Mount).is_empty());
        // As somebody else writes it, it works too.
        let others = format!("lxc.cgroup2.devices.allow: c 195:* rwm\n{ENTRY}\n{TREE}\n");
        assert!(missing_in(&others, Method::Mount).is_empty());
        let device = format!("dev3: /dev/nvidia0,mode=0666\n{TREE}\n");
        assert!(missing_in(&device, Method::Device).is_empty());
    }

    #[test]
    fn what_was_taken_out_is_missing() {
        assert_eq!(missing_in("arch: amd64\n", Method::Mount), [ENTRY, RULE, TREE]);
        assert_eq!(missing_in(&format!("{ENTRY}\n{TREE}\n"), Method::Mount), [RULE]);
        assert_eq!(missing_in(&format!("{TREE}\n"), Method::Device), ["/dev/nvidia0"]);
        assert_eq!(missing_in("dev0: /dev/nvidia0,mode=0666\n", Method::Device), [TREE]);
        // In a snapshot it does not count.
        let snapshot = format!("{ENTRY}\n{RULE}\n[before]\n{TREE}\n");
        assert_eq!(missing_in(&snapshot, Method::Mount), [TREE]);
    }

    #[test]
    fn an_unprivileged_container_needs_no_rule() {
        let text = format!("unprivileged: 1\n{ENTRY}\n{TREE}\n");
        assert!(missing_in(&text, Method::Mount).is_empty());
    }
}
