//! The units that run `nvstage refresh` at boot, before and after containers start: installed, enabled,
//! and removed again.
//!
//! Nothing is asked of systemd by hand that `systemctl` does, and nothing else on the host is
//! touched: an administrator's drop-ins stay.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::files;
use crate::host::process::{Command, Finished};
use crate::host::runlog::RunLog;
use crate::remedy;

/// The name of the unit that runs before containers start.
pub const UNIT: &str = "nvstage-refresh.service";

/// A unit, as it is shipped.
#[derive(Debug, Clone, Copy)]
struct Unit {
    name: &'static str,
    text: &'static str,
}

const BEFORE: Unit = Unit { name: UNIT, text: include_str!("../../dist/nvstage-refresh.service") };
const AFTER: Unit = Unit {
    name: "nvstage-refresh-guests.service",
    text: include_str!("../../dist/nvstage-refresh-guests.service"),
};
const UNITS: [Unit; 2] = [BEFORE, AFTER];
/// How a shipped unit names the program.
const SHIPPED: &str = "ExecStart=/usr/local/sbin/nvstage ";
const LIMIT: Duration = Duration::from_secs(60);
/// Directories that are emptied, at boot or by a clock.
const PASSING: [&str; 4] = ["/tmp", "/var/tmp", "/run", "/dev/shm"];
/// Groups whose members are as good as root on Debian: `root` and `staff`.
const TRUSTED_GROUPS: [u32; 2] = [0, 50];

/// What was done about the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It was as it should be.
    Nothing,
    /// It was installed, corrected, enabled or removed.
    Changed,
}

/// Where the unit lies that runs before containers start.
pub fn path(host: &Host) -> PathBuf {
    BEFORE.path(host)
}

/// Whether an administrator has masked that unit: a link to `/dev/null` in its place.
pub fn is_masked(host: &Host) -> bool {
    BEFORE.is_masked(host)
}

/// Installs the units for the program at this path, and enables them.
///
/// # Errors
/// Host error without systemd, for a unit that is masked, or when it cannot be done.
pub fn install(host: &Host, program: &Path, log: &RunLog) -> Result<Done> {
    refuse_without_systemd(host)?;
    UNITS.iter().try_for_each(|unit| unit.refuse_link(host))?;
    let (mut is_done, mut is_written) = (true, true);
    for unit in UNITS {
        let text = unit.text(program)?;
        if unit.is_written(host, &text)? {
            is_done &= unit.state(host, log)? == "UnitFileState=enabled\nNeedDaemonReload=no";
        } else {
            is_written = false;
            files::replace(&unit.path(host), text.as_bytes())?;
        }
    }
    if is_done && is_written {
        return Ok(Done::Nothing);
    }
    systemctl(host, &["daemon-reload"], log)?;
    systemctl(host, &["enable", BEFORE.name, AFTER.name], log)?;
    Ok(Done::Changed)
}

/// Disables the units and removes them, but for a mask. What they have done stays until the next boot.
///
/// # Errors
/// As [`install`].
pub fn remove(host: &Host, log: &RunLog) -> Result<Done> {
    refuse_without_systemd(host)?;
    let mut done = Done::Nothing;
    for unit in UNITS {
        if unit.remove(host, log)? == Done::Changed {
            done = Done::Changed;
        }
    }
    if done == Done::Changed {
        systemctl(host, &["daemon-reload"], log)?;
    }
    Ok(done)
}

impl Unit {
    fn path(self, host: &Host) -> PathBuf {
        host.paths.units().join(self.name)
    }

    fn is_masked(self, host: &Host) -> bool {
        let target = std::fs::read_link(self.path(host));
        target.is_ok_and(|target| target == Path::new("/dev/null"))
    }

    fn refuse_link(self, host: &Host) -> Result<()> {
        let path = self.path(host);
        if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Ok(());
        }
        Err(Error::host(format!("write `{}`: it is a symbolic link", path.display()))
            .because("a unit that is masked is one")
            .hint(format!("`systemctl unmask {}` lets it run again", self.name)))
    }

    fn is_written(self, host: &Host, text: &str) -> Result<bool> {
        let path = self.path(host);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(bytes == text.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(files::failed("read", &path, &error)),
        }
    }

    fn remove(self, host: &Host, log: &RunLog) -> Result<Done> {
        let path = self.path(host);
        let wanted = host.paths.units().join("multi-user.target.wants").join(self.name);
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        let has_unit = is_there(&path) && !self.is_masked(host);
        if !has_unit && !is_there(&wanted) {
            return Ok(Done::Nothing);
        }
        if has_unit {
            systemctl(host, &["disable", "--now", self.name], log)?;
        }
        // Left where somebody removed the unit's file alone.
        files::remove_file(&wanted)?;
        if has_unit {
            files::remove_file(&path)?;
        }
        // Without a failure there is nothing to forget, and it says so.
        let forget = Command::new("systemctl", LIMIT).args(["reset-failed", self.name]);
        host.processes.run(forget, log)?;
        Ok(Done::Changed)
    }

    /// The unit's text for a program.
    fn text(self, program: &Path) -> Result<String> {
        let fail = |why: &str| {
            let error = Error::host(format!("write `{}` into a unit", program.display()));
            error.because(why.to_owned()).hint("install the program as `/usr/local/sbin/nvstage`")
        };
        let path = program.to_str().ok_or_else(|| fail("it is not UTF-8"))?;
        if path.chars().any(char::is_control) {
            return Err(fail("there are control characters in it"));
        }
        if path.ends_with(" (deleted)") {
            return Err(fail("the file of the running program was removed or replaced"));
        }
        Ok(self.text.replace(SHIPPED, &format!("ExecStart={} ", quoted(path))))
    }

    /// `enabled`, and whether systemd has read the file as it is now.
    fn state(self, host: &Host, log: &RunLog) -> Result<String> {
        let arguments = ["show", self.name, "--property=UnitFileState,NeedDaemonReload"];
        let shown = systemctl(host, &arguments, log)?;
        let mut lines: Vec<String> =
            String::from_utf8_lossy(&shown.stdout).lines().map(str::to_owned).collect();
        lines.sort_by_key(|line| line.starts_with("NeedDaemonReload"));
        Ok(lines.join("\n"))
    }
}

/// Why a program should not be started by root from there, at every boot; one sentence each.
pub fn doubts(program: &Path) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(place) = PASSING.iter().find(|place| program.starts_with(place)) {
        doubts.push(format!("`{place}` is emptied from time to time"));
    }
    let names: Vec<_> = program.iter().collect();
    let is_build = |pair: &[&std::ffi::OsStr]| {
        pair[0] == "target" && (pair[1] == "debug" || pair[1] == "release")
    };
    if names.windows(2).any(is_build) {
        doubts.push("it lies where it was built, and the next build replaces it".to_owned());
    }
    for part in program.ancestors() {
        let Ok(found) = std::fs::metadata(part) else { continue };
        let shown = part.display();
        if found.uid() != 0 {
            doubts.push(format!("`{shown}` belongs to user {}, not to root", found.uid()));
        }
        let by_group = found.mode() & 0o020 != 0 && !TRUSTED_GROUPS.contains(&found.gid());
        if found.mode() & 0o002 != 0 || by_group {
            doubts.push(format!("others than root can write to `{shown}`"));
        }
    }
    doubts
}

fn refuse_without_systemd(host: &Host) -> Result<()> {
    if host.paths.systemd().is_dir() {
        return Ok(());
    }
    Err(Error::host("find systemd on this machine")
        .because(format!("`{}` is not there", host.paths.systemd().display()))
        .hint(format!(
            "let this machine's init run `{}` before containers are started",
            remedy::refresh()
        )))
}

/// As systemd reads it: `systemd.service(5)`, "Command lines". The program's own path is subject
/// to specifiers, not to variables.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    if path.chars().all(plain) {
        return path.to_owned();
    }
    let escaped = path.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%");
    format!("\"{escaped}\"")
}

fn systemctl(host: &Host, arguments: &[&str], log: &RunLog) -> Result<Finished> {
    let command = Command::new("systemctl", LIMIT).args(arguments.iter().copied());
    let shown = command.to_string();
    let finished = host.processes.run(command, log)?;
    if finished.succeeded() {
        return Ok(finished);
    }
    let error = Error::host(format!("run `{shown}`"));
    Err(error.because(finished.ended).because(finished.tail()))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files made by the tests themselves")]
mod tests {
    use super::*;

    fn started(path: &str) -> String {
        let text = BEFORE.text(Path::new(path)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart="));
        line.unwrap().to_owned()
    }

    #[test]
    fn the_unit_starts_the_program_where_it_lies() {
        assert_eq!(started("/usr/local/sbin/nvstage"), "/usr/local/sbin/nvstage refresh");
        assert_eq!(started("/opt/nv/nvstage"), "/opt/nv/nvstage refresh");
        assert_eq!(started("/opt/my tools/100%\"\\"), r#""/opt/my tools/100%%\"\\" refresh"#);
    }

    #[test]
    fn a_path_that_no_unit_can_name_is_refused() {
        for path in ["/opt/a\nExecStart=/bin/b", "/opt/nvstage (deleted)"] {
            let error = AFTER.text(Path::new(path)).unwrap_err();
            assert_eq!(error.code(), crate::error::ExitCode::Host);
        }
    }

    #[test]
    fn a_program_that_others_can_replace_is_doubtful() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("target/debug/nvstage");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o757)).unwrap();
        let found = doubts(&program).join("\n");
        assert!(found.contains("where it was built"), "{found}");
        assert!(found.contains(&format!("can write to `{}`", program.display())), "{found}");
        assert_eq!(doubts(Path::new("/usr/bin/env")), Vec::<String>::new());
    }

    #[test]
    fn a_program_in_a_directory_that_is_emptied_is_doubtful() {
        assert!(doubts(Path::new("/run/nvstage"))[0].contains("`/run` is emptied"));
    }
}
