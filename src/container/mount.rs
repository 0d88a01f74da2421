//! `lxc.mount.entry`: what one line does for a device node.
//!
//! The value is a line of `fstab(5)`. A target without a leading slash is below the container's
//! root; LXC passes over an absolute one that is not ("Ignoring mount point").

use super::config::Dialect;
use super::passthrough::{DeviceNode, NodeKind};

/// The key.
pub(crate) const KEY: &str = "lxc.mount.entry";

/// What a mount entry does for a device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// The node appears inside and can be used.
    Passes,
    /// The form that the replaced script wrote: its target is absolute, so that nothing appears.
    AbsoluteTarget,
    /// Something else: what.
    Wrong(String),
}

/// A mount entry; fields that are not there are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry<'a> {
    pub(crate) source: &'a str,
    pub(crate) target: &'a str,
    text: &'a str,
}

impl<'a> MountEntry<'a> {
    /// Reads the value of the key.
    pub(crate) fn parse(value: &'a str) -> Self {
        let quotes = ['"', '\''].into_iter();
        let inner = quotes.filter_map(|q| value.strip_prefix(q)?.strip_suffix(q)).next();
        let text = inner.unwrap_or(value);
        let mut fields = text.split_ascii_whitespace();
        let (source, target) = (fields.next(), fields.next());
        Self { source: source.unwrap_or_default(), target: target.unwrap_or_default(), text }
    }

    /// Whether the entry's source is this path.
    pub(crate) fn is_from(&self, path: &str) -> bool {
        is_same_path(self.source, path)
    }

    /// Whether it puts something onto the place of this path inside, and something else.
    pub(super) fn covers(&self, path: &str) -> bool {
        !self.is_from(path) && is_same_path(self.target, path.trim_start_matches('/'))
    }

    /// Whether the container starts without the source.
    pub(crate) fn is_optional(&self) -> bool {
        let options = self.text.split_ascii_whitespace().nth(3).unwrap_or_default();
        options.split(',').any(|option| option == "optional")
    }

    /// Whether its target is a device by an absolute path, which LXC ignores; one below the
    /// container's own root, which works, is none.
    pub(crate) fn has_absolute_target(&self) -> bool {
        normal(self.target).starts_with("/dev/")
    }

    /// What the entry does for the node that is its source.
    pub(super) fn effect(&self, node: &DeviceNode) -> Effect {
        let create = create(node.kind);
        let fields: Vec<&str> = self.text.split_ascii_whitespace().collect();
        if self.target.starts_with('/') {
            let options = format!("bind,optional,{create}");
            let form = [node.path.as_str(), node.path.as_str(), "none", options.as_str()];
            let is_own = match fields.len() {
                4 => fields == form,
                6 => fields[..4] == form && fields[4..] == ["0", "0"],
                _ => false,
            };
            return match is_own {
                true => Effect::AbsoluteTarget,
                false => Effect::Wrong("LXC ignores its absolute target".to_owned()),
            };
        }
        if !is_same_path(self.target, node.path.trim_start_matches('/')) {
            return Effect::Wrong(format!("its target is `{}`", self.target));
        }
        let options: Vec<&str> = fields.get(3).map_or(vec![], |text| text.split(',').collect());
        let has = |option: &str| options.contains(&option);
        if !has("bind") && !has("rbind") {
            return Effect::Wrong("it is not a bind mount".to_owned());
        }
        if has("nodev") {
            return Effect::Wrong("its option `nodev` forbids opening the device".to_owned());
        }
        if !has(create) {
            return Effect::Wrong(format!(
                "it lacks `{create}`, and nothing else makes its target"
            ));
        }
        Effect::Passes
    }
}

/// Source and target of Proxmox VE's `mp[n]`: `mp0: /srv/data,mp=/data`.
pub(super) fn volume<'a>(key: &str, value: &'a str) -> Option<(&'a str, &'a str)> {
    key.strip_prefix("mp")?.parse::<u16>().ok()?;
    let (mut source, mut target) = (None, None);
    for part in value.split(',').map(str::trim) {
        match part.split_once('=') {
            Some(("volume", value)) => source = Some(value),
            Some(("mp", value)) => target = Some(value),
            Some(_) => {}
            None => source = Some(part),
        }
    }
    source.zip(target)
}

/// Whether a path is below a directory, however the two are written.
pub(super) fn is_below(path: &str, directory: &str) -> bool {
    let mut own = parts(path);
    parts(directory).all(|part| own.next() == Some(part)) && own.next().is_some()
}

/// The line that passes a node.
pub(super) fn line(node: &DeviceNode, dialect: Dialect) -> String {
    super::rules::key_and_value(dialect, KEY, &value(node))
}

/// The value of that line.
pub(super) fn value(node: &DeviceNode) -> String {
    let (path, create) = (&node.path, create(node.kind));
    let target = path.trim_start_matches('/');
    format!("{path} {target} none bind,optional,{create} 0 0")
}

fn create(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "create=file",
        NodeKind::Directory => "create=dir",
    }
}

/// A path without the slashes and dots that it does not need.
pub(crate) fn normal(path: &str) -> String {
    let parts: Vec<&str> = parts(path).collect();
    format!("{}{}", if path.starts_with('/') { "/" } else { "" }, parts.join("/"))
}

/// Compares paths of which one may have more slashes than it needs.
pub(super) fn is_same_path(a: &str, b: &str) -> bool {
    a.starts_with('/') == b.starts_with('/') && parts(a).eq(parts(b))
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(value: &str) -> Effect {
        let node = DeviceNode {
            path: "/dev/nvidia0".to_owned(),
            kind: NodeKind::File,
            numbers: vec![(195, 0)],
        };
        MountEntry::parse(value).effect(&node)
    }

    #[test]
    fn the_order_of_options_and_the_last_fields_do_not_matter() {
        for value in [
            "/dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0",
            "/dev/nvidia0 dev/nvidia0 none bind,optional,create=file",
            "/dev/nvidia0\tdev/nvidia0  none create=file,rw,bind 0 0",
            "\"/dev/nvidia0 ./dev//nvidia0 none create=file,rbind\"",
        ] {
            assert_eq!(effect(value), Effect::Passes, "{value}");
        }
    }

    #[test]
    fn only_the_replaced_scripts_own_form_is_one_to_correct() {
        for value in [
            "/dev/nvidia0 /dev/nvidia0 none bind,optional,create=file",
            "/dev/nvidia0 /dev/nvidia0 none bind,optional,create=file 0 0",
        ] {
            assert_eq!(effect(value), Effect::AbsoluteTarget, "{value}");
        }
        for value in [
            "/dev/nvidia0 /dev/nvidia0 none bind,create=file 0 0",
            "/dev/nvidia0 /dev/nvidia1 none bind,optional,create=file 0 0",
            "/dev/nvidia0 /dev/nvidia0 none bind,optional,create=file 0 1",
        ] {
            assert!(matches!(effect(value), Effect::Wrong(_)), "{value}");
        }
    }

    #[test]
    fn a_line_that_does_not_do_it_says_why() {
        for (value, why) in [
            ("/dev/nvidia0 dev/gpu none bind,create=file", "its target is `dev/gpu`"),
            ("/dev/nvidia0 dev/nvidia0 none create=file", "it is not a bind mount"),
            ("/dev/nvidia0 dev/nvidia0 none bind,nodev,create=file", "`nodev`"),
            ("/dev/nvidia0 dev/nvidia0 none bind,create=dir", "it lacks `create=file`"),
            ("/dev/nvidia0 dev/nvidia0", "it is not a bind mount"),
            ("/dev/nvidia0", "its target is ``"),
        ] {
            let Effect::Wrong(found) = effect(value) else { panic!("{value}") };
            assert!(found.contains(why), "{value}: {found}");
        }
    }
}
