//! The Phoenix Hypervisor's contract: its environment variables, its log lines, its list of
//! containers.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::gpu::GpuAssignment;
use crate::recipe::Overrides;
use crate::version::DriverVersion;

/// The name under which the replaced script is called, and which its log lines carry.
pub const SCRIPT_NAME: &str = "phoenix_hypervisor_lxc_common_nvidia.sh";

/// One call of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoenixRequest {
    /// The container.
    pub ctid: Ctid,
    /// `GPU_ASSIGNMENT`.
    pub gpus: GpuAssignment,
    /// `NVIDIA_DRIVER_VERSION`.
    pub driver: DriverVersion,
    /// `NVIDIA_REPO_URL`.
    pub repository_url: String,
    /// `NVIDIA_RUNFILE_URL`.
    pub installer_url: String,
}

/// The variables, in the order in which they may also follow the CTID as arguments.
const VARIABLES: [&str; 4] =
    ["GPU_ASSIGNMENT", "NVIDIA_DRIVER_VERSION", "NVIDIA_REPO_URL", "NVIDIA_RUNFILE_URL"];

impl PhoenixRequest {
    /// Reads a call: exactly one argument, the CTID, and four variables that must be set and not
    /// empty. Where a variable is not set, an argument after the CTID stands for it.
    ///
    /// # Errors
    /// Invalid input.
    pub fn from_environment(
        arguments: &[String],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let usage = format!("usage: {SCRIPT_NAME} CTID, with {} set", VARIABLES.join(", "));
        let Some((ctid, extra)) = arguments.split_first() else {
            return Err(Error::input("find out which container: no CTID is given").hint(usage));
        };
        if extra.len() > VARIABLES.len() {
            let what = format!("understand the arguments: {} after the CTID", extra.len());
            return Err(Error::input(what).hint(usage));
        }
        let is_number = ctid.bytes().all(|b| b.is_ascii_digit()) && !ctid.starts_with('0');
        if ctid.is_empty() || !is_number {
            return Err(Error::input(format!("use `{ctid}` as a CTID: it is not a positive integer")).hint(usage));
        }
        let mut values = Vec::new();
        for (index, name) in VARIABLES.iter().enumerate() {
            let value = environment(name).or_else(|| extra.get(index).cloned());
            let value = value.map(|value| value.trim().to_owned());
            match value {
                Some(value) if !value.is_empty() => values.push(value),
                Some(_) => return Err(Error::input(format!("use {name}: it is empty")).hint(usage)),
                None => return Err(Error::input(format!("use {name}: it is not set")).hint(usage)),
            }
        }
        Ok(Self {
            ctid: Ctid::parse(ctid)?,
            gpus: GpuAssignment::parse(&values[0])?,
            driver: DriverVersion::parse(&values[1])?,
            repository_url: values.swap_remove(2),
            installer_url: values.swap_remove(2),
        })
    }
}

/// How important a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `INFO`, on stdout.
    Info,
    /// `ERROR`, on stderr.
    Error,
}

/// A line of the log: `2025-08-30 18:22:26 [INFO] phoenix_hypervisor_lxc_common_nvidia.sh: text`;
/// `now` is local time in this form.
pub fn log_line(now: &str, level: Level, text: &str) -> String {
    let level = match level {
        Level::Info => "INFO",
        Level::Error => "ERROR",
    };
    format!("{now} [{level}] {SCRIPT_NAME}: {text}")
}

/// `phoenix_lxc_configs.json`. The file is not ours: unknown keys are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct PhoenixConfigs {
    nvidia_driver_version: Option<String>,
    nvidia_repo_url: Option<String>,
    nvidia_runfile_url: Option<String>,
    lxc_configs: BTreeMap<String, PhoenixContainer>,
}

#[derive(Debug, Clone, Deserialize)]
struct PhoenixContainer {
    gpu_assignment: Option<String>,
}

impl PhoenixConfigs {
    /// Reads the file; `origin` is its path.
    ///
    /// # Errors
    /// Invalid input when it is not of this form.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::input(format!("read `{origin}`")).because(error))
    }

    /// Version and URLs of the file, for the recipe.
    pub fn overrides(&self) -> Overrides {
        let present = |value: &Option<String>| {
            value.as_deref().map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
        };
        Overrides {
            driver: present(&self.nvidia_driver_version),
            repository_url: present(&self.nvidia_repo_url),
            installer_url: present(&self.nvidia_runfile_url),
            packages: None,
        }
    }

    /// The named containers and their GPUs, or all of the file in the order of their numbers. A
    /// container without an assignment gets none.
    ///
    /// # Errors
    /// Invalid input for a container that the file does not have, or a malformed assignment.
    pub fn requests(&self, named: &[Ctid]) -> Result<Vec<(Ctid, GpuAssignment)>> {
        let mut all: Vec<Ctid> =
            self.lxc_configs.keys().map(|name| Ctid::parse(name)).collect::<Result<_>>()?;
        all.sort_by_key(|ctid| (ctid.as_str().len(), ctid.clone()));
        let wanted = if named.is_empty() { &all[..] } else { named };
        let request = |ctid: &Ctid| {
            let container = self.lxc_configs.get(ctid.as_str()).ok_or_else(|| {
                let list: Vec<&str> = all.iter().map(Ctid::as_str).collect();
                Error::input(format!("find container {ctid} in the file: it has {}", list.join(", ")))
            })?;
            let text = container.gpu_assignment.as_deref().unwrap_or("none");
            let gpus = GpuAssignment::parse(text).map_err(|error| error.on(ctid))?;
            Ok((ctid.clone(), gpus))
        };
        wanted.iter().map(request).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETE: [(&str, &str); 4] = [
        ("GPU_ASSIGNMENT", " 0, 1 "),
        ("NVIDIA_DRIVER_VERSION", "580.76.05"),
        ("NVIDIA_REPO_URL", "https://repository"),
        ("NVIDIA_RUNFILE_URL", "https://installer"),
    ];

    fn request(arguments: &[&str], without: &str) -> Result<PhoenixRequest> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let environment = |name: &str| {
            let found = COMPLETE.iter().find(|(key, _)| *key == name && *key != without)?;
            Some(found.1.to_owned())
        };
        PhoenixRequest::from_environment(&arguments, &environment)
    }

    #[test]
    fn a_complete_call_is_understood() {
        let request = request(&["201"], "").unwrap();
        assert_eq!(request.gpus, GpuAssignment::Indices(vec![0, 1]));
        assert_eq!(request.repository_url, "https://repository");
        assert_eq!(request.installer_url, "https://installer");
    }

    #[test]
    fn an_argument_stands_for_a_variable_that_is_not_set() {
        let request = request(&["201", "none"], "GPU_ASSIGNMENT").unwrap();
        assert_eq!(request.gpus, GpuAssignment::None);
    }

    #[test]
    fn anything_missing_or_malformed_is_invalid_input() {
        for arguments in [&[][..], &["0"], &["-1"], &["x"], &["01"], &[""], &["1", "", "", "", "", ""]] {
            let error = request(arguments, "").unwrap_err();
            assert_eq!(error.code(), crate::error::ExitCode::Input, "{arguments:?}");
        }
        for (name, _) in COMPLETE {
            let error = request(&["201"], name).unwrap_err();
            assert!(error.what().contains(name), "{error}");
        }
    }

    #[test]
    fn the_log_line_has_the_scripts_form() {
        let line = log_line("2025-08-30 18:22:26", Level::Info, "done");
        let expected = "2025-08-30 18:22:26 [INFO] phoenix_hypervisor_lxc_common_nvidia.sh: done";
        assert_eq!(line, expected);
    }

    #[test]
    fn the_file_gives_assignments_and_ignores_what_it_does_not_know() {
        let text = r#"{"$schema": "x", "nvidia_driver_version": "580.76.05", "more": {},
            "lxc_configs": {"950": {"gpu_assignment": "0, 1", "features": ["nvidia"]},
                            "99": {"gpu_assignment": "none", "features": "nesting=1"},
                            "101": {"name": "without"}}}"#;
        let configs = PhoenixConfigs::parse(text, "x.json").unwrap();
        let all = configs.requests(&[]).unwrap();
        let seen: Vec<_> = all.iter().map(|(ctid, gpus)| format!("{ctid}={gpus}")).collect();
        assert_eq!(seen, ["99=none", "101=none", "950=0,1"]);
        assert_eq!(configs.overrides().driver.as_deref(), Some("580.76.05"));
        let error = configs.requests(&[Ctid::parse("7").unwrap()]).unwrap_err();
        assert!(error.what().contains("it has 99, 101, 950"), "{error}");
        assert!(PhoenixConfigs::parse("{", "x.json").is_err());
    }
}
