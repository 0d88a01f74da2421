//! Lines of a configuration by which a container gets its driver from the host by another way than
//! nvstage's: the hook that runs NVIDIA's container tools, and single files or directories of a
//! driver that are mounted.
//!
//! The hook is `hooks/nvidia` of LXC; it passes the GPUs that `NVIDIA_VISIBLE_DEVICES` names, and
//! nothing where that is not set. Files are known by their names, as NVIDIA's installer has them in
//! its manifest.

use super::config::{LineKind, LxcConfig};
use super::mount::{self, MountEntry};

/// The key of a hook of LXC that may mount.
const HOOK: &str = "lxc.hook.mount";
const ENVIRONMENT: &str = "lxc.environment";

/// How a line brings driver files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It runs the hook.
    Hook,
    /// It is a variable that the hook reads.
    HookVariable,
    /// It mounts them.
    Mount,
}

/// A line of the live section that brings driver files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverLine {
    /// Its number in the file, from 1.
    pub number: usize,
    /// Its text.
    pub text: String,
    /// How it brings them.
    pub way: Way,
}

/// Which GPUs the hook passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// All of the host's.
    All,
    /// Those with these names: an index, a UUID, a MIG instance.
    These(Vec<String>),
}

/// The lines that bring driver files, in their order.
pub fn lines(config: &LxcConfig) -> Vec<DriverLine> {
    let has_hook = has_hook(config);
    let way = |kind: &LineKind| match kind {
        LineKind::Raw { key, value } if key == HOOK => is_hook(value).then_some(Way::Hook),
        LineKind::Raw { key, value } if key == ENVIRONMENT => {
            (has_hook && value.starts_with("NVIDIA_")).then_some(Way::HookVariable)
        }
        LineKind::Raw { key, value } if key == mount::KEY => {
            let entry = MountEntry::parse(value);
            brings_files(entry.source, entry.target).then_some(Way::Mount)
        }
        LineKind::Setting { key, value } => {
            let (source, target) = mount::volume(key, value)?;
            brings_files(source, target).then_some(Way::Mount)
        }
        _ => None,
    };
    let found = config.lines().filter_map(|line| {
        let way = way(&line.kind)?;
        Some(DriverLine { number: line.number, text: line.text.into_owned(), way })
    });
    found.collect()
}

/// The GPUs that the hook passes; `None` without it, or where it passes none.
pub fn visible(config: &LxcConfig) -> Option<Visible> {
    if !has_hook(config) {
        return None;
    }
    let names = match variable(config, "NVIDIA_VISIBLE_DEVICES") {
        Some(names) => names,
        // An image of old: the hook takes it for one that wants all.
        None => variable(config, "CUDA_VERSION").map(|_| "all".to_owned())?,
    };
    match names.trim() {
        "" | "void" | "none" => None,
        "all" => Some(Visible::All),
        names => {
            Some(Visible::These(names.split(',').map(|name| name.trim().to_owned()).collect()))
        }
    }
}

/// Whether the hook runs; a line without a value takes back those before it
/// (`lxc.container.conf(5)`).
fn has_hook(config: &LxcConfig) -> bool {
    values(config, HOOK).fold(false, |has, value| !value.is_empty() && (has || is_hook(&value)))
}

fn is_hook(value: &str) -> bool {
    let program = value.split_ascii_whitespace().next().unwrap_or_default();
    program.ends_with("/hooks/nvidia") || value.contains("nvidia-container-cli")
}

/// The value of a variable that hooks see; the last one counts.
fn variable(config: &LxcConfig, name: &str) -> Option<String> {
    let of_line = |value: String| {
        let (found, value) = value.split_once('=')?;
        (found == name).then(|| value.to_owned())
    };
    values(config, ENVIRONMENT).filter_map(of_line).last()
}

fn values(config: &LxcConfig, wanted: &str) -> impl Iterator<Item = String> {
    config.lines().filter_map(move |line| match line.kind {
        LineKind::Raw { key, value } if key == wanted => Some(value),
        _ => None,
    })
}

/// Whether a mount is of driver files.
fn brings_files(source: &str, target: &str) -> bool {
    let (source, target) = (mount::normal(source), mount::normal(target));
    // Devices are no files of a driver.
    let is_device = source.starts_with("/dev/");
    !is_device
        && [source, target].iter().any(|path| is_driver_file(path) || is_driver_directory(path))
}

/// Whether a path is that of a program or library of NVIDIA's driver.
pub fn is_driver_file(path: &str) -> bool {
    const PROGRAMS: [&str; 5] = [
        "nvidia-smi",
        "nvidia-debugdump",
        "nvidia-persistenced",
        "nvidia-cuda-mps-control",
        "nvidia-cuda-mps-server",
    ];
    const LIBRARIES: [&str; 9] = [
        "libcuda.so",
        "libcudadebugger.so",
        "libnvcuvid.so",
        "libnvoptix.so",
        "libnvidia-",
        "libGLX_nvidia.so",
        "libEGL_nvidia.so",
        "libGLESv2_nvidia.so",
        "libvdpau_nvidia.so",
    ];
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_library = name.contains(".so")
        && LIBRARIES.iter().any(|prefix| name.starts_with(prefix))
        // Of NVIDIA's container tools.
        && !name.starts_with("libnvidia-container");
    PROGRAMS.contains(&name) || is_library
}

/// Whether a path is that of a directory in which systems keep NVIDIA's driver.
fn is_driver_directory(path: &str) -> bool {
    const PLACES: [&str; 7] =
        ["usr/lib", "usr/lib64", "usr/lib32", "lib", "usr/local", "usr/share", "run"];
    let path = path.trim_start_matches('/');
    let below = PLACES.iter().find_map(|place| path.strip_prefix(place)?.strip_prefix('/'));
    let is_nvidias = |part: &str| {
        let version = part.strip_prefix("nvidia-").unwrap_or_default();
        part == "nvidia"
            || version == "current"
            || version.starts_with(|first: char| first.is_ascii_digit())
    };
    below.is_some_and(|below| below.split('/').any(is_nvidias))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::Dialect;

    fn config(text: &str) -> LxcConfig {
        LxcConfig::parse(text.as_bytes(), Dialect::Proxmox)
    }

    #[test]
    fn every_way_by_which_driver_files_come_from_the_host_is_recognised() {
        for line in [
            "lxc.hook.mount: /usr/share/lxc/hooks/nvidia",
            "lxc.hook.mount = /usr/share/lxcfs/hooks/nvidia --debug /tmp/x",
            "lxc.mount.entry: /usr/bin/nvidia-smi usr/bin/nvidia-smi none bind,ro,create=file",
            "lxc.mount.entry: /usr/lib/x86_64-linux-gnu/libcuda.so.535.54.03 usr/lib/x86_64-linux-gnu/libcuda.so.1 none bind",
            "lxc.mount.entry: /srv/x usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1 none bind",
            "lxc.mount.entry: /usr/lib/nvidia usr/lib/nvidia none bind,create=dir",
            "lxc.mount.entry: /usr/lib/x86_64-linux-gnu/nvidia/current opt/driver none bind",
            "lxc.mount.entry: /run/nvidia/driver mnt/driver none rbind,create=dir",
            "mp0: /usr/bin/nvidia-smi,mp=/usr/bin/nvidia-smi",
            "mp12: /usr/lib/nvidia-535,mp=/usr/lib/nvidia-535,ro=1",
            "mp1: volume=/usr/local/nvidia,mp=/usr/local/nvidia",
        ] {
            assert_eq!(lines(&config(line)).len(), 1, "{line}");
        }
    }

    #[test]
    fn data_devices_and_tools_of_nvidia_are_no_driver_files() {
        for line in [
            "mp0: /srv/nvidia,mp=/srv/nvidia",
            "mp0: /tank/models/nvidia,mp=/usr/lib/ollama/models",
            "mp0: local:subvol-201-disk-1,mp=/usr/local",
            "lxc.mount.entry: /dev/nvidia0 dev/nvidia0 none bind,optional,create=file 0 0",
            "lxc.mount.entry: /proc/driver/nvidia proc/driver/nvidia none bind",
            "lxc.mount.entry: /etc/nvidia-container-runtime etc/nvidia-container-runtime none bind",
            "lxc.mount.entry: /usr/bin/nvidia-container-cli usr/bin/nvidia-container-cli none bind",
            "lxc.mount.entry: /opt/nvidia/nsight opt/nvidia/nsight none bind",
            "lxc.mount.entry: /var/lib/nvstage/driver/current usr/lib/nvstage/driver none bind",
            "lxc.hook.pre-start: /usr/bin/nvidia-modprobe -c0 -u",
            "lxc.hook.mount: /usr/share/lxcfs/lxc.mount.hook",
            "lxc.environment: NVIDIA_VISIBLE_DEVICES=all",
            "#lxc.hook.mount: /usr/share/lxc/hooks/nvidia",
        ] {
            assert_eq!(lines(&config(line)), [], "{line}");
        }
    }

    #[test]
    fn variables_are_the_hooks_where_it_runs() {
        let text = "lxc.environment: NVIDIA_VISIBLE_DEVICES=0\nlxc.environment: LANG=C\n\
            lxc.hook.mount: /usr/share/lxc/hooks/nvidia\n";
        let ways: Vec<Way> = lines(&config(text)).into_iter().map(|line| line.way).collect();
        assert_eq!(ways, [Way::HookVariable, Way::Hook]);
    }

    #[test]
    fn the_hook_passes_what_its_variable_names() {
        let these = |names: &[&str]| {
            Some(Visible::These(names.iter().map(|name| (*name).to_owned()).collect()))
        };
        let hook = "lxc.hook.mount: /usr/share/lxc/hooks/nvidia\n";
        for (text, expected) in [
            ("NVIDIA_VISIBLE_DEVICES=all", Some(Visible::All)),
            ("NVIDIA_VISIBLE_DEVICES=1,GPU-00000000-1111", these(&["1", "GPU-00000000-1111"])),
            ("NVIDIA_VISIBLE_DEVICES=void", None),
            ("NVIDIA_VISIBLE_DEVICES=", None),
            ("NVIDIA_VISIBLE_DEVICES=none", None),
            ("NVIDIA_DRIVER_CAPABILITIES=all", None),
            ("CUDA_VERSION=12.8", Some(Visible::All)),
            (
                "NVIDIA_VISIBLE_DEVICES=all\nlxc.environment: NVIDIA_VISIBLE_DEVICES=0",
                these(&["0"]),
            ),
        ] {
            let with_hook = format!("lxc.environment: {text}\n{hook}");
            assert_eq!(visible(&config(&with_hook)), expected, "{text}");
            let taken_back = format!("{with_hook}lxc.hook.mount:\n");
            assert_eq!(visible(&config(&taken_back)), None, "{text}");
        }
        assert_eq!(visible(&config("lxc.environment: NVIDIA_VISIBLE_DEVICES=all\n")), None);
    }
}
