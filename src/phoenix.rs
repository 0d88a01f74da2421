//! The Phoenix Hypervisor's contract: how its orchestrator calls the script that nvstage replaces,
//! the lines it expects in its log, and the file with its containers.
//!
//! The facts are from the public sources of the Phoenix Hypervisor scripts
//! (`phoenix_establish_hypervisor.sh`, `phoenix_lxc_configs.json`).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::gpu::GpuAssignment;
use crate::recipe::Overrides;
use crate::version::DriverVersion;

/// The name that the log's lines carry.
pub const SCRIPT_NAME: &str = "phoenix_hypervisor_lxc_common_nvidia.sh";

/// The variables of the contract, in the order in which arguments stand for them.
const VARIABLES: [&str; 4] =
    ["GPU_ASSIGNMENT", "NVIDIA_DRIVER_VERSION", "NVIDIA_REPO_URL", "NVIDIA_RUNFILE_URL"];

/// What one call of the script asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoenixRequest {
    /// The container.
    pub ctid: Ctid,
    /// Its GPUs; with `none` there is nothing to do.
    pub gpus: GpuAssignment,
    /// The driver's version.
    pub driver: Option<DriverVersion>,
    /// The CUDA repository.
    pub repository_url: Option<String>,
    /// The installer; an older form of the call, all in arguments, does not name it.
    pub installer_url: Option<String>,
}

impl PhoenixRequest {
    /// Reads a call: the container as the first argument, the rest from the environment. Further
    /// arguments stand for variables that are not set, in the order assignment, version,
    /// repository, installer. Blanks around a value do not matter.
    ///
    /// # Errors
    /// Invalid input for anything malformed, missing or empty.
    pub fn from_environment(
        arguments: &[String],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let Some((first, rest)) = arguments.split_first() else {
            return Err(Error::input("find out which container: no CTID is given")
                .hint(format!("call it as `{SCRIPT_NAME} CTID`")));
        };
        let ctid = positive_integer(first)?;
        if rest.len() > VARIABLES.len() {
            let count = arguments.len();
            return Err(Error::input(format!("understand {count} arguments"))
                .hint(format!("the arguments are CTID {}", VARIABLES.join(" "))));
        }
        let mut values = Vec::new();
        for (index, name) in VARIABLES.iter().enumerate() {
            values.push(value(name, environment(name), rest.get(index))?);
        }
        let is_old_form = rest.len() == 3;
        let missing: Vec<&str> = VARIABLES
            .iter()
            .zip(&values)
            .filter(|(name, value)| {
                value.is_none() && !(is_old_form && **name == "NVIDIA_RUNFILE_URL")
            })
            .map(|(name, _)| *name)
            .collect();
        if !missing.is_empty() {
            return Err(Error::input(format!("read {}: not set", missing.join(", "))).on(&ctid));
        }
        let mut values = values.into_iter();
        let mut next = || values.next().flatten();
        let gpus = GpuAssignment::parse(&next().unwrap_or_default())?;
        let driver = next().map(|text| DriverVersion::parse(&text)).transpose()?;
        let [repository_url, installer_url] = [next(), next()];
        Ok(Self { ctid, gpus, driver, repository_url, installer_url })
    }
}

fn positive_integer(text: &str) -> Result<Ctid> {
    let text = text.trim();
    let is_positive = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if text.is_empty() || !is_positive {
        return Err(Error::input(format!("`{text}` is not a container ID"))
            .hint("the CTID is a positive integer"));
    }
    Ctid::parse(text)
}

/// A value from the environment or, where that does not name it, from an argument.
fn value(name: &str, set: Option<String>, argument: Option<&String>) -> Result<Option<String>> {
    let set = set.map(|text| text.trim().to_owned());
    let argument = argument.map(|text| text.trim().to_owned());
    if set.as_deref() == Some("") || argument.as_deref() == Some("") {
        return Err(Error::input(format!("read {name}: it is empty")));
    }
    match (set, argument) {
        (Some(set), Some(argument)) if set != argument => Err(Error::input(format!(
            "read {name}: the environment says `{set}`, the argument `{argument}`"
        ))),
        (set, argument) => Ok(set.or(argument)),
    }
}

/// The level of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything that goes well.
    Info,
    /// What failed.
    Error,
}

/// A line of the log, without the newline; `now` looks like `2025-08-30 18:22:26`, local time.
pub fn log_line(now: &str, level: Level, text: &str) -> String {
    let level = match level {
        Level::Info => "INFO",
        Level::Error => "ERROR",
    };
    format!("{now} [{level}] {SCRIPT_NAME}: {text}")
}

/// The orchestrator's file with all its containers, `phoenix_lxc_configs.json`. The file is not
/// ours: what is unknown in it is ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct PhoenixConfigs {
    nvidia_driver_version: Option<String>,
    nvidia_repo_url: Option<String>,
    nvidia_runfile_url: Option<String>,
    lxc_configs: BTreeMap<String, ContainerEntry>,
}

#[derive(Debug, Clone, Deserialize)]
struct ContainerEntry {
    gpu_assignment: Option<String>,
}

impl PhoenixConfigs {
    /// Reads the file; `origin` is its path, for messages.
    ///
    /// # Errors
    /// Invalid input for anything but JSON with an object `lxc_configs`.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::input(format!("read `{origin}`")).because(error))
    }

    /// Version and URLs that hold for all containers.
    pub fn overrides(&self) -> Overrides {
        let given = |value: &Option<String>| {
            value.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        Overrides {
            driver: given(&self.nvidia_driver_version),
            repository_url: given(&self.nvidia_repo_url),
            installer_url: given(&self.nvidia_runfile_url),
            packages: None,
        }
    }

    /// The named containers in the order in which they are named, or all by number when none is;
    /// each with its GPUs. One without `gpu_assignment` gets none.
    ///
    /// # Errors
    /// Invalid input for a container that is not in the file, or a malformed assignment of one
    /// that is asked for.
    pub fn requests(&self, named: &[Ctid]) -> Result<Vec<(Ctid, GpuAssignment)>> {
        if !named.is_empty() {
            return named.iter().map(|ctid| self.request(ctid)).collect();
        }
        let mut all: Vec<Ctid> =
            self.lxc_configs.keys().map(|key| positive_integer(key)).collect::<Result<_>>()?;
        all.sort_by_key(|ctid| (ctid.as_str().len(), ctid.as_str().to_owned()));
        all.iter().map(|ctid| self.request(ctid)).collect()
    }

    fn request(&self, ctid: &Ctid) -> Result<(Ctid, GpuAssignment)> {
        let Some(entry) = self.lxc_configs.get(ctid.as_str()) else {
            let known: Vec<&str> = self.lxc_configs.keys().map(String::as_str).collect();
            return Err(Error::input("find it in `lxc_configs`: it is not there")
                .hint(format!("there are {}", known.join(", ")))
                .on(ctid));
        };
        let assignment = entry.gpu_assignment.as_deref().unwrap_or("none");
        let gpus = GpuAssignment::parse(assignment).map_err(|error| error.on(ctid))?;
        Ok((ctid.clone(), gpus))
    }
}

#[cfg(test)]
mod tests;
