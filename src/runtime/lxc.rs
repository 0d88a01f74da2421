//! Plain LXC: `lxc-start`, `lxc-stop`, `lxc-attach`, and `/var/lib/lxc/<name>/config`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DeviceEntries, Runtime, STATE_LIMIT, containers_in};
use crate::container::config::Dialect;
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::files::Lock;
use crate::host::process::Command;

/// Containers of the LXC on this host.
#[derive(Debug)]
pub struct PlainLxc<'a> {
    host: &'a Host,
}

impl<'a> PlainLxc<'a> {
    /// The containers of this host.
    pub fn new(host: &'a Host) -> Self {
        Self { host }
    }

    fn tool(program: &str, ctid: &Ctid, limit: Duration) -> Command {
        Command::new(program, limit).args(["-n", ctid.as_str()])
    }
}

impl Runtime for PlainLxc<'_> {
    fn name(&self) -> &'static str {
        "lxc"
    }

    fn dialect(&self) -> Dialect {
        Dialect::Lxc
    }

    fn containers(&self) -> Result<Vec<Ctid>> {
        containers_in(&self.host.paths.lxc(), |entry| {
            let ctid = Ctid::parse(entry.file_name().to_str()?).ok()?;
            entry.path().join("config").exists().then_some(ctid)
        })
    }

    fn locate(&self, ctid: &Ctid) -> Result<PathBuf> {
        let config = self.host.paths.lxc().join(ctid.as_str()).join("config");
        if config.exists() {
            return Ok(config);
        }
        Err(Error::not_found("find it: it does not exist")
            .hint("`lxc-ls -f` shows the containers of this machine")
            .on(ctid))
    }

    fn device_entries(&self) -> DeviceEntries {
        DeviceEntries::Unknown("plain LXC has none".to_owned())
    }

    fn attach_command(&self, ctid: &Ctid, _entries: &[(&str, &str)], _digest: &str) -> Command {
        // Never asked for: there are no entries.
        Self::tool("false", ctid, STATE_LIMIT)
    }

    fn lock_configuration(&self, _ctid: &Ctid) -> Result<Option<Lock>> {
        // LXC has no lock on its configuration; the comparison with what was read remains.
        Ok(None)
    }

    fn start_command(&self, ctid: &Ctid) -> Command {
        Self::tool("lxc-start", ctid, STATE_LIMIT).arg("-d")
    }

    fn stop_command(&self, ctid: &Ctid) -> Command {
        let seconds = STATE_LIMIT.as_secs().to_string();
        Self::tool("lxc-stop", ctid, STATE_LIMIT + Duration::from_secs(30))
            .args(["--timeout", &seconds])
    }

    fn exec_prefix(&self, ctid: &Ctid) -> Command {
        Self::tool("lxc-attach", ctid, STATE_LIMIT).args(["--clear-env", "--"])
    }

    fn push_command(&self, ctid: &Ctid, file: &Path, to: &str) -> Result<Command> {
        let input = File::open(file)
            .map_err(|error| Error::install(format!("open `{}`", file.display())).because(error))?;
        let script = "umask 077; cat > \"$1\"";
        let mut command = self.exec_prefix(ctid).args(["sh", "-c", script, "nvstage", to]);
        command.input = Some(input);
        command.limit = Duration::from_secs(600);
        Ok(command)
    }
}
