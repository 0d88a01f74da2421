//! What every container has, seen from outside: by journals, configurations and the kernel's files.
//! No process is run, but for `lxc-info` where those files do not tell.
//!
//! Where the facts come from:
//!
//! | fact | source |
//! |---|---|
//! | method, recipe, last run | the journal, `/var/lib/nvstage/containers/<CTID>.json` |
//! | GPUs, template | the container's configuration, live section |
//! | running, first process | [`crate::host::running`] |
//! | driver of a running container | the record of NVIDIA's installer in its root, `/var/lib/nvidia/log`; of a shared one the names in the tree that it sees |
//! | CUDA of a running container | its directories `/usr/local/cuda-X.Y` |
//! | the same of a stopped one | the journal; a shared driver is what it gets at its next start |
//!
//! Order of events: [`Machine::read`] once, [`Machine::containers`] for all of them.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io;

use serde::Serialize;

use crate::container::config::LxcConfig;
use crate::container::driver_files;
use crate::ctid::Ctid;
use crate::engine::drift::{self, Drift, Kind};
use crate::engine::sharing::{self, GpuUse, Share};
use crate::engine::{journal, shared, survey, tenant};
use crate::error::{Error, ExitCode, Result};
use crate::host::Host;
use crate::host::devices::{self, Inventory};
use crate::host::rootfs::ContainerRoot;
use crate::host::runlog::RunLog;
use crate::host::running::{self, Running};
use crate::journal::{Journal, LastRun, State as Passing};
use crate::recipe::{CudaMethod, Userland};
use crate::runtime::{Runtime, Session};
use crate::version::DriverVersion;

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs.
    Running,
    /// It does not.
    Stopped,
    /// It never can: clones are made of it.
    Template,
    /// There is a journal of it, and no configuration on this node.
    Gone,
    /// Its configuration cannot be read, or LXC does not tell.
    Unknown,
}

/// Where a version was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// In the running container.
    Inside,
    /// In the journal: as nvstage left it.
    Journal,
    /// On the host: the container gets it at its next start.
    Host,
}

/// A version, and where it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen<T> {
    /// The version.
    pub version: T,
    /// Where it was seen.
    pub source: Source,
}

/// One container.
#[derive(Debug, Clone, Serialize)]
pub struct ContainerStatus {
    /// Which one.
    pub container: Ctid,
    /// Whether it runs.
    pub state: State,
    /// How it has its driver; `None` for one that nvstage does not manage.
    pub method: Option<Userland>,
    /// Its driver.
    pub driver: Option<Seen<DriverVersion>>,
    /// How it has CUDA; `None` for one that nvstage does not manage.
    pub cuda_method: Option<CudaMethod>,
    /// Its versions of CUDA, `12.8`.
    pub cuda: Vec<Seen<String>>,
    /// Its GPUs.
    pub gpus: Vec<GpuUse>,
    /// The lines of its configuration that bring a driver of the host's by another way than
    /// nvstage's.
    pub driver_lines: Vec<String>,
    /// The other containers that have something of the same GPUs; templates, which never run, are
    /// not among them.
    pub shared_with: Vec<Ctid>,
    /// What is not as it should be.
    pub drift: Vec<Drift>,
    /// What is to be known of it, and needs nothing to be done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The last run that worked on it.
    pub last_run: Option<LastRun>,
}

/// What is true of the host for all containers, read once.
pub struct Machine<'a> {
    host: &'a Host,
    runtime: &'a dyn Runtime,
    /// The GPUs and what the kernel module says.
    pub inventory: Inventory,
    /// The version that containers get which share the host's driver.
    pub shared_driver: Option<DriverVersion>,
    /// The one that they would get if its image were mounted.
    pub unmounted_driver: Option<DriverVersion>,
    /// What of the host could not be read; the rest is told all the same.
    pub problems: Vec<Error>,
    running: Option<Running>,
    majors: OnceCell<BTreeSet<u64>>,
}

/// A container's own files.
pub(super) struct Files {
    pub(super) journal: Option<Journal>,
    pub(super) config: LxcConfig,
    /// What is missing of the driver in the running container.
    pub(super) lacking: Vec<String>,
}

impl<'a> Machine<'a> {
    /// Reads it.
    pub fn read(host: &'a Host, runtime: &'a dyn Runtime) -> Self {
        let (inventory, errors) = Inventory::read_what_answers(&host.paths);
        let problems = errors.into_iter().map(|(_, error)| error).collect();
        let mut shared_driver = shared::current(&host.paths);
        let unmounted_driver = shared_driver.take_if(|_| !shared::is_there(&host.paths));
        Self {
            host,
            runtime,
            inventory,
            shared_driver,
            unmounted_driver,
            problems,
            running: Running::read(&host.paths).ok(),
            majors: OnceCell::new(),
        }
    }

    /// Every container of this node that has a journal, a GPU or a driver, numbers by their size; or those that
    /// are named, whatever they have, and an error for each of them of which there is neither a
    /// configuration nor a journal.
    ///
    /// # Errors
    /// Host error when they cannot be listed. What is wrong with one of them is its drift.
    pub fn containers(&self, named: &[Ctid]) -> Result<(Vec<ContainerStatus>, Vec<Error>)> {
        let managed: BTreeSet<Ctid> = journal::managed(&self.host.paths)?.into_iter().collect();
        let mut all: BTreeSet<Ctid> = self.runtime.containers()?.into_iter().collect();
        all.extend(managed.iter().cloned());
        let missing = named.iter().filter(|ctid| !all.contains(ctid));
        let missing = missing.filter_map(|ctid| Some(self.runtime.locate(ctid).err()?.on(ctid)));
        let missing: Vec<Error> = missing.collect();
        let mut all: Vec<Ctid> = all.into_iter().collect();
        all.sort_by_key(|ctid| (ctid.as_str().parse().unwrap_or(u32::MAX), ctid.clone()));
        let looked_at = all.into_iter().map(|ctid| self.container(ctid));
        let mut found = looked_at.collect::<Result<Vec<_>>>()?;
        let shares: Vec<Share> = found.iter().filter_map(share).collect();
        for status in &mut found {
            if let Some(share) = share(status) {
                status.shared_with = sharing::partners(&shares, &share);
            }
        }
        found.retain(|status| match named.is_empty() {
            true => {
                managed.contains(&status.container)
                    || !status.gpus.is_empty()
                    || !status.driver_lines.is_empty()
                    || !status.drift.is_empty()
            }
            false => named.contains(&status.container),
        });
        Ok((found, missing))
    }

    fn container(&self, ctid: Ctid) -> Result<ContainerStatus> {
        self.host.cancel.check()?;
        let mut status = ContainerStatus {
            container: ctid,
            state: State::Unknown,
            method: None,
            driver: None,
            cuda_method: None,
            cuda: Vec::new(),
            gpus: Vec::new(),
            driver_lines: Vec::new(),
            shared_with: Vec::new(),
            drift: Vec::new(),
            notes: Vec::new(),
            last_run: None,
        };
        let journal = journal::load(&self.host.paths, &status.container);
        let is_managed = !matches!(journal, Ok(None));
        let journal = journal.unwrap_or_else(|error| {
            status.drift.push(Drift::of_error(Kind::Journal, &error));
            None
        });
        if let Some(journal) = &journal {
            (status.method, status.cuda_method) = (Some(journal.userland), Some(journal.cuda));
            status.last_run.clone_from(&journal.last_run);
        }
        match self.configuration(&status.container) {
            Ok(config) => {
                let lacking = Vec::new();
                self.look(&mut status, Files { journal, config, lacking });
            }
            Err(error) if error.code() == ExitCode::NotFound => {
                if is_managed {
                    status.state = State::Gone;
                    status.drift.push(drift::gone(&status.container, &error, &self.host.paths));
                }
            }
            Err(error) => status.drift.push(Drift::of_error(Kind::Configuration, &error)),
        }
        Ok(status)
    }

    fn configuration(&self, ctid: &Ctid) -> Result<LxcConfig> {
        let path = self.runtime.locate(ctid)?;
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found("find it: it went away just now"),
            _ => Error::host(format!("read `{}`", path.display())).because(error),
        })?;
        Ok(LxcConfig::parse(&bytes, self.runtime.dialect()))
    }

    fn look(&self, status: &mut ContainerStatus, mut files: Files) {
        let ctid = status.container.clone();
        if files.journal.as_ref().is_some_and(|journal| !journal.is_of(&files.config)) {
            files.journal = None;
            status.drift.push(drift::of_another(&ctid, &self.host.paths));
            (status.method, status.cuda_method, status.last_run) = (None, None, None);
        }
        status.gpus = sharing::gpus_of(&files.config, &self.inventory);
        let lines = driver_files::lines(&files.config).into_iter();
        status.driver_lines = lines.map(|line| line.text).collect();
        let root = match self.process(&ctid, &files.config) {
            Ok((state, pid)) => {
                status.state = state;
                pid.and_then(|pid| self.root(pid))
            }
            Err(error) => {
                status.drift.push(Drift::of_error(Kind::State, &error));
                None
            }
        };
        let journal = files.journal.as_ref();
        status.driver = self.driver(root.as_ref(), journal);
        status.cuda = cuda(root.as_ref(), journal);
        if let Some(root) = root.as_ref().filter(|_| status.driver.is_some()) {
            files.lacking = self.lacking(root, journal);
        }
        status.notes.extend(drift::of_template(self, status));
        status.drift.extend(drift::of(self, status, &files));
    }

    /// Whether the container runs, and its first process.
    fn process(&self, ctid: &Ctid, config: &LxcConfig) -> Result<(State, Option<u32>)> {
        if config.is_template() {
            return Ok((State::Template, None));
        }
        if self.running.as_ref().is_some_and(|running| !running.has(ctid)) {
            return Ok((State::Stopped, None));
        }
        let known = self.running.as_ref().and_then(|_| {
            let pid = running::init_process(&self.host.paths, ctid)?;
            Some((State::Running, Some(pid)))
        });
        known.map_or_else(|| self.asked(ctid), Ok)
    }

    /// The same as LXC says it.
    fn asked(&self, ctid: &Ctid) -> Result<(State, Option<u32>)> {
        let log = RunLog::none();
        let session = Session { host: self.host, runtime: self.runtime, ctid, log: &log };
        Ok(match session.init_process()? {
            Some(pid) => (State::Running, Some(pid)),
            None => (State::Stopped, None),
        })
    }

    /// The root of a running container; `None` when it has stopped meanwhile.
    fn root(&self, pid: u32) -> Option<ContainerRoot> {
        let root = self.host.paths.host_path(&format!("/proc/{pid}/root"));
        ContainerRoot::of_directory(&root).ok()
    }

    fn driver(
        &self,
        root: Option<&ContainerRoot>,
        journal: Option<&Journal>,
    ) -> Option<Seen<DriverVersion>> {
        let userland = journal.map(|journal| journal.userland);
        let unfinished = journal.and_then(|journal| journal.unfinished.as_ref());
        if unfinished.is_some_and(|unfinished| unfinished.driver.is_some()) {
            // The installer's record names it from its first file on.
            return None;
        }
        let seen = |version, source| Seen { version, source };
        match (root, userland) {
            (Some(root), Some(Userland::Share)) => {
                tenant::version_inside(root).map(|version| seen(version, Source::Inside))
            }
            (Some(root), _) => {
                let version = survey::record(root).and_then(|record| record.version);
                version.map(|version| seen(version, Source::Inside))
            }
            (None, Some(Userland::Share)) => {
                self.shared_driver.clone().map(|version| seen(version, Source::Host))
            }
            (None, _) => {
                let version = journal.and_then(|journal| journal.driver.clone());
                version.map(|version| seen(version, Source::Journal))
            }
        }
    }

    /// What a running container lacks of its driver, and of what it shares.
    fn lacking(&self, root: &ContainerRoot, journal: Option<&Journal>) -> Vec<String> {
        let shared = journal.map(|journal| tenant::lacking(&self.host.paths, root, journal));
        let mut lacking = shared.unwrap_or_default();
        if journal.is_none_or(|journal| journal.userland == Userland::Installer)
            && let Some(record) = survey::record(root)
        {
            lacking.extend(survey::lacking(root, &record));
        }
        lacking
    }

    pub(super) fn host(&self) -> &Host {
        self.host
    }

    /// The majors that drivers have now; none where that is not known.
    pub(super) fn majors(&self) -> &BTreeSet<u64> {
        self.majors.get_or_init(|| {
            let majors = devices::majors(&self.host.paths);
            majors.map(|majors| majors.into_values().collect()).unwrap_or_default()
        })
    }
}

/// What a container that can run has of the GPUs.
fn share(status: &ContainerStatus) -> Option<Share> {
    let has_any = !status.gpus.is_empty() && status.state != State::Template;
    let (container, gpus) = (&status.container, &status.gpus);
    has_any.then(|| Share { container: container.clone(), gpus: gpus.clone() })
}

/// The versions of CUDA.
fn cuda(root: Option<&ContainerRoot>, journal: Option<&Journal>) -> Vec<Seen<String>> {
    let seen = |source| move |version| Seen { version, source };
    if let Some(root) = root {
        let names = root.names("/usr/local").unwrap_or_default();
        let versions = names.iter().filter_map(|name| cuda_version(name.strip_prefix("cuda-")?));
        // Where LXC had nothing to mount it leaves an empty directory.
        let is_there = |version: &String| {
            root.names(&format!("/usr/local/cuda-{version}")).is_ok_and(|names| !names.is_empty())
        };
        return versions.filter(is_there).map(seen(Source::Inside)).collect();
    }
    let Some(journal) = journal else { return Vec::new() };
    let of_image = journal.cuda_image.as_deref().and_then(|id| cuda_version(id.split('-').next()?));
    let of_packages = journal.packages.iter().filter_map(|name| tenant::cuda_version_of(name));
    let versions: BTreeSet<String> = of_packages.chain(of_image).collect();
    versions.into_iter().map(seen(Source::Journal)).collect()
}

/// `12.8`.
fn cuda_version(text: &str) -> Option<String> {
    let (major, minor) = text.split_once('.')?;
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.parse::<u16>().is_ok();
    (is_number(major) && is_number(minor)).then(|| text.to_owned())
}

/// Whether a container is to have its GPUs and a driver now.
pub(super) fn is_attached(journal: &Journal) -> bool {
    journal.state == Passing::Attached
}
