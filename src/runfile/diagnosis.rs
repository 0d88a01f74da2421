//! Whether `nvidia-installer` succeeded, and if not, why.
//!
//! Its exit status alone says little: it is 0 when files were lost and 1 for every other failure.
//! Success is status 0, the sentence that its own sanity check passed, and no lost file in the log;
//! the caller then still compares every destination.

use std::fmt;

/// What to make of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It says, in every way it has, that all is well.
    Success,
    /// It failed, or is not sure.
    Failure {
        /// Why.
        cause: Cause,
        /// What to do about it.
        hint: &'static str,
        /// The decisive line where there is one, then the last lines of the log (of the output
        /// where there is no log); may be empty.
        tail: String,
    },
}

/// A known cause of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// `modprobe`, `rmmod`, `lsmod` or `depmod` is not in its PATH.
    ModuleUtility,
    /// `ldconfig`, `grep`, `dmesg` or `tail` is not in its PATH.
    SystemUtility,
    /// It does not know one of the options.
    UnknownOption,
    /// An X server runs in the container.
    XServer,
    /// The host's nouveau driver drives a card.
    Nouveau,
    /// A driver of the distribution forbids it.
    AlternateInstall,
    /// An incomplete libglvnd stopped it after it had removed the former driver.
    Libglvnd,
    /// The disk is full.
    DiskFull,
    /// Files are mounted where it wants to write.
    MountedFiles,
    /// A directory is read-only.
    ReadOnly,
    /// It wanted to handle kernel modules.
    KernelModule,
    /// The list of files is broken.
    Manifest,
    /// The checksums in the self-extracting file do not match.
    Checksum,
    /// The self-extracting file could not unpack itself.
    Unpacking,
    /// The program cannot be run here.
    CannotRun,
    /// A signal ended it.
    Killed,
    /// Files could not be installed although it went on.
    LostFiles,
    /// Its own check afterwards failed.
    SanityFailed,
    /// It ended well but without the sentence that its check passed.
    NoSanityCheck,
    /// None of the above.
    Unknown,
}

/// How many lines of the log a failure keeps.
const LAST_LINES: usize = 12;

/// Text in lower case that gives a cause away, most decisive first.
const SIGNS: &[(&str, Cause)] = &[
    ("unable to find the module utility", Cause::ModuleUtility),
    ("unable to find the system utility", Cause::SystemUtility),
    ("unrecognized option", Cause::UnknownOption),
    ("invalid commandline", Cause::UnknownOption),
    ("no space left on device", Cause::DiskFull),
    ("disk quota exceeded", Cause::DiskFull),
    ("you appear to be running an x server", Cause::XServer),
    ("nouveau kernel driver is currently in use", Cause::Nouveau),
    ("alternate method of installing the nvidia driver was detected", Cause::AlternateInstall),
    ("alternate driver installation", Cause::AlternateInstall),
    ("alternate-install-present", Cause::AlternateInstall),
    ("invalid .manifest file", Cause::Manifest),
    ("device or resource busy", Cause::MountedFiles),
    ("read-only file system", Cause::ReadOnly),
    ("unable to load the kernel module", Cause::KernelModule),
    ("unable to find the kernel source tree", Cause::KernelModule),
    ("kernel module appears to already be loaded", Cause::KernelModule),
    ("error in check sums", Cause::Checksum),
    ("error in checksums", Cause::Checksum),
    ("error in md5 sums", Cause::Checksum),
    ("unable to create temp directory", Cause::Unpacking),
    ("unable to create temporary file", Cause::Unpacking),
    ("is not executable", Cause::Unpacking),
    ("extraction failed", Cause::Unpacking),
];

/// Signs that count only when the run failed: the words appear in good logs as well.
const SIGNS_ON_FAILURE: &[(&str, Cause)] = &[("libglvnd", Cause::Libglvnd)];

/// Judges a run by its exit status (128 + n for signal n), its output and its log.
pub fn diagnose(exit_status: i32, output: &str, log: &str) -> Verdict {
    let failed = |cause: Cause, evidence: Option<&str>| {
        let text = if log.trim().is_empty() { output } else { log };
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        let decisive = evidence.filter(|line| !last.contains(line));
        let tail: Vec<_> =
            decisive.into_iter().chain(last.iter().copied()).map(str::trim).collect();
        Verdict::Failure { cause, hint: cause.hint(), tail: tail.join("\n") }
    };
    let all = || output.lines().chain(log.lines());
    let lost = all().find(|line| is_lost_file(line));
    if exit_status == 0 && lost.is_none() && says(log, "sanity check passed") {
        return Verdict::Success;
    }
    if let Some(cause) = signal(exit_status) {
        return failed(cause, None);
    }
    for (sign, cause) in SIGNS {
        if let Some(line) = all().find(|line| says(line, sign)) {
            return failed(*cause, Some(line));
        }
    }
    if let Some(line) = lost {
        return failed(Cause::LostFiles, Some(line));
    }
    if let Some(line) = all().find(|line| says(line, "sanity check failed")) {
        return failed(Cause::SanityFailed, Some(line));
    }
    if exit_status == 0 {
        return failed(Cause::NoSanityCheck, None);
    }
    for (sign, cause) in SIGNS_ON_FAILURE {
        if let Some(line) = all().filter(|line| line.contains("ERROR")).find(|l| says(l, sign)) {
            return failed(*cause, Some(line));
        }
    }
    let error = all().find(|line| line.contains("ERROR:"));
    failed(by_status(exit_status), error)
}

fn says(text: &str, sign: &str) -> bool {
    text.to_ascii_lowercase().contains(sign)
}

/// A copy, link or backup that failed; by default the installer continues without it.
fn is_lost_file(line: &str) -> bool {
    const MARKS: [&str; 4] = [
        "error during installation: 'cannot ",
        "cannot install '",
        "cannot create symbolic link",
        "unable to back up file",
    ];
    // The tree is read-only on purpose, and the file is of no use without the kernel module.
    !line.contains("dkms.conf") && MARKS.iter().any(|mark| says(line, mark))
}

fn signal(exit_status: i32) -> Option<Cause> {
    match exit_status {
        // SIGBUS: it copies through a memory map, so a full disk is a fault and no error message.
        135 => Some(Cause::DiskFull),
        // Any other signal, SIGTERM (143) apart: the self-extracting file sends it to itself.
        129..=142 | 144..=165 => Some(Cause::Killed),
        _ => None,
    }
}

fn by_status(exit_status: i32) -> Cause {
    match exit_status {
        2 => Cause::Checksum,
        15 => Cause::Unpacking,
        143 => Cause::Killed,
        126 | 127 => Cause::CannotRun,
        _ => Cause::Unknown,
    }
}

impl Cause {
    /// What happened, as a fragment.
    pub fn what(self) -> &'static str {
        match self {
            Self::ModuleUtility => {
                "the installer found no modprobe, rmmod, lsmod or depmod in its PATH"
            }
            Self::SystemUtility => "the installer misses a program of the base system",
            Self::UnknownOption => "the installer does not know one of the options",
            Self::XServer => "an X server runs in the container",
            Self::Nouveau => "the host uses the nouveau driver",
            Self::AlternateInstall => "a driver of the distribution is installed",
            Self::Libglvnd => "the container's libglvnd is incomplete",
            Self::DiskFull => "the container's disk is full",
            Self::MountedFiles => "driver files are mounted into the container from elsewhere",
            Self::ReadOnly => "a directory in the container is read-only",
            Self::KernelModule => "the installer tried to handle kernel modules",
            Self::Manifest => "the installer's list of files is broken",
            Self::Checksum => "the checksums in its file do not match",
            Self::Unpacking => "the installer could not unpack itself",
            Self::CannotRun => "the installer cannot be run in this container",
            Self::Killed => "a signal ended it",
            Self::LostFiles => "the installer could not write some files and went on",
            Self::SanityFailed => "the installer's own check of the result failed",
            Self::NoSanityCheck => {
                "the installer's log does not say that its check of the result passed"
            }
            Self::Unknown => "the installer gave no known reason",
        }
    }

    /// What to do about it, as a fragment.
    pub fn hint(self) -> &'static str {
        match self {
            Self::ModuleUtility => "install the package kmod in the container",
            Self::SystemUtility => "install libc-bin, grep, util-linux and coreutils in it",
            Self::UnknownOption => "remove the option from the recipe's list of extra options",
            Self::XServer => "end the X server, or remove a stale /tmp/.X0-lock",
            Self::Nouveau => "blacklist nouveau on the host, load NVIDIA's module and try again",
            Self::AlternateInstall => "purge the distribution's nvidia packages in the container",
            Self::Libglvnd => "choose OpenGL in the recipe, or purge the container's libglvnd",
            Self::DiskFull => {
                "enlarge the container's disk, then run the command again: files may be damaged"
            }
            Self::MountedFiles => {
                "remove the mount entries, or the NVIDIA hook of LXC, that bring driver files in"
            }
            Self::ReadOnly => "make /usr, /etc and /var/lib writable in the container",
            Self::KernelModule => "the kernel module belongs to the host; check the extra options",
            Self::Manifest => "verify the cache; the installer file may be damaged",
            Self::Checksum => "verify the cache; the installer file may be damaged",
            Self::Unpacking => {
                "`--stage mount` unpacks nothing inside; otherwise /root there needs room, and must \
                 allow programs to run"
            }
            Self::CannotRun => {
                "the container needs glibc and the host's architecture, and a mount that may execute"
            }
            Self::Killed => "check the memory limit and the time limit, then run it again",
            Self::LostFiles => "see the log for the files and the reason, then run it again",
            Self::SanityFailed => "see the log for the reason, then run it again",
            Self::NoSanityCheck => "see the log, then run it again",
            Self::Unknown => "see the log",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "nvidia-installer log file '/var/log/nvidia-installer.log'\n\
        -> Installing NVIDIA driver version 580.76.05.\n\
        -> Driver file installation is complete.\n\
        -> Running post-install sanity check:\n\
        -> done.\n-> Post-install sanity check passed.\n\
        -> Installation of the NVIDIA Accelerated Graphics Driver for Linux-x86_64 \
        (version: 580.76.05) is now complete.\n";

    fn cause(exit_status: i32, output: &str, log: &str) -> Option<Cause> {
        match diagnose(exit_status, output, log) {
            Verdict::Success => None,
            Verdict::Failure { cause, .. } => Some(cause),
        }
    }

    #[test]
    fn success_needs_the_status_and_the_sentence() {
        assert_eq!(diagnose(0, "", GOOD), Verdict::Success);
        assert_eq!(cause(0, "", ""), Some(Cause::NoSanityCheck));
        assert_eq!(cause(1, "", GOOD), Some(Cause::Unknown));
        let failed = GOOD.replace("check passed", "check failed");
        assert_eq!(cause(0, "", &failed), Some(Cause::SanityFailed));
    }

    #[test]
    fn a_lost_file_is_no_success() {
        let log = format!(
            "WARNING: The NVIDIA driver installer has encountered the following error during \
             installation: 'Cannot install /usr/bin/nvidia-smi'. Continue? \
             (Answer: Continue installation)\n{GOOD}"
        );
        assert_eq!(cause(0, "", &log), Some(Cause::LostFiles));
    }

    #[test]
    fn the_expected_false_alarm_is_none() {
        let log = format!(
            "WARNING: The NVIDIA driver installer has encountered the following error during \
             installation: 'Cannot delete kernel/dkms.conf'. (Answer: Continue)\n{GOOD}"
        );
        assert_eq!(diagnose(0, "", &log), Verdict::Success);
    }

    #[test]
    fn known_causes_are_named() {
        let cases = [
            (
                1,
                "ERROR: Unable to find the module utility `modprobe`; please",
                Cause::ModuleUtility,
            ),
            (1, "ERROR: Unable to find the system utility `ldconfig`", Cause::SystemUtility),
            (1, "nvidia-installer: unrecognized option: \"--fancy\"", Cause::UnknownOption),
            (1, "ERROR: You appear to be running an X server; please exit X", Cause::XServer),
            (1, "ERROR: The Nouveau kernel driver is currently in use by your", Cause::Nouveau),
            (1, "An incomplete ERROR: installation of libglvnd was found", Cause::Libglvnd),
            (0, "ERROR: Unable to rename: Device or resource busy", Cause::MountedFiles),
            (
                1,
                "ERROR: Unable to create '/var/lib/nvidia' (Read-only file system)",
                Cause::ReadOnly,
            ),
            (1, "ERROR: Invalid .manifest file; error on line 9", Cause::Manifest),
            (2, "Error in check sums 1 2", Cause::Checksum),
            (2, "Error in md5 sums 1 2", Cause::Checksum),
            (15, "", Cause::Unpacking),
            (143, "", Cause::Killed),
            (135, "Bus error", Cause::DiskFull),
            (139, "", Cause::Killed),
            (127, "sh: nvidia-installer: not found", Cause::CannotRun),
        ];
        for (status, output, expected) in cases {
            assert_eq!(cause(status, output, ""), Some(expected), "{output}");
        }
    }

    #[test]
    fn a_failure_shows_the_decisive_line_and_the_end_of_the_log() {
        let log = format!("ERROR: No space left on device\n{}", "-> line\n".repeat(20));
        let Verdict::Failure { cause, hint, tail } = diagnose(1, "", &log) else { panic!() };
        assert_eq!(cause.to_string(), "the container's disk is full");
        assert!(hint.contains("enlarge"));
        assert_eq!(tail.lines().next(), Some("ERROR: No space left on device"));
        assert_eq!(tail.lines().count(), LAST_LINES + 1);
    }
}
