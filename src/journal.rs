//! What nvstage has applied to a container, so that it can be undone and kept up to date.
//!
//! A [`Journal`] is one JSON file a container, `/var/lib/nvstage/containers/<CTID>.json`. It is
//! written before what it tells of is done: a line that it names may not have arrived, a line of
//! ours that it does not name cannot be there.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::apt::existing::SetAside;
use crate::container::config::LxcConfig;
use crate::container::passthrough::{DeviceNode, Method, OwnLine};
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::recipe::{CudaMethod, Userland};
use crate::remedy;
use crate::version::DriverVersion;

/// The version of the format that is written.
const SCHEMA: u32 = 2;

/// What nvstage has applied to one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    schema: u32,
    /// Which container.
    pub container: Ctid,
    /// The volume of its root file system then: another container may get the same number later.
    pub rootfs: Option<String>,
    /// Whether its GPUs are passed through now, or were taken out again.
    pub state: State,
    /// The recipe it was provisioned with, as the user named it: `driver-only`, a path.
    pub recipe: String,
    /// That recipe's text then: its file may be changed or go away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe_text: Option<String>,
    /// That recipe's profile.
    pub profile: String,
    /// What was replaced in it, as `--set` takes it: `packages=nvtop`.
    #[serde(default)]
    pub settings: Vec<String>,
    /// The GPUs it was given, as the user named them.
    pub gpus: String,
    /// How they are passed through.
    pub method: Method,
    /// The nodes it was given, with the numbers that they had then.
    pub nodes: Vec<DeviceNode>,
    /// The lines of its configuration that are nvstage's; of a detached one those that were, which
    /// a rollback brings back.
    pub lines: Vec<OwnLine>,
    /// The driver that was installed last, to its end; `None` before the first one, while another one
    /// is installed, and after it was removed.
    pub driver: Option<DriverVersion>,
    /// How it has its driver.
    #[serde(default)]
    pub userland: Userland,
    /// How it has CUDA.
    #[serde(default)]
    pub cuda: CudaMethod,
    /// The shared image of CUDA that it was given, `12.8-0123456789ab`.
    #[serde(default)]
    pub cuda_image: Option<String>,
    /// The packages that were installed for it and had not been there before.
    pub packages: Vec<String>,
    /// Packages that a removal or an installation is at work on, until it is over: a run that was
    /// killed leaves them to the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished_packages: Vec<String>,
    /// What was replaced in its apt sources, to be put back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<SetAside>,
    /// The last run that worked on it, to its end.
    #[serde(default)]
    pub last_run: Option<LastRun>,
    /// What the container was before a run that is not over starts or stops it; a run that was killed
    /// leaves it to the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Was>,
    /// A restart that was left to somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_restart: Option<PendingRestart>,
    /// What a run has begun to change and has not finished: it is at work, or was cut short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
}

/// A restart that was left to somebody else; it is over when the container has another first
/// process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingRestart {
    /// The first process of the container then, as this host numbers it.
    pub process: u32,
    /// When that process began, in clock ticks after the boot of the host.
    pub started: u64,
    /// Why it is needed.
    pub why: String,
}

/// What a run has begun to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unfinished {
    /// The run's work.
    pub work: UnfinishedWork,
    /// The driver that NVIDIA's installer writes, from its start to the check after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverVersion>,
    /// Absolute paths inside that the installer makes and that did not exist before it. One of them
    /// that exists and is not in the installer's record is half-written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// The work of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnfinishedWork {
    /// `provision`, or `sync`.
    Provision,
    /// `detach`.
    Detach,
    /// `detach --uninstall`.
    Uninstall,
    /// `detach --purge`.
    Purge,
}

impl Unfinished {
    /// The work, with no driver half-written.
    pub fn new(work: UnfinishedWork) -> Self {
        Self { work, driver: None, files: Vec::new() }
    }

    /// The same work in the place of an earlier one that was cut short, whose half-written driver is
    /// still known.
    #[must_use]
    pub fn after(self, earlier: Option<&Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        Self { work: self.work, driver: earlier.driver.clone(), files: earlier.files.clone() }
    }

    /// True if the container is being taken out of nvstage's hands.
    pub fn is_removal(&self) -> bool {
        self.work != UnfinishedWork::Provision
    }

    /// The state in words.
    pub fn text(&self) -> String {
        match (self.work, &self.driver) {
            (UnfinishedWork::Provision, Some(version)) => {
                format!("incomplete: driver {version} is not installed to the end")
            }
            (UnfinishedWork::Provision, None) => {
                "incomplete: it is not provisioned to the end".to_owned()
            }
            _ => "incomplete: it is not detached to the end".to_owned(),
        }
    }

    /// The command that finishes it.
    pub fn command(&self, ctid: &Ctid) -> String {
        match self.work {
            UnfinishedWork::Provision => remedy::provision(ctid),
            UnfinishedWork::Detach => remedy::detach(ctid, ""),
            UnfinishedWork::Uninstall => remedy::detach(ctid, " --uninstall"),
            UnfinishedWork::Purge => remedy::detach(ctid, " --purge"),
        }
    }
}

/// What a container was before a run changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Was {
    /// Whether it ran.
    pub power: Power,
    /// When that was written down, to the second: right before the change.
    pub at: Timestamp,
}

impl Was {
    /// What it is now.
    pub fn now(power: Power) -> Self {
        let now = Timestamp::now();
        Self { power, at: Timestamp::from_second(now.as_second()).unwrap_or(now) }
    }
}

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    Running,
    /// It does not.
    Stopped,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastRun {
    /// When it ended, to the second.
    pub at: Timestamp,
    /// The verb: `provision`.
    pub command: String,
    /// The exit code for this container.
    pub exit: u8,
}

/// Of a journal of any version.
#[derive(Deserialize)]
struct Versioned {
    schema: u32,
}

/// Whether a container has its GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has them.
    Attached,
    /// `detach` has taken them out.
    Detached,
}

impl Journal {
    /// A container that nothing was applied to yet.
    pub fn new(container: &Ctid) -> Self {
        Self {
            schema: SCHEMA,
            container: container.clone(),
            rootfs: None,
            state: State::Detached,
            recipe: String::new(),
            recipe_text: None,
            profile: String::new(),
            settings: Vec::new(),
            gpus: String::new(),
            method: Method::Mount,
            nodes: Vec::new(),
            lines: Vec::new(),
            driver: None,
            userland: Userland::default(),
            cuda: CudaMethod::default(),
            cuda_image: None,
            packages: Vec::new(),
            unfinished_packages: Vec::new(),
            set_aside: Vec::new(),
            last_run: None,
            was: None,
            pending_restart: None,
            unfinished: None,
        }
    }

    /// Whether it tells of the container with this configuration, and not of one that had its number
    /// before: the volume is the same, or a line of ours is there. (A volume may have been moved.)
    pub fn is_of(&self, config: &LxcConfig) -> bool {
        let has = |line: &OwnLine| {
            let mut lines = config.lines();
            line.text.as_ref().is_some_and(|text| lines.any(|found| found.text == text.as_str()))
        };
        self.rootfs.is_none() || self.rootfs == rootfs(config) || self.lines.iter().any(has)
    }

    /// Packages that are ours, with those of a run that was cut short.
    pub fn all_packages(&self) -> Vec<String> {
        let unfinished =
            self.unfinished_packages.iter().filter(|name| !self.packages.contains(name));
        self.packages.iter().chain(unfinished).cloned().collect()
    }

    /// Takes note of packages before a removal or an installation begins to work on them.
    pub fn begin(&mut self, packages: &[String]) {
        for name in packages {
            if !self.unfinished_packages.contains(name) {
                self.unfinished_packages.push(name.clone());
            }
        }
    }

    /// Reads a file; `origin` is its path, for the message.
    ///
    /// # Errors
    /// Host error for a file that is damaged or written by a newer nvstage.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let fail = |why: String| {
            Error::host(format!("read `{origin}`, what nvstage has applied to a container"))
                .because(why)
                .hint("move it away: its lines are then taken for somebody else's")
        };
        // Before the rest: another schema has other fields.
        let Versioned { schema } =
            serde_json::from_str(text).map_err(|error| fail(error.to_string()))?;
        if !(1..=SCHEMA).contains(&schema) {
            return Err(fail(format!("its schema is {schema}; this nvstage reads 1 to {SCHEMA}")));
        }
        let journal: Self = serde_json::from_str(text).map_err(|error| fail(error.to_string()))?;
        Ok(Self { schema: SCHEMA, ..journal })
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        // Strings, numbers and lists alone: there is nothing that JSON could refuse.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// The volume or directory of a container's root file system.
pub fn rootfs(config: &LxcConfig) -> Option<String> {
    let value = config.value("rootfs").or_else(|| config.value("lxc.rootfs.path"))?;
    Some(value.split(',').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::Dialect;

    const VERSION_1: &str = include_str!("../tests/journals/schema-1.json");
    const VERSION_2: &str = include_str!("../tests/journals/schema-2.json");

    #[test]
    fn a_journal_of_schema_2_is_read_and_written_again_as_it_was() {
        let journal = Journal::parse(VERSION_2, "x").unwrap();
        assert_eq!((journal.container.as_str(), journal.userland), ("201", Userland::Share));
        assert_eq!(journal.to_text(), VERSION_2);
    }

    #[test]
    fn what_a_container_was_is_kept_until_a_run_is_over() {
        let mut journal = Journal::parse(VERSION_2, "x").unwrap();
        journal.was = Some(Was { power: Power::Stopped, at: Timestamp::UNIX_EPOCH });
        let text = journal.to_text();
        assert!(text.contains("\"power\": \"stopped\""), "{text}");
        assert_eq!(Journal::parse(&text, "x").unwrap(), journal);
    }

    #[test]
    fn packages_at_work_on_are_kept_until_that_is_over() {
        let mut journal = Journal::parse(VERSION_2, "x").unwrap();
        assert!(!journal.to_text().contains("unfinished"));
        journal.unfinished_packages.push("cuda-nvcc-12-8".to_owned());
        assert_eq!(Journal::parse(&journal.to_text(), "x").unwrap(), journal);
    }

    #[test]
    fn what_was_set_aside_of_apts_sources_is_kept() {
        let mut journal = Journal::parse(VERSION_2, "x").unwrap();
        let text = |text: &str| text.to_owned();
        journal.set_aside =
            vec![SetAside { path: text("/etc/apt/a.list"), old: text("a\n"), new: text("b") }];
        assert_eq!(Journal::parse(&journal.to_text(), "x").unwrap(), journal);
    }

    #[test]
    fn what_is_not_finished_is_kept_and_a_journal_without_it_is_one_of_finished_work() {
        let mut journal = Journal::parse(VERSION_2, "x").unwrap();
        assert_eq!(journal.unfinished, None);
        let mut unfinished = Unfinished::new(UnfinishedWork::Provision);
        unfinished.driver = Some(DriverVersion::parse("580.95.05").unwrap());
        unfinished.files = vec!["/usr/bin/nvidia-smi".to_owned()];
        journal.unfinished = Some(Unfinished::new(UnfinishedWork::Purge).after(Some(&unfinished)));
        let text = journal.to_text();
        assert!(text.contains("\"work\": \"purge\""), "{text}");
        assert_eq!(Journal::parse(&text, "x").unwrap(), journal);
        assert_eq!(journal.unfinished.unwrap().files, unfinished.files);
    }

    #[test]
    fn a_journal_of_schema_1_tells_of_a_driver_and_packages_inside() {
        let journal = Journal::parse(VERSION_1, "x").unwrap();
        assert_eq!((journal.userland, journal.cuda), (Userland::Installer, CudaMethod::Apt));
        assert!(journal.to_text().contains("\"schema\": 2"));
    }

    #[test]
    fn a_container_that_got_the_number_of_another_one_has_no_journal() {
        let journal = Journal::parse(VERSION_1, "x").unwrap();
        let config = |text: &str| LxcConfig::parse(text.as_bytes(), Dialect::Proxmox);
        assert!(journal.is_of(&config("rootfs: local:subvol-201-disk-0,size=8G\n")));
        assert!(!journal.is_of(&config("rootfs: local:subvol-201-disk-1,size=8G\n")));
        let moved = "rootfs: fast:x\nlxc.cgroup2.devices.allow: c 508:0 rw\n";
        assert!(journal.is_of(&config(moved)));
    }

    #[test]
    fn a_damaged_or_newer_journal_is_an_error_that_names_the_file() {
        for text in ["", "{}", &VERSION_1.replace("\"schema\": 1", "\"schema\": 3")] {
            let error = Journal::parse(text, "/x/201.json").unwrap_err();
            assert!(error.what().contains("/x/201.json"), "{error}");
        }
    }

    #[test]
    fn a_newer_journal_is_known_by_its_schema_whatever_else_is_in_it() {
        let text = VERSION_1.replace("\"schema\": 1", "\"schema\": 3, \"new\": []");
        let error = Journal::parse(&text, "x").unwrap_err();
        assert_eq!(error.causes(), ["its schema is 3; this nvstage reads 1 to 2"]);
    }
}
