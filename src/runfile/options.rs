//! The command line of `nvidia-installer`: what is wanted, as the flags that a version understands.
//!
//! An unknown option ends the installer with status 1, so each flag is given only from the version
//! on that has it. Source of the versions: `option_table.h` of NVIDIA/nvidia-installer, compared
//! over its tags from 100.14 to 590.48.01. None of these flags was ever removed.

use serde::Deserialize;

use crate::architecture::Architecture;
use crate::runfile::manifest::Selection;
use crate::version::DriverVersion;

/// Whether a part of the driver is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// It is installed.
    Include,
    /// It is left out.
    #[default]
    Exclude,
}

impl Choice {
    /// Whether the part is installed.
    pub fn is_included(self) -> bool {
        self == Self::Include
    }
}

impl From<bool> for Choice {
    fn from(included: bool) -> Self {
        if included { Self::Include } else { Self::Exclude }
    }
}

/// What `nvidia-installer` is asked for beyond what every container needs. The kernel modules and
/// their sources are never part of it: they belong to the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// OpenGL, EGL, GLX and Vulkan with NVIDIA's copy of libglvnd; without them a CUDA container
    /// is about 500 MB smaller.
    pub opengl: Choice,
    /// 32-bit libraries.
    pub compat32: Choice,
    /// The setuid program `nvidia-modprobe`; useless where device nodes come from the host.
    pub nvidia_modprobe: Choice,
    /// The systemd units for suspend, resume and the persistence daemon.
    pub systemd: Choice,
    /// The libraries for Wine.
    pub wine: Choice,
    /// Further flags, passed as they are, after ours.
    pub extra: Vec<String>,
}

/// A flag that a version does not know, and what follows from leaving it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Omission {
    /// The flag.
    pub flag: &'static str,
    /// What happens without it; `None` where the version has nothing that the flag would stop.
    pub consequence: Option<&'static str>,
}

/// Flags for one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The arguments, without the program.
    pub arguments: Vec<String>,
    /// What had to be left out.
    pub omissions: Vec<Omission>,
}

impl CommandLine {
    /// The omissions that change what is installed or how safe it is.
    pub fn consequences(&self) -> impl Iterator<Item = &Omission> {
        self.omissions.iter().filter(|omission| omission.consequence.is_some())
    }
}

/// A flag, the first version that has it (`None`: all), and what its absence means.
type Flag = (&'static str, Option<&'static str>, Option<&'static str>);

/// Always passed.
///
/// - Backups stay on (no `--no-backup`): files of a distribution's driver come back when ours is
///   uninstalled.
/// - `--no-recursion`: the search for conflicting libraries stays out of sub-directories, where
///   Debian's `nvidia/current` lies, whose files dpkg owns and would miss.
/// - `--skip-module-unload` and `--skip-depmod`: nothing in a container may reach the host's
///   modules. They cover this run only: the removal of an older driver is a child process that gets
///   none of our flags, which is why stand-ins for `rmmod` and `depmod` are needed as well.
const ALWAYS: &[Flag] = &[
    ("--silent", None, None),
    ("--ui=none", None, None),
    ("--no-questions", None, None),
    ("--no-kernel-module", None, None),
    ("--no-x-check", None, None),
    ("--no-recursion", None, None),
    ("--no-rpms", None, None),
    (
        "--no-distro-scripts",
        Some("180.25"),
        Some("scripts of the distribution's driver package may stop the installer"),
    ),
    (
        "--no-nouveau-check",
        Some("256.44"),
        Some("the installer fails where the host's nouveau driver drives any card"),
    ),
    (
        "--no-kernel-module-source",
        Some("304.22"),
        Some("the sources of the kernel module are installed as well"),
    ),
    (
        "--no-check-for-alternate-installs",
        Some("325.08"),
        Some("the installer fails where Debian's nvidia-installer-cleanup is installed"),
    ),
    (
        "--skip-module-unload",
        Some("346.16"),
        Some("the stand-in for rmmod alone keeps it from the host's kernel modules"),
    ),
    ("--no-drm", Some("381.22"), None),
    ("--skip-depmod", Some("418.30"), None),
    ("--no-dkms", Some("520.56.06"), None),
    ("--no-disable-nouveau", Some("545.23.06"), None),
    ("--no-rebuild-initramfs", Some("545.23.06"), None),
    ("--skip-module-load", Some("550.40.07"), None),
];

impl Options {
    /// The arguments for an installer of `version` that logs to `log`, a path in the container
    /// without blanks (the self-extracting file splits its arguments again).
    pub fn command_line(&self, version: &DriverVersion, log: &str) -> CommandLine {
        let mut line = CommandLine { arguments: Vec::new(), omissions: Vec::new() };
        for (flag, since, consequence) in ALWAYS.iter().copied().chain(self.chosen()) {
            if is_known(since, version) {
                line.arguments.push(flag.to_owned());
            } else {
                line.omissions.push(Omission { flag, consequence });
            }
        }
        line.arguments.push(format!("--log-file-name={log}"));
        line.arguments.extend(self.extra.iter().cloned());
        line
    }

    fn chosen(&self) -> Vec<Flag> {
        let Self { opengl, compat32, nvidia_modprobe, systemd, wine, .. } = self;
        let mut flags: Vec<Flag> = vec![
            match opengl {
                // Left to itself the installer gives up where it finds an incomplete libglvnd.
                Choice::Include => ("--install-libglvnd", Some("361.16"), None),
                Choice::Exclude => (
                    "--no-opengl-files",
                    Some("295.17"),
                    Some("the OpenGL libraries are installed as well"),
                ),
            },
            match compat32 {
                Choice::Include => ("--install-compat32-libs", Some("346.16"), None),
                Choice::Exclude => (
                    "--no-install-compat32-libs",
                    Some("346.16"),
                    Some("32-bit libraries are installed where a place for them exists"),
                ),
            },
        ];
        if !nvidia_modprobe.is_included() {
            let consequence = Some("nvidia-modprobe is installed, setuid root");
            flags.push(("--no-nvidia-modprobe", Some("319.12"), consequence));
        }
        if !systemd.is_included() {
            flags.push(("--no-systemd", Some("465.19.01"), None));
        }
        if !wine.is_included() {
            flags.push(("--no-wine-files", Some("470.42.01"), None));
        }
        flags
    }
}

/// The arguments of [`Options::command_line`] alone.
pub fn flags(options: &Options, version: &DriverVersion, log: &str) -> Vec<String> {
    options.command_line(version, log).arguments
}

/// The arguments of the uninstaller of `version` that logs to `log`: it stays away from the host's
/// modules.
pub fn uninstaller_flags(version: &DriverVersion, log: &str) -> Vec<String> {
    let wanted = |flag: &&Flag| {
        matches!(flag.0, "--silent" | "--ui=none" | "--skip-module-unload" | "--skip-depmod")
            && is_known(flag.1, version)
    };
    let flags = ALWAYS.iter().filter(wanted).map(|flag| flag.0.to_owned());
    flags.chain([format!("--log-file-name={log}")]).collect()
}

/// Whether a version has what came with another one.
fn is_known(since: Option<&str>, version: &DriverVersion) -> bool {
    let since = since.and_then(|since| DriverVersion::parse(since).ok());
    since.is_none_or(|since| *version >= since)
}

/// What those options install on that architecture.
pub fn selection(options: &Options, architecture: Architecture) -> Selection {
    Selection { architecture, options: options.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(options: &Options, version: &str) -> CommandLine {
        let version = DriverVersion::parse(version).unwrap();
        options.command_line(&version, "/var/log/nvidia-installer.log")
    }

    fn has(line: &CommandLine, flag: &str) -> bool {
        line.arguments.iter().any(|argument| argument == flag)
    }

    #[test]
    fn the_kernel_module_is_never_installed() {
        for version in ["390.157", "470.256.02", "580.76.05"] {
            let line = line(&Options::default(), version);
            assert!(has(&line, "--no-kernel-module") && has(&line, "--silent"));
            assert!(!has(&line, "--no-backup"));
        }
    }

    #[test]
    fn a_flag_is_left_out_where_the_version_does_not_know_it() {
        let old = line(&Options::default(), "470.256.02");
        assert!(!has(&old, "--skip-module-load") && has(&old, "--no-wine-files"));
        assert!(old.omissions.iter().any(|omission| omission.flag == "--skip-module-load"));
        assert_eq!(old.consequences().count(), 0);
        let new = line(&Options::default(), "550.40.07");
        assert!(has(&new, "--skip-module-load") && new.omissions.is_empty());
    }

    #[test]
    fn what_matters_when_left_out_is_said() {
        let old = line(&Options::default(), "340.108");
        let flags: Vec<_> = old.consequences().map(|omission| omission.flag).collect();
        assert_eq!(flags, ["--skip-module-unload", "--no-install-compat32-libs"]);
    }

    #[test]
    fn components_choose_their_flags() {
        let opengl = Options { opengl: Choice::Include, ..Options::default() };
        let with = line(&opengl, "580.76.05");
        assert!(has(&with, "--install-libglvnd") && !has(&with, "--no-opengl-files"));
        let without = line(&Options::default(), "580.76.05");
        assert!(has(&without, "--no-opengl-files") && has(&without, "--no-nvidia-modprobe"));
    }

    #[test]
    fn the_uninstaller_is_told_to_stay_away_from_modules_where_it_understands() {
        let flags = |version| uninstaller_flags(&DriverVersion::parse(version).unwrap(), "/l");
        let all = ["--silent", "--ui=none", "--skip-module-unload", "--skip-depmod"];
        assert_eq!(flags("580.76.05"), [&all[..], &["--log-file-name=/l"]].concat());
        assert_eq!(flags("390.157"), [&all[..3], &["--log-file-name=/l"]].concat());
        assert_eq!(flags("340.108"), [&all[..2], &["--log-file-name=/l"]].concat());
    }

    #[test]
    fn flags_of_the_recipe_come_last() {
        let options = Options { extra: vec!["--no-peermem".to_owned()], ..Options::default() };
        let line = line(&options, "580.76.05");
        assert_eq!(line.arguments.last().unwrap(), "--no-peermem");
        assert!(has(&line, "--log-file-name=/var/log/nvidia-installer.log"));
    }
}
